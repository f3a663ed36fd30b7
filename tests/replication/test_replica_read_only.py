"""A replica refuses every command that writes, as Redis does, and answers those that only read; models run there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit import dags, models, scripts
from testkit.dags import OK
from testkit.replicas import caught_up, follow
from testkit.server import Server, module_path
from testkit.waiting import wait_for
from testkit.wire import Error
from tests.conftest import StartServer

WRITES = [
    "AI.TENSORSET x FLOAT 1",
    "AI.TENSORSET new FLOAT 1",
    "AI.TENSORSET new NO_SUCH_TYPE 1",
    "AI.MODELSTORE add ONNX CPU BLOB blob",
    "AI.MODELSET new ONNX CPU BLOB blob",
    "AI.MODELDEL add",
    "AI.MODELDEL nothing",
    "AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 new",
    "AI.MODELRUN add INPUTS x y OUTPUTS new",
    "AI.SCRIPTSTORE new CPU ENTRY_POINTS 1 f SOURCE source",
    "AI.SCRIPTSET new CPU SOURCE source",
    "AI.SCRIPTDEL s",
    "AI.SCRIPTEXECUTE s add INPUTS 2 x y OUTPUTS 1 new",
    "AI.SCRIPTEXECUTE s text KEYS 1 x ARGS 1 a",
    "AI.SCRIPTRUN old add INPUTS x y OUTPUTS new",
    "AI.DAGEXECUTE LOAD 1 x |> AI.TENSORGET x",
    "AI.DAGEXECUTE ROUTING x PERSIST 1 new |> AI.TENSORSET new FLOAT 1",
    "AI.DAGEXECUTE LOAD 2 x y PERSIST 1 new |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 new",
    "AI.DAGRUN LOAD 1 x |> AI.TENSORGET x",
    "AI.DAGRUN LOAD 2 x y PERSIST 1 new |> AI.MODELRUN add INPUTS x y OUTPUTS new",
    "DEL x",
    "COPY add new",
    "RENAME add new",
    "EXPIRE x 1",
]
SUM = [b"4", b"6"]
READS: dict[str, object] = {
    "AI.TENSORGET x VALUES": [b"1", b"2"],
    "AI.MODELGET add BLOB": models.onnx_add(),
    "AI.SCRIPTGET old SOURCE": scripts.OLD.encode(),
    "AI.CONFIG GET MODEL_CHUNK_SIZE": 535822336,
    "AI.INFO add RESETSTAT": OK,
    "AI.DAGEXECUTE_RO LOAD 1 x |> AI.TENSORGET x VALUES": [[b"1", b"2"]],
    "AI.DAGEXECUTE_RO ROUTING x |> AI.TENSORSET t FLOAT 1 VALUES 7 |> AI.TENSORGET t VALUES": [OK, [b"7"]],
    "AI.DAGEXECUTE_RO LOAD 2 x y |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 z |> AI.TENSORGET z VALUES": [OK, SUM],
    "AI.DAGEXECUTE_RO LOAD 2 x y |> AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 z |> "
    "AI.MODELEXECUTE both INPUTS 2 z y OUTPUTS 2 a b |> AI.TENSORGET a VALUES": [OK, OK, [b"6", b"12"]],
    "AI.DAGRUN_RO LOAD 2 x y |> AI.MODELRUN add INPUTS x y OUTPUTS z |> AI.TENSORGET z VALUES": [OK, SUM],
    "AI.DAGRUN_RO LOAD 2 x y |> AI.SCRIPTRUN old add INPUTS x y OUTPUTS z |> AI.TENSORGET z VALUES": [OK, SUM],
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """A master and its replica, which none of the tests changes."""
    master, replica = (Server(tmp_path_factory.mktemp(name), module=module_path()) for name in ("master", "replica"))
    master.arguments += ["--repl-diskless-sync-delay", "0"]
    try:
        for server in (master, replica):
            server.start()
        follow(replica, master)
        with master.wire() as wire:
            dags.store(wire)
            caught_up(wire)
        yield master, replica
    finally:
        master.kill()
        replica.kill()


@pytest.mark.parametrize("line", WRITES)
def test_what_writes_is_refused(pair: tuple[Server, Server], line: str) -> None:
    master, replica = pair
    with replica.wire() as wire, master.wire() as other:
        reply = wire.ask(*line.split())
        assert isinstance(reply, Error)
        assert reply.startswith("READONLY ")
        assert wire.ask("DEBUG", "DIGEST") == other.ask("DEBUG", "DIGEST")


@pytest.mark.parametrize(("line", "wanted"), READS.items(), ids=list(READS))
def test_what_only_reads_is_answered(pair: tuple[Server, Server], line: str, wanted: object) -> None:
    master, replica = pair
    with replica.wire() as wire, master.wire() as other:
        assert wire.ask(*line.split()) == wanted
        assert wire.ask("DEBUG", "DIGEST") == other.ask("DEBUG", "DIGEST")


@pytest.mark.parametrize(("command", "key"), [("AI._MODELSCAN", b"add"), ("AI._SCRIPTSCAN", b"old")])
def test_scans(pair: tuple[Server, Server], command: str, key: bytes) -> None:
    with pair[0].wire() as other, pair[1].wire() as wire:
        found = sorted(wire.ask(command))
        assert found == sorted(other.ask(command)) and [key, b""] in found


RUN_WRITER = "AI.DAGRUN_RO LOAD 1 x |> AI.SCRIPTRUN s f INPUTS x OUTPUTS y"
WRITER = "def f(a):\n    redis.execute({words})\n    return a\n"


def test_a_script_cannot_write_through_a_read_only_dag(start_server: StartServer) -> None:
    """AI.DAGRUN_RO runs scripts of the old kind, and so also those that call Redis."""
    master, replica = start_server("--repl-diskless-sync-delay", "0"), start_server()
    follow(replica, master)
    with master.wire() as wire, replica.wire() as reader:
        assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1) == b"OK"
        for words in ('"SET", "k", "x"', '"FLUSHALL"', '"SWAPDB", "0", "1"', '"AI.TENSORSET", "k", "FLOAT", "1"'):
            assert wire.ask("AI.SCRIPTSET", "s", "CPU", "SOURCE", WRITER.format(words=words)) == b"OK"
            caught_up(wire)
            for server in (reader, wire):
                reply = server.ask(*RUN_WRITER.split())
                assert isinstance(reply, list) and isinstance(reply[0], Error), reply
                assert server.ask("DBSIZE") == 2


@pytest.fixture
def small(start_server: StartServer) -> tuple[Server, Server]:
    """A master and a replica of one's own, with models of the quicker library only."""
    master, replica = start_server("--repl-diskless-sync-delay", "0"), start_server()
    follow(replica, master)
    with master.wire() as wire:
        assert wire.ask("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
        assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2) == b"OK"
        assert wire.ask("AI.TENSORSET", "y", "FLOAT", 1, 2, "VALUES", 3, 4) == b"OK"
        caught_up(wire)
    return master, replica


