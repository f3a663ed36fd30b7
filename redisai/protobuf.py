"""Reads protobuf messages field by field, and writes fields: for backends that check or change a blob before the
library reads it.

The loader enters; no state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias


class MalformedError(Exception):
    """The bytes are not a protobuf message."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: a varint as int, a field with a length as its bytes. Skips fixed-size fields."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        if tag >> 32:  # the library would read only the lower half, and so see another field than we do
            raise MalformedError
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif kind == 2:
            size, at = _varint(message, at)
            if size > end - at:
                raise MalformedError
            yield tag >> 3, message[at : at + size]
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:  # a group: nobody writes them, and the library might read one differently than we do
            raise MalformedError
    if at > end:
        raise MalformedError


def messages(message: memoryview, *path: int) -> Iterator[memoryview]:
    """The bytes of all fields at this path of numbers."""
    for number, value in fields(message):
        if number == path[0] and not isinstance(value, int):
            if len(path) == 1:
                yield value
            else:
                yield from messages(value, *path[1:])


def varints(message: memoryview) -> Iterator[int]:
    """The numbers of a packed field."""
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value


Piece: TypeAlias = "bytes | memoryview"


def field(number: int, value: int | Piece | list[Piece]) -> list[Piece]:
    """A field, as pieces to be joined."""
    if isinstance(value, int):
        return [_as_varint(number << 3), _as_varint(value)]
    pieces = value if isinstance(value, list) else [value]
    return [_as_varint(number << 3 | 2), _as_varint(sum(map(len, pieces))), *pieces]


def _as_varint(value: int) -> bytes:
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)
    return bytes(data)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
        shift += 7
    raise MalformedError
