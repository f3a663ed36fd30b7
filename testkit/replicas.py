"""A master and its replicas: following, being in step, servers that stop for a while, pauses of writes."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from testkit.info import info
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire, Word

PAUSE = 1.0  # seconds


def is_in_step(replica: Wire) -> bool:
    return info(replica, "replication").get("master_link_status") == "up"


def wait_until_in_step(replica: Wire) -> None:
    wait_for(lambda: is_in_step(replica), 30, "the replica is in step")


class FakeMaster(threading.Thread):
    """Answers replicas that ask for a full sync with a file of our own, and sends them what follows it."""

    def __init__(self, file: bytes, more: bytes = b"") -> None:
        super().__init__(daemon=True)
        self.file, self.more = file, more
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.acknowledged = 0
        self.start()

    def run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                with connection, connection.makefile("rb") as stream, suppress(OSError):
                    self.serve(connection, stream)

    def serve(self, connection: socket.socket, stream: BinaryIO) -> None:
        while line := stream.readline():
            words = [(stream.readline(), stream.readline())[1].strip() for _ in range(int(line[1:]))]
            if words[0] == b"PSYNC":
                head = b"+FULLRESYNC %s 0\r\n$%d\r\n" % (b"0" * 40, len(self.file))
                connection.sendall(head + self.file + self.more)
            elif words[:2] == [b"REPLCONF", b"ACK"]:
                self.acknowledged = int(words[2])
            else:
                connection.sendall(b"+PONG\r\n" if words[0] == b"PING" else b"+OK\r\n")


def follow(replica: Server, master: Server | FakeMaster) -> None:
    with replica.wire() as wire:
        assert wire.ask("REPLICAOF", "127.0.0.1", master.port) == b"OK"
        wait_until_in_step(wire)


def caught_up(master: Wire) -> None:
    """The replica has taken in everything that the master has told."""
    assert master.ask("WAIT", 1, 30000) == 1


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """The process does nothing meanwhile."""
    assert server.process
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def paused(server: Server, words: tuple[Word, ...]) -> tuple[object, float]:
    """Sends a command and pauses writes while it is under way: its reply, and how long after the pause began."""
    with server.wire() as busy, server.wire() as operator:
        busy.send(*words)
        wait_for(lambda: server.blocked_clients() == 1)
        operator.ask("CLIENT", "PAUSE", int(PAUSE * 1000), "WRITE")
        began = time.monotonic()
        reply = busy.read()
        return reply, time.monotonic() - began
