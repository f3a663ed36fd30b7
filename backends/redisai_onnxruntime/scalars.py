"""Tells which inputs and outputs of an ONNX model are declared to have no dimensions. The loader enters; no state.

The library's C API says the same of those and of those without a shape.
"""

from __future__ import annotations

from contextlib import suppress

from redisai.protobuf import MalformedError, Piece, messages

GRAPH = 7  # field of a model
INPUT, OUTPUT = 11, 12  # of a graph
NAME, SHAPE = 1, (2, 1, 2)  # of a value; the path of its shape


def scalar_names(blob: Piece) -> set[str]:
    names: set[str] = set()
    with suppress(MalformedError):
        for graph in messages(memoryview(blob), GRAPH):
            for number in (INPUT, OUTPUT):
                for value in messages(graph, number):
                    if any(not len(shape) for shape in messages(value, *SHAPE)):
                        names.update(bytes(name).decode(errors="replace") for name in messages(value, NAME))
    return names
