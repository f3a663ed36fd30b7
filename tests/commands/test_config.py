"""AI.CONFIG: backends, their path, the size of chunks; every error text."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit import models
from testkit.server import module_path
from testkit.wire import Error, Simple, Wire, Word
from tests.conftest import StartServer

BACKENDS = {
    "ONNX": "redisai_onnxruntime/redisai_onnxruntime.so",
    "TORCH": "redisai_torch/redisai_torch.so",
}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["FOO", "x"], "ERR unsupported subcommand"),
        (["FOO"], "ERR unsupported subcommand"),
        (["SET", "MODEL_CHUNK_SIZE", "100"], "ERR unsupported subcommand"),
        (["BACKENDSPATH"], "ERR BACKENDSPATH: missing path argument"),
        (["MODEL_CHUNK_SIZE"], "ERR MODEL_CHUNK_SIZE: missing chunk size"),
        (["MODEL_CHUNK_SIZE", "x"], "ERR MODEL_CHUNK_SIZE: invalid chunk size"),
        (["MODEL_CHUNK_SIZE", "0"], "ERR MODEL_CHUNK_SIZE: invalid chunk size"),
        (["MODEL_CHUNK_SIZE", "-1"], "ERR MODEL_CHUNK_SIZE: invalid chunk size"),
        (["MODEL_CHUNK_SIZE", "1.5"], "ERR MODEL_CHUNK_SIZE: invalid chunk size"),
        (["MODEL_CHUNK_SIZE", ""], "ERR MODEL_CHUNK_SIZE: invalid chunk size"),
        (["LOADBACKEND", "FOO", "x.so"], "ERR unsupported backend"),
        (["LOADBACKEND", "ONNXRUNTIME", "x.so"], "ERR unsupported backend"),
    ],
)
def test_errors(wire: Wire, words: list[Word], text: str) -> None:
    assert wire.ask("AI.CONFIG", *words) == text
    assert wire.ask("PING") == b"PONG"


def test_too_few_words(wire: Wire) -> None:
    assert wire.ask("AI.CONFIG") == "ERR wrong number of arguments for 'AI.CONFIG' command"
    for words in (["LOADBACKEND"], ["LOADBACKEND", "TORCH"], ["GET"]):
        assert wire.ask("AI.CONFIG", *words) == "ERR wrong number of arguments for 'AI.CONFIG' command"


def test_a_backend_that_is_not_there(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(options=["BACKENDSPATH", str(tmp_path)])
    with server.wire() as wire:
        for backend in ("TF", "TFLITE", "TORCH", "ONNX"):
            for path in ("nowhere/nothing.so", "/nowhere/nothing.so", "", "../../etc"):
                assert wire.ask("AI.CONFIG", "LOADBACKEND", backend, path) == "ERR error loading backend"
        assert wire.ask("PING") == b"PONG"


@pytest.mark.parametrize("command", ["AI.CONFIG", "ai.config"])
def test_chunk_size(wire: Wire, command: str) -> None:
    assert wire.ask(command, "GET", "MODEL_CHUNK_SIZE") == 535822336
    try:
        reply = wire.ask(command, "model_chunk_size", 1024)
        assert (type(reply), reply) == (Simple, b"OK")
        assert wire.ask(command, "get", "model_chunk_size") == 1024
    finally:
        wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", 535822336)


def test_get(wire: Wire) -> None:
    path = wire.ask("AI.CONFIG", "GET", "BACKENDSPATH")
    assert Path(path.decode()).resolve() == (module_path().parent / "backends").resolve()
    assert wire.ask("AI.CONFIG", "GET", "FOO") is None
    assert wire.ask("AI.CONFIG", "GET", "THREADS_PER_QUEUE") is None


def test_backends_path_is_used_from_then_on(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(options=["BACKENDSPATH", str(tmp_path)])
    blob = models.onnx_add()
    with server.wire() as wire:
        assert wire.ask("AI.CONFIG", "GET", "BACKENDSPATH") == str(tmp_path).encode()
        assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob).startswith("ERR Could not load backend")
        real = str(module_path().parent / "backends")
        assert wire.ask("AI.CONFIG", "BACKENDSPATH", real) == b"OK"
        assert wire.ask("AI.CONFIG", "GET", "backendspath") == real.encode()
        assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob) == b"OK", "a failure is not remembered"


@pytest.mark.parametrize(
    ("backend", "rest"),
    [("ONNX", []), ("TORCH", []), ("TFLITE", []), ("TF", ["INPUTS", 1, "a", "OUTPUTS", 1, "b"])],
)
def test_storing_a_model_whose_backend_is_not_there(
    start_server: StartServer, tmp_path: Path, backend: str, rest: list[Word]
) -> None:
    with start_server(options=["BACKENDSPATH", str(tmp_path)]).wire() as wire:
        reply = wire.ask("AI.MODELSTORE", "m", backend, "CPU", *rest, "BLOB", b"x" * 100)
        assert isinstance(reply, Error)
        assert reply.startswith("ERR Could not load backend")
        assert wire.ask("EXISTS", "m") == 0
        assert wire.ask("AI._MODELSCAN") == []


@pytest.mark.parametrize("backend", list(BACKENDS))
@pytest.mark.parametrize("absolute", [False, True])
def test_load_backend(start_server: StartServer, backend: str, absolute: bool) -> None:
    path = BACKENDS[backend]
    if absolute:
        path = str(module_path().parent / "backends" / path)
    with start_server().wire() as wire:
        assert wire.ask("AI.CONFIG", "LOADBACKEND", backend, path) == b"OK"
        assert isinstance(wire.ask("AI.CONFIG", "LOADBACKEND", backend.lower(), path), bytes | str)
        blob = models.onnx_add() if backend == "ONNX" else models.torch_module(models.Add)
        assert wire.ask("AI.MODELSTORE", "m", backend, "CPU", "BLOB", blob) == b"OK"


def test_installed_backends_can_be_seen_from_outside() -> None:
    for path in BACKENDS.values():
        assert (module_path().parent / "backends" / path).exists(), path
