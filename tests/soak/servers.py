"""The servers of scripts/chaos: a master and two replicas, how they end, follow and hand over.

Called by the main thread only, but for the ports that clients ask for.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

from testkit.server import Server, module_path
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.soak.keys import SHARED, Wrong, store_shared
from tests.soak.proxy import Proxy

SERVER = (
    *("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-min-size", "16mb"),
    *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--repl-timeout", "10"),
    *("--repl-backlog-size", "4mb"),
)
IN_STEP = {
    **{"loading": "0", "async_loading": "0", "aof_rewrite_in_progress": "0", "aof_rewrite_scheduled": "0"},
    **{"role": "slave", "master_link_status": "up", "master_sync_in_progress": "0"},
}


class Node:
    """A server, and the proxy through which its replicas connect."""

    def __init__(self, name: str, folder: Path, options: list[str | int], steady: bool = False) -> None:
        folder.mkdir()
        self.name = name
        self.steady = steady  # never ended, so that its memory can be watched
        self.server = Server(folder, SERVER, options, module_path())
        self.proxy = Proxy(lambda: self.server.port)

    def wire(self) -> Wire:
        return self.server.wire()

    def start(self, master: Node | None = None, *more: str) -> None:
        follow = ["--replicaof", f"127.0.0.1 {master.proxy.port}"] if master else []
        self.server.arguments = [*SERVER, *follow, *more]
        self.server.start()

    def ask(self, *words: str | int) -> object:
        with self.wire() as wire:
            return wire.ask(*words)

    def info(self, *sections: str) -> dict[str, str]:
        try:
            return self.server.info(*sections)
        except RuntimeError:  # an error instead of fields
            return {"loading": "1"}

    def digest(self) -> object:
        return self.ask("DEBUG", "DIGEST")

    def end(self, number: signal.Signals) -> None:
        """Ends it; fails where it had ended by itself, or ends with another status than it should."""
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


class Servers:
    """Who is master changes: faults and failovers decide."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.nodes = [
            Node("a", folder / "a", ["THREADS_PER_QUEUE", 1]),
            Node("b", folder / "b", ["THREADS_PER_QUEUE", 2]),
            Node("c", folder / "c", ["THREADS_PER_QUEUE", 2], steady=True),
        ]
        self.guests: list[Node] = []
        self.children: list[str] = []  # of servers that were killed
        self.master = self.nodes[0]
        self.refused_failovers = 0

    @property
    def replicas(self) -> list[Node]:
        return [node for node in self.nodes if node is not self.master]

    def start(self) -> None:
        for node in self.nodes:
            node.start(None if node is self.master else self.master)
        with self.master.wire() as wire:
            for key in SHARED:
                wire.ask_ok(*store_shared(key))

    def close(self) -> None:
        for node in (*self.nodes, *self.guests):
            node.server.kill()
            node.proxy.close()
        wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in self.children), 30, "their children end")

    def pause(self, shortest: float, longest: float) -> None:
        time.sleep(self.random.uniform(shortest, longest))

    def replica(self, mortal: bool = False) -> Node:
        return self.random.choice([node for node in self.replicas if not (mortal and node.steady)])

    def kill(self, node: Node) -> None:
        pid = node.server.pid
        self.children += Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        node.end(signal.SIGKILL)

    def in_step(self) -> None:
        """Waits until both replicas have all that the master has by now, in their AOFs too."""
        offset = int(self.master.info("replication")["master_repl_offset"])

        def is_in_step(node: Node) -> bool:
            info = node.info("replication", "persistence")
            return IN_STEP.items() <= info.items() and int(info["slave_repl_offset"]) >= offset

        for node in self.replicas:
            try:
                wait_for(lambda: is_in_step(node), 60)  # noqa: B023 - is called here
            except AssertionError as error:
                raise Wrong(
                    f"{node.name} is not in step after 60 s: {node.info('replication', 'persistence')}"
                ) from error

    def follow(self, node: Node, master: Node) -> None:
        with node.wire() as wire:
            wire.ask_ok("REPLICAOF", "127.0.0.1", master.proxy.port)

    def hand_over(self) -> None:
        """FAILOVER to a replica in step; nothing may be lost, acknowledged by a replica or not."""
        self.in_step()
        old, new = self.master, self.random.choice([n for n in self.replicas if not n.steady or not self.master.steady])
        with old.wire() as wire:
            wire.ask_ok("FAILOVER", "TO", "127.0.0.1", new.server.port, "TIMEOUT", 5000)
            wait_for(lambda: old.info("replication").get("master_failover_state") == "no-failover", 30, "FAILOVER ends")
            if old.info("replication").get("role") != "slave":
                self.refused_failovers += 1
                return
        wait_for(lambda: new.info("replication").get("role") == "master", 30, "the new master")
        self.master = new
        for node in self.replicas:
            self.follow(node, new)  # through its proxy

    def mortal_master(self) -> None:
        while self.master.steady:
            self.hand_over()

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
