"""Databases of every released version load, what is written is version 4 to the byte, and damage is an error."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from testkit import models, rdb, samples, scripts
from testkit.info import number
from testkit.rdb import Field
from testkit.server import Server, ServerExit, module_path
from testkit.values import Model, Script, Tensor, Value
from testkit.waiting import wait_for
from testkit.wire import Error, Wire

HUGE = 2**62
NEGATIVE = 2**64 - 1  # a signed -1

# By version: BOOL came before version 4, STRING with it.
TENSORS = [
    pytest.param(version, name, id=f"v{version} {name}")
    for version in rdb.VERSIONS
    for name in samples.TENSORS
    if version == 4 or samples.TENSORS[name].dtype != "STRING"
]
MODELS = [pytest.param(version, name, id=f"v{version} {name}") for version in rdb.VERSIONS for name in samples.MODELS]
SCRIPTS = [pytest.param(version, name, id=f"v{version} {name}") for version in rdb.VERSIONS for name in samples.SCRIPTS]


def saved_model(name: str, version: int) -> Model:
    """What is left of a sample when such a version has saved it."""
    model = samples.MODELS[name]
    return model if version >= 2 else replace(model, minbatchtimeout=0)


def saved_script(name: str, version: int) -> Script:
    script = samples.SCRIPTS[name]
    return script if version >= 3 else replace(script, entry_points=())


def check_tensor(wire: Wire, key: str, name: str) -> None:
    tensor = samples.TENSORS[name]
    assert wire.ask("TYPE", key) == b"AI_TENSOR"
    assert wire.ask("AI.TENSORGET", key, *samples.get_words(tensor)) == samples.tensor_reply(tensor)
    assert rdb.decode(wire.ask("DUMP", key)) == rdb.Decoded(rdb.TENSOR_TYPE, 4, rdb.tensor_fields(tensor, 4))


def check_model(wire: Wire, key: str, name: str, version: int) -> None:
    model = saved_model(name, version)
    if name == "batched" and not model.minbatchtimeout:
        # a lone request would wait for another for ever, as it did there
        assert wire.ask("AI.MODELGET", key, "BLOB") == model.blob
    elif name in samples.RUNNABLE:
        samples.check_run(wire, key)
        assert wire.ask("AI.MODELGET", key, "META", "BLOB") == [*samples.model_meta(model), b"blob", model.blob]
    else:
        assert wire.ask("AI.MODELGET", key, "META", "BLOB") == [*samples.model_meta(model), b"blob", model.blob]
    assert rdb.decode(wire.ask("DUMP", key)) == rdb.Decoded(rdb.MODEL_TYPE, 4, rdb.model_fields(model, 4))


def check_script(wire: Wire, key: str, name: str, version: int) -> None:
    fields = rdb.script_fields(saved_script(name, version), 4)
    assert wire.ask("TYPE", key) == b"AI_SCRIPT"
    assert rdb.decode(wire.ask("DUMP", key)) == rdb.Decoded(rdb.SCRIPT_TYPE, 4, fields)


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "name"), TENSORS)
def test_restores_a_tensor(wire: Wire, version: int, name: str) -> None:
    samples.restore(wire, "t", samples.TENSORS[name], version)
    check_tensor(wire, "t", name)


@pytest.mark.parametrize("version", rdb.VERSIONS)
@pytest.mark.parametrize("tensor", [Tensor("INT64", (), bytes(8)), Tensor("FLOAT", (2, 0, 3), b"")], ids=str)
def test_restores_tensors_that_only_models_make(wire: Wire, version: int, tensor: Tensor) -> None:
    samples.restore(wire, "t", tensor, version)
    assert wire.ask("AI.TENSORGET", "t", "META", "BLOB") == samples.tensor_reply(tensor)


@pytest.mark.parametrize(("version", "name"), MODELS)
def test_restores_a_model(wire: Wire, version: int, name: str) -> None:
    samples.restore(wire, "m", samples.MODELS[name], version)
    assert wire.ask("TYPE", "m") == b"AI__MODEL"
    check_model(wire, "m", name, version)
    assert wire.ask("AI._MODELSCAN") == [[b"m", samples.MODELS[name].tag.encode()]]


@pytest.mark.parametrize(("version", "name"), SCRIPTS)
def test_restores_a_script(wire: Wire, version: int, name: str) -> None:
    samples.restore(wire, "s", samples.SCRIPTS[name], version)
    check_script(wire, "s", name, version)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_tag_is_any_bytes(wire: Wire, version: int) -> None:
    fields = rdb.model_fields(samples.TF, version)
    fields[2] = b"\0not\xffUTF-8\0"
    assert wire.ask("RESTORE", "m", 0, rdb.dump_fields(rdb.MODEL_TYPE, version, fields)) == b"OK"
    assert wire.ask("AI.MODELGET", "m", "META")[5] == b"\0not\xffUTF-8\0"
    assert rdb.decode(wire.ask("DUMP", "m")).fields[2] == b"\0not\xffUTF-8\0"


@pytest.mark.parametrize("backend", models.UNREADABLE)
def test_a_model_that_does_not_compile_is_kept(wire: Wire, backend: str) -> None:
    model = Model(backend, b"not a model at all")
    samples.restore(wire, "m", model)
    samples.store_tensor(wire, "t", samples.TENSORS["FLOAT"])
    for _ in range(2):
        reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "t", "OUTPUTS", 1, "o")
        assert isinstance(reply, Error) and reply.startswith(models.UNREADABLE[backend])
        assert wire.ask("AI.MODELGET", "m", "META", "BLOB") == [*samples.model_meta(model), b"blob", model.blob]
        assert rdb.decode(wire.ask("DUMP", "m")).fields == rdb.model_fields(model, 4)


def test_old_models_without_names_of_inputs_run(wire: Wire) -> None:
    for version in rdb.VERSIONS:
        samples.restore(wire, f"m{version}", replace(samples.TORCH, inputs=(), outputs=()), version)
        samples.check_run(wire, f"m{version}")


def test_starts_with_databases_of_every_version(tmp_path: Path) -> None:
    values = {}
    for version in rdb.VERSIONS:
        for name, value in (samples.TENSORS | samples.MODELS | samples.SCRIPTS).items():
            if version == 4 or not (isinstance(value, Tensor) and value.dtype == "STRING"):
                values[f"v{version} {name}"] = rdb.module_value(*typed(value, version))
    far = 4102444800000
    (tmp_path / "dump.rdb").write_bytes(rdb.rdb_file(values, {"v1 FLOAT": far, "v2 onnx": far, "v3 torch": 1000}))
    server = Server(tmp_path, module=module_path()).start()
    try:
        with server.wire() as wire:
            assert {key.decode() for key in wire.ask("KEYS", "*")} == values.keys() - {"v3 torch"}
            assert wire.ask("PTTL", "v1 FLOAT") > 0 < wire.ask("PTTL", "v2 onnx")
            assert len(wire.ask("AI._MODELSCAN")) == len(rdb.VERSIONS) * len(samples.MODELS) - 1
            for key in values.keys() - {"v3 torch"}:
                version, name = int(key[1]), key[3:]
                if name in samples.TENSORS:
                    check_tensor(wire, key, name)
                elif name in samples.MODELS:
                    check_model(wire, key, name, version)
                else:
                    check_script(wire, key, name, version)
    finally:
        assert server.stop() == 0


def typed(value: Value, version: int) -> tuple[str, int, list[Field]]:
    type_name, fields = rdb.fields_of(value, version)
    return type_name, version, fields


# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", samples.TENSORS)
def test_writes_a_tensor(wire: Wire, name: str) -> None:
    samples.store_tensor(wire, "t", samples.TENSORS[name])
    check_tensor(wire, "t", name)


def test_writes_a_tensor_made_of_values(wire: Wire) -> None:
    assert wire.ask("AI.TENSORSET", "t", "STRING", 3, "VALUES", "one", "", "three") == b"OK"
    assert rdb.decode(wire.ask("DUMP", "t")).fields == [7, 8, 1, 3, b"one\0\0three\0", 0, 4, 5]
    assert wire.ask("AI.TENSORSET", "t", "INT16", 2, "VALUES", -2, 515) == b"OK"
    assert rdb.decode(wire.ask("DUMP", "t")).fields == [0, 16, 1, 2, b"\xfe\xff\x03\x02"]


@pytest.mark.parametrize("name", samples.RUNNABLE)
def test_writes_a_model(wire: Wire, name: str) -> None:
    model = samples.MODELS[name]
    assert wire.ask(*model.words("m")) == b"OK"
    decoded = rdb.decode(wire.ask("DUMP", "m"))
    assert (decoded.type_name, decoded.version) == (rdb.MODEL_TYPE, 4)
    # whether the names that the model declares are saved with it is ours to choose: they are found out again anyhow
    named = rdb.model_fields(model, 4)
    bare = rdb.model_fields(replace(model, inputs=(), outputs=()), 4)
    assert decoded.fields in (named, bare)


@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
def test_writes_a_model_in_chunks(wire: Wire, chunk: int) -> None:
    model = samples.ONNX
    try:
        assert wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", chunk) == b"OK"
        assert wire.ask(*model.words("m")) == b"OK"
        payload = wire.ask("DUMP", "m")
        fields = rdb.decode(payload).fields
        last_count = max(place for place, field in enumerate(fields) if isinstance(field, int))
        assert fields[last_count - 1] == len(model.blob)
        chunks = [field for field in fields[last_count + 1 :] if isinstance(field, bytes)]
        assert fields[last_count] == len(chunks) >= len(model.blob) / chunk
        assert b"".join(chunks) == model.blob
        assert all(len(piece) <= chunk for piece in chunks)
        assert wire.ask("RESTORE", "again", 0, payload) == b"OK"
        samples.check_run(wire, "again")
        pieces = wire.ask("AI.MODELGET", "again", "BLOB")
        assert (pieces if isinstance(pieces, bytes) else b"".join(pieces)) == model.blob
    finally:
        assert wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", 535822336) == b"OK"


# ---- damage ----------------------------------------------------------------------------------------------------------

FOUR_FLOATS = np.ones(4, "<f4").tobytes()

DAMAGED: list[tuple[str, str, int, Sequence[Field]]] = [
    ("type unknown", "AI_TENSOR", 4, [3, 32, 1, 4, FOUR_FLOATS]),
    ("code out of range", "AI_TENSOR", 4, [HUGE, 32, 1, 4, FOUR_FLOATS]),
    ("complex numbers", "AI_TENSOR", 4, [5, 64, 1, 2, FOUR_FLOATS]),
    ("no bits", "AI_TENSOR", 4, [2, 0, 1, 4, b""]),
    ("data too short", "AI_TENSOR", 4, [2, 32, 1, 4, FOUR_FLOATS[:-1]]),
    ("data too long", "AI_TENSOR", 4, [2, 32, 1, 4, FOUR_FLOATS + b"\0"]),
    ("no data", "AI_TENSOR", 4, [2, 32, 2, 2, 2, b""]),
    ("negative rank", "AI_TENSOR", 4, [2, 32, NEGATIVE, 4, FOUR_FLOATS]),
    ("huge rank", "AI_TENSOR", 4, [2, 32, HUGE, 4, FOUR_FLOATS]),
    ("rank of 2^31", "AI_TENSOR", 4, [2, 32, 2**31, *[1] * 100, FOUR_FLOATS]),
    ("rank of many", "AI_TENSOR", 4, [2, 32, 10**5, *[1] * 10**5, FOUR_FLOATS]),
    ("rank too large by one", "AI_TENSOR", 4, [2, 32, 3, 2, 2, FOUR_FLOATS]),
    ("rank too small by one", "AI_TENSOR", 4, [2, 32, 1, 4, 1, FOUR_FLOATS]),
    ("negative dimension", "AI_TENSOR", 4, [2, 32, 1, NEGATIVE, FOUR_FLOATS]),
    ("two negative dimensions", "AI_TENSOR", 4, [2, 32, 2, 2**64 - 2, 2**64 - 2, FOUR_FLOATS]),
    ("dimensions overflow", "AI_TENSOR", 4, [2, 32, 2, HUGE, 4, FOUR_FLOATS]),
    ("dimensions overflow to the right size", "AI_TENSOR", 4, [2, 32, 3, 2**32, 2**32, 4, FOUR_FLOATS]),
    ("bytes overflow to the right size", "AI_TENSOR", 4, [2, 32, 1, 2**62 + 4, FOUR_FLOATS]),
    ("overflow hidden by a zero", "AI_TENSOR", 4, [2, 32, 3, HUGE, HUGE, 0, FOUR_FLOATS]),
    ("terabytes", "AI_TENSOR", 4, [2, 32, 2, 10**6, 10**6, FOUR_FLOATS]),
    ("text for a number", "AI_TENSOR", 4, [2, 32, 1, b"4", FOUR_FLOATS]),
    ("number for data", "AI_TENSOR", 4, [2, 32, 1, 4, 4]),
    ("field too many", "AI_TENSOR", 4, [2, 32, 1, 4, FOUR_FLOATS, 0]),
    ("string: no NUL at the end", "AI_TENSOR", 4, [7, 8, 1, 2, b"a\0b", 0, 2]),
    ("string: no data", "AI_TENSOR", 4, [7, 8, 1, 2, b"", 0, 0]),
    ("string: offset beyond the data", "AI_TENSOR", 4, [7, 8, 1, 2, b"a\0b\0", 0, 4]),
    ("string: huge offset", "AI_TENSOR", 4, [7, 8, 1, 2, b"a\0b\0", 0, HUGE]),
    ("string: negative offset", "AI_TENSOR", 4, [7, 8, 1, 2, b"a\0b\0", 0, NEGATIVE]),
    ("string: offsets backwards", "AI_TENSOR", 4, [7, 8, 1, 2, b"a\0b\0", 2, 0]),
    ("string: offset inside", "AI_TENSOR", 4, [7, 8, 1, 2, b"aa\0b\0", 1, 3]),
    ("string: too few offsets", "AI_TENSOR", 4, [7, 8, 1, 2, b"a\0b\0", 0]),
    ("string: offset behind no NUL", "AI_TENSOR", 4, [7, 8, 1, 2, b"aa\0b\0", 0, 1]),
    ("string: nothing before the first", "AI_TENSOR", 4, [7, 8, 1, 2, b"\0a\0", 0, 0]),
    ("string: too many offsets", "AI_TENSOR", 4, [7, 8, 1, 2, b"a\0b\0c\0", 0, 2, 4]),
    ("string: data without elements", "AI_TENSOR", 4, [7, 8, 1, 0, b"\0"]),
    ("string: too few strings", "AI_TENSOR", 4, [7, 8, 1, 3, b"a\0b\0", 0, 2, 4]),
    ("string: huge dimension", "AI_TENSOR", 4, [7, 8, 1, HUGE, b"a\0b\0", 0, 2]),
    ("string: a billion of them", "AI_TENSOR", 4, [7, 8, 1, 10**9, b"a\0b\0", 0, 2]),
    ("old: lanes", "AI_TENSOR", 3, [1, 0, 32, 2, 2, 1, 2, 1, 0, FOUR_FLOATS]),
    ("old: no lanes", "AI_TENSOR", 3, [1, 0, 32, 2, 0, 1, 4, 1, 0, FOUR_FLOATS]),
    ("old: type unknown", "AI_TENSOR", 0, [1, 0, 31, 2, 1, 1, 4, 1, 0, FOUR_FLOATS]),
    ("old: negative rank", "AI_TENSOR", 2, [1, 0, 32, 2, 1, NEGATIVE, 4, 1, 0, FOUR_FLOATS]),
    ("old: huge rank", "AI_TENSOR", 1, [1, 0, 32, 2, 1, HUGE, 4, 1, 0, FOUR_FLOATS]),
    ("old: dimensions overflow", "AI_TENSOR", 0, [1, 0, 32, 2, 1, 2, HUGE, 4, 4, 1, 0, FOUR_FLOATS]),
    ("old: data too short", "AI_TENSOR", 1, [1, 0, 32, 2, 1, 1, 4, 1, 0, FOUR_FLOATS[:-4]]),
    ("old: data too long", "AI_TENSOR", 1, [1, 0, 32, 2, 1, 1, 4, 1, 0, FOUR_FLOATS * 2]),
    ("old: huge byte offset", "AI_TENSOR", 3, [1, 0, 32, 2, 1, 1, 3, 1, HUGE, FOUR_FLOATS]),
    ("old: byte offset too large", "AI_TENSOR", 3, [1, 0, 32, 2, 1, 1, 3, 1, 5, FOUR_FLOATS]),
    ("nothing", "AI_TENSOR", 4, []),
    ("backend unknown", "AI__MODEL", 4, [4, b"CPU\0", b"", 0, 0, 0, 0, 0, 1, 1, b"x"]),
    ("backend out of range", "AI__MODEL", 4, [HUGE, b"CPU\0", b"", 0, 0, 0, 0, 0, 1, 1, b"x"]),
    ("device: no NUL", "AI__MODEL", 4, [0, b"CPU", b"", 0, 0, 0, 0, 0, 1, 1, b"x"]),
    ("device: nothing", "AI__MODEL", 4, [0, b"", b"", 0, 0, 0, 0, 0, 1, 1, b"x"]),
    ("inputs: negative", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, NEGATIVE, b"a\0", 0, 1, 1, b"x"]),
    ("inputs: huge", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, HUGE, b"a\0", 0, 1, 1, b"x"]),
    ("inputs: a billion", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 10**9, b"a\0", 0, 1, 1, b"x"]),
    ("inputs: too many by one", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 2, b"a\0", 0, 1, 1, b"x"]),
    ("inputs: no NUL", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 1, b"a", 0, 1, 1, b"x"]),
    ("inputs: nothing", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 1, b"", 0, 1, 1, b"x"]),
    ("outputs: negative", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 0, NEGATIVE, b"a\0", 1, 1, b"x"]),
    ("outputs: huge", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 0, HUGE, b"a\0", 1, 1, b"x"]),
    ("outputs: no NUL", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 0, 1, b"a", 1, 1, b"x"]),
    ("blob: too short", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 0, 0, 5, 1, b"four"]),
    ("blob: too long", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 0, 0, 3, 1, b"four"]),
    ("blob: huge", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 0, 0, HUGE, 1, b"four"]),
    ("blob: negative", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 0, 0, NEGATIVE, 1, b"four"]),
    ("chunks: none", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 0, 0, 4, 0]),
    ("chunks: negative", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 0, 0, 4, NEGATIVE, b"four"]),
    ("chunks: huge", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 0, 0, 4, HUGE, b"four"]),
    ("chunks: a billion", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 0, 0, 4, 10**9, b"four"]),
    ("chunks: one missing", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 0, 0, 4, 2, b"four"]),
    ("chunks: do not add up", "AI__MODEL", 4, [0, b"CPU\0", b"", 0, 0, 0, 0, 0, 4, 2, b"four", b"!"]),
    ("old: chunks in version 0", "AI__MODEL", 0, [0, b"CPU\0", b"\0", 0, 0, 0, 0, 4, 1, b"four"]),
    ("old: tag without NUL", "AI__MODEL", 0, [0, b"CPU\0", b"tag", 0, 0, 0, 0, b"four"]),
    ("old: timeout in version 1", "AI__MODEL", 1, [0, b"CPU\0", b"", 0, 0, 0, 0, 0, 4, 1, b"four"]),
    ("nothing", "AI__MODEL", 4, []),
    ("device: no NUL", "AI_SCRIPT", 4, [b"CPU", b"", b"def f(): pass\0", 0]),
    ("source: no NUL", "AI_SCRIPT", 4, [b"CPU\0", b"", b"def f(): pass", 0]),
    ("source: nothing", "AI_SCRIPT", 4, [b"CPU\0", b"", b"", 0]),
    ("entry points: negative", "AI_SCRIPT", 4, [b"CPU\0", b"", b"def f(): pass\0", NEGATIVE, b"f\0"]),
    ("entry points: huge", "AI_SCRIPT", 4, [b"CPU\0", b"", b"def f(): pass\0", HUGE, b"f\0"]),
    ("entry points: a billion", "AI_SCRIPT", 4, [b"CPU\0", b"", b"def f(): pass\0", 10**9, b"f\0"]),
    ("entry points: too many by one", "AI_SCRIPT", 4, [b"CPU\0", b"", b"def f(): pass\0", 2, b"f\0"]),
    ("entry points: no NUL", "AI_SCRIPT", 4, [b"CPU\0", b"", b"def f(): pass\0", 1, b"f"]),
    ("entry points: a number", "AI_SCRIPT", 4, [b"CPU\0", b"", b"def f(): pass\0", 1, 1]),
    ("old: entry points in version 2", "AI_SCRIPT", 2, [b"CPU\0", b"", b"def f(): pass\0", 1, b"f\0"]),
    ("old: tag without NUL", "AI_SCRIPT", 0, [b"CPU\0", b"tag", b"def f(): pass\0"]),
    ("nothing", "AI_SCRIPT", 4, []),
    *[
        (f"version {version}", *rdb.fields_of(value, 4)[:1], version, rdb.fields_of(value, 4)[1])
        for version in (5, 1023)
        for value in (samples.TENSORS["FLOAT"], samples.ONNX, samples.SCRIPTS["script"])
    ],
]
DAMAGED_IDS = [f"{type_name} {what}" for what, type_name, _, _ in DAMAGED]
SMALL: list[Value] = [
    Tensor("FLOAT", (2, 2), FOUR_FLOATS),
    samples.TENSORS["STRING"],
    samples.TENSORS["any bytes"],
    Model("TF", b"not much", tag="tag", inputs=("a", "b"), outputs=("c",)),
    Script("def f(): pass", tag="tag", entry_points=("f",)),
]


def check_refused(server: Server, wire: Wire, payload: bytes) -> None:
    assert wire.ask("RESTORE", "k", 0, payload) == Error("ERR Bad data format")
    assert wire.ask("EXISTS", "k") == 0


@pytest.mark.parametrize(("what", "type_name", "version", "fields"), DAMAGED, ids=DAMAGED_IDS)
def test_damage_is_an_error(
    server: Server, wire: Wire, what: str, type_name: str, version: int, fields: Sequence[Field]
) -> None:
    before = server.used_memory()
    check_refused(server, wire, rdb.dump_fields(type_name, version, fields))
    # client buffers and the allocator's own come and go; the absurd sizes here are far from this
    assert server.used_memory() < before + (16 << 20)


@pytest.mark.parametrize("value", SMALL, ids=lambda value: rdb.fields_of(value, 4)[0])
@pytest.mark.parametrize("version", rdb.VERSIONS)
def test_a_value_cut_short_is_an_error(server: Server, wire: Wire, version: int, value: Value) -> None:
    body = rdb.dump(value, version)[:-10]
    for end in range(10, len(body) - 10):  # the 10 bytes of version and checksum could pass for the last 10
        check_refused(server, wire, rdb.seal(body[:end]))
    type_name, fields = rdb.fields_of(value, version)
    for end in range(len(fields)):
        check_refused(server, wire, rdb.dump_fields(type_name, version, fields[:end]))


def test_damage_leaks_nothing(server: Server, wire: Wire) -> None:
    payloads = [rdb.dump_fields(*case[1:]) for case in DAMAGED]

    def restore_all() -> None:
        with server.wire() as other:  # whose buffers go with it
            for _ in range(100):
                for payload in payloads:
                    other.send("RESTORE", "k", 0, payload)
                for _ in payloads:
                    assert other.read() == Error("ERR Bad data format")

    # One of the scripts is refused only at its end, when the loader already has a job for it. These jobs would wait
    # while PyTorch is imported. And INFO is called once before, because servers then make a histogram for it.
    scripts.store(wire, "s", scripts.SOURCE, ["add"])
    server.used_memory()
    restore_all()
    before = server.used_memory()
    restore_all()
    # Less than the smallest block in each round.
    wait_for(lambda: server.used_memory() < before + 100 * 8, 10, "the memory is given back")


def test_values_leak_nothing(wire: Wire) -> None:
    payloads = [
        rdb.dump(value, version)
        for version in rdb.VERSIONS
        for value in (*SMALL, *samples.MODELS.values(), *samples.SCRIPTS.values())
    ]

    def store_all(rounds: int) -> None:
        for payload in payloads * rounds:
            if wire.ask("RESTORE", "k", 0, payload, "REPLACE") == b"OK":  # not old tensors of strings
                assert wire.ask("COPY", "k", "copy", "REPLACE") == 1
                assert wire.ask("DEBUG", "DIGEST-VALUE", "k") == wire.ask("DEBUG", "DIGEST-VALUE", "copy")
                assert wire.ask("DUMP", "copy") == wire.ask("DUMP", "k")
        samples.restore(wire, "last", samples.ONNX)
        samples.check_run(wire, "last")  # by now what went before has been compiled and dropped
        assert wire.ask("DEL", "k", "copy", "last") == 3

    store_all(2)
    before = number(wire, "used_memory", "memory")
    store_all(10)
    wait_for(lambda: number(wire, "used_memory", "memory") < before + 10 * 1000, 10, "the memory is given back")


@pytest.mark.parametrize("value", [*SMALL, samples.ONNX], ids=lambda value: rdb.fields_of(value, 4)[0])
@pytest.mark.parametrize("version", rdb.VERSIONS)
def test_random_damage_never_ends_the_server(wire: Wire, version: int, value: Value) -> None:
    chance = random.Random(version)
    body = rdb.dump(value, version)[:-10]
    for _ in range(60):
        damaged = bytearray(body)
        for _ in range(chance.choice([1, 1, 2, 8])):
            damaged[chance.randrange(10, min(len(body), 200))] = chance.choice([0, 1, 0x3F, 0x7F, 0x80, 0x81, 0xFF, 5])
        if isinstance(wire.ask("RESTORE", "k", 0, rdb.seal(bytes(damaged))), Error):
            assert wire.ask("EXISTS", "k") == 0
            continue
        # it got through, so it must be as good as any other value
        payload = wire.ask("DUMP", "k")
        assert wire.ask("RESTORE", "again", 0, payload) == b"OK"
        assert wire.ask("DUMP", "again") == payload
        assert wire.ask("MEMORY", "USAGE", "k") > 0
        if isinstance(value, Tensor):
            assert isinstance(wire.ask("AI.TENSORGET", "k", "META", "VALUES"), list)
        elif isinstance(value, Model):
            assert isinstance(wire.ask("AI.MODELGET", "k", "META", "BLOB"), list)
        assert wire.ask("DEL", "k", "again") == 2


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "data"),
    [((2, 2), (1, 2), 0, FOUR_FLOATS), ((2, 2), (0, 0), 0, FOUR_FLOATS), ((3,), (1,), 4, FOUR_FLOATS)],
    ids=["transposed", "one element", "offset"],
)
def test_old_tensors_in_another_order_are_not_misread(
    wire: Wire, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, data: bytes
) -> None:
    """No released version wrote such; that it could be said is no reason to answer wrong numbers."""
    data = np.array([1, 2, 3, 4], "<f4").tobytes()
    fields: list[Field] = [1, 0, 32, 2, 1, len(shape), *shape, *strides, offset, data]
    reply = wire.ask("RESTORE", "t", 0, rdb.dump_fields(rdb.TENSOR_TYPE, 3, fields))
    if not isinstance(reply, Error):
        view = np.ndarray(shape, "<f4", data, offset, [stride * 4 for stride in strides])
        assert wire.ask("AI.TENSORGET", "t", "BLOB") == view.tobytes()


def test_loads_what_deployed_servers_did_not_check(wire: Wire) -> None:
    """They let a BOOL blob's last byte be anything: refusing it now would lose the whole database."""
    samples.restore(wire, "t", Tensor("BOOL", (3,), b"\0\1\2"))
    assert wire.ask("AI.TENSORGET", "t", "VALUES")[:2] == [0, 1]


@pytest.mark.parametrize(("what", "type_name", "version", "fields"), DAMAGED[4::16], ids=DAMAGED_IDS[4::16])
def test_a_damaged_file_is_refused_at_start(
    tmp_path: Path, what: str, type_name: str, version: int, fields: Sequence[Field]
) -> None:
    (tmp_path / "dump.rdb").write_bytes(rdb.rdb_file({"k": rdb.module_value(type_name, version, fields)}))
    server = Server(tmp_path, module=module_path())
    with pytest.raises(ServerExit):
        server.start()
    # Redis goes on to check the file, and the status it exits with is that check's
    assert server.process and server.process.returncode >= 0
    assert "cannot load the" in server.log() and "crashed by signal" not in server.log()
