"""Damaged bindings in what a master sends: they load or not, and the replica serves on.

FUZZ_BINDINGS=20000 tries so many files, SEED=7 others.
"""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable

from testkit import rdb
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.bindings.kit import BINDINGS, binding, store
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

    def answer(self, connection: socket.socket, readline: Callable[[], bytes]) -> None:
        try:
            while line := readline().strip().upper():
                if line == b"PING":
                    connection.sendall(b"+PONG\r\n")
                elif line == b"REPLCONF":
                    connection.sendall(b"+OK\r\n")
                elif line == b"PSYNC":
                    head = b"+FULLRESYNC %s 0\r\n$%d\r\n" % (b"a" * 40, len(self.file))
                    connection.sendall(head + self.file)
                    return
        except OSError:
            pass


HASH = "ON HASH PREFIX 2 k: kk: FIELDS 2 x z AS DOUBLE 2 1 DEFAULT 3 MODEL m SET 1 y VERSION v ERROR why"
STREAM = "ON STREAM KEYS 1 in FIELDS 1 x AS UINT8 300 FIELDS 1 t AS STRING SCRIPT s f SET 1 y STREAM out MAXLEN 7"
NUMBERS = (0, 1, 2, 3, 7, 15, 16, 255, 2**31 - 1, 2**31, 2**32, 2**61, 2**63 - 1, 2**64 - 1)
BYTES = (b"", b"\0", b"AS", b"FIELDS", b"SET", b"STREAM", b"VECTORSET", b"536870912", b"9999999999", b"-1", b"x" * 3000)


def one(name: str, line: str, user: bytes) -> list[rdb.Field]:
    words: list[rdb.Field] = [name.encode(), *line.encode().split()]
    pending: list[rdb.Field] = [3, b"k:1", 5, 0, b"in", 1, 2, b"", 2**64 - 1, 2**64 - 1]
    return [0, user, 1, len(words), *words, *pending]


GOOD: list[rdb.Field] = [2, *one("b", HASH, b"default"), *one("stream", STREAM, b"ann")]


def file_of(fields: list[rdb.Field]) -> bytes:
    return b"REDIS0009\xf7" + rdb.module_value("AI__BINDS", 0, [1, *fields]) + b"\xff" + bytes(8)


def damaged(chance: random.Random) -> list[rdb.Field]:
    fields = list(GOOD)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        fields = fields or [0]
        at = chance.randrange(len(fields))
        match chance.choice(("other", "other", "kind", "drop", "double", "swap", "cut")):
            case "other":
                others: tuple[rdb.Field, ...] = NUMBERS if isinstance(fields[at], int) else BYTES
                fields[at] = chance.choice(others)
            case "kind":
                fields[at] = chance.choice((*NUMBERS, *BYTES))
            case "drop":
                del fields[at]
            case "double":
                fields.insert(at, chance.choice(fields))
            case "swap":
                other = chance.randrange(len(fields))
                fields[at], fields[other] = fields[other], fields[at]
            case "cut":
                del fields[at + 1 :]
    return fields


def test_damaged_files(start_server: StartServer) -> None:
    replica = start_server("--repl-diskless-load", "on-empty-db", options=BINDINGS)
    master, chance = Master(), random.Random(SEED)
    with replica.wire() as wire:
        store(wire)
        master.file = file_of(GOOD)
        assert load_from(wire, replica, master)
        assert binding(wire)["pending"] == binding(wire, "stream")["pending"] == 3
        loaded = []
        for _ in range(FILES):
            master.file = file_of(damaged(chance))
            loaded.append(load_from(wire, replica, master))
    master.listener.close()
    assert any(loaded) and not all(loaded)


def test_a_file_that_fails_leaves_what_the_replica_still_serves(start_server: StartServer) -> None:
    replica = start_server("--repl-diskless-load", "swapdb", options=BINDINGS)
    master = Master()
    with replica.wire() as wire:
        master.file = file_of(GOOD)
        wire.ask_ok("REPLICAOF", "127.0.0.1", master.port)
        wait_for(lambda: b"Finished with success" in replica.log_file.read_bytes(), what="the file is loaded")
        master.file = file_of(GOOD[:-1])
        wait_for(lambda: b"Failed trying to load" in replica.log_file.read_bytes(), what="the next one is not")
        assert wire.ask("AI.BINDLIST") == [b"b", b"stream"]
        wire.ask_ok("REPLICAOF", "NO", "ONE")
    master.listener.close()


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
