"""Absurd dimensions: an error that names the limit, and nothing allocated."""

from __future__ import annotations

import re

import pytest

from testkit.server import Server
from testkit.wire import Error, Wire, Word

ABSURD: list[list[Word]] = [
    [2**62, 4],
    [4, 2**62],
    [2**32, 2**32],
    [2**31, 2**31, 4],
    [2**63 - 1],
    [2**63 - 1, 2**63 - 1],
    [1_000_000, 1_000_000],
    [2**40],
    [2**61],
    [2**21, 2**21, 2**21, 2],
    [2**16] * 4,
    [2] * 64,
]

LENGTH = Error("ERR data length does not match tensor shape and type")
COUNT = Error("ERR wrong number of values was given in 'AI.TENSORSET' command")
NUL = Error("ERR C-string value contains null character")
BOOL = Error("ERR BOOL tensor elements must be 0 or 1")


@pytest.mark.parametrize("shape", ABSURD, ids=str)
@pytest.mark.parametrize("dtype", ["INT8", "FLOAT", "DOUBLE", "STRING", "BOOL"])
def test_uninitialised(server: Server, wire: Wire, dtype: str, shape: list[Word]) -> None:
    before = server.used_memory()
    reply = wire.ask("AI.TENSORSET", "t", dtype, *shape)
    assert isinstance(reply, Error)
    assert re.match(r"ERR .*\d", reply), "the limit is named"
    assert wire.ask("EXISTS", "t") == 0
    assert server.used_memory() < before + (1 << 20)


@pytest.mark.parametrize("shape", ABSURD, ids=str)
@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("FLOAT", ["BLOB", b""]),
        ("FLOAT", ["BLOB", b"12345678"]),
        ("STRING", ["BLOB", b"a\0"]),
        ("STRING", ["VALUES", "a"]),
        ("INT64", ["VALUES", 1, 2]),
        ("INT64", ["VALUES"]),
    ],
)
def test_with_data(server: Server, wire: Wire, dtype: str, data: list[Word], shape: list[Word]) -> None:
    before = server.used_memory()
    reply = wire.ask("AI.TENSORSET", "t", dtype, *shape, *data)
    assert isinstance(reply, Error)
    assert reply.startswith("ERR ")
    assert wire.ask("EXISTS", "t") == 0
    assert server.used_memory() < before + (1 << 20)


def test_very_many_dimensions(wire: Wire) -> None:
    """Either a tensor or an error, but one that can be read back or nothing."""
    reply = wire.ask("AI.TENSORSET", "t", "FLOAT", *[1] * 5000, "VALUES", 1)
    if isinstance(reply, Error):
        assert reply.startswith("ERR ")
        assert wire.ask("EXISTS", "t") == 0
    else:
        assert wire.ask("AI.TENSORGET", "t", "META")[3] == [1] * 5000


def test_refused_tensors_leave_nothing_behind(server: Server, wire: Wire) -> None:
    blob = bytes(1 << 20)
    wire.ask("AI.TENSORSET", "t", "FLOAT", 5, "BLOB", blob)
    before = server.used_memory()
    for _ in range(100):
        assert wire.ask("AI.TENSORSET", "t", "FLOAT", 5, "BLOB", blob) == LENGTH
        assert wire.ask("AI.TENSORSET", "t", "INT64", 100_000, "VALUES", *["1"] * 99, "x") == COUNT
        assert wire.ask("AI.TENSORSET", "t", "STRING", 1000, "VALUES", *["abc"] * 999, b"\0\0") == NUL
        assert wire.ask("AI.TENSORSET", "t", "BOOL", 1 << 20, "BLOB", blob[:-1] + b"\2") == BOOL
    assert server.used_memory() < before + (1 << 20)
