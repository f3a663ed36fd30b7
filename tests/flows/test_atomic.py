"""Atomic blocks: commands that the process sends by its socket, while no other command runs."""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.users import Login
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import StartServer
from tests.flows.kit import FLOWS, Process, figures, frame, is_denial, is_error, receive, start

LATE = "ERR the atomic block took longer than 100 ms"
numbers = itertools.count(1)


@pytest.fixture
def end(flows: Process) -> Iterator[socket.socket]:
    with flows.socket() as end:
        yield end


@pytest.fixture
def own(flows: Process) -> Iterator[Wire]:
    with flows.user() as own:
        yield own


def begin(own: Wire, end: socket.socket) -> int:
    block = next(numbers)
    own.send("RG._ATOMIC", block)
    assert receive(end) == (block, b"")
    return block


def ask(end: socket.socket, block: int, *words: bytes) -> bytes:
    end.sendall(frame(block, *words))
    number, reply = receive(end)
    assert number == block
    return reply


def test_a_block(flows: Process, own: Wire, end: socket.socket, wire: Wire) -> None:
    own.ask_ok("SELECT", 5)
    block = begin(own, end)
    assert ask(end, block, b"SET", b"k", b"\x00\r\n") == b"+OK\r\n"
    wire.send("SET", "k", "other")
    assert ask(end, block, b"GET", b"k") == b"$3\r\n\x00\r\n\r\n"
    assert ask(end, block, b"INCR", b"k").startswith(b"-ERR value is not an integer")
    assert ask(end, block, b"no such").startswith(b"-ERR ")
    assert ask(end, block, b"RG.TRIGGER", b"t").startswith(b"-ERR ")
    assert ask(end, block, b"SUBSCRIBE", b"c").startswith(b"-ERR ")
    assert ask(end, block, b"ACL", b"WHOAMI").startswith(b"-ERR "), "as in Lua"
    assert ask(end, block, b"RG._ATOMIC", b"7").startswith(b"-ERR ")
    end.sendall(frame(block))
    assert own.read() == b"OK"
    assert wire.read() == b"OK"
    assert own.ask("GET", "k") == b"\x00\r\n"


def test_it_is_bounded(flows: Process, own: Wire, end: socket.socket, wire: Wire) -> None:
    """What comes too late is refused, and the next block does not take it for its own."""
    block = begin(own, end)
    began = time.monotonic()
    assert wire.ask("PING") == b"PONG"
    assert time.monotonic() - began < 0.3
    assert is_error(own.read(), LATE)
    number, reply = receive(end)
    assert number == block and reply.startswith(b"-" + LATE.encode())
    end.sendall(frame(block, b"SET", b"late", b"1") + frame(block, b"SET", b"late", bytes(900_000)) + frame(block))
    block = begin(own, end)
    assert ask(end, block, b"EXISTS", b"late") == b":0\r\n"
    end.sendall(frame(block - 1, b"SET", b"late", b"1") + frame(block))
    assert own.read() == b"OK"
    assert wire.ask("EXISTS", "late") == 0


def test_half_a_frame_that_comes_late(own: Wire, end: socket.socket, wire: Wire) -> None:
    block = begin(own, end)
    late = frame(block, b"SET", b"late", b"1")
    end.sendall(late[:-3])
    assert is_error(own.read(), LATE)
    receive(end)
    end.sendall(late[-3:])
    block = begin(own, end)
    assert ask(end, block, b"EXISTS", b"late") == b":0\r\n"
    end.sendall(frame(block))
    assert own.read() == b"OK"


def test_long_words_and_replies(own: Wire, end: socket.socket) -> None:
    block = begin(own, end)
    most = (1 << 20) - len(frame(block, b"SET", b"k", b""))
    assert ask(end, block, b"SET", b"k", bytes(most)) == b"+OK\r\n"
    assert len(ask(end, block, b"GET", b"k")) == most + 2 + len(f"${most}\r\n")
    assert ask(end, block, b"APPEND", b"k", b"x" * 100) == b":%d\r\n" % (most + 100)
    assert ask(end, block, b"GET", b"k").startswith(b"-ERR the reply is too long for an atomic block")
    assert ask(end, block, b"DEL", b"k") == b":1\r\n"
    end.sendall(frame(block))
    assert own.read() == b"OK"


@pytest.mark.parametrize(
    ("data", "is_inside"),
    [
        (struct.pack("<I", 1025), True),
        (struct.pack("<II", 1, 1 << 20), True),
        (struct.pack("<II", 1, 0xFFFFFFFF), False),
        (struct.pack("<II", 2, (1 << 20) - 12), False),
    ],
)
def test_a_broken_frame(start_server: StartServer, module: Path, data: bytes, is_inside: bool) -> None:
    """The process is ended: nobody knows where the next frame begins."""
    flows = start(start_server(module=module, options=FLOWS))
    with flows.socket() as end, flows.user() as own, flows.server.wire() as wire:
        block = begin(own, end) if is_inside else 0
        end.sendall(struct.pack("<I", block) + data)
        if is_inside:
            assert is_error(own.read(), "ERR the flow process has ended")
        wait_for(lambda: figures(wire)["last_death"] == "it has sent a broken frame")
        wait_for(lambda: figures(wire)["starts"] == "2")


def test_as_its_user(flows: Process, login: Login, end: socket.socket) -> None:
    """No right to RG._ATOMIC or RG._CALL is needed, and they give none."""
    login("+get", "+set", "~mine:*").close()
    with flows.user("caller") as own:
        block = begin(own, end)
        assert ask(end, block, b"SET", b"mine:k", b"1") == b"+OK\r\n"
        for words in ((b"SET", b"k", b"1"), (b"INCR", b"mine:k")):
            assert is_denial(Error(ask(end, block, *words)[1:].decode()))
        end.sendall(frame(block))
        assert own.read() == b"OK"
        assert own.ask("RG._CALL", "GET", "mine:k") == b"1"
        assert is_denial(own.ask("RG._CALL", "GET", "k"))
        assert is_denial(own.ask("RG._CALL", "INCR", "mine:k"))


def test_numbers_that_are_none(own: Wire) -> None:
    for number in (-1, 1 << 32, "x", ""):
        assert is_error(own.ask("RG._ATOMIC", number), "ERR a number from 0 to 4294967295 is needed")


def test_one_transaction_for_replicas(flows: Process, own: Wire, end: socket.socket, wire: Wire) -> None:
    with flows.server.wire() as replica:
        replica.send("SYNC")
        size = int(replica.stream.readline().lstrip(b"\n\r$") or replica.stream.readline()[1:])
        replica.stream.read(size)
        block = begin(own, end)
        ask(end, block, b"SET", b"k", b"1")
        ask(end, block, b"INCR", b"k")
        end.sendall(frame(block))
        assert own.read() == b"OK"
        found = []
        while not found or found[-1] != [b"EXEC"]:
            words = replica.read()
            if words not in ([b"PING"], [b"SELECT", b"0"]):
                found.append(words)
        assert found == [[b"MULTI"], [b"SET", b"k", b"1"], [b"INCR", b"k"], [b"EXEC"]]
