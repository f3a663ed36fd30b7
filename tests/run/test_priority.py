"""PRIORITY of models and runs: who goes first, who gets turns none the less, and which batches mix.

The one worker of the CPU runs a script while runs come, or runs that take their time come without end. Outputs are
saved in the order in which the runs end, and each is an event.

PRIORITY_SECONDS=10 measures the time of runs with high priority for longer.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from testkit import models, scripts
from testkit.batches import ATTEMPTS, Clients, Request, batch, store_witness
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire, Word
from tests.conftest import Slow

SECONDS = float(os.environ.get("PRIORITY_SECONDS", 0.6))
ORDER = ["low", "normal", "high", "low", "normal", "high"]
HOW = ["MODELEXECUTE", "SCRIPTEXECUTE", "DAGEXECUTE", "large", "model", "MODELRUN", "other", "models of a DAG"]
IN_TURN = ["high2", "high5", "normal1", "normal4", "low0", "low3"]
RUN: tuple[Word, ...] = ("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1)
SCRIPT: tuple[Word, ...] = ("AI.SCRIPTEXECUTE", "s", "f", "INPUTS", 1, "x", "OUTPUTS", 1)


def store(wire: Wire) -> None:
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
    scripts.store(wire, "s", scripts.function("f", "return tensors[0]"), ["f"])
    for level in "low", "high":
        wire.ask_ok("AI.MODELSTORE", level, "ONNX", "CPU", "PRIORITY", level, "BLOB", models.onnx_add())


@contextmanager
def saved(server: Server, wire: Wire) -> Iterator[list[str]]:
    """The keys of the outputs that the runs of the block have saved, once it has ended."""
    found: list[str] = []
    wire.ask_ok("CONFIG", "SET", "notify-keyspace-events", "Kd")
    with server.wire() as listener:
        listener.ask("PSUBSCRIBE", "__keyspace@0__:out:*")
        yield found
        wire.ask("PUBLISH", "__keyspace@0__:out:", "end")
        while (event := listener.read())[3] != b"end":
            found.append(event[2].decode().partition("out:")[2])
    wire.ask_ok("CONFIG", "SET", "notify-keyspace-events", "")


def words(how: str, level: str, key: str) -> list[Word]:
    """A run that saves its output into this key."""
    own = () if level == "normal" else ("PRIORITY", level)
    if how in ("MODELEXECUTE", "large"):
        return [*RUN, key, *own]
    if how == "SCRIPTEXECUTE":
        return [*SCRIPT, key, *own, "TIMEOUT", 60_000]
    if how == "model":
        return [RUN[0], level if own else "m", *RUN[2:], key]
    if how == "MODELRUN":
        return ["AI.MODELRUN", level if own else "m", "INPUTS", "x", "x", "OUTPUTS", key]
    if how == "other":
        return [RUN[0], "high" if level == "low" else "low", *RUN[2:], key, "PRIORITY", level]
    if how == "models of a DAG":
        return ["AI.DAGEXECUTE", "LOAD", 1, "x", "PERSIST", 1, key, "|>", RUN[0], level if own else "m", *RUN[2:], key]
    steps = ("|>", *RUN, "y", "|>", *SCRIPT[:5], "y", *SCRIPT[6:], key)
    return ["AI.DAGEXECUTE", "LOAD", 1, "x", "PERSIST", 1, key, *own, *steps]


def queue(clients: Clients, how: str) -> list[Wire]:
    """Sends runs that will wait, in ORDER."""
    waiting = [clients.wire() for _ in ORDER]
    for number, (each, level) in enumerate(zip(waiting, ORDER, strict=True)):
        each.send(*words(how, level, f"out:{level}{number}"))
        clients.wait_blocked(number + 2)
    return waiting


@pytest.mark.parametrize("how", HOW)
def test_the_higher_goes_first(server: Server, wire: Wire, clients: Clients, how: str) -> None:
    store(wire)
    if how == "large":  # an engine process gets these from another thread
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 30_000, 2)
    with saved(server, wire) as order:
        with clients.busy_worker():
            waiting = queue(clients, how)
        replies = [each.read() for each in waiting]
        assert all(reply == b"OK" or set(reply) == {b"OK"} for reply in replies), replies
    assert order == IN_TURN


def test_a_high_dag_is_not_interrupted(server: Server, wire: Wire, clients: Clients) -> None:
    """Not even for one run between its models."""
    if server.is_isolated:
        pytest.skip("each goes back to the server first")
    store(wire)
    steps: list[Word] = []
    names = ["x", "a", "b", "c", "d", "out:dag"]
    for given, made in itertools.pairwise(names):
        steps += ["|>", *RUN[:4], "x", given, *RUN[6:], made]
    with saved(server, wire) as order:
        with clients.busy_worker():
            waiting = queue(clients, "MODELEXECUTE")
            dag = clients.wire()
            dag.send("AI.DAGEXECUTE", "LOAD", 1, "x", "PERSIST", 1, "out:dag", "PRIORITY", "high", *steps)
            clients.wait_blocked(len(ORDER) + 2)
        assert dag.read() == [b"OK"] * 5
        assert [each.read() for each in waiting] == [b"OK"] * len(ORDER)
    assert order.index("dag") <= 2


def test_runs_tells_it(wire: Wire, clients: Clients) -> None:
    store(wire)
    with clients.busy_worker():
        waiting = queue(clients, "MODELEXECUTE")
        listed = [dict(zip(run[::2], run[1::2], strict=True))[b"priority"].decode() for run in wire.ask("AI.RUNS", "m")]
        assert sorted(listed) == sorted(ORDER)
    assert [each.read() for each in waiting] == [b"OK"] * len(ORDER)


@pytest.mark.parametrize("words", [("PRIORITY",), ("PRIORITY", "highest"), ("PRIORITY", 3), ("PRIORITY", b"low\0")])
def test_errors(wire: Wire, words: tuple[Word, ...]) -> None:
    store(wire)
    wrong = "ERR Invalid argument for PRIORITY: low, normal or high is needed"
    assert wire.ask(*RUN, "y", *words) == wire.ask(*RUN, "y", "TIMEOUT", 9, *words) == wrong
    assert wire.ask(*SCRIPT, "y", *words) == wrong
    step = ("|>", *RUN, "y")
    for command in "AI.DAGEXECUTE", "AI.DAGEXECUTE_RO":
        assert wire.ask(command, "LOAD", 1, "x", *words, *step) == wrong
        inside = wire.ask(command, "LOAD", 1, "x", *step, "PRIORITY", "high")
        assert inside == "ERR PRIORITY not allowed within a DAG command"
        assert wire.ask(command, "LOAD", 1, "x", "PRIORITY", "HIGH", "TIMEOUT", 60_000, *step) == [b"OK"]
    unexpected = "ERR Invalid DAG command. Unexpected argument:  PRIORITY"
    assert wire.ask("AI.DAGRUN", "LOAD", 1, "x", "PRIORITY", "low", "|>", "PING") == unexpected
    twice = ("PRIORITY", "low", "PRIORITY", "low")
    assert wire.ask(*RUN, "y", *twice) == "ERR Invalid argument: PRIORITY"
    assert wire.ask(*SCRIPT, "y", *twice) == "ERR Encountered problem parsing AI.SCRIPTEXECUTE"
    assert wire.ask("AI.DAGEXECUTE", "LOAD", 1, "x", *twice, *step) == unexpected


# ---- batches ---------------------------------------------------------------------------------------------------------


def prioritized(clients: Clients, levels: Sequence[str], rows: int = 1) -> list[Request]:
    requests = clients.each(*[rows] * len(levels))
    for request, level in zip(requests, levels, strict=True):
        request.begin = (*request.begin, "PRIORITY", level)
    return requests


@pytest.mark.parametrize(
    ("levels", "batches"),
    [
        ("low low high normal normal normal", [(2, 3, 4, 5), (0, 1)]),  # the first has room, not for all
        ("low normal normal high high high high", [(3, 4, 5, 6), (0, 1, 2)]),
        ("low normal high low", [(0, 1, 2, 3)]),
        ("low high high high high high", [(1, 2, 3, 4), (0, 5)]),
    ],
)
def test_batches_mix_only_where_there_is_room(
    server: Server, wire: Wire, clients: Clients, levels: str, batches: list[tuple[int, ...]]
) -> None:
    store_witness(wire, size=4)
    requests = prioritized(clients, levels.split())
    for request in requests:
        request.begin = tuple(f"out:{word}" if word == request.outputs[0] else word for word in request.begin)
        request.outputs = (f"out:{request.outputs[0]}", request.outputs[1])
    with saved(server, wire) as order:
        with clients.busy_worker():
            clients.queue(*requests)
        results = [request.result() for request in requests]
    assert [set(result.members) for result in results] == [
        next(set(members) for members in batches if number in members) for number in range(len(results))
    ]
    first = {int(key.partition(":y")[2]) for key in order[: len(batches[0])]}
    assert first == set(batches[0])


def test_all_count_for_the_minimum(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=8, min_size=3)
    requests = prioritized(clients, ["low", "high", "normal"])
    clients.queue(*requests[:2])
    requests[2].send()
    assert [request.result() for request in requests] == [batch(3, 0, 1, 2)] * 3


# ---- turns -----------------------------------------------------------------------------------------------------------


@contextmanager
def saturated(clients: Clients, run: Sequence[Word], level: str, count: int = 5) -> Iterator[None]:
    """Runs of this priority wait without end."""
    before = clients.server.blocked_clients()
    wires = [clients.wire() for _ in range(count)]
    for each in wires:
        for _ in range(200):
            each.send(*run, "PRIORITY", level)
    wait_for(lambda: clients.server.blocked_clients() >= before + count)
    yield
    assert clients.server.blocked_clients() >= before + count - 1, "they waited all the time"
    for each in wires:
        each.close()


@pytest.mark.parametrize("how", ["alone", "batches"])
def test_none_starves(wire: Wire, clients: Clients, slow: Slow, how: str) -> None:
    """After a second without, each has a turn. Runs that clients have given up take none."""
    run = slow(wire, 0.02)
    store(wire)
    store_witness(wire, "batched", size=2)
    wire.ask_ok("AI.TENSORSET", "rows", "FLOAT", 1, 1)
    with saturated(clients, run, "high"), clients.server.wire() as low, clients.server.wire() as normal:
        for _ in range(20):
            assert low.ask(*words("MODELEXECUTE", "low", "out:y"), "TIMEOUT", 1) == b"TIMEDOUT"
        start = time.monotonic()
        for each, level in (low, "low"), (normal, "normal"):
            if how == "batches":
                each.send(
                    RUN[0], "batched", "INPUTS", 1, "rows", "OUTPUTS", 2, f"out:{level}", "told", "PRIORITY", level
                )
            else:
                each.send(*words("MODELEXECUTE", level, "out:y"))
        assert [normal.read(), low.read()] == [b"OK", b"OK"]
        seconds = time.monotonic() - start
    print(f"{seconds:.2f} s")
    assert 0.5 < seconds < 4


def measure(wire: Wire, run: Sequence[Word]) -> tuple[float, float]:
    """Median and 99th percentile."""
    times: list[float] = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end or len(times) < 20:
        reply, took = wire.timed(*run, "PRIORITY", "high")
        assert reply == b"OK"
        times.append(took)
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100]


def test_high_under_saturation(wire: Wire, clients: Clients, slow: Slow) -> None:
    """A high run waits for the one that has begun, and for no other."""
    run = slow(wire, 0.01)
    for _ in range(ATTEMPTS):
        idle, idle_p99 = measure(wire, run)
        with saturated(clients, run, "normal", 6), saturated(clients, run, "low", 6):
            median, p99 = measure(wire, run)
        print(
            f"ms: idle {idle * 1000:.1f}, p99 {idle_p99 * 1000:.1f}; loaded {median * 1000:.1f}, p99 {p99 * 1000:.1f}"
        )
        if p99 <= 1.5 * idle_p99 + idle:
            return
    raise AssertionError("high runs wait for others")
