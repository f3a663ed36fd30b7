"""The worker loop: takes ops from a device's queue, runs their models and scripts, returns them to C.

Each worker is a Python thread; each queue has THREADS_PER_QUEUE of them. All read the loader's table of entries, the
compiled models and scripts. The workers of one queue share its batcher. What C can run alone is run in bridge_work(),
which returns once there is something for Python. For an op with one input and one output that runs alone here, the
engine adds 2.5 to 2.8 us to the backend's run().
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from time import monotonic_ns, perf_counter_ns
from typing import TYPE_CHECKING, TypeAlias

from _redisai_bridge import ffi, lib

from .batcher import Batcher, Limits
from .execution import Batching, Entry, MissingEntry, ModelEntry, execute_batch
from .planner import plan
from .protocol import one_line
from .tensors import fail
from .tuner import Batch

if TYPE_CHECKING:
    from _redisai_bridge import CData, Op, Queue

# A return to C costs 2 us, so a worker returns several ops at once. It keeps no finished op longer than CHUNK_NS, the
# work that it takes at once. Ops slower than SLOW_OP_NS are returned after SLOW_RETURN_NS, so that replies do not
# arrive in bursts, which keep other clients from the event loop.
CHUNK_NS: int = lib.CHUNK_NS
SLOW_OP_NS = 15_000
SLOW_RETURN_NS = 50_000
REPORT_INTERVAL_NS = 100_000_000
PAST_NS = 1  # a deadline that has passed already
READY_OPS: int = lib.READY_OPS  # at most so many become ready at once; C pushes further ones to their queues

_is_awaited, _note_op = lib.bridge_is_awaited, lib.bridge_note_op
_work, _begin_ops, _finish_ops = lib.bridge_work, lib.bridge_begin_ops, lib.bridge_finish_ops
_MISSING = MissingEntry()

Entries: TypeAlias = Mapping[int, Entry]


class WorkerPool:
    """The workers of one queue, and what they share."""

    def __init__(self, queue: Queue, device: str, size: int, entries: Entries, report: Callable[[], None]) -> None:
        self.queue = queue
        self.size = size
        self.entries = entries
        self.report = report
        self.batcher: Batcher[Op] = Batcher(self.limits, _sweep)
        self.deadline = 0  # the one that C holds for the queue; 0: none; guarded by batcher.lock
        self.ready = 0  # the priorities of batches that are ready or held, as C knows them; guarded by batcher.lock
        self.drops = 0  # models and scripts that the loader has dropped; only the loader writes it
        self._device = device
        self._started = 0

    def start(self) -> None:
        """Starts the threads that do not run yet. The system may refuse some: the next call tries again."""
        while (index := self._started) < self.size:
            worker = Worker(self, index)
            threading.Thread(target=worker.work, name=f"{self._device}-{index}", daemon=True).start()
            self._started = index + 1

    def schedule_next_batch(self) -> None:
        """Makes a worker wake in time for the next batch. The caller holds batcher.lock.

        An earlier deadline that is no longer needed stays: waking in vain is cheap and rare."""
        batcher = self.batcher
        ready = batcher.ready
        known = ready | batcher.held  # so that no op of a lower priority has the turn while others are held
        if known != self.ready:
            self.ready = known
            lib.bridge_set_batches(self.queue, known)
        if not ready:
            self._wake_at(batcher.deadline())
        elif self.size > 1:  # the only worker of a queue needs no waking: it is the caller
            self._wake_at(PAST_NS)

    def change_limits(self, change: Callable[[], None]) -> None:
        """Changes a model's limits. Workers of any queue enter."""
        with self.batcher.lock:
            change()
            self.batcher.sweep()
            self._wake_at(PAST_NS if self.batcher.ready else self.batcher.deadline())

    def _wake_at(self, deadline: int) -> None:
        if deadline and (not self.deadline or deadline < self.deadline):
            lib.bridge_set_deadline(self.queue, deadline)
            self.deadline = deadline

    def limits(self, op: Op) -> Limits:
        entry = self.entries.get(op.id)
        if isinstance(entry, ModelEntry) and entry.batching is not None:
            return entry.batching.limits
        return Limits(1)


def _sweep(ops: list[Op]) -> list[Op]:
    c_ops = ffi.new("Op *[]", ops)
    count = lib.bridge_sweep_ops(c_ops, len(ops))
    return ops if count == len(ops) else _list(c_ops, count)


def _list(c_ops: CData, count: int) -> list[Op]:
    ops: list[Op] = ffi.unpack(c_ops, count) if count else []
    return ops


