"""While Redis pauses writes (CLIENT PAUSE, a failover, a shutdown that waits) finished runs and stores wait, too."""

from __future__ import annotations

import contextlib
import time

from testkit import models
from testkit.info import ai_info
from testkit.replicas import PAUSE, paused
from testkit.scripts import execute, store_redis
from testkit.waiting import wait_for
from tests.conftest import Slow, StartServer


def test_a_run(start_server: StartServer, slow: Slow) -> None:
    server = start_server("--appendonly", "yes", "--appendfsync", "always")
    with server.wire() as wire:
        reply, seconds = paused(server, slow(wire, 0.3))
        assert reply == b"OK" and seconds > PAUSE * 0.9
        assert wire.ask("EXISTS", "slow:out") == 1
        server.kill()
    server.start()
    with server.wire() as wire:
        assert wire.ask("EXISTS", "slow:out") == 1


def test_a_store(start_server: StartServer) -> None:
    server = start_server("--appendonly", "yes", "--appendfsync", "always")
    blob = models.onnx_padded(25 << 20)
    reply, seconds = paused(server, ("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob))
    assert reply == b"OK" and seconds > PAUSE * 0.9
    with server.wire() as wire:
        assert wire.ask("AI.MODELGET", "m", "META")[1] == b"ONNX"


def test_a_client_that_goes_meanwhile(start_server: StartServer, slow: Slow) -> None:
    server = start_server("--appendonly", "yes", "--appendfsync", "always")
    with server.wire() as wire:
        words = slow(wire, 0.3)
        with server.wire() as busy, server.wire() as operator:
            busy.send(*words)
            wait_for(lambda: server.blocked_clients() == 1)
            operator.ask("CLIENT", "PAUSE", int(PAUSE * 1000), "WRITE")
        wait_for(lambda: server.blocked_clients() == 0)
        assert wire.ask(*words) == b"OK"


def test_large_outputs_that_waited_are_not_one_transaction(start_server: StartServer, slow: Slow) -> None:
    """A replica performs MULTI at once, and GET waits meanwhile."""
    server = start_server("--appendonly", "yes", "--appendfsync", "always")
    with contextlib.ExitStack() as stack:
        wire, operator, busy, *clients = (stack.enter_context(server.wire()) for _ in range(11))
        wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add(("n", 2)))
        wire.ask("AI.TENSORSET", "x", "FLOAT", 50_000, 2)
        busy.send(*slow(wire, 0.5))
        for number, client in enumerate(clients):
            client.send("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, f"y{number}")
        wait_for(lambda: server.blocked_clients() == 9)
        operator.ask("CLIENT", "PAUSE", 60_000, "WRITE")
        wait_for(lambda: ai_info(wire)["calls"] == 8, what="all runs end")
        operator.ask("CLIENT", "UNPAUSE")
        assert [client.read() for client in clients] == [b"OK"] * 8
        server.kill()
    (file,) = server.folder.glob("appendonlydir/*.incr.aof")
    written = file.read_bytes()
    assert written.count(b"AI.TENSORSET") == 11  # with the two inputs
    blocks = [block.split(b"EXEC")[0] for block in written.split(b"MULTI")[1:]]
    sets = [block.count(b"AI.TENSORSET") for block in blocks]
    assert all(count <= 3 for count in sets), sets  # 400 KB each, and the small one of the slow run


def test_a_script_that_nobody_awaits_frees_its_worker(start_server: StartServer) -> None:
    """Its command waits for the end of the pause. Its client gives up before, and the worker serves others at once."""
    server = start_server()
    with server.wire() as wire, server.wire() as busy:
        store_redis(wire, "gone_on", "run")
        wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add(("n", 2)))
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        run = ("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y", "|>", "AI.TENSORGET", "y", "VALUES")
        read = ("AI.DAGEXECUTE_RO", "LOAD", 1, "x", "|>", *run)
        assert wire.ask(*read) == [b"OK", [b"2", b"4"]]
        wire.ask(*execute("s", "run", ["started"], (), ["PING"]))  # TORCH is loaded
        busy.send(*execute("s", "gone_on", ["started", "go", "done"]), "TIMEOUT", 800)
        wait_for(lambda: wire.ask("EXISTS", "started") == 1)
        wire.ask("CLIENT", "PAUSE", 10_000, "WRITE")
        assert busy.read() == b"TIMEDOUT"
        begin = time.monotonic()
        assert wire.ask(*read) == [b"OK", [b"2", b"4"]]
        assert time.monotonic() - begin < 5
