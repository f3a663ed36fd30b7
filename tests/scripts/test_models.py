"""redisAI.model_execute: models of every backend from a script; what is refused; what is counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from testkit import models, samples
from testkit.info import ai_info
from testkit.scripts import execute, function, store, store_models, values
from testkit.server import Server
from testkit.values import Model
from testkit.wire import Error, Wire, Word

BACKENDS: dict[str, Callable[[], bytes]] = {"ONNX": models.onnx_add, "TORCH": lambda: models.torch_module(models.Add)}


@pytest.fixture
def stored(wire: Wire) -> Wire:
    store_models(wire)
    for backend, blob in BACKENDS.items():
        assert wire.ask("AI.MODELSTORE", backend, backend, "CPU", "BLOB", blob()) == b"OK"
    wire.ask("AI.TENSORSET", "a", "FLOAT", 1, 2, "VALUES", 1, 2)
    wire.ask("AI.TENSORSET", "b", "FLOAT", 1, 2, "VALUES", 10, 20)
    wire.ask("SET", "string", "x")
    return wire


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model(stored: Wire, backend: str) -> None:
    assert stored.ask(*execute("s", "one", [backend], ["a", "b"], outputs=["y"])) == b"OK"
    assert stored.ask("AI.TENSORGET", "y", "META", "VALUES") == [
        b"dtype", b"FLOAT", b"shape", [1, 2], b"values", [b"11", b"22"],
    ]  # fmt: skip


def test_several_outputs(stored: Wire) -> None:
    assert stored.ask("AI.MODELSTORE", "split", "ONNX", "CPU", "BLOB", models.onnx_split3()) == b"OK"
    stored.ask("AI.TENSORSET", "three", "FLOAT", 3, "VALUES", 7, 8, 9)
    words = execute("s", "counted", ["split"], ["three"], [3], ["x", "y", "z"])
    assert stored.ask(*words) == b"OK"
    assert [values(stored, key) for key in "xyz"] == [[b"7"], [b"8"], [b"9"]]


@pytest.mark.parametrize("device", ["CPU:1", "cpu:2"])
def test_a_model_of_another_device(stored: Wire, device: str) -> None:
    assert stored.ask("AI.MODELSTORE", "m", "ONNX", device, "BLOB", models.onnx_add()) == b"OK"
    assert stored.ask(*execute("s", "one", ["m"], ["a", "b"], outputs=["y"])) == b"OK"
    assert values(stored, "y") == [b"11", b"22"]


def test_models_one_after_another(stored: Wire) -> None:
    assert stored.ask(*execute("s", "chained", ["ONNX", "TORCH", "ONNX"], ["a"], outputs=["y"])) == b"OK"
    assert values(stored, "y") == [b"8", b"16"]


@pytest.mark.parametrize("dtype", ["DOUBLE", "INT8", "INT32", "INT64", "UINT8", "BOOL"])
def test_tensors_of_every_type(stored: Wire, dtype: str) -> None:
    assert stored.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_identity(dtype)) == b"OK"
    stored.ask("AI.TENSORSET", "x", dtype, 2, "VALUES", 0, 1)
    assert stored.ask(*execute("s", "one", ["m"], ["x"], outputs=["y"])) == b"OK"
    assert stored.ask("AI.TENSORGET", "y") == stored.ask("AI.TENSORGET", "x")


def test_tensors_that_are_not_contiguous(stored: Wire) -> None:
    source = function("f", "x = tensors[0].t()\n    return redisAI.model_execute(keys[0], [x[1:], x[1:]], 1)")
    store(stored, "t", source, ["f"])
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    stored.ask("AI.TENSORSET", "x", "FLOAT", 2, 3, "BLOB", x.tobytes())
    for backend in BACKENDS:
        assert stored.ask(*execute("t", "f", [backend], ["x"], outputs=["y"])) == b"OK"
        wanted = [b"dtype", b"FLOAT", b"shape", [2, 2], b"blob", (x.T[1:] * 2).tobytes()]
        assert stored.ask("AI.TENSORGET", "y") == wanted


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_script_does_with_a_models_output_changes_nothing_stored(stored: Wire, backend: str) -> None:
    """Also where the model gives back its very input."""
    blob = models.onnx_identity() if backend == "ONNX" else models.torch_module(models.Identity)
    assert stored.ask("AI.MODELSTORE", "same", backend, "CPU", "BLOB", blob) == b"OK"
    stored.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
    for _ in range(3):
        assert stored.ask(*execute("s", "spoilt", ["same"], ["x"], outputs=["y"])) == b"OK"
        assert values(stored, "y") == [b"2", b"3"]
        assert values(stored, "x") == [b"1", b"2"]


def test_a_model_that_writes_in_place(stored: Wire) -> None:
    blob = models.torch_module(models.InPlaceAdd)
    assert stored.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", blob) == b"OK"
    for _ in range(2):
        assert stored.ask(*execute("s", "one", ["m"], ["a"], outputs=["y"])) == b"OK"
        assert values(stored, "y") == [b"2", b"3"]
        assert values(stored, "a") == [b"1", b"2"]


# ---- refused ---------------------------------------------------------------------------------------------------------


def failure(wire: Wire, *words: Word) -> str:
    reply = wire.ask(*words)
    assert isinstance(reply, Error), reply
    assert reply.startswith("ERR ")
    assert wire.ask("EXISTS", "y", "z") == 0
    assert wire.ask("PING") == b"PONG"
    return reply


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_undeclared_model(stored: Wire, backend: str) -> None:
    assert "KEYS" in failure(stored, *execute("s", "named", ["no"], ["a", "b"], [backend], ["y"]))
    assert ai_info(stored, backend)["calls"] == 0


def test_a_model_that_is_not_there(stored: Wire) -> None:
    assert "model key is empty" in failure(stored, *execute("s", "one", ["missing"], ["a", "b"], outputs=["y"]))


@pytest.mark.parametrize("key", ["string", "a", "s"])
def test_a_key_that_is_no_model(stored: Wire, key: str) -> None:
    assert "WRONGTYPE" in failure(stored, *execute("s", "one", [key], ["a", "b"], outputs=["y"]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("inputs", [["a"], ["a", "b", "a"]])
def test_a_wrong_number_of_inputs(stored: Wire, backend: str, inputs: list[Word]) -> None:
    text = failure(stored, *execute("s", "one", [backend], inputs, outputs=["y"]))
    assert "input" in text.lower()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [2, 0, -1, 10**9, 10**18])
def test_a_wrong_number_of_outputs(stored: Wire, backend: str, count: int) -> None:
    text = failure(stored, *execute("s", "counted", [backend], ["a", "b"], [count], ["y"]))
    assert "output" in text.lower()


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_that_the_model_refuses(stored: Wire, backend: str) -> None:
    stored.ask("AI.TENSORSET", "c", "FLOAT", 3, 3, 3)
    stored.ask("AI.TENSORSET", "d", "FLOAT", 2, 2, 2)
    assert len(failure(stored, *execute("s", "one", [backend], ["c", "d"], outputs=["y"]))) > 20
    found = ai_info(stored, backend)
    assert (found["calls"], found["errors"], found["samples"]) == (1, 1, 0)
    assert ai_info(stored, "s")["errors"] == 1


def test_an_output_that_is_no_tensor(stored: Wire) -> None:
    assert stored.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_ragged()) == b"OK"
    stored.ask("AI.TENSORSET", "x", "FLOAT", 1)
    error = failure(stored, *execute("s", "counted", ["m"], ["x", "x"], [2], ["y", "z"]))
    assert "output 'sequence' is a sequence of tensors of different shapes" in error
    assert stored.ask("EXISTS", "y", "z") == 0


def test_a_classifier_gives_its_scores(stored: Wire) -> None:
    assert stored.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_classifier("z", "a")) == b"OK"
    stored.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 0.25, 0.75)
    assert stored.ask(*execute("s", "counted", ["m"], ["x"], [2], ["y", "z"])) == b"OK"
    assert stored.ask("AI.TENSORGET", "z", "VALUES") == [b"0.25", b"0.75"]


def test_what_the_user_may_not_read(server: Server, stored: Wire) -> None:
    stored.ask("ACL", "SETUSER", "reader", "reset", "on", "nopass", "+@all", "~s", "~a", "~b", "~y", "~ONNX")
    try:
        with server.wire() as wire:
            assert wire.ask("AUTH", "reader", "any") == b"OK"
            assert wire.ask(*execute("s", "one", ["ONNX"], ["a", "b"], outputs=["y"])) == b"OK"
            assert wire.ask(*execute("s", "one", ["TORCH"], ["a", "b"], outputs=["y"])).startswith("NOPERM ")
    finally:
        stored.ask("ACL", "DELUSER", "reader")


# ---- counters, and models that are not compiled yet ------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_runs_are_counted_for_the_model_and_for_the_script(stored: Wire, backend: str) -> None:
    stored.ask("AI.TENSORSET", "five", "FLOAT", 5, 2)
    for _ in range(3):
        assert stored.ask(*execute("s", "one", [backend], ["five", "five"], outputs=["y"])) == b"OK"
    model, script = ai_info(stored, backend), ai_info(stored, "s")
    assert (model["calls"], model["samples"], model["errors"]) == (3, 15, 0)
    assert (script["calls"], script["samples"], script["errors"]) == (3, -1, 0)
    assert 0 < model["duration"] <= script["duration"]


def test_models_that_are_not_compiled_yet(server: Server, stored: Wire) -> None:
    for _ in range(2):
        assert stored.ask("DEBUG", "RELOAD") == b"OK"
        assert stored.ask(*execute("s", "chained", ["ONNX", "TORCH"], ["a"], outputs=["y"])) == b"OK"
        assert values(stored, "y") == [b"4", b"8"]


def test_a_model_that_never_compiles(stored: Wire) -> None:
    samples.restore(stored, "broken", Model("ONNX", b"not a model at all"))
    for _ in range(2):
        failure(stored, *execute("s", "one", ["broken"], ["a", "b"], outputs=["y"]))
    assert stored.ask(*execute("s", "one", ["ONNX"], ["a", "b"], outputs=["y"])) == b"OK"


def test_a_model_of_another_database(stored: Wire) -> None:
    stored.ask("COPY", "s", "s", "DB", 3)
    stored.ask("COPY", "a", "a", "DB", 3)
    stored.ask("SELECT", 3)
    assert "model key is empty" in failure(stored, *execute("s", "one", ["ONNX"], ["a", "a"], outputs=["y"]))
    assert stored.ask("AI.MODELSTORE", "ONNX", "ONNX", "CPU", "BLOB", models.onnx_mul()) == b"OK"
    assert stored.ask(*execute("s", "one", ["ONNX"], ["a", "a"], outputs=["y"])) == b"OK"
    assert values(stored, "y") == [b"1", b"4"]


def test_memory_comes_back(server: Server, stored: Wire) -> None:
    stored.ask("AI.TENSORSET", "large", "FLOAT", 100_000, 2)
    words = execute("s", "chained", ["ONNX", "TORCH"], ["large"], outputs=["y"])
    assert stored.ask(*words) == b"OK"
    before = server.used_memory()
    for _ in range(5):
        assert stored.ask(*words) == b"OK"
        stored.ask(*execute("s", "one", ["ONNX"], ["large", "a", "b"], outputs=["y"]))
    assert server.used_memory() < before + (1 << 19)
