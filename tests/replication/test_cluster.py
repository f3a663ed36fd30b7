"""A Redis Cluster of three masters and three replicas: clients find their way, slots move, masters fail."""

# redis-py's own methods have no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import LoadBalancingStrategy, RedisCluster
from redis.crc import key_slot
from redis.exceptions import RedisClusterException
from redisai_module.client import AsyncRedisAI, RedisAI

from testkit import models
from testkit.clusters import PATIENT, QUICK, SETTLE_SECONDS, Caller, Cluster, Member, redis_cli
from testkit.scripts import OLD, function
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.conftest import SERVERS

SCRIPT = function("twice", "return tensors[0] * 2") + function("keep", 'redis.execute("SET", keys[0], args[0])')
SLOTS = 16384
PATIENCE = 60.0  # the first TORCH model of a node waits for PyTorch to be imported, on all six at once


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), "--ai.bindings", "yes").started() as cluster:
        yield cluster


@pytest.fixture
def cluster(processes: Cluster, request: pytest.FixtureRequest) -> Cluster:
    """The cluster all tests here share, whole and empty. Any node may be the master of any slot."""
    request.node.stash.setdefault(SERVERS, []).extend(processes.members)
    processes.make_whole_and_empty()
    return processes


@pytest.fixture
def client(cluster: Cluster) -> Iterator[RedisCluster]:
    with connect(cluster) as client:
        yield client


def connect(cluster: Cluster, **options: Any) -> RedisCluster:
    return RedisCluster(host="127.0.0.1", port=cluster.members[0].port, socket_timeout=PATIENCE, **options)


def tag_of(cluster: Cluster, number: int) -> str:
    """A hash tag, braces and all, of a slot of one of the three masters."""
    owner = sorted(cluster.masters(), key=lambda master: master.port)[number]
    return next(tag for tag in (f"{{{i}}}" for i in range(100)) if cluster.owner(tag) is owner)


def line(text: str, tag: str) -> list[str]:
    """The words of a command, with the hash tag for each @."""
    return text.replace("@", tag).split()


def plain(reply: Any) -> Any:
    """A reply with floats as RESP3 has them."""
    if isinstance(reply, list):
        return [plain(item) for item in reply]
    return float(reply) if isinstance(reply, bytes) and reply[:1].isdigit() else reply


def ask_all(command: Callable[..., Any], tag: str) -> None:
    """Every command, with keys of this hash tag."""
    ok = b"OK"

    def ask(*words: Any) -> Any:
        return plain(command(*words))

    add, both = models.onnx_add(), models.torch_module(models.SumAndProduct)
    assert ask(*line("AI.TENSORSET @x FLOAT 1 2 VALUES 1 2", tag)) == ok
    assert ask(*line("AI.MODELSTORE @m ONNX CPU TAG first BATCHSIZE 4 BLOB", tag), add) == ok
    assert ask(*line("AI.MODELSET @old ONNX CPU BLOB", tag), add) == ok
    assert ask(*line("AI.MODELSTORE @both TORCH CPU BLOB", tag), both) == ok
    assert ask(*line("AI.SCRIPTSTORE @s CPU ENTRY_POINTS 2 twice keep SOURCE", tag), SCRIPT) == ok
    assert ask(*line("AI.SCRIPTSET @older CPU SOURCE", tag), OLD) == ok

    def values(key: str) -> Any:
        return ask("AI.TENSORGET", tag + key, "VALUES")

    assert values("x") == [1, 2]
    assert ask(*line("AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 @y", tag)) == ok
    assert values("y") == [2, 4]
    assert ask(*line("AI.MODELEXECUTE @both INPUTS 2 @x @y OUTPUTS 2 @sum @product TIMEOUT 60000", tag)) == ok
    assert values("product") == [2, 8]
    assert ask(*line("AI.MODELRUN @old INPUTS @y @y OUTPUTS @run", tag)) == ok
    assert values("run") == [4, 8]
    assert ask(*line("AI.SCRIPTEXECUTE @s twice INPUTS 1 @x OUTPUTS 1 @doubled", tag)) == ok
    assert values("doubled") == [2, 4]
    assert ask(*line("AI.SCRIPTEXECUTE @s keep KEYS 1 @kept ARGS 1 word", tag)) == ok
    assert ask("GET", tag + "kept") == b"word"
    assert ask(*line("AI.SCRIPTRUN @older add INPUTS @x @x OUTPUTS @added", tag)) == ok
    assert values("added") == [2, 4]
    ask_dags(ask, tag)
    assert values("persisted") == [4, 8]

    assert ask(*line("AI.MODELGET @m META", tag))[5] == b"first"
    assert ask(*line("AI.MODELGET @m BLOB", tag)) == add
    assert ask(*line("AI.SCRIPTGET @s SOURCE", tag)) == SCRIPT.encode()
    assert ask(*line("AI.INFO @m", tag))[1] == f"{tag}m".encode()
    assert ask(*line("AI.INFO @m RESETSTAT", tag)) == ok
    assert ask(*line("AI.MODELDEL @old", tag)) == ok
    assert ask(*line("AI.SCRIPTDEL @older", tag)) == ok


