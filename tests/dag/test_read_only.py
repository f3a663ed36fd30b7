"""AI.DAGEXECUTE_RO and AI.DAGRUN_RO: the same DAGs without PERSIST; read-only replicas run them, and only them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit import dags
from testkit.dags import OK, Form, ask, both_forms, check
from testkit.info import command_counts
from testkit.replicas import caught_up, follow, wait_until_in_step
from testkit.scripts import values
from testkit.server import Server, module_path
from testkit.wire import Error, Wire
from tests.conftest import SERVERS, StartServer
from tests.dag.test_commands import CASES


def read_only(line: str) -> str:
    for name in ("AI.DAGEXECUTE ", "AI.DAGRUN "):
        line = line.replace(name, f"{name.strip()}_RO ")
    return line


READS = {
    name: (line, replies)
    for name, (line, replies, persisted) in CASES.items()
    if not persisted and "PERSIST" not in line
}


@pytest.mark.parametrize(("line", "replies"), READS.values(), ids=READS)
@both_forms
def test_dag(wire: Wire, form: Form, line: str, replies: list[object]) -> None:
    dags.store(wire)
    if "SCRIPT" in line and form is dags.as_it_is:
        reply = ask(wire, read_only(form("AI.DAGEXECUTE " + line)))
        assert "AI.SCRIPTEXECUTE command cannot be specified in a read-only DAG" in str(reply)
        return
    before = wire.ask("DEBUG", "DIGEST")
    check(ask(wire, read_only(form("AI.DAGEXECUTE " + line))), replies)
    assert wire.ask("DEBUG", "DIGEST") == before


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """A master that has stored everything, and its read-only replica, for all tests here: nothing is written."""
    arguments = ("--repl-diskless-sync-delay", "0")
    master, replica = (
        Server(tmp_path_factory.mktemp(name), arguments, module=module_path()).start() for name in ("master", "replica")
    )
    follow(replica, master)
    with master.wire() as wire:
        dags.store(wire)
        assert wire.ask("AI.SCRIPTSET", "writes", "CPU", "SOURCE", WRITES) == b"OK"
        caught_up(wire)
    yield master, replica
    for server in (replica, master):
        assert server.stop() == 0, server.log_tail()


@pytest.fixture
def replica(pair: tuple[Server, Server], request: pytest.FixtureRequest) -> Server:
    request.node.stash.setdefault(SERVERS, []).extend(pair)
    return pair[1]


# Nothing that is declared is written, but everything is flushed, and a message published.
WRITES = """
def set(a):
    redis.execute("SET", "k", "x")
    return a

def flush(a):
    redis.execute("FLUSHALL")
    return a

def function_flush(a):
    redis.execute("FUNCTION", "FLUSH")
    return a

def ping(a):
    redis.execute("PING")
    return a
