"""Scripts after a restart, a reload and a rewrite, and those that old versions have saved: kept whole, and they run."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit import rdb, samples, scripts
from testkit.restarts import AOF, by_aof, by_debug_loadaof, by_debug_reload, by_rewritten_aof
from testkit.scripts import OLD, SOURCE, execute, function, store_command, store_old, store_plain, store_redis, values
from testkit.values import Script
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import StartServer

ODD_KEY = b"\0key \xff\r\n"
STORED = {
    "redis": Script(scripts.REDIS, entry_points=scripts.REDIS_ENTRY_POINTS),
    "old": Script(OLD),
    "tagged": Script(SOURCE, "cpu:1", "v1", ("add", "two")),
}


def run_all(wire: Wire) -> None:
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
    assert wire.ask(*execute("tagged", "two", inputs=["x"], outputs=["y", "z"])) == b"OK"
    assert (values(wire, "y"), values(wire, "z")) == ([b"2", b"3"], [b"2", b"4"])
    assert wire.ask("AI.SCRIPTRUN", "old", "addn", "INPUTS", "x", "$", "x", "OUTPUTS", "y") == b"OK"
    assert wire.ask(*execute("redis", "run", ["k"], (), ["SET", "k", "x"])) == b"OK"
    assert wire.ask(*execute("tagged", "total", inputs=["x"], outputs=["y"])) == "ERR Function does not exist: total"


def contents(wire: Wire) -> list[object]:
    return [wire.ask("AI.SCRIPTGET", key) for key in STORED]


def test_scripts_survive(start_server: StartServer) -> None:
    server = start_server(*AOF, "--aof-use-rdb-preamble", "no")
    with server.wire() as wire:
        store_redis(wire, key="redis")
        store_old(wire, "old")
        assert wire.ask(*store_command("tagged", SOURCE, ("add", "two"), "cpu:1", tag=b"\0tag\xff")) == b"OK"
        store_plain(wire, ODD_KEY)
        before = contents(wire)
    for how in (by_debug_reload, by_debug_loadaof, by_aof, by_rewritten_aof):
        with server.wire() as wire:
            run_all(wire)
            digest = wire.ask("DEBUG", "DIGEST")
            how(server, wire)
        with server.wire() as wire:
            assert contents(wire) == before, how.__name__
            assert [ODD_KEY, b""] in wire.ask("AI._SCRIPTSCAN")
            assert wire.ask("DEBUG", "DIGEST") == digest
            run_all(wire)
    assert server.stop() == 0


def test_a_run_waits_for_its_script_after_a_start(start_server: StartServer) -> None:
    """The first run after a start imports the library; another, sent right after it, waits as well."""
    server = start_server()
    with server.wire() as wire, server.wire() as leaver, server.wire() as other:
        for key, script in STORED.items():
            samples.restore(wire, key, script)
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1)
        words = execute("tagged", "two", inputs=["x"], outputs=["y", "z"])
        wire.send(*words)
        leaver.send(*words)
        leaver.abort()
        wait_for(lambda: server.blocked_clients() >= 1 or other.ask("EXISTS", "y"))
        assert other.ask("PING") == b"PONG"
        assert wire.read() == b"OK"
        run_all(wire)


# ---- what old versions have saved ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", rdb.VERSIONS)
def test_functions_of_the_old_convention(wire: Wire, version: int) -> None:
    samples.restore(wire, "s", Script(OLD, tag="v1"), version)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
    assert wire.ask("AI.SCRIPTRUN", "s", "add", "INPUTS", "x", "x", "OUTPUTS", "y") == b"OK"
    assert wire.ask(*execute("s", "add", inputs=["x", "y"], outputs=["z"])) == b"OK"
    assert (values(wire, "y"), values(wire, "z")) == ([b"2", b"4"], [b"3", b"6"])
    assert wire.ask("AI.SCRIPTRUN", "s", "addn", "INPUTS", "x", "$", "x", "x", "OUTPUTS", "y") == b"OK"
    assert (
        wire.ask("AI.SCRIPTRUN", "s", "missing", "INPUTS", "x", "OUTPUTS", "y")
        == "ERR Function does not exist: missing"
    )
    meta = [b"device", b"CPU", b"tag", b"v1", b"Entry Points", []]
    assert wire.ask("AI.SCRIPTGET", "s") == [*meta, b"source", OLD.encode()]
    assert wire.ask("AI._SCRIPTSCAN") == [[b"s", b"v1"]]


@pytest.mark.parametrize("version", rdb.VERSIONS)
def test_functions_of_the_new_convention(wire: Wire, version: int) -> None:
    """Up to version 2 there were no entry points: then any function may be called."""
    samples.restore(wire, "s", Script(SOURCE, entry_points=("add", "count")), version)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
    assert wire.ask(*execute("s", "add", inputs=["x", "x"], outputs=["y"])) == b"OK"
    assert values(wire, "y") == [b"2", b"4"]
    assert wire.ask(*execute("s", "count", ["k"], ["x"], ["a", "b"], ["n"])) == b"OK"
    assert values(wire, "n") == [1, 1, 2]
    reply = wire.ask(*execute("s", "total", inputs=["x", "x"], outputs=["t"]))
    if version >= 3:
        assert reply == "ERR Function does not exist: total"
    else:
        assert (reply, values(wire, "t")) == (b"OK", [b"6"])


@pytest.mark.parametrize(
    "script",
    [
        Script("this is no script"),
        Script(function("f", "return torch.no_such_function()"), entry_points=("f",)),
        Script(SOURCE, entry_points=("no such function",)),
        Script("def f(a):\n    return a\n", entry_points=("f",)),
    ],
    ids=["broken", "unknown function", "unknown entry point", "wrong signature"],
)
def test_a_script_that_does_not_compile_is_kept(wire: Wire, script: Script) -> None:
    samples.restore(wire, "s", script)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1)
    for _ in range(2):
        reply = wire.ask(*execute("s", "f", inputs=["x"], outputs=["y"]))
        assert isinstance(reply, Error)
        assert reply.startswith("ERR ")
        assert wire.ask("AI.SCRIPTGET", "s", "SOURCE") == script.source.encode()
        assert rdb.decode(wire.ask("DUMP", "s")).fields == rdb.script_fields(script, 4)
    assert wire.ask("PING") == b"PONG"


def test_dump_and_restore(wire: Wire) -> None:
    store_plain(wire)
    payload = wire.ask("DUMP", "s")
    assert rdb.decode(payload).fields == rdb.script_fields(Script(SOURCE, entry_points=tuple(scripts.FUNCTIONS)), 4)
    assert wire.ask("RESTORE", "t", 0, payload) == b"OK"
    assert wire.ask("AI.SCRIPTGET", "t") == wire.ask("AI.SCRIPTGET", "s")
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 5)
    assert wire.ask(*execute("t", "add", inputs=["x", "x"], outputs=["y"])) == b"OK"


def test_a_server_without_the_library_keeps_scripts(start_server: StartServer, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    server = start_server(options=["BACKENDSPATH", str(empty)])
    with server.wire() as wire:
        for key, script in STORED.items():
            samples.restore(wire, key, script)
        before = contents(wire)
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1)
        reply = wire.ask(*execute("tagged", "two", inputs=["x"], outputs=["y", "z"]))
        assert isinstance(reply, Error) and reply.startswith("ERR Could not load backend")
        reply = wire.ask(*store_command("new", SOURCE, ["add"]))
        assert isinstance(reply, Error) and reply.startswith("ERR Could not load backend")
        assert contents(wire) == before
        assert wire.ask("SAVE") == b"OK"
    server.options = []
    server.restart()
    with server.wire() as wire:
        assert contents(wire) == before
        run_all(wire)
