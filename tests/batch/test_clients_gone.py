"""Requests that nobody waits for any more leave their batch before it runs, and leave nothing behind."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from testkit.batches import Clients, Request, batch, check_exact, store_witness
from testkit.info import full_ai_info
from testkit.process import rss
from testkit.server import Server
from testkit.waiting import TIMEOUTS, check_times, wait_for
from testkit.wire import Wire, Word

MB = 1 << 20


def leave(clients: Clients, request: Request, how: str) -> None:
    """The request waits; then its client is gone."""
    if how == "timeout":
        request.send(timeout=20)
        assert request.wire.read() == b"TIMEDOUT"
        return
    number = request.wire.ask("CLIENT", "ID")
    waiting = clients.server.blocked_clients()
    clients.queue(request)
    if how == "close":
        request.wire.close()
    elif how == "reset":
        request.wire.abort()
    else:
        assert clients.wire().ask("CLIENT", "KILL", "ID", number) == 1
    clients.wait_blocked(waiting)


@pytest.mark.parametrize("dag", [False, True], ids=["MODELEXECUTE", "DAGEXECUTE"])
@pytest.mark.parametrize("how", ["timeout", "close", "reset", "kill"])
def test_who_leaves_does_not_count(wire: Wire, clients: Clients, how: str, dag: bool) -> None:
    """Not for MINBATCHSIZE, not in the batch, not in AI.INFO; whoever is there gets a full batch."""
    store_witness(wire, size=8, min_size=4)
    stays = clients.one(0)
    clients.queue(stays)
    for number, rows in (10, 1), (11, 2):
        leave(clients, clients.one(number, rows, dag=dag), how)
    two, three, four = (clients.one(number, dag=dag) for number in (1, 2, 3))
    clients.queue(two, three)
    clients.run_other_model()
    assert clients.server.blocked_clients() == 3
    assert four.ask() == batch(4, 0, 1, 2, 3)
    assert [request.result() for request in (stays, two, three)] == [batch(4, 0, 1, 2, 3)] * 3
    found = full_ai_info(wire)
    assert [found[name] for name in ("calls", "samples", "executions", "errors")] == [4, 4, 1, 0]
    assert wire.ask("EXISTS", "m:y10", "m:y11") == 0


def test_timeouts_are_exact_while_waiting_for_a_batch(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=8, min_size=4)
    times = []
    for number, asked in enumerate(TIMEOUTS):
        request = clients.one(number, dag=number % 2 == 0)
        start = time.monotonic()
        request.send(timeout=round(asked * 1000))
        assert request.wire.read() == b"TIMEDOUT"
        times.append((asked, time.monotonic() - start))
    check_times(times)


@pytest.mark.parametrize("oldest", ["timeout", "reset"])
def test_minbatchtimeout_when_the_oldest_has_left(wire: Wire, clients: Clients, oldest: str) -> None:
    """The others keep their own time, and are not run without need by that of the one who left."""
    store_witness(wire, size=8, min_size=4, ms=100)

    def measure() -> Iterator[float]:
        for _ in range(5):
            leave(clients, clients.one(10), oldest)
            told, seconds = clients.one(0).timed()
            assert told == batch(1, 0)
            yield seconds - 0.100

    check_exact(measure)


def test_all_have_left_when_the_time_is_up(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=8, min_size=4, ms=50)
    for number in range(3):
        leave(clients, clients.one(number), "timeout")
    told, seconds = clients.one(5).timed()
    assert told == batch(1, 5)
    assert seconds >= 0.0495
    assert full_ai_info(wire)["calls"] == 1


def test_who_leaves_a_full_batch_behind_a_busy_worker(wire: Wire, clients: Clients) -> None:
    """Its place is taken by the next."""
    store_witness(wire, size=3)
    requests = clients.each(1, 1, 1, 1, 1)
    with clients.busy_worker():
        clients.queue(*requests)
        requests[1].wire.abort()
        clients.wait_blocked(5)
    assert [requests[i].result() for i in (0, 2, 3, 4)] == [batch(3, 0, 2, 3)] * 3 + [batch(1, 4)]
    assert full_ai_info(wire)["calls"] == 4


def test_a_dag_that_leaves_takes_all_its_runs_along(wire: Wire, clients: Clients) -> None:
    """From batches of several models, also on several devices."""
    for key, device in ("m", "CPU"), ("n", "CPU:1"):
        store_witness(wire, key, size=8, min_size=3, device=device)
    words: list[Word] = ["|>", "AI.TENSORSET", "x", "FLOAT", 1, 1, "VALUES", 1 << 20]
    for i, key in enumerate("mmnn"):
        words += ["|>", "AI.MODELEXECUTE", key, "INPUTS", 1, "x", "OUTPUTS", 2, f"y{i}", f"t{i}"]
    assert wire.ask("AI.DAGEXECUTE", "ROUTING", "r", "TIMEOUT", 30, *words) == b"TIMEDOUT"
    with clients.server.wire() as gone:
        gone.send("AI.DAGEXECUTE", "ROUTING", "r", *words[:-10])
        clients.wait_blocked(1)
    clients.wait_blocked(0)
    for key in "mn":
        waiting = [clients.one(number, key=key) for number in range(2)]
        clients.queue(*waiting)
        clients.run_other_model()
        assert clients.server.blocked_clients() == 2
        assert clients.one(2, key=key).ask() == batch(3, 0, 1, 2)
        assert [request.result() for request in waiting] == [batch(3, 0, 1, 2)] * 2


def test_a_failed_dag_leaves_the_batches_of_others(wire: Wire, clients: Clients) -> None:
    """One of its runs fails while another waits for its batch: that one does not run any more, and holds up nobody."""
    store_witness(wire, size=8, min_size=3)
    waiting = clients.one(0)
    clients.queue(waiting)
    wire.ask("AI.TENSORSET", "bad", "BOOL", 2, 2)
    words: list[Word] = ["AI.DAGEXECUTE", "LOAD", 1, "bad", "|>", "AI.TENSORSET", "x", "FLOAT", 1, 1, "VALUES", 1 << 20]
    words += ["|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 2, "y", "t"]
    words += ["|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "bad", "OUTPUTS", 2, "z", "u"]
    third = clients.wire()
    third.send(*words)
    # the batch of BOOLs is complete with this one, and fails
    wire.ask("AI.TENSORSET", "one", "BOOL", 1, 2)
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "one", "OUTPUTS", 2, "z", "u")
    assert reply.startswith("ERR ")
    first, second, failed = third.read()
    assert (first, second) == (b"OK", b"NA") and failed.startswith("ERR ")
    two, four = clients.one(1), clients.one(2)
    clients.queue(two)
    clients.run_other_model()
    assert clients.server.blocked_clients() == 2
    assert four.ask() == batch(3, 0, 1, 2)
    assert waiting.result() == two.result() == batch(3, 0, 1, 2)


# ---- nothing is left behind ------------------------------------------------------------------------------------------


def test_memory_comes_back_from_lanes_that_nobody_waits_in(server: Server, wire: Wire, clients: Clients) -> None:
    """No other request with these batch keys ever comes."""
    store_witness(wire, size=8, min_size=4)
    before = server.used_memory()
    for number in range(100):
        words = ("AI.TENSORSET", "x", "FLOAT", 1, 100_000 + number, "BLOB", bytes(4 * (100_000 + number)))
        leaver = server.wire()
        assert leaver.ask(*words) == b"OK"
        leaver.send("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 2, "y", "t")
        clients.wait_blocked(1)
        leaver.abort()
        clients.wait_blocked(0)
    wire.ask("DEL", "x")
    held = server.used_memory() - before
    print(f"{held / MB:.1f} of 40 MB are still held")
    clients.run_other_model()
    wait_for(lambda: server.used_memory() < before + 4 * MB, what="memory comes back")


def test_many_dead_lanes(server: Server, wire: Wire) -> None:
    """Each of a shape that never comes again: neither C nor Python keeps anything of them."""
    store_witness(wire, size=8, min_size=4)
    sizes = []
    for turn in range(6):
        for part in range(10):
            words: list[Word] = ["AI.DAGEXECUTE", "ROUTING", "r", "TIMEOUT", 1 if part % 2 else 30]
            for i in range(200):
                # All about as large: small ones of many sizes leave much that is kept for others of these sizes.
                width = 50_000 - (turn * 10 + part) * 200 - i
                words += ["|>", "AI.TENSORSET", "x", "FLOAT", 1, width]
                words += ["|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 2, "y", "t"]
            assert wire.ask(*words) == b"TIMEDOUT"
        sizes.append(rss(server.pid))
    print("MB:", [round(size / MB, 1) for size in sizes])
    wait_for(lambda: rss(server.pid) < sizes[1] + 8 * MB, what="memory comes back")  # the worker may be late
    assert wire.ask("AI.INFO", "m")[13] == 0


def test_memory_of_batches_that_ran(server: Server, wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=8, min_size=3)

    def some() -> None:
        for turn in range(20):
            requests = [clients.one(number, 1, width=20_000 + turn) for number in range(3)]
            for request in requests:
                request.send()
            for request in requests:
                assert request.result() == batch(3, 0, 1, 2)
            clients.close()

    some()
    before, resident = server.used_memory(), rss(server.pid)
    for _ in range(5):
        some()
    wait_for(lambda: server.used_memory() < before + 4 * MB, what="memory comes back")
    assert rss(server.pid) < resident + 16 * MB


def test_the_rest_is_not_disturbed(wire: Wire, clients: Clients) -> None:
    """Half of all clients leave, at any moment; the others get their own rows, and what they ran is all that counts."""
    store_witness(wire, size=8, min_size=3, ms=5)
    chance = np.random.default_rng(5)
    answered = 0
    for _ in range(30):
        requests = [clients.one(number, int(chance.integers(1, 4))) for number in range(12)]
        for number, request in enumerate(requests):
            request.send(timeout=int(chance.integers(1, 12)) if number % 4 == 1 else None)
        for request in requests[2::4]:
            request.wire.abort()
        for number, request in enumerate(requests):
            if number % 4 == 1:
                answered += request.wire.read() == b"OK"
            elif number % 4 != 2:
                assert number in request.result().members
                answered += 1
    found = full_ai_info(wire)
    assert answered <= found["calls"] <= 30 * 12
    assert found["errors"] == 0
