"""Redis processes that work together: the six of a Redis Cluster, and a master with replicas and Sentinels.

They start side by side, and all of them are ended, whatever happens. Waiting times are low where a test waits for a
failure to be noticed, and high elsewhere: a machine that is busy for a second must not look like a server that died.
"""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from redis.exceptions import RedisError

from testkit.server import START_SECONDS, Server, ServerExit, module_path, server_program
from testkit.waiting import wait_for
from testkit.wire import Word

PATIENT = 15000
QUICK = 1000
SETTLE_SECONDS = 60.0

REPLICATION = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")


def lasting_port() -> int:
    """A port that, with that of the cluster bus 10,000 above, lies below those that the system gives to connections:
    nobody takes it while its server is down."""
    while True:
        port = random.randrange(10000, 22000)
        try:
            for number in (port, port + 10000):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port


class Member(Server):
    """A server that keeps its port when it is started again: the others know it by its address."""

    was_up = False

    def start(self) -> Member:
        self.launch()
        self.wait_until_up()
        return self

    def launch(self) -> None:
        self.port = self.port or lasting_port()
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(self.command(), stdout=output, stderr=output, stdin=subprocess.DEVNULL)

    def wait_until_up(self) -> None:
        for attempt in range(5):
            try:
                wait_for(self.answers, START_SECONDS, "the server answers PING")
                self.was_up = True
                return
            except ServerExit:
                if attempt == 4 or self.was_up or "Address already in use" not in self.log_tail():
                    raise
                self.port = 0
                self.launch()

    def role(self) -> dict[str, str]:
        """What INFO says of replication; nothing where the connection is cut, as happens when roles change."""
        try:
            return self.info("replication")
        except OSError:
            return {}

    def is_master(self) -> bool:
        return self.role().get("role") == "master"

    def follows(self, port: int) -> bool:
        """It is a replica of the server at this port, and in step."""
        found = self.role()
        return (found.get("master_port"), found.get("master_link_status")) == (str(port), "up")


class Sentinel(Member):
    def command(self) -> list[str]:
        settings = self.folder / "sentinel.conf"
        if not settings.exists():
            settings.write_text("\n".join(self.arguments))
        words = ["setpriv", "--pdeathsig", "KILL", "--", server_program(), str(settings), "--sentinel"]
        words += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return [*words, "--logfile", str(self.log_file)]


@contextmanager
def running(members: Sequence[Member]) -> Iterator[None]:
    try:
        for member in members:
            member.folder.mkdir(exist_ok=True)
            member.launch()
        for member in members:
            member.wait_until_up()
        yield
    finally:
        for member in members:
            member.kill()


# ---- Sentinel --------------------------------------------------------------------------------------------------------

MASTER_NAME = "mymaster"


