"""redisAI.tensor_to_bytes and redisAI.tensor_from_bytes: vectors that scripts give to Redis and take from it."""

from __future__ import annotations

import numpy as np
import pytest

from testkit.scripts import execute, function, store
from testkit.wire import Error, Wire

TYPES = {
    "FLOAT": "float32", "DOUBLE": "float64", "INT8": "int8", "INT64": "int64", "UINT8": "uint8", "BOOL": "bool",
    "FLOAT16": "float16", "BFLOAT16": "bfloat16",
}  # fmt: skip
SOURCE = "\n".join(
    [
        function("keep", 'redis.execute("SET", keys[0], redisAI.tensor_to_bytes(tensors[0]))'),
        function("transposed", 'redis.execute("SET", keys[0], redisAI.tensor_to_bytes(tensors[0].t()))'),
        function("length", "return torch.tensor(len(redisAI.tensor_to_bytes(tensors[0])))"),
        *(
            function(
                f"get_{dtype}",
                'data = str(redis.execute("GET", keys[0]))\n'
                f"    return redisAI.tensor_from_bytes(data, torch.{dtype}, [int(arg) for arg in args])",
            )
            for dtype in TYPES.values()
        ),
    ]
)
ENTRY_POINTS = ("keep", "transposed", "length", *(f"get_{dtype}" for dtype in TYPES.values()))


@pytest.fixture(autouse=True)
def stored(wire: Wire) -> None:
    store(wire, "s", SOURCE, ENTRY_POINTS)


@pytest.mark.parametrize("dtype", TYPES)
def test_there_and_back(wire: Wire, dtype: str) -> None:
    blob = bytes(range(0, 256, 2)) if dtype != "BOOL" else bytes([1, 0] * 64)
    size = {"DOUBLE": 8, "INT64": 8, "FLOAT": 4, "FLOAT16": 2, "BFLOAT16": 2}.get(dtype, 1)
    wire.ask_ok("AI.TENSORSET", "t", dtype, 2, 64 // size, "BLOB", blob)
    assert wire.ask(*execute("s", "keep", ["k"], ["t"])) == b"OK"
    assert wire.ask("GET", "k") == blob
    assert wire.ask(*execute("s", f"get_{TYPES[dtype]}", ["k"], [], ["2", "-1"], ["back"])) == b"OK"
    for words in ("META",), ("BLOB",):
        assert wire.ask("AI.TENSORGET", "back", *words) == wire.ask("AI.TENSORGET", "t", *words)


def test_odd_tensors(wire: Wire) -> None:
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    wire.ask_ok("AI.TENSORSET", "t", "FLOAT", 2, 3, "BLOB", array.tobytes())
    assert wire.ask(*execute("s", "transposed", ["k"], ["t"])) == b"OK"
    assert wire.ask("GET", "k") == array.T.tobytes()
    for shape, length in ([], 4), ([0, 3], 0):
        wire.ask_ok("AI.TENSORSET", "t", "FLOAT", *shape, "BLOB", bytes(length))
        assert wire.ask(*execute("s", "length", [], ["t"], [], ["n"])) == b"OK"
        assert wire.ask("AI.TENSORGET", "n", "VALUES") == [length]
    wire.ask("SET", "k", b"")
    assert wire.ask(*execute("s", "get_int64", ["k"], [], ["0", "2"], ["back"])) == b"OK"
    assert wire.ask("AI.TENSORGET", "back", "META")[3] == [0, 2]


def test_errors(wire: Wire) -> None:
    wire.ask("SET", "k", b"abcde")
    reply = wire.ask(*execute("s", "get_float32", ["k"], [], ["-1"], ["back"]))
    text = "redisAI.tensor_from_bytes: 5 bytes are no elements of torch.float32 (line "
    assert isinstance(reply, Error) and text in reply and reply.endswith(", in get_float32)")
    reply = wire.ask(*execute("s", "get_uint8", ["k"], [], ["2"], ["back"]))
    assert isinstance(reply, Error) and "shape '[2]' is invalid for input of size 5" in reply
    wire.ask("SET", "k", b"\2\1\0")  # a tensor of BOOL has 0 and 1 only
    assert wire.ask(*execute("s", "get_bool", ["k"], [], ["3"], ["back"])) == b"OK"
    assert wire.ask("AI.TENSORGET", "back", "BLOB") == b"\1\1\0"
