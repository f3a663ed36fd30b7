"""The direct path, by which C and C++ run models and scripts: which runs take it, that they are counted and timed like
others, that a backend which declares a function wrongly is refused, and that what goes wrong is in the log."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from testkit import models, scripts, tf_models
from testkit.batches import Clients, store_witness
from testkit.info import full_ai_info
from testkit.paths import both_paths, check_path
from testkit.server import Server, module_path
from testkit.wire import Error, Wire, Word
from tests.conftest import StartServer


def test_a_direct_run_is_counted(wire: Wire) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2)
    run: tuple[Word, ...] = ("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
    for _ in range(3):
        assert wire.ask(*run) == b"OK"
    found = full_ai_info(wire)
    assert (found["executions"], found["direct_executions"]) == (3, 3)
    assert wire.ask("AI.INFO", "m", "RESETSTAT") == b"OK"
    found = full_ai_info(wire)
    assert (found["executions"], found["direct_executions"]) == (0, 0)
    wire.ask("AI.TENSORSET", "x", "INT64", 1, 2)
    assert isinstance(wire.ask(*run), Error)
    found = full_ai_info(wire)
    assert (found["executions"], found["errors"], found["direct_executions"]) == (1, 1, 0)


def test_what_python_runs_is_not_counted(server: Server, wire: Wire) -> None:
    """Tensors that lie in a Redis string."""
    wire.ask("AI.MODELSTORE", "identity", "ONNX", "CPU", "BLOB", models.onnx_identity())
    wire.ask("AI.TENSORSET", "large", "FLOAT", 1 << 17, "BLOB", bytes(4 << 17))
    assert wire.ask("AI.MODELEXECUTE", "identity", "INPUTS", 1, "large", "OUTPUTS", 1, "y") == b"OK"
    if not server.is_isolated:  # its copy in shared memory lies as C needs it
        check_path(server, python=1, key="identity")


@both_paths
@pytest.mark.parametrize("count", [1, 8, 9])
def test_many_inputs(server: Server, wire: Wire, count: int) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_many_inputs(count))
    keys = [f"x{i}" for i in range(count)]
    for i, key in enumerate(keys):
        wire.ask("AI.TENSORSET", key, "FLOAT", 2, "VALUES", 2**i, 0)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", count, *keys, "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"%d" % (2**count - 1), b"0"]
    check_path(server, direct=count <= 8, python=count > 8)


@both_paths
def test_several_outputs_of_onnx(server: Server, wire: Wire) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_split3())
    wire.ask("AI.TENSORSET", "x", "FLOAT", 3, "VALUES", 1, 2, 3)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 3, "a", "b", "c") == b"OK"
    assert [wire.ask("AI.TENSORGET", key, "VALUES") for key in "abc"] == [[b"1"], [b"2"], [b"3"]]
    check_path(server, direct=1)


@both_paths
def test_several_outputs_of_tf(server: Server, wire: Wire) -> None:
    """Of rank 0, empty, of another type, and another than an operation's first."""
    names: list[Word] = ["INPUTS", 1, "x", "OUTPUTS", 4, "total", "where", "positive", "parts:2"]
    assert wire.ask("AI.MODELSTORE", "m", "TF", "CPU", *names, "BLOB", tf_models.tf_many()) == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 3, "VALUES", 0, -1, -2)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 4, *"abcd") == b"OK"
    assert [wire.ask("AI.TENSORGET", key, "META", "VALUES")[1::2] for key in "abcd"] == [
        [b"FLOAT", [], [b"-3"]],
        [b"INT64", [0, 1], []],
        [b"BOOL", [3], [0, 0, 0]],
        [b"FLOAT", [1], [b"-2"]],
    ]
    check_path(server, direct=1)


