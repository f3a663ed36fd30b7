"""scripts/chaos: 20 clients store, run, batch and read while servers are killed and links are cut.

A master and two replicas with appendonly and appendfsync always, on loopback. Faults come one after another. What has
to hold, because Redis guarantees it with these settings:

- A write that was answered is in the master's AOF. So a master that ends in any way and starts again from its AOF has
  lost none.
- A write that a replica has acknowledged (WAIT 1) outlives the loss of the master if the replica with the larger
  offset is promoted. That is done only when both replicas are in step beforehand and no other is there: otherwise the
  one that acknowledged a write may be the very one that is missing.
- A replica whose data came by a full sync writes its AOF anew; until that is done it is not promoted.

Now and then everything rests: then every key holds what its client expects, the servers have the same digest, some of
them have it again when they have started from their AOFs, and memory is measured when only the models that all share
are left.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import subprocess
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
from testkit.server import Server, module_path
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.soak.door import Door
from tests.soak.owner import DEEDS, SHARED, Link, Lost, Owner, Tally, Wrong, kind_of, stock, store_shared
from tests.soak.soak import ask

CLIENTS = 20
REST_EVERY = 60.0  # seconds
MOST_RSS_GROWTH = 64 << 20
MOST_MEMORY_GROWTH = 1 << 20
SERVER = (
    *("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-min-size", "16mb"),
    *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--repl-timeout", "10"),
    *("--repl-backlog-size", "4mb"),
)
# What a log may not hold, whatever happens to the server. Signal 10 is Redis's own way of ending its children.
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


class Node:
    """A server and the door through which its replicas come."""

    def __init__(self, name: str, folder: Path, options: list[str | int], steady: bool = False) -> None:
        folder.mkdir()
        self.name = name
        self.steady = steady  # never ended, so that its memory can be watched
        self.server = Server(folder, SERVER, options, module_path())
        self.door = Door(lambda: self.server.port)

    def wire(self) -> Wire:
        return self.server.wire()

    def start(self, master: Node | None = None, *more: str) -> None:
        follow = ["--replicaof", f"127.0.0.1 {master.door.port}"] if master else []
        self.server.arguments = [*SERVER, *follow, *more]
        self.server.start()

    def ask(self, *words: str | int) -> object:
        with self.wire() as wire:
            return wire.ask(*words)

    def info(self, *sections: str) -> dict[str, str]:
        with self.wire() as wire:
            text = wire.ask("INFO", *sections)
        if isinstance(text, Error):
            return {"loading": "1"}
        return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)

    def digest(self) -> object:
        return self.ask("DEBUG", "DIGEST")

    def end(self, number: signal.Signals) -> None:
        """Ends it, and sees that it had not ended by itself, nor ends otherwise than it should."""
        process = self.server.process
        assert process
        if process.poll() is not None:
            raise Wrong(f"{self.name} had ended with {process.returncode} by itself")
        wanted = -signal.SIGKILL if number == signal.SIGKILL else 0
        try:
            got = self.server.end(number)
        except subprocess.TimeoutExpired as error:
            raise Wrong(f"{self.name} did not end after {number.name}") from error
        if got != wanted:
            raise Wrong(f"{self.name} ended with {got} after {number.name}")

    def alive(self) -> bool:
        return bool(self.server.process and self.server.process.poll() is None)


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
    keys: int = 0  # keys checked at rests
    rests: int = 0

    def check(self) -> list[str]:
        """All that went wrong."""
        return self.tally.wrong + [
            f"{name} of {first.node} grew by {grown} bytes in one process, more than {most}"
            for first, last in self.spans()
            for name, grown, most in (
                ("RSS", last.rss - first.rss, MOST_RSS_GROWTH),
                ("used_memory", last.used - first.used, MOST_MEMORY_GROWTH),
            )
            if grown > most
        ]

    def spans(self) -> list[tuple[Memory, Memory]]:
        """The first and last measurement of each process that was measured twice."""
        by_process: dict[int, list[Memory]] = {}
        for memory in self.memory:
            by_process.setdefault(memory.pid, []).append(memory)
        return [(found[0], found[-1]) for found in by_process.values() if len(found) > 1]


class Chaos:
    def __init__(self, folder: Path, seed: int, result: Result, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.result = result
        self.say = say
        self.stop = threading.Event()
        self.nodes = [
            Node("a", folder / "a", ["THREADS_PER_QUEUE", 1]),
            Node("b", folder / "b", ["THREADS_PER_QUEUE", 2]),
            Node("c", folder / "c", ["THREADS_PER_QUEUE", 2], steady=True),
        ]
        self.guests: list[Node] = []
        self.children: list[str] = []  # of servers that were killed
        self.master = self.nodes[0]
        self.owners = [
            Owner(number, seed, lambda: self.master.server.port, lambda: [n.server.port for n in self.replicas])
            for number in range(CLIENTS)
        ]

    @property
    def replicas(self) -> list[Node]:
        return [node for node in self.nodes if node is not self.master]

    def start(self) -> None:
        for node in self.nodes:
            node.start(None if node is self.master else self.master)
        with self.master.wire() as wire:
            for key in SHARED:
                ask(wire, *store_shared(key))

    def close(self) -> None:
        for node in (*self.nodes, *self.guests):
            node.server.kill()
            node.door.close()
        wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in self.children), 30, "their children end")

    # ---- what all faults need

    def some(self, least: float, most: float) -> float:
        return self.random.uniform(least, most)

    def pause(self, least: float, most: float) -> None:
        time.sleep(self.some(least, most))

    def replica(self, mortal: bool = False) -> Node:
        return self.random.choice([node for node in self.replicas if not (mortal and node.steady)])

    def kill(self, node: Node) -> None:
        pid = node.server.pid
        self.children += Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        node.end(signal.SIGKILL)

    def in_step(self) -> None:
        """Waits until both replicas have all that the master has by now, in their AOFs too."""
        offset = int(self.master.info("replication")["master_repl_offset"])

        def there(node: Node) -> bool:
            info = node.info("replication", "persistence")
            wanted = {
                "loading": "0",
                "async_loading": "0",
                "aof_rewrite_in_progress": "0",
                "aof_rewrite_scheduled": "0",
            }
            wanted |= {"role": "slave", "master_link_status": "up", "master_sync_in_progress": "0"}
            return wanted.items() <= info.items() and int(info["slave_repl_offset"]) >= offset

        for node in self.replicas:
            try:
                wait_for(lambda: there(node), 60)  # noqa: B023 - is called here
            except AssertionError as error:
                raise Wrong(
                    f"{node.name} is not in step after 60 s: {node.info('replication', 'persistence')}"
                ) from error

    def follow(self, node: Node, master: Node) -> None:
        with node.wire() as wire:
            ask(wire, "REPLICAOF", "127.0.0.1", master.door.port)

    def hand_over(self) -> None:
        """FAILOVER to a replica in step; nothing may be lost, acknowledged by a replica or not."""
        self.in_step()
        old, new = self.master, self.random.choice([n for n in self.replicas if not n.steady or not self.master.steady])
        with old.wire() as wire:
            ask(wire, "FAILOVER", "TO", "127.0.0.1", new.server.port, "TIMEOUT", 5000)
            wait_for(
                lambda: b"master_failover_state:no-failover" in wire.ask("INFO", "replication"), 30, "FAILOVER ends"
            )
            if b"role:slave" not in wire.ask("INFO", "replication"):
                self.result.faults["hand_over refused"] += 1
                return
        wait_for(lambda: new.info("replication").get("role") == "master", 30, "the new master")
        self.master = new
        for node in self.replicas:
            self.follow(node, new)  # through its door

    def mortal_master(self) -> None:
        while self.master.steady:
            self.hand_over()

    # ---- faults

    def kill_master(self) -> None:
        self.mortal_master()
        self.kill(self.master)
        self.pause(0, 1)
        self.master.start()

    def kill_master_at_work(self) -> None:
        """While it saves or rewrites its AOF."""
        self.mortal_master()
        self.master.ask(self.random.choice(("BGSAVE", "BGREWRITEAOF")))
        self.pause(0, 0.3)
        self.kill_master()

    def kill_master_and_promote(self) -> None:
        self.mortal_master()
        self.in_step()
        old = self.master
        self.kill(old)
        for node in self.replicas:
            wait_for(lambda: node.info("replication").get("master_link_status") == "down", 20, "link down")  # noqa: B023
        infos = {node.name: node.info("replication", "persistence") for node in self.replicas}
        if any(info.get("master_sync_in_progress") != "0" for info in infos.values()):
            old.start()
            return
        new = max(self.replicas, key=lambda node: (int(infos[node.name]["slave_repl_offset"]), not node.steady))
        with new.wire() as wire:
            ask(wire, "REPLICAOF", "NO", "ONE")
        self.master = new
        for node in self.replicas:
            if node is not old:
                self.follow(node, new)
        self.pause(0, 2)
        old.start(new)

    def terminate_master(self) -> None:
        """In order; it waits for its replicas then, with writes paused."""
        self.mortal_master()
        self.terminate(self.master)
        self.master.start()

    def terminate(self, node: Node) -> None:
        info = node.info("replication", "persistence")
        if info.get("role") == "slave":
            # a replica refuses to end while it writes its first AOF
            self.in_step()
        number = self.random.choice((signal.SIGTERM, signal.SIGINT, None))
        if number:
            node.end(number)
            return
        words = self.random.choice((["NOSAVE"], ["SAVE"], ["NOW"], ["FORCE"], []))
        with node.wire() as wire:
            wire.send("SHUTDOWN", *words)
            assert node.server.process
            try:
                status = node.server.process.wait(30)
            except subprocess.TimeoutExpired as error:
                raise Wrong(f"{node.name} did not end after SHUTDOWN {words}") from error
        if status:
            raise Wrong(f"{node.name} ended with {status} after SHUTDOWN {words}")

    def kill_replica(self) -> None:
        node = self.replica(mortal=True)
        self.kill(node)
        self.pause(0, 2)
        node.start(self.master)

    def terminate_replica(self) -> None:
        node = self.replica(mortal=True)
        self.terminate(node)
        self.pause(0, 1)
        node.start(self.master)

    def cut_replicas(self) -> None:
        self.master.ask("CLIENT", "KILL", "TYPE", "replica")

    def cut_master(self) -> None:
        self.replica().ask("CLIENT", "KILL", "TYPE", "master")

    def cut_clients(self) -> None:
        self.random.choice(self.nodes).ask("CLIENT", "KILL", "TYPE", "normal")

    def cut_links(self) -> None:
        for _ in range(self.random.randint(1, 5)):
            self.master.door.cut()
            self.pause(0, 0.5)

    def hold_links(self) -> None:
        self.master.door.hold()
        self.pause(0.1, 3)
        if self.random.random() < 0.5:
            self.master.door.cut()
        self.master.door.release()

    def detach(self) -> None:
        node = self.replica()
        with node.wire() as wire:
            ask(wire, "REPLICAOF", "NO", "ONE")
            self.pause(0, 0.5)
        self.follow(node, self.master)

    def save(self) -> None:
        self.random.choice(self.nodes).ask("BGSAVE", "SCHEDULE")

    def rewrite(self) -> None:
        self.random.choice(self.nodes).ask("BGREWRITEAOF")

    def pause_clients(self) -> None:
        self.master.ask("CLIENT", "PAUSE", self.random.randint(10, 1000), self.random.choice(("WRITE", "ALL")))
        if self.random.random() < 0.3:
            self.pause(0, 0.2)
            self.master.ask("CLIENT", "UNPAUSE")

    def hang(self) -> None:
        process = self.random.choice(self.nodes).server.process
        assert process
        process.send_signal(signal.SIGSTOP)
        self.pause(0.1, 1)
        process.send_signal(signal.SIGCONT)

    def configure(self) -> None:
        name, values = self.random.choice(list(SETTINGS.items()))
        words = ["AI.CONFIG", name] if name.isupper() else ["CONFIG", "SET", name]
        with self.random.choice(self.nodes).wire() as wire:
            reply = wire.ask(*words, self.random.choice(values))
            if reply != b"OK" and not str(reply).startswith("LOADING"):
                raise Wrong(f"{name}: {reply}")

    def flush(self) -> None:
        with self.master.wire() as wire:
            wire.ask("SELECT", 9)
            words = self.random.choice((["FLUSHDB", "ASYNC"], ["FLUSHDB", "SYNC"], ["SWAPDB", "8", "9"]))
            wire.ask(*words)

    def guest(self) -> None:
        """A third replica comes, of the master or of another replica, and goes."""
        self.in_step()
        name = f"guest{len(self.guests)}"
        node = Node(name, self.folder / name, [])
        self.guests.append(node)
        load = self.random.choice(("disabled", "on-empty-db", "swapdb"))
        node.start(self.random.choice(self.nodes), "--repl-diskless-load", load)
        wait_for(lambda: node.info("replication").get("master_link_status") == "up", 60, "the guest's first sync")
        if self.random.random() < 0.5:
            self.kill(node)
        else:
            wait_for(lambda: node.info("persistence")["aof_rewrite_in_progress"] == "0", 30, "the guest's AOF")
            self.terminate(node)

    # ---- the run

    def work(self, seconds: float) -> None:
        """Clients at work and faults, for so long."""
        tally = self.result.tally
        self.stop.clear()
        threads = [threading.Thread(target=owner.work, args=(self.stop, tally), daemon=True) for owner in self.owners]
        for thread in threads:
            thread.start()
        until = time.monotonic() + seconds
        names, weights = list(FAULTS), list(FAULTS.values())
        while time.monotonic() < until and not tally.wrong:
            fault = self.random.choices(names, weights)[0]
            began = time.monotonic()
            self.guarded(fault, lambda: fault(self))  # noqa: B023 - is called here
            self.result.faults[fault.__name__] += 1
            self.say(f"{fault.__name__} ({time.monotonic() - began:.1f} s), master {self.master.name}")
            if self.random.random() < 0.5:
                self.guarded(Chaos.served, self.served)
            self.pause(0, 1.5)
            for node in self.nodes:
                if not node.alive():
                    assert node.server.process
                    tally.fault(f"{node.name} ended with {node.server.process.returncode} by itself")
        self.stop.set()
        for thread in threads:
            thread.join(60)
            if thread.is_alive():
                tally.fault("a client does not come back")

    def served(self) -> None:
        """Waits until clients do what they do again."""
        tally = self.result.tally
        wanted = tally.total() + 5 * CLIENTS
        wait_for(lambda: tally.total() >= wanted or tally.wrong, 120, "clients are served again")

    def guarded(self, what: Callable[..., object], call: Callable[[], object]) -> None:
        """Errors on the way are what is looked for, too."""
        try:
            call()
        except (Wrong, Lost, AssertionError, OSError, RuntimeError, KeyError) as error:
            self.result.tally.fault(f"{what.__name__}: {error!r}"[:2000])

    def rest(self) -> None:
        """Nothing is under way: everything can be compared and measured."""
        for node in self.nodes:
            with node.wire() as wire:
                ask(wire, "CLIENT", "UNPAUSE")
            wait_for(lambda: self.idle(node), 30, "nothing is under way")  # noqa: B023 - is called here
        self.in_step()
        self.check_keys()
        self.check_digests()
        for node in self.nodes:
            if not node.steady and self.random.random() < 0.3:
                self.check_file(node)
        self.clear()
        self.measure()
        self.result.rests += 1

    def idle(self, node: Node) -> bool:
        with node.wire() as wire:
            return bool(wire.ask("CLIENT", "LIST", "TYPE", "normal").count(b"\n") == 1)

    def check_keys(self) -> None:
        known = set(SHARED)
        with closing(Link(self.master.server.port)) as wire:
            for owner in self.owners:
                for life in owner.lives:
                    self.result.keys += life.check(wire)
                    known |= {key for key, values in life.may_hold.items() if set(values) != {None}}
            found = {key.decode() for key in wire.ask("KEYS", "*")}
        if unknown := sorted(key for key in found - known if kind_of(key) != "w"):
            raise Wrong(f"keys that should not be there: {unknown[:10]}")

    def check_digests(self) -> None:
        wanted = self.master.digest()
        for node in self.replicas:
            if node.digest() != wanted:
                raise Wrong(f"{node.name} differs from its master {self.master.name}: {self.differences(node)}")

    def differences(self, node: Node) -> list[str]:
        with self.master.wire() as ours, node.wire() as theirs:
            keys = set(ours.ask("KEYS", "*")) | set(theirs.ask("KEYS", "*"))
            pairs = {key: [wire.ask("DEBUG", "DIGEST-VALUE", key) for wire in (ours, theirs)] for key in keys}
        return [f"{key!r}: {pair}" for key, pair in sorted(pairs.items()) if pair[0] != pair[1]][:10]

    def check_file(self, node: Node) -> None:
        """What it has in its AOF is what it has."""
        before = node.digest()
        self.kill(node)
        node.start()
        after = node.digest()
        if after != before:
            raise Wrong(f"{node.name} has another digest after it started from its AOF")
        for replica in self.replicas:
            if replica is node:
                self.follow(node, self.master)
        self.in_step()

    def clear(self) -> None:
        """Only the models that all share are left."""
        with self.master.wire() as wire:
            for database in 8, 9:
                wire.ask("SELECT", database)
                wire.ask("FLUSHDB")
            wire.ask("SELECT", 0)
            keys = [key for key in wire.ask("KEYS", "*") if key.decode() not in SHARED]
            for start in range(0, len(keys), 500):
                wire.ask("UNLINK", *keys[start : start + 500])
        for owner in self.owners:
            owner.lives.clear()
        self.in_step()

    def measure(self) -> None:
        for node in self.nodes:
            level = [0]

            def settled() -> bool:
                """Whatever was deleted is freed: its loader compiles and drops behind everybody's back."""
                level.append(self.used_memory(node))  # noqa: B023 - is called here
                time.sleep(0.5)
                return abs(level[-1] - level[-2]) < 10_000  # noqa: B023

            wait_for(settled, 60, "memory settles")
            node.ask("MEMORY", "PURGE")
            self.result.memory.append(Memory(node.name, node.server.pid, rss(node.server.pid), level[-1]))
            self.say(f"{self.result.memory[-1]}")

    def used_memory(self, node: Node) -> int:
        info = node.info("memory")
        buffers = ("mem_total_replication_buffers", "mem_aof_buffer", "mem_clients_normal", "mem_clients_slaves")
        return int(info["used_memory"]) - sum(int(info[name]) for name in buffers)

    def finish(self) -> None:
        for node in self.nodes:
            if not node.steady:
                self.check_file(node)
        self.check_digests()
        for node in self.replicas:
            node.end(signal.SIGTERM)
        self.master.end(signal.SIGTERM)

    def read_logs(self) -> None:
        for node in (*self.nodes, *self.guests):
            for line in node.server.log().splitlines():
                if BAD_LINES.search(line):
                    self.result.tally.fault(f"log of {node.name}: {line}")
                for name, text in COUNTED_LINES.items():
                    self.result.logged[name] += text in line


