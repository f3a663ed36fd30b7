"""DAGs: which words are keys (COMMAND GETKEYS, ACLs, clusters); where they are refused; what replicas are told."""

from __future__ import annotations

import numpy as np
import pytest

from testkit import dags, models, scripts
from testkit.dags import OK, Form, ask, both_forms, check, deprecated, send
from testkit.info import command_counts
from testkit.metadata import keys_of
from testkit.replicas import caught_up, follow
from testkit.restarts import AOF, aof_commands
from testkit.scripts import values
from testkit.transactions import check_refused_in_lua, check_refused_in_multi
from testkit.users import USER, Login
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import Slow, StartServer

RUN = "AI.MODELEXECUTE m INPUTS 2 a b OUTPUTS 2 c d"
OLD_RUN = "AI.MODELRUN m INPUTS a b OUTPUTS c d"
CALL = "AI.SCRIPTEXECUTE s f INPUTS 1 a OUTPUTS 1 c"

GETKEYS: list[tuple[str, str]] = [
    ("AI.DAGEXECUTE LOAD 2 a b |> AI.TENSORGET a", "a b"),
    ("AI.DAGEXECUTE LOAD 1 a PERSIST 2 b c |> AI.TENSORGET a", "a b c"),
    ("AI.DAGEXECUTE PERSIST 1 b LOAD 1 a |> AI.TENSORGET a", "a b"),
    ("AI.DAGEXECUTE ROUTING r |> AI.TENSORSET t FLOAT 1", "r"),
    ("AI.DAGEXECUTE ROUTING {tag} |> AI.TENSORSET t FLOAT 1", "{tag}"),
    ("AI.DAGEXECUTE ROUTING r TIMEOUT 5 LOAD 1 a PERSIST 1 b |> AI.TENSORSET t FLOAT 1", "r a b"),
    ("AI.DAGEXECUTE PERSIST 1 PERSIST TIMEOUT 5 LOAD 2 ROUTING LOAD |> AI.TENSORGET LOAD", "PERSIST ROUTING LOAD"),
    ("AI.DAGEXECUTE LOAD 1 TIMEOUT ROUTING LOAD |> AI.TENSORGET TIMEOUT", "TIMEOUT LOAD"),
    (f"AI.DAGEXECUTE LOAD 1 a |> {RUN}", "a m"),
    (f"AI.DAGEXECUTE LOAD 2 a b PERSIST 1 d |> {RUN} |> AI.TENSORGET d", "a b d m"),
    (
        f"AI.DAGEXECUTE ROUTING r |> AI.TENSORSET a FLOAT 1 |> {RUN} |> AI.MODELEXECUTE n INPUTS 1 a OUTPUTS 1 b",
        "r m n",
    ),
    (f"AI.DAGEXECUTE ROUTING r |> {RUN} |> {RUN} |> {CALL}", "r m s"),
    (f"AI.DAGEXECUTE LOAD 1 m |> {RUN}", "m"),
    ("AI.DAGEXECUTE ROUTING r |> AI.SCRIPTEXECUTE s f KEYS 2 k l INPUTS 1 a ARGS 1 x OUTPUTS 1 y", "r s k l"),
    ("AI.DAGEXECUTE ROUTING r |> AI.SCRIPTEXECUTE s f INPUTS 1 KEYS KEYS 1 k OUTPUTS 1 y", "r s k"),
    ("AI.DAGEXECUTE ROUTING r |> AI.TENSORSET AI.MODELEXECUTE STRING 2 VALUES AI.MODELEXECUTE no", "r"),
    (
        "AI.DAGEXECUTE ROUTING r |> AI.MODELEXECUTE AI.MODELEXECUTE INPUTS 1 a OUTPUTS 1 AI.SCRIPTRUN",
        "r AI.MODELEXECUTE",
    ),
    (
        "AI.DAGEXECUTE ROUTING r |> AI.TENSORSET t FLOAT * FROM HASHES 2 h BLOB FIELDS 1 RAW |> AI.TENSORGET t",
        "r h BLOB",
    ),
    ("AI.DAGEXECUTE LOAD 1 a |> AI.HASHSET h f a AS BLOB g a |> AI.HASHSET i f b", "a h i"),
    ("AI.DAGRUN |> AI.TENSORSET t FLOAT * FROM STREAM s FIELD |> |> AI.TENSORSET u STRING FROM STRING k", "s k"),
    ("ai.dagexecute load 1 a persist 1 b routing r |> ai.modelexecute m inputs 1 a outputs 1 b", "a b r m"),
    ("AI.DAGEXECUTE_RO LOAD 1 a ROUTING r |> AI.MODELEXECUTE m INPUTS 1 a OUTPUTS 1 b", "a r m"),
    (f"AI.DAGRUN LOAD 2 a b PERSIST 1 d |> {OLD_RUN} |> AI.SCRIPTRUN s f INPUTS d $ a OUTPUTS e", "a b d m s"),
    (f"AI.DAGRUN |> {OLD_RUN}", "m"),
    (f"AI.DAGRUN_RO LOAD 1 a |> {OLD_RUN} |> AI.SCRIPTRUN s f INPUTS d OUTPUTS e", "a m s"),
    ("ai.dagrun_ro load 1 a |> ai.scriptrun s f inputs d outputs e", "a s"),
]