def test_a_writable_replica(small: tuple[Server, Server]) -> None:
    """With replica-read-only no its own clients may write, as anywhere else; nothing of it goes to the master."""
    master, replica = small
    with master.wire() as wire, replica.wire() as own:
        assert own.ask("CONFIG", "SET", "replica-read-only", "no") == b"OK"
        assert own.ask("AI.MODELEXECUTE", "add", "INPUTS", 2, "x", "y", "OUTPUTS", 1, "z") == b"OK"
        assert own.ask("AI.MODELSTORE", "n", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
        assert own.ask("AI.TENSORGET", "z", "VALUES") == SUM
        assert wire.ask("EXISTS", "z", "n") == 0
        assert wire.ask("AI.TENSORSET", "later", "FLOAT", 1) == b"OK"
        caught_up(wire)
        assert own.ask("EXISTS", "z", "n", "later") == 3


def test_a_replica_that_has_lost_its_master(small: tuple[Server, Server]) -> None:
    """replica-serve-stale-data no refuses ours like any other command of data."""
    master, replica = small
    of_one_model = {line: wanted for line, wanted in READS.items() if not {"both", "old"} & set(line.split())}
    with replica.wire() as reader:
        master.kill()
        wait_for(lambda: b"master_link_status:down" in reader.ask("INFO", "replication"))
        for line, wanted in of_one_model.items():
            assert reader.ask(*line.split()) == wanted
        assert reader.ask("CONFIG", "SET", "replica-serve-stale-data", "no") == b"OK"
        for line in of_one_model:
            reply = reader.ask(*line.split())
            assert isinstance(reply, Error) and reply.startswith("MASTERDOWN "), line
