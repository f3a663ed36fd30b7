"""What the clients of scripts/chaos store under their keys, and what each key may hold.

The kind of a key is the first letter after its last colon:

    t tensors   o outputs of runs   p, q outputs that are stored together   b in and out of batches
    m models   s scripts   c counters   w outputs that tell of a batch, whose values nobody can foresee

For each key a session keeps the values it may hold: the last one that a replica has acknowledged (WAIT), and whatever
was sent since. None stands for no key.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from testkit.batches import batching, witness
from testkit.networks import Floats
from testkit.wire import Error, Wire, Word, encode
from tests.soak.lines import Line, LineModel, onnx_line, torch_line

Words = tuple[Word, ...]
Value = bytes | None

WATCHDOG = 60.0
# Errors that faults explain: the server is gone, is another's replica by now, or is not yet ready to answer.
EXPLAINED = re.compile(
    r"connection closed|\[Errno \d+\] (Connection re|Broken pipe)"
    r"|ERR the process that (ran|compiled) |ERR '.*' is set aside: "  # with a killer of engine processes only
    r"|(LOADING|READONLY|UNBLOCKED|MASTERDOWN|EXECABORT) |ERR WAIT cannot be used with replica instances"
)
# A server that waits for its loader answers so on a busy machine, which is no fault of it.
TOO_BUSY = "ERR not compiled within 5 s; store it outside of transactions and scripts"
ABSENT = ("ERR tensor key is empty or in a different shard", "ERR model key is empty", "ERR script key is empty")

BATCH = 16  # the BATCHSIZE of the models that all share
SHARED = {"shared:onnx": "ONNX", "shared:torch": "TORCH"}


class Lost(Exception):
    """The connection is gone, or the server is no master any more, in a way that faults explain."""


class Wrong(Exception):
    """Something that no fault explains."""


@dataclass(slots=True)
class Tally:
    """What happened to all clients together."""

    done: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, times: int = 1) -> None:
        with self.lock:
            self.done[what] += times

    def total(self) -> int:
        with self.lock:
            return self.done.total()

    def error(self, text: str) -> None:
        with self.lock:
            self.errors[re.sub(r"\d+", "n", text)[:100]] += 1

    def fault(self, text: str) -> None:
        with self.lock:
            self.faults.append(text)


class Connection(Wire):
    """A connection that may be cut at any byte."""

    def __init__(self, port: int) -> None:
        super().__init__(port, timeout=WATCHDOG)

    def bulk(self, size: int) -> bytes:
        data = self.stream.read(size + 2)
        if len(data) < size + 2:
            raise ConnectionError("connection closed by the server, within a reply")
        return data[:-2]

    def ask_all(self, requests: Sequence[Words]) -> list[Any]:
        """Sends all at once, and reads all replies."""
        self.socket.sendall(b"".join(map(encode, requests)))
        return [self.read() for _ in requests]


# ---- values ----------------------------------------------------------------------------------------------------------


@cache
def stock() -> tuple[LineModel, ...]:
    """The models that clients store: small ones of two libraries, a large one, one with batches."""
    made: list[LineModel] = []
    for i in range(4):
        line = Line(i + 1, 3 * i - 5)
        made += [onnx_line(line, ballast=10), torch_line(line)]
    line = Line(3, 8)
    batched = replace(onnx_line(line, ballast=11), batchsize=8, minbatchsize=2, minbatchtimeout=5)
    return (*made, onnx_line(line, ballast=200_000), batched)


def store_shared(key: str) -> Words:
    """The words that store a model which tells of its batches."""
    return witness(SHARED[key]).words(key, *batching(BATCH, BATCH // 2, 10))


def kind_of(key: str) -> str:
    return key.rsplit(":", 1)[1][0]


def read_words(key: str) -> Words:
    kind = kind_of(key)
    if kind == "m":
        return ("AI.MODELGET", key, "META", "BLOB")
    if kind == "s":
        return ("AI.SCRIPTGET", key)
    return ("GET", key) if kind == "c" else ("AI.TENSORGET", key, "META", "BLOB")


def value_of(key: str, reply: Any) -> Value:
    """The value in the reply to read_words(key), the very same bytes that a client expects there."""
    if reply is None or reply in ABSENT:
        return None
    if isinstance(reply, Error):
        raise Lost(reply) if EXPLAINED.match(reply) else Wrong(f"{key}: {reply}")
    kind = kind_of(key)
    if kind == "c":
        return bytes(reply)
    found = dict(zip(reply[::2], reply[1::2], strict=True))
    if kind == "m":
        blob = found[b"blob"]
        return bytes(found[b"tag"]) + b"\n" + (b"".join(blob) if isinstance(blob, list) else blob)
    if kind == "s":
        return bytes(found[b"tag"]) + b"\n" + bytes(found[b"source"])
    if found[b"dtype"] != b"FLOAT" or 4 * np.prod(found[b"shape"]) != len(found[b"blob"]):
        raise Wrong(f"{key}: {found[b'dtype']} {found[b'shape']}, {len(found[b'blob'])} bytes")
    return bytes(found[b"blob"])


def short(value: Value) -> str:
    return "nothing" if value is None else f"{len(value)} bytes {value[:40]!r}"


# ---- one session -----------------------------------------------------------------------------------------------------


class Session:
    """What one connection has written, and what its keys may hold.

    Every session has keys of its own: a command that was under way when the connection was lost may take effect at any
    later time, and may do so without disturbing what the next session expects.
    """

    def __init__(self, prefix: str, wire: Connection) -> None:
        self.prefix = prefix
        self.wire = wire
        self.may_hold: dict[str, list[Value]] = defaultdict(lambda: [None])
        self.history: dict[str, set[Value]] = defaultdict(lambda: {None})
        self.unacknowledged: set[str] = set()
        self.models: dict[str, LineModel] = {}
        self.scripts: dict[str, Line] = {}

    def key(self, kind: str, number: int = 0) -> str:
        return f"{self.prefix}:{kind}{number}"

    def current(self, key: str) -> Value:
        """While the connection lasts, that is what was sent last and answered."""
        return self.may_hold[key][-1]

    def tensor(self, key: str) -> Floats:
        return np.frombuffer(self.current(key) or b"", np.float32)

    def existing(self, kind: str) -> list[str]:
        return [key for key in list(self.may_hold) if kind_of(key) in kind and self.current(key) is not None]

    def expect(self, key: str, value: Value) -> None:
        self.may_hold[key].append(value)
        self.history[key].add(value)
        self.unacknowledged.add(key)

    def acknowledged(self) -> None:
        for key in self.unacknowledged:
            del self.may_hold[key][:-1]
        self.unacknowledged.clear()

    def check(self, wire: Connection) -> int:
        """Compares every key with what it may hold, and returns how many keys that were."""
        keys = list(self.may_hold)
        together = [key for key in keys if kind_of(key) in "pq"]
        alone = [key for key in keys if key not in together]
        replies = wire.ask_all([*map(read_words, alone), ("MULTI",), *map(read_words, together), ("EXEC",)])
        if isinstance(replies[-1], Error):
            raise Lost(replies[-1])
        found = {
            key: value_of(key, reply)
            for key, reply in zip(alone + together, replies[: len(alone)] + replies[-1], strict=True)
        }
        for key, value in found.items():
            if value not in self.may_hold[key]:
                wanted = " or ".join(map(short, self.may_hold[key]))
                again = short(value_of(key, wire.ask(*read_words(key))))
                raise Wrong(
                    f"{key} on port {wire.socket.getpeername()[1]} holds {short(value)} (then {again}), not {wanted}"
                )
        times = zip(*(self.may_hold[key] for key in together), strict=True)
        if together and tuple(found[key] for key in together) not in times:
            raise Wrong(f"{together} were stored together, but hold values of different times")
        return len(keys)
