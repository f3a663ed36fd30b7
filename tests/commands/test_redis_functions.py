"""Redis functions and read-only Lua: what works in scripts works there, what writes is refused where nothing may."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit import dags, models, scripts
from testkit.replicas import caught_up, follow
from testkit.restarts import AOF
from testkit.server import Server
from testkit.transactions import REFUSED
from testkit.wire import Error, Wire, Word
from tests.conftest import StartServer

LIBRARY = """#!lua name=ai
redis.register_function('call', function(keys, args) return redis.call(unpack(args)) end)
redis.register_function{
    function_name='read', callback=function(keys, args) return redis.call(unpack(args)) end, flags={'no-writes'}}
"""
CALL = "return redis.call(unpack(ARGV))"
READS: dict[str, object] = {
    "AI.TENSORGET x VALUES": [b"1", b"2"],
    "AI.MODELGET add BLOB": models.onnx_add(),
    "AI.SCRIPTGET old SOURCE": scripts.OLD.encode(),
    "AI.INFO add RESETSTAT": b"OK",
}
WRITES = [
    "AI.TENSORSET t FLOAT 1",
    "AI.MODELDEL nothing",
    "AI.SCRIPTDEL nothing",
    "AI.MODELSTORE m ONNX CPU BLOB b",
    "AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 z",
    "AI.DAGEXECUTE LOAD 1 x |> AI.TENSORGET x",
]
RUNS = [
    "AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 z",
    "AI.SCRIPTEXECUTE s add INPUTS 2 x y OUTPUTS 1 z",
    "AI.DAGEXECUTE LOAD 1 x |> AI.TENSORGET x",
    "AI.DAGEXECUTE_RO LOAD 1 x |> AI.TENSORGET x",
]


@pytest.fixture
def stored(wire: Wire) -> Iterator[Wire]:
    dags.store(wire)
    assert wire.ask("FUNCTION", "LOAD", "REPLACE", LIBRARY) == b"ai"
    yield wire
    wire.ask("FUNCTION", "FLUSH")


@pytest.mark.parametrize(("line", "wanted"), READS.items(), ids=list(READS))
def test_reads_work_wherever_lua_does(stored: Wire, line: str, wanted: object) -> None:
    words = line.split()
    for way in (("EVAL", CALL), ("EVAL_RO", CALL), ("FCALL", "call"), ("FCALL", "read"), ("FCALL_RO", "read")):
        assert stored.ask(*way, 1, words[1], *words) == wanted, way


@pytest.mark.parametrize("line", WRITES)
def test_writes_are_refused_where_nothing_may_write(stored: Wire, line: str) -> None:
    words = line.split()
    for way in (("EVAL_RO", CALL), ("FCALL", "read"), ("FCALL_RO", "read")):
        reply = stored.ask(*way, 1, words[1], *words)
        assert isinstance(reply, Error) and "rite" in reply, (way, reply)
    assert stored.ask("EXISTS", "t", "m", "z") == 0


@pytest.mark.parametrize("line", RUNS)
def test_runs_are_refused(stored: Wire, line: str) -> None:
    reply = stored.ask("FCALL", "call", 1, "x", *line.split())
    assert isinstance(reply, Error) and reply.startswith(REFUSED)
    assert stored.ask("EXISTS", "z") == 0


def test_what_functions_store_is_replicated(start_server: StartServer) -> None:
    """As one transaction, to replicas and to the AOF."""
    master, replica = start_server("--repl-diskless-sync-delay", "0", *AOF), start_server()
    follow(replica, master)
    code = """
        redis.call('AI.MODELSTORE', KEYS[1], 'ONNX', 'CPU', 'BLOB', ARGV[1])
        redis.call('AI.TENSORSET', KEYS[2], 'FLOAT', 1, 2, 'VALUES', 1, 2)
        redis.call('AI.SCRIPTSTORE', KEYS[3], 'CPU', 'ENTRY_POINTS', 1, 'add', 'SOURCE', ARGV[2])
        redis.call('COPY', KEYS[1], 'copy')
        return redis.call('AI.MODELDEL', KEYS[1])
    """
    with master.wire() as wire:
        words: list[Word] = [models.onnx_add(), scripts.function("add", "return tensors[0] + tensors[1]")]
        assert wire.ask("EVAL", code, 3, "m", "x", "s", *words) == b"OK"
        digest = wire.ask("DEBUG", "DIGEST")
        caught_up(wire)
    with replica.wire() as reader:
        check(reader, digest)
    master.kill()
    master.start()
    with master.wire() as wire:
        check(wire, digest)


def check(wire: Wire, digest: bytes) -> None:
    assert wire.ask("DEBUG", "DIGEST") == digest
    assert sorted(wire.ask("KEYS", "*")) == [b"copy", b"s", b"x"]
    wire.ask("REPLICAOF", "NO", "ONE")
    for words in (
        ("AI.MODELEXECUTE", "copy", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y"),
        scripts.execute("s", "add", inputs=["x", "x"], outputs=["y"]),
    ):
        assert wire.ask(*words) == b"OK"
        assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"2", b"4"]
        assert wire.ask("DEL", "y") == 1


def test_clients_that_cache(server: Server, stored: Wire) -> None:
    """CLIENT TRACKING: who has read a tensor is told when a run overwrites it."""
    with server.wire(3) as reader:
        assert reader.ask("CLIENT", "TRACKING", "ON") == b"OK"
        assert stored.ask("AI.TENSORSET", "z", "FLOAT", 1) == b"OK"
        for line in (RUNS[0], RUNS[1], "AI.DAGEXECUTE PERSIST 1 z |> AI.TENSORSET z FLOAT 1", "DEL z"):
            assert isinstance(reader.ask("AI.TENSORGET", "z"), list)
            assert not isinstance(stored.ask(*line.split()), Error)
            assert reader.read() == [b"invalidate", [b"z"]], line
