"""While Redis pauses writes (CLIENT PAUSE, a failover, a shutdown that waits) finished runs and stores wait, too."""

from __future__ import annotations

from testkit import models
from testkit.replicas import PAUSE, paused
from testkit.waiting import wait_for
from tests.conftest import Slow, StartServer


def test_a_run(start_server: StartServer, slow: Slow) -> None:
    server = start_server("--appendonly", "yes")
    with server.wire() as wire:
        reply, seconds = paused(server, slow(wire, 0.3))
        assert reply == b"OK" and seconds > PAUSE * 0.9
        assert wire.ask("EXISTS", "slow:out") == 1
        server.kill()
    server.start()
    with server.wire() as wire:
        assert wire.ask("EXISTS", "slow:out") == 1


def test_a_store(start_server: StartServer) -> None:
    server = start_server("--appendonly", "yes")
    blob = models.onnx_padded(25 << 20)
    reply, seconds = paused(server, ("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob))
    assert reply == b"OK" and seconds > PAUSE * 0.9
    with server.wire() as wire:
        assert wire.ask("AI.MODELGET", "m", "META")[1] == b"ONNX"


def test_a_client_that_goes_meanwhile(start_server: StartServer, slow: Slow) -> None:
    server = start_server("--appendonly", "yes")
    with server.wire() as wire:
        words = slow(wire, 0.3)
        with server.wire() as busy, server.wire() as operator:
            busy.send(*words)
            wait_for(lambda: server.blocked_clients() == 1)
            operator.ask("CLIENT", "PAUSE", int(PAUSE * 1000), "WRITE")
        wait_for(lambda: server.blocked_clients() == 0)
        assert wire.ask(*words) == b"OK"
