"""Models that never finish compiling, stored where a client cannot be blocked: all clients wait, but not for long, and
not once for each model."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from testkit import models, samples
from testkit.server import Server
from testkit.wire import Error, Wire, Word
from tests.conftest import StartServer

PATIENCE = 5.0  # seconds
LATE = 3.0
TOO_SLOW = Error("ERR not compiled within 5 s; store it outside of transactions and scripts")
EVAL = "local t = {} for i = 1, 3 do t[i] = redis.pcall('AI.MODELSTORE', KEYS[i], unpack(ARGV)) end return t"


def words(key: str) -> tuple[Word, ...]:
    return ("AI.MODELSTORE", key, "ONNX", "CPU", "BLOB", models.onnx_add())


def transaction(wire: Wire) -> object:
    wire.ask("MULTI")
    for key in "abc":
        wire.ask(*words(key))
    return wire.ask("EXEC")


def script(wire: Wire) -> object:
    return wire.ask("EVAL", EVAL, 3, "a", "b", "c", *words("")[2:])


def three_models_wait_as_long_as_one(stuck: Server, store: Callable[[Wire], object]) -> None:
    with stuck.wire() as wire:
        for _ in range(2):  # each transaction has a limit of its own
            begin = time.monotonic()
            assert store(wire) == [TOO_SLOW] * 3
            assert PATIENCE - 0.1 < time.monotonic() - begin < PATIENCE + LATE
        assert wire.ask("EXISTS", "a", "b", "c") == 0


def backends_count_too(stuck: Server) -> None:
    with stuck.wire() as wire:
        wire.ask("MULTI")
        wire.ask(*words("a"))
        wire.ask("AI.CONFIG", "LOADBACKEND", "ONNX", "redisai_onnxruntime")
        begin = time.monotonic()
        stored, loaded = wire.ask("EXEC")
        assert time.monotonic() - begin < PATIENCE + LATE
        assert stored == TOO_SLOW
        assert loaded == "ERR not loaded within 5 s; load it outside of transactions and scripts"


def test_one_patience_for_all(start_server: StartServer, tmp_path: Path) -> None:
    """On three servers, which wait at the same time. The loader of each gets stuck for ever with the first model."""
    backends, _ = samples.slow_backend(tmp_path)
    one, other, third = (start_server(options=["BACKENDSPATH", str(backends)]) for _ in range(3))
    with ThreadPoolExecutor() as pool:
        waiting = [
            pool.submit(three_models_wait_as_long_as_one, one, transaction),
            pool.submit(three_models_wait_as_long_as_one, other, script),
            pool.submit(backends_count_too, third),
        ]
    for each in waiting:
        each.result()
