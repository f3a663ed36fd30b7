"""The worker loop: takes ops from a device's queue, runs their models and scripts, hands them back.

Each worker is a Python thread of its own, THREADS_PER_QUEUE for each queue. All share the table of sessions, which the
loader alone changes; those of one queue share its batcher. An op with one input and one output that is run by itself
costs 2.5 to 2.8 us here beyond the backend's run().
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from time import monotonic_ns, perf_counter_ns
from typing import TYPE_CHECKING, TypeAlias

from _redisai_bridge import ffi, lib

from .batcher import Batcher, Limits
from .execution import Entry, Executable, Missing, execute_lane
from .planner import plan
from .protocol import one_line
from .tensors import fail

if TYPE_CHECKING:
    from _redisai_bridge import CData, Op, Queue

SHARE = 200_000  # ns of work to take at once, and for which a finished op may wait for others
LONG = 15_000  # ns that an op takes from which on it need not wait so long: to hand one back costs 2 us, but many that
AFTER_LONG = 50_000  # come back at once keep other clients from the event loop
REPORT_EVERY = 100_000_000  # ns
READY = 64  # room for ops that become ready as others are finished; C pushes what is more to its queues
AT_ONCE = 1  # a moment of the past

_MOST: int = lib.TAKE_PLAIN
_is_awaited = lib.bridge_is_awaited
_MISSING = Missing()

_take_ops, _begin_ops, _finish_ops = lib.bridge_take_ops, lib.bridge_begin_ops, lib.bridge_finish_ops

Sessions: TypeAlias = Mapping[int, Executable]


class Team:
    """The workers of one queue, and what they share."""

    def __init__(self, queue: Queue, device: str, size: int, sessions: Sessions, report: Callable[[], None]) -> None:
        self.queue = queue
        self.size = size
        self.sessions = sessions
        self.report = report
        self.batcher: Batcher[Op] = Batcher(self.limits, _sweep)
        self.moment = 0  # what bridge_set_deadline() was told last, until it has come; guarded by batcher.lock
        self._device = device
        self._started = 0

    def start(self) -> None:
        """Threads may be hard to come by: those that could not be started are at the next call."""
        while (index := self._started) < self.size:
            worker = Worker(self, index)
            threading.Thread(target=worker.work, name=f"{self._device}-{index}", daemon=True).start()
            self._started = index + 1

    def call_back(self) -> None:
        """Has a worker come back in time for the next batch; with batcher.lock held.

        A moment told earlier that is not needed any more is left alone: coming in vain is cheap, and rare."""
        batcher = self.batcher
        if not batcher.ready:
            moment = batcher.deadline()
        elif self.size > 1:
            moment = AT_ONCE
        else:
            return  # the only worker knows
        self._wake_at(moment)

    def judge_anew(self) -> None:
        """A model's limits have changed. Any worker of any queue enters."""
        with self.batcher.lock:
            self.batcher.sweep()
            if self.batcher.ready:
                self._wake_at(AT_ONCE)

    def _wake_at(self, moment: int) -> None:
        if moment and (not self.moment or moment < self.moment):
            lib.bridge_set_deadline(self.queue, moment)
            self.moment = moment

    def limits(self, op: Op) -> Limits:
        entry = self.sessions.get(op.id)
        if isinstance(entry, Entry) and entry.batching is not None:
            return entry.batching.limits
        return Limits(1)


def _sweep(ops: list[Op]) -> list[Op]:
    array = ffi.new("Op *[]", ops)
    count = lib.bridge_sweep_ops(array, len(ops))
    return ops if count == len(ops) else _list(array, count)


def _list(array: CData, count: int) -> list[Op]:
    ops: list[Op] = ffi.unpack(array, count) if count else []
    return ops