def ask_dags(ask: Callable[..., Any], tag: str) -> None:
    """DAGs whose keys are found at LOAD, PERSIST, ROUTING, or only in a model or script command, which comes late."""
    get = "|> AI.TENSORGET b VALUES"
    run = f"|> AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 a |> AI.SCRIPTEXECUTE @s twice INPUTS 1 a OUTPUTS 1 b {get}"
    local = "|> AI.TENSORSET a FLOAT 1 2 BLOB 12345678"
    assert ask(*line(f"AI.DAGEXECUTE LOAD 1 @x {run}", tag)) == [b"OK", b"OK", [4, 8]]
    dag = f"AI.DAGEXECUTE LOAD 1 @x PERSIST 1 @persisted ROUTING @ TIMEOUT 60000 {run}".replace(" b", " @persisted")
    assert ask(*line(dag, tag)) == [b"OK", b"OK", [4, 8]]
    made = "|> AI.TENSORSET a FLOAT 1 2 VALUES 1 2 |> AI.MODELEXECUTE @m INPUTS 2 a a OUTPUTS 1 b"
    assert ask(*line(f"AI.DAGEXECUTE ROUTING @ {made} {get}", tag)) == [b"OK", b"OK", [2, 4]]
    assert ask(*line(f"AI.DAGEXECUTE PERSIST 1 @made {made.replace(' b', ' @made')}", tag)) == [b"OK", b"OK"]
    assert ask(*line(f"AI.DAGEXECUTE ROUTING @elsewhere {local}", tag)) == [b"OK"]
    assert ask(*line(f"AI.DAGEXECUTE_RO ROUTING @ {made} {get}", tag)) == [b"OK", b"OK", [2, 4]]
    assert ask(*line("AI.DAGEXECUTE_RO LOAD 2 @x @made |> AI.TENSORGET @made VALUES", tag)) == [[2, 4]]
    made, get = made.replace("MODELEXECUTE @m INPUTS 2", "MODELRUN @m INPUTS").replace("OUTPUTS 1", "OUTPUTS"), get
    assert ask(*line(f"AI.DAGRUN {made} {get}", tag)) == [b"OK", b"OK", [2, 4]]
    assert ask(*line(f"AI.DAGRUN_RO LOAD 1 @x {made} {get}", tag)) == [b"OK", b"OK", [2, 4]]
    assert ask(*line(f"AI.DAGRUN {made} |> AI.SCRIPTRUN @older add INPUTS b b OUTPUTS c", tag)) == [b"OK"] * 3


def redirections(cluster: Cluster) -> int:
    """How many replies sent a client to another node."""
    found = [member.info("errorstats").get("errorstat_MOVED", "count=0") for member in cluster.members]
    return sum(int(text.removeprefix("count=")) for text in found)


# ---- clients find their way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
def test_every_command_through_redis_py(cluster: Cluster, protocol: int) -> None:
    """No keys are told it, and it sends each command to the right node the first time."""
    before = redirections(cluster)
    with connect(cluster, protocol=protocol) as client:
        for number in range(3):
            ask_all(client.execute_command, tag_of(cluster, number))
    assert redirections(cluster) == before


def test_dags_through_asyncio(cluster: Cluster, client: RedisCluster) -> None:
    async def ask_everywhere() -> None:
        async with AsyncRedisCluster(host="127.0.0.1", port=cluster.members[0].port, socket_timeout=PATIENCE) as other:
            for number in range(3):
                tag = tag_of(cluster, number)
                made = "|> AI.TENSORSET a FLOAT 1 2 VALUES 1 2 |> AI.MODELEXECUTE @m INPUTS 2 a a OUTPUTS 1 b"
                words = line(f"AI.DAGEXECUTE ROUTING @ {made} |> AI.TENSORGET b VALUES", tag)
                assert await other.execute_command(*words) == [b"OK", b"OK", [2, 4]]
                assert (
                    await other.execute_command(*line("AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 @y", tag)) == b"OK"
                )

    for number in range(3):
        store_model(client, tag_of(cluster, number))
    before = redirections(cluster)
    asyncio.run(ask_everywhere())
    assert redirections(cluster) == before


def store_model(client: RedisCluster, tag: str) -> None:
    assert client.execute_command(*line("AI.MODELSTORE @m ONNX CPU BLOB", tag), models.onnx_add()) == b"OK"
    assert client.execute_command(*line("AI.TENSORSET @x FLOAT 1 2 VALUES 1 2", tag)) == b"OK"


