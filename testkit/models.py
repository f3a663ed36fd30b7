"""Small models for the tests, as the bytes that AI.MODELSTORE takes. Each is built once.

ONNX ones are named onnx_..., TorchScript ones torch_....
"""

# TorchScript reads comments about types in the code that it compiles, so they cannot stand there.
# mypy: disable-error-code="no-any-return, no-untyped-call"

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from testkit.dtypes import DTYPES

Shape = Sequence[int | str | None]

ONNX_TYPES = {name: dtype.onnx for name, dtype in DTYPES.items()}


# How the error begins with which a library refuses bytes that are no model of its own.
UNREADABLE = {
    "ONNX": "ERR Failed to load model because protobuf parsing failed.",
    "TORCH": "ERR the model is no TorchScript archive: PytorchStreamReader failed reading zip archive: ",
}


def value(name: str, kind: int, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def onnx_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
    opset: int = 17,
) -> bytes:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(constants))
    # Old versions on purpose: the newest that the onnx package writes can be ahead of the onnxruntime installed.
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 19 else 9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def onnx_node(
    op: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto], **attributes: Any
) -> bytes:
    """A model of one node."""
    node = helper.make_node(op, [i.name for i in inputs], [o.name for o in outputs], **attributes)
    return onnx_model([node], inputs, outputs)


@cache
def onnx_add(shape: tuple[int | str | None, ...] = ("n", 2)) -> bytes:
    """a, b FLOAT -> sum."""
    return onnx_binary("Add", "sum", shape)


@cache
def onnx_mul(shape: tuple[int | str | None, ...] = ("n", 2)) -> bytes:
    """a, b FLOAT -> product."""
    return onnx_binary("Mul", "product", shape)


def onnx_binary(op: str, output: str, shape: Shape) -> bytes:
    a, b = value("a", TensorProto.FLOAT, shape), value("b", TensorProto.FLOAT, shape)
    return onnx_node(op, [a, b], [value(output, TensorProto.FLOAT, shape)])


@cache
def onnx_identity(dtype: str = "FLOAT", shape: tuple[int | str | None, ...] = ("n",)) -> bytes:
    """x -> y, the same, for any of our type names."""
    kind = ONNX_TYPES[dtype]
    return onnx_node("Identity", [value("x", kind, shape)], [value("y", kind, shape)])


@cache
def onnx_cast(to: int, opset: int = 17) -> bytes:
    """x FLOAT -> y of another ONNX type."""
    x, y = value("x", TensorProto.FLOAT, ["n"]), value("y", to, ["n"])
    return onnx_model([helper.make_node("Cast", ["x"], ["y"], to=to)], [x], [y], opset=opset)


@cache
def onnx_total() -> bytes:
    """x FLOAT [n] -> y, its sum, of rank 0."""
    return onnx_node(
        "ReduceSum", [value("x", TensorProto.FLOAT, ["n"])], [value("y", TensorProto.FLOAT, [])], keepdims=0
    )


@cache
def onnx_nonzero() -> bytes:
    """x FLOAT [n] -> y INT64 [1, how many are not 0], which may be empty."""
    return onnx_node("NonZero", [value("x", TensorProto.FLOAT, ["n"])], [value("y", TensorProto.INT64, [1, "k"])])


@cache
def onnx_sequence() -> bytes:
    """a, b FLOAT [n] -> sequence (of a and b), sum."""
    a, b = value("a", TensorProto.FLOAT, ["n"]), value("b", TensorProto.FLOAT, ["n"])
    sequence = helper.make_tensor_sequence_value_info("sequence", TensorProto.FLOAT, ["n"])
    nodes = [
        helper.make_node("SequenceConstruct", ["a", "b"], ["sequence"]),
        helper.make_node("Add", ["a", "b"], ["sum"]),
    ]
    return onnx_model(nodes, [a, b], [sequence, value("sum", TensorProto.FLOAT, ["n"])])


