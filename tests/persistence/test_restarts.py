"""What is stored survives restarts, rewrites and copies (RDB, AOF, COPY, RENAME, DUMP), and goes when it is told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testkit import models, samples
from testkit.restarts import (
    AOF,
    aof_commands,
    by_aof,
    by_aof_on_rewritten_aof,
    by_bgsave,
    by_debug_loadaof,
    by_debug_reload,
    by_rdb,
    by_rewritten_aof,
    is_saving,
    rewrite,
    told_by,
)
from testkit.server import Server
from testkit.values import Model, Script, Tensor, Value
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import StartServer


def by_rdb_without_compression(server: Server, wire: Wire) -> None:
    wire.ask_ok("CONFIG", "SET", "rdbcompression", "no")
    by_rdb(server, wire)


@pytest.mark.parametrize(
    ("arguments", "ways"),
    [
        ((), [by_rdb, by_rdb_without_compression, by_bgsave, by_debug_reload]),
        (
            (*AOF, "--aof-use-rdb-preamble", "yes"),
            [by_aof, by_debug_loadaof, by_rewritten_aof, by_aof_on_rewritten_aof],
        ),
    ],
    ids=["RDB", "AOF"],
)
def test_everything_survives(
    start_server: StartServer, arguments: tuple[str, ...], ways: list[Callable[[Server, Wire], None]]
) -> None:
    """In each way after the other: a server whose libraries are imported anew takes a while."""
    server = start_server(*arguments)
    with server.wire() as wire:
        samples.fill(wire)
        before = samples.contents(wire)
    for way in ways:
        print(way.__name__)
        (server.folder / "dump.rdb").unlink(missing_ok=True)  # that of the way before
        with server.wire() as wire:
            way(server, wire)
        with server.wire() as wire:
            samples.check_filled(wire, before)
    assert server.stop() == 0


def test_everything_survives_an_aof_of_commands(start_server: StartServer) -> None:
    server = start_server(*AOF, "--aof-use-rdb-preamble", "no")
    with server.wire() as wire:
        samples.fill(wire)
        before = samples.contents(wire)
        rewrite(wire)
    names = {command[0].upper() for command in aof_commands(server)}
    assert names <= {b"SELECT", b"AI.TENSORSET", b"AI.MODELSTORE", b"AI.SCRIPTSTORE", b"AI.SCRIPTSET"}
    server.restart()
    with server.wire() as wire:
        samples.run_all(wire)
        samples.check_odd_outputs(wire)
        wait_for(lambda: samples.contents(wire) == before, what="all models tell their inputs again")


def test_a_rewrite_tells_everything(start_server: StartServer) -> None:
    server = start_server(*AOF, "--aof-use-rdb-preamble", "no")
    with server.wire() as wire:
        samples.fill(wire)
        assert wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", 1000) == b"OK"
        rewrite(wire)
    told = told_by(server)
    for name, tensor in samples.TENSORS.items():
        shape = [b"%d" % dim for dim in tensor.shape]
        words = [b"RAW", *tensor.elements] if tensor.elements else [b"BLOB", tensor.data]
        assert told[name] == [b"AI.TENSORSET", name.encode(), tensor.dtype.encode(), *shape, *words]
    for name, model in samples.MODELS.items():
        command = told[name]
        blob = command.index(b"BLOB")
        assert b"".join(command[blob + 1 :]) == model.blob
        assert all(len(chunk) <= 1000 for chunk in command[blob + 1 :])
        words = command[:blob]
        assert words[:4] == [b"AI.MODELSTORE", name.encode(), model.backend.encode(), model.device.encode()]
        for keyword, value in {
            "TAG": model.tag,
            "BATCHSIZE": model.batchsize,
            "MINBATCHSIZE": model.minbatchsize,
            "MINBATCHTIMEOUT": model.minbatchtimeout,
        }.items():
            if value:
                assert words[words.index(keyword.encode()) + 1] == str(value).encode()
        for keyword, given in {"INPUTS": model.inputs, "OUTPUTS": model.outputs}.items():
            if model.backend == "TF":
                start = words.index(keyword.encode()) + 1
                expected = [b"%d" % len(given), *(each.encode() for each in given)]
                assert words[start : start + 1 + len(given)] == expected
            else:
                assert keyword.encode() not in words


def test_a_rewrite_tells_scripts(start_server: StartServer) -> None:
    server = start_server(*AOF, "--aof-use-rdb-preamble", "no")
    with server.wire() as wire:
        for name, script in samples.SCRIPTS.items():
            samples.restore(wire, name, script)
        rewrite(wire)
    told = told_by(server)
    script, old = samples.SCRIPTS["script"], samples.SCRIPTS["old script"]
    start = [b"AI.SCRIPTSTORE", b"script", b"CPU", b"TAG", b"v1:math", b"ENTRY_POINTS", b"2", b"add", b"double"]
    assert told["script"] == [*start, b"SOURCE", script.source.encode()]
    # an empty tag may be told or left out
    words = [word for word in told["old script"] if word not in (b"TAG", b"")]
    assert words == [b"AI.SCRIPTSET", b"old script", b"CPU:1", b"SOURCE", old.source.encode()]


def test_odd_keys_and_tags_survive_commands(start_server: StartServer) -> None:
    key, tag = b"\0key \xff\r\n", b"\0tag \xfe\r\n"
    server = start_server(*AOF, "--aof-use-rdb-preamble", "no")
    with server.wire() as wire:
        assert wire.ask("AI.MODELSTORE", key, "ONNX", "CPU", "TAG", tag, "BLOB", models.onnx_add()) == b"OK"
        assert wire.ask("AI.TENSORSET", key + b"t", "STRING", 2, "BLOB", b"\xff\r\n\0\0") == b"OK"
        rewrite(wire)
    server.restart()
    with server.wire() as wire:
        assert wire.ask("AI._MODELSCAN") == [[key, tag]]
        assert wire.ask("AI.TENSORGET", key + b"t", "BLOB") == b"\xff\r\n\0\0"


def test_other_databases_and_transactions_survive(start_server: StartServer) -> None:
    server = start_server(*AOF)
    with server.wire() as wire:
        assert wire.ask("SELECT", 3) == b"OK"
        assert wire.ask("MULTI") == b"OK"
        assert wire.ask(*samples.ONNX.words("m")) == b"QUEUED"
        assert wire.ask("AI.TENSORSET", "t", "INT8", 2, "VALUES", 1, 2) == b"QUEUED"
        assert wire.ask("EXEC") == [b"OK", b"OK"]
        samples.check_run(wire, "m")
    server.restart()
    with server.wire() as wire:
        assert wire.ask("DBSIZE") == 0
        assert wire.ask("SELECT", 3) == b"OK"
        assert sorted(wire.ask("KEYS", "*")) == [b"left", b"m", b"right", b"sum", b"t"]
        samples.check_run(wire, "m")


def test_statistics_and_deletions_survive_as_well(start_server: StartServer) -> None:
    """What was deleted or overwritten stays so."""
    server = start_server(*AOF)
    with server.wire() as wire:
        samples.fill(wire)
        assert wire.ask("AI.MODELDEL", "onnx") == b"OK"
        assert wire.ask("DEL", "torch", "script", "large") == 3
        assert wire.ask("RENAME", "FLOAT", "moved") == b"OK"
        assert wire.ask("AI.TENSORSET", "DOUBLE", "INT8", 1, "VALUES", 1) == b"OK"
        assert wire.ask("SET", "plain", "x") == b"OK"
        before = samples.contents_of(wire, "DOUBLE")
    server.restart()
    with server.wire() as wire:
        assert wire.ask("EXISTS", "onnx", "torch", "script", "large", "FLOAT") == 0
        assert wire.ask("AI.TENSORGET", "moved", "META", "BLOB") == samples.tensor_reply(samples.TENSORS["FLOAT"])
        assert samples.contents_of(wire, "DOUBLE") == before
        assert [key for key, _ in wire.ask("AI._MODELSCAN")].count(b"onnx") == 0


@pytest.mark.parametrize("aof", [False, True], ids=["RDB", "AOF"])
def test_a_start_does_not_wait_for_models(start_server: StartServer, tmp_path: Path, aof: bool) -> None:
    """They are there at once; only running one waits until its library is."""
    server = start_server(*(AOF if aof else ()))
    with server.wire() as wire:
        for number in range(3):
            assert wire.ask(*samples.ONNX.words(f"m{number}")) == b"OK"
        assert wire.ask("SAVE") == b"OK"
    path, go = samples.slow_backend(tmp_path)
    server.options = ["BACKENDSPATH", str(path)]
    server.restart()
    with server.wire() as wire, server.wire() as other:
        samples.store_tensor(wire, "x", samples.TENSORS["FLOAT"])
        wire.send("AI.MODELEXECUTE", "m1", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
        wait_for(lambda: server.blocked_clients() == 1, what="the run waits for its model")
        assert other.ask("AI.MODELGET", "m1", "BLOB") == samples.ONNX.blob
        assert other.ask("DEL", "m1", "m2") == 2
        assert other.ask("SAVE") == b"OK"
        go.touch()
        assert wire.read() == b"OK"
        assert wire.ask("AI.MODELEXECUTE", "m0", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "z") == b"OK"
        assert wire.ask("AI.TENSORGET", "y") == wire.ask("AI.TENSORGET", "z")


# ---- copies ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(wire: Wire) -> Wire:
    samples.fill(wire)
    return wire


EVERY_KEY = [*samples.TENSORS, *samples.MODELS, *samples.SCRIPTS, "rank 0", "empty"]


@pytest.mark.parametrize("key", EVERY_KEY)
def test_copies_are_equal_and_apart(filled: Wire, key: str) -> None:
    content = samples.contents_of(filled, key)
    assert filled.ask("COPY", key, "copy") == 1
    assert filled.ask("COPY", key, "left") == 0
    assert samples.contents_of(filled, "copy") == content
    assert filled.ask("DEL", key) == 1
    assert samples.contents_of(filled, "copy") == content
    if key in samples.RUNNABLE:
        samples.check_run(filled, "copy")
    assert filled.ask("COPY", "copy", "other", "DB", 5) == 1
    assert filled.ask("SELECT", 5) == b"OK"
    assert samples.contents_of(filled, "other") == content


@pytest.mark.parametrize("key", EVERY_KEY)
def test_dump_and_restore_are_equal(filled: Wire, key: str) -> None:
    content = samples.contents_of(filled, key)
    payload = filled.ask("DUMP", key)
    assert filled.ask("RESTORE", "copy", 0, payload) == b"OK"
    assert filled.ask("RESTORE", "copy", 0, payload) == Error("BUSYKEY Target key name already exists.")
    assert filled.ask("RESTORE", "digits", 0, payload, "REPLACE") == b"OK"
    if key in samples.RUNNABLE:
        samples.check_run(filled, "copy")
        samples.check_run(filled, "digits")
    assert samples.contents_of(filled, "copy") == content == samples.contents_of(filled, "digits")
    assert filled.ask("DUMP", "copy") == payload


@pytest.mark.parametrize("key", EVERY_KEY)
def test_a_renamed_value_is_the_same(filled: Wire, key: str) -> None:
    content = samples.contents_of(filled, key)
    assert filled.ask("RENAME", key, "new") == b"OK"
    assert samples.contents_of(filled, "new") == content
    assert filled.ask("EXISTS", key) == 0
    if key in samples.RUNNABLE:
        samples.check_run(filled, "new")
        assert [b"new", samples.MODELS[key].tag.encode()] in filled.ask("AI._MODELSCAN")


def test_overwriting_a_copy_leaves_the_first(filled: Wire) -> None:
    assert filled.ask("COPY", "FLOAT", "copy") == 1
    assert filled.ask("AI.TENSORSET", "copy", "FLOAT", 2, 3) == b"OK"
    assert filled.ask("AI.TENSORGET", "FLOAT", "META", "BLOB") == samples.tensor_reply(samples.TENSORS["FLOAT"])


def test_digests_tell_values_apart(filled: Wire) -> None:
    digests = filled.ask("DEBUG", "DIGEST-VALUE", *EVERY_KEY)
    assert b"0" * 40 not in digests
    assert len({bytes(digest) for digest in digests}) == len(EVERY_KEY)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Tensor("INT8", (2, 3), bytes(6)), Tensor("INT8", (3, 2), bytes(6))),
        (Tensor("INT8", (6,), bytes(6)), Tensor("UINT8", (6,), bytes(6))),
        (Tensor("INT8", (6,), bytes(6)), Tensor("INT8", (6,), bytes(5) + b"\1")),
        (Model("TF", b"x"), Model("TF", b"y")),
        (Model("TF", b"x"), Model("TFLITE", b"x")),
        (Model("TF", b"x"), Model("TF", b"x", device="CPU:1")),
        (Model("TF", b"x"), Model("TF", b"x", tag="t")),
        (Model("TF", b"x"), Model("TF", b"x", batchsize=1)),
        (Model("TF", b"x", inputs=("a",)), Model("TF", b"x", outputs=("a",))),
        (Model("TF", b"x", inputs=("ab", "c")), Model("TF", b"x", inputs=("a", "bc"))),
        (Script("x"), Script("y")),
        (Script("x"), Script("x", entry_points=("f",))),
    ],
    ids=str,
)
def test_digests_see_every_field(wire: Wire, one: Value, other: Value) -> None:
    samples.restore(wire, "one", one)
    samples.restore(wire, "same", one)
    samples.restore(wire, "other", other)
    digests = [bytes(digest) for digest in wire.ask("DEBUG", "DIGEST-VALUE", "one", "same", "other")]
    assert digests[0] == digests[1] != digests[2]


def test_digests_do_not_depend_on_the_chunk_size(wire: Wire) -> None:
    """Else a master and a replica of other configuration seem to differ."""
    samples.restore(wire, "m", samples.TF)
    before = wire.ask("DEBUG", "DIGEST-VALUE", "m")
    try:
        assert wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", 100) == b"OK"
        assert wire.ask("DEBUG", "DIGEST-VALUE", "m") == before
    finally:
        assert wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", 535822336) == b"OK"


# ---- memory and the end of values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (Tensor("FLOAT", (1,), bytes(4)), 4),
        (Tensor("UINT8", (1 << 20,), bytes(1 << 20)), 1 << 20),
        (Tensor("STRING", (1000,), b"a\0" * 1000), 10000),
        (Model("TF", bytes(1 << 20), inputs=("a",) * 100), 1 << 20),
        (Script("#" * 100000), 100000),
    ],
    ids=["scalar", "tensor", "strings", "model", "script"],
)
def test_memory_usage_is_sane(wire: Wire, value: Value, size: int) -> None:
    samples.restore(wire, "k", value)
    assert size <= wire.ask("MEMORY", "USAGE", "k") <= size * 1.3 + 8192


def test_memory_usage_of_a_stored_model(wire: Wire) -> None:
    """Its blob is the command's own argument, held, and counts as well."""
    blob = models.onnx_padded(250_000)
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob) == b"OK"
    assert len(blob) <= wire.ask("MEMORY", "USAGE", "m") <= len(blob) * 1.3 + 8192


