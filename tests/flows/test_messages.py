"""Commands, events and hooked commands on their way to the flow process, and its answers."""

from __future__ import annotations

import time
from typing import Any

import pytest

from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.flows.kit import Process, figures, is_error


def trigger(flows: Process, wire: Wire, *words: Word) -> int:
    """Sends a command and returns its number."""
    wire.send("RG.TRIGGER", "t", *words)
    ((_, number, *_),) = flows.next()
    return int(number)


def test_a_command_and_its_answer(flows: Process, wire: Wire) -> None:
    wire.ask_ok("SELECT", 3)
    wire.send("rg.trigger", "name", b"\x00\xff", "")
    ((kind, number, user, db, *words),) = flows.next()
    assert (kind, user, db, words) == (b"command", b"default", 3, [b"RG.TRIGGER", b"name", b"\x00\xff", b""])
    flows.reply(number, "*4", "$\x00\r\n", ":-5", "+fine", "*2", "_", "-ODD one")
    assert wire.read() == [b"\x00\r\n", -5, b"fine", [None, "ODD one"]]
    flows.reply(number, "+again")  # nobody waits any more


@pytest.mark.parametrize(
    "tokens",
    [
        ["*2", ":1"],
        ["*1", ":1", ":2"],
        [":1", ":2"],
        ["*-1"],
        ["*99999999999999999999"],
        ["*1x", ":1"],
        ["* 1", ":1"],
        ["*"],
        [""],
        [":"],
        [":1.5"],
        [":9223372036854775808"],
        [": 1"],
        ["+"],
        ["-"],
        ["+two\r\n+lines"],
        ["-two\nlines"],
        ["_x"],
        ["?"],
        ["*1"] * 33 + [":1"],
        ["*2", "*0"],
    ],
    ids=repr,
)
def test_a_broken_answer(flows: Process, wire: Wire, tokens: list[str]) -> None:
    """The client gets an error, not half a reply, which would break its connection."""
    number = trigger(flows, wire)
    assert is_error(flows.do("REPLY", number, *tokens), "ERR the tokens of the reply are broken")
    assert wire.read() == "ERR the flow process has sent a broken reply"
    assert wire.ask("PING") == b"PONG"


def test_answers_that_are_deep_or_long(flows: Process, wire: Wire) -> None:
    number = trigger(flows, wire)
    flows.reply(number, *["*1"] * 32, "*0")
    reply, depth = wire.read(), 0
    while reply:
        reply, depth = reply[0], depth + 1
    assert depth == 32
    number = trigger(flows, wire)
    flows.reply(number, "*50000", *[":7"] * 50_000)
    assert wire.read() == [7] * 50_000


def test_several_wait_and_some_leave(flows: Process, server: Server) -> None:
    first, second, third = (server.wire() for _ in range(3))
    flows.control.send("RG._PROCESS", "NEXT")
    first.send("RG.TRIGGER", "first")
    assert [message[4:] for message in flows.control.read()] == [[b"RG.TRIGGER", b"first"]]
    second.send("RG.TRIGGER", "second")
    with server.wire() as wire:
        wait_for(lambda: figures(wire)["requests_waiting"] == "2")
        second.close()
        wait_for(lambda: figures(wire)["requests_waiting"] == "1", what="its command is dropped")
        third.send("RG.TRIGGER", "third")
        wait_for(lambda: figures(wire)["requests_waiting"] == "2")
        ((_, number, *_, last),) = flows.next()
        assert last == b"third"
        flows.reply(number, ":3")
        assert third.read() == 3
        first.abort()
        third.close()
        wait_for(lambda: figures(wire)["requests_waiting"] == "0")


def test_client_unblock(flows: Process, wire: Wire, server: Server) -> None:
    client = wire.ask("CLIENT", "ID")
    number = trigger(flows, wire)
    with server.wire() as other:
        assert other.ask("CLIENT", "UNBLOCK", client, "ERROR") == 1
        assert is_error(wire.read(), "UNBLOCKED")
        flows.reply(number, ":1")
        control = flows.control.ask("CLIENT", "ID")
        flows.control.send("RG._PROCESS", "NEXT")
        wait_for(lambda: other.ask("CLIENT", "UNBLOCK", control) == 1)
        assert flows.control.read() == b"TIMEDOUT"
    assert trigger(flows, wire) == number + 1
    flows.reply(number + 1, ":2")
    assert wire.read() == 2


