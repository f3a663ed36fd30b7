"""Flows in a cluster: each master has the program and sees the keys of its node; a replica takes over with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis.cluster import RedisCluster

from testkit import models
from testkit.clusters import SETTLE_SECONDS, Cluster, Member
from testkit.waiting import wait_for
from tests.conftest import SERVERS
from tests.flows.kit import FLOWS
from tests.flows.programs import Programs

KEYS = [f"user:{number}" for number in range(60)]  # of all nodes
PROGRAM = """
import redisAI

def count(record):
    # The tag keeps the counter beside the key.
    execute('INCR', 'seen:{%s}' % record['key'])

def run(words):
    key = '%s{%s}' % (words[1], hashtag())
    runner = redisAI.createModelRunner(key)
    ones = redisAI.createTensorFromValues('FLOAT', [1, 2], [1, float(words[2])])
    redisAI.modelRunnerAddInput(runner, 'a', ones)
    redisAI.modelRunnerAddInput(runner, 'b', ones)
    redisAI.modelRunnerAddOutput(runner, 'c')
    return redisAI.tensorToFlatList(redisAI.modelRunnerRun(runner)[0])

GB('KeysReader').foreach(count).register(prefix='user:*', readValue=False)
GB('StreamReader').foreach(lambda record: execute('INCR', 'read:{%s}' % record['key'])).register(prefix='visits:*')
GB('CommandReader').map(run).register(trigger='run')
GB('CommandReader').map(lambda words: hashtag()).register(trigger='tag')
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), options=FLOWS).started() as cluster:
        yield cluster


@pytest.fixture
def cluster(processes: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    request.node.stash.setdefault(SERVERS, []).extend(processes.members)
    processes.make_whole_and_empty()
    for member in processes.masters():
        with Programs(member) as programs:
            programs.unregister_all()
            programs.register(PROGRAM)
    yield processes


@pytest.fixture
def client(cluster: Cluster) -> Iterator[RedisCluster]:
    with RedisCluster(host="127.0.0.1", port=cluster.members[0].port) as client:
        yield client


def check_seen(client: RedisCluster, count: int) -> None:
    counters = [f"seen:{{{key}}}" for key in KEYS] + [f"read:{{visits:{number}}}" for number in range(9)]
    wait_for(lambda: {client.get(key) for key in counters} == {b"%d" % count}, 20, f"each is counted {count} times")


def write(client: RedisCluster) -> None:
    for key in KEYS:
        client.set(key, 1)
    for number in range(9):
        client.xadd(f"visits:{number}", {"page": "x"})


def ask_model(member: Member, number: int) -> None:
    with Programs(member) as programs:
        tag = programs.trigger("tag")[0].decode()
        key = f"m{{{tag}}}"
        assert programs.ask("AI.MODELSTORE", key, "ONNX", "CPU", "BLOB", models.onnx_mul()) == b"OK"
        assert programs.trigger("run", "m", number) == [b"[1.0, %d.0]" % number**2]


def test_each_node_sees_its_keys(cluster: Cluster, client: RedisCluster) -> None:
    write(client)
    check_seen(client, 1)
    runs = 0
    for number, member in enumerate(cluster.masters()):
        ask_model(member, number)
        with Programs(member) as programs:
            counts = [each["data"] for each in programs.registrations()]
            assert not any(each["numFailures"] for each in counts), counts
            runs += sum(each["numSuccess"] for each in counts[:2])
    assert runs == len(KEYS) + 9, "each event is seen once, by one node"


def test_a_key_of_another_node_is_an_error_of_its_record(cluster: Cluster) -> None:
    first, second = cluster.masters()[:2]
    with Programs(first) as here, Programs(second) as there:
        tag = there.trigger("tag")[0].decode()
        here.register(f"GB('CommandReader').map(lambda x: execute('GET', 'x{{{tag}}}')).register(trigger='far')")
        assert "MOVED" in str(here.trigger("far"))


def test_a_replica_that_is_promoted_goes_on(cluster: Cluster, client: RedisCluster) -> None:
    write(client)
    check_seen(client, 1)
    old = cluster.masters()[0]
    new = cluster.replica_of(old)
    with new.wire() as wire:
        assert wire.ask("RG.TRIGGER", "tag") == "READONLY flows run on the master, and this is a replica"
        assert wire.ask("CLUSTER", "FAILOVER") == b"OK"
    wait_for(lambda: old.follows(new.port), SETTLE_SECONDS, "the old master follows the new one")
    cluster.wait_until_well()
    with Programs(new) as programs:
        wait_for(lambda: len(programs.registrations()) == 4, 20, "the program has run there")
    write(client)
    check_seen(client, 2)
    ask_model(new, 7)