@cache
def onnx_ragged() -> bytes:
    """a, b FLOAT [n] -> sequence (of a, and of a and b one after the other), sum."""
    a, b = value("a", TensorProto.FLOAT, ["n"]), value("b", TensorProto.FLOAT, ["n"])
    nodes = [
        helper.make_node("Concat", ["a", "b"], ["both"], axis=0),
        helper.make_node("SequenceConstruct", ["a", "both"], ["sequence"]),
        helper.make_node("Add", ["a", "b"], ["sum"]),
    ]
    sequence = helper.make_tensor_sequence_value_info("sequence", TensorProto.FLOAT, None)
    return onnx_model(nodes, [a, b], [sequence, value("sum", TensorProto.FLOAT, ["n"])])


@cache
def onnx_classifier(*classes: int | str) -> bytes:
    """x FLOAT [n, classes] -> class, scores: x as maps from class to score, as exporters of classifiers write it."""
    x = value("x", TensorProto.FLOAT, [None, len(classes)])
    kind = "strings" if isinstance(classes[0], str) else "int64s"
    labels: dict[str, Any] = {f"classlabels_{kind}": list(classes)}
    nodes = [
        helper.make_node("ArgMax", ["x"], ["class"], axis=1, keepdims=0),
        helper.make_node("Identity", ["x"], ["probabilities"]),
        helper.make_node("ZipMap", ["probabilities"], ["scores"], domain="ai.onnx.ml", **labels),
    ]
    key = TensorProto.STRING if kind == "strings" else TensorProto.INT64
    maps = helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    scores = helper.make_value_info("scores", helper.make_sequence_type_proto(maps))
    return onnx_model(nodes, [x], [value("class", TensorProto.INT64, [None]), scores])


@cache
def onnx_many_inputs(count: int = 10) -> bytes:
    """x0 ... FLOAT [n] -> y, their sum."""
    inputs = [value(f"x{i}", TensorProto.FLOAT, ["n"]) for i in range(count)]
    return onnx_node("Sum", inputs, [value("y", TensorProto.FLOAT, ["n"])])


@cache
def onnx_split3() -> bytes:
    """x FLOAT [3] -> a, b, c FLOAT [1]."""
    outputs = [value(name, TensorProto.FLOAT, [1]) for name in "abc"]
    return onnx_node("Split", [value("x", TensorProto.FLOAT, [3])], outputs, axis=0)


@cache
def onnx_line(
    factor: float, offset: float, shape: tuple[int | str | None, ...] = ("n", "c"), ballast: int = 0
) -> bytes:
    """x FLOAT -> y: x * factor + offset. ballast: so many random numbers are in the model and of no use."""
    numbers = {"f": factor, "o": offset}
    constants = [numpy_helper.from_array(np.array([number], np.float32), name) for name, number in numbers.items()]
    if ballast:
        constants.append(numpy_helper.from_array(np.random.default_rng(ballast).random(ballast, np.float32), "ballast"))
    nodes = [helper.make_node("Mul", ["x", "f"], ["product"]), helper.make_node("Add", ["product", "o"], ["y"])]
    x, y = (value(name, TensorProto.FLOAT, shape) for name in "xy")
    return onnx_model(nodes, [x], [y], constants)


@cache
def onnx_linear(size: int = 4) -> bytes:
    """x FLOAT [n, size] -> y FLOAT [n, size]: x times 0 ... size*size-1, plus 1."""
    weights = np.arange(size * size, dtype=np.float32).reshape(size, size)
    constants = [
        numpy_helper.from_array(weights, "w"),
        numpy_helper.from_array(np.ones(size, np.float32), "bias"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    shape: Shape = ["n", size]
    return onnx_model(nodes, [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, shape)], constants)


@cache
def onnx_padded(size: int) -> bytes:
    """x FLOAT [1] -> y FLOAT [1]: x plus the last of size constants; so a blob of more than 4 * size bytes."""
    data = np.random.default_rng(7).random(size, dtype=np.float32)
    constants = [numpy_helper.from_array(data, "w"), numpy_helper.from_array(np.array([size - 1]), "last")]
    nodes = [helper.make_node("Gather", ["w", "last"], ["picked"]), helper.make_node("Add", ["x", "picked"], ["y"])]
    return onnx_model(nodes, [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, [1])], constants)


