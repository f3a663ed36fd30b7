"""Takes the large weights out of a GraphDef, because TensorFlow copies several times what a graph holds.

A weight is a constant that only multiplications, convolutions and look-ups use. It becomes a variable, which is
assigned once the session is made. All other constants stay: TensorFlow's optimisations want to know their values. The
loader enters; no state.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from redisai.protobuf import MalformedError, Piece, field, fields, placed_fields

from .graph_ops import ATTRIBUTE, DTYPE, KEY, NAME, OPERATION, TENSOR, TYPE, VALUE, as_bytes, as_message
from .tensors import DTYPES, STRING

MIN_SIZE = 1 << 18  # bytes; a run reads a variable in 0.3 us, which must not count beside the product of such a matrix
MAX_DIMS = 8

NODE = 1  # field of a graph
INPUT, DEVICE = 3, 4  # fields of NODE
TEXT, SHAPE = 2, 7  # fields of VALUE
DIMS, CONTENT = 2, 4  # fields of TENSOR
DIM = 2  # field of DIMS
SIZE = 1  # field of DIM

CONVOLUTIONS = {b"Conv2D", b"Conv3D", b"DepthwiseConv2dNative", b"Conv2DBackpropInput"}
PRODUCTS = {b"MatMul", b"BatchMatMul", b"BatchMatMulV2", b"BatchMatMulV3", b"Einsum"}
USES = CONVOLUTIONS | PRODUCTS | {b"Gather", b"GatherV2"}


class Weight(NamedTuple):
    placeholder: str
    assignment: str  # the operation that gives the variable what is fed to the placeholder
    type: int
    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True, slots=True)
class _Node:
    start: int
    end: int
    operation: bytes
    inputs: list[bytes]  # the nodes whose outputs it takes


def split(blob: bytes | memoryview, ports: Iterable[str]) -> tuple[bytes | memoryview, list[Weight]]:
    """The graph without its weights, and these. If there are none, the graph is the blob itself.

    ports are the names of the session's inputs and outputs."""
    if len(blob) < MIN_SIZE:
        return blob, []
    message = memoryview(blob)
    named = {_node_of(port.encode()) for port in ports}
    try:
        graph = _Graph(message, named)
    except MalformedError:
        return blob, []
    taken = {name.partition(b"/")[0] for name in (*graph.nodes, *named)}
    scope = next(name for number in count() if (name := b"weights%d" % number) not in taken)
    pieces: list[bytes | memoryview] = []
    weights: list[Weight] = []
    at = 0
    for name, node in graph.nodes.items():
        if node.operation != b"Const" or node.end - node.start < MIN_SIZE or not graph.is_weight(name):
            continue
        try:
            variable, weight = _variable(message[node.start : node.end], name, scope + b"/%d" % len(weights))
        except MalformedError:  # or unusual: the library decides
            continue
        pieces += [message[at : node.start], *variable]
        weights.append(weight)
        at = node.end
    return (b"".join([*pieces, message[at:]]), weights) if weights else (blob, [])


class _Graph:
    def __init__(self, message: memoryview, named: set[bytes]) -> None:
        self.nodes: dict[bytes, _Node] = {}  # by name, in their order
        self._named = named
        self._users: defaultdict[bytes, list[bytes]] = defaultdict(list)
        for part, value, start, end in placed_fields(message):
            if part == NODE and value is not None:
                name, node = _parsed(as_message(value), start, end)
                if name in self.nodes:
                    raise MalformedError
                self.nodes[name] = node
                for source in node.inputs:
                    self._users[source].append(name)
        # What comes from constants alone is computed only once, unless one of them is a variable.
        todo = [name for name, node in self.nodes.items() if node.operation == b"Placeholder" or name in named]
        varying = set(todo)
        while todo:
            new = set(self._users[todo.pop()]) - varying
            varying |= new
            todo += new
        self._uses = {name for name in varying & self.nodes.keys() if self.nodes[name].operation in USES}
        for node in self.nodes.values():
            # If constants multiply what a constant filter makes, TensorFlow multiplies the filter instead, once.
            if node.operation == b"Mul" and not varying.issuperset(node.inputs):
                self._uses -= {
                    name for name in node.inputs if name in self.nodes and self.nodes[name].operation in CONVOLUTIONS
                }

    def is_weight(self, name: bytes) -> bool:
        todo = [name]
        while todo:
            name = todo.pop()
            if name in self._named or not self._users[name]:
                return False
            for user in self._users[name]:
                node = self.nodes[user]
                if node.operation == b"Identity" and len(node.inputs) == 1:
                    todo.append(user)
                elif user not in self._uses:
                    return False
        return True