def test_a_pipeline_over_all_masters(cluster: Cluster, client: RedisCluster) -> None:
    tags = [tag_of(cluster, number) for number in range(3)]
    for tag in tags:
        store_model(client, tag)
    before = redirections(cluster)
    pipe = client.pipeline()
    for tag in tags:
        pipe.execute_command(*line("AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 @y", tag))
        pipe.execute_command(*line("AI.DAGEXECUTE LOAD 1 @y |> AI.TENSORGET @y VALUES", tag))
    assert pipe.execute() == [b"OK", [[2, 4]]] * 3
    assert redirections(cluster) == before


X = np.array([[1, 2]], np.float32)


def check_client_pipeline(replies: list[Any]) -> None:
    assert replies[0] is True and np.array_equal(replies[1], X) and np.array_equal(replies[2][0], X * 2)
    assert "tensor key is empty" in str(replies[3])


def fill_client_pipeline(ai: RedisAI, tag: str) -> None:
    ai.tensor_set(f"x{tag}", X)
    ai.tensor_get(f"x{tag}")
    ai.run(f"m{tag}", X, X, outputs=1)
    ai.tensor_get(f"nothing{tag}")


@pytest.mark.parametrize("decode_responses", [False, True])
def test_our_client(cluster: Cluster, decode_responses: bool) -> None:
    with connect(cluster, decode_responses=decode_responses) as client:
        for tag in [tag_of(cluster, number) for number in range(3)]:
            ai = RedisAI(client)
            ai.model_store(f"m{tag}", models.onnx_add())
            assert np.array_equal(ai.run(f"m{tag}", X, X), [X * 2])
            pipeline = client.pipeline()
            fill_client_pipeline(RedisAI(pipeline), tag)
            check_client_pipeline(pipeline.execute(raise_on_error=False))


@pytest.mark.parametrize("decode_responses", [False, True])
def test_our_client_through_asyncio(cluster: Cluster, decode_responses: bool) -> None:
    async def ask() -> None:
        async with AsyncRedisCluster(
            host="127.0.0.1", port=cluster.members[0].port, decode_responses=decode_responses
        ) as client:
            for tag in [tag_of(cluster, number) for number in range(3)]:
                ai = AsyncRedisAI(client)
                await ai.model_store(f"m{tag}", models.onnx_add())
                assert np.array_equal(await ai.run(f"m{tag}", X, X), [X * 2])
                pipeline = client.pipeline()
                fill_client_pipeline(AsyncRedisAI(pipeline), tag)
                check_client_pipeline(await pipeline.execute(raise_on_error=False))

    asyncio.run(ask())


def test_commands_without_keys_go_to_the_nodes_they_are_given(cluster: Cluster, client: RedisCluster) -> None:
    tags = [tag_of(cluster, number) for number in range(3)]
    for tag in tags:
        ask_all(client.execute_command, tag)
    models_found = client.execute_command("AI._MODELSCAN", target_nodes=client.get_primaries())
    assert sorted(m for found in models_found.values() for m, _ in found) == sorted(
        f"{tag}{name}".encode() for tag in tags for name in ("m", "both")
    )
    scripts_found = client.execute_command("AI._SCRIPTSCAN", target_nodes=client.get_primaries())
    assert sorted(found[0][0] for found in scripts_found.values()) == sorted(f"{tag}s".encode() for tag in tags)
    everywhere = client.get_nodes()
    assert set(client.execute_command("AI.CONFIG", "MODEL_CHUNK_SIZE", 1000, target_nodes=everywhere).values()) == {
        b"OK"
    }
    found = client.execute_command("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE", target_nodes=everywhere)
    assert list(found.values()) == [1000] * 6
    client.execute_command("AI.CONFIG", "MODEL_CHUNK_SIZE", 535822336, target_nodes=everywhere)
    # Any node can run a DAG that needs no key at all.
    dag = line("AI.DAGRUN_RO |> AI.TENSORSET a FLOAT 1 VALUES 3 |> AI.TENSORGET a VALUES", "")
    for reply in client.execute_command(*dag, target_nodes=everywhere).values():
        assert reply == [b"OK", [3]]


def test_redis_cli_follows(cluster: Cluster) -> None:
    """redis-cli -c knows nothing of keys: it asks whom it is connected to, and goes where it is sent."""
    tags = [tag_of(cluster, number) for number in range(3)]
    start = cluster.owner(tags[0]).port
    for tag in tags:
        lines = [
            "AI.TENSORSET @x FLOAT 1 2 VALUES 1 2",
            "AI.DAGEXECUTE ROUTING @ |> AI.TENSORSET a FLOAT 1 VALUES 3 |> AI.TENSORGET a VALUES",
            "AI.DAGEXECUTE LOAD 1 @x PERSIST 1 @y |> AI.TENSORSET @y FLOAT 1 VALUES 5 |> AI.TENSORGET @x VALUES",
            "AI.TENSORGET @y VALUES",
        ]
        given = "\n".join(lines).replace("@", tag)
        found = [text for text in redis_cli("-c", "-p", start, given=given).split("\n") if not text.startswith("->")]
        assert " ".join(" ".join(found).split()) == "OK OK 3 OK 1 2 5"


