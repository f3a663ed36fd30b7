"""WARMUP of AI.MODELSTORE: the model is run before its first client runs it.

A backend of the test's own answers a run with the rows of all runs of its session, this one included.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from testkit import models, samples, tf_models
from testkit.engines import engine_pids
from testkit.info import ai_info, module_sections
from testkit.replicas import follow, wait_until_in_step
from testkit.server import Server
from testkit.values import Model
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.conftest import StartServer

BACKEND = """
import time
from pathlib import Path

import numpy

class Session:
    inputs, outputs = ("x",), ("rows",)

    def __init__(self, slow):
        self.rows = []
        self.slow = slow

    def run(self, inputs):
        while self.slow and not Path({folder!r}, "go").exists():
            time.sleep(0.01)
        if Path({folder!r}, "fail").exists():
            raise RuntimeError("no such day")
        self.rows.append(inputs[0].shape[0])
        return [numpy.array(self.rows)]

def version():
    return "1"

def load(definition, settings):
    return Session(definition.blob == b"slow")
"""
STORE = ("AI.MODELSTORE", "m", "ONNX", "CPU", "TAG", "v1", "WARMUP", 1, "FLOAT", 2, 3, "WARMUP", 1, "float", 8, 3)
WARM = [2, 2, 2, 8, 8, 8]


class Warm:
    def __init__(self, start_server: StartServer, folder: Path) -> None:
        self.folder = folder
        self.go, self.fail = folder / "go", folder / "fail"
        backend = folder / "backends" / "redisai_onnxruntime" / "redisai_onnxruntime.py"
        backend.parent.mkdir(parents=True)
        backend.write_text(BACKEND.format(folder=str(folder)))
        self._start = start_server

    def start(self, *arguments: str, options: tuple[str | int, ...] = ()) -> Server:
        backends = "BACKENDSPATH", str(self.folder / "backends"), "ALLOW_FILE_OPS", 1
        return self._start(*arguments, options=[*backends, *options])


@pytest.fixture
def warm(start_server: StartServer, tmp_path: Path) -> Warm:
    return Warm(start_server, tmp_path)


def run(wire: Wire) -> Any:
    """The rows of all runs before this one, which has one row."""
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 3)
    words = ("AI.DAGEXECUTE_RO", "LOAD", 1, "x", "|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    ran, rows = wire.ask(*words, "|>", "AI.TENSORGET", "y", "VALUES")
    assert ran == b"OK" and rows[-1] == 1
    return rows[:-1]


def is_ready(wire: Wire) -> bool:
    return bool(wire.ask("AI.INFO")[1])


def test_it_runs_before_the_client_has_its_answer(warm: Warm) -> None:
    server = warm.start()
    with server.wire() as wire, server.wire() as storing:
        storing.send(*STORE, "BLOB", b"slow")
        wait_for(lambda: server.blocked_clients() == 1)
        assert wire.ask("EXISTS", "m") == 0, "and the server answers others meanwhile"
        warm.go.touch()
        assert storing.read() == b"OK"
        assert "ONNX model 'v1' is warm, which took " in server.log()
        figures = ai_info(wire, "m", "FULL")
        names = ("duration", "samples", "calls", "errors", "executions", "run_time_max", "queued", "refused")
        assert [figures[name] for name in names] == [0] * len(names)
        assert run(wire) == WARM
        assert ai_info(wire)["calls"] == 1
        if server.is_isolated:
            os.kill(engine_pids(wire)["CPU"], signal.SIGKILL)
            wait_for(lambda: engine_pids(wire)["CPU"])
            assert run(wire) == WARM, "a new process warms it again"


def test_a_store_fails_with_its_warm_up(warm: Warm) -> None:
    warm.fail.touch()
    server = warm.start()
    with server.wire() as wire:
        failure = Error("ERR WARMUP 1 FLOAT 2 3: no such day")
        assert wire.ask(*STORE, "BLOB", b"x") == failure
        assert wire.ask("EXISTS", "m") == 0
        wire.ask_ok("MULTI")
        assert wire.ask(*STORE, "BLOB", b"x") == b"QUEUED"
        assert wire.ask("EXEC") == [failure]
        assert wire.ask(*STORE[:6], "WARMUP", 0, "BLOB", b"x") == "ERR WARMUP 0: the model has 1 inputs"
        warm.fail.unlink()
        wire.ask_ok(*STORE, "BLOB", b"x")
        assert run(wire) == WARM


def test_others_do_not_wait_longer_than_model_load_timeout(warm: Warm) -> None:
    server = warm.start(options=("MODEL_LOAD_TIMEOUT", 300))
    with server.wire() as wire, server.wire() as storing:
        storing.send(*STORE, "BLOB", b"slow")
        wait_for(lambda: server.blocked_clients() == 1)
        wire.ask_ok("AI.MODELSTORE", "other", "ONNX", "CPU", "BLOB", b"x")
        if server.is_isolated:
            reply = storing.read()
            assert isinstance(reply, Error) and "MODEL_LOAD_TIMEOUT, 300 ms" in reply
        else:
            warm.go.touch()
            assert storing.read() == b"OK"
            assert run(wire) == WARM


@pytest.mark.parametrize("how", ["RDB", "AOF", "AOF rewritten"])
def test_after_a_restart(warm: Warm, how: str) -> None:
    """Ready once it is warm."""
    server = warm.start(*(() if how == "RDB" else ("--appendonly", "yes", "--aof-use-rdb-preamble", "no")))
    warm.go.touch()
    with server.wire() as wire:
        wire.ask_ok(*STORE, "BLOB", b"slow")
        assert is_ready(wire)
        if how == "RDB":
            wire.ask_ok("SAVE")
        elif how == "AOF rewritten":
            wire.ask("BGREWRITEAOF")
            wait_for(lambda: b"aof_rewrite_in_progress:0" in wire.ask("INFO", "persistence"))
    assert server.stop() == 0
    warm.go.unlink()
    server.start()
    with server.wire() as wire:
        assert wire.ask("AI.INFO") == [b"ready", 0, b"pending", 1]
        assert module_sections(wire, "MODULES")["start"] == {"ready": "0", "pending": "1"}
        warm.go.touch()
        wait_for(lambda: is_ready(wire))
        assert wire.ask("AI.INFO") == [b"ready", 1, b"pending", 0]
        assert module_sections(wire, "MODULES")["start"] == {"ready": "1", "pending": "0"}
        assert run(wire) == WARM


def test_after_a_restart_it_serves_also_where_it_is_not_warm(warm: Warm) -> None:
    server = warm.start()
    with server.wire() as wire:
        wire.ask_ok(*STORE, "BLOB", b"x")
        wire.ask_ok("SAVE")
    server.stop()
    warm.fail.touch()
    server.start()
    with server.wire() as wire:
        wait_for(lambda: is_ready(wire))
        assert "ONNX model 'v1' is not warm: WARMUP 1 FLOAT 2 3: no such day" in server.log()
        warm.fail.unlink()
        assert run(wire) == []


def test_with_safe_start_the_first_run_warms(warm: Warm) -> None:
    server = warm.start(options=("SAFE_START", 1))
    with server.wire() as wire:
        wire.ask_ok(*STORE, "BLOB", b"x")
        wire.ask_ok("SAVE")
    server.stop()
    server.start()
    with server.wire() as wire:
        assert is_ready(wire)
        assert run(wire) == WARM


@pytest.mark.parametrize("comes", ["later", "by the full sync"])
def test_a_replica_is_warm_before_it_is_promoted(warm: Warm, comes: str) -> None:
    master, replica = warm.start("--repl-diskless-sync-delay", "0"), warm.start()
    with master.wire() as wire, replica.wire() as reader:
        if comes == "by the full sync":
            wire.ask_ok(*STORE, "BLOB", b"x")
        follow(replica, master)
        wait_until_in_step(reader)
        if comes == "later":
            wire.ask_ok(*STORE, "BLOB", b"x")
        wait_for(lambda: "is warm" in replica.log())
        wait_for(lambda: is_ready(reader))
        assert wire.ask("AI.MODELGET", "m", "META") == reader.ask("AI.MODELGET", "m", "META")
        reader.ask_ok("REPLICAOF", "NO", "ONE")
        assert run(reader) == WARM


# ---- models of all libraries -----------------------------------------------------------------------------------------


def product(x: Any) -> Any:
    return tf_models.tensorflow().matmul(x, x, transpose_b=True, name="y")


def words(backend: str, *options: Word) -> tuple[Word, ...]:
    if backend == "TFLITE":
        model = Model("TFLITE", tf_models.tflite(product, tf_models.spec([None, 2])))
    elif backend == "TF":
        blob = tf_models.graph(lambda tf: product(tf_models.placeholder()))
        model = Model("TF", blob, inputs=("x",), outputs=("y",))
    else:
        model = {"ONNX": samples.ONNX, "TORCH": samples.TORCH}[backend]
    return model.words("m", *options)


@pytest.mark.parametrize("backend", ["ONNX", "TORCH", "TF", "TFLITE"])
def test_libraries(wire: Wire, backend: str) -> None:
    inputs = "2 FLOAT 4 2 FLOAT 4 2" if backend in ("ONNX", "TORCH") else "1 FLOAT 4 2"
    wire.ask_ok(*words(backend, "WARMUP", *inputs.split()))
    figures = ai_info(wire)
    assert [figures[name] for name in ("duration", "samples", "calls", "errors")] == [0, 0, 0, 0]
    wrong = inputs[:-1] + "3" if backend != "TF" else "1 FLOAT 4"
    reply = wire.ask(*words(backend, "WARMUP", *wrong.split()))
    assert isinstance(reply, Error) and reply.startswith(f"ERR WARMUP {wrong}: "), reply
    three = "3 FLOAT 4 2 FLOAT 4 2 FLOAT 4 2"
    reply = wire.ask(*words(backend, "WARMUP", *three.split()))
    assert reply == f"ERR WARMUP {three}: the model has {inputs[0]} inputs"


def test_errors_name_the_input(wire: Wire) -> None:
    reply = wire.ask(*words("ONNX", "WARMUP", 2, "FLOAT", 1, 2, "INT32", 1, 2))
    assert isinstance(reply, Error)
    assert reply.startswith("ERR WARMUP 2 FLOAT 1 2 INT32 1 2: input 'b' has type INT32, expected: FLOAT: ")


def test_strings_and_no_inputs(wire: Wire) -> None:
    strings = models.onnx_identity("STRING")
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "WARMUP", 1, "STRING", 3, "BLOB", strings)
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "WARMUP", 1, "STRING", 0, "BLOB", strings)
    assert wire.ask("AI.MODELGET", "m", "META")[-2:] == [b"warmup", [b"1 STRING 0"]]


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total.add_(1)  # type: ignore[operator]
        return x + self.total  # type: ignore[operator]


def test_a_model_with_a_state_is_refused(wire: Wire) -> None:
    """Its first client would get what the second should."""
    blob = models.torch_module(Counter)
    reply = wire.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "WARMUP", 1, "FLOAT", 1, "BLOB", blob)
    assert reply == "ERR WARMUP is not for this model: its runs change what later runs give"


# ---- words -----------------------------------------------------------------------------------------------------------

INVALID = "ERR Invalid argument for WARMUP: "
COUNT = INVALID + "it begins with the number of inputs"
INPUT = INVALID + "each input is a type and its dimensions"
TOO_LARGE = INVALID + "an input exceeds the limit for one tensor (proto-max-bulk-len)"
DIMENSIONS = INVALID + "an input has impossible dimensions"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("", COUNT),
        ("FLOAT 1", COUNT),
        ("-1", COUNT),
        ("x", COUNT),
        ("1", INPUT),
        ("1 2", INPUT),
        ("1 FLOT 2", INPUT),
        ("2 FLOAT 1 2", INPUT),
        ("9223372036854775807 FLOAT", COUNT),
        ("999999999999999999 FLOAT", INPUT),
        ("1 FLOAT 2 FLOAT 2", INVALID + "it has more inputs than it says"),
        ("0 1", INVALID + "it has more inputs than it says"),
        ("1 FLOAT -2", INVALID + "it has more inputs than it says"),
        ("1 FLOAT 9223372036854775807", DIMENSIONS),
        ("1 FLOAT 999999999999999999 999999999999999999", TOO_LARGE),
        ("1 UINT8 536870913", TOO_LARGE),
        ("1 STRING 67108864", TOO_LARGE),
        ("1 FLOAT " + "1 " * 65, DIMENSIONS),
        ("1 FLOAT 2 x", "ERR Invalid argument, expected BLOB"),
    ],
)
def test_invalid_words(wire: Wire, given: str, error: str) -> None:
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "WARMUP", *given.split(), "BLOB", b"x") == error
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_total()) == b"OK"


def test_documented_words(wire: Wire) -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    given = page.partition("-x AI.MODELSTORE mnist TORCH CPU ")[2].partition(" BLOB < mnist.pt\n")[0]
    model = nn.Linear(784, 10)
    wire.ask_ok("AI.MODELSTORE", "mnist", "TORCH", "CPU", *given.split(), "BLOB", models.torch_blob(model))
    assert len(wire.ask("AI.MODELGET", "mnist", "META")[-1]) == 2


def test_a_scalar_and_any_order(wire: Wire) -> None:
    given = ("WARMUP", 1, "INT64", "BATCHSIZE", 4, "WARMUP", 1, "int64", "TAG", "x", "MAXQUEUE", 2)
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", *given, "BLOB", models.onnx_loop())
    assert wire.ask("AI.MODELGET", "m", "META")[-2:] == [b"warmup", [b"1 INT64", b"1 INT64"]]
    assert wire.ask("AI.MODELGET", "m", "META")[4:8] == [b"tag", b"x", b"batchsize", 4]


def test_modelset_does_not_know_it(wire: Wire) -> None:
    """To it, words before BLOB mean nothing."""
    wire.ask_ok("AI.MODELSET", "m", "ONNX", "CPU", "WARMUP", "x", "BLOB", models.onnx_add())
    assert b"warmup" not in wire.ask("AI.MODELGET", "m", "META")
