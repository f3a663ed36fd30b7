"""Four models, one for each library, and the script that runs them one after another: what scripts/soak sends.

TensorFlow's and TensorFlow Lite's are put together from their file formats: to import TensorFlow takes seconds.
"""

from __future__ import annotations

import struct

import numpy as np

from testkit.graph_def import node
from tests.soak.lines import Line, LineModel, onnx_line, torch_line

LENGTH = 1024  # elements of a tensor: one that leaks with every run shows among a server's megabytes

SCRIPT = """
def chain(tensors: List[Tensor], keys: List[str], args: List[str]):
    x = tensors[0]
    for key in keys[1:]:
        x = redisAI.model_execute(key, [x], 1)[0]
    redis.execute("INCR", keys[0])
    return x
"""


def links() -> tuple[LineModel, ...]:
    tf, torch, onnx, tflite = Line(2, 1), Line(3, -2), Line(2, -7), Line(3, 5)
    return (
        LineModel("TF", graph_def(tf), inputs=("x",), outputs=("y",), line=tf),
        torch_line(torch),
        onnx_line(onnx, (1, LENGTH)),
        LineModel("TFLITE", flatbuffer(tflite), line=tflite),
    )


def graph_def(line: Line) -> bytes:
    return (
        node("x", "Placeholder")
        + node("f", "Const", constant=np.array(line.factor))
        + node("o", "Const", constant=np.array(line.offset))
        + node("product", "Mul", "x f")
        + node("y", "Add", "product o")
    )


def flatbuffer(line: Line) -> bytes:
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
    model.buffers = [buffer(), buffer(line.factor), buffer(line.offset)]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
