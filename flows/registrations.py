"""Registrations: flows that run on events, with their counts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from flows.connections import encode
from flows.executions import Execution, Runtime
from flows.replies import describe
from flows.server import Actor
from flows.steps import Step
from flows.threads import Lane

if TYPE_CHECKING:
    from flows.sessions import Session

MODES = ("async", "async_local", "sync")


class Words:
    """The words of register() or run(), each taken once; finish() refuses those that nobody took."""

    def __init__(self, reader: str, words: dict[str, Any]) -> None:
        self.reader = reader
        self._words = dict(words)
        self._known: list[str] = []

    def take(self, name: str, default: Any, *kinds: type) -> Any:
        self._known.append(name)
        value = self._words.pop(name, default)
        if value is default or value is None:
            return default
        if kinds and not isinstance(value, kinds):
            raise TypeError(f"{name}= of {self.reader} is of type {kinds[0].__name__}, not {type(value).__name__}")
        return value

    def number(self, name: str, default: float, least: float) -> Any:
        value = self.take(name, default, int, float)
        if isinstance(value, bool) or not least <= value < 1e12:
            raise ValueError(f"{name}= of {self.reader} is a number from {least:g} on, not {value!r}")
        return value

    def choice(self, name: str, default: str, choices: Sequence[str]) -> str:
        value = self.take(name, default, str)
        if value not in choices:
            raise ValueError(f"{name}= of {self.reader} is one of {', '.join(choices)}, not {value!r}")
        return str(value)

    def names(self, name: str) -> list[str] | None:
        """A list of texts, in lower case."""
        value = self.take(name, None)
        if value is None:
            return None
        if isinstance(value, str) or not all(isinstance(each, str) for each in value):
            raise TypeError(f"{name}= of {self.reader} is a list of texts")
        return [each.lower() for each in value]

    def function(self, name: str) -> Callable[..., Any] | None:
        value = self.take(name, None)
        if value is not None and not callable(value):
            raise TypeError(f"{name}= of {self.reader} is a function, not {type(value).__name__}")
        return value  # type: ignore[no-any-return]

    def finish(self) -> None:
        if self._words:
            known = ", ".join(self._known)
            raise TypeError(f"{self.reader} does not know the word {next(iter(self._words))!r}: it takes {known}")


class Reader(Protocol):
    """Which events a registration is for."""

    name: str
    lane_threads: int
    hook: str | None

    def args(self) -> dict[str, Any]:
        """For RG.DUMPREGISTRATIONS."""

    def watches(self, db: int) -> list[tuple[str | int, ...]]:
        """Rows of RG._PROCESS WATCH."""

    def attach(self, registration: Registration) -> None: ...

    def begin(self) -> None:
        """It is registered: events come."""


class Registration:
    def __init__(
        self,
        runtime: Runtime,
        session: Session,
        index: int,
        name: str,
        reader: Reader,
        steps: Sequence[Step],
        words: Words,
        description: str | None,
    ) -> None:
        self.runtime = runtime
        self.session = session
        self.index = index
        self.id = name
        self.group = name  # of streams; that of the registration it takes the place of, if it does
        self.reader = reader
        self.steps: Sequence[Step] = list(steps)
        self.description = description
        self.actor: Actor = session.actor
        self.hook = encode(reader.hook) if reader.hook else None
        self.lane = Lane(reader.lane_threads)
        self.mode = words.choice("mode", "async", MODES)
        self.on_registered = words.function("onRegistered")
        self.on_unregistered = words.function("onUnregistered")
        words.finish()
        self.is_live = False
        self._lock = threading.Lock()
        self.triggered = self.successes = self.failures = self.aborted = 0
        self.last_duration = self.total_duration = 0.0  # seconds, of executions that have ended
        self.last_error: str | None = None
        reader.attach(self)

    def execution(self, on_end: Callable[[Execution], None] | None) -> Execution:
        def ended(execution: Execution) -> None:
            self.note(execution)
            if on_end is not None:
                on_end(execution)

        with self._lock:
            self.triggered += 1
        return Execution(self.runtime, self, ended)

    def submit(self, records: Iterable[Any], on_end: Callable[[Execution], None] | None = None) -> None:
        self.execution(on_end).submit(records)

    def note(self, execution: Execution) -> None:
        with self._lock:
            self.last_duration = execution.duration
            self.total_duration += execution.duration
            if execution.state == "aborted":
                self.aborted += 1
            elif execution.errors:
                self.failures += 1
            else:
                self.successes += 1
            if execution.errors:
                self.last_error = execution.errors[0]

    @property
    def mean_duration(self) -> float:
        ended = self.successes + self.failures + self.aborted
        return self.total_duration / ended if ended else 0.0

    def trouble(self, error: BaseException | str) -> None:
        """What keeps it from running."""
        self.last_error = error if isinstance(error, str) else describe(error)


def matches(pattern: str, key: bytes) -> bool:
    """A name that ends in * is a prefix, any other name is exact."""
    name = encode(pattern)
    return key.startswith(name[:-1]) if name.endswith(b"*") else key == name


def watch(kind: str, db: int, pattern: str, events: str) -> tuple[str | int, ...]:
    if pattern.endswith("*"):
        return (kind, db, pattern[:-1], "prefix", events)
    return (kind, db, pattern, "exact", events)
