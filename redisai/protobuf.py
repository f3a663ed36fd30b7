"""Reads and writes protobuf messages field by field, for backends that check or change a blob before the library reads
it.

The loader enters; no state.
"""

from __future__ import annotations

from collections.abc import Iterator


class MalformedError(Exception):
    """The bytes are not a protobuf message."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: a varint as int, a field with a length as its bytes. Skips fixed-size fields."""
    for number, _, _, value in placed_fields(message):
        yield number, value


def placed_fields(message: memoryview) -> Iterator[tuple[int, int, int, int | memoryview]]:
    """Like fields(), with the place of each field in the message: number, start, end, value."""
    at, end = 0, len(message)
    while at < end:
        start = at
        tag, at = _varint(message, at)
        if tag >> 32:  # the library would read only the lower half, and so see another field than we do
            raise MalformedError
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, start, at, value
        elif kind == 2:
            size, at = _varint(message, at)
            if size > end - at:
                raise MalformedError
            at += size
            yield tag >> 3, start, at, message[at - size : at]
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:  # a group: nobody writes them, and the library might read one differently than we do
            raise MalformedError
    if at > end:
        raise MalformedError


def field(number: int, value: bytes) -> bytes:
    """A field with a length."""
    return _written(number << 3 | 2) + _written(len(value)) + value


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


def _written(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])
