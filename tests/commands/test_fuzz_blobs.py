"""Mutated models through AI.MODELSTORE, and what of them can be stored is run: an error or a result, and no crash.

TensorFlow Lite has its own test: its library checks what it reads less than the others do, and crafted files are known
to crash it. There only a crash of ours is a failure. FUZZ_BLOBS=1000 tries so many of each backend, SEED=7 others.
"""

from __future__ import annotations

import io
import os
import random
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import pytest

from testkit import models, tf_models
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.conftest import StartServer

BLOBS = int(os.environ.get("FUZZ_BLOBS", 60))
SEED = int(os.environ.get("SEED", 1))

# What is mutated, and the words between device and BLOB.
SOUND: dict[str, list[tuple[Callable[[], bytes], Sequence[Word]]]] = {
    "ONNX": [
        (models.onnx_linear, ()),
        (models.onnx_split3, ()),
        (models.onnx_sequence, ()),
        (models.onnx_nonzero, ()),
        (models.onnx_add, ("BATCHSIZE", 4)),
        (lambda: models.onnx_padded(20_000), ()),  # a weight that the library is given apart
    ],
    "TORCH": [
        (lambda: models.torch_module(models.SumAndProduct), ()),
        (lambda: models.torch_module(models.InPlaceInner), ("BATCHSIZE", 4)),
    ],
    "TF": [
        (tf_models.tf_mul, ("INPUTS", 2, "a", "b", "OUTPUTS", 1, "mul")),
        (tf_models.tf_identity, ("INPUTS", 1, "x", "OUTPUTS", 1, "y", "BATCHSIZE", 4)),
    ],
    "TFLITE": [(tf_models.tflite_two, ())],
}


def mutated(chance: random.Random, backend: str, blob: bytes) -> bytes:
    """Half of them on the surface, half so that the file is still whole and something within it is not."""
    if chance.random() < 0.5 or backend == "TFLITE":
        return other_bytes(chance, blob)
    if backend == "TORCH":
        return other_member(chance, blob)
    message = onnx.ModelProto() if backend == "ONNX" else tf_models.tensorflow().compat.v1.GraphDef()
    message.ParseFromString(blob)
    for _ in range(chance.choice((1, 1, 2, 4))):
        change_message(chance, message)
    return bytes(message.SerializeToString())


