"""Writes are paused again and again while runs and stores end: one must never be answered, thus replicated, in a pause.

Redis aborts when something is replicated while writes are paused, as they are by CLIENT PAUSE and in every failover.
"""

from __future__ import annotations

import threading

from testkit import models
from testkit.server import Server
from tests.conftest import StartServer

CLIENTS = 12
PAUSES = 5000


def hammer(server: Server, number: int, stopped: threading.Event, failures: list[object]) -> None:
    run = ("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, f"y{number}")
    store = ("AI.MODELSTORE", f"m{number}", "ONNX", "CPU", "BLOB", models.onnx_add())
    dag = ("AI.DAGEXECUTE", "PERSIST", 1, f"t{number}", "|>", "AI.TENSORSET", f"t{number}", "FLOAT", 1)
    try:
        with server.wire() as wire:
            while not stopped.is_set():
                for words, wanted in ((store, b"OK"), (dag, [b"OK"]), *((run, b"OK"),) * 20):
                    assert wire.ask(*words) == wanted
    except (OSError, AssertionError) as failure:
        failures.append(failure)


def test_runs_and_stores(start_server: StartServer) -> None:
    server = start_server("--appendonly", "yes", "--appendfsync", "no")
    stopped = threading.Event()
    failures: list[object] = []
    with server.wire() as wire:
        assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
        assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2) == b"OK"
        threads = [
            threading.Thread(target=hammer, args=(server, i, stopped, failures), daemon=True) for i in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in range(PAUSES):
                assert wire.ask("CLIENT", "PAUSE", 10000, "WRITE") == b"OK"
                assert wire.ask("CLIENT", "UNPAUSE") == b"OK"
        finally:
            stopped.set()
            for thread in threads:
                thread.join(30)
    assert not failures
    server.check_alive()
