"""Networks from a fixed seed, each with something to feed it and what must come out. Nothing is downloaded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from testkit.graph_def import node
from testkit.values import Model

Floats = NDArray[np.float32]
Shape = Sequence[int | str]
Feeds = tuple[tuple[str, Floats], ...]  # the inputs, by their names in the model where they have names
Layers = list[tuple[Floats, Floats]]  # weights and bias
# Sizes between layers.
MLP = (30, 64, 64, 2)
FRAUD = (30, 18, 27, 40, 2)
PERCEPTRON = (*[256] * 16, 10)  # 989,450 weights in all
REFERENCE = 256
ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "": lambda x: x,
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: np.float32(1) / (np.float32(1) + np.exp(-x)),
    "Softmax": lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True),
}


@dataclass(slots=True, frozen=True, kw_only=True)
class Network(Model):
    """A model, something to feed it, and what must come out."""

    feeds: Feeds
    output: Floats

    @property
    def feed(self) -> Floats:
        """The only one, or the first."""
        return self.feeds[0][1]


def random(*shape: int, scale: float = 1.0) -> Floats:
    numbers: Floats = np.random.default_rng(42).standard_normal(shape, dtype=np.float32)
    numbers *= np.float32(scale)
    return numbers


def onnx_blob(nodes: list[onnx.NodeProto], weights: dict[str, Floats], shape: Shape, out: Shape) -> bytes:
    return onnx_graph(nodes, weights, {"x": shape}, out)


def onnx_graph(
    nodes: list[onnx.NodeProto], weights: dict[str, Floats], inputs: Mapping[str, Shape], out: Shape
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def onnx_model(nodes: list[onnx.NodeProto], weights: dict[str, Floats], rows: int | str, feed: Floats) -> Network:
    blob = onnx_blob(nodes, weights, [rows, *feed.shape[1:]], [rows, len(next(reversed(weights.values())))])
    answers = ReferenceEvaluator(onnx.load_from_string(blob)).run(None, {"x": feed})
    return Network("ONNX", blob, feeds=(("x", feed),), output=answers[0])  # type: ignore[index]


CNN = {
    "w1": random(8, 1, 5, 5, scale=0.2),
    "b1": random(8, scale=0.1),
    "w2": random(16, 8, 5, 5, scale=0.1),
    "b2": random(16, scale=0.1),
    "w3": random(256, 10, scale=0.1),
    "b3": random(10, scale=0.1),
}


def linear(rows: int | str = 1) -> Network:
    """The least that a model can be: four floats in, one out. rows: a name lets it run in batches."""
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    return onnx_model(nodes, {"w": random(4, 1), "b": random(1)}, rows, random(1, 4))


def cnn(rows: int | str = 1) -> Network:
    """Digits of 28 x 28 pixels: two convolutions with pooling, one dense layer, 0.8 million multiplications in all."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], kernel_shape=[5, 5], pads=[2, 2, 2, 2]),
        node("Relu", ["c1"], ["r1"]),
        node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2", "b2"], ["c2"], kernel_shape=[5, 5], pads=[2, 2, 2, 2]),
        node("Relu", ["c2"], ["r2"]),
        node("MaxPool", ["r2"], ["p2"], kernel_shape=[3, 3], strides=[3, 3]),
        node("Flatten", ["p2"], ["f"]),
        node("Gemm", ["f", "w3", "b3"], ["y"]),
    ]
    return onnx_model(nodes, CNN, rows, random(1, 1, 28, 28))


