"""A newer server takes over from an older one: it follows it and is promoted, or it loads the older one's files."""

from __future__ import annotations

import signal
from pathlib import Path
from threading import Event, Thread

import pytest

from testkit import samples
from testkit.replicas import caught_up, follow
from testkit.waiting import wait_for
from testkit.wire import Wire, Word
from tests.conftest import StartServer

SERVERS = Path(__file__).resolve().parents[2] / "build/servers"
UPGRADES = [
    ("redis-7.0", "redis-7.2"),
    ("redis-7.0", "redis-8.0"),
    ("redis-7.0", "redis-8.2"),
    ("redis-7.0", "valkey-8.1"),
    ("redis-7.0", "valkey-9.1"),
    ("redis-8.0", "redis-8.2"),
    ("valkey-7.2", "valkey-9.1"),
    ("valkey-8.1", "valkey-9.1"),
]
RUN: list[Word] = ["AI.MODELEXECUTE", "onnx", "INPUTS", 2, "x", "x", "OUTPUTS", 1]
WRITES: list[list[Word]] = [
    ["AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2],
    [*RUN, "y"],
    ["AI.DAGEXECUTE", "LOAD", 1, "x", "PERSIST", 1, "z", "|>", *RUN, "z"],
]


def program(name: str) -> str:
    path = SERVERS / name / "bin/redis-server"
    if not path.exists():
        pytest.skip(f"{path} is not there; scripts/servers {name} brings it where it can be had")
    return str(path)


def write_on(port: int, ended: Event) -> None:
    with Wire(port) as wire:
        while not ended.is_set():
            for words in WRITES:
                wire.ask(*words)


@pytest.mark.parametrize(("old", "new"), UPGRADES, ids=str)
def test_a_replica_of_a_newer_version(start_server: StartServer, old: str, new: str) -> None:
    master = start_server("--repl-diskless-sync-delay", "0", program=program(old))
    replica = start_server("--appendonly", "yes", program=program(new))
    with master.wire() as wire, replica.wire() as reader:
        samples.fill(wire)
        ended = Event()
        writer = Thread(target=write_on, args=(master.port, ended))
        writer.start()
        follow(replica, master)
        assert wire.ask(*samples.TORCH.words("later")) == b"OK"
        ended.set()
        writer.join()
        before = samples.contents(wire)
        assert b"z" in before
        caught_up(wire)
        wait_for(lambda: samples.contents(reader) == before, 60)
        assert reader.ask("REPLICAOF", "NO", "ONE") == b"OK"
    assert master.stop() == 0
    with replica.wire() as reader:
        samples.check_filled(reader, before)
    replica.restart(signal.SIGKILL)  # what came by replication is in its AOF
    with replica.wire() as reader:
        samples.check_filled(reader, before)


@pytest.mark.parametrize("way", ["RDB", "AOF"])
@pytest.mark.parametrize(("old", "new"), UPGRADES, ids=str)
def test_files_of_an_older_version(start_server: StartServer, old: str, new: str, way: str) -> None:
    arguments = ("--appendonly", "yes" if way == "AOF" else "no", "--appendfsync", "always")  # killed, it loses nothing
    server = start_server(*arguments, program=program(old))
    with server.wire() as wire:
        samples.fill(wire)
        before = samples.contents(wire)
        if way == "RDB":
            assert wire.ask("SAVE") == b"OK"
    server.kill()
    with start_server(*arguments, folder=server.folder, program=program(new)).wire() as wire:
        samples.check_filled(wire, before)
