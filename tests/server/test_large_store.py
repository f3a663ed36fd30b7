"""Memory while a large model is stored, in copies of the model. One is the value; the library has the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper

from testkit import graph_def, models, networks, tf_models
from testkit.isolation import engine
from testkit.server import Server
from testkit.values import Model
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.conftest import StartServer

MEGABYTES = 150
MOST = 2.5  # copies; an engine process gets one more, by message
KEPT = 2.3


def weight(parts: int = 1) -> networks.Floats:
    """Of so many for a large model."""
    side = round((MEGABYTES * 1_000_000 / 4 / parts) ** 0.5)
    return networks.random(side, side)


def onnx_model() -> Model:
    """One weight, which the library does not rearrange. What it rearranges it has twice meanwhile."""
    values = weight()
    add = helper.make_node("Add", ["x", "w"], ["y"])
    return Model("ONNX", networks.onnx_blob([add], {"w": values}, [1, len(values)], list(values.shape)))


def tensorflow_model() -> Model:
    """x FLOAT [n, side] -> y, through layers of weights that are all different."""
    blob, last = graph_def.node("x", "Placeholder"), "x"
    for layer in range(5):
        blob += graph_def.node(f"w{layer}", "Const", constant=weight(5) * np.float32(layer + 1))
        blob += graph_def.node(f"y{layer}", "MatMul", f"{last} w{layer}")
        last = f"y{layer}"
    return Model("TF", blob, inputs=("x",), outputs=(last,))


def torch_model() -> Model:
    side = len(weight())
    module = torch.nn.Linear(side, side, bias=False)
    return Model("TORCH", models.torch_blob(module))


SMALL = {
    "ONNX": Model("ONNX", models.onnx_add()),
    "TF": Model("TF", tf_models.tf_mul(), inputs=("a", "b"), outputs=("mul",)),
    "TORCH": Model("TORCH", models.torch_module(models.Add)),
}
LARGE: dict[str, Callable[[], Model]] = {"ONNX": onnx_model, "TF": tensorflow_model, "TORCH": torch_model}


@lru_cache(1)
def large(backend: str) -> Model:
    return LARGE[backend]()


def resident(pids: list[int], field: str = "VmRSS") -> int:
    """Bytes of some processes."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def store(wire: Wire, model: Model, in_transaction: bool) -> None:
    words = model.words("m")
    if not in_transaction:
        wire.ask_ok(*words)
        return
    wire.ask_ok("MULTI")
    assert wire.ask(*words) == b"QUEUED"
    assert wire.ask("EXEC") == [b"OK"]


def peak(server: Server, backend: str, in_transaction: bool) -> float:
    """Copies that the store takes at most; what it keeps, and the model, are checked."""
    model = large(backend)
    size = len(model.blob)
    with server.wire() as wire:
        wire.ask_ok(*SMALL[backend].words("small"))  # imports the library
        pids = [server.pid, *([engine(wire).pid] if server.is_isolated else [])]
        wire.ask_ok("MEMORY", "PURGE")
        for pid in pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins anew
        before = resident(pids)
        store(wire, model, in_transaction)
        most = resident(pids, "VmHWM") - before
        wait_for(lambda: resident(pids) - before < KEPT * size)
        assert wire.ask("AI.MODELGET", "m", "BLOB") == model.blob
    print(f"{most / size:.2f} copies")
    return most / size


@pytest.mark.parametrize("in_transaction", [False, True], ids=["plain", "transaction"])
@pytest.mark.parametrize("backend", LARGE)
def test_copies(start_server: StartServer, backend: str, in_transaction: bool) -> None:
    # As the bytes arrive, the server itself may have to copy them, but not always.
    assert any(peak(server := start_server(), backend, in_transaction) < MOST + server.is_isolated for _ in range(2))


@pytest.mark.parametrize("backend", LARGE)
def test_copies_of_an_engine_process(start_server: StartServer, backend: str) -> None:
    assert any(peak(start_server(options=["ISOLATION", "process"]), backend, False) < MOST + 1 for _ in range(2))
