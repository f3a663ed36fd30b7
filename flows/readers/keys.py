"""KeysReader and KeysOnlyReader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import hiredis

from flows.connections import CommandError, encode
from flows.readers import scan, text
from flows.registrations import Registration, Words, matches, watch
from flows.server import Server

MAX_QUEUED = 100_000
AT_ONCE = 100  # keys whose values are read together
_DELETIONS = ("del", "expired", "evicted", "move_from", "rename_from")
# The events of commands that are not named like their event.
_EVENTS = {
    "getset": ["set"],
    "mset": ["set"],
    "msetnx": ["set"],
    "psetex": ["set"],
    "setex": ["set"],
    "setnx": ["set"],
    "unlink": ["del"],
    "getdel": ["del"],
    "incr": ["incrby"],
    "decr": ["decrby"],
    "rename": ["rename_from", "rename_to"],
    "hmset": ["hset"],
    "hsetnx": ["hset"],
    "copy": ["copy_to"],
    "move": ["move_from", "move_to"],
    "pexpire": ["expire"],
    "expireat": ["expire"],
    "pexpireat": ["expire"],
    "lpushx": ["lpush"],
    "rpushx": ["rpush"],
}
_READ: dict[bytes, tuple[str, ...]] = {
    b"string": ("GET",),
    b"hash": ("HGETALL",),
    b"list": ("LRANGE", "0", "-1"),
    b"set": ("SMEMBERS",),
    b"zset": ("ZRANGE", "0", "-1", "WITHSCORES"),
}


def _value(kind: bytes, reply: Any) -> Any:
    """As Python has it: text, list, set, or dict; a sorted set as a dict of its scores."""
    if reply is None or isinstance(reply, hiredis.ReplyError):
        return None
    if kind == b"string":
        return text(reply)
    if kind == b"list":
        return [text(each) for each in reply]
    if kind == b"set":
        return {text(each) for each in reply}
    pairs = zip(reply[::2], reply[1::2], strict=True)
    if kind == b"hash":
        return {text(field): text(value) for field, value in pairs}
    return {text(member): float(score) for member, score in pairs}


def read(server: Server, keys: Sequence[bytes], with_values: bool, kinds: Sequence[str] | None) -> list[dict[str, Any]]:
    """The records of keys; event is None. A key that is not there has the type 'empty'."""
    types = server.exchange([("TYPE", key) for key in keys])
    for kind in types:
        if isinstance(kind, hiredis.ReplyError):
            raise CommandError(str(kind))
    chosen = [
        (key, b"empty" if kind == b"none" else kind)
        for key, kind in zip(keys, types, strict=True)
        if kinds is None or kind.decode() in kinds
    ]
    wanted = [(_READ[kind][0], key, *_READ[kind][1:]) for key, kind in chosen if with_values and kind in _READ]
    replies = iter(server.exchange(wanted) if wanted else [])
    records = []
    for key, kind in chosen:
        reply = next(replies) if with_values and kind in _READ else None
        if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("WRONGTYPE"):
            raise CommandError(str(reply))
        records.append({"event": None, "key": text(key), "type": kind.decode(), "value": _value(kind, reply)})
    return records


class KeysReader:
    name: str = "KeysReader"
    lane_threads: int = 1  # events are run in their order
    hook: str | None = None

    def __init__(self, words: Words) -> None:
        self.prefix = words.take("prefix", "*", str)
        events = words.names("eventTypes")
        if (commands := words.names("commands")) is not None:
            of_commands = [event for command in commands for event in _EVENTS.get(command, [command])]
            events = [event for event in of_commands if events is None or event in events]
            if not events:
                raise ValueError("KeysReader: no event is both of commands= and in eventTypes=")
        self.events = events
        self.kinds = words.names("keyTypes")
        self.with_value = bool(words.take("readValue", True))

    def args(self) -> dict[str, Any]:
        return {
            "prefix": self.prefix,
            "eventTypes": self.events,
            "keyTypes": self.kinds,
            "readValue": int(self.with_value),
        }

    def watches(self, db: int) -> list[tuple[str | int, ...]]:
        return [watch("keys", db, self.prefix, ",".join(self.events or []))]

    def attach(self, registration: Registration) -> None:
        self.registration = registration

    def begin(self) -> None:
        pass

    def note(self, event: str, key: bytes) -> None:
        """A change. The value is read when the flow runs."""
        if not matches(self.prefix, key) or (self.events is not None and event not in self.events):
            return
        if len(self.registration.lane.jobs) >= MAX_QUEUED:
            self.registration.trouble(f"{MAX_QUEUED} events wait: the flow is too slow, further events are dropped")
            return
        self.registration.submit(self._records(event, key))

    def _records(self, event: str, key: bytes) -> Iterator[Any]:
        if event in _DELETIONS and self.kinds is None:
            yield {"event": event, "key": text(key), "type": "empty", "value": None}
            return
        for record in read(self.registration.runtime.server, [key], self.with_value, self.kinds):
            record["event"] = event
            yield record


def _keys(server: Server, argument: Any, words: Words) -> Iterator[list[bytes]]:
    """The keys that run() is for, some at a time."""
    if not isinstance(argument, str):
        raise TypeError(f"{words.reader}: run() takes a pattern of keys, as text")
    if words.take("noScan", False):
        return iter([[encode(argument)]])
    return scan(server, argument)


def run_records(server: Server, argument: Any, words: Words) -> Iterator[Any]:
    with_values = bool(words.take("readValue", True))
    kinds = words.names("keyTypes")
    some = _keys(server, argument, words)
    words.finish()
    for keys in some:
        for begin in range(0, len(keys), AT_ONCE):
            for record in read(server, keys[begin : begin + AT_ONCE], with_values, kinds):
                if record["type"] != "empty":
                    yield record


def run_keys(server: Server, argument: Any, words: Words) -> Iterator[Any]:
    some = _keys(server, argument, words)
    words.finish()
    for keys in some:
        yield from map(text, keys)
