"""Memory while a large model is stored. One copy is the value. ONNX Runtime has two while it loads, and keeps one."""

from __future__ import annotations

from pathlib import Path

from onnx import helper

from testkit import models, networks
from testkit.server import Server
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
