"""Restarts of a server in each of the ways that its data may take, saves, and the commands in its append-only file."""

from __future__ import annotations

from pathlib import Path

from testkit import samples
from testkit.info import info
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire

AOF = ("--appendonly", "yes", "--appendfsync", "always")


def aof_commands(server: Server) -> list[list[bytes]]:
    """The commands in the append-only file, without its preamble."""
    return [command for path in sorted(aof_files(server)) for command in parse(path.read_bytes())]


def aof_files(server: Server) -> list[Path]:
    return [path for path in server.folder.rglob("*.aof") if "manifest" not in path.name]


def parse(data: bytes) -> list[list[bytes]]:
    commands = []
    position = 0
    while position < len(data):
        assert data[position : position + 1] == b"*"
        end = data.index(b"\r\n", position)
        count = int(data[position + 1 : end])
        position = end + 2
        words = []
        for _ in range(count):
            end = data.index(b"\r\n", position)
            size = int(data[position + 1 : end])
            words.append(data[end + 2 : end + 2 + size])
            position = end + 4 + size
        commands.append(words)
    return commands


def told_by(server: Server) -> dict[str, list[bytes]]:
    """By key, the last command in the append-only file."""
    return {command[1].decode(): command for command in aof_commands(server) if command[0] != b"SELECT"}


def is_rewriting(wire: Wire) -> bool:
    return info(wire, "persistence")["aof_rewrite_in_progress"] == "1"


def wait_until_rewritten(wire: Wire) -> None:
    wait_for(lambda: not is_rewriting(wire), 30, "the rewrite ends")
    assert info(wire, "persistence")["aof_last_bgrewrite_status"] == "ok"


def rewrite(wire: Wire) -> None:
    assert b"started" in wire.ask("BGREWRITEAOF")
    wait_until_rewritten(wire)


def is_saving(wire: Wire) -> bool:
    return info(wire, "persistence")["rdb_bgsave_in_progress"] == "1"


def wait_until_saved(wire: Wire) -> None:
    wait_for(lambda: not is_saving(wire), 30, "the save ends")
    assert info(wire, "persistence")["rdb_last_bgsave_status"] == "ok"


# ---- restarts --------------------------------------------------------------------------------------------------------


def by_rdb(server: Server, wire: Wire) -> None:
    assert wire.ask("SAVE") == b"OK"
    server.restart()


def by_bgsave(server: Server, wire: Wire) -> None:
    assert wire.ask("BGSAVE") == b"Background saving started"
    wait_until_saved(wire)
    server.restart()


def by_debug_reload(server: Server, wire: Wire) -> None:
    assert wire.ask("DEBUG", "RELOAD") == b"OK"


def by_aof(server: Server, wire: Wire) -> None:
    server.restart()


def by_rewritten_aof(server: Server, wire: Wire) -> None:
    rewrite(wire)
    server.restart()


def by_aof_on_rewritten_aof(server: Server, wire: Wire) -> None:
    rewrite(wire)
    samples.run_all(wire)
    server.restart()


def by_debug_loadaof(server: Server, wire: Wire) -> None:
    assert wire.ask("DEBUG", "LOADAOF") == b"OK"
