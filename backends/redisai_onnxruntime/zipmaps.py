"""Takes ZipMap nodes out of ONNX models, so that classifiers give tensors. The loader enters; no state.

Exporters end classifiers with ZipMap: it makes a list of maps, from class to score, of a tensor of rows x classes. That
tensor is what we want, so an Identity takes the node's place. Its columns are in the order of the node's classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TypeAlias

from redisai.protobuf import MalformedError, Piece, few_fields, field, fields, messages, varints

from .c_api import contains

Classes: TypeAlias = dict[str, tuple[str, ...]]  # by the output's name

# Numbers of the fields that are read here.
GRAPH, OPSET_IMPORT = 7, 8  # of a model
NODE, OUTPUT, VALUE_INFO = 1, 12, 13  # of a graph
NODE_INPUT, NODE_OUTPUT, NODE_OP, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 4, 5, 7
INTS, STRINGS = 8, 9  # of an attribute
NAME, TYPE = 1, 2  # of a value
TENSOR_TYPE, SEQUENCE_TYPE, MAP_TYPE, ELEMENT = 1, 4, 5, 1  # of a type; of a sequence or tensor
DOMAIN, VERSION = 1, 2  # of an import
MAX_CLASSES = 1 << 16  # of a model; a blob may list more than memory has room for as texts
FLOAT = 1  # the only type of scores that ZipMap takes
SOME_VERSION = 13  # of the common operators, for models that import those of machine learning only


def without_zipmaps(blob: Piece) -> tuple[Piece, Classes]:
    """The model without ZipMap nodes, and their classes. The blob itself, and no classes, where it has none."""
    classes: Classes = {}
    if not contains(blob, b"ZipMap"):
        return blob, classes
    pieces: list[Piece] = []
    has_identity = False
    try:
        for number, value in few_fields(memoryview(blob)):
            if number == GRAPH and not isinstance(value, int):
                pieces += field(GRAPH, _graph(value, classes))
                continue
            if number == OPSET_IMPORT and not isinstance(value, int):
                has_identity |= dict(fields(value)).get(DOMAIN, b"") in (b"", b"ai.onnx")
            pieces += field(number, value)
    except MalformedError:  # the library says so in its own words
        return blob, {}
    if not classes:
        return blob, classes
    if not has_identity:
        pieces += field(OPSET_IMPORT, field(VERSION, SOME_VERSION))
    return b"".join(pieces), classes


def _graph(graph: memoryview, classes: Classes) -> list[Piece]:
    pieces: list[Piece] = []
    for number, value in few_fields(graph):
        if number == NODE and not isinstance(value, int):
            pieces += field(NODE, _node(value, classes))
        elif number in (OUTPUT, VALUE_INFO) and not isinstance(value, int):
            pieces += field(number, _value(value))
        else:
            pieces += field(number, value)
    return pieces


def _node(node: memoryview, classes: Classes) -> list[Piece]:
    """The node; an Identity in the place of a ZipMap."""
    parts = [(number, value) for number, value in few_fields(node) if not isinstance(value, int)]
    texts = {number: bytes(value) for number, value in parts if number in (NODE_OP, NODE_DOMAIN, NODE_OUTPUT)}
    labels: list[str] = []
    if texts.get(NODE_OP) == b"ZipMap" and texts.get(NODE_DOMAIN) == b"ai.onnx.ml":
        all_labels = (label for number, value in parts if number == NODE_ATTRIBUTE for label in _labels(value))
        room = MAX_CLASSES - sum(map(len, classes.values()))
        labels = list(islice(all_labels, room + 1))
        labels = [] if len(labels) > room else labels
    if not labels or NODE_OUTPUT not in texts:  # the library refuses a ZipMap without classes
        return [node]
    classes[texts[NODE_OUTPUT].decode(errors="replace")] = tuple(labels)
    pieces = field(NODE_OP, b"Identity")
    for number, value in parts:
        if number in (NODE_INPUT, NODE_OUTPUT):
            pieces += field(number, value)
    return pieces


def _labels(attribute: memoryview) -> Iterator[str]:
    for number, value in fields(attribute):
        if number == STRINGS and not isinstance(value, int):
            yield bytes(value).decode(errors="replace")
        elif number == INTS:
            for label in [value] if isinstance(value, int) else varints(value):
                yield str(label - (1 << 64) if label >> 63 else label)


def _value(value: memoryview) -> list[Piece]:
    """What a graph says of a value; a tensor in the place of a sequence of maps."""
    if not any(True for _ in messages(value, TYPE, SEQUENCE_TYPE, ELEMENT, MAP_TYPE)):
        return [value]
    return [*field(NAME, dict(fields(value)).get(NAME, b"")), *field(TYPE, field(TENSOR_TYPE, field(ELEMENT, FLOAT)))]
