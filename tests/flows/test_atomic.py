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
from tests.flows.programs import Programs

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


def run(own: Wire, end: socket.socket, *commands: tuple[bytes, ...]) -> list[bytes]:
    """The replies of a block of these commands. Where the machine was too busy for it: of another block of them."""
    for _ in range(20):
        block, late = begin(own, end), b""
        replies = []
        for words in commands:
            replies.append(ask(end, block, *words))
            late = late or next((reply for reply in replies if reply.startswith(b"-" + LATE.encode())), b"")
            if late:
                break
        end.sendall(frame(block))
        reply = own.read()
        if reply == b"OK":
            return replies
        assert is_error(reply, LATE)
        if not late:
            receive(end)
    raise AssertionError("the machine is too busy")


def test_a_block(own: Wire, end: socket.socket, wire: Wire) -> None:
    own.ask_ok("SELECT", 5)
    assert run(own, end, (b"SET", b"k", b"\x00\r\n"), (b"GET", b"k")) == [b"+OK\r\n", b"$3\r\n\x00\r\n\r\n"]
    assert run(own, end) == []
    assert own.ask("GET", "k") == b"\x00\r\n"
    assert wire.ask("GET", "k") is None


def test_no_other_command_runs_meanwhile(own: Wire, end: socket.socket, wire: Wire) -> None:
    """Until the block has ended, in order or by time."""
    block = begin(own, end)
    wire.send("SET", "k", "other")
    reply = ask(end, block, b"SET", b"k", b"own", b"GET")
    assert reply == b"$-1\r\n" or reply.startswith(b"-" + LATE.encode())
    end.sendall(frame(block))
    own.read()
    assert wire.read() == b"OK"


@pytest.mark.parametrize(
    "line",
    [
        "INCR k",
        "nosuchcommand",
        "RG.TRIGGER t",
        "SUBSCRIBE c",
        "ACL WHOAMI",
        "RG._ATOMIC 7",
        "MULTI",
        "CLIENT ID",
        "SET k",
    ],
)
def test_commands_that_fail(own: Wire, end: socket.socket, line: str) -> None:
    """As in Lua."""
    own.ask_ok("SET", "k", "x")
    (reply,) = run(own, end, tuple(line.encode().split()))
    assert reply.startswith(b"-ERR ") and reply.endswith(b"\r\n")


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
    most = (1 << 20) - len(frame(0, b"SET", b"k", b""))
    assert run(own, end, (b"SET", b"k", bytes(most))) == [b"+OK\r\n"]
    assert [len(reply) for reply in run(own, end, (b"GET", b"k"))] == [most + 2 + len(f"${most}\r\n")]
    assert own.ask("APPEND", "k", b"x" * 100) == most + 100
    (reply,) = run(own, end, (b"GET", b"k"))
    assert reply.startswith(b"-ERR the reply is too long for an atomic block; the command has run")


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
        replies = run(own, end, (b"SET", b"mine:k", b"1"), (b"SET", b"k", b"1"), (b"INCR", b"mine:k"))
        assert replies[0] == b"+OK\r\n"
        assert all(is_denial(Error(reply[1:].decode())) for reply in replies[1:])
        assert own.ask("RG._CALL", "GET", "mine:k") == b"1"
        assert is_denial(own.ask("RG._CALL", "GET", "k"))
        assert is_denial(own.ask("RG._CALL", "INCR", "mine:k"))


def test_numbers_that_are_none(own: Wire) -> None:
    for number in (-1, 1 << 32, "x", ""):
        assert is_error(own.ask("RG._ATOMIC", number), "ERR a number from 0 to 4294967295 is needed")


def test_one_transaction_for_replicas(flows: Process, own: Wire, end: socket.socket) -> None:
    with flows.server.wire() as replica:
        replica.send("SYNC")
        line = replica.stream.readline()
        while not line.startswith(b"$"):  # newlines while the file is made
            line = replica.stream.readline()
        replica.stream.read(int(line[1:]))
        run(own, end, (b"SET", b"k", b"1"), (b"INCR", b"k"))
        own.ask_ok("SET", "end", 1)
        found: list[list[bytes]] = []
        while not found or found[-1] != [b"SET", b"end", b"1"]:
            words = replica.read()
            found += [words] if words[0] != b"SELECT" else []  # in the transaction, or before it
        assert found[-5:-1] == [[b"MULTI"], [b"SET", b"k", b"1"], [b"INCR", b"k"], [b"EXEC"]]


def test_awaits_within(programs: Programs) -> None:
    """Functions of one thread: who awaits within a block loses it to the next one."""
    code = (
        "import asyncio\nasync def f(x):\n  with atomic():\n    await asyncio.sleep(0.05)\n"
        "    return execute('INCR', 'n')\n"
        "GB('CommandReader').map(f).register(trigger='t')"
    )
    programs.register(code)
    assert programs.trigger("t") == [b"1"]
    clients = [programs.server.wire() for _ in range(5)]
    for client in clients:
        client.send("RG.TRIGGER", "t")
    replies = [client.read() for client in clients]
    assert any(isinstance(reply, Error) and "an await within an atomic block" in reply for reply in replies)
    assert programs.trigger("t")[0].isdigit()
    for client in clients:
        client.close()
