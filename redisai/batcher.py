"""Which ops run together, and when: pure logic, which knows neither the bridge nor a clock.

Ops that may share a batch wait in one lane, first come, first served. A lane is ready once it holds enough, or once its
oldest op has waited long enough; ready lanes are served by the age of their first op. The workers of a queue share one
Batcher, and hold its lock around every call.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What a batcher reads of an op."""

    @property
    def id(self) -> int:
        """The model's."""
        ...

    @property
    def batch_key(self) -> int:
        """Of one model: another's may have the same number. See bridge_gather for what else may."""
        ...

    @property
    def rows(self) -> int: ...

    @property
    def arrival(self) -> int: ...


T = TypeVar("T", bound=Waiting)


@dataclass(slots=True)
class Limits:
    """How a model's ops are batched. May change while ops wait; Batcher.sweep makes that take effect at once."""

    batchsize: int  # rows; a single op may have more
    minbatchsize: int = 0  # rows, at most batchsize; 0: a batch waits for nothing
    minbatchtimeout: int = 0  # ns that an op waits for the minimum; 0: for ever


class _Lane(Generic[T]):
    __slots__ = ("key", "limits", "ops", "ready", "rows", "timer")

    def __init__(self, key: tuple[int, int], limits: Limits) -> None:
        self.key = key
        self.limits = limits
        self.ops: deque[T] = deque()
        self.rows = 0
        self.ready = False  # is in the heap of ready lanes
        self.timer = 0  # when it will be ready all the same; 0: never, or it is ready already


class Batcher(Generic[T]):
    """limits tells how the lane of an op is batched. sweep drops the ops that nobody waits for, and returns the others
    in order; those dropped are not looked at again. Neither may raise."""

    def __init__(self, limits: Callable[[T], Limits], sweep: Callable[[list[T]], list[T]]) -> None:
        self.lock = threading.Lock()
        self._limits = limits
        self._sweep = sweep
        self._lanes: dict[tuple[int, int], _Lane[T]] = {}  # none is empty
        # Heaps. The number in the middle keeps lanes from being compared.
        self._ready: list[tuple[int, int, _Lane[T]]] = []  # by the age of the first op; may be empty or swept by now
        self._timers: list[tuple[int, int, _Lane[T]]] = []  # those that are not their lane's timer any more are void
        self._numbers = itertools.count()

    @property
    def ready(self) -> bool:
        """take() is worth a try."""
        return bool(self._ready)

    @property
    def empty(self) -> bool:
        return not self._lanes

    def add(self, ops: Iterable[T]) -> None:
        lanes = self._lanes
        for op in ops:
            key = (op.id, op.batch_key)
            lane = lanes.get(key)
            if lane is None:
                lane = lanes[key] = _Lane(key, self._limits(op))
            lane.ops.append(op)
            lane.rows += op.rows
            if not lane.ready:
                self._settle(lane, op.arrival)

    def take(self, now: int) -> list[T]:
        """The ops of the next batch; none if no lane is ready."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            moment, _, lane = heapq.heappop(timers)
            if moment == lane.timer:
                self._make_ready(lane)
        while self._ready:
            lane = heapq.heappop(self._ready)[2]
            lane.ready = False
            if lane.ops and (not lane.limits.minbatchsize or self._is_enough(lane, now)):
                return self._cut(lane)
        return []

    def deadline(self) -> int:
        """When the next lane will be ready if no op comes before; 0: never."""
        timers = self._timers
        while timers and timers[0][0] != timers[0][2].timer:
            heapq.heappop(timers)
        return timers[0][0] if timers else 0

    def sweep(self) -> None:
        """Sweeps all lanes, and judges them anew."""
        for lane in list(self._lanes.values()):
            lane.ops = deque(self._sweep(list(lane.ops)))
            lane.rows = sum(op.rows for op in lane.ops)
            if not lane.ready or not lane.ops:
                self._resettle(lane)

    # ---- lanes ----

    def _settle(self, lane: _Lane[T], since: int) -> None:
        """Whether a lane is ready, or when it will be: since is that of the op that has come."""
        limits = lane.limits
        if lane.rows >= limits.minbatchsize:
            self._make_ready(lane)
        elif limits.minbatchtimeout:
            moment = since + limits.minbatchtimeout
            if not lane.timer or moment < lane.timer:
                self._set_timer(lane, moment)

    def _resettle(self, lane: _Lane[T]) -> None:
        """The same once ops have left."""
        lane.timer = 0
        if not lane.ops:
            del self._lanes[lane.key]
        elif lane.rows >= lane.limits.minbatchsize:
            self._make_ready(lane)
        else:  # so it holds few, and looking at each costs little
            self._settle(lane, min(op.arrival for op in lane.ops))

    def _make_ready(self, lane: _Lane[T]) -> None:
        lane.timer = 0
        lane.ready = True
        heapq.heappush(self._ready, (lane.ops[0].arrival, next(self._numbers), lane))

    def _set_timer(self, lane: _Lane[T], moment: int) -> None:
        lane.timer = moment
        heapq.heappush(self._timers, (moment, next(self._numbers), lane))
        if len(self._timers) > 64 + 2 * len(self._lanes):  # void ones far in the future would pile up
            self._timers = [timer for timer in self._timers if timer[0] == timer[2].timer]
            heapq.heapify(self._timers)

    def _is_enough(self, lane: _Lane[T], now: int) -> bool:
        """Whether a lane that seems ready is, counting only ops that somebody waits for.

        Sweeps from the front, and no more than it takes: a long lane is not gone through for every batch."""
        ops, least = lane.ops, lane.limits.minbatchsize
        wanted: list[T] = []
        rows = 0
        while ops and rows < least:
            head: list[T] = []
            reached = rows
            while ops and reached < least:
                op = ops.popleft()
                reached += op.rows
                head.append(op)
            lane.rows -= reached - rows
            head = self._sweep(head)
            found = sum(op.rows for op in head)
            lane.rows += found
            rows += found
            wanted += head
        ops.extendleft(reversed(wanted))
        if rows >= least:
            return True
        timeout = lane.limits.minbatchtimeout
        if wanted and timeout and min(op.arrival for op in wanted) + timeout <= now:
            return True
        self._resettle(lane)
        return False

    def _cut(self, lane: _Lane[T]) -> list[T]:
        ops, most = lane.ops, lane.limits.batchsize
        op = ops.popleft()
        batch = [op]
        rows = op.rows
        while ops:
            op = ops[0]
            more = rows + op.rows
            if more > most:
                break
            rows = more
            batch.append(ops.popleft())
        lane.rows -= rows
        self._resettle(lane)
        return batch
