"""Random, truncated and damaged model blobs: an error or a model, the server stays up, memory comes back."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

import pytest

from testkit import models
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire

SEED = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
SOUND: dict[str, list[Callable[[], bytes]]] = {
    "ONNX": [models.onnx_linear, models.onnx_loop],
    "TORCH": [lambda: models.torch_module(models.SumAndProduct)],
}


def damaged(backend: str, count: int) -> Iterator[bytes]:
    chance = random.Random(f"{backend}{SEED}")
    for _ in range(count):
        blob = chance.choice(SOUND[backend])()
        yield chance.randbytes(chance.choice([1, 2, 10, 100, 5000]))
        yield blob[: chance.randrange(len(blob))]
        yield blob[chance.randrange(1, len(blob)) :]
        yield blob + chance.randbytes(100)
        changed = bytearray(blob)
        for _ in range(chance.randrange(1, 10)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        yield bytes(changed)


@pytest.mark.parametrize("backend", list(SOUND))
def test_damaged_blobs(server: Server, wire: Wire, backend: str) -> None:
    print(f"SEED={SEED}")
    sound = SOUND[backend][0]()
    assert wire.ask("AI.MODELSTORE", "sound", backend, "CPU", "BLOB", sound) == b"OK"
    wire.ask("FLUSHALL")
    before = server.used_memory()
    for number, blob in enumerate(damaged(backend, 20)):
        reply = wire.ask("AI.MODELSTORE", "m", backend, "CPU", "BLOB", blob)
        assert reply == b"OK" or isinstance(reply, Error), (SEED, number)
        if isinstance(reply, Error):
            assert reply.startswith("ERR "), (SEED, number)
    assert wire.ask("PING") == b"PONG", "one reply to each"
    assert wire.ask("AI.MODELSTORE", "sound", backend, "CPU", "BLOB", sound) == b"OK"
    wire.ask("FLUSHALL")
    wait_for(lambda: server.used_memory() < before + (1 << 20), what="memory comes back")


def test_large_broken_blobs_leave_nothing_behind(server: Server, wire: Wire) -> None:
    before = server.used_memory()
    blob = random.Random(SEED).randbytes(8 << 20)
    for backend in SOUND:
        for _ in range(5):
            reply = wire.ask("AI.MODELSTORE", "m", backend, "CPU", "BLOB", blob)
            assert isinstance(reply, Error) and reply.startswith(models.UNREADABLE[backend])
    wait_for(lambda: server.used_memory() < before + (1 << 20), what="memory comes back")
