"""BATCHSIZE, MINBATCHSIZE and MINBATCHTIMEOUT: who runs with whom, and when."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.batches import Clients, Request, batch, batching, check_exact, store, store_witness, witness
from testkit.info import full_ai_info
from testkit.process import thread_ns
from testkit.server import Server
from testkit.wire import Wire
from tests.conftest import StartServer


def ask_all(*requests: Request) -> list[object]:
    for request in requests:
        request.send()
    return [request.result() for request in requests]


@pytest.mark.parametrize("dag", [False, True], ids=["MODELEXECUTE", "DAGEXECUTE"])
@pytest.mark.parametrize("backend", ["ONNX", "TORCH", "TF", "TFLITE"])
def test_nothing_runs_before_minbatchsize_is_reached(wire: Wire, clients: Clients, backend: str, dag: bool) -> None:
    store_witness(wire, size=8, min_size=4, backend=backend)
    first, second, third, fourth = clients.each(1, 1, 1, 1, dag=dag)
    clients.queue(first, second, third)
    clients.run_other_model()
    assert clients.server.blocked_clients() == 3
    assert full_ai_info(wire)["executions"] == 0
    assert fourth.ask() == batch(4, 0, 1, 2, 3)
    assert [r.result() for r in (first, second, third)] == [batch(4, 0, 1, 2, 3)] * 3
    found = full_ai_info(wire)
    assert [found[name] for name in ("calls", "samples", "executions", "average_batch", "errors")] == [4, 4, 1, 4, 0]


def test_minbatchsize_counts_rows(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=8, min_size=4)
    three, one = clients.each(3, 1)
    clients.queue(three)
    clients.run_other_model()
    assert one.ask() == batch(4, 0, 1)
    assert three.result() == batch(4, 0, 1)


def test_a_batch_is_never_larger_than_batchsize(wire: Wire, clients: Clients) -> None:
    """9 rows are enough for a batch, 6 of them fit; the other 3 wait for more."""
    store_witness(wire, size=8, min_size=8)
    first, second, third, fourth = clients.each(3, 3, 3, 5)
    clients.queue(first, second)
    third.send()
    assert [first.result(), second.result()] == [batch(6, 0, 1)] * 2
    clients.run_other_model()
    assert clients.server.blocked_clients() == 1
    assert fourth.ask() == batch(8, 2, 3)
    assert third.result() == batch(8, 2, 3)
    found = full_ai_info(wire)
    assert (found["executions"], found["average_batch"]) == (2, 7)


def test_a_minbatchsize_above_batchsize_counts_as_batchsize(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=4, min_size=100)
    first, second, third = clients.each(2, 1, 1)
    clients.queue(first, second)
    clients.run_other_model()
    assert clients.server.blocked_clients() == 2
    assert third.ask() == batch(4, 0, 1, 2)


@pytest.mark.parametrize("rows", [4, 5, 9])
def test_a_request_that_alone_reaches_batchsize_runs_by_itself(wire: Wire, clients: Clients, rows: int) -> None:
    """At once, and without those that wait."""
    store_witness(wire, size=4, min_size=4)
    small, large, rest = clients.each(1, rows, 3)
    clients.queue(small)
    assert large.ask() == batch(rows, 1)
    clients.run_other_model()
    assert clients.server.blocked_clients() == 1
    assert rest.ask() == batch(4, 0, 2)
    assert small.result() == batch(4, 0, 2)


def test_a_batchsize_of_one_batches_nothing(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=1, min_size=1)
    requests = clients.each(1, 1, 2, 1, 1)
    with clients.busy_worker():
        clients.queue(*requests)
    assert [request.result().rows for request in requests] == [1, 1, 2, 1, 1]


def test_what_waits_behind_other_work_is_batched_in_order(wire: Wire, clients: Clients) -> None:
    """Without MINBATCHSIZE nobody waits for others, but those that wait anyway run together."""
    store_witness(wire, size=4)
    requests = clients.each(1, 1, 1, 1, 3, 2, 1, 2, 4, 1)
    with clients.busy_worker():
        clients.queue(*requests)
    four, seven = batch(4, 0, 1, 2, 3), batch(3, 7, 9)
    expected = [four, four, four, four, batch(3, 4), batch(3, 5, 6), batch(3, 5, 6), seven, batch(4, 8), seven]
    assert [request.result() for request in requests] == expected
    found = full_ai_info(wire)
    assert (found["calls"], found["samples"], found["executions"]) == (10, 17, 5)


def test_an_idle_worker_does_not_wait(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=8)
    for number in range(10):
        assert clients.one(number).ask() == batch(1, number)


@pytest.mark.parametrize("min_size", [0, 3])
def test_only_equal_shapes_are_batched(wire: Wire, clients: Clients, min_size: int) -> None:
    store_witness(wire, size=8, min_size=min_size)
    narrow = [clients.one(number, width=1) for number in (0, 2, 4)]
    wide = [clients.one(number, width=2) for number in (1, 3, 5)]
    with clients.busy_worker():
        clients.queue(*(request for pair in zip(narrow, wide, strict=True) for request in pair))
    assert [request.result() for request in narrow] == [batch(3, 0, 2, 4)] * 3
    assert [request.result() for request in wide] == [batch(3, 1, 3, 5)] * 3


def test_only_equal_types_and_ranks_are_batched(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=8, min_size=3, backend="TORCH")
    first, last = clients.each(1, 2)
    clients.queue(first)
    run = ("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 2, "y", "b")
    for rows, reply in (2, b"TIMEDOUT"), (3, b"OK"):
        for dtype, shape in ("DOUBLE", [1]), ("INT32", [1]), ("FLOAT", [1, 1]), ("FLOAT", [2]), ("FLOAT", []):
            wire.ask("AI.TENSORSET", "x", dtype, rows, *shape)
            assert wire.ask(*run, "TIMEOUT", 30 if reply == b"TIMEDOUT" else 10_000) == reply, (dtype, shape)
    assert last.ask() == batch(3, 0, 1)
    assert first.result() == batch(3, 0, 1)


def test_other_models_are_not_batched(wire: Wire, clients: Clients) -> None:
    store_witness(wire, "m", size=4, min_size=2)
    store_witness(wire, "n", size=4, min_size=2)
    one, other = clients.one(0, key="m"), clients.one(1, key="n")
    clients.queue(one, other)
    clients.run_other_model()
    assert clients.server.blocked_clients() == 2
    assert clients.one(2, key="n").ask() == batch(2, 1, 2)
    assert clients.one(3, key="m").ask() == batch(2, 0, 3)
    assert [one.result(), other.result()] == [batch(2, 0, 3), batch(2, 1, 2)]


def test_a_batch_is_of_the_model_not_of_its_name(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=4, min_size=3)
    old = clients.each(1, 1)
    clients.queue(*old)
    assert wire.ask("RENAME", "m", "n") == b"OK"
    store(wire, "m", witness("TORCH"), *batching(4, 3))
    new = [clients.one(2), clients.one(3)]
    clients.queue(*new)
    clients.run_other_model()
    assert clients.server.blocked_clients() == 4
    assert clients.one(4, key="n").ask() == batch(3, 0, 1, 4)
    assert [request.result() for request in old] == [batch(3, 0, 1, 4)] * 2
    told = [clients.one(5).ask(), *(request.result() for request in new)]
    assert frozenset().union(*(answer.members for answer in told)) == {2, 3, 5}


def test_devices_have_batches_of_their_own(wire: Wire, clients: Clients) -> None:
    store_witness(wire, "m", size=4, min_size=2, device="CPU")
    store_witness(wire, "n", size=4, min_size=2, device="CPU:1")
    one, other = clients.one(0, key="m"), clients.one(1, key="n")
    clients.queue(one, other)
    assert clients.one(2, key="n").ask() == batch(2, 1, 2)
    assert clients.one(3, key="m").ask() == batch(2, 0, 3)


# ---- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dag", [False, True], ids=["MODELEXECUTE", "DAGEXECUTE"])
@pytest.mark.parametrize("ms", [5, 40])
def test_minbatchtimeout_is_exact(wire: Wire, clients: Clients, ms: int, dag: bool) -> None:
    store_witness(wire, size=8, min_size=4, ms=ms)

    def measure() -> Iterator[float]:
        for number in range(20):
            told, seconds = clients.one(number, dag=dag).timed()
            assert told == batch(1, number)
            yield seconds - ms / 1000

    check_exact(measure)
    found = full_ai_info(wire)
    assert found["executions"] == found["calls"]


def test_minbatchtimeout_counts_from_the_oldest(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=8, min_size=4, ms=100)
    store_witness(wire, "clock", size=8, min_size=4, ms=20)

    def measure() -> Iterator[float]:
        for _ in range(6):
            one, two, three = clients.each(1, 1, 1)
            clocks = [clients.one(0, key="clock") for _ in range(2)]
            start = time.monotonic()
            one.send()
            clocks[0].ask()
            two.send()
            clocks[1].ask()
            three.send()
            told = one.result()
            assert told.members in ({0, 1, 2}, {0, 1}, {0})  # fewer where the machine was slow
            yield time.monotonic() - start - 0.100
            assert all(request.result() == told for request in (two, three) if told.rows == 3)

    check_exact(measure)


def test_enough_requests_do_not_wait_for_minbatchtimeout(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=8, min_size=2, ms=5000)
    for _ in range(5):
        start = time.monotonic()
        assert ask_all(*clients.each(1, 1)) == [batch(2, 0, 1)] * 2
        assert time.monotonic() - start < 2


def test_what_a_full_batch_leaves_has_its_own_time(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=4, min_size=4, ms=200)

    def measure() -> Iterator[float]:
        for _ in range(4):
            three, rest = clients.each(3, 3)
            clients.queue(three)
            start = time.monotonic()
            rest.send()
            assert three.result() == batch(3, 0)
            assert rest.result() == batch(3, 1)
            yield time.monotonic() - start - 0.200

    check_exact(measure)


def test_every_lane_has_its_own_time(wire: Wire, clients: Clients) -> None:
    """Later requests may be due earlier."""
    limits = 90, 30, 70, 10, 50
    for ms in limits:
        store_witness(wire, f"m{ms}", size=8, min_size=4, ms=ms)

    def measure() -> Iterator[float]:
        for _ in range(5):
            sent = {ms: clients.one(number, key=f"m{ms}") for number, ms in enumerate(limits)}
            starts = {}
            for ms, request in sent.items():
                starts[ms] = time.monotonic()
                request.send()
            for ms in sorted(limits):
                assert sent[ms].result().rows == 1
                yield time.monotonic() - starts[ms] - ms / 1000

    check_exact(measure)


def test_without_minbatchtimeout_requests_wait(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=8, min_size=2)
    request = clients.one(0)
    start = time.monotonic()
    request.send(timeout=300)
    assert request.wire.read() == b"TIMEDOUT"
    assert time.monotonic() - start >= 0.299
    assert full_ai_info(wire)["calls"] == 0


@pytest.mark.parametrize("ms", [0, 60_000])
def test_shutdown_while_requests_wait(start_server: StartServer, ms: int) -> None:
    server = start_server()
    with server.wire() as wire:
        store_witness(wire, size=8, min_size=4, ms=ms)
    clients = Clients(server)
    clients.queue(*clients.each(1, 1))
    assert server.stop() == 0


def threads(pid: int) -> tuple[float, int]:
    """Seconds of CPU that all threads of a process took so far, and how often the others than the main one woke."""
    used = thread_ns(pid)
    statuses = [Path(f"/proc/{pid}/task/{thread}/status").read_text() for thread in used if thread != pid]
    woken = sum(int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for status in statuses)
    return sum(used.values()) / 1e9, woken


@pytest.mark.parametrize("ms", [0, 1500])
def test_waiting_costs_nothing(server: Server, wire: Wire, clients: Clients, ms: int) -> None:
    """While a request waits for others, or for its time, no thread does anything."""
    store_witness(wire, size=8, min_size=4, ms=ms)
    request, measuring = clients.each(1, 1)
    clients.queue(request)
    clients.run_other_model()
    before, start = threads(server.pid), time.monotonic()
    measuring.send(timeout=1000)
    assert measuring.wire.read() == b"TIMEDOUT"
    after, seconds = threads(server.pid), time.monotonic() - start
    assert server.blocked_clients() == 1
    print(f"{(after[0] - before[0]) * 1000:.2f} ms of CPU, woken {after[1] - before[1]} times, in {seconds:.2f} s")
    assert after[0] - before[0] < 0.02 * seconds  # Redis's own timers included
    assert after[1] - before[1] < 30
    if ms:
        assert request.result() == batch(1, 0)
