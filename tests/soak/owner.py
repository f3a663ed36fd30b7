"""A client of bench/chaos.py that owns its keys: nobody else writes them, so it knows what each may hold.

A connection is a life, and every life has keys of its own: a command that was under way when the connection was lost
may take effect at any later time, and may do so without disturbing what the next life expects. For each key the client
keeps the values it may hold: the last one that a replica has acknowledged (WAIT), and whatever was sent since. None
stands for no key. A key's kind is the first letter behind the colons:

    t tensors   o outputs of runs   p, q outputs that are stored together   b in and out of batches
    m models   s scripts   c counters   w outputs that tell of a batch, whose values nobody can foresee
"""

from __future__ import annotations

import contextlib
import random
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from testkit import models
from testkit.batches import witness
from testkit.networks import Floats
from testkit.wire import Error, Wire, Word, encode

Words = tuple[Word, ...]
Value = bytes | None

ACK_MS = 500
WATCHDOG = 60.0
# What faults explain: the server is gone, is another's replica by now, or is not yet ready to answer.
EXPLAINED = re.compile(
    r"connection closed|\[Errno \d+\] (Connection re|Broken pipe)"
    r"|(LOADING|READONLY|UNBLOCKED|MASTERDOWN|EXECABORT) |ERR WAIT cannot be used with replica instances"
)
# The server waits for the loader then; that machine is busy is no fault of it.
TOO_BUSY = "ERR not compiled within 5 s; store it outside of transactions and scripts"
ABSENT = ("ERR tensor key is empty or in a different shard", "ERR model key is empty", "ERR script key is empty")

BATCH = 16  # the BATCHSIZE of the models that all share
SHARED = {"shared:onnx": "ONNX", "shared:torch": "TORCH"}
SCRIPT = """
def line(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute("INCR", keys[0])
    return tensors[0] * {factor} + {offset}

def chain(tensors: List[Tensor], keys: List[str], args: List[str]):
    x = redisAI.model_execute(keys[1], [tensors[0]], 1)[0]
    redis.execute("INCR", keys[0])
    return x * {factor} + {offset}
"""


class Lost(Exception):
    """The connection is gone, or the server is no master any more, in a way that faults explain."""


class Wrong(Exception):
    """Something that no fault explains."""


@dataclass(slots=True)
class Tally:
    """What happened, all clients taken together."""

    done: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
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
            self.wrong.append(text)


class Link(Wire):
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


# ---- values that are stored ------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Line:
    """A model or script: x * factor + offset, of whole numbers, so that it is exact everywhere."""

    factor: int
    offset: int

    def __call__(self, x: Floats) -> Floats:
        y: Floats = x * np.float32(self.factor) + np.float32(self.offset)
        return y


class TorchLine(nn.Module):
    def __init__(self, factor: float, offset: float) -> None:
        super().__init__()
        self.factor, self.offset = factor, offset

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.offset


def onnx_line(line: Line, ballast: int) -> bytes:
    numbers = {"f": line.factor, "o": line.offset}
    constants = [numpy_helper.from_array(np.array([value], np.float32), name) for name, value in numbers.items()]
    constants.append(numpy_helper.from_array(np.random.default_rng(ballast).random(ballast, np.float32), "ballast"))
    nodes = [helper.make_node("Mul", ["x", "f"], ["product"]), helper.make_node("Add", ["product", "o"], ["y"])]
    kind = TensorProto.FLOAT
    return models.onnx_model(nodes, [models.value("x", kind, ["n"])], [models.value("y", kind, ["n"])], constants)


@dataclass(slots=True, frozen=True)
class Stored:
    """A model as it is stored."""

    backend: str
    line: Line
    blob: bytes
    options: Words = ()


@cache
def stock() -> tuple[Stored, ...]:
    made = []
    for i in range(4):
        line = Line(i + 1, 3 * i - 5)
        made += [
            Stored("ONNX", line, onnx_line(line, 10)),
            Stored("TORCH", line, models.torch_blob(TorchLine(float(line.factor), float(line.offset)))),
        ]
    line = Line(3, 8)
    made += [
        Stored("ONNX", line, onnx_line(line, 200_000)),
        Stored("ONNX", line, onnx_line(line, 11), ("BATCHSIZE", 8, "MINBATCHSIZE", 2, "MINBATCHTIMEOUT", 5)),
    ]
    return tuple(made)


