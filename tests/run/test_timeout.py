"""TIMEOUT: TIMEDOUT comes at the time asked for, whether the run waits or is under way, and nothing is stored."""

from __future__ import annotations

import pytest

from testkit import models
from testkit.server import Server
from testkit.waiting import TIMEOUTS, check_times, wait_for
from testkit.wire import Simple, Wire, Word
from tests.conftest import Slow, StartServer


@pytest.mark.parametrize("style", ["execute", "run"])
def test_while_other_runs_are_before_it(server: Server, wire: Wire, slow: Slow, style: str) -> None:
    wire.ask("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2)
    long = slow(wire, 2.0)
    times = []
    with server.wire() as busy:
        busy.send(*long)
        wait_for(lambda: server.blocked_clients() == 1)
        for asked in TIMEOUTS:
            ms = round(asked * 1000)
            words: tuple[Word, ...] = (
                "AI.MODELEXECUTE",
                "add",
                "INPUTS",
                2,
                "x",
                "x",
                "OUTPUTS",
                1,
                "y",
                "TIMEOUT",
                ms,
            )
            if style == "run":
                words = ("AI.MODELRUN", "add", "TIMEOUT", ms, "INPUTS", "x", "x", "OUTPUTS", "y")
            reply, taken = wire.timed(*words)
            assert (type(reply), reply) == (Simple, b"TIMEDOUT")
            times.append((asked, taken))
        check_times(times)
        assert busy.read() == b"OK"
    # The worker has come past the runs that timed out once this one, after them all, is answered.
    assert wire.ask("AI.MODELEXECUTE", "add", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "z") == b"OK"
    assert wire.ask("EXISTS", "y") == 0
    assert wire.ask("AI.INFO", "add")[13] == 1, "runs that timed out while waiting never ran"


def test_while_it_runs(wire: Wire, slow: Slow) -> None:
    times = []
    for asked in TIMEOUTS:
        command = slow(wire, 2 * asked + 0.2, output="late")
        reply, taken = wire.timed(*command, "TIMEOUT", round(asked * 1000))
        assert reply == b"TIMEDOUT"
        times.append((asked, taken))
        assert wire.ask(*slow(wire, 0.001)) == b"OK"  # comes after the one that timed out
    check_times(times)
    assert wire.ask("EXISTS", "late") == 0


def test_while_its_model_is_not_compiled_yet(start_server: StartServer) -> None:
    """After a restart the first run waits for its backend to be imported; its time runs all the same."""
    server = start_server()
    with server.wire() as wire:
        wire.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", models.torch_module(models.Add))
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1)
        assert wire.ask("SAVE") == b"OK"
    server.restart()
    with server.wire() as wire, server.wire() as other, server.wire() as leaver:
        run: list[Word] = ["AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1]
        other.send(*run, "y")
        leaver.send(*run, "gone")
        leaver.abort()
        reply, taken = wire.timed(*run, "late", "TIMEOUT", 40)
        if reply == b"TIMEDOUT":  # else the import was faster
            check_times([(0.040, taken)])
        assert other.read() == b"OK"
        assert wire.ask(*run, "z") == b"OK"
        if reply == b"TIMEDOUT":
            assert wire.ask("EXISTS", "late", "gone") == 0


def test_a_run_in_time_is_not_disturbed(wire: Wire) -> None:
    wire.ask("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2)
    for timeout in (1000, 100_000, 2**31):
        assert wire.ask("AI.MODELEXECUTE", "add", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y", "TIMEOUT", timeout) == b"OK"


def test_a_connection_goes_on_after_a_timeout(server: Server, wire: Wire, slow: Slow) -> None:
    """What was sent after the run is answered after it, and one reply comes for each command."""
    command = slow(wire, 0.3)
    wire.send(*command, "TIMEOUT", 20)
    wire.send("ECHO", "one")
    wire.send(*command)
    wire.send("ECHO", "two")
    assert [wire.read() for _ in range(4)] == [b"TIMEDOUT", b"one", b"OK", b"two"]
