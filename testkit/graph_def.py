"""TensorFlow graphs put together from their file format: importing the library to build them would take seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOAT, INT32 = 1, 3  # TensorFlow's numbers of element types


def varint(number: int) -> bytes:
    number &= 2**64 - 1  # negative ones are written as what they are in two's complement
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def text(value: str) -> bytes:
    """An attribute's value, as those that follow."""
    return field(2, value.encode())


def numbers(values: Sequence[int]) -> bytes:
    return field(1, b"".join(field(3, value) for value in values))


def shape(sizes: Sequence[int]) -> bytes:
    """-1 for any size."""
    return field(7, _sizes(sizes))


def _sizes(sizes: Sequence[int]) -> bytes:
    return b"".join(field(2, field(1, size)) for size in sizes)


def node(
    name: str, op: str, inputs: str = "", constant: NDArray[Any] | None = None, more: dict[str, bytes] | None = None
) -> bytes:
    """A node of a GraphDef, of floats throughout but for constants of int32; more: attributes besides its type."""
    kind = INT32 if constant is not None and constant.dtype == np.int32 else FLOAT
    attributes = {"dtype" if op in ("Placeholder", "Const") else "T": field(6, kind), **(more or {})}
    if constant is not None:
        data = constant.astype("<i4" if kind == INT32 else "<f4").tobytes()
        attributes["value"] = field(8, field(1, kind) + field(2, _sizes(constant.shape)) + field(4, data))
    body = field(1, name.encode()) + field(2, op.encode())
    body += b"".join(field(3, source.encode()) for source in inputs.split())
    body += b"".join(field(5, field(1, key.encode()) + field(2, value)) for key, value in attributes.items())
    return field(1, body)
