"""maxmemory: every policy evicts our types like others; where none does, what adds data is refused and reads go on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit import dags, models, samples, scripts
from testkit.info import number
from testkit.replicas import caught_up, follow
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import Slow, StartServer

MB = 1 << 20
POLICIES = [
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
]
REFUSED = [
    "AI.TENSORSET t FLOAT 1",
    "AI.MODELSTORE m ONNX CPU BLOB b",
    "AI.MODELSET m ONNX CPU BLOB b",
    "AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 z",
    "AI.MODELRUN add INPUTS x y OUTPUTS z",
    "AI.SCRIPTSTORE n CPU ENTRY_POINTS 1 f SOURCE s",
    "AI.SCRIPTSET n CPU SOURCE s",
    "AI.SCRIPTEXECUTE s add INPUTS 2 x y OUTPUTS 1 z",
    "AI.SCRIPTRUN old add INPUTS x y OUTPUTS z",
    "AI.DAGEXECUTE LOAD 1 x |> AI.TENSORGET x",
    "AI.DAGRUN LOAD 1 x |> AI.TENSORGET x",
]
# A command, and the first element of its reply, or the reply.
ANSWERED = {
    "AI.TENSORGET x": b"dtype",
    "AI.MODELGET add": b"backend",
    "AI.SCRIPTGET s": b"device",
    "AI.INFO add": b"key",
    "AI.CONFIG GET MODEL_CHUNK_SIZE": 535822336,
    "AI._MODELSCAN": [b"add", b""],
    "AI._SCRIPTSCAN": [b"old", b""],
    "AI.DAGEXECUTE_RO LOAD 2 x y |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 z |> AI.TENSORGET z": b"OK",
    "AI.DAGRUN_RO LOAD 2 x y |> AI.MODELRUN add INPUTS x y OUTPUTS z |> AI.TENSORGET z": b"OK",
    "AI.MODELDEL mul": b"OK",
    "AI.SCRIPTDEL old": b"OK",
}


@pytest.fixture
def limited(wire: Wire) -> Iterator[Wire]:
    """A connection whose server gets its limit back."""
    yield wire
    for name, value in ("maxmemory", "0"), ("maxmemory-policy", "noeviction"):
        assert wire.ask("CONFIG", "SET", name, value) == b"OK"


def limit(server: Server, wire: Wire, more: int, policy: str = "noeviction") -> None:
    """So much more than is used now."""
    assert wire.ask("CONFIG", "SET", "maxmemory-policy", policy) == b"OK"
    assert wire.ask("CONFIG", "SET", "maxmemory", server.used_memory() + more) == b"OK"


# ---- eviction --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_evicts_all_three_types(server: Server, limited: Wire, policy: str) -> None:
    """Tensors of 40 MB come while there is room for 10: older ones go, of whatever type, and what is left is whole."""
    script = samples.SCRIPTS["script"]
    blob = models.onnx_padded(100_000)
    limit(server, limited, 10 * MB, policy)
    evicted = number(limited, "evicted_keys")
    for i in range(80):
        tensor, model = f"t{i}", f"m{i}"
        samples.store_tensor(limited, tensor, samples.TENSORS["large"])
        assert limited.ask("AI.TENSORSET", f"{tensor}:2", "UINT8", 400_000, "BLOB", bytes([i]) * 400_000) == b"OK"
        samples.restore(limited, f"s{i}", script)
        if i % 8 == 0:
            assert limited.ask("AI.MODELSTORE", model, "ONNX", "CPU", "BLOB", blob) == b"OK"
        for key in (tensor, f"{tensor}:2", f"s{i}", model):
            limited.ask("EXPIRE", key, 1000 + i)
    assert number(limited, "evicted_keys") > evicted + 50
    assert server.used_memory() < number(limited, "maxmemory") + MB
    left = {key.decode() for key in limited.ask("KEYS", "*")}
    gone = {"t": 80, "s": 80, "m": 10}
    for kind in gone:
        gone[kind] -= sum(key[0] == kind and ":" not in key for key in left)
    assert all(gone.values()), gone
    for key in left:
        if key.endswith(":2"):
            assert limited.ask("AI.TENSORGET", key, "BLOB") == bytes([int(key[1:-2])]) * 400_000
        elif key.startswith("t"):
            assert limited.ask("AI.TENSORGET", key) == samples.tensor_reply(samples.TENSORS["large"])
        elif key.startswith("m"):
            assert limited.ask("AI.MODELGET", key, "BLOB") == blob
    assert limited.ask("CONFIG", "SET", "maxmemory", 0) == b"OK"
    assert limited.ask("FLUSHALL") == b"OK"


# ---- noeviction ------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(server: Server, limited: Wire) -> Wire:
    """What the commands above name is there, and the limit reached."""
    dags.store(limited)
    assert limited.ask("CONFIG", "SET", "maxmemory", 1) == b"OK"
    return limited


@pytest.mark.parametrize("line", REFUSED)
def test_what_adds_data_is_refused(stored: Wire, line: str) -> None:
    reply = stored.ask(*line.split())
    assert isinstance(reply, Error) and reply.startswith("OOM ")


@pytest.mark.parametrize("line", ANSWERED)
def test_what_does_not_is_answered(stored: Wire, line: str) -> None:
    reply = stored.ask(*line.split())
    first = sorted(reply)[0] if "SCAN" in line else reply[0] if isinstance(reply, list) else reply
    assert first == ANSWERED[line]
    assert not isinstance(reply, list) or not any(isinstance(each, Error) for each in reply), reply


def test_in_transactions_and_lua(server: Server, limited: Wire) -> None:
    dags.store(limited)
    with server.wire() as other:
        assert other.ask("MULTI") == b"OK"
        assert other.ask("AI.TENSORSET", "t", "FLOAT", 1) == b"QUEUED"
        assert limited.ask("CONFIG", "SET", "maxmemory", 1) == b"OK"
        reply = other.ask("EXEC")
        assert isinstance(reply, Error) and "OOM" in reply
    reply = limited.ask("EVAL", "return redis.call('AI.TENSORSET', KEYS[1], 'FLOAT', 1)", 1, "t")
    assert isinstance(reply, Error) and "OOM" in reply
    assert limited.ask("EVAL_RO", "return redis.call('AI.TENSORGET', KEYS[1], 'VALUES')", 1, "x") == [b"1", b"2"]
    assert limited.ask("EXISTS", "t") == 0


def test_runs_that_were_accepted_before(server: Server, limited: Wire, slow: Slow) -> None:
    """They were let in while there was room, and what they make is stored, as with any command that was let in."""
    words = slow(limited, 0.3)
    with server.wire() as runner:
        runner.send(*words)
        wait_for(lambda: server.blocked_clients() == 1)
        assert limited.ask("CONFIG", "SET", "maxmemory", 1) == b"OK"
        assert runner.read() == b"OK"
    assert limited.ask("EXISTS", "slow:out") == 1
    assert limited.ask(*words).startswith("OOM ")


def test_scripts_may_not_add_data(server: Server, limited: Wire) -> None:
    scripts.store_redis(limited, "gone_on")
    with server.wire() as runner:
        runner.send(*scripts.execute("s", "gone_on", ["a", "go", "b"]))
        wait_for(lambda: limited.ask("EXISTS", "a"))
        assert limited.ask("SET", "go", "x") == b"OK"
        assert runner.read() == b"OK"
        runner.send(*scripts.execute("s", "gone_on", ["a", "later", "c"]))
        wait_for(lambda: server.blocked_clients() == 1)
        assert limited.ask("SET", "later", "x") == b"OK"
        assert limited.ask("CONFIG", "SET", "maxmemory", 1) == b"OK"
        reply = runner.read()
        assert reply == b"OK" or (isinstance(reply, Error) and "OOM" in reply)


def test_a_replica_does_as_its_master(start_server: StartServer) -> None:
    """It evicts nothing by itself, and takes what comes although its own limit is reached."""
    # Valkey's backlog of 10 MB would leave no room for keys.
    master = start_server("--repl-diskless-sync-delay", "0", "--repl-backlog-size", "1mb")
    replica = start_server("--maxmemory", "1mb")
    follow(replica, master)
    with master.wire() as wire, replica.wire() as reader:
        limit(master, wire, 3 * MB, "allkeys-lru")
        for i in range(60):
            samples.store_tensor(wire, f"t{i}", samples.TENSORS["large"])
        assert number(wire, "evicted_keys") > 20
        assert wire.ask("CONFIG", "SET", "maxmemory", 0) == b"OK"
        caught_up(wire)
        assert sorted(reader.ask("KEYS", "*")) == sorted(wire.ask("KEYS", "*"))
        assert reader.ask("DEBUG", "DIGEST") == wire.ask("DEBUG", "DIGEST")
        assert number(reader, "evicted_keys") == 0