class Worker:
    def __init__(self, pool: WorkerPool, index: int) -> None:
        self._pool = pool
        self._index = index
        self._queue = pool.queue
        self._entries = pool.entries
        self._taken = ffi.new("Taken *")
        self._taken.op_ns = CHUNK_NS
        self._ready = self._taken.ready
        self._one = ffi.new("Op *[1]")
        self._kept: list[Op] = []  # ready ops that this worker runs next
        self._kept_bits = 0  # their priorities, as C knows them
        self._next_report = 0
        self._drops = 0  # of the pool, when this worker last looked
        self._finished = 0  # when the latest batch had run; ns
        self._ended: tuple[Batching, tuple[int, int]] | None = None  # the latest batch, if a tuner is to plan the next

    def work(self) -> None:
        wait = 1
        while True:
            try:
                wait = self._iterate(wait)
            except BaseException as error:
                wait = 0
                text = f"a worker continues after {type(error).__name__}: {one_line(error)}"
                lib.bridge_log(b"warning", text.encode(errors="replace"))

    def _iterate(self, wait: int) -> int:
        """Runs a chunk of plain ops and one batch. Returns 1 if nothing is left here: the next iteration then waits."""
        if self._drops != self._pool.drops:
            # A client may delete a model as soon as it has its answer. Until now this worker held the model, so the
            # loader's figures may have counted it.
            self._drops = self._pool.drops
            self._report(perf_counter_ns())
        taken = self._taken
        _work(self._queue, self._index, taken, wait)
        self._settle()
        count = taken.nplain
        may_batch = not wait or taken.nbatched or taken.deadline_passed or taken.sweep
        if may_batch:
            if self._ended is not None:
                self._plan_next(*self._ended)
            if not count and wait and self._can_skip_batcher():
                self._run_chunk(taken.batched, 1)
                return self._wait_next(0)
            self._fill_batcher()
        if self._kept:
            self._run_kept()
        if count:
            self._run_chunk(taken.plain, count)
        return self._wait_next(may_batch and self._run_batch())

    def _wait_next(self, more: int) -> int:
        bits = 0
        for op in self._kept:
            bits |= 1 << op.priority
        if bits != self._kept_bits:
            self._kept_bits = self._taken.kept = bits
        return 0 if more or bits else 1

    # ---- ops that run alone ----

    def _run_kept(self) -> None:
        """Runs some of the ops that were kept, unless ops of a higher priority have the turn."""
        turn, kept = self._taken.priority, self._kept
        lower = [op for op in kept if op.priority < turn]
        if lower:
            kept = [op for op in kept if op.priority >= turn]
            lib.bridge_push_ops(ffi.new("Op *[]", lower), len(lower))
        most = max(1, CHUNK_NS // max(1, self._taken.op_ns))
        ops, self._kept = kept[:most], kept[most:]
        if ops:
            self._run_chunk(ffi.new("Op *[]", ops), len(ops))

    def _run_chunk(self, ops: CData, count: int) -> None:
        """Runs ops one by one, without Python where that is possible."""
        done = 0
        while done < count:
            ran = 0
            if self._entries.get(ops[done].id, _MISSING).direct is not None:
                ran = lib.bridge_run_ops(self._queue, self._taken, ops + done, count - done)
                self._settle()
            if not ran:
                ran = self._count_for_python(ops + done, count - done)
                self._run_here(ops + done, ran)
            done += ran

    def _count_for_python(self, ops: CData, count: int) -> int:
        """How many of these ops, from the first on, Python has to run. C could not run the first."""
        entries = self._entries
        for index in range(1, count):
            if entries.get(ops[index].id, _MISSING).direct is not None:
                return index
        return count

    def _settle(self) -> None:
        """Deals with what C has left of the ops that it ran: those that became ready, and one that failed."""
        taken = self._taken
        if taken.nready:
            count, taken.nready = taken.nready, 0
            self._place(count)
        op = taken.failed
        if op:
            taken.failed = ffi.NULL
            entry = self._entries.get(op.id, _MISSING)
            try:
                if entry.direct is None or not entry.direct.settle(op, taken.error):
                    entry.execute(op)
            except BaseException as error:
                fail(op, error)
            lib.bridge_free(taken.error)
            self._one[0] = op
            self._finish(self._one, 1)

    def _run_here(self, ops: CData, count: int) -> None:
        """Runs ops in Python, and returns the finished ones together at the end of the chunk. It returns them earlier
        where the oldest has waited longer than the limit, or where the next op's model is known to take longer."""
        returned = 0
        count = _begin_ops(ops, count)
        try:
            entries = self._entries
            slowest = 1
            begin = oldest = perf_counter_ns()
            for done in range(count):
                op = ops[done]
                entry = entries.get(op.id, _MISSING)
                limit = CHUNK_NS if entry.duration < SLOW_OP_NS else SLOW_RETURN_NS
                if done > returned and entry.duration > limit:
                    first, returned = returned, done
                    self._finish(ops + first, done - first)
                if slowest <= CHUNK_NS or _is_awaited(op):  # after a slow op the client may have given up
                    if done:
                        _note_op(op)
                    try:
                        entry.execute(op)
                    except BaseException as error:
                        fail(op, error)
                end = perf_counter_ns()
                slowest = max(slowest, end - begin)
                if done == returned:
                    oldest = end
                if end - oldest > limit:
                    first, returned = returned, done + 1
                    self._finish(ops + first, returned - first)
                begin = end
            self._taken.op_ns = max(slowest, self._taken.op_ns * 3 // 4)
            if begin > self._next_report:
                self._report(begin)
        except BaseException as error:
            for index in range(returned, count):
                fail(ops[index], error)
        if returned < count:
            self._finish(ops + returned, count - returned)

    def _finish(self, ops: CData, count: int) -> None:
        """Returns ops to C. Must not raise: callers could neither return the ops again nor drop them."""
        nready = _finish_ops(ops, count, self._ready, READY_OPS)
        if nready:
            self._place(nready)

    def _place(self, count: int) -> None:
        """Keeps ops that have become ready, at most one if the pool has other workers. Pushes the others to their
        queues."""
        ready, kept = self._ready, self._kept
        max_here = count if self._pool.size == 1 else 1 - len(kept)
        try:
            here, elsewhere = plan(_list(ready, count), self._queue, max_here)
            c_ops = ffi.new("Op *[]", elsewhere)
            kept += here
        except MemoryError:
            lib.bridge_push_ops(ready, count)
            return
        if elsewhere:
            lib.bridge_push_ops(c_ops, len(elsewhere))

    def _report(self, now: int) -> None:
        self._next_report = now + REPORT_INTERVAL_NS
        with contextlib.suppress(BaseException):
            self._pool.report()

    # ---- batches ----

    def _can_skip_batcher(self) -> bool:
        """Whether a single op is all there is to do, and it waits for no others."""
        taken, pool = self._taken, self._pool
        if taken.nbatched != 1 or taken.deadline_passed or taken.sweep or not pool.batcher.empty:
            return False
        limits = pool.limits(taken.batched[0])
        return not limits.minbatchsize and not limits.is_tuned

    def _fill_batcher(self) -> None:
        """Adds the ops for batches to the batcher. That comes before any run: another worker may be free for them."""
        pool, taken = self._pool, self._taken
        batcher = pool.batcher
        with batcher.lock:
            if taken.nbatched:
                batcher.add(_list(taken.batched, taken.nbatched))
            if taken.sweep:
                batcher.sweep(taken.full)
            if taken.deadline_passed:
                pool.deadline = 0
            if pool.size > 1:
                pool.schedule_next_batch()

    def _run_batch(self) -> bool:
        """Returns whether there may be another batch."""
        pool = self._pool
        batcher = pool.batcher
        turn = self._taken.priority
        with batcher.lock:
            if self._taken.waiting & ((1 << turn) - 1):
                batcher.end_hold(turn)
            ops = batcher.take(monotonic_ns(), turn)
            more = batcher.ready
            pool.schedule_next_batch()
        if ops:
            c_ops = ffi.new("Op *[]", ops)
            count = _begin_ops(c_ops, len(ops))
            if count < len(ops):
                ops = _list(c_ops, count)
            if ops:
                self._execute_batch(c_ops, ops, self._entries.get(ops[0].id, _MISSING))
        return more != 0

    def _execute_batch(self, c_ops: CData, ops: list[Op], entry: Entry) -> None:
        batching = entry.batching if isinstance(entry, ModelEntry) else None
        tuner = batching.tuner if batching else None
        if batching is None or tuner is None or tuner.leaves_out(len(ops)):
            execute_batch(c_ops, ops, entry, self._finish_batch)
            return
        first, rows = ops[0], sum([op.rows for op in ops])
        highest = max([op.priority for op in ops])
        key = first.id, first.batch_key
        batch = Batch(len(ops), rows, highest, len(ops) == 1 and first.arrival >= self._finished)
        lock = self._pool.batcher.lock
        with lock:
            batching.begin(tuner, first)
        batch.begin = monotonic_ns()
        succeeded = execute_batch(c_ops, ops, entry, self._finish_batch)
        batch.end = self._finished
        with lock:
            batching.ran(tuner, batch, succeeded)
        if succeeded:
            self._ended = batching, key

    def _plan_next(self, batching: Batching, key: tuple[int, int]) -> None:
        """Lets the tuner plan, now that what came during the run is there."""
        self._ended = None
        taken, batcher = self._taken, self._pool.batcher
        with batcher.lock:
            waiting, end = batcher.rows(key), batching.limits.since
            for op in _list(taken.batched, taken.nbatched):
                if op.arrival < end and (op.id, op.batch_key) == key:
                    waiting += op.rows
            batching.plan(waiting)

    def _finish_batch(self, ops: CData, count: int) -> None:
        self._finished = monotonic_ns()  # before clients have their answers: what they send then came after the run
        now = perf_counter_ns()
        if now > self._next_report:
            self._report(now)
        self._finish(ops, count)
