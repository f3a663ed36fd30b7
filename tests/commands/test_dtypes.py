"""Every dtype goes every way: stored, copied, saved, replicated, and run by every backend that has it."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from testkit import models, rdb, scripts, tf_models
from testkit.dtypes import DTYPES, INTEGERS, NUMBERS, REALS, limits
from testkit.server import Server
from testkit.values import Tensor
from testkit.waiting import wait_for
from testkit.wire import Wire, Word
from tests.conftest import StartServer

BACKENDS = ("ONNX", "TORCH", "TF", "TFLITE")


def data_of(dtype: str) -> bytes:
    """Four elements of every dtype, among them its largest integer."""
    if dtype == "STRING":
        return "one\0\0drei\0vi\u0113r\0".encode()
    if dtype == "BOOL":
        return b"\1\0\0\1"
    last = limits(dtype)[1] if dtype in INTEGERS else 2.5
    return np.array([0, 1, 100, last], DTYPES[dtype].numpy).tobytes()


def set_tensor(wire: Wire, key: str, dtype: str) -> list[Any]:
    """Returns what AI.TENSORGET must answer."""
    data = data_of(dtype)
    assert wire.ask("AI.TENSORSET", key, dtype, 2, 2, "BLOB", data) == b"OK"
    return [b"dtype", dtype.encode(), b"shape", [2, 2], b"blob", data]


# ---- VALUES ----------------------------------------------------------------------------------------------------------


def reals(wire: Wire, dtype: str, words: list[Any]) -> np.ndarray[Any, Any]:
    """What VALUES become."""
    assert wire.ask("AI.TENSORSET", "t", dtype, len(words), "VALUES", *words) == b"OK"
    return np.frombuffer(wire.ask("AI.TENSORGET", "t", "BLOB"), DTYPES[dtype].numpy)


def doubles_of(patterns: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    with np.errstate(invalid="ignore"):  # ml_dtypes says so of NaNs
        return patterns.view(DTYPES[dtype].numpy).astype(np.float64)


HALVES = [dtype for dtype in REALS if DTYPES[dtype].bits == 16]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("dtype", HALVES)
def test_all_numbers_of_16_bits_are_replied(server: Server, dtype: str, protocol: int) -> None:
    every = np.arange(2**16, dtype="<u2")
    wanted = doubles_of(every, dtype)
    with server.wire(protocol) as wire:
        assert wire.ask("AI.TENSORSET", "t", dtype, 2**16, "BLOB", every.tobytes()) == b"OK"
        replied = wire.ask("AI.TENSORGET", "t", "VALUES")
    assert {type(value) for value in replied} == {bytes if protocol == 2 else float}
    found = np.array([float(value) for value in replied])
    np.testing.assert_array_equal(found, wanted)
    whole = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(found[whole]), np.signbit(wanted[whole]))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dtype", HALVES)
def test_reals_are_rounded_once_to_the_nearest(wire: Wire, dtype: str, sign: float) -> None:
    """Each number, the middle of it and the next one, and the doubles on both sides of the middle."""
    patterns = np.arange(2**15, dtype="<u2")
    patterns = patterns[np.isfinite(doubles_of(patterns, dtype))]
    values = doubles_of(patterns, dtype)
    # what would come after the largest, if the exponent had one more
    following = np.append(values[1:], 2 * values[-1] - values[-2])
    middles = (values + following) / 2
    even = patterns + (patterns & 1)
    for doubles, wanted in (
        (values, patterns),
        (middles, even),
        (np.nextafter(middles, 0), patterns),
        (np.nextafter(middles, np.inf), patterns + 1),
    ):
        words = [repr(float(double * sign)) for double in doubles]
        found = reals(wire, dtype, words).view("<u2")
        np.testing.assert_array_equal(found, wanted | (0x8000 if sign < 0 else 0))


@pytest.mark.parametrize("dtype", REALS)
def test_reals_without_an_end(wire: Wire, dtype: str) -> None:
    found = reals(wire, dtype, ["inf", "-inf", "0", "-0.0", "1e-320"]).astype(np.float64)
    assert found.tolist() == [np.inf, -np.inf, 0, 0, 1e-320 if dtype == "DOUBLE" else 0]
    assert np.signbit(found).tolist() == [False, True, False, True, False]
    if dtype != "DOUBLE":
        assert reals(wire, dtype, ["1e300", "-1e39"]).astype(float).tolist() == [np.inf, -np.inf], "as FLOAT always did"
    assert wire.ask("AI.TENSORSET", "t", dtype, 1, "VALUES", "nan") == "ERR invalid value"


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_replied_whole(server: Server, dtype: str, protocol: int) -> None:
    """Beyond 2^63-1 as big numbers, which RESP2 has as strings."""
    low, high = limits(dtype)
    with server.wire(protocol) as wire:
        assert wire.ask("AI.TENSORSET", "t", dtype, 2, "VALUES", low, high) == b"OK"
        wire.send("AI.TENSORGET", "t", "VALUES")
        assert wire.stream.readline() == b"*2\r\n"
        assert wire.read() == low
        line = wire.stream.readline()
        if high < 2**63:
            assert line == b":%d\r\n" % high
        elif protocol == 3:
            assert line == b"(%d\r\n" % high
        else:
            assert line == b"$20\r\n" and wire.bulk(20) == b"%d" % high


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("word", ["+1", "01", "-0", "1_0", "0018446744073709551615", "1844674407370955161x", "1" * 40])
def test_integers_are_parsed_strictly(wire: Wire, dtype: str, word: str) -> None:
    assert wire.ask("AI.TENSORSET", "t", dtype, 1, "VALUES", word) == "ERR invalid value"


# ---- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_a_key(wire: Wire, dtype: str) -> None:
    wanted = set_tensor(wire, "t", dtype)
    assert wire.ask("COPY", "t", "copied") == 1
    payload = wire.ask("DUMP", "t")
    tensor = Tensor(dtype, (2, 2), data_of(dtype))
    assert rdb.decode(payload) == rdb.Decoded(rdb.TENSOR_TYPE, 4, rdb.tensor_fields(tensor, 4))
    assert wire.ask("RESTORE", "restored", 0, payload) == b"OK"
    for key in ("t", "copied", "restored"):
        assert wire.ask("AI.TENSORGET", key) == wanted
        assert wire.ask("DEBUG", "DIGEST-VALUE", key) == wire.ask("DEBUG", "DIGEST-VALUE", "t")
        assert len(data_of(dtype)) < wire.ask("MEMORY", "USAGE", key) < 400
    assert wire.ask("DEBUG", "RELOAD") == b"OK"
    assert wire.ask("AI.TENSORGET", "t") == wanted


def test_dtypes_of_the_same_bytes_have_different_digests(wire: Wire) -> None:
    for size in (1, 2, 4, 8):
        alike = [name for name in DTYPES if name != "STRING" and DTYPES[name].bits == 8 * size]
        for name in alike:
            assert wire.ask("AI.TENSORSET", name, name, 2) == b"OK"
        assert len({bytes(wire.ask("DEBUG", "DIGEST-VALUE", name)[0]) for name in alike}) == len(alike)


@pytest.mark.parametrize("preamble", ["yes", "no"])
def test_in_the_aof(start_server: StartServer, preamble: str) -> None:
    server = start_server("--appendonly", "yes", "--aof-use-rdb-preamble", preamble)
    with server.wire() as wire:
        wanted = {dtype: set_tensor(wire, dtype, dtype) for dtype in DTYPES}
        assert wire.ask("DEBUG", "LOADAOF") == b"OK"  # as it was written
        assert {dtype: wire.ask("AI.TENSORGET", dtype) for dtype in DTYPES} == wanted
        wire.ask("BGREWRITEAOF")
        wait_for(lambda: b"aof_rewrite_in_progress:0" in wire.ask("INFO", "persistence"), 30)
        assert wire.ask("DEBUG", "LOADAOF") == b"OK"
        assert {dtype: wire.ask("AI.TENSORGET", dtype) for dtype in DTYPES} == wanted


def test_on_a_replica(start_server: StartServer) -> None:
    """What clients set, and what models give."""
    master, replica = start_server("--repl-diskless-sync-delay", "0"), start_server()
    with master.wire() as wire, replica.wire() as other:
        before = {dtype: set_tensor(wire, dtype, dtype) for dtype in DTYPES}
        assert other.ask("REPLICAOF", "127.0.0.1", master.port) == b"OK"
        wait_for(lambda: b"master_link_status:up" in other.ask("INFO", "replication"), 30)
        after = {}
        for dtype in DTYPES:
            store_identity(wire, "m", "ONNX", dtype)
            after[f"set {dtype}"] = set_tensor(wire, f"set {dtype}", dtype)
            after[f"run {dtype}"] = after[f"set {dtype}"]
            assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, dtype, "OUTPUTS", 1, f"run {dtype}") == b"OK"
        assert wire.ask("WAIT", 1, 30000) == 1
        for key, wanted in {**before, **after}.items():
            assert other.ask("AI.TENSORGET", key) == wanted
            assert other.ask("DEBUG", "DIGEST-VALUE", key) == wire.ask("DEBUG", "DIGEST-VALUE", key)


# ---- runs ------------------------------------------------------------------------------------------------------------


def has_dtype(backend: str, dtype: str) -> bool:
    """TorchScript has no strings, and no TensorFlow Lite model can be made for BFLOAT16."""
    return (backend, dtype) not in (("TORCH", "STRING"), ("TFLITE", "BFLOAT16"))


CASES = [(backend, dtype) for backend in BACKENDS for dtype in DTYPES if has_dtype(backend, dtype)]


def store_identity(wire: Wire, key: str, backend: str, dtype: str, *options: Word) -> None:
    nodes: tuple[Word, ...] = ()
    if backend == "ONNX":
        blob = models.onnx_identity(dtype, ("n", 2))
    elif backend == "TORCH":
        blob = models.torch_module(models.Identity)
    elif backend == "TF":
        blob, nodes = tf_models.tf_identity(dtype), ("INPUTS", 1, "x", "OUTPUTS", 1, "y")
    else:
        blob = tf_models.tflite(lambda x: x, tf_models.spec([None, 2], DTYPES[dtype].tf))
    assert wire.ask("AI.MODELSTORE", key, backend, "CPU", *options, *nodes, "BLOB", blob) == b"OK"


@pytest.mark.parametrize(("backend", "dtype"), CASES)
def test_through_a_model(wire: Wire, backend: str, dtype: str) -> None:
    wanted = set_tensor(wire, "x", dtype)
    store_identity(wire, "m", backend, dtype)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y") == wanted

    # a DAG of two runs, whose tensors are never stored
    run: tuple[Word, ...] = ("|>", "AI.MODELEXECUTE", "m", "INPUTS", 1)
    words = (*run, "x", "OUTPUTS", 1, "a", *run, "a", "OUTPUTS", 1, "b", "|>", "AI.TENSORGET", "b", "META", "BLOB")
    assert wire.ask("AI.DAGEXECUTE", "LOAD", 1, "x", *words) == [b"OK", b"OK", wanted]

    # by Python: the first run of a model with BATCHSIZE
    store_identity(wire, "m", backend, dtype, "BATCHSIZE", 8, "MINBATCHSIZE", 4, "MINBATCHTIMEOUT", 1)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y") == wanted


@pytest.mark.parametrize("backend", ["ONNX", "TORCH", "TF"])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_a_large_tensor_through_a_model(wire: Wire, backend: str, dtype: str) -> None:
    """Its data stays in Redis's string and is copied for the library."""
    array = np.arange(2 * 600_000).reshape(-1, 2) % 100
    data = array.astype(DTYPES[dtype].numpy).tobytes()
    assert wire.ask("AI.TENSORSET", "x", dtype, 600_000, 2, "BLOB", data) == b"OK"
    store_identity(wire, "m", backend, dtype)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y") == [b"dtype", dtype.encode(), b"shape", [600_000, 2], b"blob", data]


