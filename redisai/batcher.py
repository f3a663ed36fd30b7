"""Decides which ops run together, and when. Pure logic: it knows neither the bridge nor a clock.

Ops that may share a batch wait in one group, in the order in which they came. A group is ready once it holds enough
rows, or once its oldest op has waited long enough. Of the ready groups, the one with the oldest first op goes first.
Each priority has groups of its own. Those that differ in nothing else are siblings: their ops count together for the
minimum, and a batch that has room is filled up with ops of the siblings. C decides which priority has the next turn.
The workers of a queue share one Batcher, and hold its lock around every call.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What a batcher reads of an op."""

    @property
    def id(self) -> int:
        """The model's."""
        ...

    @property
    def batch_key(self) -> int:
        """Equal for ops of one model that may share a batch. Ops of different models may have the same key too."""
        ...

    @property
    def rows(self) -> int: ...

    @property
    def arrival(self) -> int: ...

    @property
    def priority(self) -> int:
        """Below PRIORITIES."""
        ...


PRIORITIES = 4


ALL = -1  # models: no id

T = TypeVar("T", bound=Waiting)


@dataclass(slots=True)
class Limits:
    """How a model's ops are batched. May change while ops wait: Batcher.sweep applies the change to them."""

    batchsize: int  # rows; a single op may have more
    minbatchsize: int = 0  # rows, at most batchsize; 0: a batch waits for nothing
    minbatchtimeout: int = 0  # ns that an op waits for the minimum; 0: for ever
    # Times that a tuner sets (tuner.py). An op waits after one run only.
    since: int = 0  # the end of the latest run; 0: none
    held_from: int = 0  # ops that came earlier do not wait for the minimum
    held_until: int = 0  # the others do, until then
    held_priority: int = PRIORITIES - 1  # nor do ops of a higher priority than this
    trial: int = 0  # rows: a size to be tried if it can be filled by more than half
    sizes: list[int] = field(default_factory=list)  # rows of the next batch where up to 1, 2, 4 ... rows wait
    is_tuned: bool = False

    def most(self, waiting: int) -> int:
        """Rows of the next batch where so many wait."""
        if 0 < self.trial < 2 * waiting:
            return self.trial
        bucket = (waiting - 1).bit_length()
        return self.sizes[bucket] if bucket < len(self.sizes) else self.batchsize

    def due(self, arrival: int, priority: int) -> int:
        """Until when an op waits for the minimum; 0: for ever."""
        if not self.minbatchtimeout and not self.since:
            return 0
        if priority > self.held_priority:
            return arrival
        if self.minbatchtimeout:
            return arrival + self.minbatchtimeout
        return self.held_until if arrival >= self.held_from else arrival


class _Group(Generic[T]):
    """The waiting ops of one model, one batch key and one priority."""

    __slots__ = ("deadline", "is_full", "key", "limits", "ops", "ready", "rows")

    def __init__(self, key: tuple[int, int, int], limits: Limits) -> None:
        self.key = key
        self.limits = limits
        self.ops: deque[T] = deque()
        self.rows = 0
        self.ready = False  # is in the heap of ready groups
        self.is_full = False  # no more ops come before some have run
        self.deadline = 0  # when it becomes ready even without the minimum; 0: never, or it is ready already