KEYED = [
    "AI.TENSORSET @x FLOAT 1",
    "AI.TENSORGET @x",
    "AI.MODELSTORE @m ONNX CPU BLOB b",
    "AI.MODELSET @m ONNX CPU BLOB b",
    "AI.MODELGET @m",
    "AI.MODELDEL @m",
    "AI.MODELEXECUTE @m INPUTS 1 @x OUTPUTS 1 @y",
    "AI.MODELRUN @m INPUTS @x OUTPUTS @y",
    "AI.SCRIPTSTORE @s CPU ENTRY_POINTS 1 f SOURCE s",
    "AI.SCRIPTSET @s CPU SOURCE s",
    "AI.SCRIPTGET @s",
    "AI.SCRIPTDEL @s",
    "AI.SCRIPTEXECUTE @s f KEYS 1 @k INPUTS 1 @x OUTPUTS 1 @y",
    "AI.SCRIPTRUN @s f INPUTS @x OUTPUTS @y",
    "AI.DAGEXECUTE LOAD 1 @x |> AI.TENSORGET @x",
    "AI.DAGEXECUTE PERSIST 1 @x |> AI.TENSORSET @x FLOAT 1",
    "AI.DAGEXECUTE ROUTING @ |> AI.TENSORSET a FLOAT 1",
    "AI.DAGEXECUTE_RO ROUTING @ |> AI.TENSORSET a FLOAT 1",
    "AI.DAGRUN |> AI.TENSORSET a FLOAT 1 |> AI.MODELRUN @m INPUTS a OUTPUTS b",
    "AI.DAGRUN_RO |> AI.TENSORSET a FLOAT 1 |> AI.SCRIPTRUN @s f INPUTS a OUTPUTS b",
    "AI.INFO @m",
]


def test_moved(cluster: Cluster) -> None:
    """Whoever does not own the slot says who does, masters and replicas alike."""
    tag = tag_of(cluster, 0)
    owner = cluster.owner(tag)
    wanted = f"MOVED {cluster.slot(tag)} 127.0.0.1:{owner.port}"
    for member in cluster.members:
        if member is owner:
            continue
        with member.wire() as wire:
            for text in KEYED:
                assert wire.ask(*line(text, tag)) == wanted, text


@pytest.mark.parametrize(
    "text",
    [
        "AI.MODELEXECUTE #m INPUTS 1 @x OUTPUTS 1 @y",
        "AI.MODELEXECUTE @m INPUTS 1 #x OUTPUTS 1 @y",
        "AI.MODELEXECUTE @m INPUTS 1 @x OUTPUTS 1 #y TIMEOUT 1",
        "AI.MODELRUN @m INPUTS @x OUTPUTS #y",
        "AI.SCRIPTEXECUTE @s f KEYS 1 #k INPUTS 1 @x OUTPUTS 1 @y",
        "AI.SCRIPTEXECUTE @s f INPUTS 1 @x OUTPUTS 1 #y",
        "AI.SCRIPTRUN @s f INPUTS #x OUTPUTS @y",
        "AI.DAGEXECUTE LOAD 1 @x ROUTING # |> AI.TENSORGET @x",
        "AI.DAGEXECUTE LOAD 2 @x #x |> AI.TENSORGET @x",
        "AI.DAGEXECUTE LOAD 1 @x PERSIST 1 #y |> AI.TENSORSET #y FLOAT 1",
        "AI.DAGEXECUTE ROUTING @ |> AI.TENSORSET a FLOAT 1 |> AI.MODELEXECUTE #m INPUTS 1 a OUTPUTS 1 b",
        "AI.DAGEXECUTE ROUTING @ |> AI.SCRIPTEXECUTE @s f KEYS 1 #k",
        "AI.DAGEXECUTE_RO LOAD 1 @x |> AI.MODELEXECUTE #m INPUTS 1 @x OUTPUTS 1 b",
        "AI.DAGRUN LOAD 1 @x |> AI.MODELRUN @m INPUTS @x OUTPUTS b |> AI.SCRIPTRUN #s f INPUTS b OUTPUTS c",
    ],
)
def test_crossslot(cluster: Cluster, text: str) -> None:
    """Also where one node owns both slots."""
    tag = tag_of(cluster, 0)
    owner = cluster.owner(tag)
    same = next(other for i in range(1000) if other_slot_of(cluster, owner, tag, other := f"{{o{i}}}"))
    with owner.wire() as wire:
        for other in (same, tag_of(cluster, 1)):
            reply = wire.ask(*line(text.replace("#", other), tag))
            assert isinstance(reply, Error) and reply.startswith("CROSSSLOT "), reply


