"""What the code of flows finds: its globals, the modules redisgears and redisAI, and where print() goes."""

from __future__ import annotations

import asyncio
import binascii
import builtins
import io
import itertools
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from contextvars import copy_context
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

from flows import builder
from flows.connections import CommandError, decode, encode
from flows.executions import Runtime
from flows.server import ACTOR, HOOKED, Control, Server

LINE_BYTES = 1_000
LINES_A_SECOND = 200
LEVELS = ("debug", "verbose", "notice", "warning")
_ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


# ---- the log ---------------------------------------------------------------------------------------------------------


class Log:
    """Lines for the server's log. A thread of its own sends them: who writes one may hold up the server just then."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._lines: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._lock = threading.Lock()
        self._second = 0
        self._count = 0
        self._dropped = 0
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def write(self, line: str, level: str = "notice") -> None:
        """The process's own lines, too: these are never dropped."""
        self._lines.put((level, line))

    def write_limited(self, line: str, level: str = "notice") -> None:
        now = int(time.monotonic())
        with self._lock:
            if now != self._second:
                self._second, self._count = now, 0
            self._count += 1
            if self._count > LINES_A_SECOND:
                self._dropped += 1
                return
        self._lines.put((level, line))

    def _work(self) -> None:
        while True:
            try:
                try:
                    level, line = self._lines.get(timeout=1.0 if self._dropped else None)
                    self._control.say("RG._PROCESS", "LOG", level, encode(line)[:LINE_BYTES])
                except Empty:
                    pass
                if self._dropped and int(time.monotonic()) != self._second:
                    with self._lock:
                        dropped, self._dropped = self._dropped, 0
                    text = f"{dropped} lines of output were dropped: {LINES_A_SECOND} a second are kept"
                    self._control.say("RG._PROCESS", "LOG", "warning", text)
            except BaseException:
                time.sleep(0.1)


class Output(io.TextIOBase):
    """sys.stdout and sys.stderr: whole lines go to the log."""

    encoding = "utf-8"

    def __init__(self, log: Log, level: str) -> None:
        self._log = log
        self._level = level
        self._parts = threading.local()  # of each thread: lines of flows must not mix

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        start = getattr(self._parts, "line", "") + text[: 1 << 20]
        *lines, rest = start.split("\n", LINES_A_SECOND + 1)
        for line in lines:
            self._log.write_limited(line[:LINE_BYTES], self._level)
        if "\n" in rest:  # more than a second's lines at once
            self._log.write_limited(rest[: rest.index("\n")][:LINE_BYTES], self._level)
            rest = rest[rest.rindex("\n") + 1 :]
        if len(rest) > LINE_BYTES:
            self._log.write_limited(rest[:LINE_BYTES], self._level)
            rest = ""
        self._parts.line = rest
        return len(text)


# ---- futures ---------------------------------------------------------------------------------------------------------


class GearsFuture:
    """An awaitable that any thread may complete."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: tuple[bool, Any] | None = None
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def continueRun(self, value: Any = None) -> None:
        self._finish(True, value)

    def continueFailed(self, error: Any = None) -> None:
        self._finish(False, error)

    def _finish(self, is_good: bool, value: Any) -> None:
        with self._lock:
            if self._done is not None:
                raise RuntimeError("the future is done already")
            self._done = (is_good, value)
            waiters, self._waiters = self._waiters, []
        for loop, waiter in waiters:
            loop.call_soon_threadsafe(_wake, waiter)

    def __await__(self) -> Generator[Any, None, Any]:
        waiter: asyncio.Future[None] | None = None
        with self._lock:
            if self._done is None:
                loop = asyncio.get_running_loop()
                waiter = loop.create_future()
                self._waiters.append((loop, waiter))
        if waiter is not None:
            yield from waiter
        assert self._done
        is_good, value = self._done
        if is_good:
            return value
        raise value if isinstance(value, BaseException) else Exception(value)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


# ---- globals ---------------------------------------------------------------------------------------------------------


def tag_of_slot(slot: int) -> str:
    """The first text of three characters whose slot in a cluster it is."""
    for letters in itertools.product(_ALPHABET, repeat=3):
        if binascii.crc_hqx(bytes(letters), 0) % 16_384 == slot:
            return bytes(letters).decode()
    raise ValueError(f"no text of three characters has the slot {slot}")


def make_globals(server: Server, control: Control, log: Log) -> dict[str, Any]:
    """Of flows' code; the module redisgears has them too."""

    def execute(command: Any, *arguments: Any) -> Any:
        """Runs a command of Redis and returns its reply."""
        return decode(server.call(command, *arguments))

    def callNext(*arguments: Any) -> Any:
        """In a hook: runs the command that was hooked, with these words after its name."""
        words = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], (list, tuple)) else arguments
        hooked = HOOKED.get()
        if hooked is None:
            raise RuntimeError("callNext() is for flows that are registered with hook=")
        return decode(server.call("RG._CALL", hooked, *words))

    def write_log(message: Any, level: str = "notice") -> None:
        if level not in LEVELS:
            raise ValueError(f"log() knows the levels {', '.join(LEVELS)}, not {level!r}")
        for line in str(message).split("\n")[: LINES_A_SECOND + 1]:
            log.write_limited(line[:LINE_BYTES], level)

    def hashtag() -> str:
        """In a cluster, keys with this tag are on this shard."""
        slot = 0
        try:
            shards = control.say("CLUSTER", "SLOTS")
            mine = control.say("CLUSTER", "MYID")
            slot = min(first for first, _, master, *_ in shards if master[2] == mine)
        except (CommandError, ValueError):
            pass
        return tag_of_slot(slot)

    def config_get(key: str, default: Any = None) -> Any:
        """A setting of the server, if this flow's user may read it."""
        try:
            reply = decode(server.call("CONFIG", "GET", key))
        except CommandError:
            return default
        return reply[1] if reply else default

    def atomic() -> AbstractContextManager[None]:
        return server.atomic()

    return {
        **builder.GLOBALS,
        "execute": execute,
        "executeCommand": execute,
        "callNext": callNext,
        "call_next": callNext,
        "log": write_log,
        "hashtag": hashtag,
        "hashtag3": hashtag,
        "atomic": atomic,
        "gearsConfigGet": config_get,
        "configGet": config_get,
        "gearsFuture": GearsFuture,
        "createFuture": GearsFuture,
    }


def install(runtime: Runtime, control: Control, log: Log) -> Callable[[], dict[str, Any]]:
    """Puts the modules in place, and print() and threads right. Returns what makes the globals of a flow."""
    known = make_globals(runtime.server, control, log)
    gears = ModuleType("redisgears", "What flows call.")
    vars(gears).update(known)
    sys.modules["redisgears"] = gears
    sys.modules["redisAI"] = _redisai(runtime.server)
    sys.stdout = Output(log, "notice")
    sys.stderr = Output(log, "warning")
    _let_threads_inherit()

    def fresh() -> dict[str, Any]:
        return {"__name__": "__main__", "__builtins__": builtins, "redisgears": gears, **known}

    return fresh


def _redisai(server: Server) -> ModuleType:
    from flows import redisai

    return redisai.make_module(server.call, server.call_async, ACTOR.get)


def _let_threads_inherit() -> None:
    """A thread that a flow starts acts for the flow's user."""
    start = threading.Thread.start

    def inherit(self: threading.Thread) -> None:
        if ACTOR.get() is not None:
            context, run = copy_context(), self.run
            self.run = lambda: context.run(run)  # type: ignore[method-assign]
        start(self)

    threading.Thread.start = inherit  # type: ignore[method-assign]
