"""Memory while a large model is stored. One copy is the value. ONNX Runtime has two while it loads, and keeps one.
TensorFlow has one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from testkit import graph_def, models, networks
from testkit.engines import engine_pids
from testkit.server import Server
from testkit.values import Model
from testkit.waiting import wait_for
from tests.conftest import StartServer

MEGABYTES = 150


def resident(pid: int, field: str = "VmRSS") -> float:
    """MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError(field)


def peak(server: Server, blob: bytes) -> float:
    """MB that the store takes at most; what it keeps, and the model, are checked."""
    with server.wire() as wire:
        wire.ask_ok("AI.MODELSTORE", "warm", "ONNX", "CPU", "BLOB", models.onnx_add())
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # VmHWM begins anew
        before = resident(server.pid)
        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob)
        most = resident(server.pid, "VmHWM") - before
        wait_for(lambda: resident(server.pid) - before < 2.3 * MEGABYTES)
        assert wire.ask("AI.MODELGET", "m", "BLOB") == blob
        return most


def test_copies(start_server: StartServer) -> None:
    side = round((MEGABYTES * 1_000_000 / 4) ** 0.5)
    add = helper.make_node("Add", ["x", "w"], ["y"])
    blob = networks.onnx_blob([add], {"w": networks.random(side, side)}, [1, side], [side, side])
    # As the bytes arrive, the server itself may have to copy them, but not always.
    assert min(peak(start_server(), blob) for _ in range(2)) < 3.3 * MEGABYTES


def tensorflow_dense(side: int, layers: int) -> Model:
    """x FLOAT [n, side] -> y, through layers of weights that are all different."""
    blob, last = graph_def.node("x", "Placeholder"), "x"
    for layer in range(layers):
        blob += graph_def.node(f"w{layer}", "Const", constant=networks.random(side, side) * np.float32(layer + 1))
        blob += graph_def.node(f"y{layer}", "MatMul", f"{last} w{layer}")
        last = f"y{layer}"
    return Model("TF", blob, inputs=("x",), outputs=(last,))


DENSE: dict[str, Callable[[int, int], Model]] = {"TF": tensorflow_dense}


@pytest.mark.parametrize("backend", DENSE)
def test_peak_of_a_store(start_server: StartServer, backend: str) -> None:
    model = DENSE[backend](round((MEGABYTES * 1_000_000 / 4 / 5) ** 0.5), 5)
    server = start_server()
    with server.wire() as wire:
        wire.ask_ok(*DENSE[backend](4, 1).words("small"))  # imports the library
        wire.ask_ok("MEMORY", "PURGE")
        pids = [server.pid, *engine_pids(wire).values()]
        for pid in pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins anew
        before = [resident(pid) for pid in pids]
        wire.ask_ok(*model.words("large"))
        for pid, resting in zip(pids, before, strict=True):
            assert (resident(pid, "VmHWM") - resting) * 1e6 < 2.5 * len(model.blob)