def other_slot_of(cluster: Cluster, owner: Member, tag: str, other: str) -> bool:
    return cluster.owner(other) is owner and cluster.slot(other) != cluster.slot(tag)


def test_redis_py_refuses_keys_of_two_slots(cluster: Cluster, client: RedisCluster) -> None:
    x, y = tag_of(cluster, 0) + "x", tag_of(cluster, 1) + "y"
    with pytest.raises(RedisClusterException, match="same key slot"):
        client.execute_command("AI.DAGEXECUTE", "LOAD", 2, x, y, "|>", "AI.TENSORGET", x)


# ---- replicas --------------------------------------------------------------------------------------------------------


def test_replicas_read_and_run(cluster: Cluster, client: RedisCluster) -> None:
    tag = tag_of(cluster, 0)
    ask_all(client.execute_command, tag)
    owner = cluster.owner(tag)
    catch_up(owner, tag)
    made = (
        "|> AI.TENSORSET a FLOAT 1 2 VALUES 1 2 |> AI.MODELEXECUTE @m INPUTS 2 a a OUTPUTS 1 b |> AI.TENSORGET b VALUES"
    )
    run = line(f"AI.DAGEXECUTE_RO ROUTING @ {made}", tag)
    with cluster.replica_of(owner).wire() as wire:
        assert wire.ask(*run).startswith("MOVED ")
        assert wire.ask("READONLY") == b"OK"
        assert wire.ask(*run) == [b"OK", b"OK", [b"2", b"4"]]
        assert wire.ask(*line("AI.DAGEXECUTE_RO LOAD 1 @persisted |> AI.TENSORGET @persisted VALUES", tag)) == [
            [b"4", b"8"]
        ]
        run_ro = f"AI.DAGRUN_RO {made}".replace("MODELEXECUTE @m INPUTS 2", "MODELRUN @m INPUTS").replace(
            "S 1 b", "S b"
        )
        assert wire.ask(*line(run_ro, tag)) == [b"OK", b"OK", [b"2", b"4"]]
        assert wire.ask(*line("AI.TENSORGET @y VALUES", tag)) == [b"2", b"4"]
        assert wire.ask(*line("AI.MODELGET @m BLOB", tag)) == models.onnx_add()
        assert wire.ask(*line("AI.SCRIPTGET @s SOURCE", tag)) == SCRIPT.encode()
        assert wire.ask(*line("AI.INFO @m", tag))[15] >= 2
        # writing is the master's, and another slot is another master's
        for text in KEYED:
            if not any(name in text for name in ("GET ", "_RO ", "INFO ")):
                assert wire.ask(*line(text, tag)).startswith("MOVED "), text
        assert wire.ask(*line("AI.DAGEXECUTE_RO ROUTING @ |> AI.TENSORSET a FLOAT 1", tag_of(cluster, 1))).startswith(
            "MOVED "
        )
    with connect(cluster, load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN) as reader:
        replica = reader.get_node_from_key(tag, replica=True)
        assert reader.execute_command(*run, target_nodes=replica) == [b"OK", b"OK", [2, 4]]


def catch_up(master: Member, tag: str) -> None:
    """The replica takes in all that its master has told."""
    with master.wire() as wire:
        assert wire.ask("SET", f"{tag}last", "x") == b"OK"  # WAIT is about what its own connection wrote
        assert wire.ask("WAIT", 1, 30000) == 1


# ---- slots move ------------------------------------------------------------------------------------------------------