@cache
def onnx_outer() -> bytes:
    """x FLOAT [n, 1] -> y FLOAT [n, n]: every element times every other."""
    nodes = [helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    return onnx_model(nodes, [value("x", TensorProto.FLOAT, ["n", 1])], [value("y", TensorProto.FLOAT, ["n", "m"])])


@cache
def onnx_loop() -> bytes:
    """n INT64, rank 0 -> y FLOAT [64, 64]: n rounds of work, one after another."""
    matrix = numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["v", "w"], ["v_out"]),
            helper.make_node("Identity", ["go"], ["go_out"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, [64, 64])],
        [value("go_out", TensorProto.BOOL, []), value("v_out", TensorProto.FLOAT, [64, 64])],
    )
    loop = helper.make_node("Loop", ["n", "", "w"], ["y"], body=body)
    return onnx_model([loop], [value("n", TensorProto.INT64, [])], [value("y", TensorProto.FLOAT, [64, 64])], [matrix])


@cache
def onnx_loop_by_rows() -> bytes:
    """x FLOAT [n, 1] -> y = x, after as many rounds as the largest x."""
    ends = [value(name, TensorProto.FLOAT, ["n", 1]) for name in "xy"]
    state = [value(name, TensorProto.FLOAT, [64, 64]) for name in ("v", "w_out")]
    go = [value(name, TensorProto.BOOL, []) for name in ("go", "go_out")]
    body = helper.make_graph(
        [helper.make_node("MatMul", ["v", "w"], ["w_out"]), helper.make_node("Identity", ["go"], ["go_out"])],
        "body",
        [value("i", TensorProto.INT64, []), go[0], state[0]],
        [go[1], state[1]],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["rounds"], to=TensorProto.INT64),
        helper.make_node("Loop", ["rounds", "", "w"], ["v_end"], body=body),
        helper.make_node("ReduceMax", ["v_end"], ["one"], keepdims=0),
        helper.make_node("Mul", ["x", "one"], ["y"]),
    ]
    matrix = numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    return onnx_model(nodes, ends[:1], ends[1:], [matrix])


def torch_blob(module: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()


class Add(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Line(nn.Module):
    def __init__(self, factor: float, offset: float) -> None:
        super().__init__()
        self.factor, self.offset = factor, offset

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.offset


def torch_line(factor: float, offset: float) -> bytes:
    """x -> x * factor + offset."""
    return torch_blob(Line(float(factor), float(offset)))


class Pair(nn.Module):
    """Takes two rows, no other number."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.size(0) == 2, "two rows"
        return x * 2


class Identity(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Total(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


class Keep(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0]


class SumAndProduct(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a + b, a * b


class Many(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, x + 1]


class Cast(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(x, x)


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.t()


class NotATensor(nn.Module):
    def forward(self, x: Tensor) -> str:
        return str(x.size(0))


class Spin(nn.Module):
    def forward(self, n: Tensor) -> Tensor:
        x = torch.eye(64)
        for _ in range(int(n)):
            x = torch.mm(x, x)
        return x


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("first line\n    second line")


class InPlaceAdd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x += 1
        return x


class InPlaceView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        flat = x.view(-1)
        flat.mul_(2)
        return x.clone()


class InPlaceItem(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x[0] = 7.0
        return x


class InPlaceRelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.relu(x, inplace=True)


class InPlaceOut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.mul(x, 2, out=x)


class InPlaceBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.size(0) > 1:
            for _ in range(2):
                x.sub_(1)
        return x + 0


class InPlaceInner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = InPlaceAdd()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def fill(x: Tensor) -> Tensor:
    return x.fill_(3)


class InPlaceFork(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(fill, x))


IN_PLACE: list[type[nn.Module]] = [
    InPlaceAdd,
    InPlaceView,
    InPlaceItem,
    InPlaceRelu,
    InPlaceOut,
    InPlaceBranch,
    InPlaceInner,
    InPlaceFork,
]


@cache
def torch_module(module: type[nn.Module]) -> bytes:
    return torch_blob(module())
