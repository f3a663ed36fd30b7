"""Bindings of hashes: each write to a hash of the prefix runs the model, whose results become fields of the hash."""

from __future__ import annotations

import time

import numpy as np
import pytest

from testkit import models
from testkit.server import Server, program
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.bindings.kit import LINE, bind, binding, floats, settle, store
from tests.conftest import Slow, StartServer

HASH = f"ON HASH PREFIX 1 k: FIELDS 1 x {LINE}"

HEAD = "def {}(tensors: List[Tensor], keys: List[str], args: List[str]):\n"


def result(wire: Wire, key: str, field: str = "y") -> bytes | None:
    settle(wire)
    value = wire.ask("HGET", key, field)
    assert value is None or isinstance(value, bytes)
    return value


def test_every_way_to_write(wire: Wire) -> None:
    bind(wire, HASH)
    for line, expected in (
        ("HSET k:1 x 3", b"7"),
        ("HINCRBY k:1 x 4", b"15"),
        ("HINCRBYFLOAT k:1 x 0.25", b"15.5"),
        ("EVAL return(redis.call('HSET','k:1','x','5')) 1 k:1", b"11"),
        ("RENAME k:2 k:1", b"5"),
        ("COPY k:3 k:1 REPLACE", b"21"),
    ):
        wire.ask("HSET", "k:2", "x", 2)
        wire.ask("HSET", "k:3", "x", 10)
        settle(wire)
        wire.ask(*line.split())
        assert result(wire, "k:1") == expected, line
    wire.ask("MULTI")
    wire.ask("HSET", "k:1", "x", 1)
    wire.ask("HSET", "k:1", "x", 6)
    wire.ask("EXEC")
    assert result(wire, "k:1") == b"13"
    dump = wire.ask("DUMP", "k:3")
    wire.ask_ok("RESTORE", "k:1", 0, dump, "REPLACE")
    assert result(wire, "k:1") == b"21"
    assert binding(wire)["errors"] == 0


def test_only_keys_that_match(wire: Wire) -> None:
    bind(wire, f"ON HASH PREFIX 2 a: ab:c FIELDS 1 x {LINE}", "prefixes")
    bind(wire, f"ON HASH KEYS 1 one FIELDS 1 x {LINE}", "keys")
    bound = ["a:", "a:1", "ab:c", "ab:cd", "one"]
    others = ["a", "ab:", "ab:b", "b", "one1", "on", "", "A:1"]
    for key in bound + others:
        wire.ask("HSET", key, "x", 1)
    settle(wire)
    assert [key for key in bound + others if wire.ask("HEXISTS", key, "y")] == bound
    assert binding(wire, "prefixes")["results"] == 4
    assert binding(wire, "keys")["results"] == 1
    wire.ask_ok("SELECT", 1)
    wire.ask("HSET", "a:1", "x", 1)
    wire.ask_ok("SET", "a:2", "no hash")
    assert result(wire, "a:1") is None


def test_many_prefixes_find_their_keys(wire: Wire) -> None:
    """Each prefix begins with the one before, or lies between others."""
    names = [name for i in range(1, 12) for name in ("p" * i, "p" * i + "o", "p" * i + "q")]
    for name in names:
        bind(wire, f"ON HASH PREFIX 1 {name} FIELDS 1 x MODEL m SET 1 y:{name}", name)
    for key in (*names, "ppp:1", "pppq:1", "po1", "q", "o", "pp"):
        wire.ask("HSET", key, "x", 1)
        settle(wire)
        fields = {field.decode() for field in wire.ask("HKEYS", key)} - {"x"}
        assert fields == {f"y:{name}" for name in names if key.startswith(name)}


def test_rows_types_and_forms(wire: Wire) -> None:
    """Several fields are one row; a vector's bytes one too. Numbers become text, vectors little-endian bytes."""
    bind(wire, "ON HASH PREFIX 1 row: FIELDS 3 a b c DEFAULT 0.5 MODEL m SET 1 v VERSION tag", "row")
    bind(wire, "ON HASH PREFIX 1 bytes: FIELDS 1 raw AS FLOAT 2 MODEL m SET 1 v AS ARGMAX", "bytes")
    wire.ask("HSET", "row:1", "a", 1, "b", 2, "c", "3")
    wire.ask("HSET", "row:2", "b", "-1e1")
    wire.ask("HSET", "bytes:1", "raw", np.array([3, 4], "<f4").tobytes())
    assert floats(result(wire, "row:1", "v") or b"") == [3, 5, 7]
    assert floats(wire.ask("HGET", "row:2", "v")) == [2, -19, 2]
    assert wire.ask("HGET", "row:1", "tag") == b"one"
    assert wire.ask("HGET", "bytes:1", "v") == b"1"


