"""A client of scripts/chaos: it owns its keys, so it knows what each may hold (keys.py)."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from testkit.networks import Floats
from testkit.wire import Error
from tests.soak.keys import (
    ABSENT,
    BATCH,
    EXPLAINED,
    SHARED,
    TOO_BUSY,
    WATCHDOG,
    Connection,
    Lost,
    Session,
    Tally,
    Value,
    Words,
    Wrong,
    kind_of,
    read_words,
    short,
    stock,
    value_of,
)
from tests.soak.killer import is_ended
from tests.soak.lines import Line

SCRIPT = """
def line(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute("INCR", keys[0])
    return tensors[0] * {factor} + {offset}

def chain(tensors: List[Tensor], keys: List[str], args: List[str]):
    x = redisAI.model_execute(keys[1], [tensors[0]], 1)[0]
    redis.execute("INCR", keys[0])
    return x * {factor} + {offset}
"""
ACK_MS = 500
MAX_NUMBER = 100_000


class Client:
    def __init__(self, number: int, seed: int, master: Callable[[], int], others: Callable[[], list[int]]) -> None:
        self.number = number
        self.random = random.Random(f"{seed} {number}")
        self.generator = np.random.default_rng((seed, number))
        self.master = master  # the port of the server that is master now
        self.others = others  # the ports of those that are not
        self.sessions: list[Session] = []  # those whose keys may be left
        self.count = 0
        self.session: Session
        self.is_acknowledged = False  # by a replica, the last write
        self.tally: Tally
        self.stop: threading.Event

    def work(self, stop: threading.Event, tally: Tally) -> None:
        self.stop, self.tally = stop, tally
        try:
            while not stop.is_set():
                try:
                    self.run_session()
                except (Lost, OSError) as lost:
                    if isinstance(lost, TimeoutError):
                        raise Wrong(f"no reply for {WATCHDOG:g} s") from lost
                    if not EXPLAINED.match(str(lost)):
                        raise
                    tally.error(str(lost))
                    stop.wait(0.05)
        except Wrong as wrong:
            tally.fault(f"client {self.number}, session {self.count}: {wrong}")
        except Exception as error:
            tally.fault(f"client {self.number}, session {self.count}: {error!r}")

    def run_session(self) -> None:
        with contextlib.closing(Connection(self.master())) as wire:
            role = wire.ask("ROLE")
            if isinstance(role, Error):
                raise Lost(role)
            if role[0] != b"master":
                raise Lost("READONLY a replica, not a master")
            if self.sessions:
                self.tally.count("keys checked after a loss", self.sessions[-1].check(wire))
            self.count += 1
            self.session = Session(f"{self.number}:{self.count}", wire)
            self.sessions.append(self.session)
            self.put()
            self.store_model()
            self.tidy()
            while not self.stop.is_set():
                operation = self.random.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
                operation(self)
                self.tally.count(operation.__name__)

    def tidy(self) -> None:
        """Deletes models and scripts of earlier sessions but the last: a server that starts compiles all it has."""
        old = {key: session for session in self.sessions[:-2] for key in session.may_hold if kind_of(key) in "ms"}
        if old:
            for key, session in old.items():
                session.may_hold[key].append(None)  # from now on, whether or not an answer comes
            self.write([("UNLINK", *old)], [], {})
            if self.is_acknowledged:
                for key, session in old.items():
                    del session.may_hold[key]

    def write(self, requests: Sequence[Words], replies: list[Any], values: dict[str, Value]) -> Any:
        """Sends requests that together make values, and a WAIT after them. Returns the reply to the last one."""
        session = self.session
        for key, value in values.items():
            session.expect(key, value)
        *got, replicas = session.wire.ask_all([*requests, ("WAIT", 1, ACK_MS)])
        for reply in got:
            if isinstance(reply, Error):
                raise Lost(reply) if EXPLAINED.match(reply) else Wrong(f"{requests[-1][:8]}: {reply}")
            for inner in reply if isinstance(reply, list) else []:  # of a DAG or a transaction
                if is_ended(inner):
                    raise Lost(inner)
        if got[-1] == b"TIMEDOUT" and "TIMEOUT" in requests[-1]:
            for key in values:
                session.may_hold[key].pop()
            self.tally.count("runs timed out")
        elif replies and got != replies:
            raise Wrong(f"{requests[-1][:8]}: {str(got)[:300]}")
        if isinstance(replicas, Error):
            raise Lost(replicas) if EXPLAINED.match(replicas) else Wrong(f"WAIT: {replicas}")
        self.is_acknowledged = replicas > 0
        if self.is_acknowledged:
            session.acknowledged()
        self.tally.count(f"writes acknowledged by {'a replica' if replicas else 'the master alone'}", len(values))
        return got[-1]

    def pick(self, kind: str) -> str:
        return self.random.choice(self.session.existing(kind))

    def numbers_of(self, length: int) -> Floats:
        return self.generator.integers(-1000, 1000, length).astype(np.float32)

    # ---- operations

    def put(self) -> None:
        large = self.random.random() < 0.02
        data = self.numbers_of(200_000 if large else self.random.choice((1, 7, 64, 3000))).tobytes()
        key = self.session.key("t", self.random.randrange(6))
        self.write([("AI.TENSORSET", key, "FLOAT", len(data) // 4, "BLOB", data)], [b"OK"], {key: data})

    def store_model(self) -> None:
        key, tag = self.session.key("m", self.random.randrange(3)), str(self.random.random())
        model = self.random.choice(stock())
        words = replace(model, tag=tag).words(key)
        self.write([words], [b"OK"], {key: tag.encode() + b"\n" + model.blob})
        self.session.models[key] = model

    def store_script(self) -> None:
        key, tag = self.session.key("s", self.random.randrange(2)), str(self.random.random())
        line = Line(self.random.randint(1, 5), self.random.randint(-9, 9))
        source = SCRIPT.format(factor=line.factor, offset=line.offset)
        words = ("AI.SCRIPTSTORE", key, "CPU", "TAG", tag, "ENTRY_POINTS", 2, "line", "chain", "SOURCE", source)
        self.write([words], [b"OK"], {key: f"{tag}\n{source}".encode()})
        self.session.scripts[key] = line

    def run_model(self) -> None:
        m, t, o = self.pick("m"), self.pick("to"), self.session.key("o", self.random.randrange(4))
        timeout = ("TIMEOUT", self.random.randint(1, 5)) if self.random.random() < 0.03 else ()
        words = ("AI.MODELEXECUTE", m, "INPUTS", 1, t, "OUTPUTS", 1, o, *timeout)
        self.write([words], [b"OK"], {o: self.bounded(self.session.models[m].line, t).tobytes()})

    def bounded(self, line: Line, key: str) -> Floats:
        """The line of a tensor that is small enough: outputs are inputs too, and a float is exact below 2^24 only."""
        x = self.session.tensor(key)
        if np.abs(x).max() > MAX_NUMBER:
            x = self.numbers_of(len(x))
            self.write([("AI.TENSORSET", key, "FLOAT", len(x), "BLOB", x.tobytes())], [b"OK"], {key: x.tobytes()})
        return line(x)

    def script_words(self, t: str, o: str) -> tuple[Words, Line, str]:
        if not self.session.existing("s"):
            self.store_script()  # not before it is needed: compiling is slow
        s, c = self.pick("s"), self.session.key("c")
        keys, function = [c], "line"
        line = self.session.scripts[s]
        if self.random.random() < 0.5:
            m, function = self.pick("m"), "chain"
            keys.append(m)
            inner = self.session.models[m].line
            line = Line(inner.factor * line.factor, inner.offset * line.factor + line.offset)
        words: Words = ("AI.SCRIPTEXECUTE", s, function, "KEYS", len(keys), *keys, "INPUTS", 1, t, "OUTPUTS", 1, o)
        return words, line, c

    def counted(self, c: str) -> bytes:
        return b"%d" % (int(self.session.current(c) or b"0") + 1)

    def run_script(self) -> None:
        t, o = self.pick("to"), self.session.key("o", self.random.randrange(4))
        words, line, c = self.script_words(t, o)
        y = self.bounded(line, t)
        self.write([words], [b"OK"], {c: self.counted(c), o: y.tobytes()})

    def run_dag(self) -> None:
        """A model, then a script; both outputs are stored, or neither."""
        m, t, p, q = self.pick("m"), self.pick("to"), self.session.key("p"), self.session.key("q")
        words, line, c = self.script_words(p, q)
        y = self.bounded(self.session.models[m].line, t)
        if np.abs(y).max() > MAX_NUMBER:
            return
        z = line(y)
        dag: Words = ("AI.DAGEXECUTE", "LOAD", 1, t, "PERSIST", 2, p, q)
        dag = (*dag, "|>", "AI.MODELEXECUTE", m, "INPUTS", 1, t, "OUTPUTS", 1, p)
        dag = (*dag, "|>", *words, "|>", "AI.TENSORGET", q, "BLOB")
        values: dict[str, Value] = {c: self.counted(c), p: y.tobytes(), q: z.tobytes()}
        self.write([dag], [[b"OK", b"OK", z.tobytes()]], values)

    def run_batched(self) -> None:
        """A model that all clients share runs their requests in batches, and tells which rows each batch had."""
        model, rows = self.random.choice(list(SHARED)), self.random.randint(1, 3)
        x = self.numbers_of(rows).reshape(rows, 1)
        y = (x * 3 + 1).tobytes()
        b = [self.session.key("b", number) for number in (0, 1)]
        w = self.session.key("w")
        put: Words = ("AI.TENSORSET", b[0], "FLOAT", rows, 1, "BLOB", x.tobytes())
        run: Words = ("AI.MODELEXECUTE", model, "INPUTS", 1, b[0], "OUTPUTS", 2, b[1], w)
        get: tuple[Words, ...] = (("AI.TENSORGET", b[1], "BLOB"), ("AI.TENSORGET", w, "BLOB"))
        if self.random.random() < 0.5:
            self.write([put, run], [b"OK", b"OK"], {b[0]: x.tobytes(), b[1]: y})
            results = self.session.wire.ask_all(get)
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
        t = [self.session.key("t", number) for number in (0, 1)]
        values: dict[str, Value] = {key: self.numbers_of(self.random.randint(1, 50)).tobytes() for key in t}
        m, model = self.session.key("m", 2), stock()[0]
        requests: list[Words] = [("MULTI",)]
        requests += [("AI.TENSORSET", key, "FLOAT", len(x) // 4, "BLOB", x) for key, x in values.items() if x]
        requests += [replace(model, tag="multi").words(m), ("EXEC",)]
        before = list(self.session.may_hold[m])
        stored = self.write(requests, [], {**values, m: b"multi\n" + model.blob})
        if stored == [b"OK", b"OK", TOO_BUSY]:
            self.tally.error(stored[2])
            self.session.may_hold[m] = before
            self.session.unacknowledged.add(m)
        elif stored != [b"OK", b"OK", b"OK"]:
            raise Wrong(f"a transaction: {stored}")
        else:
            self.session.models[m] = model

    def copy(self) -> None:
        source, target = self.pick("to"), self.session.key("o", self.random.randrange(4))
        if source != target:
            self.write([("COPY", source, target, "REPLACE")], [1], {target: self.session.current(source)})

    def delete(self) -> None:
        key = self.pick("tomsc")
        if len(self.session.existing(kind_of(key))) > 1:
            by = {"m": "AI.MODELDEL", "s": "AI.SCRIPTDEL"}.get(kind_of(key), self.random.choice(("DEL", "UNLINK")))
            self.write([(by, key)], [b"OK" if by.startswith("AI") else 1], {key: None})

    def read(self) -> None:
        self.session.check(self.session.wire)

    def read_replica(self) -> None:
        """A replica may hold old values, but only ones that were stored; and it runs models."""
        ports = self.others()
        if not ports:
            return
        keys = self.random.sample(self.session.existing("tomsc"), 2)
        model, x = self.random.choice(list(SHARED)), self.numbers_of(2)
        dag: Words = ("AI.DAGEXECUTE_RO", "ROUTING", "x", "|>", "AI.TENSORSET", "x", "FLOAT", 2, 1, "BLOB", x.tobytes())
        dag = (*dag, "|>", "AI.MODELEXECUTE", model, "INPUTS", 1, "x", "OUTPUTS", 2, "y", "w")
        dag = (*dag, "|>", "AI.TENSORGET", "y", "BLOB")
        try:
            with contextlib.closing(Connection(self.random.choice(ports))) as wire:
                *replies, reply = wire.ask_all([*map(read_words, keys), dag])
                for key, found in zip(keys, replies, strict=True):
                    value = value_of(key, found)
                    if value not in self.session.history[key]:
                        raise Wrong(f"{key} on a replica holds {short(value)}, which nobody has stored")
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
        elif any(map(is_ended, reply)):
            self.tally.error(f"on a replica: {reply[1]}")
        elif reply != [b"OK", b"OK", (x * 3 + 1).tobytes()]:
            raise Wrong(f"on a replica {model} gave {reply}")

    def scratch(self) -> None:
        """Works in a database that is flushed and swapped at any time: values may be gone, but never wrong."""
        wire, x = self.session.wire, self.numbers_of(5)
        key, model = f"scratch{self.number}", self.random.choice(stock()[:8])
        requests: list[Words] = [
            ("SELECT", 9),
            ("AI.TENSORSET", key, "FLOAT", 5, "BLOB", x.tobytes()),
            model.words(f"{key}m"),
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

    def disconnect(self) -> None:
        """Leaves while a run of its own is under way."""
        m, t, o = self.pick("m"), self.pick("t"), self.session.key("o")
        self.session.expect(o, self.bounded(self.session.models[m].line, t).tobytes())
        self.session.wire.send("AI.MODELEXECUTE", m, "INPUTS", 1, t, "OUTPUTS", 1, o)
        self.session.wire.abort()
        raise Lost("connection closed by the client itself")


OPERATIONS: dict[Callable[[Client], None], float] = {
    Client.put: 10,
    Client.store_model: 2,
    Client.store_script: 0.5,
    Client.run_model: 20,
    Client.run_script: 10,
    Client.run_dag: 12,
    Client.run_batched: 20,
    Client.transaction: 1,
    Client.copy: 3,
    Client.delete: 4,
    Client.read: 4,
    Client.read_replica: 5,
    Client.scratch: 2,
    Client.disconnect: 0.3,
}
