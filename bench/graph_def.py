"""TensorFlow graphs put together from their file format: importing the library to build them would take seconds."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray


def varint(number: int) -> bytes:
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def node(name: str, op: str, inputs: str = "", constant: NDArray[Any] | None = None) -> bytes:
    """A node of a GraphDef, of floats throughout."""
    attributes = {"dtype" if op in ("Placeholder", "Const") else "T": field(6, 1)}
    if constant is not None:
        shape = b"".join(field(2, field(1, size)) for size in constant.shape)
        data = constant.astype("<f4").tobytes()
        attributes["value"] = field(8, field(1, 1) + field(2, shape) + field(4, data))
    body = field(1, name.encode()) + field(2, op.encode())
    body += b"".join(field(3, source.encode()) for source in inputs.split())
    body += b"".join(field(5, field(1, key.encode()) + field(2, value)) for key, value in attributes.items())
    return field(1, body)
