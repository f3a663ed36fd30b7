"""Executions: records go through steps. Plain functions run in threads of the pool, async ones on the loop thread.

An execution is in one place at a time: it waits for a thread, is in one, or is awaited by the loop. So a thread is
free while async functions wait.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from flows.connections import Connection, leave_child
from flows.replies import complain, describe, tokens
from flows.server import ACTOR, HOOKED, Actor, Server
from flows.steps import Aborted, Each, Step, can_be_awaited
from flows.threads import Lane, Loop, Pool, guarded, raise_in

AWAITED_AT_ONCE = 1_000
KEPT = 1_000
KEPT_BYTES = 64 << 20
KEPT_ERRORS = 100  # of one execution
ABORT_SECONDS = 5.0

_NUMBERS = frozenset({int, float, bool, type(None)})


def _is_small(value: Any) -> bool:
    """Whether it is made a text or a reply at once, by no function of users."""
    if type(value) in (list, tuple):
        return len(value) < 100 and all(type(each) in _NUMBERS for each in value)
    return type(value) in _NUMBERS or (type(value) in (str, bytes) and len(value) < 10_000)


async def _at_once(value: Any) -> tuple[bool, Any]:
    return True, value


class Runtime:
    """What executions need of the process."""

    def __init__(self, server: Server, node_id: str, log: Callable[[str, str], None]) -> None:
        self.server = server
        self.pool = Pool(server)
        self.loop = Loop(server)
        self.log = log
        self.executions = Executions()
        self.readers: list[Any] = []  # of streams, of all live registrations
        self.absent: list[Any] = []  # groups of streams of flows whose code has not run again, or has failed
        self._node_id = node_id
        self._last = time.time_ns() // 1_000_000
        self._lock = threading.Lock()

    def next_id(self) -> str:
        """Not one that an earlier process has given."""
        with self._lock:
            self._last += 1
            return f"{self._node_id}-{self._last}"


class Owner(Protocol):
    """Whose executions these are: a registration, or the code that runs them."""

    actor: Actor
    hook: bytes | None
    lane: Lane
    steps: Sequence[Step]


class Execution:
    """One run of a flow's steps. on_end is called once, in any thread."""

    __slots__ = (
        "_end_lock",
        "_ended",
        "_interrupted",
        "_thread",
        "duration",
        "errors",
        "id",
        "is_registered",
        "on_end",
        "owner",
        "results",
        "runtime",
        "size",
        "started",
        "state",
        "task",
    )

    def __init__(
        self, runtime: Runtime, owner: Owner, on_end: Callable[[Execution], None] | None, is_registered: bool = True
    ) -> None:
        self.runtime = runtime
        self.owner = owner
        self.on_end = on_end
        self.is_registered = is_registered
        self.id = runtime.next_id()
        self.state = "created"
        self.results: list[list[bytes]] = []  # each as tokens
        self.errors: list[str] = []
        self.size = 0
        self.started = time.monotonic()
        self.duration = 0.0
        self.task: asyncio.Task[None] | None = None
        self._thread: tuple[int, list[Connection]] | None = None
        self._end_lock = threading.Lock()
        self._ended = False
        self._interrupted = False

    # ---- what steps call

    def fail(self, error: BaseException) -> None:
        if self._ended:
            return
        if len(self.errors) < KEPT_ERRORS:
            self.errors.append(describe(error))

    def wait(self, awaitable: Any) -> Any:
        return self.runtime.loop.wait(awaitable)

    # ---- the way through the steps

    def start(self, records: Iterable[Any]) -> None:
        """In this thread, which is one of the pool."""
        self.runtime.executions.add(self)
        self.advance(records, 0)

    def submit(self, records: Iterable[Any]) -> None:
        self.runtime.executions.add(self)
        self.runtime.pool.submit(self.owner.lane, lambda: self.advance(records, 0))

    def advance(self, records: Iterable[Any], index: int) -> None:
        """Runs steps from this one on, in this thread of the pool, to the end or to the next async function."""
        try:
            with self.here():
                ACTOR.set(self.owner.actor)
                HOOKED.set(self.owner.hook)
                self._advance(records, index)
        except Aborted:
            self.end("aborted")
        except BaseException as error:
            self.fail(error)
            self.end("done")

    @contextmanager
    def here(self) -> Iterator[None]:
        """The execution is in this thread: an abort is raised here."""
        with self._end_lock:
            if self._ended or self._interrupted:
                raise Aborted
            self.state = "running"
            self._thread = (threading.get_ident(), self.runtime.server.mine.busy)
        try:
            yield
        finally:
            with self._end_lock:
                self._thread = None
                if self._interrupted:
                    raise_in(threading.get_ident(), None)

    def _advance(self, records: Iterable[Any], index: int) -> None:
        steps = self.owner.steps
        for position in range(index, len(steps)):
            step = steps[position]
            if not step.is_async or not isinstance(step, Each):
                records = step.apply(records, self)
                continue
            taken, values = step.start(records, self)
            if any(map(can_be_awaited, values)):
                if self.runtime.server.mine.is_loop:
                    self._begin(step, taken, values, position + 1)
                else:
                    self.runtime.loop.post(self._begin, step, taken, values, position + 1)
                return
            records = step.join(taken, [(True, value) for value in values], self)
        self._keep(records)
        self.end("aborted" if self._interrupted else "done")

    def _keep(self, records: Iterable[Any]) -> None:
        for record in records:
            try:
                made = tokens(record)
            except Aborted:
                raise
            except BaseException as error:
                self.fail(error)
                continue
            self.results.append(made)
            self.size += sum(map(len, made))

    def _begin(self, step: Each, taken: list[Any], values: list[Any], index: int) -> None:
        if self._ended or self._interrupted:
            for value in values:
                getattr(value, "close", bool)()
            self.end("aborted")
            return
        self.runtime.server.mine.turn += 1
        self.task = self.runtime.loop.loop.create_task(self._await(step, taken, values, index))

    async def _await(self, step: Each, taken: list[Any], values: list[Any], index: int) -> None:
        try:
            await self._await_all(step, taken, values, index)
        except BaseException as error:
            self.fail(error)
            self.end("done")

    async def _await_all(self, step: Each, taken: list[Any], values: list[Any], index: int) -> None:
        outcomes: list[tuple[bool, Any]] = []
        if len(values) == 1:
            outcomes.append(await guarded(values[0]))
        else:
            for begin in range(0, len(values), AWAITED_AT_ONCE):
                some = values[begin : begin + AWAITED_AT_ONCE]
                outcomes += await asyncio.gather(
                    *[guarded(value) if can_be_awaited(value) else _at_once(value) for value in some]
                )
        if self._ended:
            return
        self.task = None
        rest = self.owner.steps[index:]
        if len(taken) == 1 and (not rest or (len(rest) == 1 and rest[0].is_plain)) and _is_small(outcomes[0][1]):
            self.advance(step.join(taken, outcomes, self), index)  # not worth a change of thread
            return
        self.runtime.pool.submit(self.owner.lane, lambda: self.advance(step.join(taken, outcomes, self), index))

    # ---- the end

    def end(self, state: str) -> None:
        leave_child()
        with self._end_lock:
            if self._ended:
                return
            self._ended = True
            if self._interrupted:
                # What has been raised in this thread, but not yet arrived, would disturb what follows.
                raise_in(threading.get_ident(), None)
            self.state = state
            self.duration = time.monotonic() - self.started
        if state == "aborted":
            self.errors.append("the execution was aborted")
        self.runtime.executions.note_end(self)
        if self.on_end is not None:
            try:
                self.on_end(self)
            except BaseException as error:
                complain("the end of an execution", error)

    @property
    def has_ended(self) -> bool:
        return self._ended

    def abort(self) -> bool:
        """False where it has ended already. What does not end in time ends the process, which is started anew."""
        with self._end_lock:
            if self._ended:
                return False
            self._interrupted = True
            self.state = "aborting"
            if self._thread is not None:
                thread, busy = self._thread
                raise_in(thread, Aborted)
                for connection in list(busy):
                    connection.cut()
                self._watch(lambda: self._ended or self._thread is None, self._raise_again)
                return True
        self.end("aborted")
        if (task := self.task) is not None:
            answered = threading.Event()

            def cancel() -> None:
                answered.set()
                task.cancel()

            self.runtime.loop.loop.call_soon_threadsafe(cancel)
            loop = self.runtime.loop.thread.ident or 0
            self._watch(answered.is_set, lambda: raise_in(loop, Aborted))
        return True

    def _raise_again(self) -> None:
        with self._end_lock:
            if not self._ended and self._thread is not None:
                raise_in(self._thread[0], Aborted)

    def _watch(self, has_stopped: Callable[[], bool], insist: Callable[[], None]) -> None:
        """Waits, in a thread of its own, until it has stopped. It may have caught what was raised."""

        def watch() -> None:
            begin = last = time.monotonic()
            while not has_stopped():
                if time.monotonic() - begin > ABORT_SECONDS:
                    self.runtime.log(
                        f"the execution {self.id} does not end {ABORT_SECONDS:g} s after its abort: "
                        "the flow process ends and is started anew",
                        "warning",
                    )
                    time.sleep(0.1)
                    os._exit(1)
                if time.monotonic() - last > 0.5:
                    last = time.monotonic()
                    insist()
                time.sleep(0.02)

        threading.Thread(target=watch, daemon=True).start()


