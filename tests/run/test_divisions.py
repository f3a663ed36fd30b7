"""The smallest integer divided by -1, which x86 processors refuse: the smallest again, as NumPy says, and 0 remains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from testkit import models, tf_models
from testkit.tf_models import spec
from testkit.values import Model
from testkit.wire import Wire


class Divide(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.div(x, y, rounding_mode="trunc")


class Remainder(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.remainder(x, y)


def onnx(op: str, kind: str) -> Model:
    number = TensorProto.DataType.Value(kind)
    ends = [models.value(name, number, ["n"]) for name in "xyz"]
    return Model("ONNX", models.onnx_node(op, ends[:2], ends[2:]))


def tflite(function: Callable[..., Any], kind: str) -> Model:
    return Model("TFLITE", tf_models.tflite(function, spec([None], kind, "x"), spec([None], kind, "y")))


def tf(op: str, kind: str) -> Model:
    def build(tf: Any) -> None:
        x, y = (tf_models.placeholder(name, kind) for name in "xy")
        getattr(tf.raw_ops, op)(x=x, y=y, name="z")

    return Model("TF", tf_models.graph(build), inputs=("x", "y"), outputs=("z",))


QUOTIENT: dict[str, Callable[[str], Model]] = {
    "ONNX": lambda kind: onnx("Div", kind),
    "TORCH": lambda kind: Model("TORCH", models.torch_module(Divide)),
    "TF": lambda kind: tf("TruncateDiv", kind.lower()),
}
REMAINDER: dict[str, Callable[[str], Model]] = {
    "ONNX": lambda kind: onnx("Mod", kind),
    "TORCH": lambda kind: Model("TORCH", models.torch_module(Remainder)),
    "TF": lambda kind: tf("FloorMod", kind.lower()),
    "TFLITE": lambda kind: tflite(tf_models.tensorflow().math.floormod, kind.lower()),
}


def divide(wire: Wire, model: Model, kind: str) -> list[int]:
    """Several, so that a library may divide four at once, and one more."""
    smallest = int(np.iinfo(kind.lower()).min)
    operands = np.array([[smallest, 7, smallest, -9, smallest], [-1, 2, 1, 2, -1]], kind.lower())
    assert wire.ask(*model.words("m")) == b"OK"
    for key, array in zip("xy", operands, strict=True):
        wire.ask("AI.TENSORSET", key, kind, 5, "BLOB", array.tobytes())
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "y", "OUTPUTS", 1, "z") == b"OK"
    return [int(number) for number in wire.ask("AI.TENSORGET", "z", "VALUES")]


@pytest.mark.parametrize("kind", ["INT32", "INT64"])
@pytest.mark.parametrize("backend", QUOTIENT)
def test_quotients(wire: Wire, backend: str, kind: str) -> None:
    smallest = int(np.iinfo(kind.lower()).min)
    assert divide(wire, QUOTIENT[backend](kind), kind) == [smallest, 3, smallest, -4, smallest]


@pytest.mark.parametrize("kind", ["INT32", "INT64"])
@pytest.mark.parametrize("backend", REMAINDER)
def test_remainders(wire: Wire, backend: str, kind: str) -> None:
    assert divide(wire, REMAINDER[backend](kind), kind) == [0, 1, 0, 1, 0]