def store_shared(key: str) -> Words:
    """The words that store a model which tells of its batches."""
    model = witness(SHARED[key])
    batching = ("BATCHSIZE", BATCH, "MINBATCHSIZE", BATCH // 2, "MINBATCHTIMEOUT", 10)
    return ("AI.MODELSTORE", key, model.backend, "CPU", *batching, "BLOB", model.blob)


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


# ---- one life --------------------------------------------------------------------------------------------------------


class Life:
    """What one connection has written, and what its keys may hold."""

    def __init__(self, prefix: str, wire: Link) -> None:
        self.prefix = prefix
        self.wire = wire
        self.may_hold: dict[str, list[Value]] = defaultdict(lambda: [None])
        self.ever: dict[str, set[Value]] = defaultdict(lambda: {None})
        self.unacknowledged: set[str] = set()
        self.models: dict[str, Stored] = {}
        self.scripts: dict[str, Line] = {}

    def key(self, kind: str, number: int = 0) -> str:
        return f"{self.prefix}:{kind}{number}"

    def now(self, key: str) -> Value:
        """As long as the connection lives, what was sent last and answered is what is there."""
        return self.may_hold[key][-1]

    def tensor(self, key: str) -> Floats:
        return np.frombuffer(self.now(key) or b"", np.float32)

    def there(self, kind: str) -> list[str]:
        return [key for key in list(self.may_hold) if kind_of(key) in kind and self.now(key) is not None]

    def expect(self, key: str, value: Value) -> None:
        self.may_hold[key].append(value)
        self.ever[key].add(value)
        self.unacknowledged.add(key)

    def acknowledged(self) -> None:
        for key in self.unacknowledged:
            del self.may_hold[key][:-1]
        self.unacknowledged.clear()

    def check(self, wire: Link) -> int:
        """Everything is there that must be, and as it must be; how many keys were looked at."""
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


# ---- the client ------------------------------------------------------------------------------------------------------


class Owner:
    def __init__(self, number: int, seed: int, master: Callable[[], int], others: Callable[[], list[int]]) -> None:
        self.number = number
        self.random = random.Random(f"{seed} {number}")
        self.numbers = np.random.default_rng((seed, number))
        self.master = master  # the port of the server that is master now
        self.others = others  # the ports of those that are not
        self.lives: list[Life] = []  # those of which keys may be left
        self.count = 0
        self.life: Life
        self.is_acknowledged = False  # by a replica, the last write
        self.tally: Tally
        self.stop: threading.Event

    def work(self, stop: threading.Event, tally: Tally) -> None:
        self.stop, self.tally = stop, tally
        try:
            while not stop.is_set():
                try:
                    self.live()
                except (Lost, OSError) as lost:
                    if isinstance(lost, TimeoutError):
                        raise Wrong(f"no reply for {WATCHDOG:g} s") from lost
                    if not EXPLAINED.match(str(lost)):
                        raise
                    tally.error(str(lost))
                    stop.wait(0.05)
        except Wrong as wrong:
            tally.fault(f"client {self.number}, life {self.count}: {wrong}")
        except Exception as error:
            tally.fault(f"client {self.number}, life {self.count}: {error!r}")

    def live(self) -> None:
        with contextlib.closing(Link(self.master())) as wire:
            role = wire.ask("ROLE")
            if isinstance(role, Error):
                raise Lost(role)
            if role[0] != b"master":
                raise Lost("READONLY a replica, not a master")
            if self.lives:
                self.tally.count("keys checked after a loss", self.lives[-1].check(wire))
            self.count += 1
            self.life = Life(f"{self.number}:{self.count}", wire)
            self.lives.append(self.life)
            self.put()
            self.store_model()
            self.tidy()
            while not self.stop.is_set():
                deed = self.random.choices(list(DEEDS), list(DEEDS.values()))[0]
                deed(self)
                self.tally.count(deed.__name__)

    def tidy(self) -> None:
        """Deletes models and scripts of earlier lives but the last: a server that starts compiles all it has."""
        old = {key: life for life in self.lives[:-2] for key in life.may_hold if kind_of(key) in "ms"}
        if old:
            for key, life in old.items():
                life.may_hold[key].append(None)  # from now on, whether or not an answer comes
            self.write([("UNLINK", *old)], [], {})
            if self.is_acknowledged:
                for key, life in old.items():
                    del life.may_hold[key]

    def write(self, requests: Sequence[Words], replies: list[Any], values: dict[str, Value]) -> Any:
        """Sends requests that together make values, with a WAIT behind them. Returns what the last one answered."""
        life = self.life
        for key, value in values.items():
            life.expect(key, value)
        *got, replicas = life.wire.ask_all([*requests, ("WAIT", 1, ACK_MS)])
        for reply in got:
            if isinstance(reply, Error):
                raise Lost(reply) if EXPLAINED.match(reply) else Wrong(f"{requests[-1][:8]}: {reply}")
        if got[-1] == b"TIMEDOUT" and "TIMEOUT" in requests[-1]:
            for key in values:
                life.may_hold[key].pop()
            self.tally.count("runs timed out")
        elif replies and got != replies:
            raise Wrong(f"{requests[-1][:8]}: {str(got)[:300]}")
        if isinstance(replicas, Error):
            raise Lost(replicas) if EXPLAINED.match(replicas) else Wrong(f"WAIT: {replicas}")
        self.is_acknowledged = replicas > 0
        if self.is_acknowledged:
            life.acknowledged()
        self.tally.count(f"writes acknowledged by {'a replica' if replicas else 'the master alone'}", len(values))
        return got[-1]

    def pick(self, kind: str) -> str:
        return self.random.choice(self.life.there(kind))

    def some(self, length: int) -> Floats:
        return self.numbers.integers(-1000, 1000, length).astype(np.float32)

    # -- what it does

    def put(self) -> None:
        large = self.random.random() < 0.02
        data = self.some(200_000 if large else self.random.choice((1, 7, 64, 3000))).tobytes()
        key = self.life.key("t", self.random.randrange(6))
        self.write([("AI.TENSORSET", key, "FLOAT", len(data) // 4, "BLOB", data)], [b"OK"], {key: data})

    def store_model(self) -> None:
        key, tag = self.life.key("m", self.random.randrange(3)), str(self.random.random())
        model = self.random.choice(stock())
        words = ("AI.MODELSTORE", key, model.backend, "CPU", "TAG", tag, *model.options, "BLOB", model.blob)
        self.write([words], [b"OK"], {key: tag.encode() + b"\n" + model.blob})
        self.life.models[key] = model

    def store_script(self) -> None:
        key, tag = self.life.key("s", self.random.randrange(2)), str(self.random.random())
        line = Line(self.random.randint(1, 5), self.random.randint(-9, 9))
        source = SCRIPT.format(factor=line.factor, offset=line.offset)
        words = ("AI.SCRIPTSTORE", key, "CPU", "TAG", tag, "ENTRY_POINTS", 2, "line", "chain", "SOURCE", source)
        self.write([words], [b"OK"], {key: f"{tag}\n{source}".encode()})
        self.life.scripts[key] = line

    def run_model(self) -> None:
        m, t, o = self.pick("m"), self.pick("to"), self.life.key("o", self.random.randrange(4))
        timeout = ("TIMEOUT", self.random.randint(1, 5)) if self.random.random() < 0.03 else ()
        words = ("AI.MODELEXECUTE", m, "INPUTS", 1, t, "OUTPUTS", 1, o, *timeout)
        self.write([words], [b"OK"], {o: self.bounded(self.life.models[m].line, t).tobytes()})

    def bounded(self, line: Line, key: str) -> Floats:
        """Outputs are inputs too, and grow. A float holds whole numbers below 2^24 exactly."""
        x = self.life.tensor(key)
        if np.abs(x).max() > 100_000:
            x = self.some(len(x))
            self.write([("AI.TENSORSET", key, "FLOAT", len(x), "BLOB", x.tobytes())], [b"OK"], {key: x.tobytes()})
        return line(x)

    def script_words(self, t: str, o: str) -> tuple[Words, Line, str]:
        if not self.life.there("s"):
            self.store_script()  # not before it is needed: compiling is slow
        s, c = self.pick("s"), self.life.key("c")
        keys, function = [c], "line"
        line = self.life.scripts[s]
        if self.random.random() < 0.5:
            m, function = self.pick("m"), "chain"
            keys.append(m)
            inner = self.life.models[m].line
            line = Line(inner.factor * line.factor, inner.offset * line.factor + line.offset)
        words: Words = ("AI.SCRIPTEXECUTE", s, function, "KEYS", len(keys), *keys, "INPUTS", 1, t, "OUTPUTS", 1, o)
        return words, line, c

    def counted(self, c: str) -> bytes:
        return b"%d" % (int(self.life.now(c) or b"0") + 1)

    def run_script(self) -> None:
        t, o = self.pick("to"), self.life.key("o", self.random.randrange(4))
        words, line, c = self.script_words(t, o)
        y = self.bounded(line, t)
        self.write([words], [b"OK"], {c: self.counted(c), o: y.tobytes()})

    def run_dag(self) -> None:
        """A model and a script behind it; both outputs are stored, or neither."""
        m, t, p, q = self.pick("m"), self.pick("to"), self.life.key("p"), self.life.key("q")
        words, line, c = self.script_words(p, q)
        y = self.bounded(self.life.models[m].line, t)
        if np.abs(y).max() > 100_000:
            return
        z = line(y)
        dag: Words = ("AI.DAGEXECUTE", "LOAD", 1, t, "PERSIST", 2, p, q)
        dag = (*dag, "|>", "AI.MODELEXECUTE", m, "INPUTS", 1, t, "OUTPUTS", 1, p)
        dag = (*dag, "|>", *words, "|>", "AI.TENSORGET", q, "BLOB")
        values: dict[str, Value] = {c: self.counted(c), p: y.tobytes(), q: z.tobytes()}
        self.write([dag], [[b"OK", b"OK", z.tobytes()]], values)

    def run_batched(self) -> None:
        """With the others' requests in one batch, and told which rows it had."""
        model, rows = self.random.choice(list(SHARED)), self.random.randint(1, 3)
        x = self.some(rows).reshape(rows, 1)
        y = (x * 3 + 1).tobytes()
        b = [self.life.key("b", number) for number in (0, 1)]
        w = self.life.key("w")
        put: Words = ("AI.TENSORSET", b[0], "FLOAT", rows, 1, "BLOB", x.tobytes())
        run: Words = ("AI.MODELEXECUTE", model, "INPUTS", 1, b[0], "OUTPUTS", 2, b[1], w)
        get: tuple[Words, ...] = (("AI.TENSORGET", b[1], "BLOB"), ("AI.TENSORGET", w, "BLOB"))
        if self.random.random() < 0.5:
            self.write([put, run], [b"OK", b"OK"], {b[0]: x.tobytes(), b[1]: y})
            results = self.life.wire.ask_all(get)
        else:
            dag: Words = ("AI.DAGEXECUTE", "PERSIST", 1, b[1])
            reply = self.write([sum((("|>", *words) for words in (put, run, *get)), dag)], [], {b[1]: y})
            if reply[:2] != [b"OK", b"OK"]:
                raise Wrong(f"a DAG with {model}: {reply}")
            results = reply[2:]
        if isinstance(results[1], Error):
            raise Lost(results[1]) if EXPLAINED.match(results[1]) else Wrong(f"{w}: {results[1]}")
        told = np.frombuffer(results[1], np.float32).reshape(-1, 2)
        if results[0] != y or len(told) != rows or (told != told[0]).any():
            raise Wrong(f"a batch of {model} gave {results}")
        if not rows <= told[0, 0] <= BATCH:
            raise Wrong(f"{rows} rows were run in a batch of {told[0, 0]:g}, the limit is {BATCH}")
        self.tally.count("requests batched with others", int(told[0, 0] > rows))

    def transaction(self) -> None:
        t = [self.life.key("t", number) for number in (0, 1)]
        values: dict[str, Value] = {key: self.some(self.random.randint(1, 50)).tobytes() for key in t}
        m, model = self.life.key("m", 2), stock()[0]
        requests: list[Words] = [("MULTI",)]
        requests += [("AI.TENSORSET", key, "FLOAT", len(x) // 4, "BLOB", x) for key, x in values.items() if x]
        requests += [("AI.MODELSTORE", m, model.backend, "CPU", "TAG", "multi", "BLOB", model.blob), ("EXEC",)]
        before = list(self.life.may_hold[m])
        stored = self.write(requests, [], {**values, m: b"multi\n" + model.blob})
        if stored == [b"OK", b"OK", TOO_BUSY]:
            self.tally.error(stored[2])
            self.life.may_hold[m] = before
            self.life.unacknowledged.add(m)
        elif stored != [b"OK", b"OK", b"OK"]:
            raise Wrong(f"a transaction: {stored}")
        else:
            self.life.models[m] = model

    def copy(self) -> None:
        source, target = self.pick("to"), self.life.key("o", self.random.randrange(4))
        if source != target:
            self.write([("COPY", source, target, "REPLACE")], [1], {target: self.life.now(source)})

    def delete(self) -> None:
        key = self.pick("tomsc")
        if len(self.life.there(kind_of(key))) > 1:
            by = {"m": "AI.MODELDEL", "s": "AI.SCRIPTDEL"}.get(kind_of(key), self.random.choice(("DEL", "UNLINK")))
            self.write([(by, key)], [b"OK" if by.startswith("AI") else 1], {key: None})

    def read(self) -> None:
        self.life.check(self.life.wire)

    def read_replica(self) -> None:
        """What a replica has may be old, but was never anything else; and it runs models at once."""
        ports = self.others()
        if not ports:
            return
        keys = self.random.sample(self.life.there("tomsc"), 2)
        model, x = self.random.choice(list(SHARED)), self.some(2)
        dag: Words = ("AI.DAGEXECUTE_RO", "ROUTING", "x", "|>", "AI.TENSORSET", "x", "FLOAT", 2, 1, "BLOB", x.tobytes())
        dag = (*dag, "|>", "AI.MODELEXECUTE", model, "INPUTS", 1, "x", "OUTPUTS", 2, "y", "w")
        dag = (*dag, "|>", "AI.TENSORGET", "y", "BLOB")
        try:
            with contextlib.closing(Link(self.random.choice(ports))) as wire:
                *replies, reply = wire.ask_all([*map(read_words, keys), dag])
                for key, found in zip(keys, replies, strict=True):
                    value = value_of(key, found)
                    if value not in self.life.ever[key]:
                        raise Wrong(f"{key} on a replica holds {short(value)}, which nobody ever stored")
        except TimeoutError:
            raise
        except (Lost, OSError) as lost:
            self.tally.error(f"on a replica: {lost}")
            return
        if isinstance(reply, Error):
            # before its first full sync it has none of the models
            if not EXPLAINED.match(reply) and reply not in ABSENT:
                raise Wrong(f"on a replica: {reply}")
            self.tally.error(f"on a replica: {reply}")
        elif reply != [b"OK", b"OK", (x * 3 + 1).tobytes()]:
            raise Wrong(f"on a replica {model} gave {reply}")

    def scratch(self) -> None:
        """In a database that is flushed and swapped at any time: there or not, but never wrong."""
        wire, x = self.life.wire, self.some(5)
        key, model = f"scratch{self.number}", self.random.choice(stock()[:8])
        requests: list[Words] = [
            ("SELECT", 9),
            ("AI.TENSORSET", key, "FLOAT", 5, "BLOB", x.tobytes()),
            ("AI.MODELSTORE", f"{key}m", model.backend, "CPU", "BLOB", model.blob),
            ("AI.MODELEXECUTE", f"{key}m", "INPUTS", 1, key, "OUTPUTS", 1, f"{key}o"),
            ("AI.TENSORGET", f"{key}o", "BLOB"),
            ("SELECT", 0),
        ]
        for words, reply in zip(requests, wire.ask_all(requests), strict=True):
            if isinstance(reply, Error):
                if EXPLAINED.match(reply):
                    raise Lost(reply)
                if reply not in ABSENT:
                    raise Wrong(f"{words[:2]}: {reply}")
            elif reply != b"OK" and words[-1] == "BLOB" and words[0] == "AI.TENSORGET":
                self.tally.count("scratch results", 1)

    def go(self) -> None:
        """Leaves in the middle of something."""
        m, t, o = self.pick("m"), self.pick("t"), self.life.key("o")
        self.life.expect(o, self.bounded(self.life.models[m].line, t).tobytes())
        self.life.wire.send("AI.MODELEXECUTE", m, "INPUTS", 1, t, "OUTPUTS", 1, o)
        self.life.wire.abort()
        raise Lost("connection closed by the client itself")


DEEDS: dict[Callable[[Owner], None], float] = {
    Owner.put: 10,
    Owner.store_model: 2,
    Owner.store_script: 0.5,
    Owner.run_model: 20,
    Owner.run_script: 10,
    Owner.run_dag: 12,
    Owner.run_batched: 20,
    Owner.transaction: 1,
    Owner.copy: 3,
    Owner.delete: 4,
    Owner.read: 4,
    Owner.read_replica: 5,
    Owner.scratch: 2,
    Owner.go: 0.3,
}