@pytest.mark.parametrize(("line", "keys"), GETKEYS)
def test_getkeys(wire: Wire, line: str, keys: str) -> None:
    assert keys_of(wire, line) == set(keys.split())


@pytest.mark.parametrize("name", ["AI.DAGEXECUTE", "AI.DAGEXECUTE_RO", "AI.DAGRUN", "AI.DAGRUN_RO"])
@pytest.mark.parametrize(
    "line",
    [
        "LOAD", "LOAD 1", "LOAD x a", "LOAD 100 a", "LOAD 9223372036854775807 a", "LOAD -1 a", "LOAD 1 a PERSIST",
        "LOAD 1 a PERSIST 9 b", "LOAD 1 a ROUTING", "LOAD 1 a ROUTING |>", "LOAD 1 a |>", "LOAD 1 a |> |>", "|>", "FOO",
        "LOAD 1 a |> AI.MODELEXECUTE", "LOAD 1 a |> AI.SCRIPTEXECUTE s f KEYS 9 k", "LOAD 1 a |> AI.SCRIPTEXECUTE s",
        "LOAD 1 a |> AI.SCRIPTEXECUTE s f KEYS 9223372036854775807 k", "LOAD 1 a |> AI.SCRIPTEXECUTE s f KEYS |> FOO",
        "LOAD 1 a TIMEOUT", "LOAD 1 a |> FOO m", "LOAD 3 a |> AI.TENSORGET", "|> AI.MODELRUN m", "|> AI.SCRIPTRUN",
    ],
)  # fmt: skip
def test_getkeys_of_what_is_malformed(wire: Wire, name: str, line: str) -> None:
    """An error or the keys that can be told; never more than there are words."""
    found = wire.ask("COMMAND", "GETKEYS", name, *line.split())
    if not isinstance(found, Error):
        assert {key.decode() for key in found} <= set(line.split())
    assert wire.ask("PING") == b"PONG"
    assert isinstance(ask(wire, f"{name} {line}"), Error)


# ---- users -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def user(wire: Wire, login: Login) -> Wire:
    dags.store(wire)
    for key in ("add", "old", "s", "x"):
        for prefix in ("my", "other"):
            wire.ask("COPY", key, f"{prefix}:{key}")
    return login("+@all", "-@admin", "~my:*")


ADD = "AI.MODELEXECUTE my:add INPUTS 2 my:x my:x OUTPUTS 1 my:y"
ALLOWED = [
    "AI.DAGEXECUTE LOAD 1 my:x |> AI.TENSORGET my:x",
    f"AI.DAGEXECUTE LOAD 1 my:x PERSIST 1 my:y |> {ADD}",
    f"AI.DAGEXECUTE LOAD 1 my:x ROUTING my:r |> {ADD}",
    # names of tensors are no keys unless they are loaded or persisted
    "AI.DAGEXECUTE LOAD 1 my:x |> AI.MODELEXECUTE my:add INPUTS 2 my:x my:x OUTPUTS 1 other:y |> AI.TENSORGET other:y",
    "AI.DAGEXECUTE ROUTING my:r |> AI.TENSORSET other:x FLOAT 1 |> AI.TENSORGET other:x",
    "AI.DAGEXECUTE LOAD 1 my:x |> AI.SCRIPTEXECUTE my:old add INPUTS 2 my:x my:x OUTPUTS 1 z |> AI.TENSORGET z",
]
DENIED = [
    "AI.DAGEXECUTE LOAD 1 other:x |> AI.TENSORGET other:x",
    "AI.DAGEXECUTE LOAD 2 my:x other:x |> AI.TENSORGET my:x",
    f"AI.DAGEXECUTE LOAD 1 my:x PERSIST 1 other:y |> {ADD} |> AI.TENSORSET other:y FLOAT 1",
    f"AI.DAGEXECUTE LOAD 1 my:x PERSIST 2 my:y other:y |> {ADD} |> AI.TENSORSET other:y FLOAT 1",
    "AI.DAGEXECUTE LOAD 1 my:x |> AI.MODELEXECUTE other:add INPUTS 2 my:x my:x OUTPUTS 1 my:y",
    f"AI.DAGEXECUTE LOAD 1 my:x |> {ADD} |> AI.MODELEXECUTE other:add INPUTS 2 my:x my:x OUTPUTS 1 my:y",
    "AI.DAGEXECUTE LOAD 1 my:x |> AI.SCRIPTEXECUTE other:old add INPUTS 2 my:x my:x OUTPUTS 1 my:y",
]