class Worker:
    def __init__(self, team: Team, index: int) -> None:
        self._team = team
        self._index = index
        self._queue = team.queue
        self._sessions = team.sessions
        self._taken = ffi.new("Taken *")
        self._plain = self._taken.plain
        self._ready = ffi.new("Op *[]", READY)
        self._kept: list[Op] = []  # ready, to be run here next
        self._expected = SHARE  # ns, of an op: the slowest of recent ones
        self._next_report = 0

    def work(self) -> None:
        wait = 1
        while True:
            try:
                wait = self._turn(wait)
            except BaseException as error:
                wait = 0
                text = f"a worker goes on after {type(error).__name__}: {one_line(error)}"
                lib.bridge_log(b"warning", text.encode(errors="replace"))

    def _turn(self, wait: int) -> int:
        """A chunk of ops that run by themselves, and one batch. Returns whether there is nothing more to do here.

        The chunk is about SHARE ns of work: more would keep it from the queue's other workers."""
        most = max(1, min(_MOST, SHARE // self._expected))
        taken = self._taken
        _take_ops(self._queue, self._index, taken, most, wait)
        count = taken.nplain
        may_batch = not wait or taken.nbatched or taken.deadline_passed or taken.sweep
        if may_batch:
            if not count and wait and self._is_alone():
                self._run_chunk(taken.batched, 1)
                return 0 if self._kept else 1
            self._take_in()
        if self._kept:
            ops, self._kept = self._kept[:most], self._kept[most:]
            self._run_chunk(ffi.new("Op *[]", ops), len(ops))
        if count:
            self._run_chunk(self._plain, count)
        more = may_batch and self._run_batch()
        return 0 if more or self._kept else 1

    # ---- ops by themselves ----

    def _run_chunk(self, ops: CData, count: int) -> None:
        """Finished ops wait for the end of the chunk, but no longer than SHARE, nor for a model known to be slow."""
        returned = 0
        count = _begin_ops(ops, count)
        try:
            sessions = self._sessions
            slowest = 1
            begin = oldest = perf_counter_ns()
            done = 0
            while done < count:
                op = ops[done]
                entry = sessions.get(op.id, _MISSING)
                limit = SHARE if entry.duration < LONG else AFTER_LONG
                if done > returned and entry.duration > limit:
                    first, returned = returned, done
                    self._finish(ops + first, done - first)
                ran = 0
                if isinstance(entry, Entry) and entry.direct is not None:
                    ran = entry.run_direct(ops + done, count - done, (oldest if done > returned else begin) + limit)
                if not ran:
                    ran = 1
                    if slowest <= SHARE or _is_awaited(op):  # after that long it may not be wanted any more
                        try:
                            entry.execute(op)
                        except BaseException as error:
                            fail(op, error)
                end = perf_counter_ns()
                slowest = max(slowest, (end - begin) // ran)
                if done == returned:
                    oldest = end if ran == 1 else begin
                done += ran
                if end - oldest > limit:
                    first, returned = returned, done
                    self._finish(ops + first, done - first)
                begin = end
            self._expected = max(slowest, self._expected * 3 // 4)
            if begin > self._next_report:
                self._report(begin)
        except BaseException as error:
            for index in range(returned, count):
                fail(ops[index], error)
        if returned < count:
            self._finish(ops + returned, count - returned)

    def _finish(self, ops: CData, count: int) -> None:
        """Does not raise: what was not handed back would be lost, and what was must not be touched."""
        ready = _finish_ops(ops, count, self._ready, READY)
        if ready:
            self._place(ready)

    def _place(self, count: int) -> None:
        """Ops that have become ready."""
        ready, kept = self._ready, self._kept
        most = count if self._team.size == 1 else 1 - len(kept)
        try:
            here, elsewhere = plan(_list(ready, count), self._queue, most)
            array = ffi.new("Op *[]", elsewhere)
            kept += here
        except MemoryError:
            lib.bridge_push_ops(ready, count)
            return
        if elsewhere:
            lib.bridge_push_ops(array, len(elsewhere))

    def _report(self, now: int) -> None:
        self._next_report = now + REPORT_EVERY
        with contextlib.suppress(BaseException):
            self._team.report()

    # ---- batches ----

    def _is_alone(self) -> bool:
        """Whether all there is to do is one op for a batch that waits for no other: nothing is to be gained then."""
        taken, team = self._taken, self._team
        if taken.nbatched != 1 or taken.deadline_passed or taken.sweep or not team.batcher.empty:
            return False
        return not team.limits(taken.batched[0]).minbatchsize

    def _take_in(self) -> None:
        """Ops for batches go to the batcher before anything is run here: other workers may have time for them."""
        team, taken = self._team, self._taken
        batcher = team.batcher
        with batcher.lock:
            if taken.nbatched:
                batcher.add(_list(taken.batched, taken.nbatched))
            if taken.sweep:
                batcher.sweep()
            if taken.deadline_passed:
                team.moment = 0
            if team.size > 1:
                team.call_back()

    def _run_batch(self) -> bool:
        """Returns whether there may be another."""
        team = self._team
        batcher = team.batcher
        with batcher.lock:
            ops = batcher.take(monotonic_ns())
            more = batcher.ready
            team.call_back()
        if ops:
            array = ffi.new("Op *[]", ops)
            count = _begin_ops(array, len(ops))
            if count < len(ops):
                ops = _list(array, count)
            if ops:
                execute_lane(array, ops, self._sessions.get(ops[0].id, _MISSING), self._finish_batch)
        return more

    def _finish_batch(self, ops: CData, count: int) -> None:
        now = perf_counter_ns()
        if now > self._next_report:
            self._report(now)
        self._finish(ops, count)
