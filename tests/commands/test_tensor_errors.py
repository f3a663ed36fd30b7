"""AI.TENSORSET and AI.TENSORGET: every error text, and the order of the checks."""

from __future__ import annotations

import pytest

from testkit.wire import Error, Wire, Word

SHAPE = "ERR invalid or negative value found in tensor shape"
COUNT = "ERR wrong number of values was given in 'AI.TENSORSET' command"
ONE_BLOB = "ERR a single binary string should come after the BLOB argument in 'AI.TENSORSET' command"
LENGTH = "ERR data length does not match tensor shape and type"
STRINGS = "ERR Number of string elements in data blob does not match tensor length"
BOOL = "ERR BOOL tensor elements must be 0 or 1"
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"

# The words after AI.TENSORSET t, and the reply.
SET: list[tuple[list[Word], str]] = [
    (["HALF", 2], "ERR invalid data type"),
    (["", 2], "ERR invalid data type"),
    (["INT", 2, "VALUES", 1, 2], "ERR invalid data type"),
    ([b"FLOAT\0", 2], "ERR invalid data type"),
    (["FLOAT", -1], SHAPE),
    (["FLOAT", 0, -1], SHAPE),
    (["FLOAT", 2, -1, "VALUES", 1, 2], SHAPE),
    (["FLOAT", 2, -(2**63), "BLOB", b""], SHAPE),
    (["FLOAT", "x"], SHAPE),
    (["FLOAT", 2, "x"], SHAPE),
    (["FLOAT", 2, "VALUE", 1, 2], SHAPE),
    (["FLOAT", "1.0"], SHAPE),
    (["FLOAT", 2**63], SHAPE),
    (["FLOAT", 2**64 + 1], SHAPE),
    (["FLOAT", 2, "VALUES", 1], COUNT),
    (["FLOAT", 2, "VALUES", 1, 2, 3], COUNT),
    (["FLOAT", 2, "VALUES"], COUNT),
    (["FLOAT", "VALUES", 1, 2], COUNT),
    (["STRING", 2, "VALUES", "a"], COUNT),
    (["BOOL", 2, 2, "VALUES", 1, 0, 1], COUNT),
    (["FLOAT", 2, "BLOB"], ONE_BLOB),
    (["FLOAT", 2, "BLOB", b"1234", b"1234"], ONE_BLOB),
    (["FLOAT", 2, "BLOB", b"1234567"], LENGTH),
    (["FLOAT", 2, "BLOB", b"123456789"], LENGTH),
    (["FLOAT", 2, "BLOB", b""], LENGTH),
    (["DOUBLE", 1, "BLOB", b"1234"], LENGTH),
    (["BOOL", 2, "BLOB", b"\x01"], LENGTH),
    (["STRING", 2, "BLOB", b"a\0"], STRINGS),
    (["STRING", 2, "BLOB", b"a\0b\0c\0"], STRINGS),
    (["STRING", 2, "BLOB", b""], STRINGS),
    (["STRING", 2, "BLOB", b"a\0b"], STRINGS),
    (["BOOL", 3, "BLOB", b"\x02\x00\x01"], BOOL),
    (["BOOL", 3, "BLOB", b"\x01\x00\x02"], BOOL),
    (["BOOL", 1, "BLOB", b"\xff"], BOOL),
    (["STRING", 2, "VALUES", b"a\0b", b"c"], "ERR C-string value contains null character"),
    (["STRING", 2, "VALUES", b"a", b"c\0\0"], "ERR C-string value contains null character"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "text"), SET)
def test_set(wire: Wire, words: list[Word], text: str) -> None:
    assert wire.ask("AI.TENSORSET", "t", *words) == text
    assert wire.ask("EXISTS", "t") == 0
    assert wire.ask("PING") == b"PONG", "one reply to one command"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["missing"], "ERR tensor key is empty or in a different shard"),
        (["missing", "VALUES"], "ERR tensor key is empty or in a different shard"),
        (["t", "FOO"], "ERR unsupported data format"),
        (["t", "META", "FOO"], "ERR unsupported data format"),
        (["t", "BLOB", "VALUES"], "ERR both BLOB and VALUES specified"),
        (["t", "VALUES", "BLOB"], "ERR both BLOB and VALUES specified"),
        (["string"], WRONGTYPE),
        (["string", "META"], WRONGTYPE),
        (["list", "BLOB"], WRONGTYPE),
    ],
)
def test_get(wire: Wire, words: list[Word], text: str) -> None:
    wire.ask("AI.TENSORSET", "t", "FLOAT", 1)
    wire.ask("SET", "string", "x")
    wire.ask("RPUSH", "list", "x")
    assert wire.ask("AI.TENSORGET", *words) == text
    assert wire.ask("PING") == b"PONG"


@pytest.mark.parametrize("words", [["FLOAT", 1], ["BADTYPE", 1], ["FLOAT", -1], ["FLOAT", 2, "VALUES", "x", "y", "z"],
                                   ["BOOL", 1, "BLOB", b"\x05"], ["FLOAT", 2**62, 4]])  # fmt: skip
@pytest.mark.parametrize("setter", [["SET", "k", "x"], ["RPUSH", "k", "x"], ["HSET", "k", "f", "x"]])
def test_the_type_of_the_key_is_checked_first(wire: Wire, setter: list[Word], words: list[Word]) -> None:
    wire.ask(*setter)
    before = wire.ask("DUMP", "k")
    assert wire.ask("AI.TENSORSET", "k", *words) == WRONGTYPE
    assert wire.ask("DUMP", "k") == before


@pytest.mark.parametrize("words", [["AI.TENSORSET"], ["AI.TENSORSET", "t"], ["AI.TENSORSET", "t", "FLOAT"],
                                   ["AI.TENSORGET"]])  # fmt: skip
def test_too_few_words(wire: Wire, words: list[str]) -> None:
    assert wire.ask(*words) == f"ERR wrong number of arguments for '{words[0]}' command"


def test_too_many_words(wire: Wire) -> None:
    wire.ask("AI.TENSORSET", "t", "FLOAT", 1)
    reply = wire.ask("AI.TENSORGET", "t", "META", "BLOB", "VALUES", "META")
    assert isinstance(reply, Error)
    assert reply.startswith("ERR ")
