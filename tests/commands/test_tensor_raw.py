"""AI.TENSORSET RAW and AI.TENSORGET RAW: elements of STRING tensors that hold any bytes, also NULs."""

from __future__ import annotations

from itertools import chain

import pytest

from testkit.dags import OK, check
from testkit.server import Server
from testkit.wire import Error, Wire, Word

AMBIGUOUS = Error(
    "ERR an element of the tensor contains a null character, at which BLOB ends elements; use VALUES or RAW"
)
COUNT = Error("ERR wrong number of values was given in 'AI.TENSORSET' command")
ALL_BYTES = bytes(range(256))

ELEMENTS = pytest.mark.parametrize(
    ("shape", "elements"),
    [
        ([1], [b"a\0b"]),
        ([2], [b"\0", b"\0\0"]),
        ([2, 2], [ALL_BYTES, b"", b"tail\0", b"\0head"]),
        ([], [b"a\0b"]),
        ([3], [bytes(1 << 20), b"", ALL_BYTES * 5000]),
        ([1000], [b"%d\0%d" % (i, i) for i in range(1000)]),
    ],
    ids=["one", "NULs", "matrix", "scalar", "large", "many"],
)


@ELEMENTS
def test_elements_come_back_as_they_were(wire: Wire, shape: list[int], elements: list[bytes]) -> None:
    assert wire.ask("AI.TENSORSET", "t", "STRING", *shape, "RAW", *elements) == b"OK"
    meta = [b"dtype", b"STRING", b"shape", shape]
    for word in ("VALUES", "RAW", "raw"):
        assert wire.ask("AI.TENSORGET", "t", word) == elements
        assert wire.ask("AI.TENSORGET", "t", "META", word) == [*meta, b"values", elements]
    assert wire.ask("AI.TENSORGET", "t", "META") == meta
    for words in ([], ["BLOB"], ["META", "BLOB"], ["BLOB", "META"]):
        assert wire.ask("AI.TENSORGET", "t", *words) == AMBIGUOUS
    assert wire.ask("PING") == b"PONG", "one reply to one command"


def test_elements_without_nuls_are_as_any_others(wire: Wire) -> None:
    assert wire.ask("AI.TENSORSET", "t", "STRING", 3, "RAW", "one", "", "drei") == b"OK"
    assert wire.ask("AI.TENSORGET", "t", "BLOB") == b"one\0\0drei\0"
    assert wire.ask("AI.TENSORSET", "u", "STRING", 3, "VALUES", "one", "", "drei") == b"OK"
    assert wire.ask("DUMP", "t") == wire.ask("DUMP", "u")
    assert wire.ask("AI.TENSORGET", "u", "META", "RAW") == [
        b"dtype", b"STRING", b"shape", [3], b"values", [b"one", b"", b"drei"],
    ]  # fmt: skip
    assert wire.ask("AI.TENSORSET", "none", "STRING", 0, "RAW") == b"OK"
    assert wire.ask("AI.TENSORGET", "none", "RAW") == []
    assert wire.ask("AI.TENSORGET", "none", "BLOB") == b""


def test_a_final_nul_is_the_end_of_a_value_only(wire: Wire) -> None:
    wire.ask("AI.TENSORSET", "value", "STRING", 1, "VALUES", b"a\0")
    wire.ask("AI.TENSORSET", "raw", "STRING", 1, "RAW", b"a\0")
    assert wire.ask("AI.TENSORGET", "value", "VALUES") == [b"a"]
    assert wire.ask("AI.TENSORGET", "raw", "VALUES") == [b"a\0"]


def test_equal_bytes_and_other_elements_are_other_tensors(wire: Wire) -> None:
    wire.ask("AI.TENSORSET", "t", "STRING", 2, "RAW", b"a\0b", b"c")
    wire.ask("AI.TENSORSET", "u", "STRING", 2, "RAW", b"a", b"b\0c")
    one, other = wire.ask("DEBUG", "DIGEST-VALUE", "t", "u")
    assert one != other
    assert wire.ask("COPY", "t", "copy") == 1
    assert wire.ask("DEBUG", "DIGEST-VALUE", "copy") == [one]