@both_forms
@pytest.mark.parametrize("line", ALLOWED)
def test_acl_allows(user: Wire, form: Form, line: str) -> None:
    reply = ask(user, form(line))
    assert isinstance(reply, list), reply
    assert not any(isinstance(item, Error) for item in reply), reply


@both_forms
@pytest.mark.parametrize("line", DENIED)
def test_acl_denies(user: Wire, wire: Wire, form: Form, line: str) -> None:
    before = wire.ask("DEBUG", "DIGEST")
    reply = ask(user, form(line))
    assert isinstance(reply, Error), reply
    assert reply.startswith("NOPERM ")
    assert wire.ask("DEBUG", "DIGEST") == before
    assert dags.calls(wire, "my:add") == 0


def test_acl_of_routing_and_keys(user: Wire) -> None:
    for line in (
        "AI.DAGEXECUTE LOAD 1 my:x ROUTING other:r |> AI.TENSORGET my:x",
        "AI.DAGEXECUTE_RO LOAD 1 my:x ROUTING other:r |> AI.TENSORGET my:x",
        "AI.DAGEXECUTE LOAD 1 my:x |> AI.SCRIPTEXECUTE my:s count KEYS 1 other:k INPUTS 1 my:x OUTPUTS 1 y",
        "AI.DAGEXECUTE_RO LOAD 1 other:x |> AI.TENSORGET other:x",
        "AI.DAGRUN_RO LOAD 1 my:x |> AI.SCRIPTRUN other:old two INPUTS my:x OUTPUTS y z",
    ):
        assert ask(user, line).startswith("NOPERM "), line


@both_forms
def test_acl_reading_and_writing_are_told_apart(user: Wire, wire: Wire, form: Form) -> None:
    wire.ask("ACL", "SETUSER", USER, "resetkeys", "%R~my:*", "%W~out:*")
    run = "|> AI.MODELEXECUTE my:add INPUTS 2 my:x my:x OUTPUTS 1 out:y"
    check(ask(user, form(f"AI.DAGEXECUTE LOAD 1 my:x PERSIST 1 out:y {run}")), [OK])
    for line in (
        f"AI.DAGEXECUTE LOAD 1 my:x PERSIST 1 my:x {run}",
        f"AI.DAGEXECUTE LOAD 2 my:x out:y PERSIST 1 out:y {run}",
        "AI.DAGEXECUTE LOAD 1 my:x |> AI.MODELEXECUTE out:add INPUTS 2 my:x my:x OUTPUTS 1 y",
    ):
        assert ask(user, form(line)).startswith("NOPERM "), line


@pytest.mark.parametrize("name", ["ai.dagexecute", "ai.dagexecute_ro", "ai.dagrun", "ai.dagrun_ro"])
def test_acl_of_the_command(user: Wire, wire: Wire, name: str) -> None:
    line = f"{name} LOAD 1 my:x |> AI.TENSORGET my:x VALUES"
    check(ask(user, line), [[b"1", b"2"]])
    wire.ask("ACL", "SETUSER", USER, f"-{name}")
    assert ask(user, line).startswith("NOPERM ")


# ---- clusters --------------------------------------------------------------------------------------------------------


