"""What Redis tells of a command, read: COMMAND INFO and COMMAND DOCS."""

from __future__ import annotations

from typing import Any

from testkit.server import Server
from testkit.wire import Wire

WRITE = {"write", "denyoom"}


def command_info(wire: Wire, name: str) -> list[Any]:
    reply = wire.ask("COMMAND", "INFO", name)[0]
    assert reply is not None, f"{name} is not there"
    return list(reply)


def flags(wire: Wire, name: str) -> set[str]:
    """Those that say what a command does to data and to whom it is open."""
    found = {flag.decode() for flag in command_info(wire, name)[2]}
    return found & {"write", "denyoom", "readonly", "admin"}


def docs(server: Server, name: str) -> dict[bytes, Any]:
    with server.wire(protocol=3) as wire:
        found = {key.upper(): value for key, value in wire.ask("COMMAND", "DOCS", name).items()}
    return dict(found[name.encode()])


def tokens(arguments: list[dict[bytes, Any]]) -> set[bytes]:
    """The keywords of a command's arguments, and of those within them."""
    found: set[bytes] = set()
    for argument in arguments:
        if b"token" in argument:
            found.add(argument[b"token"].upper())
        found |= tokens(argument.get(b"arguments", []))
    return found
