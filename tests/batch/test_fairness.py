"""A model whose requests wait for others, or are many, holds up no other model: neither on its device nor elsewhere."""

from __future__ import annotations

import itertools
import selectors
import threading
import time
from collections.abc import Iterator

import pytest

from testkit import models
from testkit.batches import Clients, Request, batch, check_exact, store_witness
from testkit.wire import Wire
from tests.conftest import Slow, StartServer


@pytest.mark.parametrize("device", ["CPU", "CPU:1"])
@pytest.mark.parametrize(("size", "min_size"), [(0, 0), (8, 0), (8, 2)])
def test_others_run_while_a_batch_waits(wire: Wire, clients: Clients, device: str, size: int, min_size: int) -> None:
    store_witness(wire, "waits", size=8, min_size=4)
    store_witness(wire, "runs", size=size, min_size=min_size, device=device, backend="TORCH")
    held = clients.each(1, 1, 1, key="waits")
    clients.queue(*held)

    def measure() -> Iterator[float]:
        for _ in range(20):
            pair = clients.each(1, 1, key="runs")
            start = time.monotonic()
            for request in pair:
                request.send()
            for request in pair:
                assert request.result().members <= {0, 1}
            yield time.monotonic() - start

    check_exact(measure, quarter=0.010, half=0.020)
    assert clients.server.blocked_clients() == 3
    assert clients.one(3, key="waits").ask() == batch(4, 0, 1, 2, 3)
    assert [request.result() for request in held] == [batch(4, 0, 1, 2, 3)] * 3


class Flood:
    """Clients that ask one model for one row after another, until stopped."""

    def __init__(self, clients: Clients, count: int, *, key: str) -> None:
        self.stopping = False
        self.faults: list[str] = []
        requests = [clients.one(number, key=key) for number in range(count)]
        self.threads = [threading.Thread(target=self.run, args=(request,)) for request in requests]

    def run(self, request: Request) -> None:
        try:
            while not self.stopping:
                request.ask()
        except Exception as error:
            self.faults.append(repr(error))

    def __enter__(self) -> Flood:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping = True
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        assert self.faults == []


@pytest.mark.parametrize("size", [0, 4])
def test_minbatchtimeout_holds_under_load(wire: Wire, clients: Clients, size: int) -> None:
    """Of a model on a device where another one always has requests, in batches or one by one."""
    store_witness(wire, "many", size=size)
    store_witness(wire, "few", size=8, min_size=4, ms=30)

    def measure() -> Iterator[float]:
        for number in range(20):
            told, seconds = clients.one(number, key="few").timed()
            assert told == batch(1, number)
            yield seconds - 0.030

    with Flood(clients, 8, key="many"):
        check_exact(measure, quarter=0.010, half=0.020)


@pytest.mark.parametrize("few", [0, 4])
@pytest.mark.parametrize("many", [0, 4])
def test_a_model_with_few_requests_is_served(wire: Wire, clients: Clients, many: int, few: int) -> None:
    store_witness(wire, "many", size=many)
    store_witness(wire, "few", size=few)

    def measure() -> Iterator[float]:
        for number in range(24):
            told, seconds = clients.one(number, key="few").timed()
            assert told == batch(1, number)
            yield seconds

    with Flood(clients, 10, key="many"):
        check_exact(measure, quarter=0.015, half=0.030)


def arrivals(sent: list[Request]) -> list[int]:
    """For each request a number that grows with the time of its reply; the same for those that came together."""
    rounds: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        for number, request in enumerate(sent):
            selector.register(request.wire.socket, selectors.EVENT_READ, number)
        while len(rounds) < len(sent):
            ready = selector.select(30)
            assert ready, "no reply"
            turn = len(rounds)
            for key, _ in ready:
                rounds[key.data] = turn
                selector.unregister(key.fileobj)
    return [rounds[number] for number in range(len(sent))]


def test_lanes_are_served_in_the_order_of_their_oldest(wire: Wire, clients: Clients) -> None:
    """However many requests wait for one model: one batch of them runs, then whoever came next."""
    store_witness(wire, "a", size=2)
    store_witness(wire, "b", size=2)
    store_witness(wire, "c", size=2, min_size=2)
    order = "abaacabaca"
    sent = [clients.one(number, key=key, width=400_000) for number, key in enumerate(order)]  # for runs of some ms
    with clients.busy_worker():
        clients.queue(*sent)
    came = arrivals(sent)
    batches = [{0, 2}, {1, 6}, {3, 5}, {4, 8}, {7, 9}]
    for members in batches:
        for number in members:
            assert sent[number].result().members == members
    for earlier, later in itertools.pairwise(batches):
        assert max(came[number] for number in earlier) <= min(came[number] for number in later)


def test_a_long_run_on_one_device_leaves_the_batches_of_another(wire: Wire, clients: Clients, slow: Slow) -> None:
    store_witness(wire, size=8, min_size=2, device="CPU:1")
    command = slow(wire, 1.0)
    clients.wire().send(*command)
    clients.wait_blocked(1)
    one, other = clients.each(1, 1)
    clients.queue(one)
    assert other.ask() == one.result() == batch(2, 0, 1)
    assert clients.server.blocked_clients() == 1


def test_two_workers_share_the_lanes(start_server: StartServer) -> None:
    """While one worker is in a long batch, the other runs what is ready and what becomes due."""
    server = start_server(options=["THREADS_PER_QUEUE", 2])
    clients = Clients(server)
    with server.wire() as wire:
        store_witness(wire, size=8, min_size=4, ms=20)
        wire.ask("AI.MODELSTORE", "spin", "TORCH", "CPU", "BATCHSIZE", 4, "BLOB", models.torch_module(models.Spin))
        wire.ask("AI.TENSORSET", "n", "INT64", 1, "VALUES", 15_000)
        spin = ("AI.MODELEXECUTE", "spin", "INPUTS", 1, "n", "OUTPUTS", 1, "spun")

        def measure() -> Iterator[float]:
            for number in range(5):
                long = clients.wire()
                long.send(*spin)
                clients.wait_blocked(1)
                told, seconds = clients.one(number).timed()
                assert told == batch(1, number)
                yield seconds - 0.020
                assert long.read() == b"OK"

        check_exact(measure, quarter=0.005, half=0.015)
    clients.close()
