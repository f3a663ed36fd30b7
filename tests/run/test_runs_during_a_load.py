"""Runs of other models while a large PyTorch model is compiled: they do not wait for it."""
# TorchScript's compiler is not typed.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from testkit import models
from testkit.paths import both_paths
from testkit.server import Server
from testkit.wire import Wire

LAYERS = 1500
LONGEST_S = 0.05


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


@cache
def deep() -> bytes:
    return models.torch_blob(torch.jit.trace(Deep().eval(), torch.ones(1, 4), check_trace=False))


def longest_run(wire: Wire, goes_on: Callable[[], bool]) -> float:
    """Seconds, of runs one after another."""
    longest, runs = 0.0, 0
    while goes_on():
        begin = time.perf_counter()
        wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        longest = max(longest, time.perf_counter() - begin)
        runs += 1
    assert runs > 50
    return longest


def added_by_a_load(server: Server, wire: Wire) -> float:
    """Seconds by which the longest run is longer while deep() is stored. A machine that is busy with other tests has
    long runs without that, too."""

    def store() -> None:
        with server.wire() as storing:
            storing.ask_ok("AI.MODELSTORE", "deep", "TORCH", "CPU", "BLOB", deep())

    thread = threading.Thread(target=store)
    begin = time.monotonic()
    thread.start()
    longest = longest_run(wire, thread.is_alive)
    end = time.monotonic()
    return longest - longest_run(wire, lambda: time.monotonic() < 2 * end - begin)


@both_paths
def test_they_do_not_wait(server: Server, wire: Wire) -> None:
    deep()  # not while it is measured
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2)
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_identity("FLOAT", (1, 2)))
    # The first one imports the library.
    assert any(added_by_a_load(server, wire) < LONGEST_S for _ in range(8))
