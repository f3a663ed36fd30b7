"""CLIENT UNBLOCK on clients that wait for a run, a DAG, a script or a store: they are answered once, nothing is written
for them any more, and they can go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit import samples
from testkit.scripts import execute, store_redis
from testkit.server import Server, program
from testkit.waiting import wait_for
from testkit.wire import Error, Simple, Wire, Word
from tests.conftest import Slow, StartServer

ANSWERS = {
    "TIMEOUT": Simple(b"TIMEDOUT"),
    "ERROR": Error("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
}
SECONDS = 1.0  # of a run that nobody waits for any more
Prepare = Callable[[Wire, Slow], tuple[Word, ...]]


def run(wire: Wire, slow: Slow) -> tuple[Word, ...]:
    return slow(wire, SECONDS, "out")


def run_with_timeout(wire: Wire, slow: Slow) -> tuple[Word, ...]:
    return (*slow(wire, SECONDS, "out"), "TIMEOUT", 60000)


def dag(wire: Wire, slow: Slow) -> tuple[Word, ...]:
    words = slow(wire, SECONDS, "out")
    return ("AI.DAGEXECUTE", "LOAD", 1, "slow:n", "PERSIST", 1, "out", "|>", *words)


def script(wire: Wire, slow: Slow) -> tuple[Word, ...]:
    """It writes when it may, which is after its client is unblocked."""
    store_redis(wire, "gone_on")
    return execute("s", "gone_on", ["started", "go", "out"])


def unblock(wire: Wire, waiting: Wire, number: int, words: tuple[Word, ...], how: str) -> None:
    waiting.send(*words)
    wait_for(lambda: wire.ask("CLIENT", "UNBLOCK", number, how) == 1)
    reply = waiting.read()
    assert (type(reply), reply) == (type(ANSWERS[how]), ANSWERS[how])
    assert wire.ask("CLIENT", "UNBLOCK", number, how) == 0
    assert waiting.ask("PING") == b"PONG"


@pytest.mark.parametrize("how", ANSWERS)
@pytest.mark.parametrize("prepare", [run, run_with_timeout, dag, script])
def test_runs(server: Server, wire: Wire, slow: Slow, prepare: Prepare, how: str) -> None:
    words = prepare(wire, slow)
    with server.wire() as waiting:
        number = waiting.ask("CLIENT", "ID")
        for _ in range(3):
            unblock(wire, waiting, number, words, how)
        assert server.blocked_clients() == 0
        wire.ask("SET", "go", "x")
        # The worker is free once those runs have ended, and has written nothing.
        wire.ask_ok(*slow(wire, 0.001, "other"))
        assert wire.ask("EXISTS", "out", "other") == 1
        waiting.ask_ok(*slow(wire, 0.001, "out"))
        assert wire.ask("EXISTS", "out") == 1


@pytest.mark.parametrize("how", ANSWERS)
def test_stores(start_server: StartServer, tmp_path: Path, how: str) -> None:
    """The model is compiled, and not stored."""
    backends, go = samples.slow_backend(tmp_path)
    server = start_server(options=["BACKENDSPATH", str(backends)])
    with server.wire() as wire, server.wire() as waiting:
        number = waiting.ask("CLIENT", "ID")
        unblock(wire, waiting, number, ("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", b"x"), how)
        unblock(wire, waiting, number, ("AI.CONFIG", "LOADBACKEND", "ONNX", "redisai_onnxruntime"), how)
        go.touch()
        wire.ask_ok("AI.MODELSTORE", "n", "ONNX", "CPU", "BLOB", b"x")
        assert wire.ask("EXISTS", "m", "n") == 1


def test_while_writes_are_paused(server: Server, wire: Wire, slow: Slow) -> None:
    """The run has ended, but its outputs could not be saved yet: they are not saved then."""
    words = slow(wire, 0.001, "out")
    with server.wire() as waiting:
        number = waiting.ask("CLIENT", "ID")
        wire.ask_ok(*slow(wire, 0.001, "other"))
        wire.ask("DEL", "other")
        waiting.send(*slow(wire, 0.3, "out"))
        wait_for(lambda: server.blocked_clients() == 1)
        wire.ask_ok("CLIENT", "PAUSE", 60000, "WRITE")
        ready = ("AI.DAGEXECUTE_RO", "LOAD", 1, "slow:n", "|>", *words[:-1], "y")
        assert wire.ask(*ready) == [b"OK"]  # comes after the other run
        assert server.blocked_clients() == 1
        assert wire.ask("CLIENT", "UNBLOCK", number) == 1
        assert waiting.read() == b"TIMEDOUT"
        wire.ask_ok("CLIENT", "UNPAUSE")
        waiting.ask_ok(*words[:-1], "other")
        assert wire.ask("EXISTS", "out", "other") == 1


@pytest.mark.parametrize("saves", [True, False])
def test_exactly_one_answer(server: Server, wire: Wire, slow: Slow, saves: bool) -> None:
    """Runs that end at about the time when their client is unblocked. Each has one answer, and only OK has an output.
    (Servers before Redis 7.4 and Valkey 8 may lose it; then the connection is closed.)"""
    words = slow(wire, 0.0005, "out")
    if not saves:
        words = ("AI.DAGEXECUTE_RO", "LOAD", 1, "slow:n", "|>", *words)
    waiting, answers = server.wire(), {"OK": 0, "TIMEDOUT": 0, "closed": 0}
    deadline = time.monotonic() + 60
    for _ in range(400):
        number = waiting.ask("CLIENT", "ID")
        wire.ask("DEL", "out")
        waiting.send(*words)
        while b"cmd=ai." not in wire.ask("CLIENT", "LIST", "ID", number).lower():
            assert time.monotonic() < deadline
        wire.ask("CLIENT", "UNBLOCK", number, "TIMEOUT")
        try:
            reply = waiting.read()
            answer = {b"OK": "OK", b"TIMEDOUT": "TIMEDOUT"}[reply if saves or reply == b"TIMEDOUT" else reply[0]]
            assert waiting.ask("PING") == b"PONG"
        except ConnectionError:
            assert not program().since(redis=(7, 4), valkey=(8, 0))
            answer, waiting = "closed", server.wire()
        answers[answer] += 1
        assert wire.ask("EXISTS", "out") == (saves and answer == "OK"), answer
    print(answers)
    assert answers["closed"] < 20
    waiting.close()
