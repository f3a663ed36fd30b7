"""Redis's commands for keys do with our three types what they do with any other; values live in their own database."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testkit import models, scripts
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.conftest import Slow, StartServer

ADD = scripts.function("f", "return tensors[0] + tensors[1]")
MUL = scripts.function("f", "return tensors[0] * tensors[1]")
RUN_MODEL: tuple[Word, ...] = ("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "y", "OUTPUTS", 1, "made")
RUN_SCRIPT = scripts.execute("s", "f", inputs=["x", "y"], outputs=["made"])
RUN_DAG = "AI.DAGEXECUTE LOAD 2 x y PERSIST 1 made |> AI.MODELEXECUTE m INPUTS 2 x y OUTPUTS 1 made"
KEYS = ("m", "s", "x", "y")


def store(wire: Wire, how: str) -> None:
    """Model, script and tensors under the same names, which add or multiply other numbers."""
    blob, source, numbers = (models.onnx_add(), ADD, (3, 4)) if how == "add" else (models.onnx_mul(), MUL, (5, 6))
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "TAG", how, "BLOB", blob) == b"OK"
    scripts.store(wire, "s", source, ["f"])
    for key in "xy":
        assert wire.ask("AI.TENSORSET", key, "FLOAT", 1, 2, "VALUES", *numbers) == b"OK"


def check(wire: Wire, how: str) -> None:
    """What is run here is what was stored here."""
    wanted = [b"6", b"8"] if how == "add" else [b"25", b"36"]
    for words, reply in (RUN_MODEL, b"OK"), (RUN_SCRIPT, b"OK"), (RUN_DAG.split(), [b"OK"]):
        assert wire.ask(*words) == reply
        assert wire.ask("AI.TENSORGET", "made", "VALUES") == wanted
        assert wire.ask("DEL", "made") == 1
    assert wire.ask("AI._MODELSCAN") == [[b"m", how.encode()]]
    assert wire.ask("AI._SCRIPTSCAN") == [[b"s", b""]]
    assert sorted(wire.ask("KEYS", "*")) == [key.encode() for key in KEYS]


def check_empty(wire: Wire) -> None:
    assert wire.ask(*RUN_MODEL) == Error("ERR model key is empty")
    assert wire.ask(*RUN_DAG.split()) == Error("ERR tensor key is empty or in a different shard"), "LOAD comes first"
    assert wire.ask(*RUN_SCRIPT) == Error("ERR script key is empty")
    assert wire.ask("AI._MODELSCAN") == wire.ask("AI._SCRIPTSCAN") == wire.ask("KEYS", "*") == []


def at(wire: Wire, database: int) -> Wire:
    assert wire.ask("SELECT", database) == b"OK"
    return wire


@pytest.fixture
def two(wire: Wire) -> Wire:
    """Database 0 adds, database 9 multiplies."""
    store(wire, "add")
    store(at(wire, 9), "multiply")
    return wire


# ---- databases -------------------------------------------------------------------------------------------------------


def test_each_database_has_its_own(two: Wire) -> None:
    check(at(two, 0), "add")
    check(at(two, 9), "multiply")
    check_empty(at(two, 1))


def test_move(two: Wire) -> None:
    for key in KEYS:
        assert at(two, 0).ask("MOVE", key, 9) == 0, "there is one already"
        assert two.ask("MOVE", key, 4) == 1
    check_empty(two)
    check(at(two, 4), "add")
    check(at(two, 9), "multiply")


def test_swapdb(two: Wire) -> None:
    assert two.ask("SWAPDB", 0, 9) == b"OK"
    check(at(two, 0), "multiply")
    check(at(two, 9), "add")
    assert two.ask("SWAPDB", 9, 3) == b"OK"
    check_empty(two)
    check(at(two, 3), "add")


def test_copies_in_another_database(two: Wire) -> None:
    for key in KEYS:
        assert at(two, 9).ask("COPY", key, key, "DB", 0) == 0
        assert two.ask("COPY", key, key, "DB", 0, "REPLACE") == 1
    check(two, "multiply")
    check(at(two, 0), "multiply")


@pytest.mark.parametrize("command", ["FLUSHDB SYNC", "FLUSHDB ASYNC"])
def test_flushdb(two: Wire, command: str) -> None:
    assert at(two, 0).ask(*command.split()) == b"OK"
    check_empty(two)
    check(at(two, 9), "multiply")


@pytest.mark.parametrize("command", ["FLUSHALL SYNC", "FLUSHALL ASYNC"])
def test_flushall(two: Wire, command: str) -> None:
    for _ in range(2):
        assert two.ask(*command.split()) == b"OK"
        for database in (0, 9):
            check_empty(at(two, database))
        store(two, "add")
        check(two, "add")


def reload(server: Server, wire: Wire) -> None:
    assert wire.ask("DEBUG", "RELOAD") == b"OK"


def load_aof(server: Server, wire: Wire) -> None:
    assert wire.ask("DEBUG", "LOADAOF") == b"OK"


def restart(server: Server, wire: Wire) -> None:
    server.restart()


@pytest.mark.parametrize("how", [reload, load_aof, restart])
def test_databases_are_loaded_as_they_were(start_server: StartServer, how: Callable[[Server, Wire], None]) -> None:
    server = start_server("--appendonly", "yes")
    with server.wire() as wire:
        store(wire, "add")
        store(at(wire, 9), "multiply")
        assert wire.ask("SWAPDB", 0, 9) == b"OK"
        for key in KEYS:
            assert wire.ask("MOVE", key, 2) == 1
        how(server, wire)
    with server.wire() as wire:
        check(wire, "multiply")
        check(at(wire, 2), "add")
        check_empty(at(wire, 9))


def test_databases_are_swapped_while_a_model_runs(server: Server, wire: Wire, slow: Slow) -> None:
    """The run has its model and inputs; what it makes goes to the database that its client has selected."""
    words = slow(wire, 0.3)
    assert at(wire, 9).ask("SET", "other", "x") == b"OK"
    with server.wire() as runner:
        runner.send(*words)
        wait_for(lambda: server.blocked_clients() == 1)
        assert wire.ask("SWAPDB", 0, 9) == b"OK"
        assert runner.read() == b"OK"
        assert sorted(runner.ask("KEYS", "*")) == [b"other", b"slow:out"]


def test_the_model_moves_away_while_it_runs(server: Server, wire: Wire, slow: Slow) -> None:
    words = slow(wire, 0.3)
    with server.wire() as runner:
        runner.send(*words)
        wait_for(lambda: server.blocked_clients() == 1)
        assert wire.ask("MOVE", "slow", 9) == wire.ask("MOVE", "slow:n", 9) == 1
        assert runner.read() == b"OK"
    assert wire.ask("KEYS", "*") == [b"slow:out"]
    assert at(wire, 9).ask(*words) == b"OK"


# ---- one key ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(wire: Wire) -> Wire:
    store(wire, "add")
    return wire


@pytest.mark.parametrize("key", KEYS[:3])
def test_what_redis_tells_of_a_key(stored: Wire, key: str) -> None:
    kind = {"m": b"AI__MODEL", "s": b"AI_SCRIPT", "x": b"AI_TENSOR"}[key]
    assert stored.ask("TYPE", key) == kind
    found = set()
    cursor = b"0"
    while True:
        cursor, keys = stored.ask("SCAN", cursor, "TYPE", kind)
        found |= set(keys)
        if cursor == b"0":
            break
    assert found == ({b"x", b"y"} if key == "x" else {key.encode()})
    assert stored.ask("EXISTS", key) == stored.ask("TOUCH", key) == 1
    assert stored.ask("OBJECT", "ENCODING", key) == b"raw"
    assert stored.ask("OBJECT", "REFCOUNT", key) == 1
    assert stored.ask("OBJECT", "IDLETIME", key) < 60
    assert b"serializedlength" in stored.ask("DEBUG", "OBJECT", key)
    assert stored.ask("TTL", key) == -1


@pytest.mark.parametrize("key", KEYS[:3])
def test_commands_of_other_types(stored: Wire, key: str) -> None:
    for line in ("GET k", "APPEND k x", "LPUSH k x", "HGETALL k", "SADD k x", "ZCARD k", "XLEN k", "INCR k", "SORT k"):
        reply = stored.ask(*line.replace("k", key).split())
        assert isinstance(reply, Error) and reply.startswith("WRONGTYPE "), line
    assert stored.ask("SETNX", key, "x") == 0
    assert stored.ask("RENAMENX", "y", key) == 0
    check(stored, "add")
    assert stored.ask("SET", key, "x") == b"OK", "SET replaces any type"
    assert stored.ask("TYPE", key) == b"string"


WRONG = {
    "x": [
        "AI.TENSORGET k",
        "AI.TENSORSET k FLOAT 1",
        "AI.MODELEXECUTE m INPUTS 2 x k OUTPUTS 1 made",
        "AI.MODELEXECUTE m INPUTS 2 x y OUTPUTS 1 k",
        "AI.SCRIPTEXECUTE s f INPUTS 2 x k OUTPUTS 1 made",
        "AI.DAGEXECUTE LOAD 1 k |> AI.TENSORGET k",
        "AI.DAGEXECUTE PERSIST 1 k |> AI.TENSORSET k FLOAT 1",
    ],
    "m": [
        "AI.MODELGET k",
        "AI.MODELSTORE k ONNX CPU BLOB b",
        "AI.MODELDEL k",
        "AI.MODELEXECUTE k INPUTS 2 x y OUTPUTS 1 made",
        "AI.DAGEXECUTE LOAD 2 x y |> AI.MODELEXECUTE k INPUTS 2 x y OUTPUTS 1 made",
    ],
    "s": [
        "AI.SCRIPTGET k",
        "AI.SCRIPTSTORE k CPU ENTRY_POINTS 1 f SOURCE s",
        "AI.SCRIPTDEL k",
        "AI.SCRIPTEXECUTE k f INPUTS 2 x y OUTPUTS 1 made",
    ],
}


@pytest.mark.parametrize("right", WRONG)
def test_ours_on_other_types(stored: Wire, right: str) -> None:
    assert stored.ask("SET", "plain", "text") == b"OK"
    for other in {"plain", "m", "s", "x"} - {right}:
        for line in WRONG[right]:
            reply = stored.ask(*[other if word == "k" else word for word in line.split()])
            assert isinstance(reply, Error) and reply.startswith("WRONGTYPE "), (line, other, reply)
    assert stored.ask("GETDEL", "plain") == b"text"
    check(stored, "add")


@pytest.mark.parametrize("key", KEYS[:3])
def test_expiry(stored: Wire, key: str) -> None:
    assert stored.ask("EXPIRE", key, 1000) == 1
    assert 0 < stored.ask("TTL", key) <= 1000
    assert stored.ask("COPY", key, "copy") == 1
    assert 0 < stored.ask("TTL", "copy") <= 1000
    assert stored.ask("RENAME", "copy", "renamed") == b"OK"
    assert 0 < stored.ask("TTL", "renamed") <= 1000
    assert stored.ask("PERSIST", key) == 1
    payload = stored.ask("DUMP", key)
    assert stored.ask("RESTORE", "later", 50_000, payload) == b"OK"
    assert 0 < stored.ask("PTTL", "later") <= 50_000
    assert stored.ask("RESTORE", "past", 1, payload, "ABSTTL") == b"OK"
    assert stored.ask("EXISTS", "past") == 0
    assert stored.ask("EXPIRE", key, -1) == 1
    assert stored.ask("EXISTS", key) == 0


def test_storing_anew_ends_the_expiry(start_server: StartServer) -> None:
    """As SET does; and the AOF says the same."""
    server = start_server("--appendonly", "yes", "--appendfsync", "always")
    with server.wire() as wire:
        store(wire, "add")
        for words in (RUN_MODEL, RUN_SCRIPT, RUN_DAG.split()):
            wire.ask("AI.TENSORSET", "made", "FLOAT", 1)
            assert wire.ask("EXPIRE", "made", 1000) == 1
            assert wire.ask(*words) in (b"OK", [b"OK"])
            assert wire.ask("TTL", "made") == -1
        for key in KEYS:
            assert wire.ask("EXPIRE", key, 1000) == 1
        store(wire, "add")
        assert [wire.ask("TTL", key) for key in KEYS] == [-1] * 4
        digest = wire.ask("DEBUG", "DIGEST")
    server.restart()
    with server.wire() as wire:
        assert [wire.ask("TTL", key) for key in (*KEYS, "made")] == [-1] * 5
        assert wire.ask("DEBUG", "DIGEST") == digest


def test_restored_values_keep_what_eviction_knows(stored: Wire) -> None:
    for key in KEYS[:3]:
        payload = stored.ask("DUMP", key)
        assert stored.ask("RESTORE", "idle", 0, payload, "REPLACE", "IDLETIME", 1000) == b"OK"
        assert stored.ask("OBJECT", "IDLETIME", "idle") >= 1000


def test_those_who_watch_see_every_change(server: Server, stored: Wire) -> None:
    """WATCH: a transaction is called off by whatever changes a key of ours, and by nothing else."""
    changes: dict[str, list[list[Word]]] = {
        "m": [["AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add()], ["RENAME", "m", "n"]],
        "x": [["AI.TENSORSET", "x", "FLOAT", 1], ["EXPIRE", "x", 1000]],
        "s": [list(scripts.store_command("s", ADD, ["f"])), ["AI.SCRIPTDEL", "s"]],
        "made": [list(RUN_MODEL), list(RUN_SCRIPT), list(RUN_DAG.split()), ["UNLINK", "made"]],
    }
    with server.wire() as watcher:
        for key, commands in changes.items():
            for words in commands:
                store(stored, "add")
                assert watcher.ask("WATCH", key) == b"OK"
                assert not isinstance(stored.ask(*words), Error)
                assert watcher.ask("MULTI") == b"OK"
                assert watcher.ask("PING") == b"QUEUED"
                assert watcher.ask("EXEC") is None, words
        store(stored, "add")
        assert watcher.ask("WATCH", *KEYS) == b"OK"
        for line in ("AI.TENSORGET x", "AI.MODELGET m", "AI.SCRIPTGET s", "AI._MODELSCAN", "AI.INFO m RESETSTAT"):
            assert not isinstance(stored.ask(*line.split()), Error)
        assert stored.ask(*RUN_MODEL) == b"OK"
        assert watcher.ask("MULTI") == b"OK"
        assert watcher.ask("PING") == b"QUEUED"
        assert watcher.ask("EXEC") == [b"PONG"]