class Move:
    """A slot on its way from one master to another, step by step as redis-cli does it."""

    def __init__(self, cluster: Cluster, tag: str) -> None:
        self.cluster = cluster
        self.slot = cluster.slot(tag)
        self.source = cluster.owner(tag)
        self.target = next(master for master in cluster.masters() if master is not self.source)

    def begin(self) -> None:
        with self.source.wire() as source, self.target.wire() as target:
            words: tuple[Word, ...] = ("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.cluster.id(self.source))
            assert target.ask(*words) == b"OK"
            words = ("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.cluster.id(self.target))
            assert source.ask(*words) == b"OK"

    def migrate(self, *keys: Word) -> None:
        with self.source.wire() as wire:
            assert wire.ask("MIGRATE", "127.0.0.1", self.target.port, "", 0, 30000, "KEYS", *keys) == b"OK"

    def migrate_all(self) -> None:
        with self.source.wire() as wire:
            keys = wire.ask("CLUSTER", "GETKEYSINSLOT", self.slot, 1000)
        if keys:
            self.migrate(*keys)

    def end(self) -> None:
        for member in (self.target, self.source, *self.cluster.masters()):
            with member.wire() as wire:
                assert wire.ask("CLUSTER", "SETSLOT", self.slot, "NODE", self.cluster.id(self.target)) == b"OK"

    def left_behind(self) -> int:
        with self.source.wire() as wire:
            return int(wire.ask("CLUSTER", "COUNTKEYSINSLOT", self.slot))


def test_bindings_follow_their_keys(cluster: Cluster, client: RedisCluster) -> None:
    """Each node runs its own keys, and a key goes on where its slot has moved."""
    names = [f"k:{{{i}}}" for i in range(60)]

    def results() -> list[Any]:
        return [client.hget(name, "y") for name in names]

    for master in cluster.masters():
        tag = next(f"{{{i}}}" for i in range(100) if cluster.owner(f"{{{i}}}") is master)
        with master.wire() as wire:
            wire.ask_ok("AI.MODELSTORE", f"{tag}m", "ONNX", "CPU", "BLOB", models.onnx_line(2, 1))
            wire.ask_ok(*line("AI.BIND b ON HASH PREFIX 1 k: FIELDS 1 x MODEL @m SET 1 y", tag))
    for i, name in enumerate(names):
        client.hset(name, "x", i)
    wait_for(lambda: results() == [b"%d" % (2 * i + 1) for i in range(60)], what="all have results")
    tag = "{7}"
    move = Move(cluster, tag)
    move.begin()
    client.hset(names[7], "x", 50)
    move.migrate_all()
    client.hset(names[7], "x", 60)
    move.end()
    client.hset(names[8], "x", 70)
    wait_for(lambda: results()[7:9] == [b"121", b"141"], what="the newest value wins")
    for member in cluster.masters():
        with member.wire() as wire:
            wire.ask_ok("AI.UNBIND", "b")


def test_asking_while_a_slot_moves(cluster: Cluster, client: RedisCluster) -> None:
    tag = tag_of(cluster, 0)
    ask_all(client.execute_command, tag)
    move = Move(cluster, tag)
    ask = f"ASK {move.slot} 127.0.0.1:{move.target.port}"
    move.begin()
    with move.source.wire() as source, move.target.wire() as target:
        # nothing has moved: the source goes on with what it has, and a new key is the target's
        assert source.ask(*line("AI.TENSORGET @x VALUES", tag)) == [b"1", b"2"]
        assert source.ask(*line("AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 @y", tag)) == b"OK"
        assert source.ask(*line("AI.TENSORSET @new FLOAT 1", tag)) == ask
        assert target.ask(*line("AI.TENSORSET @new FLOAT 1", tag)).startswith("MOVED ")
        assert target.ask("ASKING") == b"OK"
        assert target.ask(*line("AI.TENSORSET @new FLOAT 1 VALUES 7", tag)) == b"OK"

        # the model has moved: what it needs is at two places
        move.migrate(f"{tag}m")
        run = line("AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 @y", tag)
        assert source.ask(*line("AI.MODELGET @m", tag)) == ask
        assert source.ask(*run).startswith("TRYAGAIN ")
        assert source.ask(
            *line("AI.DAGEXECUTE LOAD 1 @x |> AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 a", tag)
        ).startswith("TRYAGAIN ")
        assert target.ask("ASKING") == b"OK"
        assert target.ask(*run).startswith("TRYAGAIN ")
        assert target.ask("ASKING") == b"OK"
        assert target.ask(*line("AI.MODELGET @m BLOB", tag)) == models.onnx_add()
        assert target.ask(*run).startswith("MOVED ")
        # a client that follows reads each where it is
        assert client.execute_command(*line("AI.TENSORGET @new VALUES", tag)) == [7]
        assert client.execute_command(*line("AI.TENSORGET @x VALUES", tag)) == [1, 2]
        assert client.execute_command(*line("AI.MODELGET @m BLOB", tag)) == models.onnx_add()

        # all but the last step: the target runs for those who were told to ask it
        move.migrate_all()
        assert move.left_behind() == 0
        assert source.ask(*run) == ask
        for text, wanted in (
            ("AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 @y", b"OK"),
            ("AI.SCRIPTEXECUTE @s twice INPUTS 1 @x OUTPUTS 1 @y", b"OK"),
            ("AI.DAGEXECUTE LOAD 1 @x PERSIST 1 @y |> AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 @y", [b"OK"]),
        ):
            assert target.ask("ASKING") == b"OK"
            assert target.ask(*line(text, tag)) == wanted
        assert client.execute_command(*run) == b"OK"
    move.end()
    ask_all(client.execute_command, tag)
    catch_up(move.target, tag)
    with cluster.replica_of(move.target).wire() as wire:
        assert wire.ask("READONLY") == b"OK"
        assert wire.ask(*line("AI.TENSORGET @y VALUES", tag)) == [b"2", b"4"]
    assert move.left_behind() == 0


@pytest.fixture
def busy(cluster: Cluster, client: RedisCluster, pace: Callable[[], float]) -> Callable[[str, float], list[str]]:
    """Stores a model that takes so many seconds; returns the words that run it."""

    def prepare(tag: str, seconds: float) -> list[str]:
        assert client.execute_command(*line("AI.MODELSTORE @busy ONNX CPU BLOB", tag), models.onnx_loop()) == b"OK"
        rounds = max(1, round(seconds / pace()))
        assert client.execute_command(*line(f"AI.TENSORSET @n INT64 VALUES {rounds}", tag)) == b"OK"
        return line("AI.MODELEXECUTE @busy INPUTS 1 @n OUTPUTS 1 @result", tag)

    return prepare


def test_a_run_that_ends_when_its_slot_has_moved(cluster: Cluster, busy: Callable[[str, float], list[str]]) -> None:
    """Its result belongs to the new owner: an OK for what nobody can read would be a lie, and what is left behind would
    be in the way when the slot comes back."""
    tag = tag_of(cluster, 0)
    words = busy(tag, 1.0)
    move = Move(cluster, tag)
    with move.source.wire() as wire:
        wire.send(*words)
        wait_for(move.source.blocked_clients, what="it runs")
        move.begin()
        move.migrate_all()
        move.end()
        assert move.source.blocked_clients() == 1, "it still runs"
        reply = wire.read()
    with move.target.wire() as wire:
        exists = wire.ask("EXISTS", f"{tag}result")
    assert move.left_behind() == 0
    assert (reply == b"OK") == (exists == 1)
    if isinstance(reply, Error):
        assert reply.startswith(("TRYAGAIN ", "MOVED ", "ASK ")), "clients know what to do"


def test_a_store_that_ends_when_its_slot_has_moved(cluster: Cluster) -> None:
    """As with runs."""
    tag = tag_of(cluster, 0)
    for size in (5 << 20, 25 << 20, 100 << 20):
        move = Move(cluster, tag)
        with move.source.wire() as wire:
            wire.send(*line("AI.MODELSTORE @large ONNX CPU BLOB", tag), models.onnx_padded(size))
            wait_for(move.source.blocked_clients, SETTLE_SECONDS, "it compiles")
            move.begin()
            move.migrate_all()
            move.end()
            compiling = move.source.blocked_clients() == 1
            reply = wire.read()
        if compiling:
            break
    assert compiling
    assert move.left_behind() == 0
    with move.target.wire() as wire:
        assert (reply == b"OK") == (wire.ask("EXISTS", f"{tag}large") == 1)


def test_resharding_under_load(cluster: Cluster, client: RedisCluster) -> None:
    """redis-cli moves slots with all that is in them, while clients go on: nothing is lost, models run."""
    source = cluster.owner(tag_of(cluster, 0))
    target = next(master for master in cluster.masters() if master is not source)
    with source.wire() as wire:
        first = next(s[0] for s in wire.ask("CLUSTER", "SLOTS") if s[2][1] == source.port)
    count = 20
    tags = [tag_in(slot) for slot in range(first, first + count)]
    for tag in tags[::4]:
        ask_all(client.execute_command, tag)

    def write(number: int) -> None:
        tag = tags[number % count]
        client.execute_command(*line(f"AI.TENSORSET @written:{number} INT64 1 VALUES {number}", tag))

    def run(number: int) -> None:
        tag = tags[number % count // 4 * 4]
        if number % 2:
            client.execute_command(*line("AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 @y", tag))
        else:
            words = line(
                "AI.DAGEXECUTE LOAD 1 @x |> AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 a |> AI.TENSORGET a VALUES", tag
            )
            assert client.execute_command(*words) == [b"OK", [2, 4]]

    with Caller(write) as writes, Caller(run) as runs:
        writes.wait_for_more()
        runs.wait_for_more()
        where = ["--cluster-from", cluster.id(source), "--cluster-to", cluster.id(target), "--cluster-slots", count]
        redis_cli("--cluster", "reshard", f"127.0.0.1:{source.port}", *where, "--cluster-yes")
        writes.wait_for_more()
        runs.wait_for_more()
    writes.check()
    runs.check()
    assert all(cluster.owner(tag) is target for tag in tags)
    for number in writes.done:
        tag = tags[number % count]
        assert client.execute_command(*line(f"AI.TENSORGET @written:{number} VALUES", tag)) == [number]
    for tag in tags[::4]:
        ask_all(client.execute_command, tag)
    with source.wire() as wire:
        for slot in range(first, first + count):
            assert wire.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
    redis_cli("--cluster", "check", f"127.0.0.1:{source.port}")


def tag_in(slot: int) -> str:
    """A hash tag of this slot."""
    return next(tag for tag in (f"{{{i}}}" for i in range(1000 * SLOTS)) if key_slot(tag[1:-1].encode()) == slot)


# ---- masters fail ----------------------------------------------------------------------------------------------------


class Shard:
    """Writes to one slot, each confirmed by a replica, wherever its master is."""

    def __init__(self, cluster: Cluster, client: RedisCluster, tag: str) -> None:
        self.cluster = cluster
        self.client = client
        self.tag = tag
        self.connection: Wire | None = None
        self.has_replica = True

    def write(self, number: int) -> None:
        """WAIT is about what its own connection wrote."""
        try:
            if self.connection is None:
                self.connection = Wire(self.client.get_node_from_key(self.tag).port, timeout=10.0)
            for text in (
                f"AI.TENSORSET @in:{number} FLOAT 1 2 VALUES {number} 1",
                f"AI.MODELEXECUTE @m INPUTS 2 @in:{number} @x OUTPUTS 1 @out:{number}",
            ):
                reply = self.connection.ask(*line(text, self.tag))
                if reply != b"OK":
                    raise ConnectionError(reply)
            if self.has_replica and (reply := self.connection.ask("WAIT", 1, 2000)) != 1:
                raise ConnectionError(f"not confirmed: {reply}")
        except OSError:
            if self.connection:
                self.connection.close()
            self.connection = None
            self.client.nodes_manager.initialize()
            raise


def check_written(ask: Callable[..., Any], tag: str, numbers: list[int]) -> None:
    for number in numbers:
        for key, wanted in ((f"@in:{number}", [number, 1]), (f"@out:{number}", [number + 1, 3])):
            assert plain(ask(*line(f"AI.TENSORGET {key} VALUES", tag))) == wanted


def run_everywhere(client: RedisCluster, tags: list[str]) -> Callable[[int], None]:
    def run(number: int) -> None:
        tag = tags[number % len(tags)]
        # redis-py asks one node, always the same, where the keys of a DAG or run are. It looks for another one when
        # that node fails at something else, such as this.
        assert client.execute_command(*line("AI.TENSORSET @x FLOAT 1 2 VALUES 1 2", tag)) == b"OK"
        words = line("AI.DAGEXECUTE LOAD 1 @x PERSIST 1 @y |> AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 @y", tag)
        assert client.execute_command(*words) == [b"OK"]

    return run


def fail_over(cluster: Cluster, tag: str, fail: Callable[[Member, Member], None], leaves_a_replica: bool) -> list[int]:
    """The master of a slot fails, in a way, while clients write and run: they go on, and miss nothing. Returns what was
    written."""
    tags = [tag_of(cluster, number) for number in range(3)]
    with connect(cluster) as client, connect(cluster) as other:
        for each in tags:
            store_model(client, each)
        ask_all(client.execute_command, tag)
        old = cluster.owner(tag)
        new = cluster.replica_of(old)
        wait_for(lambda: is_compiled(new, tag), SETTLE_SECONDS, "the replica has compiled the models")
        shard = Shard(cluster, other, tag)
        with Caller(shard.write) as writes, Caller(run_everywhere(client, tags)) as runs:
            writes.wait_for_more()
            runs.wait_for_more()
            fail(old, new)
            wait_for(new.is_master, SETTLE_SECONDS, "the replica is master")
            shard.has_replica = leaves_a_replica  # who could confirm a write
            writes.wait_for_more()
            runs.wait_for_more()
        writes.check()
        runs.check()
        check_written(client.execute_command, tag, writes.done)
        ask_all(client.execute_command, tag)
        return writes.done


def is_compiled(member: Member, tag: str) -> bool:
    """A model tells how many inputs it has once it is."""
    with member.wire() as wire:
        assert wire.ask("READONLY") == b"OK"
        reply = wire.ask("AI.MODELGET", f"{tag}both", "META")
        return isinstance(reply, list) and len(reply[11]) == 2


def test_a_failover_that_is_asked_for(cluster: Cluster) -> None:
    """The master lets the replica catch up first: writes are paused meanwhile, and runs that end wait."""

    def fail(old: Member, new: Member) -> None:
        with new.wire() as wire:
            assert wire.ask("CLUSTER", "FAILOVER") == b"OK"
        wait_for(lambda: old.follows(new.port), SETTLE_SECONDS, "the old master follows the new one")

    # Each pair once: a server that is elected a second time soon after the first takes its old votes for new ones.
    for tag in [tag_of(cluster, number) for number in range(3)]:
        cluster.wait_until_well()
        fail_over(cluster, tag, fail, leaves_a_replica=True)


def test_a_killed_master(cluster: Cluster) -> None:
    dead: list[Member] = []

    def fail(old: Member, new: Member) -> None:
        cluster.members.remove(old)
        dead.append(old)
        cluster.set_patience(QUICK)
        old.kill()

    tag = tag_of(cluster, 0)
    try:
        written = fail_over(cluster, tag, fail, leaves_a_replica=False)
    finally:
        cluster.set_patience(PATIENT)
        for member in dead:
            cluster.members.append(member.start())
    cluster.wait_until_well()
    with dead[0].wire() as wire:
        assert wire.ask("READONLY") == b"OK"
        check_written(wire.ask, tag, written)
