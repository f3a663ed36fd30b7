"""Cluster clients that read the tips of commands send those without keys to all the nodes they concern."""

# redis-py's own methods have no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis.cluster import RedisCluster
from redis.commands.policies import DynamicPolicyResolver
from redis.exceptions import RedisClusterException

from testkit import models
from testkit.clusters import Cluster
from testkit.scripts import function
from tests.conftest import SERVERS

SCRIPT = function("f", "return tensors[0]")


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")).started() as cluster:
        request.node.stash.setdefault(SERVERS, []).extend(cluster.members)
        yield cluster


def test_redis_py(cluster: Cluster) -> None:
    """It is told to read tips. (It does not know all_succeeded, the tip for replies to AI.CONFIG and CONFIG SET.)"""
    where: dict[str, Any] = {"host": "127.0.0.1", "port": cluster.members[0].port, "socket_timeout": 60.0}
    with RedisCluster(**where) as plain:
        resolver = DynamicPolicyResolver(plain.commands_parser)
        with RedisCluster(policy_resolver=resolver, **where) as client:
            ask = client.execute_command
            tags = [next(tag for i in range(100) if cluster.owner(tag := f"{{{i}}}") is m) for m in cluster.masters()]
            for tag in tags:
                assert ask("AI.MODELSTORE", f"{tag}m", "ONNX", "CPU", "TAG", tag, "BLOB", models.onnx_add()) == b"OK"
                assert ask("AI.SCRIPTSTORE", f"{tag}s", "CPU", "ENTRY_POINTS", 1, "f", "SOURCE", SCRIPT) == b"OK"
            for command, name in (("AI._MODELSCAN", "m"), ("AI._SCRIPTSCAN", "s")):
                found = ask(command)
                assert len(found) == 3, "each master is asked, and no replica"
                keys = sorted(key.decode() for replies in found.values() for key, _ in replies)
                assert keys == sorted(f"{tag}{name}" for tag in tags)
                with pytest.raises(RedisClusterException, match="No way to dispatch"):
                    plain.execute_command(command)
            assert ask("AI.INFO", f"{tags[0]}m")[1] == f"{tags[0]}m".encode()