class Batcher(Generic[T]):
    """limits tells how the group of an op is batched. sweep drops the ops that no client waits for and returns the
    others in order; the batcher does not touch the dropped ones again. Neither may raise."""

    def __init__(self, limits: Callable[[T], Limits], sweep: Callable[[list[T]], list[T]]) -> None:
        self.lock = threading.Lock()
        self._limits = limits
        self._sweep = sweep
        self._groups: dict[tuple[int, int, int], _Group[T]] = {}  # none is empty
        self._counts = [0] * PRIORITIES  # of groups, by priority
        # Heaps. The number in the middle keeps Python from comparing groups.
        self._ready: list[list[tuple[int, int, _Group[T]]]] = [[] for _ in range(PRIORITIES)]
        # By priority; each by arrival of the first op, and some may have lost ops since.
        self._deadlines: list[tuple[int, int, _Group[T]]] = []  # void where the group has another deadline by now
        self._numbers = itertools.count()

    @property
    def ready(self) -> int:
        """The priorities of which take() may return a batch, as bits."""
        bits = 0
        for priority, heap in enumerate(self._ready):
            if heap:
                bits |= 1 << priority
        return bits

    @property
    def held(self) -> int:
        """The priorities of which ops wait because a tuner says so, as bits. end_hold() makes them ready."""
        bits = 0
        for deadline, _, group in self._deadlines:
            if deadline == group.deadline and group.limits.is_tuned:
                bits |= 1 << group.key[2]
        return bits

    def end_hold(self, priority: int) -> None:
        """Ops of this priority wait for nothing that only a tuner wants: others would have the turn meanwhile."""
        for group in self._groups.values():
            if group.limits.is_tuned and group.key[2] == priority and not group.ready:
                group.limits.minbatchsize = 0
                self._make_ready(group)

    @property
    def empty(self) -> bool:
        return not self._groups

    def add(self, ops: Iterable[T]) -> None:
        groups = self._groups
        for op in ops:
            key = (op.id, op.batch_key, op.priority)
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group(key, self._limits(op))
                self._counts[key[2]] += 1
            group.ops.append(op)
            group.rows += op.rows
            if not group.ready:
                self._schedule(group, op.arrival)

    def take(self, now: int, priority: int = 0) -> list[T]:
        """The ops of the next batch; empty if no group of this priority is ready. 0: of the highest that has any."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            deadline, _, group = heapq.heappop(deadlines)
            if deadline == group.deadline:
                self._make_ready(group)
        heap = self._ready[priority or self.ready.bit_length() - 1]
        while heap:
            group = heapq.heappop(heap)[2]
            group.ready = False
            if group.ops and (not group.limits.minbatchsize or self._is_still_ready(group, now)):
                return self._cut_batch(group)
        return []

    def deadline(self) -> int:
        """When the next group becomes ready if no op comes before; 0: never."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] != deadlines[0][2].deadline:
            heapq.heappop(deadlines)
        return deadlines[0][0] if deadlines else 0

    def sweep(self, full: int = 0) -> None:
        """Sweeps every group, and applies its limits to what is left. full: there will be no more ops of the model with
        this id, or of all, until some have run, so no group of them waits for its minimum."""
        for group in list(self._groups.values()):
            group.ops = deque(self._sweep(list(group.ops)))
            group.rows = sum(op.rows for op in group.ops)
            group.is_full = full != 0 and full in (group.key[0], ALL)
            if not group.ready or not group.ops:
                self._reschedule(group)

    def rows(self, key: tuple[int, int]) -> int:
        """That wait of one model and batch key."""
        groups = [self._groups.get((*key, priority)) for priority in range(PRIORITIES)]
        return sum(group.rows for group in groups if group)

    # ---- groups ----

    def _siblings(self, group: _Group[T]) -> list[_Group[T]]:
        """The highest priority comes first."""
        if self._counts[group.key[2]] == len(self._groups):
            return []
        id, batch_key, own = group.key
        keys = [(id, batch_key, priority) for priority in range(PRIORITIES - 1, -1, -1) if priority != own]
        return [self._groups[key] for key in keys if key in self._groups]

    def _schedule(self, group: _Group[T], arrival: int) -> None:
        """Makes a group ready or sets its deadline, after an op with this arrival has joined it."""
        limits = group.limits
        rows = group.rows
        siblings = self._siblings(group)
        for sibling in siblings:
            rows += sibling.rows
        if rows >= limits.minbatchsize:
            self._make_ready(group)
            for sibling in siblings:
                if sibling.ops and not sibling.ready:
                    self._make_ready(sibling)
        elif (deadline := limits.due(arrival, group.key[2])) and (not group.deadline or deadline < group.deadline):
            self._set_deadline(group, deadline)

    def _reschedule(self, group: _Group[T]) -> None:
        """Makes a group ready or sets its deadline, after ops have left it. Forgets an empty group."""
        group.deadline = 0
        if not group.ops:
            del self._groups[group.key]
            self._counts[group.key[2]] -= 1
        elif group.rows >= group.limits.minbatchsize or group.is_full:
            self._make_ready(group)
        else:  # below its minimum it holds few ops, so looking at each costs little
            self._schedule(group, min(op.arrival for op in group.ops))

    def _make_ready(self, group: _Group[T]) -> None:
        group.deadline = 0
        group.ready = True
        heapq.heappush(self._ready[group.key[2]], (group.ops[0].arrival, next(self._numbers), group))

    def _set_deadline(self, group: _Group[T], deadline: int) -> None:
        group.deadline = deadline
        heapq.heappush(self._deadlines, (deadline, next(self._numbers), group))
        if len(self._deadlines) > 64 + 2 * len(self._groups):  # void ones in the far future would pile up
            self._deadlines = [entry for entry in self._deadlines if entry[0] == entry[2].deadline]
            heapq.heapify(self._deadlines)

    def _is_still_ready(self, group: _Group[T], now: int) -> bool:
        """Whether a group is ready if only the ops that a client waits for count. If not, schedules it again."""
        minimum, due = group.limits.minbatchsize, group.limits.due
        siblings = self._siblings(group)
        rows, awaited = self._sweep_front(group, minimum)
        for sibling in siblings:
            more_rows, more = self._sweep_front(sibling, minimum - rows)
            rows += more_rows
            awaited += more
        if rows >= minimum or (group.is_full and awaited):
            return True
        if awaited and 0 < min(due(op.arrival, op.priority) for op in awaited) <= now:
            return True
        self._reschedule_all(group, siblings)
        return False

    def _sweep_front(self, group: _Group[T], minimum: int) -> tuple[int, list[T]]:
        """Stops at so many rows: sweeping a long group for every batch would cost too much. Returns what it found."""
        ops = group.ops
        awaited: list[T] = []
        rows = 0
        while ops and rows < minimum:
            head: list[T] = []
            reached = rows
            while ops and reached < minimum:
                op = ops.popleft()
                reached += op.rows
                head.append(op)
            group.rows -= reached - rows
            head = self._sweep(head)
            found = sum(op.rows for op in head)
            group.rows += found
            rows += found
            awaited += head
        ops.extendleft(reversed(awaited))
        return rows, awaited

    def _cut_batch(self, group: _Group[T]) -> list[T]:
        batch: list[T] = []
        siblings = self._siblings(group)
        most = group.limits.most(group.rows + sum(sibling.rows for sibling in siblings))
        rows = self._fill(batch, 0, most, group)
        for sibling in siblings:
            rows = self._fill(batch, rows, most, sibling)
        self._reschedule_all(group, siblings)
        return batch

    def _fill(self, batch: list[T], rows: int, most: int, group: _Group[T]) -> int:
        """Moves ops of the group into a batch of so many rows, up to the most. Returns the rows that it has then."""
        ops = group.ops
        before = rows
        while ops:
            total = rows + ops[0].rows
            if batch and total > most:
                break
            rows = total
            batch.append(ops.popleft())
        group.rows -= rows - before
        return rows

    def _reschedule_all(self, group: _Group[T], siblings: Iterable[_Group[T]]) -> None:
        self._reschedule(group)
        for sibling in siblings:
            if not sibling.ready or not sibling.ops:
                self._reschedule(sibling)
