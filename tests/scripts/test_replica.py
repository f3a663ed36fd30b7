"""What scripts write goes to replicas and to the AOF as it happened; replicas run no scripts."""

from __future__ import annotations

from testkit import samples, scripts
from testkit.info import command_counts
from testkit.replicas import caught_up, follow
from testkit.restarts import AOF, aof_commands
from testkit.scripts import execute, store_command, store_old, store_plain, store_redis, values
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import StartServer

FAILED = "ERR Redis command returned an error: "


def run_scripts(wire: Wire) -> None:
    """Outputs, commands in their order, in two databases; and a script that fails half-way."""
    store_redis(wire)
    store_plain(wire, "plain")
    store_old(wire)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
    assert wire.ask(*execute("plain", "two", inputs=["x"], outputs=["y", "z"])) == b"OK"
    assert wire.ask("AI.SCRIPTRUN", "old", "add", "INPUTS", "x", "x", "OUTPUTS", "sum") == b"OK"
    assert wire.ask(*execute("s", "given", [b"\0key\xff"], (), [b"\0value\xfe"], ["out:key", "out:arg"])) == b"OK"
    assert wire.ask(*execute("s", "increment", ["counter"], (), [5])) == b"OK"
    failed = wire.ask(*execute("s", "then", ["first", "second"], (), ["INCR", "first"]))
    assert failed == Error("ERR Redis command returned an error: value is not an integer or out of range")
    assert wire.ask("COPY", "s", "s", "DB", 3) == 1
    assert wire.ask("SELECT", 3) == b"OK"
    assert wire.ask(*execute("s", "run", ["where"], (), ["SET", "where", "3"])) == b"OK"
    assert wire.ask("SELECT", 0) == b"OK"


def check_written(wire: Wire) -> None:
    assert values(wire, "y") == [b"2", b"3"]
    assert values(wire, "z") == values(wire, "sum") == [b"2", b"4"]
    assert wire.ask("GET", b"\0key\xff") == b"\0value\xfe"
    assert wire.ask("AI.TENSORGET", "out:key", "BLOB") == b"\0key\xff"
    assert wire.ask("GET", "counter") == b"5"
    assert wire.ask("MGET", "first", "second") == [b"before", None]
    assert wire.ask("EXISTS", "where") == 0
    wire.ask("SELECT", 3)
    assert wire.ask("GET", "where") == b"3"
    wire.ask("SELECT", 0)


def test_a_replica(start_server: StartServer) -> None:
    """It is told what happened, and runs no scripts itself: it refuses them as it refuses every write."""
    master, replica = start_server("--repl-diskless-sync-delay", "0"), start_server()
    follow(replica, master)
    with master.wire() as wire:
        run_scripts(wire)
        check_written(wire)
        before = samples.contents_of(wire, "s")
        digest = wire.ask("DEBUG", "DIGEST")
        caught_up(wire)
    with replica.wire() as wire:
        check_written(wire)
        assert samples.contents_of(wire, "s") == before
        counts = command_counts(wire)
        assert "ai.scriptexecute" not in counts and "ai.scriptrun" not in counts
        assert (counts["ai.scriptstore"], counts["ai.scriptset"], counts["incr"]) == (2, 1, 5)
        for words in (
            execute("s", "run", ["k"], (), ["SET", "k", "x"]),
            execute("s", "reply", ["k"], (), ["GET", "k"], ["out"]),
            ("AI.SCRIPTRUN", "old", "add", "INPUTS", "x", "x", "OUTPUTS", "out"),
            store_command("t", scripts.REDIS, ["run"]),
            ("AI.SCRIPTSET", "t", "CPU", "SOURCE", scripts.OLD),
            ("AI.SCRIPTDEL", "s"),
        ):
            assert wire.ask(*words).startswith("READONLY ")
        assert wire.ask("AI.SCRIPTGET", "s", "SOURCE") == scripts.REDIS.encode()
        assert len(wire.ask("AI._SCRIPTSCAN")) == 3
        assert wire.ask("DEBUG", "DIGEST") == digest
        assert wire.ask("REPLICAOF", "NO", "ONE") == b"OK"
        assert wire.ask(*execute("plain", "add", inputs=["x", "x"], outputs=["again"])) == b"OK"


