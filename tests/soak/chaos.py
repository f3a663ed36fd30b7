"""scripts/chaos: 20 clients store, run, batch and read while servers are killed and links are cut.

A master and two replicas with appendonly and appendfsync always, on loopback. Faults come one after another. What has
to hold, because Redis guarantees it with these settings:

- A write that was answered is in the master's AOF. So a master that ends in any way and starts again from its AOF has
  lost none.
- A write that a replica has acknowledged (WAIT 1) outlives the loss of the master if the replica with the larger
  offset is promoted. That is done only when both replicas are in step beforehand and no third one exists: otherwise the
  one that acknowledged a write may be the very one that is missing.
- A replica whose data came by a full sync writes its AOF anew; until that is done it is not promoted.

Now and then everything rests. Then every key holds what its client expects, and the servers have the same digest; some
of them have it again after a start from their AOFs. Memory is measured when only the models that all share are left.

keys.py knows what keys may hold, client.py what clients send, servers.py and proxy.py the servers and the links between
them, faults.py what happens to both.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from testkit.process import rss
from testkit.waiting import wait_for
from tests.soak.client import OPERATIONS, Client
from tests.soak.faults import FAULTS
from tests.soak.keys import SHARED, Connection, Lost, Tally, Wrong, kind_of, stock
from tests.soak.killer import killing
from tests.soak.servers import Node, Servers

CLIENTS = 20
REST_EVERY = 60.0  # seconds
MAX_RSS_GROWTH = 64 << 20
MAX_MEMORY_GROWTH = 1 << 20
# No log may hold these, whatever happens to the server. Redis itself ends its children with signal 10.
BAD_LINES = re.compile(
    r"BUG REPORT|ASSERTION|Guru|crashed by signal|CRITICAL|Traceback|panic|Bad file format|corrupt|Fatal"
    r"|terminated by signal (?!10\b)|Could not load backend|[Ee]xception",
)
COUNTED_LINES = {
    "full syncs": "MASTER <-> REPLICA sync: Finished with success",
    "partial syncs": "Successful partial resynchronization with master",
    "AOF rewrites": "Background AOF rewrite finished successfully",
    "RDB files saved": "DB saved on disk",
    "starts from an AOF": "DB loaded from append only file",
}


@dataclass(slots=True)
class Memory:
    node: str
    pid: int
    rss: int
    used: int


@dataclass(slots=True)
class Result:
    seed: int
    seconds: float
    tally: Tally = field(default_factory=Tally)
    faults: Counter[str] = field(default_factory=Counter)
    logged: Counter[str] = field(default_factory=Counter)
    memory: list[Memory] = field(default_factory=list)
    keys: int = 0  # compared at rests
    rests: int = 0

    def check(self) -> list[str]:
        """All that went wrong."""
        return self.tally.faults + [
            f"{name} of {first.node} grew by {grown} bytes in one process, more than {limit}"
            for first, last in self.spans()
            for name, grown, limit in (
                ("RSS", last.rss - first.rss, MAX_RSS_GROWTH),
                ("used_memory", last.used - first.used, MAX_MEMORY_GROWTH),
            )
            if grown > limit
        ]

    def spans(self) -> list[tuple[Memory, Memory]]:
        """The first and last measurement of each process that was measured twice."""
        by_process: dict[int, list[Memory]] = {}
        for memory in self.memory:
            by_process.setdefault(memory.pid, []).append(memory)
        return [(found[0], found[-1]) for found in by_process.values() if len(found) > 1]


class Chaos:
    """The run: clients on threads of their own, and on the main thread faults, comparisons and measurements."""

    def __init__(self, folder: Path, seed: int, result: Result, say: Callable[[str], None]) -> None:
        self.result = result
        self.say = say
        self.stop = threading.Event()
        self.kill_every = 0.0
        self.servers = servers = Servers(folder, seed)
        self.clients = [
            Client(number, seed, lambda: servers.master.server.port, lambda: [n.server.port for n in servers.replicas])
            for number in range(CLIENTS)
        ]

    def work(self, seconds: float) -> None:
        """Clients work and faults come, for so long."""
        tally = self.result.tally
        self.stop.clear()
        threads = [
            threading.Thread(target=client.work, args=(self.stop, tally), daemon=True) for client in self.clients
        ]
        for thread in threads:
            thread.start()
        with killing(lambda: [node.server for node in self.servers.nodes], self.result.seed, self.kill_every) as killer:
            self.disturb(seconds)
        self.result.faults["killed engine processes"] += killer.killed
        self.stop.set()
        for thread in threads:
            thread.join(60)
            if thread.is_alive():
                tally.fault("a client does not come back")

    def disturb(self, seconds: float) -> None:
        """Faults come, for so long."""
        tally = self.result.tally
        until = time.monotonic() + seconds
        names, weights = list(FAULTS), list(FAULTS.values())
        while time.monotonic() < until and not tally.faults:
            fault = self.servers.random.choices(names, weights)[0]
            began = time.monotonic()
            self.guarded(fault, lambda: fault(self.servers))  # noqa: B023 - is called here
            self.result.faults[fault.__name__] += 1
            self.say(f"{fault.__name__} ({time.monotonic() - began:.1f} s), master {self.servers.master.name}")
            if self.servers.random.random() < 0.5:
                self.guarded(Chaos.served, self.served)
            self.servers.pause(0, 1.5)
            for node in self.servers.nodes:
                if not node.alive():
                    assert node.server.process
                    tally.fault(f"{node.name} ended with {node.server.process.returncode} by itself")

    def served(self) -> None:
        """Waits until clients are answered again."""
        tally = self.result.tally
        wanted = tally.total() + 5 * CLIENTS
        wait_for(lambda: tally.total() >= wanted or tally.faults, 120, "clients are served again")

    def guarded(self, what: Callable[..., object], call: Callable[[], object]) -> None:
        """An error that a fault meets is a finding, too."""
        try:
            call()
        except (Wrong, Lost, AssertionError, OSError, RuntimeError, KeyError) as error:
            self.result.tally.fault(f"{what.__name__}: {error!r}"[:2000])

    def rest(self) -> None:
        """Compares and measures everything while nothing is under way."""
        for node in self.servers.nodes:
            with node.wire() as wire:
                wire.ask_ok("CLIENT", "UNPAUSE")
            wait_for(lambda: self.idle(node), 30, "nothing is under way")  # noqa: B023 - is called here
        self.servers.in_step()
        self.check_keys()
        self.check_digests()
        for node in self.servers.nodes:
            if not node.steady and self.servers.random.random() < 0.3:
                self.check_file(node)
        self.clear()
        self.measure()
        self.result.rests += 1

    def idle(self, node: Node) -> bool:
        with node.wire() as wire:
            return bool(wire.ask("CLIENT", "LIST", "TYPE", "normal").count(b"\n") == 1)

    def check_keys(self) -> None:
        known = set(SHARED)
        with closing(Connection(self.servers.master.server.port)) as wire:
            for client in self.clients:
                for session in client.sessions:
                    self.result.keys += session.check(wire)
                    known |= {key for key, values in session.may_hold.items() if set(values) != {None}}
            found = {key.decode() for key in wire.ask("KEYS", "*")}
        if unknown := sorted(key for key in found - known if kind_of(key) != "w"):
            raise Wrong(f"keys that should not be there: {unknown[:10]}")

    def check_digests(self) -> None:
        wanted = self.servers.master.digest()
        for node in self.servers.replicas:
            if node.digest() != wanted:
                raise Wrong(f"{node.name} differs from its master {self.servers.master.name}: {self.differences(node)}")

    def differences(self, node: Node) -> list[str]:
        with self.servers.master.wire() as ours, node.wire() as theirs:
            keys = set(ours.ask("KEYS", "*")) | set(theirs.ask("KEYS", "*"))
            pairs = {key: [wire.ask("DEBUG", "DIGEST-VALUE", key) for wire in (ours, theirs)] for key in keys}
        return [f"{key!r}: {pair}" for key, pair in sorted(pairs.items()) if pair[0] != pair[1]][:10]

    def check_file(self, node: Node) -> None:
        """Its AOF holds what it holds itself."""
        before = node.digest()
        self.servers.kill(node)
        node.start()
        after = node.digest()
        if after != before:
            raise Wrong(f"{node.name} has another digest after it started from its AOF")
        for replica in self.servers.replicas:
            if replica is node:
                self.servers.follow(node, self.servers.master)
        self.servers.in_step()

    def clear(self) -> None:
        """Deletes all but the models that all share."""
        with self.servers.master.wire() as wire:
            for database in 8, 9:
                wire.ask("SELECT", database)
                wire.ask("FLUSHDB")
            wire.ask("SELECT", 0)
            keys = [key for key in wire.ask("KEYS", "*") if key.decode() not in SHARED]
            for start in range(0, len(keys), 500):
                wire.ask("UNLINK", *keys[start : start + 500])
        for client in self.clients:
            client.sessions.clear()
        self.servers.in_step()

    def measure(self) -> None:
        for node in self.servers.nodes:
            level = [0]

            def settled() -> bool:
                """Whether both libraries are imported and what was deleted is freed: the loader does both later."""
                level.append(self.used_memory(node))  # noqa: B023 - is called here
                time.sleep(0.5)
                found = node.info("modules")  # noqa: B023
                imported = {"ai_Torch_version", "ai_onnxruntime_version"} <= found.keys()
                return imported and abs(level[-1] - level[-2]) < 10_000  # noqa: B023

            wait_for(settled, 60, "memory settles")
            node.ask("MEMORY", "PURGE")
            self.result.memory.append(Memory(node.name, node.server.pid, rss(node.server.pid), level[-1]))
            self.say(f"{self.result.memory[-1]}")

    def used_memory(self, node: Node) -> int:
        info = node.info("memory")
        buffers = ("mem_total_replication_buffers", "mem_aof_buffer", "mem_clients_normal", "mem_clients_slaves")
        return int(info["used_memory"]) - sum(int(info[name]) for name in buffers)

    def finish(self) -> None:
        for node in self.servers.nodes:
            if not node.steady:
                self.check_file(node)
        self.check_digests()
        for node in self.servers.replicas:
            node.end(signal.SIGTERM)
        self.servers.master.end(signal.SIGTERM)

    def read_logs(self) -> None:
        for node in (*self.servers.nodes, *self.servers.guests):
            for line in node.server.log().splitlines():
                if BAD_LINES.search(line):
                    self.result.tally.fault(f"log of {node.name}: {line}")
                for name, text in COUNTED_LINES.items():
                    self.result.logged[name] += text in line


@contextmanager
def chaos(folder: Path, seed: int, result: Result, say: Callable[[str], None]) -> Iterator[Chaos]:
    made = Chaos(folder, seed, result, say)
    try:
        yield made
    finally:
        made.servers.close()


def run(
    seconds: float, seed: int, folder: Path, say: Callable[[str], None] = lambda _: None, kill_every: float = 0
) -> Result:
    """kill_every: seconds between the ends of engine processes; 0: the embedded mode."""
    result = Result(seed, seconds)
    stock()
    with chaos(folder, seed, result, say) as made:
        made.kill_every = kill_every
        for node in made.servers.nodes if kill_every else []:
            node.server.options += ["ISOLATION", "process"]
        made.servers.start()
        rests = max(2, round(seconds / REST_EVERY))
        for _ in range(rests):
            made.work(seconds / rests)
            if result.tally.faults:
                break
            made.guarded(Chaos.rest, made.rest)
        if not result.tally.faults:
            made.guarded(Chaos.finish, made.finish)
        made.read_logs()
        result.faults["hand_over refused"] = made.servers.refused_failovers
    return result


def summary(result: Result) -> Iterator[str]:
    done = result.tally.done
    operations = {each.__name__: done[each.__name__] for each in OPERATIONS}
    yield f"{sum(operations.values())} operations of {CLIENTS} clients: {listed(operations)}"
    yield listed({name: count for name, count in done.items() if name not in operations})
    yield f"{sum(result.faults.values())} faults: {listed(result.faults)}"
    yield f"by the logs: {listed(result.logged)}"
    yield f"{result.rests} rests, with {result.keys} keys checked on the master, digests of all servers equal"
    yield f"errors that faults explain: {listed(result.tally.errors)}"
    for first, last in result.spans():
        level = f"RSS {first.rss / 1e6:.1f} -> {last.rss / 1e6:.1f}"
        level += f", used_memory {first.used / 1e6:.2f} -> {last.used / 1e6:.2f}"
        yield f"memory of {first.node} (process {first.pid}), MB: {level}"


def listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in sorted(counts.items()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="how long clients work (default 600)")
    parser.add_argument("--seed", type=int, default=None, help="of operations and faults (default: of the clock)")
    parser.add_argument("--folder", type=Path, help="where servers' files go, and stay (default: removed afterwards)")
    parser.add_argument("--kill", type=float, default=0, help="end an engine process every so many seconds")
    parser.add_argument("--verbose", action="store_true", help="tell of every fault")
    options = parser.parse_args()

    seed = int(time.time()) if options.seed is None else options.seed
    began = time.monotonic()
    print(f"seed {seed}, {options.seconds:g} s", flush=True)

    def say(text: str) -> None:
        if options.verbose:
            print(f"{time.monotonic() - began:6.1f}  {text}", flush=True)

    with TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        result = run(options.seconds, seed, folder, say, options.kill)
    print("\n".join(summary(result)))
    faults = result.check()
    print("\n".join(faults[:20]) or "all right", flush=True)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