"""

MODELS = (
    "LOAD 2 x y |> AI.MODELEXECUTE both INPUTS 2 x y OUTPUTS 2 a b |> AI.MODELEXECUTE mul INPUTS 2 a b OUTPUTS 1 c"
    " |> AI.MODELEXECUTE add INPUTS 2 b c OUTPUTS 1 x |> AI.TENSORGET x VALUES"
)
MODELS_REPLY = [OK, OK, OK, [b"15", b"56"]]


def test_on_a_replica(replica: Server) -> None:
    with replica.wire() as wire:
        before, calls = wire.ask("DEBUG", "DIGEST"), dags.calls(wire, "add")
        for form in (dags.as_it_is, dags.deprecated):
            check(ask(wire, read_only(form("AI.DAGEXECUTE " + MODELS))), MODELS_REPLY)
            check(ask(wire, read_only(form("AI.DAGEXECUTE LOAD 1 x |> AI.TENSORGET x VALUES"))), [[b"1", b"2"]])
        line = "AI.DAGRUN_RO LOAD 2 x y |> AI.SCRIPTRUN old add INPUTS x y OUTPUTS z |> AI.TENSORGET z VALUES"
        check(ask(wire, line), [OK, [b"4", b"6"]])
        check(ask(wire, line + " |> AI.SCRIPTRUN writes ping INPUTS z OUTPUTS z"), [OK, [b"4", b"6"], OK])
        assert wire.ask("DEBUG", "DIGEST") == before
        assert dags.calls(wire, "add") == calls + 2, "they ran here"


def test_a_replica_refuses_the_others(replica: Server) -> None:
    with replica.wire() as wire:
        before, calls = wire.ask("DEBUG", "DIGEST"), dags.calls(wire, "add")
        for form in (dags.as_it_is, dags.deprecated):
            for line in (f"AI.DAGEXECUTE {MODELS}", "AI.DAGEXECUTE LOAD 1 x |> AI.TENSORGET x VALUES"):
                reply = ask(wire, form(line))
                assert isinstance(reply, Error) and reply.startswith("READONLY ")
            line = form("AI.DAGEXECUTE LOAD 2 x y PERSIST 1 x |> AI.TENSORSET x FLOAT 1")
            assert ask(wire, read_only(line)) == "ERR PERSIST cannot be specified in a read-only DAG"
        assert wire.ask("DEBUG", "DIGEST") == before
        assert dags.calls(wire, "add") == calls


@pytest.mark.parametrize("function", ["set", "flush", "function_flush"])
def test_scripts_write_nothing_there(replica: Server, function: str) -> None:
    """A script in a read-only DAG is one of the replica's clients like any other."""
    with replica.wire() as wire:
        before = wire.ask("DEBUG", "DIGEST")
        reply = ask(wire, f"AI.DAGRUN_RO LOAD 1 x |> AI.SCRIPTRUN writes {function} INPUTS x OUTPUTS z")
        assert len(reply) == 1 and dags.is_error(reply[0]), reply
        assert wire.ask("DEBUG", "DIGEST") == before
        wait_until_in_step(wire)


@pytest.mark.parametrize("function", ["set", "flush"])
def test_scripts_write_nothing_on_a_master_either(wire: Wire, function: str) -> None:
    dags.store(wire)
    wire.ask("AI.SCRIPTSET", "writes", "CPU", "SOURCE", WRITES)
    before = wire.ask("DEBUG", "DIGEST")
    reply = ask(wire, f"AI.DAGRUN_RO LOAD 1 x |> AI.SCRIPTRUN writes {function} INPUTS x OUTPUTS z")
    assert len(reply) == 1 and dags.is_error(reply[0]), reply
    assert wire.ask("DEBUG", "DIGEST") == before


def test_nothing_is_told_to_replicas(start_server: StartServer) -> None:
    master, replica = start_server("--repl-diskless-sync-delay", "0"), start_server()
    follow(replica, master)
    with master.wire() as wire, replica.wire() as other:
        dags.store(wire)
        caught_up(wire)
        before = command_counts(other)["ai.tensorset"]
        check(ask(wire, f"AI.DAGEXECUTE_RO {MODELS}"), MODELS_REPLY)
        check(ask(wire, "AI.DAGRUN_RO |> AI.TENSORSET t FLOAT 1 VALUES 5 |> AI.TENSORGET t VALUES"), [OK, [b"5"]])
        caught_up(wire)
        counts = command_counts(other)
        assert counts["ai.tensorset"] == before
        assert not any(name.startswith("ai.dag") for name in counts)
        assert dags.calls(other, "add") == 0


def test_a_server_that_is_short_of_memory(start_server: StartServer) -> None:
    """Those that may write are refused as all such commands are; the read-only ones go on."""
    server = start_server()
    with server.wire() as wire:
        dags.store(wire)
        wire.ask("CONFIG", "SET", "maxmemory", 1)
        line = "AI.DAGEXECUTE LOAD 2 x y |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 z |> AI.TENSORGET z VALUES"
        for form in (dags.as_it_is, dags.deprecated):
            reply = ask(wire, form(line))
            assert isinstance(reply, Error) and reply.startswith("OOM ")
            check(ask(wire, read_only(form(line))), [OK, [b"4", b"6"]])


def test_a_replica_that_becomes_a_master(replica: Server) -> None:
    with replica.wire() as wire:
        check(ask(wire, f"AI.DAGEXECUTE_RO {MODELS}"), MODELS_REPLY)
        assert wire.ask("REPLICAOF", "NO", "ONE") == b"OK"
        line = "AI.DAGEXECUTE LOAD 2 x y PERSIST 1 z |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 z"
        check(ask(wire, line), [OK])
        assert values(wire, "z") == [b"4", b"6"]
