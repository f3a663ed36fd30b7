"""Checks which operations of a GraphDef reach beyond the graph, and which keep tensors. The loader enters; no state."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from redisai.protobuf import MalformedError, fields

from .c_api import ffi, lib

# For each message of a GraphDef that can hold operations: which of its fields hold which of these messages.
GRAPH, LIBRARY, FUNCTION, NODE = range(4)
PARTS: dict[int, dict[int, int]] = {GRAPH: {1: NODE, 2: LIBRARY}, LIBRARY: {1: FUNCTION}, FUNCTION: {3: NODE}}
NAME, OPERATION, ATTRIBUTE = 1, 2, 5  # fields of NODE
KEY, VALUE = 1, 2  # fields of ATTRIBUTE
BOOLEAN, TYPE, TENSOR = 5, 6, 8  # fields of VALUE
DTYPE = 1  # field of TENSOR

# Chosen from TensorFlow's own list of 1801 operations. They include those of input pipelines (datasets), which can read
# files in many ways and run graphs that are hidden in strings. A test looks for new ones.
REFUSED = re.compile(
    rb"File|Reader|Save|Restore|Checkpoint|Dataset|Iterator|PyFunc|TRTResource"
    rb"|^(Abort|CreateSummary|Debug|DecodeProto|DumpTensor|EncodeProto|FixedUnigram|GenerateVocab|ImmutableConst)"
    rb"|^(ImportEvent|LoadAndRemap|RecordInput|RemoteCall|Rpc|Skipgram|WorkerHeartbeat|Write\w*Summary)"
)

# Their results are memory of the process, as it was last used. So is that of Empty, unless its attribute init is true.
UNSET = (b"Empty", b"TemporaryVariable", b"_ParallelConcatStart")


def check_operations(blob: bytes | memoryview, allow_file_ops: bool) -> set[str]:
    """Returns the names of all operations of a graph and of its functions.

    Refuses operations that show memory of the process. Unless allow_file_ops is set, refuses also those that read or
    write files, use the network, run Python or end the process: a client who may store a model need not have these
    rights. TensorFlow evaluates parts of a graph while it imports it, so call this first.
    """
    try:
        found = set()
        for node in _nodes(memoryview(blob)):
            name = operation = b""
            attributes: dict[bytes, int | memoryview | None] = {}
            for field, value in fields(node):
                if field == NAME:
                    name = as_bytes(value)
                elif field == OPERATION:
                    operation = as_bytes(value)
                elif field == ATTRIBUTE:
                    attribute = dict(fields(as_message(value)))
                    attributes[as_bytes(attribute.get(KEY, 0))] = attribute.get(VALUE)
            found.add(operation.decode())
            if operation == b"Const":
                _check_constant(attributes)
            if operation in UNSET and not _is_set(attributes.get(b"init")):
                hint = "; set its attribute init" if operation == b"Empty" else ""
                raise PermissionError(
                    f"node '{name.decode()}' of the graph is a {operation.decode()}, which shows memory of the server"
                    + hint
                )
            # For this operation alone an attribute decides: it prints to a stream, or to a file.
            to_file = operation == b"PrintV2" and b"file:" in bytes(node)
            if not allow_file_ops and (to_file or REFUSED.search(operation)):
                raise PermissionError(
                    f"node '{name.decode()}' of the graph is a {operation.decode()}, which can reach beyond the model;"
                    " the server allows that with ALLOW_FILE_OPS 1"
                )
        return found
    except (MalformedError, UnicodeDecodeError):
        raise ValueError("Invalid GraphDef") from None


def _nodes(blob: memoryview) -> Iterator[memoryview]:
    todo = [(GRAPH, blob)]
    while todo:
        part, message = todo.pop()
        for field, value in fields(message):
            inner = PARTS[part].get(field)
            if inner is None or isinstance(value, int):
                continue
            if inner == NODE:
                yield value
            else:
                todo.append((inner, value))


def _check_constant(attributes: dict[bytes, int | memoryview | None]) -> None:
    """Refuses a damaged constant. TensorFlow checks those of the graph, but one in a function would end the process."""
    kind = _field(attributes.get(b"dtype"), TYPE)
    if kind is None or kind != _field(_field(attributes.get(b"value"), TENSOR), DTYPE):
        raise MalformedError


def _is_set(value: int | memoryview | None) -> bool:
    return value is not None and bool(_field(value, BOOLEAN))


def _field(message: int | memoryview | None, field: int) -> int | memoryview | None:
    return dict(fields(as_message(message))).get(field)


def as_message(value: int | memoryview | None) -> memoryview:
    if not isinstance(value, memoryview):
        raise MalformedError
    return value


def as_bytes(value: int | memoryview) -> bytes:
    return bytes(as_message(value))


def keeps_inputs(operations: set[str]) -> bool:
    """Whether a graph of these operations may keep its inputs after a run, or write to them.

    Only a stateful operation, such as a variable or a queue, can keep a tensor. The Inplace operations write to tensors
    that others may read.
    """
    return any(name.startswith("Inplace") for name in operations) or not operations.isdisjoint(_stateful())


@functools.cache
def _stateful() -> set[str]:
    """The operations that TensorFlow lists as stateful."""
    buffer = lib.TF_GetAllOpList()
    try:
        listed = bytes(ffi.buffer(buffer.data, buffer.length))
    finally:
        lib.TF_DeleteBuffer(buffer)
    found = set()
    for _, definition in fields(memoryview(listed)):
        parts = dict(fields(definition))  # type: ignore[arg-type]
        if parts.get(17):
            found.add(bytes(parts[1]).decode())
    return found
