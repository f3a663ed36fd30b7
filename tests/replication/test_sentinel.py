"""Sentinel: when the master dies under load, clients go on with a replica, on which the models are compiled already."""

# redis-py's own methods have no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from redis.sentinel import MasterNotFoundError
from redis.sentinel import Sentinel as SentinelClient

from testkit import models
from testkit.clusters import MASTER_NAME, SETTLE_SECONDS, Caller, Member, Watched
from testkit.scripts import function
from testkit.waiting import wait_for
from tests.conftest import SERVERS

AT_ONCE = 2.0  # a first run that had to import PyTorch or compile would take longer

# In this order the loader takes them: all is compiled once the last one is.
STORE = [
    ("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2),
    ("AI.MODELSTORE", "add", "ONNX", "CPU", "TAG", "v1", "BLOB", models.onnx_add()),
    ("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 1, "twice", "SOURCE", function("twice", "return tensors[0] * 2")),
    ("AI.MODELSTORE", "both", "TORCH", "CPU", "BLOB", models.torch_module(models.SumAndProduct)),
]
READ_ONLY = [
    (("AI.MODELEXECUTE", "add", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y"), [2.0, 4.0]),
    (("AI.MODELEXECUTE", "both", "INPUTS", 2, "x", "x", "OUTPUTS", 2, "z", "y"), [1.0, 4.0]),
]
EXECUTE = [
    *READ_ONLY,
    (("AI.SCRIPTEXECUTE", "s", "twice", "INPUTS", 1, "x", "OUTPUTS", 1, "y"), [2.0, 4.0]),
]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with Watched(tmp_path_factory.mktemp("watched")).started() as watched:
        yield watched


@pytest.fixture
def watched(processes: Watched, request: pytest.FixtureRequest) -> Watched:
    request.node.stash.setdefault(SERVERS, []).extend([*processes.servers, *processes.sentinels])
    return processes


class Clients:
    """What an application has of redis-py: it asks the Sentinels whom to talk to."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        addresses = [("127.0.0.1", sentinel.port) for sentinel in watched.sentinels]
        self.sentinel = SentinelClient(addresses, min_other_sentinels=1, socket_timeout=30.0)
        self.master = self.sentinel.master_for(MASTER_NAME)
        self.replica = self.sentinel.slave_for(MASTER_NAME)
        self.replicas = 2  # that a write waits for

    def ask(self, *words: Any) -> Any:
        return self.master.execute_command(*words)

    def master_port(self) -> int:
        """0 while there is none."""
        try:
            return int(self.sentinel.discover_master(MASTER_NAME)[1])
        except MasterNotFoundError:
            return 0

    def write(self, number: int) -> None:
        """A tensor and a run's result, which every replica has confirmed by the end: Sentinels may promote any."""
        pipe = self.master.pipeline(transaction=False)
        pipe.execute_command("AI.TENSORSET", f"in:{number}", "FLOAT", 1, 2, "VALUES", number, -number)
        pipe.execute_command("AI.MODELEXECUTE", "add", "INPUTS", 2, f"in:{number}", "x", "OUTPUTS", 1, f"out:{number}")
        pipe.execute_command("WAIT", self.replicas, 2000)
        *_, replicas = pipe.execute()
        if replicas < self.replicas:
            raise ConnectionError("not all replicas have confirmed it")

    def check_written(self, numbers: list[int]) -> None:
        pipe = self.master.pipeline(transaction=False)
        for number in numbers:
            pipe.execute_command("AI.TENSORGET", f"in:{number}", "VALUES")
            pipe.execute_command("AI.TENSORGET", f"out:{number}", "VALUES")
        found = pipe.execute()
        wanted = [v for n in numbers for v in ([float(n), float(-n)], [float(n + 1), float(2 - n)])]
        assert found == wanted

    def set_up(self) -> None:
        for words in STORE:
            assert self.ask(*words) == b"OK"
        assert self.ask("WAIT", 2, 10000) == 2
        for server in self.watched.servers:
            if server.port != self.master_port():
                wait_for(partial(is_compiled, server), SETTLE_SECONDS, "models are compiled on replicas")

    def check_runs_at_once(self) -> None:
        for words, wanted in EXECUTE:
            start = time.monotonic()
            assert self.ask(*words) == b"OK"
            assert time.monotonic() - start < AT_ONCE, words
            assert self.ask("AI.TENSORGET", "y", "VALUES") == wanted


def is_compiled(server: Member) -> bool:
    """The last of STORE is: a model tells how many inputs it has from then on."""
    with server.wire() as wire:
        reply = wire.ask("AI.MODELGET", "both", "META")
        return isinstance(reply, list) and len(reply[11]) == 2


@pytest.fixture
def clients(watched: Watched) -> Clients:
    watched.wait_until_well()
    clients = Clients(watched)
    clients.set_up()
    return clients


def wait_for_new_master(clients: Clients, old: Member) -> None:
    wait_for(lambda: clients.master_port() not in (0, old.port), SETTLE_SECONDS, "the Sentinels have another master")


def wait_until_all_follow(clients: Clients) -> None:
    """Whoever the master is: Sentinels that have not heard of a failover may begin another."""

    def follow() -> bool:
        master = clients.master_port()
        return all(server.port == master or server.follows(master) for server in clients.watched.servers)

    wait_for(follow, SETTLE_SECONDS, "all others follow the new master")


def test_a_killed_master(watched: Watched, clients: Clients) -> None:
    old = watched.at(clients.master_port())
    with Caller(clients.write) as load:
        load.wait_for_more()
        old.kill()
        clients.replicas = 1
        wait_for_new_master(clients, old)
        clients.check_runs_at_once()
        load.wait_for_more()
        old.start()
        wait_until_all_follow(clients)
        load.wait_for_more()
    load.check()
    watched.wait_until_well()  # they may have begun another failover
    clients.check_written(load.done)
    assert clients.ask("WAIT", 2, 10000) == 2
    with old.wire() as wire, watched.at(clients.master_port()).wire() as other:
        assert sorted(wire.ask("KEYS", "*")) == sorted(other.ask("KEYS", "*"))
        for number in load.done:
            for key in (f"in:{number}", f"out:{number}"):
                assert wire.ask("AI.TENSORGET", key) == other.ask("AI.TENSORGET", key)
        assert wire.ask("AI.MODELGET", "add") == other.ask("AI.MODELGET", "add")
    wait_for(lambda: is_compiled(old), SETTLE_SECONDS, "the old master can run the models")
    for sentinel in watched.sentinels:
        wait_for(partial(watched.knows_all, sentinel), SETTLE_SECONDS, "all are known again")


def test_a_failover_that_is_asked_for(watched: Watched, clients: Clients) -> None:
    """Nobody dies: runs that wait on the old master are let go, and clients go on with the new one."""
    old = watched.at(clients.master_port())
    with Caller(clients.write) as load:
        load.wait_for_more()
        with watched.sentinels[0].wire() as wire:
            assert wire.ask("SENTINEL", "FAILOVER", MASTER_NAME) == b"OK"
        wait_for_new_master(clients, old)
        clients.check_runs_at_once()
        load.wait_for_more()
        wait_until_all_follow(clients)
        load.wait_for_more()
    load.check()
    assert clients.ask("PING")


def test_reading_from_a_replica(clients: Clients) -> None:
    """slave_for gives the replicas in turn: tensors are read there, and models run."""
    assert clients.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2) == b"OK"
    assert clients.ask("WAIT", 2, 10000) == 2
    for _ in range(4):
        assert clients.replica.execute_command("AI.TENSORGET", "x", "VALUES") == [1.0, 2.0]
        for words, wanted in READ_ONLY:
            line = ("AI.DAGEXECUTE_RO", "LOAD", 1, "x", "|>", *words, "|>", "AI.TENSORGET", "y", "VALUES")
            assert clients.replica.execute_command(*line) == [b"OK", wanted]
