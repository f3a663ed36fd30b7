"""PythonReader and ShardsIDReader: records that come from no key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from flows.registrations import Words
from flows.server import Server


def python_records(server: Server, argument: Any, words: Words) -> Iterator[Any]:
    words.finish()
    if not callable(argument):
        raise TypeError("PythonReader runs over what a function yields: run(function), or GearsBuilder's defaultArg")
    made: Any = argument()
    if not isinstance(made, Iterable):
        raise TypeError(f"PythonReader's function yields records; it returned {type(made).__name__}")
    return iter(made)


def shard_records(server: Server, argument: Any, words: Words) -> Iterator[Any]:
    words.finish()
    return iter([server.settings.get("node_id")])