def large(megabytes: int) -> bytes:
    """One dense layer of that size: stored, never run."""
    side = round((megabytes * 1_000_000 / 4) ** 0.5)
    return onnx_blob([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": random(side, side)}, [1, side], [1, side])


def torchscript(network: Any) -> bytes:
    import torch

    blob = io.BytesIO()
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(network.eval()), blob)
    return blob.getvalue()


def doubled() -> Network:
    """What a script may do: its input times two."""
    import torch

    class Doubled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    x = random(1, MLP[0])
    return Network("TORCH", torchscript(Doubled()), feeds=(("x", x),), output=x * np.float32(2))


def added() -> Network:
    """The sum of two tensors."""
    import torch

    class Added(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    x = random(1, MLP[0])
    return Network("TORCH", torchscript(Added()), feeds=(("x", x), ("y", x[:, ::-1].copy())), output=x + x[:, ::-1])


def mlp_between() -> tuple[Network, Network]:
    """The MLP with its input and its output times two, in one model; and the MLP alone, fed with twice the input."""
    import torch

    class Between(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.model(x * 2)
            return y * 2

    x, two = random(1, MLP[0]), np.float32(2)
    alone = dense("TORCH", MLP, (("x", x * two),))
    inner: Any = torch.jit.load(io.BytesIO(alone.blob))  # type: ignore[no-untyped-call]
    whole = Network("TORCH", torchscript(Between(inner)), feeds=(("x", x),), output=alone.output * two)
    return whole, alone


def cnn_torch() -> Network:
    """cnn() in TORCH."""
    import torch
    from torch.nn import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential

    convolutions, last = (Conv2d(1, 8, 5, padding=2), Conv2d(8, 16, 5, padding=2)), Linear(256, 10)
    pools = MaxPool2d(2), MaxPool2d(3)
    for number, layer in enumerate((*convolutions, last), 1):
        weights = CNN[f"w{number}"]
        layer.weight.data = torch.from_numpy(weights.T.copy() if layer is last else weights)
        layer.bias.data = torch.from_numpy(CNN[f"b{number}"])
    steps = [step for conv, pool in zip(convolutions, pools, strict=True) for step in (conv, ReLU(), pool)]
    onnx = cnn()
    return Network("TORCH", torchscript(Sequential(*steps, Flatten(), last)), feeds=onnx.feeds, output=onnx.output)


def perceptron(backend: str) -> Network:
    """A dense network large enough that what it takes is the arithmetic."""
    return dense(backend, PERCEPTRON, (("x", random(1, PERCEPTRON[0])),))


def mlp(backend: str) -> Network:
    """A dense network 30-64-64-2."""
    return dense(backend, MLP, (("x", random(1, MLP[0])),))


def fraud(backend: str, reference: bool = True) -> Network:
    """Whether a transaction with a credit card is fraud: the network of RedisAI's example, with other weights.

    As there, the reference data of the card, if any, are an input that the network does not use.
    """
    feeds = (("transaction", random(1, FRAUD[0])), ("reference", random(1, REFERENCE)))
    return dense(backend, FRAUD, feeds if reference else feeds[:1], "Sigmoid", "Softmax")


def dense(backend: str, sizes: Sequence[int], feeds: Feeds, hidden: str = "Relu", last: str = "") -> Network:
    """The same dense network for each library; what is fed first is its input, the rest it does not use."""
    layers = [(random(n, m, scale=(2 / n) ** 0.5), random(m, scale=0.1)) for n, m in pairwise(sizes)]
    operations = [hidden] * (len(layers) - 1) + [last]
    output = feeds[0][1]
    for (weights, bias), operation in zip(layers, operations, strict=True):
        output = ACTIVATIONS[operation](output @ weights + bias)
    names = [name for name, _ in feeds]
    if backend == "ONNX":
        shapes = {name: ["n", value.shape[1]] for name, value in feeds}
        return Network(backend, dense_onnx(layers, operations, shapes), feeds=feeds, output=output)
    if backend == "TORCH":
        return Network(backend, dense_torch(layers, operations, len(feeds)), feeds=feeds, output=output)
    blob = dense_tf(layers, operations, names)
    return Network(backend, blob, inputs=tuple(names), outputs=("y",), feeds=feeds, output=output)


def dense_onnx(layers: Layers, operations: list[str], inputs: Mapping[str, Shape]) -> bytes:
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Floats] = {}
    x = next(iter(inputs))
    for number, ((weights, bias), operation) in enumerate(zip(layers, operations, strict=True), 1):
        constants |= {f"w{number}": weights, f"b{number}": bias}
        y = "y" if number == len(layers) else f"y{number}"
        linear = f"l{number}" if operation else y
        nodes.append(helper.make_node("Gemm", [x, f"w{number}", f"b{number}"], [linear]))
        if operation:
            nodes.append(helper.make_node(operation, [linear], [y]))
        x = y
    return onnx_graph(nodes, constants, inputs, ["n", len(layers[-1][1])])


def dense_torch(layers: Layers, operations: list[str], inputs: int) -> bytes:
    import torch  # here, since it takes seconds that most cases need not wait for

    class WithReference(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, transaction: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.network(transaction)  # a result of Any would run from Python
            return y

    modules: list[torch.nn.Module] = []
    for (weights, bias), operation in zip(layers, operations, strict=True):
        linear = torch.nn.Linear(*weights.shape)
        linear.weight.data = torch.from_numpy(weights.T.copy())
        linear.bias.data = torch.from_numpy(bias)
        modules.append(linear)
        if operation:
            modules.append(
                {"Relu": torch.nn.ReLU(), "Sigmoid": torch.nn.Sigmoid(), "Softmax": torch.nn.Softmax(1)}[operation]
            )
    network = torch.nn.Sequential(*modules)
    return torchscript(network if inputs == 1 else WithReference(network))


def dense_tf(layers: Layers, operations: list[str], inputs: list[str]) -> bytes:
    graph, x = b"".join(node(name, "Placeholder") for name in inputs), inputs[0]
    for number, ((weights, bias), operation) in enumerate(zip(layers, operations, strict=True), 1):
        y = "y" if number == len(layers) else f"y{number}"
        linear = f"l{number}" if operation else y
        graph += node(f"w{number}", "Const", constant=weights) + node(f"b{number}", "Const", constant=bias)
        graph += node(f"p{number}", "MatMul", f"{x} w{number}") + node(linear, "Add", f"p{number} b{number}")
        if operation:
            graph += node(y, operation, linear)
        x = y
    return graph


def script(functions: int) -> str:
    """The source of a script of so many functions that its entry point, main, calls one after another."""
    steps = (
        f"def step{i}(x, y: float):\n"
        f"    if x.numel() > {i}:\n"
        f"        for k in range({i % 7}):\n"
        f"            x = torch.relu(x * y + {i}) - k\n"
        "    return torch.cat([x[:1], x[1:]]).view(x.size())\n"
        for i in range(functions)
    )
    calls = (f"    x = step{i}(x, 1.5)\n" for i in range(functions))
    main = "def main(tensors: List[Tensor], keys: List[str], args: List[str]):\n    x = tensors[0]\n"
    return "".join((*steps, main, *calls, "    return x\n"))
