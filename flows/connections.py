"""Blocking connections to the server, and how words and replies look on them.

read_settings() takes what the server says through the socket at the start: where it is, and the secret.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from select import POLLIN, poll
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakSet

import hiredis

Word: TypeAlias = str | bytes | bytearray | memoryview | int | float
HEADER_BYTES = 65_536
CHUNK = 65_536  # more would be mapped and unmapped by malloc each time
CLOSED = "the server closed the connection before it answered: the command may have run or not"


class CommandError(Exception):
    """An error reply; its text is the server's."""


class ConnectionLost(Exception):
    """The connection was closed. What was under way may have run or not."""


class Settings(NamedTuple):
    """What the server said through the socket at the start."""

    lines: dict[str, str]
    pipe: socket.socket

    def get(self, name: str) -> str:
        return self.lines.get(name, "")


def read_settings(pipe: socket.socket) -> Settings:
    data = b""
    while not (data.endswith(b"\n\n") or data == b"\n"):
        more = pipe.recv(1)  # what follows belongs to atomic blocks
        if not more or len(data) > HEADER_BYTES:
            raise SystemExit("the server closed the socket before it said how to reach it")
        data += more
    lines = (line.partition(" ") for line in data.decode("utf-8", "surrogateescape").split("\n") if line)
    return Settings({name: value for name, _, value in lines}, pipe)


def decode(reply: Any) -> Any:
    """Text where a reply is UTF-8, else a bytearray."""
    if isinstance(reply, bytes):
        try:
            return reply.decode()
        except UnicodeDecodeError:
            return bytearray(reply)
    if isinstance(reply, list):
        return [decode(each) for each in reply]
    if isinstance(reply, hiredis.ReplyError):
        return CommandError(str(reply))
    return reply


def encode(word: object) -> bytes:
    """The bytes of a word that a flow gives. Text that is no UTF-8 keeps its bytes where it came from bytes."""
    if isinstance(word, str):
        try:
            return word.encode()
        except UnicodeEncodeError:
            pass
        try:
            return word.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return word.encode("utf-8", "backslashreplace")
    if isinstance(word, (bytes, bytearray, memoryview)):
        return bytes(word)
    if isinstance(word, (int, float)):
        return repr(int(word) if isinstance(word, bool) else word).encode()
    return encode(str(word))


def pack(words: Sequence[object]) -> bytes:
    if not words:
        raise CommandError("ERR a command has at least a name")
    packed: bytes
    try:
        packed = hiredis.pack_command(tuple(words))  # type: ignore[arg-type]
    except (TypeError, UnicodeEncodeError):
        packed = hiredis.pack_command(tuple(map(encode, words)))  # type: ignore[arg-type]
    return packed


def _open(settings: Settings) -> socket.socket:
    """A socket to the server: its Unix socket, else TCP, else TLS."""
    if path := settings.get("unixsocket"):
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        plain.connect(path)
        return plain
    host = settings.get("host") or "127.0.0.1"
    port = int(settings.get("port") or 0)
    tcp = socket.create_connection((host, port or int(settings.get("tls_port") or 0)), timeout=30)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tcp.settimeout(None)
    return tcp if port else tls_context(settings).wrap_socket(tcp)


def tls_context(settings: Settings) -> ssl.SSLContext:
    """The server is this machine's own, so its name is not checked; its certificate is where its authority is known."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    file, folder = settings.get("tls_ca_cert_file") or None, settings.get("tls_ca_cert_dir") or None
    if file or folder:
        context.load_verify_locations(file, folder)
    else:
        context.verify_mode = ssl.CERT_NONE
    if certificate := settings.get("tls_cert_file"):
        context.load_cert_chain(
            certificate, settings.get("tls_key_file") or None, settings.get("tls_key_file_pass") or None
        )
    return context


# All that are open. A process that a flow forks must not use them.
_open_connections: WeakSet[Connection] = WeakSet()
_process = os.getpid()


def leave_child() -> None:
    """A process that a flow has forked ends where it would go on as this one."""
    if os.getpid() != _process:
        os._exit(0)


def close_all() -> None:
    """In a forked process: its parent goes on with them."""
    for connection in list(_open_connections):
        connection.close()


class Connection:
    """A blocking connection. One thread at a time may use it; another may cut it off."""

    def __init__(self, settings: Settings, first: Sequence[Sequence[Word]]) -> None:
        try:
            self.socket = _open(settings)
        except OSError as error:
            raise ConnectionLost(f"the server cannot be reached: {error}") from None
        _open_connections.add(self)
        self.used_at, self.used_in = 0.0, -1
        self._reader = hiredis.Reader()
        for words in first:
            self.call(words)

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise ConnectionLost(f"the connection to the server was lost ({error})") from None

    def receive(self) -> Any:
        """The next reply; an error reply is returned."""
        while (reply := self._reader.gets()) is False:
            try:
                data = self.socket.recv(CHUNK)
            except OSError as error:
                raise ConnectionLost(f"the connection to the server was lost ({error})") from None
            if not data:
                raise ConnectionLost(CLOSED)
            self._reader.feed(data)
        return reply

    def call(self, words: Sequence[object]) -> Any:
        self.send(pack(words))
        reply = self.receive()
        if isinstance(reply, hiredis.ReplyError):
            raise CommandError(str(reply))
        return reply

    def is_closed(self) -> bool:
        """Whether the server has closed it while it was idle: nothing may be there to read."""
        if isinstance(self.socket, ssl.SSLSocket):
            waiter = poll()
            waiter.register(self.socket, POLLIN)
            return bool(waiter.poll(0))
        try:
            self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def cut(self) -> None:
        """Ends what waits for an answer."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self.socket.close()
