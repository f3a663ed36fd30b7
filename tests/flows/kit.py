"""A flow process that the test itself plays: a stub hands over what the server tells it, and its socket."""

from __future__ import annotations

import shutil
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from testkit.info import module_sections
from testkit.server import Server, module_path
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word

FLOWS = ("FLOWS", "yes", "PYTHON", sys.executable)

# Writes what it is told into a file, then passes bytes between the server's socket and a socket beside that file.
STUB = """
import os, select, socket
server = socket.socket(fileno=3)
told = b""
while not told.endswith(b"\\n\\n"):
    told += server.recv(1 << 16)
folder = dict(line.split(" ", 1) for line in told.decode().splitlines() if line)["dir"]
os.makedirs(folder, exist_ok=True)
if os.path.exists(folder + "/fails"):
    os._exit(7)
at = f"{folder}/{os.getpid()}"
listener = socket.socket(socket.AF_UNIX)
listener.bind(at + ".socket")
listener.listen()
with open(at + ".new", "wb") as file:
    file.write(told)
os.rename(at + ".new", at + ".told")
test = None
while True:
    ready = select.select([server, listener] + ([test] if test else []), [], [])[0]
    if listener in ready:
        test = listener.accept()[0]
    elif test in ready:
        data = test.recv(1 << 20)
        server.sendall(data)
        test = test if data else None
    else:
        data = server.recv(1 << 20)
        if not data:
            os._exit(0)
        test = test or listener.accept()[0]
        try:
            test.sendall(data)
        except OSError:
            test = None
"""


def module_with_stub(folder: Path) -> Path:
    """A copy of the module whose flow process is the stub."""
    module = folder / "redisai_module"
    module.mkdir()
    for path in module_path().parent.iterdir():
        if path.name not in ("flows", module_path().name):
            (module / path.name).symlink_to(path)
    shutil.copy(module_path(), module / "redisai.so")  # no link: its folder must be this one
    (module / "flows").mkdir()
    (module / "flows/process.py").write_text(STUB)
    return module / "redisai.so"


def figures(wire: Wire) -> dict[str, str]:
    return module_sections(wire, "MODULES")["flows"]


class Process:
    """The flow process of a server: what it was told, and its connections."""

    def __init__(self, server: Server) -> None:
        self.server = server
        with server.wire() as wire:
            wait_for(lambda: self.path(wire, "told").exists(), what="the process has started")
            self.pid = int(figures(wire)["pid"])
            lines = self.path(wire, "told").read_text().splitlines()
            self.socket_path = self.path(wire, "socket")
        self.told = dict(line.split(" ", 1) for line in lines if line)
        self.secret = self.told["secret"]
        self.control = server.wire()
        self.control.ask_ok("RG._PROCESS", "CONNECT", self.secret)

    def path(self, wire: Wire, kind: str) -> Path:
        return self.server.folder / f"flows-packages/{figures(wire)['pid']}.{kind}"

    def user(self, name: str = "default") -> Wire:
        wire = self.server.wire()
        wire.ask_ok("RG._PROCESS", "USER", self.secret, name)
        return wire

    def do(self, verb: str, *words: Word) -> Any:
        return self.control.ask("RG._PROCESS", verb, *words)

    def next(self) -> list[Any]:
        reply = self.do("NEXT")
        assert isinstance(reply, list), reply
        return reply

    def reply(self, request: int, *tokens: Word) -> None:
        assert self.do("REPLY", request, *tokens) == b"OK"

    def socket(self) -> socket.socket:
        """Its end of the socket to the server."""
        end = socket.socket(socket.AF_UNIX)
        end.connect(str(self.socket_path))
        end.settimeout(10)
        return end


def start(server: Server) -> Process:
    """Has the server start its process, and nothing wait."""
    with server.wire() as wire:
        wire.send("RG.TRIGGER", "x")
        process = Process(server)
        ((_, number, *_),) = process.next()
        process.reply(number, "_")
        wire.read()
    process.do("WATCH")
    process.do("HOOKS")
    return process


def frame(block: int, *words: bytes) -> bytes:
    return struct.pack("<II", block, len(words)) + b"".join(struct.pack("<I", len(word)) + word for word in words)


def receive(end: socket.socket) -> tuple[int, bytes]:
    """An answer: its block and its bytes."""
    block, size = struct.unpack("<II", receive_all(end, 8))
    return block, receive_all(end, size)


def receive_all(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = end.recv(size - len(data))
        assert more
        data += more
    return data


def is_denial(reply: object) -> bool:
    """Of ACL: Redis 7.0 has other words where a module calls."""
    return is_error(reply, "NOPERM ") or is_error(reply, "ERR acl verification failed")


def is_error(reply: object, begin: str) -> bool:
    return isinstance(reply, Error) and reply.startswith(begin)
