"""MULTI and Lua: running a model is refused, everything else works."""

from __future__ import annotations

import pytest

from testkit import models
from testkit.transactions import check_refused_in_lua, check_refused_in_multi, check_transaction, lua
from testkit.wire import Wire, Word
from tests.conftest import StartServer

RUNS = ["AI.MODELEXECUTE m INPUTS 2 x x OUTPUTS 1 y", "AI.MODELRUN m INPUTS x x OUTPUTS y"]


@pytest.fixture
def stored(wire: Wire) -> Wire:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
    return wire


@pytest.mark.parametrize("line", RUNS)
def test_runs_are_refused_in_multi(stored: Wire, line: str) -> None:
    check_refused_in_multi(stored, line, ("y",))


@pytest.mark.parametrize("line", RUNS)
def test_runs_are_refused_in_lua(stored: Wire, line: str) -> None:
    check_refused_in_lua(stored, line, "m", ("y",))


@pytest.mark.parametrize("backend", ["ONNX", "TORCH"])
def test_the_others_work_in_multi(wire: Wire, backend: str) -> None:
    blob = models.onnx_add() if backend == "ONNX" else models.torch_module(models.Add)
    commands: list[tuple[list[Word], object]] = [
        (["AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2], b"OK"),
        (["AI.TENSORGET", "x", "VALUES"], [b"1", b"2"]),
        (["AI.MODELSTORE", "m", backend, "CPU", "TAG", "t", "BLOB", blob], b"OK"),
        (["AI.MODELGET", "m", "BLOB"], blob),
        (["AI._MODELSCAN"], [[b"m", b"t"]]),
        (["AI.MODELSTORE", "bad", backend, "CPU", "BLOB", b"no model"], None),
        (["AI.INFO", "m", "RESETSTAT"], b"OK"),
        (["AI.CONFIG", "GET", "MODEL_CHUNK_SIZE"], 535822336),
        (["AI.MODELSET", "n", backend, "CPU", "BLOB", blob], b"OK"),
        (["AI.MODELDEL", "n"], b"OK"),
    ]
    check_transaction(wire, commands)
    assert wire.ask("EXISTS", "n", "bad") == 0
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"2", b"4"]


@pytest.mark.parametrize("backend", ["ONNX", "TORCH"])
def test_the_others_work_in_lua(wire: Wire, backend: str) -> None:
    blob = models.onnx_add() if backend == "ONNX" else models.torch_module(models.Add)
    assert lua(wire, "AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2) == b"ok: OK"
    assert lua(wire, "AI.TENSORGET", "x", "VALUES") == [b"1", b"2"]
    assert lua(wire, "AI.TENSORGET", "x", "META", "BLOB")[3] == [1, 2]  # type: ignore[index]
    assert lua(wire, "AI.MODELSTORE", "m", backend, "CPU", "BLOB", blob) == b"ok: OK"
    assert lua(wire, "AI.MODELGET", "m", "BLOB") == blob
    assert lua(wire, "AI.MODELGET", "missing") == b"error: ERR model key is empty"
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
    assert lua(wire, "AI.MODELDEL", "m") == b"ok: OK"
    assert wire.ask("EXISTS", "m") == 0


def test_doubles_in_lua(stored: Wire) -> None:
    code = "redis.setresp(3); return tostring(redis.call('AI.TENSORGET', KEYS[1], 'VALUES')[2].double)"
    assert stored.ask("EVAL", code, 1, "x") == b"2"


def test_a_transaction_that_stores_and_replaces(wire: Wire) -> None:
    wire.ask("MULTI")
    for blob in (models.onnx_add(), models.onnx_mul(), models.torch_module(models.Add)):
        wire.ask("AI.MODELSTORE", "m", "TORCH" if len(blob) > 1000 else "ONNX", "CPU", "BLOB", blob)
    wire.ask("AI.MODELDEL", "m")
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_mul())
    assert wire.ask("EXEC") == [b"OK"] * 5
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 3, 4)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"9", b"16"]


@pytest.mark.parametrize("backend", ["ONNX", "TORCH"])
def test_the_first_command_of_a_server(start_server: StartServer, backend: str) -> None:
    """The engine starts and the backend is imported while the transaction waits."""
    blob = models.onnx_add() if backend == "ONNX" else models.torch_module(models.Add)
    with start_server().wire() as wire:
        wire.ask("MULTI")
        wire.ask("AI.MODELSTORE", "m", backend, "CPU", "BLOB", blob)
        assert wire.ask("EXEC") == [b"OK"]
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 3, 4)
        assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