def test_the_connection_that_asks_is_lost(flows: Process, wire: Wire, server: Server) -> None:
    flows.control.send("RG._PROCESS", "NEXT")
    wait_for(lambda: server.blocked_clients() == 1)
    with server.wire() as second:
        second.ask_ok("RG._PROCESS", "CONNECT", flows.secret)
        assert is_error(second.ask("RG._PROCESS", "NEXT"), "ERR another connection waits")
        flows.control.abort()
        wait_for(lambda: server.blocked_clients() == 0)
        wire.send("RG.TRIGGER", "x")
        ((_, number, *_),) = second.ask("RG._PROCESS", "NEXT")
        second.ask_ok("RG._PROCESS", "REPLY", number, "+here")
        assert wire.read() == b"here"


def test_a_connection_breaks_before_its_messages_are_read(flows: Process, wire: Wire, server: Server) -> None:
    """Clients are told; those whose commands came before are not concerned."""
    with server.wire() as early, server.wire() as second:
        number = trigger(flows, early)
        wire.send("RG.TRIGGER", "x")
        flows.next()
        flows.control.abort()
        second.ask_ok("RG._PROCESS", "CONNECT", flows.secret)
        second.send("RG._PROCESS", "NEXT")
        assert wire.read() == "ERR the connection of the flow process was lost: the command may have run or not"
        wire.send("RG.TRIGGER", "y")
        second.read()
        second.ask_ok("RG._PROCESS", "REPLY", number, ":1")
        assert early.read() == 1


def test_too_many_wait(flows: Process, server: Server, wire: Wire) -> None:
    clients = [server.wire() for _ in range(5)]
    try:
        for client in clients[:4]:
            client.send("RG.TRIGGER", "t", bytes(15 << 20))
        wait_for(lambda: figures(wire)["requests_waiting"] == "4")
        assert is_error(clients[4].ask("RG.TRIGGER", "t", bytes(15 << 20)), "BUSY ")
        numbers: list[int] = []
        while len(numbers) < 4:
            numbers += [message[1] for message in flows.next()]
        assert is_error(clients[4].ask("RG.TRIGGER", "t", bytes(15 << 20)), "BUSY "), "they are still worked on"
        for number in numbers:
            flows.reply(number, "_")
        assert [client.read() for client in clients[:4]] == [None] * 4
    finally:
        for client in clients:
            client.close()


def test_where_nobody_can_wait(flows: Process, wire: Wire) -> None:
    wire.ask("MULTI")
    wire.ask("RG.TRIGGER", "t")
    (reply,) = wire.ask("EXEC")
    assert is_error(reply, "ERR RG.TRIGGER cannot be called in MULTI, from Lua or by a module")
    assert is_error(wire.ask("EVAL", "return redis.call('RG.TRIGGER', 't')", 0), "ERR RG.TRIGGER cannot be called")
    flows.control.ask("MULTI")
    flows.do("NEXT")
    (reply,) = flows.control.ask("EXEC")
    assert is_error(reply, "ERR RG._PROCESS cannot be called in MULTI")


def test_a_pause_of_writes_holds_no_answer(flows: Process, wire: Wire, server: Server) -> None:
    number = trigger(flows, wire)
    with server.wire() as operator:
        operator.ask_ok("CLIENT", "PAUSE", 2000, "WRITE")
        began = time.monotonic()
        flows.reply(number, "+now")
        assert wire.read() == b"now"
        user = flows.user()
        user.send("RG._CALL", "SET", "k", "v")
        assert time.monotonic() - began < 1
        assert operator.ask("GET", "k") is None
        operator.ask_ok("CLIENT", "UNPAUSE")
        assert user.read() == b"OK"
        user.close()


# ---- events ----------------------------------------------------------------------------------------------------------


def events(flows: Process) -> list[list[Any]]:
    """Those that wait; a command after them makes sure that there is one message."""
    with flows.server.wire() as wire:
        wire.send("RG.TRIGGER", "end")
        found: list[list[Any]] = []
        while not found or found[-1][0] != b"command":
            found += flows.next()
        flows.reply(found.pop()[1], "_")
        wire.read()
    return found


