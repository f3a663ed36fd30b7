"""Memory while a large model is stored, in copies of the model. One is the value; the library has the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import helper

from testkit import models, networks
from testkit.isolation import engine
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.conftest import StartServer

MEGABYTES = 150
MOST = 2.5  # copies; an engine process gets one more, by message
KEPT = 2.3


def onnx_blob() -> bytes:
    """One weight, which the library does not rearrange. What it rearranges it has twice meanwhile."""
    side = round((MEGABYTES * 1_000_000 / 4) ** 0.5)
    add = helper.make_node("Add", ["x", "w"], ["y"])
    return networks.onnx_blob([add], {"w": networks.random(side, side)}, [1, side], [side, side])


# A small model, which makes the server load the library, and the large one.
BLOBS: dict[str, tuple[Callable[[], bytes], Callable[[], bytes]]] = {"ONNX": (models.onnx_add, onnx_blob)}


def resident(pids: list[int], field: str = "VmRSS") -> int:
    """Bytes of some processes."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def store(wire: Wire, backend: str, blob: bytes, in_transaction: bool) -> None:
    words = "AI.MODELSTORE", "m", backend, "CPU", "BLOB", blob
    if not in_transaction:
        wire.ask_ok(*words)
        return
    wire.ask_ok("MULTI")
    assert wire.ask(*words) == b"QUEUED"
    assert wire.ask("EXEC") == [b"OK"]


def peak(server: Server, backend: str, in_transaction: bool) -> float:
    """Copies that the store takes at most; what it keeps, and the model, are checked."""
    small, large = (blob() for blob in BLOBS[backend])
    with server.wire() as wire:
        wire.ask_ok("AI.MODELSTORE", "warm", backend, "CPU", "BLOB", small)
        pids = [server.pid, *([engine(wire).pid] if server.is_isolated else [])]
        wire.ask_ok("MEMORY", "PURGE")
        for pid in pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins anew
        before = resident(pids)
        store(wire, backend, large, in_transaction)
        most = resident(pids, "VmHWM") - before
        wait_for(lambda: resident(pids) - before < KEPT * len(large))
        assert wire.ask("AI.MODELGET", "m", "BLOB") == large
    return most / len(large)


@pytest.mark.parametrize("in_transaction", [False, True], ids=["plain", "transaction"])
@pytest.mark.parametrize("backend", BLOBS)
def test_copies(start_server: StartServer, backend: str, in_transaction: bool) -> None:
    # As the bytes arrive, the server itself may have to copy them, but not always.
    most = [peak(server := start_server(), backend, in_transaction) for _ in range(2)]
    assert min(most) < MOST + server.is_isolated, most


@pytest.mark.parametrize("backend", BLOBS)
def test_copies_of_an_engine_process(start_server: StartServer, backend: str) -> None:
    most = [peak(start_server(options=["ISOLATION", "process"]), backend, False) for _ in range(2)]
    assert min(most) < MOST + 1, most
