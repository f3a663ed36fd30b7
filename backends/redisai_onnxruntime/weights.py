"""Divides an ONNX model into its large weights and the rest, so that the library need not parse the weights.

Parsing copies them. Given apart, they are only copied into the session. The loader enters; no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from math import prod
from typing import Any, NamedTuple

from redisai.protobuf import MalformedError, Piece, few_places, head, placed_fields, varints

from .c_api import api, cpu_memory, ffi, made
from .external_data import DATA_LOCATION
from .values import DTYPES, STRING

LARGE = 64 << 10  # bytes of a weight that is worth the trouble
MAX_DIMS = 64

GRAPH = 7  # field of the model
INITIALIZER, SPARSE = 5, 15  # of the graph
DIMS, DATA_TYPE, NAME, RAW_DATA, DOC_STRING = 1, 2, 8, 9, 12  # of a tensor
# external_data {key: "location" value: "/dev/null/apart"}, data_location: EXTERNAL. There cannot be such a file. The
# library replaces the tensor by what it is given under its name, or refuses the model.
APART = b"j\x1b\n\x08location\x12\x0f/dev/null/apartp\x01"


class Weight(NamedTuple):
    name: bytes
    kind: int  # the library's number of the element type
    shape: Sequence[int]
    data: memoryview  # of the blob


def divide(blob: Piece) -> tuple[Piece, list[Weight]]:
    """The model without its large weights, and the weights. The whole blob and none where that is of no use."""
    if len(blob) < LARGE:
        return blob, []
    model = memoryview(blob)
    try:
        graphs = [place for place in few_places(model) if place[0] == GRAPH]
        if len(graphs) != 1:  # the library would merge them
            return blob, []
        _, graph, begin, end = graphs[0]
        rest, weights = _divide_graph(graph) if isinstance(graph, memoryview) else ([], [])
    except MalformedError:
        return blob, []
    if 2 * sum(len(weight.data) for weight in weights) < len(blob):  # the rest is a copy, too
        return blob, []
    return b"".join((model[:begin], head(GRAPH, sum(map(len, rest))), *rest, model[end:])), weights


def _divide_graph(graph: memoryview) -> tuple[list[Piece], list[Weight]]:
    rest: list[Piece] = []
    weights: list[Weight] = []
    names: set[bytes] = set()
    done = 0
    for number, value, begin, end in few_places(graph):
        if number == SPARSE:
            return [], []
        found = _weight(value) if number == INITIALIZER and isinstance(value, memoryview) else None
        if found is None:
            continue
        weight, before, after = found
        if weight.name in names:
            return [], []
        names.add(weight.name)
        weights.append(weight)
        rest += graph[done:begin], head(INITIALIZER, len(before) + len(after) + len(APART)), before, after, APART
        done = end
    return [*rest, graph[done:]], weights


def _weight(tensor: memoryview) -> tuple[Weight, memoryview, memoryview] | None:
    """A large weight, and the tensor's bytes before and after its data. None for a tensor that stays as it is."""
    if len(tensor) < LARGE:
        return None
    shape: list[int] = []
    found: dict[int, int | memoryview | None] = {}
    at = until = 0
    for number, value, begin, end in placed_fields(tensor):
        if number == DIMS and value is not None:
            shape += [value] if isinstance(value, int) else islice(varints(value), MAX_DIMS + 1)
            if len(shape) > MAX_DIMS:
                return None
            continue
        if number not in (DATA_TYPE, NAME, RAW_DATA, DOC_STRING, DATA_LOCATION) or number in found:
            return None
        found[number] = value
        if number == RAW_DATA:
            at, until = begin, end
    kind, name, data = found.get(DATA_TYPE), found.get(NAME), found.get(RAW_DATA)
    if found.get(DATA_LOCATION) or not isinstance(kind, int) or kind not in DTYPES or kind == STRING:
        return None
    if not isinstance(name, memoryview) or not isinstance(data, memoryview) or len(data) < LARGE:
        return None
    if prod(shape) * DTYPES[kind].itemsize != len(data):
        return None
    text = name.tobytes()
    if not text or b"\0" in text:  # the C API cuts a name at its first NUL
        return None
    return Weight(text, kind, shape, data), tensor[:at], tensor[until:]


def give(options: Any, weights: Sequence[Weight]) -> None:
    """Gives the weights to the options of a new session. Making it reads the blob, running it does not."""
    if not weights:
        return
    names = [ffi.new("char[]", weight.name) for weight in weights]
    values = [
        made(
            api.CreateTensorWithDataAsOrtValue,
            *(cpu_memory, ffi.from_buffer(data), len(data), shape, len(shape), kind),
            release=api.ReleaseValue,
        )
        for _, kind, shape, data in weights
    ]
    api.AddExternalInitializers(options, names, values, len(weights))  # refers to the same memory
