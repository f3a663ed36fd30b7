"""StreamReader. Each stream of a registration has a driver, which runs its entries in order.

The position in a stream is the last-delivered ID of a consumer group on the stream itself. It is moved after the
entries of one read have run, or every 100 ms. So after a crash, entries run again, but none is left out.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from flows.connections import CommandError, encode
from flows.executions import Execution
from flows.readers import escape, scan, text
from flows.registrations import Registration, Words, matches, watch
from flows.replies import describe
from flows.server import ACTOR, HOOKED, Actor, Server
from flows.steps import Each, is_async
from flows.threads import LANE_THREADS

READ = 200  # entries that are read at once, if a batch is smaller
READ_MOST = 2_000
READ_FIRST = 20  # then as many as READ_BYTES hold: the server copies them in one go
READ_BYTES = 2 << 20
COMMIT_SECONDS = 0.1
TRIM_SECONDS = (0.1, 60.0)  # pauses between attempts to trim: the first, and the longest
DRIVERS = 10_000
# Moves the group, then trims: if the stream is another one by now, nothing is trimmed.
_COMMIT = """
local moved = redis.pcall('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2])
if type(moved) == 'table' and moved.err then return moved end
if ARGV[3] ~= '' then redis.call('XTRIM', KEYS[1], 'MINID', ARGV[3]) end
return 1
"""
_START = b"0-0"


class Group(NamedTuple):
    """A consumer group, in the streams of this prefix."""

    actor: Actor
    prefix: str
    name: str


class _Anew(Exception):
    """The stream was deleted and made anew, or it has no group: it begins at its first entry."""


def _number(name: bytes) -> tuple[int, int]:
    first, _, second = name.partition(b"-")
    return int(first), int(second or 0)


def record(key: str | bytes, entry: Sequence[Any]) -> dict[str, Any]:
    name, fields = entry
    try:
        values = [each.decode() for each in fields]
    except UnicodeDecodeError:
        values = [text(each) for each in fields]
    return {"key": key, "id": name.decode(), "value": dict(zip(values[::2], values[1::2], strict=True))}


def streams(server: Server, prefix: str) -> Iterator[list[bytes]]:
    """The names of those that exist, or the only name."""
    if prefix.endswith("*"):
        return scan(server, escape(prefix[:-1]) + "*", "stream")
    return iter([[encode(prefix)]])


def remove(server: Server, group: Group) -> None:
    """Nobody will use it any more."""
    ACTOR.set(group.actor)
    for keys in streams(server, group.prefix):
        server.exchange([("XGROUP", "DESTROY", key, group.name) for key in keys])


class StreamReader:
    name: str = "StreamReader"
    lane_threads: int = LANE_THREADS
    hook: str | None = None

    def __init__(self, words: Words) -> None:
        self.prefix = words.take("prefix", "*", str)
        self.batch = int(words.number("batch", 1, 1))
        self.duration = words.number("duration", 0, 0) / 1_000
        self.policy = words.choice("onFailedPolicy", "continue", ("continue", "abort", "retry"))
        self.pause = words.number("onFailedRetryInterval", 1, 0)
        self.trims = bool(words.take("trimStream", True))
        self._drivers: dict[bytes, Driver] = {}
        self._lock = threading.Lock()

    def args(self) -> dict[str, Any]:
        return {
            "prefix": self.prefix,
            "batchSize": self.batch,
            "durationMS": int(self.duration * 1_000),
            "onFailedPolicy": self.policy,
            "onFailedRetryInterval": self.pause,
            "trimStream": int(self.trims),
        }

    def watches(self, db: int) -> list[tuple[str | int, ...]]:
        return [watch("stream", db, self.prefix, "")]

    def attach(self, registration: Registration) -> None:
        self.registration = registration

    def begin(self) -> None:
        if self.registration.is_live:  # else it was unregistered at once
            self.find()

    def find(self) -> None:
        """Streams that exist may have entries that wait."""
        self.registration.runtime.pool.submit(self.registration.lane, self._find)

    def _find(self) -> None:
        registration = self.registration
        pause = 1.0
        while registration.is_live:
            ACTOR.set(registration.actor)
            try:
                for keys in streams(registration.runtime.server, self.prefix):
                    for key in keys:
                        self.note(key)
                return
            except Exception as error:
                registration.trouble(error)
                time.sleep(pause)
                pause = min(10.0, pause * 2)

    def note(self, key: bytes) -> None:
        """The stream may have new entries."""
        if not matches(self.prefix, key):
            return
        with self._lock:
            driver = self._drivers.get(key)
            if driver is None:
                if len(self._drivers) >= DRIVERS:
                    self._drivers = {name: each for name, each in self._drivers.items() if each.is_active}
                driver = self._drivers[key] = Driver(self, key)
        driver.wake()

    def others(self, key: bytes) -> list[tuple[int, int] | None]:
        """How far the other registrations have come that run this stream too."""
        db, runtime = self.registration.actor.db, self.registration.runtime
        if any(each.actor.db == db and matches(each.prefix, key) for each in runtime.absent):
            return [None]
        return [
            each.position(key)
            for each in runtime.readers
            if each is not self and each.registration.actor.db == db and matches(each.prefix, key)
        ]

    def position(self, key: bytes) -> tuple[int, int] | None:
        """Up to where its entries have run, if that is known: until then others must not trim the stream."""
        with self._lock:
            driver = self._drivers.get(key)
        return None if driver is None or driver.moved_to is None else _number(driver.moved_to)


class Driver:
    """Runs the entries of one stream. At most one thread at a time is in _run and what it calls."""

    def __init__(self, reader: StreamReader, key: bytes) -> None:
        self._reader = reader
        self._registration = reader.registration
        self._server = reader.registration.runtime.server
        self._key = key
        self._name = text(key)
        self._lock = threading.Lock()
        self.is_active = False  # a job is queued or runs, or an execution or a pause is awaited
        self._again = False  # something came meanwhile
        self._entries: deque[Any] = deque()  # read, not run
        self._at_once = READ_FIRST
        self._read_to: bytes | None = None
        self._done_to = _START
        self.moved_to: bytes | None = None  # the group's position
        self._moved_at = 0.0
        self._waits_since = 0.0
        self._is_timed = False  # it will be woken when its entries have waited long enough
        self._owes_trim = False  # when it moved, it was not known which entries others need
        self._trims_later = False  # it will be woken to do so
        self._trim_pause = 0.0
        self._batch: list[Any] = []  # runs, or is to be run again
        self._ended: Execution | None = None
        self._parked: Execution | None = None
        self._pause = 1.0
        steps = reader.registration.steps
        self._begins_async = bool(steps) and isinstance(steps[0], Each) and is_async(steps[0].function)

    # ---- when to run

    def wake(self) -> None:
        with self._lock:
            self._again = True
            if self.is_active:
                return
            self.is_active = True
        self._submit()

    def _submit(self) -> None:
        self._registration.runtime.pool.submit(self._registration.lane, self._run)

    def _call_later(self, seconds: float, function: Callable[[], None]) -> None:
        loop = self._registration.runtime.loop.loop
        loop.call_soon_threadsafe(loop.call_later, seconds, function)

    def _later(self, seconds: float) -> None:
        self._call_later(seconds, self._submit)

    def _run(self) -> None:
        ACTOR.set(self._registration.actor)
        HOOKED.set(None)
        try:
            goes_on = self._chunk()
            self._pause = 1.0
        except _Anew:
            self._forget()
            goes_on = True
        except BaseException as error:
            if isinstance(error, CommandError) and str(error).startswith("WRONGTYPE"):
                self._forget()
                goes_on = False
            else:
                self._registration.trouble(error)
                self._registration.runtime.log(
                    f"the stream {self._name!r} of {self._registration.id} waits {self._pause:g} s: {describe(error)}",
                    "warning",
                )
                self._later(self._pause)
                self._pause = min(10.0, self._pause * 2)
                return
        if goes_on is None:
            return  # whoever ends what is awaited submits the next job
        with self._lock:
            if not self._registration.is_live or not (goes_on or self._again):
                self.is_active = False
                return
        self._submit()

    def _forget(self) -> None:
        self._entries.clear()
        self._batch = []
        self._read_to = self.moved_to = None
        self._owes_trim = False

    # ---- one read, and the batches in it

    def _chunk(self) -> bool | None:
        """True: there is more to do. None: an execution or a pause is awaited."""
        with self._lock:
            ended, self._ended = self._ended, None
        if ended is not None and not self._note_end(ended):
            return None
        if time.monotonic() - self._moved_at > COMMIT_SECONDS:
            self._move()
        if not self._registration.is_live:
            return False
        if self._read_to is None:
            self._again = False
            if not self._find_position():
                return False
        size = self._reader.batch
        if not self._batch and len(self._entries) < size and self._read() == 0 and ended is None:
            self._check_group()
        while self._batch or (batch := self._take()):
            if not self._batch:
                self._batch = batch
            if not self._execute():
                return None
            if not self._registration.is_live:
                break
            if time.monotonic() - self._moved_at > COMMIT_SECONDS:
                self._move()
        self._move()
        if self._entries and self._reader.duration and not self._is_timed:
            self._is_timed = True
            self._call_later(max(0.0, self._waits_since + self._reader.duration - time.monotonic()), self._time_over)
        if self._owes_trim and not self._trims_later:
            self._trims_later = True
            self._trim_pause = min(2 * self._trim_pause or TRIM_SECONDS[0], TRIM_SECONDS[1])
            self._call_later(self._trim_pause, self._trim_again)
        return len(self._entries) >= size

    def _trim_again(self) -> None:
        self._trims_later = False
        self.wake()

    def _time_over(self) -> None:
        self._is_timed = False
        self.wake()

    def _groups(self) -> dict[str, bytes]:
        """The positions of the stream's groups."""
        groups = self._server.call("XINFO", "GROUPS", self._key)
        found = (dict(zip(fields[::2], fields[1::2], strict=True)) for fields in groups)
        return {each[b"name"].decode("utf-8", "replace"): each[b"last-delivered-id"] for each in found}

    def _find_position(self) -> bool:
        """False where the stream is not there."""
        try:
            position = self._groups().get(self._registration.group)
        except CommandError as error:
            if "no such key" not in str(error):
                raise
            self._read_to = None
            return False
        if position is None:
            try:
                self._server.call("XGROUP", "CREATE", self._key, self._registration.group, "0")
            except CommandError as error:
                if "requires the key" in str(error):
                    return False
                raise
            position = _START
        self._read_to = self._done_to = self.moved_to = position
        self._moved_at = time.monotonic()
        return True

    def _check_group(self) -> None:
        """Nothing new after an event: is it still the same stream?"""
        if self._entries or self._read_to == _START:
            return
        before = self._read_to
        if self._find_position() and self._read_to != before:
            self._read()

    def _read(self) -> int:
        size = self._reader.batch
        count = min(self._at_once, min(READ_MOST, max(size, READ // size * size)) - len(self._entries))
        if count <= 0 or self._read_to is None:
            return 0
        self._again = False
        entries = self._server.call("XRANGE", self._key, b"(" + self._read_to, "+", "COUNT", count)
        if entries:
            if not self._entries:
                self._waits_since = time.monotonic()
            self._entries += entries
            self._read_to = entries[-1][0]
            length = sum(len(each) for _, fields in entries for each in fields)
            self._at_once = min(READ_MOST, max(1, READ_BYTES * len(entries) // (length + 1)))
            if len(entries) == count:
                self._again = True
        return len(entries)

    def _take(self) -> list[Any]:
        """A full batch, or what has waited long enough."""
        entries, size = self._entries, self._reader.batch
        if len(entries) < size:
            duration = self._reader.duration
            if not (entries and duration and time.monotonic() >= self._waits_since + duration):
                return []
            size = len(entries)
        self._waits_since = time.monotonic()
        return [entries.popleft() for _ in range(size)]

    # ---- executions

    def _execute(self) -> bool:
        """Runs the batch. False: it is awaited, or is to be run again later."""
        execution = self._registration.execution(self._on_end)
        execution.start([record(self._name, entry) for entry in self._batch])
        with self._lock:
            if self._ended is not execution:
                self._parked = execution
                return False
            self._ended = None
        return self._note_end(execution)

    def _on_end(self, execution: Execution) -> None:
        with self._lock:
            self._ended = execution
            is_parked = self._parked is execution
            self._parked = None
        if is_parked and not self._goes_on(execution):
            self._submit()

    def _goes_on(self, ended: Execution) -> bool:
        """On the loop thread: begins the next batch at once, if that only makes coroutines."""
        if (
            not self._server.mine.is_loop
            or not self._begins_async
            or ended.errors
            or not self._registration.is_live
            or len(self._entries) < self._reader.batch
            or time.monotonic() - self._moved_at > COMMIT_SECONDS
        ):
            return False
        self._ended = None
        self._done_to = self._batch[-1][0]
        self._batch = self._take()
        execution = self._registration.execution(self._on_end)
        self._parked = execution
        execution.start([record(self._name, entry) for entry in self._batch])
        return True

    def _note_end(self, execution: Execution) -> bool:
        """False: not now, or no more."""
        if execution.errors and execution.state != "aborted" and self._registration.is_live:
            if self._reader.policy == "retry":
                self._move()
                self._later(self._reader.pause)
                return False
            if self._reader.policy == "abort":
                self._move()
                self._registration.runtime.log(
                    f"{self._registration.id} runs no more entries of the stream {self._name!r}: "
                    f"{self._batch[0][0].decode()} failed: {execution.errors[0]}",
                    "warning",
                )
                return False
        if self._batch:
            self._done_to = self._batch[-1][0]
        self._batch = []
        return True

    # ---- the position

    def _move(self) -> None:
        """Writes the position to the stream, and trims it as far as no other registration needs its entries."""
        done = self._done_to
        if self.moved_to is None or (done == self.moved_to and not self._owes_trim):
            return
        try:
            until = self._trims_to(done) if self._reader.trims else b""
            self._owes_trim = self._reader.trims and not until
            if self._owes_trim and done == self.moved_to:
                return
            if not self._owes_trim:
                self._trim_pause = 0.0
            self._server.call("EVAL", _COMMIT, 1, self._key, self._registration.group, done, until)
        except CommandError as error:
            text = str(error)
            if "NOGROUP" in text or "requires the key" in text or "no such key" in text:
                raise _Anew from None
            raise
        self.moved_to = done
        self._moved_at = time.monotonic()

    def _trims_to(self, done: bytes) -> bytes:
        """The first entry that stays; empty: it is not known which ones other registrations need."""
        positions = self._reader.others(self._key)
        if None in positions:
            return b""
        first, second = min([_number(done), *(each for each in positions if each)])
        return b"%d-%d" % (first, second + 1)


def run_records(server: Server, argument: Any, words: Words) -> Iterator[Any]:
    """The entries of one stream, or of all that begin so."""
    if not isinstance(argument, str):
        raise TypeError("StreamReader: run() takes the name of a stream, as text")
    position = words.take("fromId", "0-0", str).encode()
    words.finish()
    for key in (key for keys in streams(server, argument) for key in keys):
        start = position
        while entries := server.call("XRANGE", key, start, "+", "COUNT", READ):
            for entry in entries:
                yield record(text(key), entry)
            start = b"(" + entries[-1][0]