# Cast to the dtype and back: every library has kernels for that.
@pytest.mark.parametrize("backend", ["ONNX", "TORCH", "TF"])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_cast(wire: Wire, backend: str, dtype: str) -> None:
    nodes: tuple[Word, ...] = ()
    if backend == "ONNX":
        blob = models.onnx_cast(DTYPES[dtype].onnx)
    elif backend == "TORCH":
        blob = models.torch_blob(models.Cast(getattr(torch, DTYPES[dtype].tf)))
    else:
        blob, nodes = tf_models.tf_cast(DTYPES[dtype].tf), ("INPUTS", 1, "x", "OUTPUTS", 1, "y")
    assert wire.ask("AI.MODELSTORE", "m", backend, "CPU", *nodes, "BLOB", blob) == b"OK"
    values = np.array([0, 1.5, 2.0001, 100], np.float32)
    assert wire.ask("AI.TENSORSET", "x", "FLOAT", 4, "BLOB", values.tobytes()) == b"OK"
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    wanted = values.astype(DTYPES[dtype].numpy).tobytes()
    assert wire.ask("AI.TENSORGET", "y") == [b"dtype", dtype.encode(), b"shape", [4], b"blob", wanted]


@pytest.mark.parametrize("dtype", NUMBERS)
def test_in_a_script(wire: Wire, dtype: str) -> None:
    """As a tensor, and as input and output of a model that the script runs."""
    source = scripts.function("f", "return redisAI.model_execute(keys[0], [tensors[0]], 1)[0]")
    assert wire.ask(*scripts.store_command("s", source, ["f"])) == b"OK"
    wanted = set_tensor(wire, "x", dtype)
    for backend in ("ONNX", "TORCH", "TF"):
        store_identity(wire, "m", backend, dtype)
        words = ("AI.SCRIPTEXECUTE", "s", "f", "KEYS", 1, "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        assert wire.ask(*words) == b"OK"
        assert wire.ask("AI.TENSORGET", "y") == wanted


@pytest.mark.parametrize("dtype", HALVES)
def test_arithmetic(wire: Wire, dtype: str) -> None:
    kind = DTYPES[dtype].numpy
    x, y = np.array([1, 0.1, 300, 2**-10], kind), np.array([0.5, 0.2, 1, 1], kind)
    for key, array in (("x", x), ("y", y)):
        assert wire.ask("AI.TENSORSET", key, dtype, 4, "BLOB", array.tobytes()) == b"OK"
    assert wire.ask("AI.MODELSTORE", "TORCH", "TORCH", "CPU", "BLOB", models.torch_module(models.Add)) == b"OK"
    words: tuple[Word, ...] = ("INPUTS", 2, "a", "b", "OUTPUTS", 1, "sum", "BLOB", tf_models.tf_add(DTYPES[dtype].tf))
    assert wire.ask("AI.MODELSTORE", "TF", "TF", "CPU", *words) == b"OK"
    for model in ("TORCH", "TF"):
        assert wire.ask("AI.MODELEXECUTE", model, "INPUTS", 2, "x", "y", "OUTPUTS", 1, "sum") == b"OK"
        assert wire.ask("AI.TENSORGET", "sum", "BLOB") == (x + y).tobytes()


def test_the_module_has_no_other_dtypes(wire: Wire) -> None:
    """Names that NumPy, ml_dtypes and the libraries know."""
    names = {*np.sctypeDict, *dir(ml_dtypes), "half", "float8_e5m2", "string_", "int", "uint128", "int4"}
    known = {name.lower() for name in DTYPES} | {"float", "double", "string", "bool"}
    for name in names:
        if isinstance(name, str) and name.lower() not in known:
            assert wire.ask("AI.TENSORSET", "t", name, 1) == "ERR invalid data type", name
