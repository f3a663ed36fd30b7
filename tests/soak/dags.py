"""scripts/dags: many clients at once send random DAGs to four queues, and know what each has to be answered.

Models of ONNX and TORCH, batched and not, and scripts lie on CPU, CPU:1, CPU:2 and CPU:3; every DAG mixes them. Each
client sends one command after another, DAGs mostly, and compares every reply, and now and then what was stored. A
reply that takes longer than WATCHDOG seconds counts as a deadlock. Memory is compared between two moments at which
nothing runs.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from dataclasses import dataclass, field
from random import Random

from testkit.process import rss
from testkit.random_dags import Array, Dag, Run, Runnable, meaning_of, random_dag, random_value, runnables, store_all
from testkit.server import Server, fresh_server, settled_memory
from testkit.waiting import wait_until_alone
from testkit.wire import Wire
from tests.soak.soak import MOST_MEMORY_GROWTH, MOST_RSS_GROWTH, WARMUP, WATCHDOG

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
    rss: list[int] = field(default_factory=list)  # after the warm-up, and at the end
    memory: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def check(self) -> list[str]:
        """All that went wrong."""
        faults = list(self.faults)
        for name, values, most in (
            ("RSS", self.rss, MOST_RSS_GROWTH),
            ("used_memory", self.memory, MOST_MEMORY_GROWTH),
        ):
            if len(values) == 2 and values[1] - values[0] > most:
                faults.append(f"{name} grew by {values[1] - values[0]} bytes, more than {most}")
        return faults


class Fault(Exception):
    """A reply is not what it has to be."""


class Peer:
    """One client, with keys of its own."""

    def __init__(self, number: int, among: list[Runnable], result: Result) -> None:
        self.number = number
        self.random = Random(f"{result.seed}/{number}")
        self.among = among
        self.keys = [f"{number}:in{i}" for i in range(2)]
        self.names = [f"{number}:{name}" for name in "abcdef"]
        self.keyspace: dict[str, Array] = {}
        self.dags = self.ops = self.failures = self.singles = 0
        self.slowest = 0.0

    def work(self, wire: Wire) -> None:
        if not self.keyspace or self.random.randrange(10) == 0:
            for key in self.keys:
                self.keyspace[key] = value = random_value(self.random, 2)
                self.ask(wire, ("AI.TENSORSET", key, "FLOAT", *value.shape, "BLOB", value.tobytes()), b"OK")
        if self.random.randrange(4) == 0:
            self.send_single(wire)
        else:
            self.send_dag(wire)
        if self.random.randrange(4) == 0:
            self.look(wire)

    def ask(self, wire: Wire, words: tuple[object, ...], expected: object) -> None:
        reply = wire.ask(*words)  # type: ignore[arg-type]
        if reply != expected:
            raise Fault(f"{words} was answered {reply}, not {expected}")

    def send_dag(self, wire: Wire) -> None:
        dag = random_dag(self.random, self.among, self.keys, self.names, faults=self.random.randrange(20) == 0)
        meaning = meaning_of(dag, self.keyspace)
        start = time.monotonic()
        reply = wire.ask(*dag.words())
        self.slowest = max(self.slowest, time.monotonic() - start)
        fault = meaning.check(reply)
        if fault:
            raise Fault(f"{fault}\n  sent: {dag.words()}\n  answered: {reply}")
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
        reply = wire.ask(*run.words())
        fault = meaning.check([reply])
        if fault:
            raise Fault(f"{fault}\n  sent: {run.words()}\n  answered: {reply}")
        self.keyspace |= meaning.stored
        self.singles += 1

    def look(self, wire: Wire) -> None:
        """At one stored tensor, and forgets it."""
        stored = [name for name in self.names if name in self.keyspace]
        if stored:
            name = self.random.choice(stored)
            self.ask(wire, ("AI.TENSORGET", name, "BLOB"), self.keyspace.pop(name).tobytes())
            self.ask(wire, ("DEL", name), 1)

    def clear(self, wire: Wire) -> None:
        for name in self.names:
            self.ask(wire, ("DEL", name), int(self.keyspace.pop(name, None) is not None))


@dataclass(slots=True)
class Clients:
    """The clients of one server; work() lets them all go to it for so long."""

    on: Server
    peers: list[Peer]
    result: Result
    stop_at: float = 0.0

    def work(self, seconds: float) -> None:
        self.stop_at = time.monotonic() + seconds
        threads = [threading.Thread(target=self.client, args=(peer,), daemon=True) for peer in self.peers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.result.dags = sum(peer.dags for peer in self.peers)
        self.result.ops = sum(peer.ops for peer in self.peers)
        self.result.failures = sum(peer.failures for peer in self.peers)
        self.result.singles = sum(peer.singles for peer in self.peers)
        self.result.slowest = max(peer.slowest for peer in self.peers)

    def client(self, peer: Peer) -> None:
        fault = ""
        try:
            with Wire(self.on.port, timeout=WATCHDOG) as wire:
                while time.monotonic() < self.stop_at and not self.result.faults:
                    peer.work(wire)
                peer.clear(wire)
        except TimeoutError:
            fault = f"no reply for {WATCHDOG:g} s"
        except Exception as error:
            fault = str(error) if isinstance(error, Fault) else repr(error)
        if fault:  # lists are appended to whole
            self.result.faults.append(f"client {peer.number}, DAG {peer.dags}: {fault}")


def soak(seconds: float, seed: int, threads_per_queue: int = 1) -> Result:
    result = Result(seed)
    among = runnables(DEVICES)
    with fresh_server(threads_per_queue) as on:
        with on.wire() as wire:
            store_all(wire, among)
        clients = Clients(on, [Peer(number, among, result) for number in range(CLIENTS)], result)
        for share in WARMUP, 1 - WARMUP:
            clients.work(seconds * share)
            with on.wire() as wire:
                wait_until_alone(wire)
            result.rss.append(rss(on.pid))
            result.memory.append(settled_memory(on))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/dags", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (default 120)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is sent")
    parser.add_argument("--threads", type=int, default=1, help="THREADS_PER_QUEUE (default 1)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when anything went wrong")
    options = parser.parse_args()

    print(f"{CLIENTS} clients, {len(DEVICES)} queues, {options.seconds:g} s, seed {options.seed}", flush=True)
    result = soak(options.seconds, options.seed, options.threads)
    faults = result.check()
    memory = [f"{before / 1e6:.1f} -> {after / 1e6:.1f} MB" for before, after in (result.rss, result.memory)]
    print(f"{result.dags} DAGs with {result.ops} ops, {result.failures} of them with a failing one")
    print(f"{result.singles} single runs; slowest DAG {result.slowest * 1e3:.0f} ms")
    print(f"RSS {memory[0]}, used_memory {memory[1]}")
    print("\n".join(faults[:3]) or "every reply was right")
    return int(options.check and bool(faults))


if __name__ == "__main__":
    sys.exit(main())
