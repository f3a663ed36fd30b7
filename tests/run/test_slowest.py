"""AI.INFO key FULL lists the slowest runs of a model or script."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from testkit import models, scripts
from testkit.batches import Clients, batch, store_witness
from testkit.info import full_ai_info
from testkit.waiting import wait_for
from testkit.wire import Wire, Word

RUN: tuple[Word, ...] = ("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
KEPT = 8


def slowest(wire: Wire, key: str = "m") -> list[dict[str, Any]]:
    return [
        {name.decode(): value for name, value in zip(run[::2], run[1::2], strict=True)}
        for run in full_ai_info(wire, key)["slowest"]
    ]


def store(wire: Wire, rows: int = 3) -> None:
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", rows, 2)


def test_none(wire: Wire) -> None:
    store(wire)
    assert slowest(wire) == []


def test_fields(wire: Wire) -> None:
    store(wire)
    before = time.time() * 1000
    wire.ask_ok(*RUN)
    (run,) = slowest(wire)
    assert list(run) == ["time_ms", "rows", "queue_us", "run_us", "client", "function"]
    assert int(before) <= run["time_ms"] <= time.time() * 1000
    assert run["client"] == wire.ask("CLIENT", "ID")
    assert (run["rows"], run["function"]) == (3, b"")
    found = full_ai_info(wire)
    assert (run["run_us"], run["queue_us"]) == (found["run_time_max"], found["queue_time_max"])


def test_the_slowest_are_kept(wire: Wire, pace: Callable[[], float]) -> None:
    """The first of many, in whatever order they come."""
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_loop())
    run = ("AI.MODELEXECUTE", "m", "INPUTS", 1, "n", "OUTPUTS", 1, "y")
    taken = []
    for seconds in (0.0, 0.02, 0.0, 0.06, 0.0, 0.04, 0.0):
        wire.ask_ok("AI.TENSORSET", "n", "INT64", "VALUES", 1 + round(seconds / pace()))
        for _ in range(1 if seconds else KEPT):
            before = full_ai_info(wire)["duration"]
            wire.ask_ok(*run)
            taken.append(full_ai_info(wire)["duration"] - before)
    times = [run["run_us"] for run in slowest(wire)]
    assert times == sorted(taken, reverse=True)[:KEPT]


def test_reset(wire: Wire) -> None:
    store(wire)
    for _ in range(2 * KEPT):
        wire.ask_ok(*RUN)
    assert len(slowest(wire)) == KEPT
    wire.ask_ok("AI.INFO", "m", "RESETSTAT")
    assert slowest(wire) == []
    wire.ask_ok(*RUN)
    assert len(slowest(wire)) == 1, "also one that is quicker than those before"


def test_time_in_the_queue(wire: Wire, clients: Clients) -> None:
    store(wire)
    with clients.busy_worker():
        other = clients.wire()
        other.send(*RUN)
        clients.wait_blocked(2)
        start = time.monotonic()
        wait_for(lambda: time.monotonic() > start + 0.02)
    assert other.read() == b"OK"
    (run,) = slowest(wire)
    assert run["queue_us"] > 20_000
    assert run["client"] == other.ask("CLIENT", "ID")


def test_a_batch_is_one(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=8, min_size=8)
    requests = clients.each(1, 2, 5)
    clients.queue(*requests[:2])
    requests[2].send()
    assert [request.result() for request in requests] == [batch(8, 0, 1, 2)] * 3
    (run,) = slowest(wire)
    assert run["rows"] == 8


@pytest.mark.parametrize("function", ["gone_on", "no_output"])
def test_functions(wire: Wire, function: str) -> None:
    scripts.store(wire, "s", f"def {function}{scripts.SIGNATURE}:\n    return tensors[0]\n", [function])
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 4)
    wire.ask_ok("AI.SCRIPTEXECUTE", "s", function, "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    (run,) = slowest(wire, "s")
    assert (run["function"], run["rows"]) == (function.encode(), 4)


def test_a_run_that_fails(wire: Wire) -> None:
    store(wire)
    wire.ask_ok("AI.TENSORSET", "x", "INT64", 3, 2)
    assert wire.ask(*RUN).startswith("ERR input 'a' has type INT64")
    assert len(slowest(wire)) == full_ai_info(wire)["calls"] == 1
