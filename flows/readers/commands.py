"""CommandReader: RG.TRIGGER, and commands that flows hook."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from flows.executions import Execution
from flows.readers import text
from flows.registrations import Registration, Words
from flows.replies import error_token
from flows.threads import LANE_THREADS


class CommandReader:
    name: str = "CommandReader"
    lane_threads: int = LANE_THREADS

    def __init__(self, words: Words) -> None:
        self.trigger = words.take("trigger", None, str)
        self.hook: str | None = words.take("hook", None, str)
        self.prefix = words.take("keyprefix", "", str).removesuffix("*")
        words.take("prefix", None)  # GearsBuilder.register('*', ...) is common
        self.in_order = bool(words.take("inorder", False))
        if (self.trigger is None) == (self.hook is None):
            raise ValueError("CommandReader needs trigger= or hook=, one of them")
        self._lock = threading.Lock()
        self._queue: deque[tuple[list[Any], Callable[[Execution], None]]] = deque()
        self._is_busy = False

    def args(self) -> dict[str, Any]:
        if self.hook is not None:
            return {"hook": self.hook, "keyprefix": self.prefix, "inorder": int(self.in_order)}
        return {"trigger": self.trigger, "inorder": int(self.in_order)}

    def watches(self, db: int) -> list[tuple[str | int, ...]]:
        return []

    def attach(self, registration: Registration) -> None:
        self.registration = registration

    def begin(self) -> None:
        pass

    def run(self, words: list[bytes], answer: Callable[[list[bytes]], None]) -> None:
        """words: the trigger, or the command that was hooked, and its arguments."""
        record = [text(word) for word in words]
        as_one = self.hook is not None

        def ended(execution: Execution) -> None:
            if execution.errors:
                answer([error_token(execution.errors[0])])
            elif as_one and len(execution.results) == 1:
                answer(execution.results[0])
            else:
                answer(array(execution.results))

        if not self.in_order:
            self.registration.submit([record], ended)
            return

        def next_one(execution: Execution) -> None:
            self._go_on()
            ended(execution)

        with self._lock:
            self._queue.append((record, next_one))
            if self._is_busy:
                return
            self._is_busy = True
        self._go_on()

    def _go_on(self) -> None:
        with self._lock:
            if not self._queue:
                self._is_busy = False
                return
            record, ended = self._queue.popleft()
        self.registration.submit([record], ended)


def array(values: list[list[bytes]]) -> list[bytes]:
    made = [b"*%d" % len(values)]
    for value in values:
        made += value
    return made
