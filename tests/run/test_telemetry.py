"""A database tells nobody what runs in it: ONNX Runtime collects no telemetry."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testkit import models
from testkit.server import Server
from tests.conftest import StartServer


def remote_sockets(server: Server) -> list[str]:
    """Internet sockets that the server has but for its own port: local address and remote address."""
    inodes = {os.readlink(fd) for fd in Path(f"/proc/{server.pid}/fd").iterdir() if fd.exists()}
    port = f":{server.port:04X}"
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{server.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in inodes and not fields[1].endswith(port):
                found.append(f"{table} {fields[1]} {fields[2]}")
    return found


def test_onnx(start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    server = start_server()
    with server.wire() as wire:
        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2)
        wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
        assert remote_sockets(server) == []
    server.stop()
    assert [str(path.relative_to(home)) for path in home.rglob("*")] == []
