"""scripts/dags: many clients at once send random DAGs to four queues, and know what each has to be answered.

Models of ONNX and TORCH, batched and not, and scripts lie on CPU, CPU:1, CPU:2 and CPU:3; every DAG mixes them. Each
client sends one command after another, DAGs mostly, and compares every reply, and now and then what was stored. A
reply that takes too long counts as a deadlock. Memory is compared between two moments at which nothing runs (run.py).
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from testkit.random_dags import (
    Array,
    Dag,
    DagMeaning,
    Run,
    Runnable,
    Set,
    meaning_of,
    random_dag,
    random_value,
    runnables,
    store_all,
)
from testkit.server import fresh_server
from testkit.wire import Simple, Wire, Word, encode
from tests.soak.killer import is_ended, killing
from tests.soak.run import WARMUP, WATCHDOG, Growth, work_at_once

CLIENTS = 64
DEVICES = ("CPU", "CPU:1", "CPU:2", "CPU:3")


@dataclass(slots=True)
class Result:
    seed: int
    dags: int = 0
    ops: int = 0
    failures: int = 0  # DAGs with an op that had to fail
    singles: int = 0
    slowest: float = 0.0
    killed: int = 0  # engine processes
    ended: int = 0  # commands that failed by that
    growth: Growth = field(default_factory=Growth)
    faults: list[str] = field(default_factory=list)

    def check(self) -> list[str]:
        """All that went wrong."""
        return self.faults + self.growth.faults()


class Fault(Exception):
    """A reply is not what it has to be."""


class Sender:
    """What every client has: keys of its own, a source of random numbers, and how replies are judged."""

    def __init__(self, number: int, seed: int, among: list[Runnable]) -> None:
        self.number = number
        self.random = Random(f"{seed}/{number}")
        self.among = among
        self.names = [f"{number}:{name}" for name in "abcdef"]
        self.ended = 0

    def judge(self, words: tuple[Word, ...], reply: Any, meaning: DagMeaning) -> bool:
        """reply: the array of a DAG's replies. Whether it was run: else the end of a process has failed it."""
        if isinstance(reply, list) and any(map(is_ended, reply)):
            self.ended += 1
            return False
        if fault := meaning.check(reply):
            raise Fault(f"client {self.number}: {fault}\n  sent: {words}\n  answered: {reply}")
        return True

    def expect(self, wire: Wire, words: tuple[Word, ...], expected: object) -> None:
        reply = wire.ask(*words)
        if reply != expected:
            raise Fault(f"client {self.number}: {words} was answered {reply}, not {expected}")


class Client(Sender):
    """Sends one command after another, and knows what is stored under its keys."""

    def __init__(self, number: int, among: list[Runnable], result: Result) -> None:
        super().__init__(number, result.seed, among)
        self.keys = [f"{number}:in{i}" for i in range(2)]
        self.keyspace: dict[str, Array] = {}
        self.result = result
        self.dags = self.ops = self.failures = self.singles = 0
        self.slowest = 0.0

    def run(self, port: int, until: float) -> None:
        try:
            with Wire(port, timeout=WATCHDOG) as wire:
                while time.monotonic() < until and not self.result.faults:
                    self.work(wire)
                self.clear(wire)
        except TimeoutError:
            self.result.faults.append(f"client {self.number}, DAG {self.dags}: no reply for {WATCHDOG:g} s")
        except Exception as error:
            fault = str(error) if isinstance(error, Fault) else f"client {self.number}: {error!r}"
            self.result.faults.append(fault)  # one list for all threads: it is appended to whole

    def work(self, wire: Wire) -> None:
        if not self.keyspace or self.random.randrange(10) == 0:
            for key in self.keys:
                self.keyspace[key] = value = random_value(self.random, 2)
                self.expect(wire, ("AI.TENSORSET", key, "FLOAT", *value.shape, "BLOB", value.tobytes()), b"OK")
        if self.random.randrange(4) == 0:
            self.send_single(wire)
        else:
            self.send_dag(wire)
        if self.random.randrange(4) == 0:
            self.read_one(wire)

    def send_dag(self, wire: Wire) -> None:
        dag = random_dag(self.random, self.among, self.keys, self.names, faults=self.random.randrange(20) == 0)
        meaning = meaning_of(dag, self.keyspace)
        start = time.monotonic()
        reply = wire.ask(*dag.words())
        self.slowest = max(self.slowest, time.monotonic() - start)
        if self.judge(dag.words(), reply, meaning):
            self.keyspace |= meaning.stored
        self.dags += 1
        self.ops += len(meaning.needs)
        self.failures += bool(meaning.raises)

    def send_single(self, wire: Wire) -> None:
        """A plain AI.MODELEXECUTE or AI.SCRIPTEXECUTE, which shares batches with DAGs."""
        runnable = self.random.choice(self.among)
        inputs = tuple(self.random.choice(self.keys) for _ in range(runnable.inputs[1]))
        outputs = tuple(self.random.sample(self.names, runnable.outputs))
        run = Run(runnable, inputs, outputs)
        meaning = meaning_of(Dag([run], tuple(self.keys), outputs), self.keyspace)
        if self.judge(run.words(), [wire.ask(*run.words())], meaning):
            self.keyspace |= meaning.stored
        self.singles += 1

    def read_one(self, wire: Wire) -> None:
        """Compares one stored tensor, and deletes it."""
        stored = [name for name in self.names if name in self.keyspace]
        if stored:
            name = self.random.choice(stored)
            self.expect(wire, ("AI.TENSORGET", name, "BLOB"), self.keyspace.pop(name).tobytes())
            self.expect(wire, ("DEL", name), 1)

    def clear(self, wire: Wire) -> None:
        for name in self.names:
            self.expect(wire, ("DEL", name), int(self.keyspace.pop(name, None) is not None))


