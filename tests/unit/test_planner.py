"""Where ops of a DAG run once they are ready."""

from __future__ import annotations

from dataclasses import dataclass

from redisai.planner import plan


@dataclass(slots=True)
class Runnable:
    queue: str


@dataclass(slots=True)
class Op:
    runnable: Runnable
    rows: int = 0


def op(queue: str = "CPU", rows: int = 0) -> Op:
    return Op(Runnable(queue), rows)


def test_a_chain_stays() -> None:
    only = op()
    assert plan([only], "CPU", 1) == ([only], [])


def test_other_devices_and_batches_get_theirs() -> None:
    ops = [op("CPU:1"), op(), op(rows=2), op("GPU:0")]
    assert plan(ops, "CPU", 4) == ([ops[1]], [ops[0], ops[2], ops[3]])


def test_no_more_than_asked_for_stays() -> None:
    ops = [op(), op(), op()]
    assert plan(ops, "CPU", 1) == (ops[:1], ops[1:])
    assert plan(ops, "CPU", 0) == ([], ops)
    assert plan(ops, "CPU", 3) == (ops, [])