def test_texts_and_several_inputs(wire: Wire) -> None:
    wire.ask_ok("AI.MODELSTORE", "echo", "ONNX", "CPU", "BLOB", models.onnx_identity("STRING"))
    wire.ask_ok("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", models.onnx_add(("n", 2)))
    bind(wire, "ON HASH PREFIX 1 t: FIELDS 1 text AS STRING MODEL echo SET 1 same", "text")
    bind(wire, "ON HASH PREFIX 1 s: FIELDS 2 a b FIELDS 2 c d AS FLOAT 2 MODEL add SET 1 sum", "sum")
    texts = {"t:1": "héllo wörld".encode(), "t:2": b"", "t:3": b"x" * 5000}
    for key, text in texts.items():
        wire.ask("HSET", key, "text", text)
    wire.ask("HSET", "s:1", "a", 1, "b", 2, "c", 10, "d", 20)
    settle(wire)
    assert {key: wire.ask("HGET", key, "same") for key in texts} == texts
    assert floats(wire.ask("HGET", "s:1", "sum")) == [11, 22]


def test_a_script(wire: Wire) -> None:
    body = "    return tensors[0] + tensors[1], tensors[0].argmax(1, keepdim=True)\n"
    wire.ask_ok("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 1, "both", "SOURCE", HEAD.format("both") + body)
    bind(wire, "ON HASH PREFIX 1 k: FIELDS 2 a b FIELDS 2 c d SCRIPT s both SET 2 sum best")
    wire.ask("HSET", "k:1", "a", 1, "b", 2, "c", 3, "d", 4)
    assert floats(result(wire, "k:1", "sum") or b"") == [4, 6]
    assert wire.ask("HGET", "k:1", "best") == b"1"


def test_many_writers_share_batches(server: Server, wire: Wire) -> None:
    bind(wire, HASH)
    with server.client() as client, client.pipeline(transaction=False) as pipeline:
        for i in range(3000):
            pipeline.hset(f"k:{i}", "x", str(i))
        pipeline.execute()
    settle(wire)
    assert all(wire.ask("HGET", f"k:{i}", "y") == b"%d" % (2 * i + 1) for i in range(3000))
    told = binding(wire)
    assert told["results"] == 3000
    assert told["runs"] < 1000


def test_a_key_that_changes_all_the_time(server: Server, wire: Wire) -> None:
    """It runs as often as the worker can; in the end it has the result of its newest value."""
    bind(wire, HASH)
    with server.client() as client, client.pipeline(transaction=False) as pipeline:
        for i in range(5000):
            pipeline.hset("k:1", "x", str(i))
        pipeline.execute()
    assert result(wire, "k:1") == b"9999"
    assert binding(wire)["results"] < 2500


def test_the_lag_is_that_of_changes_without_a_result(server: Server, wire: Wire) -> None:
    """A key that changes all the time has results all the time, so its lag does not grow."""
    bind(wire, HASH)
    begin, lags = time.monotonic(), []
    while time.monotonic() < begin + 1:
        for i in range(50):
            wire.send("HSET", "k:1", "x", i)
        for _ in range(50):
            wire.read()
        lags.append(binding(wire)["lag_ms"])
    assert len(lags) > 10 and max(lags[len(lags) // 2 :]) < 400


def test_a_deleted_key_is_not_brought_back(wire: Wire) -> None:
    bind(wire, HASH)
    for end in ("DEL k:1", "UNLINK k:1", "PEXPIREAT k:1 1", "RENAME k:1 other", "SET k:1 text", "FLUSHALL"):
        wire.ask_ok("FLUSHALL")
        store(wire)
        wire.ask("MULTI")
        wire.ask("HSET", "k:1", "x", 1)
        wire.ask(*end.split())
        wire.ask("EXEC")
        settle(wire)
        assert wire.ask("TYPE", "k:1") in (b"none", b"string"), end
        wire.ask_ok("FLUSHALL")
        store(wire)
        wire.send("HSET", "k:1", "x", 1)
        wire.send(*end.split())
        wire.read(), wire.read()
        settle(wire)
        assert wire.ask("TYPE", "k:1") in (b"none", b"string"), end


@pytest.mark.parametrize("ways", [("DEL k:1", "HSET k:1 z 1"), ("RENAME other k:1",), ("FLUSHALL", "HSET k:1 z 1")])
def test_a_result_of_what_the_key_held_before_is_dropped(
    server: Server, wire: Wire, slow: Slow, ways: tuple[str, ...]
) -> None:
    """The key is deleted and made anew, or replaced, while the run waits for the worker."""
    bind(wire, HASH)
    wire.ask("HSET", "other", "z", 1)
    with server.wire() as busy:
        busy.send(*slow(wire, 0.3))
        wire.ask("HSET", "k:1", "x", 1)
        for line in ways:
            wire.ask(*line.split())
        assert binding(wire)["runs"] == 0
        busy.read()
    store(wire)
    settle(wire)
    assert wire.ask("HGETALL", "k:1") == [b"z", b"1"]
    assert binding(wire)["runs"] == 1


def test_errors_do_not_stop_a_binding(wire: Wire) -> None:
    bind(wire, "ON HASH PREFIX 1 k: FIELDS 1 x MODEL m SET 1 y ERROR why")
    wire.ask("HSET", "k:1", "x", "no number")
    wire.ask("HSET", "k:2", "z", 1)
    wire.ask("HSET", "k:3", "x", 3)
    assert result(wire, "k:3") == b"7"
    assert wire.ask("HGET", "k:1", "why") == b"ERR the field 'x' is no value of the type FLOAT"
    assert b"there is no field 'x'" in wire.ask("HGET", "k:2", "why")
    told = binding(wire)
    assert told["errors"] == 2
    assert (told["last_error_key"], told["last_error"][:29]) == ("k:2", "ERR there is no field 'x'; DE")
    wire.ask("HSET", "k:1", "x", 1)
    assert result(wire, "k:1") == b"3"
    assert wire.ask("HGET", "k:1", "why") is None


def test_one_bad_row_does_not_spoil_its_batch(server: Server, wire: Wire) -> None:
    """The rows of a batch that fails run one by one."""
    body = "    return torch.embedding(torch.arange(10.0).view(10, 1), tensors[0])\n"
    wire.ask_ok("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 1, "pick", "SOURCE", HEAD.format("pick") + body)
    bind(wire, "ON HASH PREFIX 1 k: FIELDS 1 x AS INT64 SCRIPT s pick SET 1 y")
    with server.client() as client, client.pipeline() as pipeline:
        for i in range(20):
            pipeline.hset(f"k:{i}", "x", str(99 if i == 7 else i % 10))
        pipeline.execute()
    settle(wire)
    assert [i for i in range(20) if wire.ask("HGET", f"k:{i}", "y") != b"%d" % (i % 10)] == [7]
    told = binding(wire)
    assert (told["errors"], told["last_error_key"]) == (1, "k:7")
    assert "index out of range" in told["last_error"]


def test_a_model_of_one_row(server: Server, wire: Wire) -> None:
    """It takes no batches. The binding finds that out once."""
    wire.ask_ok("AI.MODELSTORE", "one", "ONNX", "CPU", "BLOB", models.onnx_line(2, 1, (1, 1)))
    bind(wire, "ON HASH PREFIX 1 k: FIELDS 1 x MODEL one SET 1 y")
    for _ in range(3):
        with server.client() as client, client.pipeline() as pipeline:
            for i in range(40):
                pipeline.hset(f"k:{i}", "x", str(i))
            pipeline.execute()
        settle(wire)
    assert all(wire.ask("HGET", f"k:{i}", "y") == b"%d" % (2 * i + 1) for i in range(40))
    told = binding(wire)
    assert told["errors"] == 0
    assert told["results"] == 120
    assert told["runs"] < 125


def test_the_model_may_change_and_go(wire: Wire) -> None:
    """Keys wait for a model; the tag tells which results are of an old one."""
    bind(wire, f"{HASH} VERSION tag")
    wire.ask("HSET", "k:1", "x", 1)
    assert result(wire, "k:1") == b"3"
    store(wire, factor=5, tag="two")
    wire.ask("HSET", "k:2", "x", 1)
    assert result(wire, "k:2") == b"6"
    assert [wire.ask("HGET", key, "tag") for key in ("k:1", "k:2")] == [b"one", b"two"]
    wire.ask("AI.MODELDEL", "m")
    wire.ask("HSET", "k:3", "x", 1)
    while "there is no model" not in binding(wire)["last_error"]:
        pass
    assert binding(wire)["pending"] == 1
    store(wire, factor=7)
    assert result(wire, "k:3") == b"8"


def test_run_over_all_keys(server: Server, wire: Wire) -> None:
    with server.client() as client, client.pipeline(transaction=False) as pipeline:
        for i in range(5000):
            pipeline.hset(f"k:{i}", "x", str(i))
        pipeline.hset("other", "x", "1")
        pipeline.execute()
    bind(wire, HASH)
    wire.ask_ok("AI.BINDRUN", "b")
    settle(wire)
    assert all(wire.ask("HGET", f"k:{i}", "y") == b"%d" % (2 * i + 1) for i in range(5000))
    told = binding(wire)
    assert told["results"] == 5000
    assert told["bindrun_keys"] >= 5002
    assert wire.ask("HGET", "other", "y") is None


def test_vector_sets(wire: Wire) -> None:
    if not program().since((8, 0), (99, 0)):
        assert b"unknown command" in str(wire.ask("VADD", "v")).encode()
        return
    bind(wire, "ON HASH PREFIX 1 k: FIELDS 2 x z MODEL m VECTORSET v SET 1 y")
    wire.ask("HSET", "k:1", "x", 1, "z", 2)
    settle(wire)
    assert [float(each) for each in wire.ask("VEMB", "v", "k:1")] == pytest.approx([3, 5], rel=0.02)
    wire.ask("HSET", "k:2", "x", 1, "z", 2)
    wire.ask("DEL", "k:1")
    settle(wire)
    assert (wire.ask("VCARD", "v"), binding(wire)["errors"]) == (1, 0)


@pytest.mark.parametrize("after", ["a command", "a restart"])
def test_the_vector_of_a_hash_that_is_overwritten_goes(start_server: StartServer, after: str) -> None:
    if not program().since((8, 0), (99, 0)):
        return
    server = start_server()
    stores = [
        *(("SET", "k:1", "x"), ("MSET", "k:2", "x", "other", "y"), ("BITOP", "NOT", "k:3", "other")),
        *(("SUNIONSTORE", "k:4", "members"), ("ZUNIONSTORE", "k:5", 1, "members"), ("SORT", "members", "STORE", "k:6")),
        *(("COPY", "text", "k:7", "REPLACE"), ("RENAME", "text", "k:8"), ("SET", "k:99", "no hash")),
    ]
    with server.wire() as wire:
        store(wire)
        bind(wire, "ON HASH PREFIX 1 k: FIELDS 2 x z MODEL m VECTORSET v")
        wire.ask("SADD", "members", 1)
        wire.ask_ok("SET", "text", "x")
        for number in range(1, 10):
            wire.ask("HSET", f"k:{number}", "x", 1, "z", 2)
        settle(wire)
        assert wire.ask("VCARD", "v") == 9
        wire.ask_ok("SAVE")
    if after == "a restart":
        server.restart()
    with server.wire() as wire:
        for words in stores:
            assert not isinstance(wire.ask(*words), str), words
        settle(wire)
        assert wire.ask("VCARD", "v") == 1
        assert wire.ask("VEMB", "v", "k:9") and binding(wire)["errors"] == 0


def test_a_key_that_expires_when_another_binding_reads_it(wire: Wire) -> None:
    """Its vector goes, too: that the key has expired is no result."""
    if not program().since((8, 0), (99, 0)):
        return
    wire.ask("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    store(wire, "other")
    bind(wire, "ON HASH PREFIX 1 k: FIELDS 2 x z MODEL m VECTORSET v")
    bind(wire, "ON HASH PREFIX 1 k: FIELDS 1 x MODEL other SET 1 y", "other")
    wire.ask("AI.MODELDEL", "other")
    wire.ask("HSET", "k:1", "x", 1, "z", 2)
    wait_for(lambda: wire.ask("VCARD", "v") == 1)
    wire.ask("PEXPIRE", "k:1", 1)
    wire.ask("DEBUG", "SLEEP", 0.01)
    store(wire, "other")
    settle(wire)
    assert wire.ask("EXISTS", "v") == 0
    wire.ask("DEBUG", "SET-ACTIVE-EXPIRE", 1)