def test_watched_keys(flows: Process, wire: Wire) -> None:
    watches: list[Word] = [
        "keys",
        0,
        "a:",
        "prefix",
        "",
        "keys",
        0,
        "b",
        "exact",
        "set,DEL",
        "keys",
        2,
        "",
        "prefix",
        "",
    ]
    assert flows.do("WATCH", *watches) == b"OK"
    for words in (
        ("SET", "a:1", 1), ("INCR", "a:1"), ("SET", "a", 1), ("SET", "b", 1), ("APPEND", "b", 1), ("DEL", "b"),
        ("SET", "bb", 1), ("GET", "a:missing"), ("HSET", "a:h", "f", 1), ("SELECT", 2), ("RPUSH", "c", 1),
        ("SELECT", 1), ("SET", "a:1", 1),
    ):  # fmt: skip
        assert not isinstance(wire.ask(*words), Error)
    assert events(flows) == [
        [b"event", 0, b"set", b"a:1"],
        [b"event", 0, b"incrby", b"a:1"],
        [b"event", 0, b"set", b"b"],
        [b"event", 0, b"del", b"b"],
        [b"event", 0, b"hset", b"a:h"],
        [b"event", 2, b"rpush", b"c"],
    ]
    assert flows.do("WATCH") == b"OK"
    wire.ask("SELECT", 0)
    wire.ask("SET", "a:1", 1)
    assert events(flows) == []


def test_watched_streams(flows: Process, wire: Wire) -> None:
    assert flows.do("WATCH", "stream", 0, "s:", "prefix", "") == b"OK"
    for key in ("s:1", "s:2", "s:1", "other", "s:1"):
        wire.ask("XADD", key, "*", "f", 1)
    wire.ask("XTRIM", "s:1", "MAXLEN", 1)
    wire.ask("HSET", "s:h", "f", 1)
    assert events(flows) == [[b"stream", 0, b"s:1"], [b"stream", 0, b"s:2"]]
    wire.ask("XADD", "s:1", "*", "f", 1)
    wire.ask("RENAME", "other", "s:3")
    assert events(flows) == [[b"stream", 0, b"s:1"], [b"stream", 0, b"s:3"]]


@pytest.mark.parametrize(
    "words",
    [
        ["keys"],
        ["keys", 0, "n", "exact"],
        ["hash", 0, "n", "exact", ""],
        ["keys", -1, "n", "exact", ""],
        ["keys", "x", "n", "exact", ""],
        ["keys", 0, "n", "like", ""],
    ],
    ids=str,
)
def test_watches_that_are_wrong(flows: Process, words: list[Word]) -> None:
    assert is_error(flows.do("WATCH", *words), "ERR WATCH ")


def test_too_many_events(flows: Process, wire: Wire) -> None:
    before = int(figures(wire)["events_dropped"])
    assert flows.do("WATCH", "keys", 0, "", "prefix", "set") == b"OK"
    assert wire.ask("EVAL", "for i = 1, 100010 do redis.call('SET', 'k', i) end", 0) is None
    assert int(figures(wire)["events_waiting"]) == 100_000
    assert int(figures(wire)["events_dropped"]) == before + 10
    assert "too many events wait for the flow process" in flows.server.log()
    assert len(events(flows)) == 100_000
    assert figures(wire)["events_waiting"] == "0"


# ---- hooks -----------------------------------------------------------------------------------------------------------


def test_hooked_commands(flows: Process, wire: Wire, server: Server) -> None:
    assert flows.do("HOOKS", "hset", "h:", "ping", "") == b"OK"
    assert wire.ask("HSET", "other", "f", 1) == 1, "another prefix"
    wire.send("HSet", "h:1", "f", 1)
    ((kind, number, user, db, *words),) = flows.next()
    assert (kind, user, db, words) == (b"hook", b"default", 0, [b"HSet", b"h:1", b"f", b"1"])
    with flows.user() as own:
        assert own.ask("RG._CALL", "HSET", "h:1", "f", 2) == 1
        assert own.ask("HSET", "h:1", "g", 2) == 1, "the process's own commands are not hooked"
    flows.reply(number, ":77")
    assert wire.read() == 77
    assert flows.do("HOOKS") == b"OK"
    assert wire.ask("HSET", "h:1", "f", 3) == 0
    assert wire.ask("PING") == b"PONG"


