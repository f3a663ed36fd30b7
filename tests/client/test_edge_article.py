"""Inference on a stream, as the article "High-performance Edge inference with RedisAI" shows it in Go: what the two
libraries of that program, go-redis 8 and redisai-go, send, and what they need of the replies.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from testkit import graph_def
from testkit.info import info
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Simple, Wire, encode

PAIRS = 10
MULTIPLY = b"".join(
    graph_def.node(name, op, inputs)
    for name, op, inputs in [("a", "Placeholder", ""), ("b", "Placeholder", ""), ("c", "Mul", "a b")]
)


def stream_text(number: np.float32) -> str:
    """As go-redis writes a float32: made a float64 first, without exponent."""
    return np.format_float_positional(np.float64(number), trim="-")


def tensor_text(number: np.float32) -> str:
    """As redisai-go writes it: the shortest digits of a float32, with an exponent below 0.0001."""
    if 0 < number < 1e-4:
        return np.format_float_scientific(number, trim="-", exp_digits=2)
    return np.format_float_positional(number, trim="-")


def is_bulk(reply: Any) -> bool:
    return isinstance(reply, bytes) and not isinstance(reply, Simple)


def inference(client: Wire) -> float:
    """One round of the program behind XREAD's reply, which it reads: the product."""
    (((stream, ((_, fields),)),)) = client.read()
    assert stream == b"inference_stream" and fields[::2] == [b"a", b"b"]
    x, y = (np.float32(float(text)) for text in fields[1::2])
    pipeline = [
        encode(("AI.TENSORSET", "a", "FLOAT", 1, "VALUES", tensor_text(x))),
        encode(("AI.TENSORSET", "b", "FLOAT", 1, "VALUES", tensor_text(y))),
        encode(("AI.MODELRUN", "inference_model", "INPUTS", "a", "b", "OUTPUTS", "c")),
        encode(("AI.TENSORGET", "c", "META", "VALUES")),
    ]
    client.socket.sendall(b"".join(pipeline))
    assert [client.read() for _ in range(3)] == [b"OK"] * 3
    *meta, name, values = client.read()
    assert meta == [b"dtype", b"FLOAT", b"shape", [1]] and name == b"values"
    (value,) = values
    assert is_bulk(value)
    return float(np.float32(value.decode()))


def test_products(server: Server) -> None:
    dice = random.Random(16)
    pairs = [tuple(np.float32(dice.getrandbits(24) / 2**24) for _ in "ab") for _ in range(PAIRS)]
    pairs += [(np.float32(2**-24), np.float32(0)), (np.float32(1e-5), np.float32(1 - 2**-24))]
    with server.wire() as main, server.wire() as client, server.wire() as other:
        words = ("AI.MODELSET", "inference_model", "TF", "CPU", "INPUTS", "a", "b", "OUTPUTS", "c", "BLOB", MULTIPLY)
        main.ask_ok(*words)
        for runs, (x, y) in enumerate(pairs, start=1):
            client.send("xread", "block", 0, "streams", "inference_stream", "$")
            wait_for(lambda: info(other, "clients")["blocked_clients"] == "1", what="the program waits for an entry")
            main.ask("xadd", "inference_stream", "*", "a", stream_text(x), "b", stream_text(y))
            assert inference(client) == x * y
            reply = client.ask("AI.INFO", "inference_model")
            # The library takes bulk strings and integers only, and ends the program at others.
            assert all(map(is_bulk, reply[::2])) and all(is_bulk(v) or isinstance(v, int) for v in reply[1::2])
            fields = dict(zip(reply[::2], reply[1::2], strict=True))
            assert (fields[b"calls"], fields[b"errors"]) == (runs, 0) and fields[b"duration"] > 0
