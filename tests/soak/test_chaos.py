"""The short form of scripts/chaos: faults while 20 clients work; and that it finds what it looks for."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from testkit.server import Server
from testkit.wire import Wire
from tests.soak.chaos import CLIENTS, MAX_MEMORY_GROWTH, Memory, Result, run, summary
from tests.soak.keys import Connection, Session, Wrong, stock
from tests.soak.proxy import Proxy
from tests.soak.servers import Node

SEED = 20
KEY = "1:1:t0"


@pytest.mark.timeout(900)
def test_nothing_is_lost_or_wrong(tmp_path: Path) -> None:
    result = run(120, SEED, tmp_path, print)
    print("\n".join(summary(result)))
    assert result.check() == []
    assert result.tally.done["writes acknowledged by a replica"] > 10 * CLIENTS
    assert result.tally.done["requests batched with others"] > 0
    assert result.faults.total() > 20
    assert min(result.logged.values()) > 0


@pytest.fixture
def session(server: Server) -> Iterator[Session]:
    with closing(Connection(server.port)) as wire:
        yield Session("1:1", wire)


def tensor(wire: Wire, key: str, data: bytes) -> None:
    assert wire.ask("AI.TENSORSET", key, "FLOAT", len(data) // 4, "BLOB", data) == b"OK"


def test_a_lost_write_is_found(session: Session) -> None:
    session.expect(KEY, b"good")
    assert session.check(session.wire) == 1  # nobody has acknowledged it
    session.acknowledged()
    with pytest.raises(Wrong, match="holds nothing"):
        session.check(session.wire)
    tensor(session.wire, KEY, b"good")
    assert session.check(session.wire) == 1


def test_an_old_value_is_found(session: Session) -> None:
    tensor(session.wire, KEY, b"old!")
    session.expect(KEY, b"old!")
    session.expect(KEY, b"new!")
    assert session.check(session.wire) == 1
    session.acknowledged()
    with pytest.raises(Wrong, match="b'old!'"):
        session.check(session.wire)


def test_what_is_stored_in_part_is_found(session: Session) -> None:
    for key in "1:1:p0", "1:1:q0":
        session.expect(key, b"good")
    assert session.check(session.wire) == 2
    tensor(session.wire, "1:1:p0", b"good")
    with pytest.raises(Wrong, match="together"):
        session.check(session.wire)


def test_another_model_is_found(session: Session) -> None:
    one, other = stock()[0], stock()[2]
    session.expect("1:1:m0", b"tag\n" + one.blob)
    session.acknowledged()
    for model in one, other:
        assert session.wire.ask(*replace(model, tag="tag").words("1:1:m0")) == b"OK"
        if model is one:
            assert session.check(session.wire) == 1
    with pytest.raises(Wrong, match="1:1:m0 on port"):
        session.check(session.wire)


def test_a_server_that_ended_by_itself_is_found(tmp_path: Path) -> None:
    node = Node("a", tmp_path / "a", [])
    with closing(node.proxy):
        node.start()
        node.server.kill()
        with pytest.raises(Wrong, match="by itself"):
            node.end(signal.SIGTERM)


def test_growth_is_a_fault() -> None:
    first = Memory("a", 1, 0, 0)
    result = Result(1, 1, memory=[first, Memory("a", 1, 0, MAX_MEMORY_GROWTH)])
    assert result.check() == []
    result.memory += [Memory("a", 1, 0, MAX_MEMORY_GROWTH + 1), Memory("a", 2, 1 << 40, 1 << 40)]
    limit = MAX_MEMORY_GROWTH
    assert result.check() == [f"used_memory of a grew by {limit + 1} bytes in one process, more than {limit}"]


def test_a_proxy_passes_everything_or_nothing(server: Server) -> None:
    data = bytes(range(256)) * 10_000
    with closing(Proxy(lambda: server.port)) as proxy:
        with Wire(proxy.port) as wire:
            assert wire.ask("SET", "x", data) == b"OK"
            assert wire.ask("GET", "x") == data
            proxy.hold()
            wire.send("SET", "x", "later")
            wire.socket.settimeout(0.2)
            with pytest.raises(TimeoutError):
                wire.socket.recv(1)
            wire.socket.settimeout(60)
            proxy.release()
            assert wire.socket.recv(5) == b"+OK\r\n"
            proxy.cut()
            with pytest.raises(OSError):
                wire.ask("PING")
        with Wire(proxy.port) as wire:
            assert wire.ask("GET", "x") == b"later"