FAULTS: dict[Callable[[Chaos], None], float] = {
    Chaos.kill_master: 3,
    Chaos.kill_master_at_work: 3,
    Chaos.kill_master_and_promote: 4,
    Chaos.terminate_master: 2,
    Chaos.hand_over: 3,
    Chaos.kill_replica: 4,
    Chaos.terminate_replica: 2,
    Chaos.cut_replicas: 4,
    Chaos.cut_master: 4,
    Chaos.cut_clients: 3,
    Chaos.cut_links: 4,
    Chaos.hold_links: 4,
    Chaos.detach: 3,
    Chaos.save: 4,
    Chaos.rewrite: 4,
    Chaos.pause_clients: 4,
    Chaos.hang: 3,
    Chaos.configure: 8,
    Chaos.flush: 4,
    Chaos.guest: 2,
}
SETTINGS: dict[str, tuple[str | int, ...]] = {
    "repl-diskless-sync": ("yes", "no"),
    "repl-diskless-load": ("disabled", "on-empty-db", "swapdb"),
    "aof-use-rdb-preamble": ("yes", "no"),
    "aof-timestamp-enabled": ("yes", "no"),
    "repl-backlog-size": ("16kb", "4mb"),
    "hz": (1, 10, 100),
    "rdbcompression": ("yes", "no"),
    "lazyfree-lazy-server-del": ("yes", "no"),
    "lazyfree-lazy-user-del": ("yes", "no"),
    "replica-lazy-flush": ("yes", "no"),
    "MODEL_CHUNK_SIZE": (100, 1000, 535822336),
}


