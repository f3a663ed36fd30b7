"""Bindings live through restarts and failovers, with what is pending; replicas do not act."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testkit import restarts
from testkit.replicas import caught_up, follow, is_in_step
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.bindings.kit import BINDINGS, LINE, bind, binding, settle, store
from tests.conftest import StartServer

AT_ONCE = ("--repl-diskless-sync-delay", "0")
HASH = f"ON HASH PREFIX 1 k: FIELDS 1 x {LINE} ERROR why"
STREAM = "ON STREAM PREFIX 1 in FIELDS 1 x MODEL m SET 1 y STREAM out"


def write(wire: Wire, *, first: int = 0) -> None:
    for i in range(first, first + 20):
        wire.ask("HSET", f"k:{i}", "x", i)
        wire.ask("XADD", "in", f"{i + 1}-1", "x", i)


def check(wire: Wire, count: int = 20) -> None:
    settle(wire)
    assert [wire.ask("HGET", f"k:{i}", "y") for i in range(count)] == [b"%d" % (2 * i + 1) for i in range(count)]
    ids = [fields[fields.index(b"id") + 1] for _, fields in wire.ask("XRANGE", "out", "-", "+")]
    assert ids == [b"%d-1" % (i + 1) for i in range(count)]


@pytest.mark.parametrize(
    ("restart", "arguments"),
    [
        (restarts.by_rdb, ()),
        (restarts.by_debug_reload, ()),
        (restarts.by_aof, restarts.AOF),
        (restarts.by_rewritten_aof, restarts.AOF),
        (restarts.by_debug_loadaof, restarts.AOF),
    ],
)
def test_restarts(
    restart: Callable[[Server, Wire], None], arguments: tuple[str, ...], start_server: StartServer
) -> None:
    """What was pending, because there was no model, runs after the restart."""
    server = start_server(*arguments, options=BINDINGS)
    with server.wire() as wire:
        store(wire)
        bind(wire, HASH)
        bind(wire, STREAM, "stream")
        wire.ask("ACL", "SETUSER", "ann", "on", "nopass", "+@all", "~*")
        wire.ask("HSET", "k:done", "x", 1)
        settle(wire)
        wire.ask("AI.MODELDEL", "m")
        write(wire)
        assert binding(wire)["pending"] == 20
        definition = binding(wire)["definition"]
        restart(server, wire)
    with server.wire() as wire:
        assert wire.ask("AI.BINDLIST") == [b"b", b"stream"]
        told = binding(wire)
        assert (told["definition"], told["user"], told["pending"]) == (definition, "default", 20)
        store(wire)
        check(wire)
        wire.ask_ok("AI.UNBIND", "b")
        restart(server, wire)
    with server.wire() as wire:
        assert wire.ask("AI.BINDLIST") == [b"stream"]


def test_nothing_is_saved_without_bindings(start_server: StartServer) -> None:
    """So a server without the module loads the file, once no key is ours. Older servers need BINDINGS for bindings."""
    server = start_server()
    with server.wire() as wire:
        if "needs" not in str(wire.ask("AI.UNBIND", "b")):
            store(wire)
        wire.ask("SET", "a", "b")
        wire.ask("DEL", "m")
        assert wire.ask("SAVE") == b"OK"
    assert b"AI__BINDS" not in (data := (server.folder / "dump.rdb").read_bytes())
    assert data


@pytest.mark.parametrize("load", ["disabled", "swapdb"])
def test_replicas_have_them_and_do_not_act(load: str, start_server: StartServer) -> None:
    master, replica = (start_server("--repl-diskless-load", load, *AT_ONCE, options=BINDINGS) for _ in range(2))
    with master.wire() as wire, replica.wire() as other:
        store(other, "old")
        bind(other, "ON HASH PREFIX 1 k: FIELDS 1 x MODEL old SET 1 z", "old")
        store(wire)
        bind(wire, HASH)
        follow(replica, master)
        assert other.ask("AI.BINDLIST") == [b"b"]
        bind(wire, STREAM, "stream")
        write(wire)
        check(wire)
        caught_up(wire)
        check(other)
        assert binding(other)["results"] == 0
        wire.ask_ok("AI.UNBIND", "b")
        caught_up(wire)
        assert other.ask("AI.BINDLIST") == [b"stream"]


def test_promotion_finishes_what_is_pending(start_server: StartServer) -> None:
    master, replica = (start_server(*AT_ONCE, options=BINDINGS) for _ in range(2))
    with master.wire() as wire, replica.wire() as other:
        store(wire)
        bind(wire, HASH)
        bind(wire, STREAM, "stream")
        follow(replica, master)
        write(wire)
        settle(wire)
        wire.ask("HSET", "k:bad", "x", "no number")
        settle(wire)
        caught_up(wire)
        wait_for(lambda: binding(other)["pending"] == 0, what="the replica hears that all is done")
        wire.ask("AI.MODELDEL", "m")
        write(wire, first=20)
        caught_up(wire)
        assert binding(other)["pending"] == 20
        master.kill()
        other.ask_ok("REPLICAOF", "NO", "ONE")
        store(other)
        check(other, 40)
        assert binding(other)["errors"] == 0


def test_failover(start_server: StartServer) -> None:
    master, replica = (start_server(*AT_ONCE, options=BINDINGS) for _ in range(2))
    with master.wire() as wire, replica.wire() as other:
        store(wire)
        bind(wire, HASH)
        bind(wire, STREAM, "stream")
        follow(replica, master)
        write(wire)
        wire.ask_ok("FAILOVER")
        wait_for(lambda: other.ask("ROLE")[0] == b"master" and is_in_step(wire), 20, "the failover")
        write(other, first=20)
        check(other, 40)
        caught_up(other)
        check(wire, 40)
