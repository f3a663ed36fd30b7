"""Readers: where records come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from flows.registrations import Reader, Words
from flows.server import Server

# Makes the reader of a registration from the words of register().
ForEvents: TypeAlias = Callable[[Words], Reader]
# What exists: the records of run(argument, words).
ForRun: TypeAlias = Callable[[Server, Any, Words], Iterator[Any]]


def text(value: bytes) -> str | bytes:
    """What is UTF-8 as text."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def escape(name: str) -> str:
    """For a pattern that matches this very text."""
    return "".join("\\" + letter if letter in "\\*?[]^-" else letter for letter in name)


def scan(server: Server, pattern: str, kind: str = "") -> Iterator[list[bytes]]:
    """The keys of this pattern, some at a time."""
    cursor: Any = b"0"
    while True:
        words = ["SCAN", cursor, "MATCH", pattern, "COUNT", 1_000, *(["TYPE", kind] if kind else [])]
        cursor, keys = server.call(*words)
        if keys:
            yield keys
        if cursor == b"0":
            return
