"""The threads that flows run in: a pool for plain functions, one thread with a loop for async ones.

Each registration has a lane: so many threads of the pool it may have at once. A flow that never ends keeps its own lane
busy, not those of others. Locks, both leaves: that of the pool, and those of connections (connections.py).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any

from flows.connections import Connection
from flows.replies import complain
from flows.server import Server

MAX_THREADS = 256
MAX_NESTED = 200
KEPT_THREADS = 16
IDLE_SECONDS = 30.0  # then threads beyond these end
LANE_THREADS = 16
LOOP_SECONDS = 3.0


def raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raises in that thread at its next instruction; None takes back what has not been raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error) if error else None)


class Lane:
    """Jobs of one owner: at most so many at once, begun in their order."""

    __slots__ = ("jobs", "limit", "running", "turns")

    def __init__(self, limit: int = LANE_THREADS) -> None:
        self.limit = limit
        self.running = 0
        self.turns = 0  # that wait for a thread; each is for one job
        self.jobs: deque[Callable[[], None]] = deque()


class Pool:
    """Threads that run the jobs of lanes by turns. They are started as they are needed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._ready: SimpleQueue[Lane] = SimpleQueue()
        self._threads = 0
        self._pending = 0  # lanes' turns that run or wait for a thread
        self._nested = 0  # threads that wait for other flows
        self._here = threading.local()
        server.nested = self.nested

    def submit(self, lane: Lane, job: Callable[[], None]) -> None:
        with self._lock:
            lane.jobs.append(job)
            if lane.running >= lane.limit:
                return
            self._add_turn(lane)
        self._ready.put(lane)

    def _add_turn(self, lane: Lane) -> None:
        lane.running += 1
        lane.turns += 1
        self._pending += 1
        self._grow()

    def _grow(self) -> None:
        if self._pending <= self._threads or self._threads >= MAX_THREADS + self._nested:
            return
        try:
            threading.Thread(target=self._work, name="flow", daemon=True).start()
            self._threads += 1
        except (RuntimeError, MemoryError):
            if not self._threads:
                raise

    @contextmanager
    def nested(self) -> Iterator[None]:
        """A thread that waits for another flow must not keep that one from running."""
        with self._lock:
            if self._nested >= MAX_NESTED:
                raise RuntimeError(f"{MAX_NESTED} flows wait for other flows: does one trigger itself?")
            self._nested += 1
            lane: Lane | None = getattr(self._here, "lane", None)
            goes_on = False
            if lane is not None:
                lane.limit += 1
                if goes_on := len(lane.jobs) > lane.turns and lane.running < lane.limit:
                    self._add_turn(lane)
        if lane is not None and goes_on:
            self._ready.put(lane)
        try:
            yield
        finally:
            with self._lock:
                self._nested -= 1
                if lane is not None:
                    lane.limit -= 1

    def _work(self) -> None:
        while True:
            try:
                self._turn(self._ready.get(timeout=IDLE_SECONDS))
            except Empty:
                with self._lock:
                    if self._threads > KEPT_THREADS and self._threads > self._pending:
                        self._threads -= 1
                        break
            except BaseException:  # an abort that came late
                continue
        self._server.drop()

    def _turn(self, lane: Lane) -> None:
        self._here.lane = lane
        self._server.mine.turn += 1
        try:
            try:
                with self._lock:
                    lane.turns -= 1
                    job = lane.jobs.popleft()
                job()
            except BaseException as error:
                complain("a flow's thread", error)
        finally:
            with self._lock:
                again = len(lane.jobs) > lane.turns and lane.running <= lane.limit
                if again:
                    lane.turns += 1
                else:
                    lane.running -= 1
                    self._pending -= 1
            if again:
                self._ready.put(lane)


class _Executor(ThreadPoolExecutor):
    """Its threads serve all flows: each call is for whom the caller acts for."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        return super().submit(copy_context().run, function, *arguments, **named)


class HeldUp(BaseException):
    def __str__(self) -> str:
        return f"an async function ran for {LOOP_SECONDS:g} s without an await, so no other could run: use a plain one"


class Loop:
    """The thread of async functions. One that computes for long holds up all others, so it is stopped."""

    def __init__(self, server: Server) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(_Executor(16))
        self.loop.set_exception_handler(lambda loop, context: None)  # tasks that flows forgot
        self._server = server
        self._busy: list[Connection] = []
        self.thread = threading.Thread(target=self._work, name="loop", daemon=True)
        self.thread.start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _watch(self) -> None:
        while True:
            passed = threading.Event()
            self.loop.call_soon_threadsafe(passed.set)
            while not passed.wait(LOOP_SECONDS):
                raise_in(self.thread.ident or 0, HeldUp)
                for connection in list(self._busy):  # it may wait for a reply, such as that of BLPOP
                    connection.cut()
            time.sleep(LOOP_SECONDS / 10)

    def _work(self) -> None:
        self._server.mine.is_loop = True
        self._busy = self._server.mine.busy
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
            except OSError:
                os._exit(1)  # a flow has closed what it waits on
            except BaseException as error:  # SystemExit of a user's task, an abort
                complain("a task", error)
            if self.loop.is_closed():
                os._exit(1)  # a flow has closed it

    def post(self, function: Callable[..., Any], *arguments: Any) -> None:
        """In a copy of this thread's context: the flow acts for the same user there."""
        self.loop.call_soon_threadsafe(function, *arguments, context=copy_context())

    def wait(self, awaitable: Any) -> Any:
        if self._server.mine.is_loop:
            raise RuntimeError("an async function is awaited, not called, where a loop runs")
        done: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

        async def settle() -> None:
            done.put(await guarded(awaitable))

        self.post(lambda: self.loop.create_task(settle()))
        while True:
            try:
                is_good, value = done.get(timeout=0.2)  # an abort does not end a wait
                break
            except Empty:
                continue
        if not is_good:
            raise value
        return value


async def guarded(awaitable: Any) -> tuple[bool, Any]:
    """Its value, or its error of whatever kind: nothing that users raise may reach the loop."""
    try:
        return True, await awaitable
    except BaseException as error:
        return False, error