@contextmanager
def chaos(folder: Path, seed: int, result: Result, say: Callable[[str], None]) -> Iterator[Chaos]:
    made = Chaos(folder, seed, result, say)
    try:
        yield made
    finally:
        made.close()


def run(seconds: float, seed: int, folder: Path, say: Callable[[str], None] = lambda _: None) -> Result:
    result = Result(seed, seconds)
    stock()
    with chaos(folder, seed, result, say) as made:
        made.start()
        rests = max(2, round(seconds / REST_EVERY))
        for _ in range(rests):
            made.work(seconds / rests)
            if result.tally.wrong:
                break
            made.guarded(Chaos.rest, made.rest)
        if not result.tally.wrong:
            made.guarded(Chaos.finish, made.finish)
        made.read_logs()
    return result


def summary(result: Result) -> Iterator[str]:
    done = result.tally.done
    deeds = {deed.__name__: done[deed.__name__] for deed in DEEDS}
    yield f"{sum(deeds.values())} operations of {CLIENTS} clients: {listed(deeds)}"
    yield listed({name: count for name, count in done.items() if name not in deeds})
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
        result = run(options.seconds, seed, folder, say)
    print("\n".join(summary(result)))
    faults = result.check()
    print("\n".join(faults[:20]) or "all right", flush=True)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
