"""Load-time options: what each does, and that a bad one keeps the server from starting, with the reason in its log."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from testkit import graph_def, models, tf_models
from testkit.info import module_sections
from testkit.networks import onnx_blob
from testkit.server import Server, ServerExit, module_path
from testkit.values import Model
from testkit.waiting import wait_for
from testkit.wire import Error, Word
from tests.conftest import Slow, StartServer

EXCEEDED = "ERR Exception during initialization: Onnxruntime memory limit exceeded, memory allocation failed."
BACKENDS = module_path().parent / "backends"


def run_a_model(server: Server, backend: str) -> None:
    blob = models.onnx_add() if backend == "ONNX" else models.torch_module(models.Add)
    with server.wire() as wire:
        assert wire.ask("AI.MODELSTORE", "m", backend, "CPU", "BLOB", blob) == b"OK"
        assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2) == b"OK"
        assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
        assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"2", b"4"]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["THREADS_PER_QUEUE", 3], {"threads_per_queue": "3"}),
        (["threads_per_queue", 2], {"threads_per_queue": "2"}),
        (["INTRA_OP_PARALLELISM", 1], {"intra_op_parallelism": "1", "inter_op_parallelism": "0"}),
        (["INTER_OP_PARALLELISM", 2], {"intra_op_parallelism": "0", "inter_op_parallelism": "2"}),
        (["INTRA_OP_PARALLELISM", 0, "INTER_OP_PARALLELISM", 0], {"intra_op_parallelism": "0"}),
        (["MODEL_EXECUTION_TIMEOUT", 1000], {"model_execution_timeout": "1000"}),
        (["Model_Execution_Timeout", 60000], {"model_execution_timeout": "60000"}),
        (["BACKEND_MEMORY_LIMIT", 500], {"backend_memory_limit": "500"}),
        (["BACKEND_MEMORY_LIMIT", 0], {"backend_memory_limit": "0"}),
    ],
)  # fmt: skip
def test_numbers(start_server: StartServer, options: list[str | int], shown: dict[str, str]) -> None:
    server = start_server(options=options)
    with server.wire() as wire:
        configs = module_sections(wire, "MODULES")["load_time_configs"]
    assert shown.items() <= configs.items()
    run_a_model(server, "ONNX")


def test_two_workers_of_one_queue(start_server: StartServer, slow: Slow) -> None:
    """One answers while the other is busy."""
    server = start_server(options=["THREADS_PER_QUEUE", 2, "INTRA_OP_PARALLELISM", 1])
    with server.wire() as busy:
        busy.send(*slow(busy, 1.0))
        wait_for(lambda: server.blocked_clients() == 1)
        run_a_model(server, "ONNX")
        assert server.blocked_clients() == 1
        assert busy.read() == b"OK"


def test_model_execution_timeout_ends_a_run(start_server: StartServer, slow: Slow) -> None:
    server = start_server(options=["MODEL_EXECUTION_TIMEOUT", 1000])
    with server.wire() as wire:
        reply, seconds = wire.timed(*slow(wire, 4.0))
        assert isinstance(reply, Error)
        assert reply.startswith("ERR ")
        assert 0.9 < seconds < 2.5
        assert wire.ask("EXISTS", "slow:out") == 0
        assert wire.ask(*slow(wire, 0.01)) == b"OK"


def product(x: Any) -> Any:
    return tf_models.tensorflow().matmul(x, x, transpose_b=True, name="y")


OUTER: dict[str, Callable[[], Model]] = {
    "ONNX": lambda: Model("ONNX", models.onnx_outer()),
    "TF": lambda: Model(
        "TF", tf_models.graph(lambda tf: product(tf_models.placeholder())), inputs=("x",), outputs=("y",)
    ),
    "TFLITE": lambda: Model("TFLITE", tf_models.tflite(product, tf_models.spec([None, 1]))),
}


@pytest.mark.parametrize("backend", OUTER)
def test_backend_memory_limit(start_server: StartServer, backend: str) -> None:
    """TensorFlow waits 10 s for memory before it says that there is none."""
    patient: list[str | int] = ["MODEL_EXECUTION_TIMEOUT", 60_000]
    limited, free = start_server(options=["BACKEND_MEMORY_LIMIT", 10, *patient]), start_server(options=patient)
    for server in (limited, free):
        with server.wire() as wire:
            assert wire.ask(*OUTER[backend]().words("outer")) == b"OK"
            for rows, fits in ((10, True), (3000, server is free), (10, True)):
                wire.ask("AI.TENSORSET", "x", "FLOAT", rows, 1)
                reply = wire.ask("AI.MODELEXECUTE", "outer", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
                assert (reply == b"OK") == fits, reply
                if not fits:
                    assert "BACKEND_MEMORY_LIMIT" in reply


def test_the_memory_limit_counts_the_weights(start_server: StartServer) -> None:
    """Two models of 4 MB. Weights that the limit did not allow made it hold for no run any more."""
    server = start_server(options=["BACKEND_MEMORY_LIMIT", 6])
    weights = np.ones((1000, 1000), np.float32)
    blob = onnx_blob([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights}, [1, 1000], [1, 1000])
    with server.wire() as wire:
        assert wire.ask("AI.MODELSTORE", "outer", "ONNX", "CPU", "BLOB", models.onnx_outer()) == b"OK"
        assert wire.ask("AI.MODELSTORE", "first", "ONNX", "CPU", "BLOB", blob) == b"OK"
        reply = wire.ask("AI.MODELSTORE", "second", "ONNX", "CPU", "BLOB", blob)
        assert reply == EXCEEDED
        assert "the ONNX models take more memory than BACKEND_MEMORY_LIMIT allows, 6 MB" in server.log()
        for rows, fits in ((800, False), (500, True)):  # 2.6 MB and 1 MB; 2.3 are left
            wire.ask("AI.TENSORSET", "x", "FLOAT", rows, 1)
            reply = wire.ask("AI.MODELEXECUTE", "outer", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
            assert (reply == b"OK") == fits, reply
        wire.ask("DEL", "first")
        wait_for(lambda: wire.ask("AI.MODELSTORE", "second", "ONNX", "CPU", "BLOB", blob) == b"OK")


def test_the_memory_limit_counts_the_weights_of_tensorflow(start_server: StartServer) -> None:
    """Where other models have the memory, the library waits 10 s for it. What can never fit is refused before."""
    server = start_server(options=["BACKEND_MEMORY_LIMIT", 6, "MODEL_EXECUTION_TIMEOUT", 60_000])

    def words(key: str, rows: int) -> tuple[Word, ...]:
        blob = graph_def.node("x", "Placeholder") + graph_def.node("y", "MatMul", "x w")
        blob += graph_def.node("w", "Const", constant=np.ones((rows, 1000), np.float32))
        return Model("TF", blob, inputs=("x",), outputs=("y",)).words(key)

    with server.wire() as wire:
        assert wire.ask(*words("first", 1000)) == b"OK"
        begin = time.monotonic()
        reply = wire.ask(*words("large", 2000))
        assert reply == "ERR the model's weights take 8 MB, more than BACKEND_MEMORY_LIMIT allows, 6 MB"
        assert time.monotonic() < begin + 5
        reply = wire.ask(*words("second", 1000))
        assert reply == "ERR no memory for 4000000 bytes; BACKEND_MEMORY_LIMIT sets how much there is"
        wire.ask("DEL", "first")
        wait_for(lambda: wire.ask(*words("second", 1000)) == b"OK", 30)
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 1000)
        assert wire.ask("AI.MODELEXECUTE", "second", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"


def test_a_model_that_finds_memory_later(start_server: StartServer) -> None:
    """A database with more models than the limit allows: those that found none run once others are gone."""
    server = start_server("--save", "3600 1")
    weights = np.ones((1000, 1000), np.float32)
    blob = onnx_blob([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights}, [1, 1000], [1, 1000])
    with server.wire() as wire:
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 1000)
        for key in ("first", "second"):
            assert wire.ask("AI.MODELSTORE", key, "ONNX", "CPU", "BLOB", blob) == b"OK"
    server.stop()
    server.options = ["BACKEND_MEMORY_LIMIT", "6"]
    server.start()
    with server.wire() as wire:
        run = ("AI.MODELEXECUTE", "first", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        other = ("AI.MODELEXECUTE", "second", *run[2:])
        replies = [wire.ask(*run), wire.ask(*other)]
        assert b"OK" in replies
        (refused,) = [reply for reply in replies if reply != b"OK"]
        assert EXCEEDED in refused
        if replies[0] == refused:
            run, other = other, run
        wire.ask("DEL", run[1])
        wait_for(lambda: wire.ask(*other) == b"OK")


def test_chunk_size(start_server: StartServer) -> None:
    with start_server(options=["MODEL_CHUNK_SIZE", 100]).wire() as wire:
        assert wire.ask("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE") == 100


def test_a_backend_loaded_at_start(start_server: StartServer) -> None:
    """In any case; test_backends.py has other paths and libraries."""
    run_a_model(start_server(options=["onnx", "redisai_onnxruntime/redisai_onnxruntime.so"]), "ONNX")


def test_everything_at_once(start_server: StartServer) -> None:
    server = start_server(
        options=["BACKENDSPATH", str(BACKENDS), "ONNX", "redisai_onnxruntime/redisai_onnxruntime.so",
                 "TORCH", "redisai_torch/redisai_torch.so", "THREADS_PER_QUEUE", 2, "INTRA_OP_PARALLELISM", 1,
                 "INTER_OP_PARALLELISM", 1, "MODEL_CHUNK_SIZE", 1 << 20, "MODEL_EXECUTION_TIMEOUT", 2000,
                 "BACKEND_MEMORY_LIMIT", 1000]
    )  # fmt: skip
    run_a_model(server, "TORCH")
    run_a_model(server, "ONNX")


def test_no_option_at_all_through_a_symbolic_link(start_server: StartServer, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "redisai.so"
    link.parent.mkdir()
    link.symlink_to(module_path())
    server = start_server(module=link)
    run_a_model(server, "ONNX")
    run_a_model(server, "TORCH")


def test_from_a_configuration_file(start_server: StartServer, tmp_path: Path) -> None:
    """As deployments do it: loadmodule with its options in redis.conf, then other files included."""
    config = tmp_path / "redis.conf"
    config.write_text(
        f"loadmodule {module_path()} THREADS_PER_QUEUE 2 ONNX redisai_onnxruntime/redisai_onnxruntime.so\n"
    )
    server = start_server("--include", str(config), module=None)
    with server.wire() as wire:
        assert module_sections(wire, "MODULES")["load_time_configs"]["threads_per_queue"] == "2"
    run_a_model(server, "ONNX")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["THREADS_PER_QUEUE"], "argument|value|option|THREADS_PER_QUEUE"),
        (["THREADS_PER_QUEUE", "1", "ONNX"], "argument|value|option|ONNX"),
        (["NO_SUCH_OPTION", "1"], "NO_SUCH_OPTION"),
        (["", "1"], "option|name|argument"),
        (["THREADS_PER_QUEUE", "0"], "THREADS_PER_QUEUE"),
        (["THREADS_PER_QUEUE", "-1"], "THREADS_PER_QUEUE"),
        (["THREADS_PER_QUEUE", "two"], "THREADS_PER_QUEUE"),
        (["THREADS_PER_QUEUE", "1.5"], "THREADS_PER_QUEUE"),
        (["THREADS_PER_QUEUE", "99999999999999999999"], "THREADS_PER_QUEUE"),
        (["INTRA_OP_PARALLELISM", "-1"], "INTRA_OP_PARALLELISM"),
        (["INTRA_OP_PARALLELISM", "x"], "INTRA_OP_PARALLELISM"),
        (["INTER_OP_PARALLELISM", "-1"], "INTER_OP_PARALLELISM"),
        (["MODEL_CHUNK_SIZE", "0"], "MODEL_CHUNK_SIZE"),
        (["MODEL_CHUNK_SIZE", "x"], "MODEL_CHUNK_SIZE"),
        (["MODEL_EXECUTION_TIMEOUT", "999"], "MODEL_EXECUTION_TIMEOUT"),
        (["MODEL_EXECUTION_TIMEOUT", "-5"], "MODEL_EXECUTION_TIMEOUT"),
        (["MODEL_EXECUTION_TIMEOUT", "x"], "MODEL_EXECUTION_TIMEOUT"),
        (["BACKEND_MEMORY_LIMIT", "-1"], "BACKEND_MEMORY_LIMIT"),
        (["BACKEND_MEMORY_LIMIT", "x"], "BACKEND_MEMORY_LIMIT"),
        (["PYTHON", "/nowhere/bin/python"], "PYTHON|/nowhere/bin/python"),
    ],
)
def test_refused(tmp_path: Path, options: list[str], reason: str) -> None:
    server = Server(tmp_path, options=options, module=module_path())
    try:
        with pytest.raises(ServerExit):
            server.start()
    finally:
        server.kill()
    ours = [
        line for line in server.log().splitlines() if "initialization failed" not in line and "# Can't load" not in line
    ]
    assert any(re.search(reason, line, re.IGNORECASE) for line in ours if "<" in line), server.log()


def test_loading_it_twice(start_server: StartServer, tmp_path: Path) -> None:
    """From the same file and from a copy: refused, and what is loaded goes on working."""
    server = start_server("--enable-module-command", "yes")
    copy = tmp_path / "copy.so"
    shutil.copy(module_path(), copy)
    with server.wire() as wire:
        wire.ask("AI.TENSORSET", "t", "FLOAT", 1, "VALUES", 5)
        for path in (module_path(), copy):
            assert wire.ask("MODULE", "LOAD", str(path), "THREADS_PER_QUEUE", 3).startswith("ERR ")
        assert wire.ask("AI.TENSORGET", "t", "VALUES") == [b"5"]
        assert b"ai_threads_per_queue:1" in wire.ask("INFO", "modules")
    run_a_model(server, "ONNX")
