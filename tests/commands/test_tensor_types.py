"""AI.TENSORSET and AI.TENSORGET: the dtypes in every format, in RESP2 and RESP3."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from testkit.dtypes import DTYPES, REALS
from testkit.server import Client, Server, program
from testkit.wire import Wire

FLOAT32 = [1.0, -2.5, float(np.float32(0.1)), 1e3]
FLOAT16 = [1.0, -2.5, float(np.float16(0.1)), 1e3]
BFLOAT16 = [1.0, -2.5, 0.10009765625, 1000.0]
FLOAT64 = [1.0, -2.5, 0.1, 1e300]
STRINGS = ["a", "", "two words", "ünï"]


def numbers(name: str, kind: str, *values: int) -> tuple[str, list[str], bytes, list[Any]]:
    return name, [str(value) for value in values], np.array(values, kind).tobytes(), list(values)


# type, VALUES as given, the blob, VALUES as answered
TYPES: list[tuple[str, list[str], bytes, list[Any]]] = [
    ("FLOAT", ["1", "-2.5", "0.1", "1e3"], np.array(FLOAT32, "<f4").tobytes(), FLOAT32),
    ("DOUBLE", ["1", "-2.5", "0.1", "1e300"], np.array(FLOAT64, "<f8").tobytes(), FLOAT64),
    numbers("INT8", "i1", -127, 0, 1, 127),
    numbers("INT16", "<i2", -32767, 0, 1, 32767),
    numbers("INT32", "<i4", -7, 0, 1, 70000),
    numbers("INT64", "<i8", -7, 0, 1, 2**62),
    numbers("UINT8", "u1", 0, 1, 128, 255),
    numbers("UINT16", "<u2", 0, 1, 40000, 65535),
    numbers("BOOL", "u1", 0, 1, 1, 0),
    ("FLOAT16", ["1", "-2.5", "0.1", "1e3"], np.array(FLOAT16, "<f2").tobytes(), FLOAT16),
    ("BFLOAT16", ["1", "-2.5", "0.1", "1e3"], bytes.fromhex("803f 20c0 cd3d 7a44"), BFLOAT16),
    numbers("UINT32", "<u4", 0, 1, 40000, 2**32 - 1),
    numbers("UINT64", "<u8", 0, 1, 40000, 2**63 - 1),
    ("STRING", STRINGS, b"".join(s.encode() + b"\0" for s in STRINGS), [s.encode() for s in STRINGS]),
]
SIZES = {name: dtype.bits // 8 for name, dtype in DTYPES.items()}
NAMES = [row[0] for row in TYPES]
assert set(NAMES) == set(DTYPES)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(("dtype", "given", "blob", "values"), TYPES, ids=NAMES)
@pytest.mark.parametrize("by", ["VALUES", "BLOB"])
def test_every_format(
    server: Server, by: str, dtype: str, given: list[str], blob: bytes, values: list[Any], protocol: int
) -> None:
    with server.wire(protocol) as wire:
        data: list[Any] = given if by == "VALUES" else [blob]
        assert wire.ask("AI.TENSORSET", "t", dtype, 2, 2, by, *data) == b"OK"

        wanted: list[Any] = values
        if dtype in REALS:
            # Redis 7.0 writes all digits, later servers only those that the number needs.
            digits = repr if program().since(redis=(7, 2), valkey=(7, 2)) else "{:.17g}".format
            texts = [digits(x).removesuffix(".0").encode() for x in values]
            wanted = texts if protocol == 2 else values
        meta = [b"dtype", dtype.encode(), b"shape", [2, 2]]
        assert wire.ask("AI.TENSORGET", "t") == [*meta, b"blob", blob]
        assert wire.ask("AI.TENSORGET", "t", "META") == meta
        assert wire.ask("AI.TENSORGET", "t", "BLOB") == blob
        assert wire.ask("AI.TENSORGET", "t", "VALUES") == wanted
        assert wire.ask("AI.TENSORGET", "t", "META", "BLOB") == [*meta, b"blob", blob]
        assert wire.ask("AI.TENSORGET", "t", "META", "VALUES") == [*meta, b"values", wanted]
        kinds = {type(x) for x in wire.ask("AI.TENSORGET", "t", "VALUES")}
        assert kinds == {type(x) for x in wanted}, "doubles in RESP3, bulk strings in RESP2, integers else"


@pytest.mark.parametrize("kind", ["<f4", "<f8"])
def test_any_number_as_text(wire: Wire, kind: str) -> None:
    """Any bits that are a finite number, as each of the texts that clients write, and back without a change."""
    seed = time.time_ns() % 2**32
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    found = np.frombuffer(rng.bytes(4000 * np.dtype(kind).itemsize), kind)
    found = np.concatenate([found[np.isfinite(found)], rng.standard_normal(1000).astype(kind)])
    numbers = [float(x) for x in found]
    dtype = "FLOAT" if kind == "<f4" else "DOUBLE"
    for text in repr, "{:.17g}".format, "{:.30e}".format, "{:+.17g}".format:
        assert wire.ask("AI.TENSORSET", "t", dtype, len(numbers), "VALUES", *map(text, numbers)) == b"OK"
        assert wire.ask("AI.TENSORGET", "t", "BLOB") == found.tobytes()
    values = wire.ask("AI.TENSORGET", "t", "VALUES")
    assert [float(value) for value in values] == numbers
    if not program().since(redis=(7, 2), valkey=(7, 2)):
        assert values == [b"%.17g" % number for number in numbers]


@pytest.mark.parametrize(("dtype", "size"), SIZES.items())
def test_uninitialised_is_zeros(wire: Wire, dtype: str, size: int) -> None:
    assert wire.ask("AI.TENSORSET", "t", dtype, 3, 2) == b"OK"
    assert wire.ask("AI.TENSORGET", "t", "BLOB") == bytes(6 * size)
    zero: Any = b"" if dtype == "STRING" else b"0" if dtype in REALS else 0
    assert wire.ask("AI.TENSORGET", "t", "VALUES") == [zero] * 6


@pytest.mark.parametrize(("dtype", "given", "blob", "values"), TYPES, ids=NAMES)
def test_scalar(wire: Wire, dtype: str, given: list[str], blob: bytes, values: list[Any]) -> None:
    assert wire.ask("AI.TENSORSET", "t", dtype, "VALUES", given[1]) == b"OK"
    reply = wire.ask("AI.TENSORGET", "t", "META", "VALUES")
    wanted = b"%.17g" % values[1] if dtype in REALS else values[1]
    assert reply == [b"dtype", dtype.encode(), b"shape", [], b"values", [wanted]]

    data = wire.ask("AI.TENSORGET", "t", "BLOB")
    assert wire.ask("AI.TENSORSET", "u", dtype, "BLOB", data) == b"OK"
    assert wire.ask("AI.TENSORGET", "u", "META", "BLOB") == [b"dtype", dtype.encode(), b"shape", [], b"blob", data]


def test_names_are_case_insensitive(wire: Wire) -> None:
    assert wire.ask("ai.tensorset", "t", "float", 2, "values", 1, 2) == b"OK"
    assert wire.ask("ai.tensorget", "t", "meta", "values") == [
        b"dtype",
        b"FLOAT",
        b"shape",
        [2],
        b"values",
        [b"1", b"2"],
    ]
    assert wire.ask("Ai.TensorSet", "t", "String", 2, "Blob", b"a\0b\0") == b"OK"
    assert wire.ask("Ai.TensorGet", "t", "Blob") == b"a\0b\0"


def test_ok_is_a_simple_string_and_data_are_not(wire: Wire) -> None:
    assert type(wire.ask("AI.TENSORSET", "t", "STRING", 1, "VALUES", "x")).__name__ == "Simple"
    assert type(wire.ask("AI.TENSORGET", "t", "BLOB")) is bytes
    assert type(wire.ask("AI.TENSORGET", "t", "VALUES")[0]) is bytes


def test_not_finite_numbers_come_back(r: Client) -> None:
    data = np.array([np.inf, -np.inf, np.nan, -0.0], "<f4").tobytes()
    r.execute_command("AI.TENSORSET", "t", "FLOAT", 4, "BLOB", data)
    values = [float(x) for x in r.execute_command("AI.TENSORGET", "t", "VALUES")]
    assert np.array(values, "<f4").tobytes()[:8] == data[:8]
    assert np.isnan(values[2])
    assert values[3] == 0
    assert r.execute_command("AI.TENSORGET", "t", "BLOB") == data


def test_a_tensor_replaces_a_tensor(r: Client) -> None:
    r.execute_command("AI.TENSORSET", "t", "FLOAT", 2, "VALUES", 1, 2)
    r.execute_command("AI.TENSORSET", "t", "STRING", 1, "VALUES", "x")
    assert r.execute_command("AI.TENSORGET", "t", "META") == [b"dtype", b"STRING", b"shape", [1]]


def test_many_dimensions(r: Client) -> None:
    shape = [1, 2, 1, 3, 1, 1, 2, 1]
    r.execute_command("AI.TENSORSET", "t", "INT8", *shape, "VALUES", *range(12))
    assert r.execute_command("AI.TENSORGET", "t", "META", "VALUES") == [
        b"dtype", b"INT8", b"shape", shape, b"values", list(range(12)),
    ]  # fmt: skip


def test_a_large_blob_comes_back(r: Client) -> None:
    data = np.random.default_rng(1).random(1 << 20, dtype=np.float32).tobytes()
    r.execute_command("AI.TENSORSET", "t", "FLOAT", 1024, 1024, "BLOB", data)
    assert r.execute_command("AI.TENSORGET", "t", "BLOB") == data


def test_type_name(r: Client) -> None:
    r.execute_command("AI.TENSORSET", "t", "FLOAT", 1)
    assert r.type("t") == b"AI_TENSOR"