def test_cluster(start_server: StartServer) -> None:
    server = start_server("--cluster-enabled", "yes")
    with server.wire() as wire:
        assert wire.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383) == b"OK"
        wait_for(lambda: b"cluster_state:ok" in wire.ask("CLUSTER", "INFO"), 20)
        for tag in "12":
            assert wire.ask("AI.MODELSTORE", f"m{{{tag}}}", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
            assert wire.ask("AI.SCRIPTSET", f"s{{{tag}}}", "CPU", "SOURCE", scripts.OLD) == b"OK"
            assert wire.ask("AI.TENSORSET", f"x{{{tag}}}", "FLOAT", 1, 2, "VALUES", 1, 2) == b"OK"
        run = "|> AI.MODELEXECUTE m{1} INPUTS 2 x{1} x{1} OUTPUTS 1 z"
        # names that are no keys have no slot
        line = (
            f"AI.DAGEXECUTE LOAD 1 x{{1}} PERSIST 1 y{{1}} ROUTING {{1}} {run} |> AI.TENSORSET y{{1}} INT8 1 VALUES 7"
        )
        more = " |> AI.SCRIPTEXECUTE s{1} add INPUTS 2 z x{1} OUTPUTS 1 w{2} |> AI.TENSORGET w{2} VALUES"
        for form in (dags.as_it_is, deprecated):
            check(ask(wire, form(line + more)), [OK, OK, OK, [b"3", b"6"]])
        assert values(wire, "y{1}") == [7]
        for line in (
            f"AI.DAGEXECUTE LOAD 2 x{{1}} x{{2}} {run}",
            f"AI.DAGEXECUTE LOAD 1 x{{1}} PERSIST 1 z {run}",
            "AI.DAGEXECUTE LOAD 1 x{1} |> AI.MODELEXECUTE m{2} INPUTS 2 x{1} x{1} OUTPUTS 1 z",
            f"AI.DAGEXECUTE LOAD 1 x{{1}} {run} |> AI.SCRIPTEXECUTE s{{2}} add INPUTS 2 z z OUTPUTS 1 w",
        ):
            for form in (dags.as_it_is, deprecated):
                assert ask(wire, form(line)).startswith("CROSSSLOT "), line
        assert ask(wire, f"AI.DAGEXECUTE LOAD 1 x{{1}} ROUTING {{2}} {run}").startswith("CROSSSLOT ")
        keys = "|> AI.SCRIPTEXECUTE s{1} add KEYS 1 k{2} INPUTS 2 x{1} x{1} OUTPUTS 1 z"
        assert ask(wire, f"AI.DAGEXECUTE LOAD 1 x{{1}} {keys}").startswith("CROSSSLOT ")
        assert ask(wire, f"AI.DAGEXECUTE_RO LOAD 1 x{{1}} ROUTING {{2}} {run}").startswith("CROSSSLOT ")


# ---- transactions ----------------------------------------------------------------------------------------------------

X = [b"dtype", b"FLOAT", b"shape", [1, 2], b"blob", np.array([1, 2], np.float32).tobytes()]
EVERYWHERE: dict[str, list[object]] = {
    "AI.DAGEXECUTE LOAD 1 x PERSIST 1 z |> AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 z": [OK],
    "AI.DAGEXECUTE_RO LOAD 1 x |> AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 z": [OK],
    "AI.DAGRUN LOAD 1 x PERSIST 1 z |> AI.MODELRUN add INPUTS x x OUTPUTS z": [OK],
    "AI.DAGRUN_RO LOAD 1 x |> AI.MODELRUN add INPUTS x x OUTPUTS z": [OK],
    "AI.DAGEXECUTE LOAD 1 x PERSIST 1 z |> AI.TENSORSET z FLOAT 1": [OK],
    "AI.DAGEXECUTE_RO LOAD 1 x |> AI.TENSORGET x": [X],
}


@pytest.mark.parametrize("line", EVERYWHERE)
def test_refused_in_multi(wire: Wire, line: str) -> None:
    dags.store(wire)
    check_refused_in_multi(wire, line, ("z",), outside=EVERYWHERE[line])


@pytest.mark.parametrize("line", EVERYWHERE)
def test_refused_in_lua(wire: Wire, line: str) -> None:
    dags.store(wire)
    check_refused_in_lua(wire, line, "x", ("z",))


# ---- replicas and the AOF --------------------------------------------------------------------------------------------

RUNS = [
    "AI.DAGEXECUTE LOAD 2 x y PERSIST 2 sum double |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 sum"
    " |> AI.SCRIPTEXECUTE old add INPUTS 2 sum sum OUTPUTS 1 double",
    "AI.DAGEXECUTE PERSIST 1 set |> AI.TENSORSET set STRING 2 VALUES one two |> AI.TENSORGET set",
    "AI.DAGRUN LOAD 1 x PERSIST 1 x |> AI.MODELRUN mul INPUTS x x OUTPUTS x |> AI.MODELRUN mul INPUTS x x OUTPUTS x",
]
# These leave nothing: not the last one either, which fails.
NOTHING = [
    "AI.DAGEXECUTE LOAD 2 x y |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 sum",
    "AI.DAGEXECUTE_RO LOAD 2 x y |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 sum",
    "AI.DAGEXECUTE LOAD 2 x y PERSIST 1 z |> AI.TENSORSET z FLOAT 1 |> AI.SCRIPTEXECUTE s fails INPUTS 1 x OUTPUTS 1 w",
]


def run_all(wire: Wire) -> None:
    for line in RUNS:
        reply = ask(wire, line)
        assert isinstance(reply, list), reply
        assert not any(isinstance(item, Error) for item in reply), reply
    for line in NOTHING:
        assert isinstance(ask(wire, line), list)


def test_the_aof(start_server: StartServer) -> None:
    server = start_server(*AOF, "--aof-use-rdb-preamble", "no")
    with server.wire() as wire:
        dags.store(wire)
        before = len(aof_commands(server))
        run_all(wire)
        digest = wire.ask("DEBUG", "DIGEST")
        added = aof_commands(server)[before:]
    tensors = [words for words in added if words[0].upper() not in (b"MULTI", b"EXEC", b"SELECT")]
    assert {words[0].upper() for words in tensors} == {b"AI.TENSORSET"}
    assert [words[1].decode() for words in tensors] == ["sum", "double", "set", "x"]
    server.restart()
    with server.wire() as wire:
        assert wire.ask("DEBUG", "DIGEST") == digest
        assert wire.ask("AI.TENSORGET", "set", "VALUES") == [b"one", b"two"]
        assert values(wire, "x") == [b"1", b"16"]


def test_a_replica(start_server: StartServer) -> None:
    master, replica = start_server("--repl-diskless-sync-delay", "0"), start_server()
    follow(replica, master)
    with master.wire() as wire, replica.wire() as other:
        dags.store(wire)
        caught_up(wire)
        before = command_counts(other)["ai.tensorset"]
        run_all(wire)
        caught_up(wire)
        counts = command_counts(other)
        assert counts["ai.tensorset"] == before + 4
        assert not any(name.startswith("ai.dag") for name in counts)
        assert other.ask("DEBUG", "DIGEST") == wire.ask("DEBUG", "DIGEST")
        assert values(other, "double") == [b"8", b"12"]


def test_several_keys_arrive_together(start_server: StartServer) -> None:
    """What one DAG persists is one transaction for replicas and the AOF."""
    server = start_server(*AOF, "--aof-use-rdb-preamble", "no")
    with server.wire() as wire:
        dags.store(wire)
        before = len(aof_commands(server))
        check(
            ask(wire, "AI.DAGEXECUTE LOAD 2 x y PERSIST 2 a b |> AI.MODELEXECUTE both INPUTS 2 x y OUTPUTS 2 a b"), [OK]
        )
        check(ask(wire, "AI.DAGEXECUTE PERSIST 2 a b |> AI.TENSORSET a INT8 1 |> AI.TENSORSET b INT8 1"), [OK, OK])
        names = [words[0].upper() for words in aof_commands(server)[before:]]
    assert [name for name in names if name != b"SELECT"] == [b"MULTI", b"AI.TENSORSET", b"AI.TENSORSET", b"EXEC"] * 2


def test_a_master_that_becomes_a_replica_lets_its_clients_go(start_server: StartServer, slow: Slow) -> None:
    master, replica = start_server("--repl-diskless-sync-delay", "0"), start_server()
    with replica.wire() as wire, replica.wire() as running:
        slow(wire, 0.5)
        line = "AI.DAGEXECUTE LOAD 1 slow:n PERSIST 1 out |> AI.MODELEXECUTE slow INPUTS 1 slow:n OUTPUTS 1 out"
        send(running, line + " |> AI.MODELEXECUTE slow INPUTS 1 slow:n OUTPUTS 1 out")
        wait_for(lambda: replica.blocked_clients() == 1)
        follow(replica, master)
        reply = running.read()
        assert isinstance(reply, Error) and reply.startswith("UNBLOCKED")
        assert wire.ask("REPLICAOF", "NO", "ONE") == b"OK"
        assert wire.ask(*slow(wire, 0.001)) == b"OK"  # comes after the one that was let go
        assert wire.ask("EXISTS", "out") == 0