def _parsed(message: memoryview, start: int, end: int) -> tuple[bytes, _Node]:
    name = operation = b""
    inputs = []
    for number, value in fields(message):
        if number == NAME:
            name = as_bytes(value)
        elif number == OPERATION:
            operation = as_bytes(value)
        elif number == INPUT:
            source = as_bytes(value)
            if not source.startswith(b"^"):
                inputs.append(_node_of(source))
    return name, _Node(start, end, operation, inputs)


def _node_of(port: bytes) -> bytes:
    """x of "x" and of "x:1"."""
    return port.partition(b":")[0]


def _variable(constant: memoryview, name: bytes, own: bytes) -> tuple[list[Piece], Weight]:
    """The nodes that stand for the field of a constant; own is the name of the variable."""
    device, attributes = b"", {}
    ((_, node),) = fields(constant)
    for number, value in fields(as_message(node)):
        if number == DEVICE:
            device = as_bytes(value)
        elif number == ATTRIBUTE:
            attribute = _parts(value, KEY, VALUE)
            attributes[as_bytes(attribute.get(KEY, 0))] = attribute.get(VALUE, 0)
        elif number not in (NAME, OPERATION):
            raise MalformedError
    if attributes.keys() != {b"dtype", b"value"}:
        raise MalformedError
    tensor = _parts(_parts(attributes[b"value"], TENSOR).get(TENSOR, 0), DTYPE, DIMS, CONTENT)
    kind, dims, data = tensor.get(DTYPE), as_message(tensor.get(DIMS, 0)), as_message(tensor.get(CONTENT, 0))
    if not isinstance(kind, int) or kind not in DTYPES or kind == STRING:
        raise MalformedError
    shape: list[int] = []
    for number, dim in fields(dims):
        size = _parts(dim, SIZE).get(SIZE, 0)
        if number != DIM or not isinstance(size, int) or len(shape) == MAX_DIMS:
            raise MalformedError
        shape.append(size)
    if math.prod(shape) * DTYPES[kind].itemsize != len(data):
        raise MalformedError

    placeholder, assignment = own + b"/value", own + b"/assignment"
    of_type = _attribute(b"dtype", bytes([TYPE << 3, kind]))
    # Variables without this name would be one and the same.
    named = _attribute(b"shared_name", field(TEXT, own))
    of_variable = of_type + _attribute(b"shape", field(SHAPE, dims)) + named
    # If the placeholder had a shape, TensorFlow would allocate a tensor of it while it optimises the assignment.
    nodes = (
        _node(own, b"VarHandleOp", [], device, of_variable)
        + _node(name, b"ReadVariableOp", [own], device, of_type)
        + _node(placeholder, b"Placeholder", [], device, of_type)
        + _node(assignment, b"AssignVariableOp", [own, placeholder], device, of_type)
    )
    return nodes, Weight(placeholder.decode(), assignment.decode(), kind, tuple(shape), data)


def _parts(message: int | memoryview, *numbers: int) -> dict[int, int | memoryview]:
    """The fields of a message that has only these, each at most once."""
    listed = list(fields(as_message(message)))
    parts = dict(listed)
    if len(parts) < len(listed) or not parts.keys() <= set(numbers):
        raise MalformedError
    return parts


def _node(name: bytes, operation: bytes, inputs: list[bytes], device: bytes, attributes: list[Piece]) -> list[Piece]:
    body = field(NAME, name) + field(OPERATION, operation) + field(DEVICE, device)
    for source in inputs:
        body += field(INPUT, source)
    return field(NODE, body + attributes)


def _attribute(name: bytes, value: Piece | list[Piece]) -> list[Piece]:
    return field(ATTRIBUTE, field(KEY, name) + field(VALUE, value))