def test_raw_of_a_number_is_its_blob(wire: Wire) -> None:
    """So a client gets any tensor by one command, whatever its type."""
    wire.ask("AI.TENSORSET", "t", "INT16", 2, "VALUES", 1, -2)
    assert wire.ask("AI.TENSORGET", "t", "RAW") == b"\1\0\xfe\xff"
    assert wire.ask("AI.TENSORGET", "t", "META", "RAW") == wire.ask("AI.TENSORGET", "t", "META", "BLOB")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["FLOAT", 1, "RAW", b"1234"], "ERR RAW is for STRING tensors only, use BLOB or VALUES"),
        (["FLOAT", "RAW"], "ERR RAW is for STRING tensors only, use BLOB or VALUES"),
        (["STRING", 2, "RAW", b"a\0"], COUNT),
        (["STRING", 2, "RAW"], COUNT),
        (["STRING", 2, "RAW", b"a", b"b", b"c"], COUNT),
        (["STRING", "RAW"], COUNT),
        (["STRING", 0, "RAW", b""], COUNT),
        (["STRING", 2**61, "RAW", b"a"], None),
        (["STRING", 2**32, 2**32, "RAW", b"a"], None),
        (["STRING", -1, "RAW", b"a"], "ERR invalid or negative value found in tensor shape"),
        (["STRING", 1, "RAWS", b"a"], "ERR invalid or negative value found in tensor shape"),
    ],
)
def test_wrong_words_of_tensorset(wire: Wire, words: list[Word], text: str | None) -> None:
    reply = wire.ask("AI.TENSORSET", "t", *words)
    assert reply == text or (text is None and isinstance(reply, Error) and "exceeds the limit" in reply)
    assert wire.ask("EXISTS", "t") == 0


@pytest.mark.parametrize("words", ["BLOB RAW", "RAW BLOB", "VALUES RAW", "RAW VALUES"])
def test_wrong_words_of_tensorget(wire: Wire, words: str) -> None:
    wire.ask("AI.TENSORSET", "t", "STRING", 1, "RAW", b"a\0b")
    other = words.replace("RAW", "").strip()
    assert wire.ask("AI.TENSORGET", "t", *words.split()) == f"ERR both {other} and RAW specified"


@pytest.mark.parametrize("command", ["AI.DAGEXECUTE PERSIST 1 t", "AI.DAGRUN PERSIST 1 t"])
def test_in_a_dag(wire: Wire, command: str) -> None:
    """An element is data, also where it looks like what separates commands."""
    elements = [b"|>", b"\0", b"BLOB", b"|>"]
    set_words: list[Word] = ["|>", "AI.TENSORSET", "t", "STRING", 2, 2, "RAW", *elements]
    gets = [("|>", "AI.TENSORGET", "t", *word) for word in (["RAW"], ["VALUES"], [], ["BLOB"])]
    check(wire.ask(*command.split(), *set_words, *chain(*gets)), [OK, elements, elements, AMBIGUOUS, AMBIGUOUS])
    assert wire.ask("AI.TENSORGET", "t", "RAW") == elements


@pytest.mark.parametrize("shape", [[3], [2, 2], [0], ["x"], [-1], [2**62, 8]], ids=str)
def test_a_wrong_number_in_a_dag(wire: Wire, shape: list[Word]) -> None:
    words: list[Word] = ["|>", "AI.TENSORSET", "t", "STRING", *shape, "RAW", b"a\0", b"|", "|>", "AI.TENSORGET", "t"]
    reply = wire.ask("AI.DAGEXECUTE", "PERSIST", 1, "t", *words)
    assert isinstance(reply, Error)
    assert wire.ask("EXISTS", "t") == 0
    assert wire.ask("PING") == b"PONG"


@pytest.mark.parametrize("protocol", [2, 3])
def test_in_a_transaction(server: Server, protocol: int) -> None:
    with server.wire(protocol) as wire:
        wire.ask("MULTI")
        wire.ask("AI.TENSORSET", "t", "STRING", 1, "RAW", b"a\0b")
        wire.ask("AI.TENSORGET", "t", "RAW")
        assert wire.ask("EXEC") == [b"OK", [b"a\0b"]]


def test_memory_usage_counts_elements(wire: Wire) -> None:
    wire.ask("AI.TENSORSET", "t", "STRING", 2, "RAW", bytes(100_000), b"\0")
    assert 100_000 < wire.ask("MEMORY", "USAGE", "t") < 130_000
