"""AI.TENSORSET VALUES: which integers fit which type."""

from __future__ import annotations

import pytest

from testkit.dtypes import INTEGERS, REALS, limits
from testkit.wire import Wire

RANGES = [*((name, *limits(name)) for name in INTEGERS), ("BOOL", 0, 1)]


@pytest.mark.parametrize(("dtype", "low", "high"), RANGES)
def test_range(wire: Wire, dtype: str, low: int, high: int) -> None:
    assert wire.ask("AI.TENSORSET", "t", dtype, 2, "VALUES", low, high) == b"OK"
    assert [int(x) for x in wire.ask("AI.TENSORGET", "t", "VALUES")] == [low, high]
    for outside in (low - 1, high + 1, 10**30):
        assert wire.ask("AI.TENSORSET", "t", dtype, 2, "VALUES", 0, outside) == "ERR invalid value"
    assert [int(x) for x in wire.ask("AI.TENSORGET", "t", "VALUES")] == [low, high], "a refused command changes nothing"


@pytest.mark.parametrize("dtype", [*INTEGERS, "BOOL"])
@pytest.mark.parametrize("word", ["1.5", "x", "", " 1", "1 ", "0x1", "1e0", "nan"])
def test_not_an_integer(wire: Wire, dtype: str, word: str) -> None:
    assert wire.ask("AI.TENSORSET", "t", dtype, 1, "VALUES", word) == "ERR invalid value"


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("word", ["x", "", "1,5", "1 2", b"1\x002"])
def test_not_a_number(wire: Wire, dtype: str, word: str | bytes) -> None:
    assert wire.ask("AI.TENSORSET", "t", dtype, 1, "VALUES", word) == "ERR invalid value"
