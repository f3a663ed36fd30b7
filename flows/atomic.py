"""An atomic block, as the process sees it (src/flows/atomic.c has the other side)."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Sequence
from select import POLLIN, poll
from typing import Any

import hiredis

from flows.connections import CHUNK, CommandError, Connection, encode


class AtomicError(Exception):
    """The time of an atomic block is over."""


class Block:
    """One atomic block: frames through the socket that the server gave the process."""

    def __init__(self, pipe: socket.socket, number: int, connection: Connection) -> None:
        self._pipe = pipe
        self._number = number
        self._connection = connection
        self._over: str | None = None
        self._lock = threading.Lock()
        self.is_open = True
        self.thread = threading.get_ident()
        self.begun = 0.0

    def begin(self) -> None:
        waiter = poll()
        waiter.register(self._pipe, POLLIN)
        waiter.register(self._connection.socket, POLLIN)
        while True:
            ready = [fd for fd, _ in waiter.poll()]
            if self._pipe.fileno() in ready and self._frame() is not None:
                self.begun = time.monotonic()
                return
            if self._connection.socket.fileno() in ready:
                reply = self._connection.receive()
                raise CommandError(str(reply))

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._pipe.recv(min(size, CHUNK))
            if not part:
                os._exit(0)  # the server has ended
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _frame(self) -> bytes | None:
        """The next frame; None where it belongs to another block."""
        number, size = struct.unpack("<II", self._exactly(8))
        data = self._exactly(size)
        return data if number == self._number else None

    def call(self, words: Sequence[object]) -> Any:
        coded = [encode(word) for word in words]
        if not coded:
            raise CommandError("ERR a command has at least a name")
        frame = [struct.pack("<II", self._number, len(coded))]
        for word in coded:
            frame += (struct.pack("<I", len(word)), word)
        data = b"".join(frame)
        if len(data) > 1_048_576 or len(coded) > 1_024:
            raise CommandError("ERR a command in an atomic block has 1,024 words and 1 MB at most")
        with self._lock:
            if self._over is not None:
                raise AtomicError(self._over)
            self._pipe.sendall(data)
            while (answer := self._frame()) is None:
                pass
        reader = hiredis.Reader()
        reader.feed(answer)
        return reader.gets()

    def end(self, why: str | None) -> None:
        """why: its code goes on, and is refused what it wants of the block."""
        with self._lock:
            self.is_open = why is not None
            self._over = why
            self._pipe.sendall(struct.pack("<II", self._number, 0))
            reply = self._connection.receive()
            if isinstance(reply, hiredis.ReplyError):
                self._over = str(reply)

    def close(self) -> None:
        self._connection.close()

    def check(self) -> None:
        if self._over is not None:
            raise AtomicError(self._over)
