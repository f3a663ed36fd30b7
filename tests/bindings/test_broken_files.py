"""Damaged bindings in what a master sends: they load or not, and the replica serves on.

FUZZ_BINDINGS=20000 tries so many files, SEED=7 others.
"""

from __future__ import annotations

import os
import random
import socket
import threading

import pytest

from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.bindings.kit import BINDINGS, LINE, bind, binding, store
from tests.conftest import StartServer

FILES = int(os.environ.get("FUZZ_BINDINGS", 150))
SEED = int(os.environ.get("SEED", 1))


class Master(threading.Thread):
    """Sends one replica the file that it has, each time that it asks."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.file = b""
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                self.answer(connection, lines.readline)

    def answer(self, connection: socket.socket, readline: object) -> None:
        assert callable(readline)
        try:
            while line := readline().strip().upper():
                if line == b"PING":
                    connection.sendall(b"+PONG\r\n")
                elif line == b"REPLCONF":
                    connection.sendall(b"+OK\r\n")
                elif line == b"PSYNC":
                    head = b"+FULLRESYNC %s 0\r\n$%d\r\n" % (b"a" * 40, len(self.file))
                    connection.sendall(head + self.file)
        except OSError:
            pass


def saved(server: Server) -> bytes:
    """A file with bindings and what is pending, without a checksum."""
    with server.wire() as wire:
        store(wire)
        bind(wire, f"ON HASH PREFIX 2 k: kk: FIELDS 2 x z AS DOUBLE 2 1 DEFAULT 3 {LINE} VERSION v ERROR why")
        bind(wire, "ON STREAM KEYS 1 in FIELDS 1 x AS UINT8 300 MODEL m SET 1 y AS BLOB STREAM out MAXLEN 7", "stream")
        wire.ask("AI.MODELDEL", "m")
        for i in range(3):
            wire.ask("HSET", f"k:{i}", "x", i)
            wire.ask("XADD", "in", "*", "x", i)
        wire.ask_ok("SAVE")
    data = (server.folder / "dump.rdb").read_bytes()
    return data[:-8] + bytes(8)


def damaged(chance: random.Random, data: bytes, start: int, end: int) -> bytes:
    body = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        body[chance.randrange(start, end)] = chance.choice((0, 1, 2, 5, 0x40, 0x80, 0x81, 0xFF, chance.randrange(256)))
    if chance.random() < 0.2:
        at = chance.randrange(start, end)
        body[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 12)))
    if chance.random() < 0.2:
        at = chance.randrange(start, end)
        del body[at : at + chance.randrange(1, 30)]
    return bytes(body)


@pytest.mark.parametrize("load", ["on-empty-db"])
def test_damaged_files(load: str, start_server: StartServer) -> None:
    server = start_server(options=BINDINGS)
    data = saved(server)
    start = data.index(b"\xf7")
    end = data.index(b"\xfe\x00", start)
    replica = start_server("--repl-diskless-load", load, "--repl-timeout", "5", options=BINDINGS)
    master, chance = Master(), random.Random(SEED)
    with replica.wire() as wire:
        master.file = data
        loaded = [load_from(wire, replica, master) for _ in range(2)]
        assert loaded == [True, True]
        assert binding(wire)["pending"] == 3
        for _ in range(FILES):
            master.file = damaged(chance, data, start, end)
            loaded.append(load_from(wire, replica, master))
    master.listener.close()
    assert any(loaded[2:]) and not all(loaded[2:])


def load_from(wire: Wire, replica: Server, master: Master) -> bool:
    """Whether the replica has taken the file."""
    wire.ask_ok("REPLICAOF", "NO", "ONE")
    wire.ask_ok("FLUSHALL")
    for name in wire.ask("AI.BINDLIST"):
        wire.ask_ok("AI.UNBIND", name)
    before = replica.log_file.read_bytes()
    wire.ask_ok("REPLICAOF", "127.0.0.1", master.port)

    def outcome() -> bytes:
        new = replica.log_file.read_bytes()[len(before) :]
        return next((word for word in (b"Finished with success", b"Failed trying to load") if word in new), b"")

    wait_for(outcome, 10, "the file is loaded, or not")
    return outcome() == b"Finished with success"
