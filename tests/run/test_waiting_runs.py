"""Runs that wait in a queue while the world changes: clients go, models and tensors are deleted or replaced."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from testkit import models
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire, Word
from tests.conftest import Slow, StartServer

RUN: list[Word] = ["AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1]


@pytest.fixture
def busy(server: Server, wire: Wire, slow: Slow) -> Iterator[Wire]:
    """A connection whose run keeps the one worker of the CPU busy for a while; model m and tensor x are there."""
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "TAG", "old", "BLOB", models.onnx_add())
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 3, 4)
    command = slow(wire, 0.6)
    with server.wire() as connection:
        connection.send(*command)
        wait_for(lambda: server.blocked_clients() == 1)
        yield connection


def queue(server: Server, wires: list[Wire], *commands: list[Word]) -> None:
    for count, (connection, command) in enumerate(zip(wires, commands, strict=True), server.blocked_clients() + 1):
        connection.send(*command)
        wait_for(partial(blocked, server, count))


def blocked(server: Server, count: int) -> bool:
    return server.blocked_clients() == count


def test_a_client_that_disconnects(server: Server, wire: Wire, busy: Wire) -> None:
    gone = server.wire()
    reset = server.wire()
    queue(server, [gone, reset], [*RUN, "gone"], [*RUN, "reset"])
    gone.close()
    reset.abort()
    wait_for(lambda: server.blocked_clients() <= 1, what="the server notices that both are gone")
    assert wire.ask(*RUN, "after") == b"OK"
    assert busy.read() == b"OK"
    assert wire.ask("EXISTS", "gone", "reset") == 0
    assert wire.ask("AI.INFO", "m")[13] == 1, "the runs of those who left never ran"


def test_the_client_of_a_run_under_way_disconnects(server: Server, wire: Wire, busy: Wire) -> None:
    busy.abort()
    assert wire.ask(*RUN, "after") == b"OK"
    assert wire.ask("EXISTS", "slow:out") == 0


def test_a_client_is_killed(server: Server, wire: Wire, busy: Wire) -> None:
    with server.wire() as victim:
        number = victim.ask("CLIENT", "ID")
        queue(server, [victim], [*RUN, "gone"])
        assert wire.ask("CLIENT", "KILL", "ID", number) == 1
        assert wire.ask(*RUN, "after") == b"OK"
    assert wire.ask("EXISTS", "gone") == 0


def test_a_client_is_unblocked_by_another(server: Server, wire: Wire, busy: Wire) -> None:
    """CLIENT UNBLOCK either does nothing or answers the client once; it never breaks step."""
    with server.wire() as victim:
        number = victim.ask("CLIENT", "ID")
        queue(server, [victim], [*RUN, "y"])
        wire.ask("CLIENT", "UNBLOCK", number)
        assert victim.read() in (b"OK", b"TIMEDOUT")
        assert victim.ask("ECHO", "next") == b"next"
    assert busy.read() == b"OK"


@pytest.mark.parametrize(
    "how", ["AI.MODELDEL m", "DEL m", "UNLINK m", "FLUSHALL", "FLUSHALL ASYNC", "RENAME m n", "EXPIRE m -1"]
)
def test_the_model_goes(server: Server, wire: Wire, busy: Wire, how: str) -> None:
    """The runs that were accepted are done with the model that was there."""
    with server.wire() as one, server.wire() as two:
        queue(server, [one, two], [*RUN, "y1"], [*RUN, "y2"])
        assert wire.ask(*how.split()) in (b"OK", 1)
        assert [one.read(), two.read()] == [b"OK", b"OK"]
    assert wire.ask("AI.TENSORGET", "y1", "VALUES") == [b"6", b"8"]
    assert wire.ask("AI.TENSORGET", "y2", "VALUES") == [b"6", b"8"]
    assert wire.ask(*RUN, "y3") == "ERR model key is empty"


def test_the_model_is_replaced(server: Server, wire: Wire, busy: Wire) -> None:
    with server.wire() as one:
        queue(server, [one], [*RUN, "y1"])
        assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "TAG", "new", "BLOB", models.onnx_mul()) == b"OK"
        assert wire.ask(*RUN, "y2") == b"OK"
        assert one.read() == b"OK"
    assert wire.ask("AI.TENSORGET", "y1", "VALUES") == [b"6", b"8"]
    assert wire.ask("AI.TENSORGET", "y2", "VALUES") == [b"9", b"16"]


def test_storing_does_not_wait_for_runs(server: Server, wire: Wire, busy: Wire) -> None:
    """Compiling is the loader's work: it goes on beside a worker that is busy."""
    assert wire.ask("AI.MODELSTORE", "other", "ONNX", "CPU", "BLOB", models.onnx_mul()) == b"OK"
    assert server.blocked_clients() == 1, "the run before it is still under way"
    assert busy.read() == b"OK"


