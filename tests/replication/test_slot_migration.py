"""Slots that a server migrates by itself (CLUSTER MIGRATESLOTS): all values arrive, and clients notice redirections."""

# redis-py's own methods have no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from redis.cluster import RedisCluster
from redis.crc import key_slot

from testkit import models
from testkit.clusters import SETTLE_SECONDS, Caller, Cluster, Member
from testkit.scripts import function
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import SERVERS

SLOTS = 12  # to move, with values in each
SCRIPT = function("double", "return tensors[0] * 2") + function("keep", 'redis.execute("SET", keys[0], args[0])')
# Not a redirection: the script may have done a part of its work, so its client must not just repeat it.
IN_A_SCRIPT = ("ResponseError: Redis command returned an error: Attempted to access a non local key in a cluster node",)
ENDS = (b"success", b"failed", b"cancelled")
LARGE = 3 << 20  # bytes of a tensor that does not fit into one buffer
# What a client that knows of the move no sooner than the server tells it may see. redis-py follows it by itself.
REDIRECTIONS = ("MovedError", "AskError", "TryAgainError", "ClusterDownError")


@pytest.fixture(scope="module")
def processes(shared: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with shared.wire() as wire:
        if wire.ask("COMMAND", "DOCS", "CLUSTER|MIGRATESLOTS") == []:
            pytest.skip("this server has no CLUSTER MIGRATESLOTS: Valkey 9 is the first that has")
    arguments = ("--cluster-databases", "16", "--ai.model-execution-timeout", "60000")
    with Cluster(tmp_path_factory.mktemp("cluster"), *arguments).started() as cluster:
        yield cluster


@pytest.fixture
def cluster(processes: Cluster, request: pytest.FixtureRequest) -> Cluster:
    request.node.stash.setdefault(SERVERS, []).extend(processes.members)
    return processes


class Slots:
    """Some slots of one master, which move to another, and a hash tag for each."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        masters = sorted(cluster.masters(), key=lambda master: master.port)
        self.source, self.target = masters[number], masters[(number + 1) % 3]
        self.cluster = cluster
        with self.source.wire() as wire:
            mine = [slots for slots in wire.ask("CLUSTER", "SLOTS") if slots[2][1] == self.source.port]
        self.first = next(slots[0] for slots in mine if slots[1] - slots[0] >= SLOTS)
        self.last = self.first + SLOTS - 1
        wanted = range(self.first, self.last + 1)
        found: dict[int, str] = {}
        number = 0
        while len(found) < SLOTS:
            if (slot := key_slot(str(number).encode())) in wanted:
                found.setdefault(slot, f"{{{number}}}")
            number += 1
        self.tags = [found[slot] for slot in wanted]

    def migrate(self) -> None:
        with self.source.wire() as wire:
            words = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", self.first, self.last, "NODE"]
            assert wire.ask(*words, self.cluster.id(self.target)) == b"OK"
            wait_for(lambda: self.state(wire)[b"state"] in ENDS, SETTLE_SECONDS, "the slots have moved")
            assert self.state(wire)[b"state"] == b"success", self.state(wire)
        wait_for(lambda: self.left_behind() == 0, SETTLE_SECONDS, "the source has deleted what it gave away")
        self.cluster.wait_until_well()

    def state(self, wire: Wire) -> dict[bytes, Any]:
        job = wire.ask("CLUSTER", "GETSLOTMIGRATIONS")[0]
        return dict(zip(job[::2], job[1::2], strict=True))

    def left_behind(self) -> int:
        with self.source.wire() as wire:
            return sum(wire.ask("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in range(self.first, self.last + 1))


def connect(cluster: Cluster) -> RedisCluster:
    return RedisCluster(host="127.0.0.1", port=cluster.members[0].port, socket_timeout=60.0)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[RedisCluster]:
    with connect(cluster) as client:
        yield client


def line(text: str, tag: str) -> list[str]:
    return text.replace("@", tag).split()


def large(tag: str) -> bytes:
    return (tag * LARGE).encode()[:LARGE]


def store(command: Callable[..., Any], tag: str) -> None:
    """Values of each kind."""

    def ask(text: str, *more: str | bytes) -> None:
        assert command(*line(text, tag), *more) == b"OK"

    ask("AI.TENSORSET @x FLOAT 1 2 VALUES 1 2")
    ask("AI.TENSORSET @words STRING 2 VALUES some words")
    ask("AI.MODELSTORE @m ONNX CPU TAG @ BLOB", models.onnx_add())
    ask("AI.SCRIPTSTORE @s CPU ENTRY_POINTS 2 double keep SOURCE", SCRIPT)


def check(command: Callable[..., Any], tag: str) -> None:
    """They are there, and run."""

    def ask(text: str) -> Any:
        return command(*line(text, tag))

    assert [float(value) for value in ask("AI.TENSORGET @x VALUES")] == [1, 2]
    assert ask("AI.TENSORGET @words VALUES") == [b"some", b"words"]
    assert ask("AI.MODELGET @m BLOB") == models.onnx_add()
    assert ask("AI.MODELGET @m META")[5] == tag.encode()
    assert ask("AI.SCRIPTGET @s SOURCE") == SCRIPT.encode()
    assert ask("AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 @y") == b"OK"
    assert ask("AI.SCRIPTEXECUTE @s double INPUTS 1 @y OUTPUTS 1 @z") == b"OK"
    assert [float(value) for value in ask("AI.TENSORGET @z VALUES")] == [4, 8]
    assert ask("AI.SCRIPTEXECUTE @s keep KEYS 1 @kept ARGS 1 word") == b"OK"
    assert ask("GET @kept") == b"word"


def test_values_of_every_kind(cluster: Cluster, client: RedisCluster) -> None:
    """They keep their digests, and their replicas get them too."""
    slots = Slots(cluster, 0)
    for tag in slots.tags:
        store(client.execute_command, tag)
        assert client.execute_command("AI.TENSORSET", f"{tag}large", "UINT8", LARGE, "BLOB", large(tag)) == b"OK"
    keys = [f"{tag}{name}" for tag in slots.tags for name in ("x", "words", "m", "s", "large")]
    digests = digests_of(slots.source, keys)
    slots.migrate()
    assert digests_of(slots.target, keys) == digests
    with slots.target.wire() as wire:
        assert wire.ask("SET", f"{slots.tags[0]}last", "x") == b"OK"
        assert wire.ask("WAIT", 1, 30000) == 1
    assert digests_of(cluster.replica_of(slots.target), keys) == digests
    for tag in slots.tags:
        check(client.execute_command, tag)
        assert client.execute_command("AI.TENSORGET", f"{tag}large", "BLOB") == large(tag)


def test_values_of_another_database(cluster: Cluster) -> None:
    slots = Slots(cluster, 0)
    with slots.source.wire() as source, slots.target.wire() as target:
        assert source.ask("SELECT", 5) == b"OK"
        for tag in slots.tags:
            store(source.ask, tag)
        slots.migrate()
        assert [target.ask("EXISTS", f"{tag}x") for tag in slots.tags] == [0] * SLOTS, "in database 0"
        assert target.ask("SELECT", 5) == b"OK"
        for tag in slots.tags:
            check(target.ask, tag)


def digests_of(member: Member, keys: list[str]) -> list[bytes]:
    with member.wire() as wire:
        assert wire.ask("READONLY") == b"OK"
        found: list[bytes] = wire.ask("DEBUG", "DIGEST-VALUE", *keys)
    assert b"0" * 40 not in found
    return found


def test_while_clients_write_and_run(cluster: Cluster, client: RedisCluster) -> None:
    """What was acknowledged is on the target, and clients see no errors but those that tell them where to go."""
    slots = Slots(cluster, 1)
    for tag in slots.tags:
        store(client.execute_command, tag)
    texts = {
        "set": "AI.TENSORSET @set:# FLOAT 1 2 VALUES 2 4",
        "model": "AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 @model:#",
        "script": "AI.SCRIPTEXECUTE @s double INPUTS 1 @x OUTPUTS 1 @script:#",
        "dag": "AI.DAGEXECUTE LOAD 1 @x PERSIST 1 @dag:# |> AI.MODELEXECUTE @m INPUTS 2 @x @x OUTPUTS 1 @dag:#",
        "keep": "AI.SCRIPTEXECUTE @s keep KEYS 1 @keep:# ARGS 1 word",
        "store": "AI.SCRIPTSTORE @store:# CPU ENTRY_POINTS 1 double SOURCE",
    }

    with ExitStack() as stack:
        callers = {}
        for name, text in texts.items():
            own = stack.enter_context(connect(cluster))
            callers[name] = stack.enter_context(Caller(partial(call, own, slots.tags, text)))
        for caller in callers.values():
            caller.wait_for_more()
        slots.migrate()
        for caller in callers.values():
            caller.wait_for_more()
    for name, caller in callers.items():
        caller.check()
        told = (*REDIRECTIONS, *(IN_A_SCRIPT if name == "keep" else ()))
        assert [error for error in caller.errors if not error.startswith(told)] == [], name
        for number in caller.done:
            tag = slots.tags[number % SLOTS]
            check_acknowledged(client, name, f"{tag}{name}:{number}")
    for tag in slots.tags:
        check(client.execute_command, tag)


def call(client: RedisCluster, tags: list[str], text: str, number: int) -> None:
    words: list[str] = line(text.replace("#", str(number)), tags[number % SLOTS])
    reply = client.execute_command(*words, *([SCRIPT] if words[-1] == "SOURCE" else []))
    for part in reply if isinstance(reply, list) else [reply]:
        if isinstance(part, Exception):
            raise part
        assert part == b"OK"


def check_acknowledged(client: RedisCluster, name: str, key: str) -> None:
    if name == "keep":
        assert client.execute_command("GET", key) == b"word", key
    elif name == "store":
        assert client.execute_command("AI.SCRIPTGET", key, "SOURCE") == SCRIPT.encode(), key
    else:
        assert client.execute_command("AI.TENSORGET", key, "VALUES") == [2, 4], key


def test_a_run_that_ends_after_its_slot_has_moved(cluster: Cluster, client: RedisCluster) -> None:
    """It is refused like any other write, so that the client asks the target, and nothing is saved at the source."""
    slots = Slots(cluster, 2)
    tag = slots.tags[0]
    assert client.execute_command(*line("AI.MODELSTORE @loop ONNX CPU BLOB", tag), models.onnx_loop()) == b"OK"
    with slots.source.wire() as wire:
        rounds, seconds = 1000, 0.0
        while seconds < 0.5:
            rounds *= 2
            assert wire.ask("AI.TENSORSET", f"{tag}n", "INT64", "VALUES", rounds) == b"OK"
            _, seconds = wire.timed(*line("AI.MODELEXECUTE @loop INPUTS 1 @n OUTPUTS 1 @short", tag))
        assert wire.ask("AI.TENSORSET", f"{tag}n", "INT64", "VALUES", rounds * 8) == b"OK"
        wire.send(*line("AI.MODELEXECUTE @loop INPUTS 1 @n OUTPUTS 1 @late", tag))
        wait_for(lambda: slots.source.blocked_clients() == 1)
        slots.migrate()
        reply = wire.read()
        assert isinstance(reply, Error) and reply.startswith(("TRYAGAIN ", "MOVED ")), reply
        assert slots.left_behind() == 0
    assert client.execute_command("EXISTS", f"{tag}late") == 0
