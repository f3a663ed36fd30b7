"""The models that are measured, built here from a fixed seed: nothing is downloaded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bench.graph_def import node
from wire import Word

Floats = NDArray[np.float32]
Shape = Sequence[int | str]
Layers = list[tuple[Floats, Floats]]  # weights and bias
PERCEPTRON = (*[256] * 16, 10)  # the sizes between its layers; 989,450 weights in all


@dataclass(slots=True, frozen=True)
class Model:
    """A model, something to feed it, and what must come out."""

    backend: str
    blob: bytes
    feed: Floats
    output: Floats
    nodes: tuple[Word, ...] = ()  # INPUTS and OUTPUTS, where they have to be named


def random(*shape: int, scale: float = 1.0) -> Floats:
    numbers: Floats = np.random.default_rng(42).standard_normal(shape, dtype=np.float32)
    numbers *= np.float32(scale)
    return numbers


def onnx_blob(nodes: list[onnx.NodeProto], weights: dict[str, Floats], shape: Shape, out: Shape) -> bytes:
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def onnx_model(nodes: list[onnx.NodeProto], weights: dict[str, Floats], shape: list[int], out: list[int]) -> Model:
    blob = onnx_blob(nodes, weights, shape, out)
    feed = random(*shape)
    answers = ReferenceEvaluator(onnx.load_from_string(blob)).run(None, {"x": feed})
    return Model("ONNX", blob, feed, answers[0])  # type: ignore[index]


def linear() -> Model:
    """The least that a model can be: four floats in, one out."""
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    return onnx_model(nodes, {"w": random(4, 1), "b": random(1)}, [1, 4], [1, 1])


def cnn() -> Model:
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
    weights = {
        "w1": random(8, 1, 5, 5, scale=0.2),
        "b1": random(8, scale=0.1),
        "w2": random(16, 8, 5, 5, scale=0.1),
        "b2": random(16, scale=0.1),
        "w3": random(256, 10, scale=0.1),
        "b3": random(10, scale=0.1),
    }
    return onnx_model(nodes, weights, [1, 1, 28, 28], [1, 10])


def large(megabytes: int) -> bytes:
    """One dense layer of that size: stored, never run."""
    side = round((megabytes * 1_000_000 / 4) ** 0.5)
    return onnx_blob([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": random(side, side)}, [1, side], [1, side])


def mlp() -> Model:
    """A dense network 30-64-64-2 as TorchScript."""
    import torch  # here, since it takes seconds that most cases need not wait for

    torch.manual_seed(42)
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    network = torch.nn.Sequential(linear(30, 64), relu(), linear(64, 64), relu(), linear(64, 2))
    feed = random(1, 30)
    with torch.inference_mode():
        output: Floats = network(torch.from_numpy(feed)).numpy()
    return Model("TORCH", torchscript(network), feed, output)


def torchscript(network: Any) -> bytes:
    import torch

    blob = io.BytesIO()
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(network.eval()), blob)
    return blob.getvalue()


def perceptron(backend: str) -> Model:
    """The same dense network for each library."""
    layers = [(random(n, m, scale=(2 / n) ** 0.5), random(m, scale=0.1)) for n, m in pairwise(PERCEPTRON)]
    feed = output = random(1, PERCEPTRON[0])
    for number, (weights, bias) in enumerate(layers, 1):
        output = output @ weights + bias
        if number < len(layers):
            output = np.maximum(output, 0)
    if backend == "ONNX":
        return Model(backend, perceptron_onnx(layers), feed, output)
    if backend == "TORCH":
        return Model(backend, perceptron_torch(layers), feed, output)
    return Model(backend, perceptron_tf(layers), feed, output, ("INPUTS", 1, "x", "OUTPUTS", 1, "y"))


def perceptron_onnx(layers: Layers) -> bytes:
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Floats] = {}
    x = "x"
    for number, (weights, bias) in enumerate(layers, 1):
        constants |= {f"w{number}": weights, f"b{number}": bias}
        y = "y" if number == len(layers) else f"y{number}"
        nodes.append(helper.make_node("Gemm", [x, f"w{number}", f"b{number}"], [y]))
        x = f"r{number}"
        if y != "y":
            nodes.append(helper.make_node("Relu", [y], [x]))
    return onnx_blob(nodes, constants, ["n", PERCEPTRON[0]], ["n", PERCEPTRON[-1]])


def perceptron_torch(layers: Layers) -> bytes:
    import torch

    modules: list[torch.nn.Module] = []
    for weights, bias in layers:
        linear = torch.nn.Linear(*weights.shape)
        linear.weight.data = torch.from_numpy(weights.T.copy())
        linear.bias.data = torch.from_numpy(bias)
        modules += [linear, torch.nn.ReLU()]
    return torchscript(torch.nn.Sequential(*modules[:-1]))


def perceptron_tf(layers: Layers) -> bytes:
    graph, x = node("x", "Placeholder"), "x"
    for number, (weights, bias) in enumerate(layers, 1):
        y = "y" if number == len(layers) else f"y{number}"
        graph += node(f"w{number}", "Const", constant=weights) + node(f"b{number}", "Const", constant=bias)
        graph += node(f"p{number}", "MatMul", f"{x} w{number}") + node(y, "Add", f"p{number} b{number}")
        x = f"r{number}"
        if y != "y":
            graph += node(x, "Relu", y)
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