@both_paths
@pytest.mark.parametrize("backend", ["ONNX", "TF"])
def test_an_empty_input(server: Server, wire: Wire, backend: str) -> None:
    wire.ask("AI.MODELSTORE", "none", "ONNX", "CPU", "BLOB", models.onnx_nonzero())
    names: list[Word] = ["INPUTS", 1, "x", "OUTPUTS", 1, "y"] if backend == "TF" else []
    blob = tf_models.tf_identity("INT64") if backend == "TF" else models.onnx_identity("INT64", ("n", "k"))
    assert wire.ask("AI.MODELSTORE", "m", backend, "CPU", *names, "BLOB", blob) == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 3)
    words = "AI.DAGEXECUTE LOAD 1 x PERSIST 1 y |> AI.MODELEXECUTE none INPUTS 1 x OUTPUTS 1 k"
    words += " |> AI.MODELEXECUTE m INPUTS 1 k OUTPUTS 1 y"
    assert wire.ask(*words.split()) == [b"OK", b"OK"]
    assert wire.ask("AI.TENSORGET", "y") == [b"dtype", b"INT64", b"shape", [1, 0], b"blob", b""]
    check_path(server, direct=1)
    check_path(server, direct=1, key="none")


@both_paths
@pytest.mark.parametrize("backend", ["ONNX", "TORCH", "TF"])
def test_a_batch(server: Server, wire: Wire, clients: Clients, backend: str) -> None:
    """Once the model is known to give as many rows as it gets, C runs batches, too."""
    store_witness(wire, size=8, min_size=4, backend=backend)
    assert wire.ask("AI.INFO", "m", "RESETSTAT") == b"OK"
    requests = clients.each(1, 2, 1)
    for request in requests:
        request.send()
    assert [request.result().rows for request in requests] == [4, 4, 4]
    assert full_ai_info(wire)["calls"] == 3
    check_path(server, direct=1)


@both_paths
def test_a_batch_of_large_tensors(server: Server, wire: Wire, clients: Clients) -> None:
    """What lies in a Redis string is copied anyway, to be joined."""
    store_witness(wire, size=4, min_size=3)
    array = np.arange(3 << 17, dtype=np.float32).reshape(3, -1)
    ends = []
    for name, part in ("a", array[:2]), ("b", array[2:]):
        wire.ask("AI.TENSORSET", name, "FLOAT", *part.shape, "BLOB", part.tobytes())
        ends.append(clients.wire())
        ends[-1].send("AI.MODELEXECUTE", "m", "INPUTS", 1, name, "OUTPUTS", 2, f"{name}:y", f"{name}:batch")
    assert [end.read() for end in ends] == [b"OK", b"OK"]
    outputs = [wire.ask("AI.TENSORGET", f"{name}:y", "BLOB") for name in "ab"]
    assert b"".join(outputs) == (array * 3 + 1).tobytes()
    check_path(server, direct=1)


# ---- duration --------------------------------------------------------------------------------------------------------

SIDE = 4096  # of a square of floats, 64 MB: to copy it takes longer than to compute it
FILL = f"def run{scripts.SIGNATURE}:\n    return tensors[0].expand({SIDE}, {SIDE}).contiguous()\n"


@both_paths
@pytest.mark.parametrize("backend", ["ONNX", "TF", "script"])
def test_duration_is_all_of_a_workers_time(server: Server, wire: Wire, backend: str) -> None:
    """Copying outputs is in it, on both paths: a client who is alone waits for little else."""
    run: tuple[Word, ...] = ("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    if backend == "ONNX":
        wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_outer())
    elif backend == "TF":
        blob = tf_models.graph(lambda tf: tf.matmul(x := tf_models.placeholder("x"), x, transpose_b=True, name="y"))
        wire.ask("AI.MODELSTORE", "m", "TF", "CPU", "INPUTS", 1, "x", "OUTPUTS", 1, "y", "BLOB", blob)
    else:
        wire.ask("AI.SCRIPTSTORE", "m", "CPU", "ENTRY_POINTS", 1, "run", "SOURCE", FILL)
        run = ("AI.SCRIPTEXECUTE", "m", "run", *run[2:])
    wire.ask("AI.TENSORSET", "x", "FLOAT", SIDE, 1, "BLOB", np.ones(SIDE, np.float32).tobytes())
    shares = []
    for _ in range(5):
        wire.ask("AI.INFO", "m", "RESETSTAT")
        reply, seconds = wire.timed(*run)
        assert reply == b"OK"
        shares.append(full_ai_info(wire)["duration"] / 1e6 / seconds)
    assert 0.85 < max(shares) <= 1
    if backend != "script":
        check_path(server, direct=1)


# ---- what goes wrong -------------------------------------------------------------------------------------------------