class Executions:
    """Those that run, and the last 1,000 that have ended, as long as their results are small."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: OrderedDict[str, Execution] = OrderedDict()
        self._ended: OrderedDict[str, Execution] = OrderedDict()
        self._bytes = 0
        self._waiters: dict[str, list[Callable[[Execution], None]]] = {}

    def add(self, execution: Execution) -> None:
        with self._lock:
            self._running[execution.id] = execution

    def note_end(self, execution: Execution) -> None:
        with self._lock:
            self._running.pop(execution.id, None)
            self._ended[execution.id] = execution
            self._bytes += execution.size
            while len(self._ended) > KEPT or (self._bytes > KEPT_BYTES and len(self._ended) > 1):
                _, oldest = self._ended.popitem(last=False)
                self._bytes -= oldest.size
            waiters = self._waiters.pop(execution.id, ()) if self._waiters else ()
        for told in waiters:
            told(execution)

    def get(self, name: str) -> Execution | None:
        with self._lock:
            return self._running.get(name) or self._ended.get(name)

    def when_ended(self, name: str, told: Callable[[Execution], None]) -> bool:
        """False where there is none of that name."""
        with self._lock:
            if name in self._running:
                self._waiters.setdefault(name, []).append(told)
                return True
            execution = self._ended.get(name)
        if execution is None:
            return False
        told(execution)
        return True

    def latest(self) -> list[Execution]:
        """As many as are kept: a slow flow may have far more that wait."""
        with self._lock:
            return [*self._ended.values(), *self._running.values()][-KEPT:]

    def forget(self, execution: Execution) -> None:
        with self._lock:
            self._running.pop(execution.id, None)
            if self._ended.pop(execution.id, None) is not None:
                self._bytes -= execution.size
            waiters = self._waiters.pop(execution.id, ())
        for told in waiters:
            told(execution)
