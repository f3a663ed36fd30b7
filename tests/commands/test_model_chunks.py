"""Models in several pieces: BLOB a b c in, an array of chunks of MODEL_CHUNK_SIZE out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit import models
from testkit.server import Client
from testkit.wire import Wire

DEFAULT = 535822336


@pytest.fixture
def chunk_size(r: Client) -> Iterator[Client]:
    yield r
    r.execute_command("AI.CONFIG", "MODEL_CHUNK_SIZE", DEFAULT)


def pieces(blob: bytes, size: int) -> list[bytes]:
    """len / size + 1 of them: the last is empty where size divides the length."""
    return [blob[i * size : (i + 1) * size] for i in range(len(blob) // size + 1)]


@pytest.mark.parametrize("size", [1, 50, 64, 100])
def test_get_in_chunks(chunk_size: Client, wire: Wire, size: int) -> None:
    blob = models.onnx_add()
    assert len(blob) > size
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob) == b"OK"
    assert wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", size) == b"OK"
    chunks = wire.ask("AI.MODELGET", "m", "BLOB")
    assert len(chunks) == len(blob) // size + 1
    assert chunks == pieces(blob, size)
    assert wire.ask("AI.MODELGET", "m", "META", "BLOB")[16:] == [b"blob", chunks]


def test_where_the_size_divides_the_length(chunk_size: Client, wire: Wire) -> None:
    blob = models.onnx_add()
    divisor = next(d for d in range(2, len(blob)) if len(blob) % d == 0)
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob)
    wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", divisor)
    assert wire.ask("AI.MODELGET", "m", "BLOB") == pieces(blob, divisor)


def test_a_blob_that_just_fits_is_one_string(chunk_size: Client, wire: Wire) -> None:
    blob = models.onnx_add()
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob)
    wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", len(blob))
    assert wire.ask("AI.MODELGET", "m", "BLOB") == blob


@pytest.mark.parametrize("command", ["AI.MODELSTORE", "AI.MODELSET"])
@pytest.mark.parametrize("backend", ["ONNX", "TORCH"])
def test_store_in_pieces(chunk_size: Client, wire: Wire, command: str, backend: str) -> None:
    blob = models.onnx_add() if backend == "ONNX" else models.torch_module(models.Add)
    third = len(blob) // 3
    parts = [blob[:third], b"", blob[third : 2 * third], blob[2 * third :]]
    assert wire.ask(command, "m", backend, "CPU", "BLOB", *parts) == b"OK"
    assert wire.ask("AI.MODELGET", "m", "BLOB") == blob
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
    wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", 77)
    assert wire.ask("AI.MODELGET", "m", "BLOB") == pieces(blob, 77)


def test_very_many_pieces(wire: Wire) -> None:
    blob = models.onnx_loop()
    pieces = [blob[i : i + 1] for i in range(len(blob))]
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", *pieces) == b"OK"
    assert wire.ask("AI.MODELGET", "m", "BLOB") == blob


def test_a_chunked_model_runs_after_a_reload(chunk_size: Client, wire: Wire) -> None:
    blob = models.onnx_add()
    wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", 10)
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob) == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
    assert wire.ask("DEBUG", "RELOAD") == b"OK"
    assert b"".join(wire.ask("AI.MODELGET", "m", "BLOB")) == blob
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"2", b"4"]