def test_hooked_commands_where_nobody_can_wait(flows: Process, wire: Wire) -> None:
    assert flows.do("HOOKS", "set", "") == b"OK"
    wire.ask("MULTI")
    wire.ask("SET", "k", 1)
    assert wire.ask("EXEC") == [b"OK"]
    assert wire.ask("EVAL", "return redis.call('SET', 'k', 2)", 0) == b"OK"
    assert wire.ask("GET", "k") == b"2"
    assert wire.ask("COMMAND", "GETKEYS", "RG._HOOKED", "SET", "k", 1) == [b"k"]


@pytest.mark.parametrize("words", [("HSET", "k"), ("ZUNIONSTORE", "k"), ("RENAME",)], ids=str)
def test_hooked_commands_that_lack_words(flows: Process, wire: Wire, words: tuple[str, ...]) -> None:
    assert flows.do("HOOKS", words[0], "") == b"OK"
    assert is_error(wire.ask(*words), "ERR ")


def test_one_within_the_other(flows: Process, wire: Wire) -> None:
    """They would call each other for each word."""
    words = ["RG._HOOKED"] * 200_000
    assert is_error(wire.ask(*words), "NOPERM ")
    assert isinstance(wire.ask("COMMAND", "GETKEYS", *words), Error)
    wire.ask_ok("MULTI")
    wire.ask(*words)
    assert is_error(wire.ask("EXEC")[0], "NOPERM ")
    with flows.user() as own:
        assert is_error(own.ask("RG._CALL", *words), "NOPERM ")
        assert isinstance(own.ask("RG._CALL", *["RG._CALL"] * 1000, "PING"), Error)


@pytest.mark.parametrize("command", ["auth", "RG.TRIGGER", "rg._process", "EXEC", ""])
def test_what_cannot_be_hooked(flows: Process, command: str) -> None:
    assert is_error(flows.do("HOOKS", command, ""), "ERR the command ")
    assert is_error(flows.do("HOOKS", "get"), "ERR HOOKS ")


def test_streams_that_are_missed(flows: Process, wire: Wire) -> None:
    """Where too many events wait, and after SWAPDB, the process is to look for streams itself."""
    assert flows.do("WATCH", "keys", 0, "k", "prefix", "", "stream", 0, "s", "prefix", "") == b"OK"
    for number in range(65):
        wire.ask_ok("SET", b"k" + bytes(1 << 20) + b"%d" % number, "")
    wire.ask("XADD", "s", "*", "a", "b")
    found: list[list[object]] = []
    while not found or found[-1][0] == b"event":
        found += flows.next()
    assert found[-1] == [b"missed", 0]
    wire.ask_ok("SWAPDB", 0, 1)
    assert flows.next() == [[b"missed", 0]]
    wire.ask_ok("SWAPDB", 0, 1)
    flows.next()


def test_the_secret_is_not_shown(flows: Process, wire: Wire) -> None:
    wire.ask_ok("CONFIG", "SET", "slowlog-log-slower-than", 0)
    with flows.server.wire() as monitor:
        monitor.ask_ok("MONITOR")
        flows.user().close()
        wire.ask_ok("CONFIG", "SET", "slowlog-log-slower-than", 10_000)
        wire.ask("ECHO", "end")
        seen: list[bytes] = []
        while not seen or b"end" not in seen[-1]:
            seen.append(monitor.read())
    assert flows.secret.encode() not in b"".join(seen)
    assert flows.secret not in str(wire.ask("SLOWLOG", "GET", 100))


def test_commands_that_scripts_cannot_call_are_not_hooked(flows: Process) -> None:
    for name in ("eval", "fcall", "acl", "config", "shutdown", "auth", "select", "rg.trigger"):
        assert flows.do("HOOKS", name, "") == f"ERR the command '{name}' cannot be hooked"
    for name in ("get", "xinfo", "ai.modelrun"):
        assert flows.do("HOOKS", name, "") == b"OK"
