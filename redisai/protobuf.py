"""Reads protobuf messages field by field, for backends that look into a blob before a library does. No state."""

from __future__ import annotations

from collections.abc import Iterator


class MalformedError(Exception):
    """What was given is no protobuf message."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: varints as numbers, what has a length as the bytes. Others are of no use here."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        if tag >> 32:  # the library would read such a tag's lower half, and so another field than we
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
        else:  # groups, which nobody writes, are where a reader that is not the library's own could be led astray
            raise MalformedError
    if at > end:
        raise MalformedError


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
