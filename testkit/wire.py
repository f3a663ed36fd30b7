"""A client of the bare Redis protocol: tells simple strings from bulk ones, keeps error texts whole, counts replies.

redis-py hides all three (it strips "ERR " among others), so tests of what crosses the wire use this instead.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

Word = str | bytes | int | float


class Simple(bytes):
    """A simple string, such as +OK."""


class Error(str):
    """An error reply, whole: 'ERR ...', 'WRONGTYPE ...'."""


def encode(words: tuple[Word, ...]) -> bytes:
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts += [b"$%d\r\n" % len(data), data, b"\r\n"]
    return b"".join(parts)


class Wire:
    def __init__(self, port: int, protocol: int = 2, timeout: float = 60.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.socket.makefile("rb")
        if protocol == 3:
            assert isinstance(self.ask("HELLO", 3), dict)

    def send(self, *words: Word) -> None:
        self.socket.sendall(encode(words))

    def ask(self, *words: Word) -> Any:
        self.send(*words)
        return self.read()

    def ask_ok(self, *words: Word) -> None:
        """For commands that must be answered with OK."""
        reply = self.ask(*words)
        if reply != b"OK":
            raise RuntimeError(f"{words[:2]}: {reply!r}")

    def timed(self, *words: Word) -> tuple[Any, float]:
        """The reply and the seconds it took."""
        start = time.monotonic()
        reply = self.ask(*words)
        return reply, time.monotonic() - start

    def read(self) -> Any:
        line = self.stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError(f"connection closed by the server, last read: {line!r}")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return Simple(rest)
        if kind == b"-":
            return Error(rest.decode("utf-8", "surrogateescape"))
        if kind in b":(":
            return int(rest)
        if kind == b",":
            return float(rest)
        if kind == b"_":
            return None
        if kind == b"#":
            return rest == b"t"
        size = int(rest)
        if kind == b"$":
            return self.bulk(size) if size >= 0 else None
        if kind == b"=":
            return self.bulk(size)[4:]
        if kind in (b"*", b">"):
            return [self.read() for _ in range(size)] if size >= 0 else None
        if kind == b"~":
            return {self.read() for _ in range(size)}
        if kind == b"%":
            return {self.read(): self.read() for _ in range(size)}
        raise AssertionError(f"not a reply: {line!r}")

    def bulk(self, size: int) -> bytes:
        data = self.stream.read(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    def abort(self) -> None:
        """Closes with a reset, as a client that dies does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