def test_a_master_that_becomes_a_replica_while_a_script_runs(start_server: StartServer) -> None:
    """The script's further commands are refused: the data are another's now."""
    master, other = start_server("--repl-diskless-sync-delay", "0"), start_server()
    with master.wire() as wire:
        wire.ask("SET", "whose", "the other's")
    with other.wire() as wire, other.wire() as running:
        store_redis(wire, "gone_on")
        running.send(*execute("s", "gone_on", ["a", "b", "c"]))
        wait_for(lambda: wire.ask("GET", "a") == b"started")
        follow(other, master)
        assert running.read().startswith("UNBLOCKED force unblock from blocking operation, instance state changed")
        with master.wire() as to:
            to.ask("SET", "b", "go")
            caught_up(to)
        assert wire.ask("REPLICAOF", "NO", "ONE") == b"OK"
        store_redis(wire, "run")
        assert wire.ask(*execute("s", "run", ["last"], (), ["SET", "last", "x"])) == b"OK"  # comes after the other
        assert sorted(wire.ask("KEYS", "*")) == [b"b", b"last", b"s", b"whose"]


def test_the_aof_is_told_what_happened(start_server: StartServer) -> None:
    server = start_server(*AOF)
    with server.wire() as wire:
        run_scripts(wire)
        digest = wire.ask("DEBUG", "DIGEST")
    names = [command[0].upper() for command in aof_commands(server)]
    assert set(names) - {b"SELECT", b"MULTI", b"EXEC"} == {
        b"AI.SCRIPTSTORE", b"AI.SCRIPTSET", b"AI.TENSORSET", b"SET", b"INCR", b"COPY",
    }  # fmt: skip
    server.kill()
    server.start()
    with server.wire() as wire:
        check_written(wire)
        assert wire.ask("DEBUG", "DIGEST") == digest
        assert wire.ask(*execute("s", "increment", ["counter"], (), [5])) == b"OK"
        assert wire.ask("GET", "counter") == b"10"


def test_cluster(start_server: StartServer) -> None:
    server = start_server("--cluster-enabled", "yes")
    with server.wire() as wire:
        # Every slot but that of {foreign}, so that there is a key that hashes to another server.
        foreign = wire.ask("CLUSTER", "KEYSLOT", "{foreign}")
        assert wire.ask("CLUSTER", "ADDSLOTSRANGE", 0, foreign - 1, foreign + 1, 16383) == b"OK"
        assert wire.ask("CONFIG", "SET", "cluster-require-full-coverage", "no") == b"OK"
        wait_for(lambda: b"cluster_state:ok" in wire.ask("CLUSTER", "INFO"), 20)
        store_redis(wire, "reply", "run", key="s{1}")
        assert wire.ask("SET", "k{1}", "x") == b"OK"
        wire.ask("AI.TENSORSET", "x{1}", "FLOAT", 1)

        def run_it(script: str, key: str, tensor: str, output: str) -> object:
            return wire.ask(*execute(script, "reply", [key], [tensor], ["GET", "k{1}"], [output]))

        right = ["s{1}", "k{1}", "x{1}", "out{1}"]
        assert run_it(*right) == b"OK"
        assert wire.ask("AI.TENSORGET", "out{1}", "BLOB") == b"s1:x"
        for name in right:
            reply = run_it(*[name.replace("1", "2") if word == name else word for word in right])
            assert isinstance(reply, Error) and reply.startswith("CROSSSLOT ")
        run = ("AI.SCRIPTRUN", "s{1}", "run", "INPUTS", "x{1}", "$", "x{2}", "OUTPUTS", "out{1}")
        assert wire.ask(*run).startswith("CROSSSLOT ")
        for key in ("k{2}", "k{foreign}"):
            for command in (["GET", key], ["SET", key, "x"], ["MGET", "k{1}", key]):
                reply = wire.ask(*execute("s{1}", "run", ["k{1}"], (), command))
                assert isinstance(reply, Error) and reply.startswith(FAILED), (command, reply)
        assert wire.ask(*execute("s{foreign}", "run", ["k{foreign}"], (), ["GET", "k{foreign}"])).startswith(
            "CLUSTERDOWN "
        )
