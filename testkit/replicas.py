"""A master and its replicas: following, being in step, servers that stop for a while, pauses of writes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from testkit.info import info
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire, Word

PAUSE = 1.0  # seconds


def is_in_step(replica: Wire) -> bool:
    return info(replica, "replication").get("master_link_status") == "up"


def wait_until_in_step(replica: Wire) -> None:
    wait_for(lambda: is_in_step(replica), 30, "the replica is in step")


def follow(replica: Server, master: Server) -> None:
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
