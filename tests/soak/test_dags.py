"""Random DAGs of many clients: the short form of scripts/dags, and clients that time out and leave.

REDISAI_SECONDS is how long the latter go on, REDISAI_SEED what they begin with.
"""

from __future__ import annotations

import os
import threading
import time

import pytest

from testkit.random_dags import Runnable, runnables, store_all
from testkit.server import Server, settled_memory
from testkit.waiting import wait_until_alone
from testkit.wire import Word
from tests.conftest import StartServer
from tests.soak.dags import CLIENTS, ImpatientClient, soak

SECONDS = float(os.environ.get("REDISAI_SECONDS", "4"))
SEED = int(os.environ.get("REDISAI_SEED", "0"))


@pytest.mark.parametrize("threads_per_queue", [1, 3])
def test_random_dags_on_four_queues(threads_per_queue: int) -> None:
    seed = time.time_ns() % 2**32
    print(f"seed {seed}")
    result = soak(5, seed, threads_per_queue)
    assert result.check() == []
    assert result.dags > CLIENTS and result.failures


def test_a_wrong_reply_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Runnable.call

    def other_order(self: Runnable, inputs: list[str], outputs: list[str]) -> object:
        return call(self, inputs[::-1], outputs)

    monkeypatch.setattr(Runnable, "call", other_order)
    result = soak(1, seed=1)
    assert "client" in result.check()[0]


def send_impatiently(on: Server, among: list[Runnable], seconds: float) -> list[ImpatientClient]:
    until = time.monotonic() + seconds
    clients = [ImpatientClient(number, SEED, among, "hanging") for number in range(16)]
    threads = [threading.Thread(target=client.run, args=(on.port, until), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 60)
    assert not [client.fault for client in clients if client.fault]
    with on.wire() as wire:
        wait_until_alone(wire)
        wire.ask("DEL", *[name for client in clients for name in client.names])
    assert on.blocked_clients() == 0
    return clients


def test_time_outs_and_disconnections(start_server: StartServer) -> None:
    on = start_server(options=["THREADS_PER_QUEUE", 2])
    among = runnables(("CPU", "CPU:1", "CPU:2"))
    print(f"seed {SEED}")
    with on.wire() as wire:
        store_all(wire, among)
        line = next(runnable for runnable in among if runnable.key == "line@CPU")
        blob = line.store[-1]
        options: tuple[Word, ...] = ("BATCHSIZE", 2**31, "MINBATCHSIZE", 2**31)
        assert wire.ask("AI.MODELSTORE", "hanging", "ONNX", "CPU", *options, "BLOB", blob) == b"OK"
    send_impatiently(on, among, SECONDS / 3)
    before = settled_memory(on)
    clients = send_impatiently(on, among, SECONDS * 2 / 3)
    grown = settled_memory(on) - before
    assert grown < 128 << 10, f"used_memory grew by {grown} bytes"
    assert all(sum(getattr(client, count) for client in clients) for count in ("answered", "timed_out", "left"))
