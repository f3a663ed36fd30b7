"""Faults beside 20 clients at work: the short form of scripts/chaos; and that what it looks for it would find."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from testkit.server import Server
from testkit.wire import Wire
from tests.soak.chaos import CLIENTS, MOST_MEMORY_GROWTH, Memory, Node, Result, run, summary
from tests.soak.door import Door
from tests.soak.owner import Life, Link, Wrong, stock

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
def life(server: Server) -> Iterator[Life]:
    with closing(Link(server.port)) as wire:
        yield Life("1:1", wire)


def tensor(wire: Wire, key: str, data: bytes) -> None:
    assert wire.ask("AI.TENSORSET", key, "FLOAT", len(data) // 4, "BLOB", data) == b"OK"


def test_a_lost_write_is_found(life: Life) -> None:
    life.expect(KEY, b"good")
    assert life.check(life.wire) == 1  # nobody has acknowledged it
    life.acknowledged()
    with pytest.raises(Wrong, match="holds nothing"):
        life.check(life.wire)
    tensor(life.wire, KEY, b"good")
    assert life.check(life.wire) == 1


def test_an_old_value_is_found(life: Life) -> None:
    tensor(life.wire, KEY, b"old!")
    life.expect(KEY, b"old!")
    life.expect(KEY, b"new!")
    assert life.check(life.wire) == 1
    life.acknowledged()
    with pytest.raises(Wrong, match="b'old!'"):
        life.check(life.wire)


def test_what_is_stored_in_part_is_found(life: Life) -> None:
    for key in "1:1:p0", "1:1:q0":
        life.expect(key, b"good")
    assert life.check(life.wire) == 2
    tensor(life.wire, "1:1:p0", b"good")
    with pytest.raises(Wrong, match="together"):
        life.check(life.wire)


def test_another_model_is_found(life: Life) -> None:
    one, other = stock()[0], stock()[2]
    life.expect("1:1:m0", b"tag\n" + one.blob)
    life.acknowledged()
    for model in one, other:
        assert life.wire.ask("AI.MODELSTORE", "1:1:m0", model.backend, "CPU", "TAG", "tag", "BLOB", model.blob) == b"OK"
        if model is one:
            assert life.check(life.wire) == 1
    with pytest.raises(Wrong):
        life.check(life.wire)


def test_a_server_that_ended_by_itself_is_found(tmp_path: Path) -> None:
    node = Node("a", tmp_path / "a", [])
    with closing(node.door):
        node.start()
        node.server.kill()
        with pytest.raises(Wrong, match="by itself"):
            node.end(signal.SIGTERM)


def test_growth_is_a_fault() -> None:
    first = Memory("a", 1, 0, 0)
    result = Result(1, 1, memory=[first, Memory("a", 1, 0, MOST_MEMORY_GROWTH)])
    assert result.check() == []
    result.memory += [Memory("a", 1, 0, MOST_MEMORY_GROWTH + 1), Memory("a", 2, 1 << 40, 1 << 40)]
    assert len(result.check()) == 1


def test_a_door_passes_everything_or_nothing(server: Server) -> None:
    data = bytes(range(256)) * 10_000
    with closing(Door(lambda: server.port)) as door:
        with Wire(door.port) as wire:
            assert wire.ask("SET", "x", data) == b"OK"
            assert wire.ask("GET", "x") == data
            door.hold()
            wire.send("SET", "x", "later")
            wire.socket.settimeout(0.2)
            with pytest.raises(TimeoutError):
                wire.socket.recv(1)
            wire.socket.settimeout(60)
            door.release()
            assert wire.socket.recv(5) == b"+OK\r\n"
            door.cut()
            with pytest.raises(OSError):
                wire.ask("PING")
        with Wire(door.port) as wire:
            assert wire.ask("GET", "x") == b"later"