def test_the_input_changes(server: Server, wire: Wire, busy: Wire) -> None:
    with server.wire() as one:
        queue(server, [one], [*RUN, "y"])
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 100, 100)
        wire.ask("DEL", "x")
        assert one.read() == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"6", b"8"]


@pytest.fixture
def elsewhere(wire: Wire) -> None:
    """A model of another device, which is ready."""
    wire.ask("AI.MODELSTORE", "elsewhere", "ONNX", "CPU:1", "BLOB", models.onnx_add())


@pytest.mark.usefixtures("elsewhere")
def test_other_devices_do_not_wait(server: Server, wire: Wire, busy: Wire) -> None:
    assert wire.ask("AI.MODELEXECUTE", "elsewhere", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
    assert server.blocked_clients() == 1
    assert busy.read() == b"OK"


def test_memory_comes_back_from_clients_that_left(server: Server, wire: Wire, slow: Slow) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add((None, None)))
    command = slow(wire, 0.3)
    before = server.used_memory()
    with server.wire() as busy:
        busy.send(*command)
        wait_for(lambda: server.blocked_clients() == 1)
        for i in range(20):
            leaver = server.wire()
            leaver.ask("AI.TENSORSET", "x", "FLOAT", 1000, 250)  # 1 MB, kept only by the run that waits
            leaver.send(*RUN, f"y{i}")
            wait_for(lambda: server.blocked_clients() >= 2)
            leaver.abort()
        wire.ask("DEL", "x")
        assert busy.read() == b"OK"
    wait_for(lambda: server.used_memory() < before + (1 << 20), what="memory comes back")


@pytest.mark.parametrize("backend", ["ONNX", "TORCH"])
def test_shutdown_while_a_backend_is_imported(start_server: StartServer, backend: str) -> None:
    server = start_server()
    blob = models.onnx_add() if backend == "ONNX" else models.torch_module(models.Add)
    with server.wire() as wire:
        wire.send("AI.MODELSTORE", "m", backend, "CPU", "BLOB", blob)
        wait_for(lambda: server.blocked_clients() == 1)
        assert server.stop() == 0


def test_shutdown_while_a_model_compiles(start_server: StartServer) -> None:
    server = start_server()
    with server.wire() as wire:
        wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
        wire.send("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_padded(4_000_000))
        assert server.stop() == 0


def slow_torch(wire: Wire) -> tuple[Word, ...]:
    wire.ask("AI.MODELSTORE", "spin", "TORCH", "CPU", "BLOB", models.torch_module(models.Spin))
    wire.ask("AI.TENSORSET", "n", "INT64", "VALUES", 1_000_000)
    return ("AI.MODELEXECUTE", "spin", "INPUTS", 1, "n", "OUTPUTS", 1, "y")


@pytest.mark.parametrize("backend", ["ONNX", "TORCH"])
def test_shutdown_with_runs_waiting(start_server: StartServer, slow: Slow, backend: str) -> None:
    """Libraries tear their state down when the process exits; a worker may be inside one just then."""
    server = start_server()
    for _ in range(4):
        with server.wire() as one, server.wire() as two:
            command = slow(one, 0.5) if backend == "ONNX" else slow_torch(one)
            one.send(*command)
            two.send(*command)
            wait_for(lambda: server.blocked_clients() == 2)
            assert server.stop() == 0
        server.start()
