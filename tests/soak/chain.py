"""Four models, one for each library, and the script that runs them one after another: what scripts/soak sends.

Each makes factor * x + offset of whole numbers: exact in every library, and in another order something else.
TensorFlow's and TensorFlow Lite's are put together from their file formats.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from onnx import helper

from testkit.graph_def import node
from testkit.networks import Floats, onnx_blob

LENGTH = 1024  # elements of a tensor: one that leaks with every run shows among a server's megabytes

SCRIPT = """
def chain(tensors: List[Tensor], keys: List[str], args: List[str]):
    x = tensors[0]
    for key in keys[1:]:
        x = redisAI.model_execute(key, [x], 1)[0]
    redis.execute("INCR", keys[0])
    return x
"""


@dataclass(slots=True, frozen=True)
class Link:
    backend: str
    blob: bytes
    factor: int
    offset: int
    nodes: tuple[str | int, ...] = ()  # INPUTS and OUTPUTS, where they have to be named

    def __call__(self, x: Floats) -> Floats:
        y: Floats = x * np.float32(self.factor) + np.float32(self.offset)
        return y


def links() -> tuple[Link, ...]:
    return (
        Link("TF", graph_def(2, 1), 2, 1, ("INPUTS", 1, "x", "OUTPUTS", 1, "y")),
        Link("TORCH", torchscript(3, -2), 3, -2),
        Link("ONNX", onnx(2, -7), 2, -7),
        Link("TFLITE", flatbuffer(3, 5), 3, 5),
    )


def onnx(factor: int, offset: int) -> bytes:
    nodes = [helper.make_node("Mul", ["x", "f"], ["product"]), helper.make_node("Add", ["product", "o"], ["y"])]
    weights = {"f": np.array([factor], np.float32), "o": np.array([offset], np.float32)}
    return onnx_blob(nodes, weights, [1, LENGTH], [1, LENGTH])


def torchscript(factor: int, offset: int) -> bytes:
    import torch

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor, self.offset = float(factor), float(offset)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.factor + self.offset

    blob = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Line()), blob)
    return blob.getvalue()


def graph_def(factor: int, offset: int) -> bytes:
    return (
        node("x", "Placeholder")
        + node("f", "Const", constant=np.array(factor))
        + node("o", "Const", constant=np.array(offset))
        + node("product", "Mul", "x f")
        + node("y", "Add", "product o")
    )


def flatbuffer(factor: int, offset: int) -> bytes:
    """By the classes that come with the library and write its file format."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, shape: list[int], buffer: int) -> schema.TensorT:
        made = schema.TensorT()
        made.name, made.shape, made.buffer, made.type = name, shape, buffer, schema.TensorType.FLOAT32
        return made

    def operator(code: int, inputs: list[int], output: int) -> schema.OperatorT:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = code, inputs, [output]
        return made

    def buffer(*numbers: int) -> schema.BufferT:
        made = schema.BufferT()
        made.data = list(struct.pack(f"<{len(numbers)}f", *numbers)) or None
        return made

    def code(builtin: int) -> schema.OperatorCodeT:
        made = schema.OperatorCodeT()
        made.builtinCode = made.deprecatedBuiltinCode = builtin
        made.version = 1
        return made

    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("x", [1, LENGTH], 0),
        tensor("f", [1], 1),
        tensor("o", [1], 2),
        tensor("product", [1, LENGTH], 0),
        tensor("y", [1, LENGTH], 0),
    ]
    graph.inputs, graph.outputs = [0], [4]
    graph.operators = [operator(0, [0, 1], 3), operator(1, [3, 2], 4)]
    model = schema.ModelT()
    model.version = 3
    model.operatorCodes = [code(schema.BuiltinOperator.MUL), code(schema.BuiltinOperator.ADD)]
    model.subgraphs = [graph]
    model.buffers = [buffer(), buffer(factor), buffer(offset)]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