# A backend that has a wrong idea of a function.
DRIFTED = """
import cffi
import numpy
from _redisai_bridge import ffi
from redisai.protocol import Direct

wrong = cffi.FFI().cast("void *(*)(const void *, int64_t *, int)", 1)

def function(name):
    return wrong if name == "GetDimensions" else ffi.cast(dict(ffi.typeof("OnnxApi").fields)[name].type, 1)

class Session:
    inputs, outputs = ("x",), ("y",)
    direct = Direct(function, None, None, None, None, [numpy.dtype("f4")], 1, lambda _: None)

def version():
    return "0"

def load(definition, settings):
    return Session()
"""


def test_a_backend_that_declares_a_function_otherwise_is_refused(start_server: StartServer, tmp_path: Path) -> None:
    folder = tmp_path / "backends" / "redisai_onnxruntime"
    folder.mkdir(parents=True)
    (folder / "redisai_onnxruntime.py").write_text(DRIFTED)
    with start_server(options=["BACKENDSPATH", str(folder.parent)]).wire() as wire:
        assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", b"x") == (
            "ERR GetDimensions is declared as void * (*)(void *, int64_t *, int) by the ONNX backend,"
            " as void * (*)(void *, int64_t *, size_t) by bridge.h"
        )
        assert wire.ask("EXISTS", "m") == 0


def start_with(start_server: StartServer, tmp_path: Path, package: str, code: str) -> Server:
    """A server whose backend has this code at its end."""
    folder = tmp_path / "backends"
    shutil.copytree(module_path().parent / "backends", folder)
    with (folder / package / f"{package}.py").open("a") as file:
        file.write(code)
    return start_server(options=["BACKENDSPATH", str(folder)])


def test_an_error_that_cannot_be_explained_is_told_too(start_server: StartServer, tmp_path: Path) -> None:
    code = "\ndef _explain(*_):\n    raise RuntimeError('no words')\n\nRunHooks.explain = _explain\n"
    server = start_with(start_server, tmp_path, "redisai_onnxruntime", code)
    with server.wire() as wire:
        wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add(("n", 2)))
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        wire.ask("AI.TENSORSET", "bad", "FLOAT", 3)
        for _ in range(3):
            assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "bad", "x", "OUTPUTS", 1, "y").endswith("no words")
            assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
            assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"2", b"4"]


HELD_S = 2
HOLD = f"""
import ctypes

def load(definition, settings):
    ctypes.PyDLL(None).usleep({HELD_S * 1_000_000})  # PyDLL keeps Python's lock
    raise RuntimeError("held")
"""


def test_runs_do_not_wait_for_pythons_lock(start_server: StartServer, tmp_path: Path) -> None:
    """One op, a DAG of two, a script that calls Redis and runs a model: also once a run has failed, which Python
    explains."""
    server = start_with(start_server, tmp_path, "redisai_tflite", HOLD)
    with server.wire() as wire, server.wire() as storing:
        wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add(("n", 2)))
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        wire.ask("AI.TENSORSET", "bad", "FLOAT", 3)
        assert isinstance(wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "bad", "x", "OUTPUTS", 1, "y"), Error)
        run = "AI.MODELEXECUTE m INPUTS 2 x x OUTPUTS 1 y"
        dag = f"AI.DAGEXECUTE LOAD 1 x PERSIST 1 z |> {run} |> AI.MODELEXECUTE m INPUTS 2 y y OUTPUTS 1 z"
        body = 'redis.execute("INCR", keys[1])\n    return redisAI.model_execute(keys[0], tensors, 1)'
        scripts.store(wire, "s", scripts.function("f", body), ["f"])
        script = "AI.SCRIPTEXECUTE s f KEYS 2 m n INPUTS 2 x x OUTPUTS 1 y"
        for words in run, script:
            assert wire.ask(*words.split()) == b"OK"

        storing.send("AI.MODELSTORE", "held", "TFLITE", "CPU", "BLOB", b"x")
        begin = time.monotonic()
        longest = 0.0
        while time.monotonic() < begin + HELD_S * 0.75:
            for words in run, dag, script:
                reply, seconds = wire.timed(*words.split())
                assert reply == ([b"OK", b"OK"] if words == dag else b"OK")
                longest = max(longest, seconds)
        assert str(storing.read()).endswith("held")
        assert time.monotonic() >= begin + HELD_S
        assert wire.ask("AI.TENSORGET", "z", "VALUES") == [b"4", b"8"]
        assert longest < HELD_S / 4
