"""Where an op of a DAG runs whose inputs have just come: pure logic.

A chain on one device stays with the worker that has begun it, which has its tensors at hand. What can run at the same
time as that is for others: of this queue, where it has several workers, and of other queues. Ops that may be batched
go through their queue to its batcher.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Placed(Protocol):
    """What the planner reads of an op's runnable."""

    @property
    def queue(self) -> object: ...


class Ready(Protocol):
    """What the planner reads of an op."""

    @property
    def rows(self) -> int: ...

    @property
    def runnable(self) -> Placed: ...


T = TypeVar("T", bound=Ready)


def plan(ops: Iterable[T], queue: object, most: int) -> tuple[list[T], list[T]]:
    """Those that this worker of that queue runs next, at most so many, and those to be pushed to their queues."""
    here: list[T] = []
    elsewhere: list[T] = []
    for op in ops:
        if len(here) < most and not op.rows and op.runnable.queue == queue:
            here.append(op)
        else:
            elsewhere.append(op)
    return here, elsewhere