def big(wire: Wire, count: int = 8) -> None:
    for number in range(count):
        assert wire.ask("AI.TENSORSET", f"t{number}", "UINT8", 1 << 23) == b"OK"
        assert wire.ask("COPY", f"t{number}", f"c{number}") == 1
    blob = models.onnx_padded(1 << 21)
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob) == b"OK"
    assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1) == b"OK"
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"


@pytest.mark.parametrize(
    "words",
    [
        ("FLUSHALL", "ASYNC"),
        ("FLUSHALL", "SYNC"),
        ("FLUSHDB", "ASYNC"),
        ("UNLINK", "m", "x", "y", *(f"{letter}{number}" for letter in "tc" for number in range(8))),
        ("DEL", "m", "x", "y", *(f"{letter}{number}" for letter in "tc" for number in range(8))),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_memory_comes_back(server: Server, words: tuple[str, ...]) -> None:
    def fill_and_empty(most_left: int) -> None:
        before = server.used_memory()
        with server.wire() as client:
            big(client)
            assert server.used_memory() > before + (70 << 20)
            assert not isinstance(client.ask(*words), Error)
            assert client.ask("DBSIZE") == 0
        wait_for(lambda: server.used_memory() < before + most_left, 20, "the memory is given back")

    fill_and_empty(16 << 20)  # the first time leaves what stays for good: queues, buffers
    fill_and_empty(4 << 20)


def test_values_expire(wire: Wire) -> None:
    samples.store_tensor(wire, "t", samples.TENSORS["FLOAT"])
    assert wire.ask(*samples.ONNX.words("m")) == b"OK"
    samples.restore(wire, "s", samples.SCRIPTS["script"])
    for key in "tms":
        assert wire.ask("PEXPIRE", key, 50) == 1
    wait_for(lambda: wire.ask("EXISTS", "t", "m", "s") == 0, 5, "the keys expire")
    assert wire.ask("AI.TENSORGET", "t") == Error("ERR tensor key is empty or in a different shard")
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "t", "t", "OUTPUTS", 1, "o") == Error("ERR model key is empty")
    assert wire.ask("AI._MODELSCAN") == []


def test_expiry_survives(start_server: StartServer) -> None:
    server = start_server(*AOF)
    with server.wire() as wire:
        samples.store_tensor(wire, "t", samples.TENSORS["FLOAT"])
        assert wire.ask(*samples.ONNX.words("m")) == b"OK"
        for key in "tm":
            assert wire.ask("EXPIRE", key, 1000) == 1
    server.restart()
    with server.wire() as wire:
        assert 0 < wire.ask("TTL", "t") <= 1000
        assert 0 < wire.ask("TTL", "m") <= 1000


def test_a_save_while_models_run_is_whole(start_server: StartServer) -> None:
    server = start_server()
    with server.wire() as wire, server.wire() as other:
        samples.fill(wire)
        before = samples.contents(wire)
        for _ in range(3):
            assert wire.ask("BGSAVE") == b"Background saving started"
            while is_saving(wire):
                samples.run_all(other)
            assert b"rdb_last_bgsave_status:ok" in wire.ask("INFO", "persistence")
    server.kill()
    server.start()
    with server.wire() as wire:
        samples.check_filled(wire, before)


def test_results_not_runs_are_in_the_aof(start_server: StartServer) -> None:
    server = start_server(*AOF)
    with server.wire() as wire:
        assert wire.ask(*samples.ONNX.words("m")) == b"OK"
        samples.check_run(wire, "m")
        wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "left", "right", "OUTPUTS", 1, "again")
        wire.ask("AI.MODELRUN", "m", "INPUTS", "left", "right", "OUTPUTS", "once more")
    commands = aof_commands(server)
    assert {command[0].upper() for command in commands} == {b"SELECT", b"AI.MODELSTORE", b"AI.TENSORSET"}
    results: dict[bytes, Any] = {command[1]: command for command in commands if command[0].upper() == b"AI.TENSORSET"}
    total = np.array([[1.5, 3], [0, 1e6 + 4]], np.float32).tobytes()
    for key in (b"sum", b"again", b"once more"):
        assert results[key][1:] == [key, b"FLOAT", b"2", b"2", b"BLOB", total]
