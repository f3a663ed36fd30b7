"""Reads and writes protobuf messages field by field, for backends that check or change a blob before the library reads
it.

The loader enters; no state.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TypeAlias

Place: TypeAlias = tuple[int, int | memoryview | None, int, int]
Piece: TypeAlias = bytes | memoryview


class MalformedError(Exception):
    """The bytes are not a protobuf message."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: a varint as int, a field with a length as its bytes. Skips fixed-size fields."""
    for number, value, _, _ in placed_fields(message):
        if value is not None:
            yield number, value


def placed_fields(message: memoryview) -> Iterator[Place]:
    """Number and value of each field, and where it begins and ends. The value of a fixed-size field is None."""
    at, end = 0, len(message)
    while at < end:
        begin = at
        value: int | memoryview | None = None
        tag, at = _varint(message, at)
        if tag >> 32:  # the library would read only the lower half, and so see another field than we do
            raise MalformedError
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
        elif kind == 2:
            size, at = _varint(message, at)
            value = message[at : at + size]
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:  # a group: nobody writes them, and the library might read one differently than we do
            raise MalformedError
        if at > end:
            raise MalformedError
        yield tag >> 3, value, begin, at


MAX_FIELDS = 100_000  # they take 0.1 s, and hardly any model has more of them in one message


def few_places(message: memoryview) -> list[Place]:
    """The placed fields. More than MAX_FIELDS are malformed: as objects they take 100 times their bytes."""
    places = list(islice(placed_fields(message), MAX_FIELDS + 1))
    if len(places) > MAX_FIELDS:
        raise MalformedError
    return places


def few_fields(message: memoryview) -> list[tuple[int, int | memoryview]]:
    return [(number, value) for number, value, _, _ in few_places(message) if value is not None]


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


def head(number: int, size: int) -> bytes:
    """What comes before the bytes of a field with a length."""
    return as_varint(number << 3 | 2) + as_varint(size)


def field(number: int, value: int | Piece | list[Piece]) -> list[Piece]:
    """A field, as pieces to be joined."""
    if isinstance(value, int):
        return [as_varint(number << 3), as_varint(value)]
    pieces = value if isinstance(value, list) else [value]
    return [head(number, sum(map(len, pieces))), *pieces]


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


def as_varint(value: int) -> bytes:
    low, high = value & 127, value >> 7
    return bytes([low | 128]) + as_varint(high) if high else bytes([low])
