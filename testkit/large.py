"""Values of the three types, larger than buffers, chunks and thresholds: for the tests of saving and sending."""

# TorchScript reads comments about types in the code that it compiles, so they cannot stand there.
# mypy: disable-error-code="no-any-return, no-untyped-call"

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from testkit import models, samples, scripts
from testkit.values import Tensor
from testkit.wire import Wire

NUMBERS = Tensor("FLOAT", (2000, 1000), np.random.default_rng(5).random(2_000_000, dtype=np.float32).tobytes())
STRINGS = Tensor("STRING", (100_000,), b"".join(b"string number %d\0" % number for number in range(100_000)))
SOURCE = scripts.function("add", "return tensors[0] + tensors[1]") + "# not much is said here\n" * 20_000
KEYS = ("numbers", "strings", "onnx", "torch", "script")


class AddLast(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.arange(2_000_000, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weights[-1]


@cache
def onnx_blob() -> bytes:
    return models.onnx_padded(3_000_000)


def store(wire: Wire) -> None:
    samples.store_tensor(wire, "numbers", NUMBERS)
    samples.store_tensor(wire, "strings", STRINGS)
    assert wire.ask("AI.MODELSTORE", "onnx", "ONNX", "CPU", "TAG", "large", "BLOB", onnx_blob()) == b"OK"
    assert wire.ask("AI.MODELSTORE", "torch", "TORCH", "CPU", "BLOB", models.torch_module(AddLast)) == b"OK"
    scripts.store(wire, "script", SOURCE, ["add"])


def check(wire: Wire) -> None:
    """All is as store() left it, and runs."""
    for key, tensor in ("numbers", NUMBERS), ("strings", STRINGS):
        assert wire.ask("AI.TENSORGET", key, "META", "BLOB") == samples.tensor_reply(tensor)
    blob = wire.ask("AI.MODELGET", "onnx", "BLOB")
    assert (blob if isinstance(blob, bytes) else b"".join(blob)) == onnx_blob()
    assert wire.ask("AI.SCRIPTGET", "script", "SOURCE") == SOURCE.encode()
    assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1) == b"OK"
    assert wire.ask("AI.MODELEXECUTE", "onnx", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    last = np.random.default_rng(7).random(3_000_000, dtype=np.float32)[-1]
    assert wire.ask("AI.TENSORGET", "y", "BLOB") == (np.float32(1) + last).tobytes()
    assert wire.ask("AI.MODELEXECUTE", "torch", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "BLOB") == np.float32(2_000_000).tobytes()
    assert wire.ask(*scripts.execute("script", "add", inputs=["x", "x"], outputs=["y"])) == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "BLOB") == np.float32(2).tobytes()
    assert wire.ask("DEL", "x", "y") == 2
