"""A model is swapped under load by COPY, forward and back, as docs/models.md describes it: no request fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread

import numpy as np

from testkit import models
from testkit.info import info
from testkit.replicas import caught_up, follow
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire, Word
from tests.conftest import StartServer

X = np.array([[3, 4]], np.float32)
SET: tuple[Word, ...] = ("|>", "AI.TENSORSET", "x", "FLOAT", 1, 2, "BLOB", X.tobytes())
RUN: tuple[Word, ...] = ("|>", "AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
GET: tuple[Word, ...] = ("|>", "AI.TENSORGET", "y", "BLOB")
ANSWERS = {"m:v1": (X + X).tobytes(), "m:v2": (X * X).tobytes()}
CLIENTS = 4
SWAPS = 100


def store_versions(wire: Wire, *options: Word) -> None:
    """Two models with the same inputs and different answers; m is the first."""
    for key, blob in ("m:v1", models.onnx_add()), ("m:v2", models.onnx_mul()):
        assert wire.ask("AI.MODELSTORE", key, "ONNX", "CPU", "TAG", key, *options, "BLOB", blob) == b"OK"
    assert wire.ask("COPY", "m:v1", "m") == 1


def swap(wire: Wire, version: str) -> None:
    assert wire.ask("COPY", version, "m", "REPLACE") == 1


def answer(wire: Wire) -> object:
    return wire.ask("AI.DAGEXECUTE_RO", "ROUTING", "m", *SET, *RUN, *GET)[-1]


@contextmanager
def load(server: Server, counts: dict[object, int]) -> Iterator[None]:
    """Clients that run m all the time; counts tells how often each answer came."""
    ended, lock = Event(), Lock()

    def ask() -> None:
        with server.wire() as wire:
            while not ended.is_set():
                found = answer(wire)
                with lock:
                    counts[found] = counts.get(found, 0) + 1

    threads = [Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def check_swaps(server: Server, wire: Wire) -> None:
    counts: dict[object, int] = {}
    with load(server, counts), server.wire() as other:
        for _ in range(SWAPS):
            for version in "m:v2", "m:v1":
                before = counts.get(ANSWERS[version], 0)
                swap(wire, version)
                assert answer(other) == ANSWERS[version], "a run after the swap is by the new version"
                wait_for(lambda: counts.get(ANSWERS[version], 0) > before, what="the load has the new version")  # noqa: B023
    assert counts.keys() == set(ANSWERS.values())
    assert min(counts.values()) >= SWAPS


def test_a_swap_under_load(server: Server, wire: Wire) -> None:
    store_versions(wire)
    check_swaps(server, wire)


def test_a_swap_under_load_with_batches(server: Server, wire: Wire) -> None:
    """A batch has one version: requests of both never come together."""
    store_versions(wire, "BATCHSIZE", 8)
    check_swaps(server, wire)


def test_a_replica_gets_the_copy(start_server: StartServer) -> None:
    master, replica = start_server("--repl-diskless-sync-delay", "0"), start_server()
    with master.wire() as wire, replica.wire() as reader:
        store_versions(wire)
        follow(replica, master)
        wait_for(lambda: answer(reader) == ANSWERS["m:v1"], what="the replica has compiled it")
        swap(wire, "m:v2")
        caught_up(wire)
        assert answer(reader) == ANSWERS["m:v2"]
        commands = info(reader, "commandstats")
        assert "calls=1," in commands["cmdstat_copy"] and "cmdstat_ai.modelstore" not in commands
