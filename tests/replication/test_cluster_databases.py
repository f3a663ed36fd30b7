"""A cluster with several databases (cluster-databases): each command works in the one that its client selected."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit import models
from testkit.clusters import SETTLE_SECONDS, Cluster, Member
from testkit.scripts import function
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import SERVERS

DATABASES = (0, 3, 15)
SCRIPT = (
    function("double", "return tensors[0] * 2")
    + function("keep", 'redis.execute("SET", keys[0], args[0])')
    + function("run", "return redisAI.model_execute(keys[0], [tensors[0], tensors[0]], 1)")
)


@pytest.fixture(scope="module")
def processes(shared: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with shared.wire() as wire:
        if wire.ask("CONFIG", "GET", "cluster-databases") == []:
            pytest.skip("this server has one database in a cluster: Valkey 9 is the first that has more")
    with Cluster(tmp_path_factory.mktemp("cluster"), "--cluster-databases", "16").started() as cluster:
        yield cluster


@pytest.fixture
def cluster(processes: Cluster, request: pytest.FixtureRequest) -> Cluster:
    request.node.stash.setdefault(SERVERS, []).extend(processes.members)
    processes.make_whole_and_empty()
    return processes


def use_everything(wire: Wire, database: int) -> None:
    """Stores values that differ from database to database, and runs them in every way that writes."""
    assert wire.ask("SELECT", database) == b"OK"
    lines = [
        f"AI.TENSORSET x FLOAT 1 2 VALUES {database} 1",
        "AI.MODELEXECUTE m INPUTS 2 x x OUTPUTS 1 model",
        "AI.SCRIPTEXECUTE s double INPUTS 1 x OUTPUTS 1 script",
        f"AI.SCRIPTEXECUTE s keep KEYS 1 kept ARGS 1 {database}",
        "AI.SCRIPTEXECUTE s run KEYS 1 m INPUTS 1 x OUTPUTS 1 called",
        "AI.DAGEXECUTE LOAD 1 x PERSIST 1 dag |> AI.MODELEXECUTE m INPUTS 2 x x OUTPUTS 1 dag",
    ]
    assert wire.ask("AI.MODELSTORE", tagged("m"), "ONNX", "CPU", "TAG", database, "BLOB", models.onnx_add()) == b"OK"
    words = ("CPU", "TAG", database, "ENTRY_POINTS", 3, "double", "keep", "run", "SOURCE", SCRIPT)
    assert wire.ask("AI.SCRIPTSTORE", tagged("s"), *words) == b"OK"
    for line in lines:
        assert wire.ask(*map(tagged, line.split())) in (b"OK", [b"OK"]), line


def tagged(word: str) -> str:
    """All keys are of one slot."""
    return "{t}" + word if word in ("x", "m", "s", "model", "script", "kept", "called", "dag") else word


def check_everything(wire: Wire, database: int) -> None:
    assert wire.ask("SELECT", database) == b"OK"
    for key in ("model", "script", "called", "dag"):
        assert wire.ask("AI.TENSORGET", tagged(key), "VALUES") == [str(2 * database).encode(), b"2"], key
    assert wire.ask("GET", tagged("kept")) == str(database).encode()
    assert wire.ask("AI._MODELSCAN") == [[tagged("m").encode(), str(database).encode()]]
    assert wire.ask("AI._SCRIPTSCAN") == [[tagged("s").encode(), str(database).encode()]]
    assert wire.ask("DBSIZE") == 8


def digest(member: Member) -> bytes:
    with member.wire() as wire:
        found: bytes = wire.ask("DEBUG", "DIGEST")
    return found


def test_each_has_its_own_values(cluster: Cluster) -> None:
    """On the master, and on its replica, as commands and as a whole database."""
    master = cluster.owner("{t}")
    replica = cluster.replica_of(master)
    with master.wire() as wire:
        for database in DATABASES:
            use_everything(wire, database)
        for database in DATABASES:
            check_everything(wire, database)
        assert wire.ask("SELECT", 1) == b"OK"
        assert isinstance(wire.ask("AI.TENSORGET", tagged("x")), Error)
        assert wire.ask("DBSIZE") == 0
        assert wire.ask("WAIT", 1, 30000) == 1
        check_replica(replica)
        assert digest(replica) == digest(master)
        replica.kill()
        replica.start()
        wait_for(lambda: replica.follows(master.port), SETTLE_SECONDS, "the replica is in step again")
        check_replica(replica)
        assert digest(replica) == digest(master)


def check_replica(replica: Member) -> None:
    with replica.wire() as wire:
        assert wire.ask("READONLY") == b"OK"
        for database in DATABASES:
            check_everything(wire, database)
            run = "AI.DAGEXECUTE_RO LOAD 1 x |> AI.MODELEXECUTE m INPUTS 2 x x OUTPUTS 1 y |> AI.TENSORGET y VALUES"
            assert wire.ask(*map(tagged, run.split())) == [b"OK", [str(2 * database).encode(), b"2"]]


def test_a_run_ends_in_the_database_that_it_began_in(cluster: Cluster) -> None:
    """Whatever its client, or another one, selects meanwhile."""
    master = cluster.owner("{t}")
    replica = cluster.replica_of(master)
    with master.wire() as wire:
        assert wire.ask("SELECT", 3) == b"OK"
        assert wire.ask("AI.MODELSTORE", "{t}loop", "ONNX", "CPU", "BLOB", models.onnx_loop()) == b"OK"
        assert wire.ask("AI.TENSORSET", "{t}n", "INT64", "VALUES", 2000) == b"OK"
        for _ in range(5):
            wire.send("AI.MODELEXECUTE", "{t}loop", "INPUTS", 1, "{t}n", "OUTPUTS", 1, "{t}out")
            wire.send("SELECT", 4)
            wire.send("AI.TENSORSET", "{t}other", "FLOAT", 1)
            wire.send("SELECT", 3)
        assert [wire.read() for _ in range(20)] == [b"OK"] * 20
        assert wire.ask("EXISTS", "{t}out", "{t}other") == 1
        assert wire.ask("WAIT", 1, 30000) == 1
    assert digest(replica) == digest(master)
    with replica.wire() as wire:
        assert wire.ask("READONLY") == wire.ask("SELECT", 3) == b"OK"
        assert wire.ask("DBSIZE") == 3