class Watched:
    """A master with two replicas, and three Sentinels that watch them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers = [Member(folder / f"server{i}", REPLICATION, module=module_path()) for i in range(3)]
        self.sentinels: list[Sentinel] = []

    @contextmanager
    def started(self) -> Iterator[Watched]:
        with running(self.servers):
            for replica in self.servers[1:]:
                with replica.wire() as wire:
                    assert wire.ask("REPLICAOF", "127.0.0.1", self.servers[0].port) == b"OK"
            for replica in self.servers[1:]:
                wait_for(partial(replica.follows, self.servers[0].port), SETTLE_SECONDS, "in step")
            self.sentinels = [self.sentinel(i) for i in range(3)]
            with running(self.sentinels):
                wait_for(lambda: all(map(self.knows_all, self.sentinels)), SETTLE_SECONDS, "Sentinels know all")
                yield self

    def sentinel(self, number: int) -> Sentinel:
        settings = [
            f"sentinel monitor {MASTER_NAME} 127.0.0.1 {self.servers[0].port} 2",
            f"sentinel down-after-milliseconds {MASTER_NAME} {QUICK}",
            f"sentinel failover-timeout {MASTER_NAME} 3000",
            f"sentinel parallel-syncs {MASTER_NAME} 2",
        ]
        return Sentinel(self.folder / f"sentinel{number}", settings)

    def knows_all(self, sentinel: Sentinel) -> bool:
        with sentinel.wire() as wire:
            # How often it asks and tells; and it must not rest for 30 s because the machine was busy for two.
            wire.ask("SENTINEL", "DEBUG", "info-period", 500, "publish-period", 200, "tilt-trigger", 60000)
            words = wire.ask("SENTINEL", "MASTER", MASTER_NAME)
            found = dict(zip(words[::2], words[1::2], strict=True))
        return (found[b"num-slaves"], found[b"num-other-sentinels"]) == (b"2", b"2")

    def wait_until_well(self) -> None:
        wait_for(self.is_well, SETTLE_SECONDS, "all Sentinels name the same master, which all others follow")

    def is_well(self) -> bool:
        """No failover goes on, and none is about to begin: Sentinels that have not heard of one may begin another."""
        named = set()
        for sentinel in self.sentinels:
            with sentinel.wire() as wire:
                words = wire.ask("SENTINEL", "MASTER", MASTER_NAME)
            found = dict(zip(words[::2], words[1::2], strict=True))
            if found[b"flags"] != b"master":
                return False
            named.add(int(found[b"port"]))
        masters = [server for server in self.servers if server.is_master()]
        if {master.port for master in masters} != named or len(masters) != 1:
            return False
        return all(server.follows(masters[0].port) for server in self.servers if server is not masters[0])

    def at(self, port: int) -> Member:
        return next(server for server in self.servers if server.port == port)


# ---- Cluster ---------------------------------------------------------------------------------------------------------


def redis_cli(*words: object, given: str | None = None) -> str:
    program = shutil.which("redis-cli") or shutil.which("valkey-cli")
    assert program, "neither redis-cli nor valkey-cli is on PATH"
    done = subprocess.run(
        [program, *map(str, words)], input=given, capture_output=True, text=True, timeout=SETTLE_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Cluster:
    """Three masters with a replica each. Who is master of what is always asked: failures change it."""

    def __init__(self, folder: Path, *more: str, options: Sequence[str | int] = ()) -> None:
        arguments = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(QUICK), *REPLICATION, *more]
        self.members = [Member(folder / f"node{i}", arguments, options, module_path()) for i in range(6)]

    @contextmanager
    def started(self) -> Iterator[Cluster]:
        with running(self.members):
            addresses = [f"127.0.0.1:{member.port}" for member in self.members]
            redis_cli("--cluster", "create", *addresses, "--cluster-replicas", 1, "--cluster-yes")
            self.wait_until_well()
            self.set_patience(PATIENT)
            yield self

    def set_patience(self, milliseconds: int) -> None:
        """After how long a silent node is taken for dead."""
        for member in self.members:
            with member.wire() as wire:
                assert wire.ask("CONFIG", "SET", "cluster-node-timeout", milliseconds) == b"OK"

    def wait_until_well(self) -> None:
        wait_for(self.is_well, SETTLE_SECONDS, "every node sees three masters, each with a replica in step")

    def make_whole_and_empty(self) -> None:
        """For the next test of those that share a cluster. FLUSHALL empties all databases of a node."""
        self.wait_until_well()
        for master in self.masters():
            with master.wire() as wire:
                assert wire.ask("FLUSHALL") == b"OK"

    def is_well(self) -> bool:
        """All nodes are of one opinion, and that is a good one."""
        views = set()
        for member in self.members:
            with member.wire() as wire:
                if b"cluster_state:ok" not in wire.ask("CLUSTER", "INFO"):
                    return False
                slots = wire.ask("CLUSTER", "SLOTS")
            views.add(tuple(sorted((s[0], s[1], s[2][1], tuple(sorted(r[1] for r in s[3:]))) for s in slots)))
            if any(len(s) != 4 for s in slots) or len({s[2][1] for s in slots}) != 3:
                return False
        masters = self.masters() if len(views) == 1 else []
        return len(masters) == 3 and all(self.replica_of(m).follows(m.port) for m in masters)

    def masters(self) -> list[Member]:
        return [member for member in self.members if member.is_master()]

    def at(self, port: int) -> Member:
        return next(member for member in self.members if member.port == port)

    def owner(self, key: Word) -> Member:
        """The master of the key's slot."""
        slot = self.slot(key)
        with self.members[0].wire() as wire:
            found = next(s for s in wire.ask("CLUSTER", "SLOTS") if s[0] <= slot <= s[1])
        return self.at(found[2][1])

    def slot(self, key: Word) -> int:
        with self.members[0].wire() as wire:
            return int(wire.ask("CLUSTER", "KEYSLOT", key))

    def replica_of(self, master: Member) -> Member:
        return next(
            member for member in self.members if member.info("replication").get("master_port") == str(master.port)
        )

    def id(self, member: Member) -> str:
        with member.wire() as wire:
            return str(wire.ask("CLUSTER", "MYID").decode())


# ---- load ------------------------------------------------------------------------------------------------------------


class Caller:
    """Calls work(number) again and again on a thread of its own, with numbers from 0 on, until it is stopped.

    done: the numbers of the calls that returned, thus what was acknowledged. A call that raises an error of Redis or of
    the connection is counted in errors, and the next number is tried.
    """

    def __init__(self, work: Callable[[int], None]) -> None:
        self.work = work
        self.done: list[int] = []
        self.errors: list[str] = []
        self.failure: BaseException | None = None
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        number = 0
        try:
            while not self.stopped.is_set():
                try:
                    self.work(number)
                    self.done.append(number)
                except (RedisError, OSError) as error:
                    self.errors.append(f"{type(error).__name__}: {error}")
                    self.stopped.wait(0.02)
                number += 1
        except BaseException as failure:
            self.failure = failure

    def wait_for_more(self, count: int = 20) -> None:
        """Until so many more calls have returned."""
        wanted = len(self.done) + count
        try:
            wait_for(lambda: self.failure or len(self.done) >= wanted, SETTLE_SECONDS, f"{count} more calls return")
        except AssertionError as error:
            raise AssertionError(f"{error}; the last errors: {self.errors[-3:]}") from None
        self.check()

    def check(self) -> None:
        if self.failure:
            raise self.failure

    def __enter__(self) -> Caller:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join(SETTLE_SECONDS)
        assert not self.thread.is_alive()