def other_bytes(chance: random.Random, blob: bytes) -> bytes:
    changed = bytearray(blob)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(changed) or 1)
        how = chance.choice(("bit", "bit", "byte", "byte", "edge", "insert", "delete"))
        if how == "edge":
            changed[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
        elif how == "insert" or not changed:
            changed[at:at] = chance.randbytes(chance.choice((1, 4, 40)))
        elif how == "delete":
            del changed[at : at + chance.choice((1, 4, 40))]
        else:
            changed[at] = changed[at] ^ 1 << chance.randrange(8) if how == "bit" else chance.randrange(256)
    return bytes(changed)


def other_member(chance: random.Random, blob: bytes) -> bytes:
    """One file of the archive is another; the archive is whole, its checksums too."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(blob)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        spoilt = chance.choice([name for name in names if name.endswith((".pkl", ".py", "version"))])
        for name in names:
            data = old.read(name)
            new.writestr(name, other_bytes(chance, data) if name == spoilt and data else data)
    return out.getvalue()


TEXTS = (
    "",
    "x",
    "y",
    "a",
    "b",
    "sum",
    "Add",
    "Loop",
    "Split",
    "Reshape",
    "Const",
    "NoOp",
    "Identity",
    "n",
    "\u0113" * 9,
)
NUMBERS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 17, 100, 1000, 2**31 - 1)


def change_message(chance: random.Random, message: Any) -> None:
    """One field, somewhere, is another. Numbers that do not fit leave it as it was."""
    fields = message.ListFields()
    if not fields:
        return
    descriptor, value = chance.choice(fields)
    if hasattr(value, "keys"):  # a map
        value.pop(chance.choice(list(value.keys())))
        return
    repeated = not isinstance(value, (int, float, str, bytes)) and not hasattr(value, "ListFields")
    if repeated and chance.random() < 0.3:
        at = chance.randrange(len(value))
        del value[at]
        return
    index = chance.randrange(len(value)) if repeated else 0
    item = value[index] if repeated else value
    if hasattr(item, "ListFields"):
        change_message(chance, item)
        return
    changed: object = chance.choice(NUMBERS)
    if isinstance(item, str):
        changed = chance.choice(TEXTS)
    elif isinstance(item, bytes):
        changed = other_bytes(chance, item)
    with suppress(ValueError, TypeError):
        if repeated:
            value[index] = changed
        else:
            setattr(message, descriptor.name, changed)


def attempts(backend: str) -> Iterator[tuple[bytes, Sequence[Word]]]:
    chance = random.Random(f"{SEED}{backend}")
    for _ in range(BLOBS):
        sound, options = chance.choice(SOUND[backend])
        yield mutated(chance, backend, sound()), options


def inputs(wire: Wire) -> None:
    for words in (
        ("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2),
        ("AI.TENSORSET", "x4", "FLOAT", 2, 4),
        ("AI.TENSORSET", "x3", "FLOAT", 3, "VALUES", 1, 0, 2),
    ):
        assert wire.ask(*words) == b"OK"


def attempt(wire: Wire, backend: str, blob: bytes, options: Sequence[Word]) -> bool:
    """Whether it could be stored. Then it is run with all that might fit."""
    reply = wire.ask("AI.MODELSTORE", "m", backend, "CPU", *options, "BLOB", blob)
    if isinstance(reply, Error):
        assert reply.startswith("ERR "), reply
        return False
    assert reply == b"OK"
    meta = wire.ask("AI.MODELGET", "m", "META")
    counts = [len(meta[11]) or 1, len(meta[13]) or 1]
    if max(counts) > 1000:
        return True
    for x in ("x", "x4", "x3"):
        outputs = [f"out{i}" for i in range(counts[1])]
        words: tuple[Word, ...] = ("INPUTS", counts[0], *[x] * counts[0], "OUTPUTS", counts[1], *outputs)
        reply = wire.ask("AI.MODELEXECUTE", "m", *words, "TIMEOUT", 10000)
        assert reply in (b"OK", b"TIMEDOUT") or reply.startswith("ERR "), reply
    return True


@pytest.mark.timeout(100 + BLOBS)
@pytest.mark.parametrize("backend", ["ONNX", "TORCH", "TF"])
def test_mutated_blobs(server: Server, wire: Wire, backend: str) -> None:
    print(f"SEED={SEED} FUZZ_BLOBS={BLOBS}")
    stored = 0
    inputs(wire)
    for number, (blob, options) in enumerate(attempts(backend)):
        try:
            stored += attempt(wire, backend, blob, options)
        except (AssertionError, ConnectionError) as error:
            raise AssertionError(f"{backend}, number {number} of seed {SEED}: {error}\n{server.log_tail()}") from error
    print(f"{stored} of {BLOBS} could be stored")
    assert wire.ask("PING") == b"PONG", "one reply to each"
    sound, options = SOUND[backend][0]
    assert wire.ask("AI.MODELSTORE", "m", backend, "CPU", *options, "BLOB", sound()) == b"OK"


@pytest.mark.timeout(200 + 5 * BLOBS)
def test_mutated_blobs_of_tflite(start_server: StartServer, tmp_path: Path) -> None:
    print(f"SEED={SEED} FUZZ_BLOBS={BLOBS}")
    server = start_server()
    crashes = stored = 0
    wire = server.wire()
    inputs(wire)
    for number, (blob, options) in enumerate(attempts("TFLITE")):
        with suppress(ConnectionError):
            stored += attempt(wire, "TFLITE", blob, options)
            continue
        wire.close()
        wait_for(lambda: server.process and server.process.poll() is not None, what="the server has ended")
        report = server.log()
        assert is_in_library(report), f"number {number} of seed {SEED}:\n{server.log_tail()}"
        crashes += 1
        server.log_file.rename(tmp_path / f"crash{crashes}.log")
        server.start()
        wire = server.wire()
        inputs(wire)
    print(f"{stored} of {BLOBS} could be stored, {crashes} crashed the library")
    assert wire.ask("PING") == b"PONG", "one reply to each"
    wire.close()
    assert server.stop() == 0


def is_in_library(log: str) -> bool:
    """Whether the crash report's stack begins in the library of TensorFlow Lite, or in the C library below it."""
    _, _, trace = log.partition("Backtrace:\n")
    for line in trace.splitlines()[:40]:
        if re.search(r"litert|tflite|tensorflow", line, re.IGNORECASE):
            return True
        if re.search(r"redisai\.so|redis-(server|check-rdb)|valkey-server", line) and "Handler" not in line:
            return False
    return False
