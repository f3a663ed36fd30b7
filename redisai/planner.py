"""Decides where an op of a DAG runs once its inputs are there. Pure logic.

A chain of ops on one device stays with the worker that has begun it, which has the tensors at hand. Ops that can run at
the same time go to other workers, of this queue or of other queues. Ops that may be batched go through their queue to
its batcher.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class HasQueue(Protocol):
    """What the planner reads of an op's runnable."""

    @property
    def queue(self) -> object: ...


class Ready(Protocol):
    """What the planner reads of an op."""

    @property
    def rows(self) -> int: ...

    @property
    def runnable(self) -> HasQueue: ...


T = TypeVar("T", bound=Ready)


def plan(ops: Iterable[T], queue: object, max_here: int) -> tuple[list[T], list[T]]:
    """Splits ops into those that a worker of this queue runs next, max_here at most, and those to push to queues."""
    here: list[T] = []
    elsewhere: list[T] = []
    for op in ops:
        if len(here) < max_here and not op.rows and op.runnable.queue == queue:
            here.append(op)
        else:
            elsewhere.append(op)
    return here, elsewhere