class ImpatientClient(Sender):
    """Sends DAGs and plain runs, several at once, many with a TIMEOUT; breaks the connection now and then.

    After each command it sends an ECHO of its number: so no reply can be missing or too many. hanging: a model whose
    batches never fill, so that its runs can only time out.
    """

    def __init__(self, number: int, seed: int, among: list[Runnable], hanging: str) -> None:
        super().__init__(number, seed, among)
        self.hanging = hanging
        self.answered = self.timed_out = self.left = 0
        self.fault = "a reply is missing"

    def run(self, port: int, until: float) -> None:
        try:
            while time.monotonic() < until:
                self.connection(port)
            self.fault = ""
        except Exception as error:
            self.fault = repr(error)

    def connection(self, port: int) -> None:
        with Wire(port) as wire:
            for _ in range(self.random.randint(1, 20)):
                sent = [self.request() for _ in range(self.random.randint(1, 5))]
                wire.socket.sendall(b"".join(encode(words) + encode(("ECHO", i)) for i, (words, _) in enumerate(sent)))
                if self.random.randrange(12) == 0:
                    self.left += 1
                    wire.abort()
                    return
                for i, (words, meaning) in enumerate(sent):
                    self.check(words, wire.read(), meaning)
                    echo = wire.read()
                    if echo != b"%d" % i:
                        raise Fault(f"{echo!r} came for ECHO {i}, after {words}")

    def request(self) -> tuple[tuple[Word, ...], DagMeaning]:
        dag = random_dag(self.random, self.among, (), self.names, max_ops=6, faults=False)
        if self.random.randrange(2):
            dag.timeout = self.random.randint(1, 20)
        if self.random.randrange(8):
            return dag.words(), meaning_of(dag, {})
        dag.timeout = self.random.randint(1, 20)
        name = self.names[0]
        extra = ("|>", *Set(name, random_value(self.random, 2), "BLOB").words())
        run = ("|>", "AI.MODELEXECUTE", self.hanging, "INPUTS", 1, name, "OUTPUTS", 1, name)
        return (*dag.words(), *extra, *run), DagMeaning(dag, "TIMEDOUT")

    def check(self, words: tuple[Word, ...], reply: Any, meaning: DagMeaning) -> None:
        if isinstance(reply, Simple) and reply == b"TIMEDOUT":
            if not meaning.dag.timeout:
                raise Fault(f"{words} timed out")
            self.timed_out += 1
            return
        if meaning.refused == "TIMEDOUT":  # a failure elsewhere ends it at once
            if not isinstance(reply, list) or reply[-1] != b"NA":
                raise Fault(f"{words} was answered {reply}")
        else:
            self.judge(words, reply, meaning)
        self.answered += 1


def soak(seconds: float, seed: int, threads_per_queue: int = 1, kill_every: float = 0) -> Result:
    """kill_every: seconds between the ends of engine processes; 0: the embedded mode."""
    result = Result(seed)
    among = runnables(DEVICES)
    with fresh_server(threads_per_queue, "process" if kill_every else "none") as on:
        with on.wire() as wire:
            store_all(wire, among)
        clients = [Client(number, among, result) for number in range(CLIENTS)]
        for share in WARMUP, 1 - WARMUP:
            until = time.monotonic() + seconds * share
            with killing(lambda: [on], seed, kill_every) as killer:
                work_at_once(partial(client.run, on.port, until) for client in clients)
            result.killed += killer.killed
            result.growth.measure(on)
    for name in "dags", "ops", "failures", "singles", "ended":
        setattr(result, name, sum(getattr(client, name) for client in clients))
    result.slowest = max(client.slowest for client in clients)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/dags", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (default 120)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is sent")
    parser.add_argument("--threads", type=int, default=1, help="THREADS_PER_QUEUE (default 1)")
    parser.add_argument("--kill", type=float, default=0, help="end an engine process every so many seconds")
    parser.add_argument("--check", action="store_true", help="exit with 1 when anything went wrong")
    options = parser.parse_args()

    print(f"{CLIENTS} clients, {len(DEVICES)} queues, {options.seconds:g} s, seed {options.seed}", flush=True)
    result = soak(options.seconds, options.seed, options.threads, options.kill)
    faults = result.check()
    print(f"{result.dags} DAGs with {result.ops} ops, {result.failures} of them with a failing one")
    print(f"{result.singles} single runs; slowest DAG {result.slowest * 1e3:.0f} ms")
    if options.kill:
        print(f"{result.killed} engine processes were killed; {result.ended} commands failed by that")
    print(result.growth)
    print("\n".join(faults[:3]) or "every reply was right")
    return int(options.check and bool(faults))


if __name__ == "__main__":
    sys.exit(main())
