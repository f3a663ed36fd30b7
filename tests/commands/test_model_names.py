"""AI.MODELGET META of models that are not compiled yet: only the client that asks waits for the loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testkit import models, samples
from testkit.replicas import follow
from testkit.server import Server
from testkit.transactions import lua
from testkit.values import Model
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.conftest import StartServer

NAMES = ([b"a", b"b"], [b"sum"])


def names(meta: Any) -> tuple[Any, Any]:
    return meta[11], meta[13]


@pytest.fixture
def slow(start_server: StartServer, tmp_path: Path) -> tuple[Server, Path]:
    """A server whose ONNX backend takes until the path exists to import; m is a model of it that came by RESTORE."""
    path, go = samples.slow_backend(tmp_path)
    server = start_server(options=["BACKENDSPATH", str(path)])
    with server.wire() as wire:
        samples.restore(wire, "m", Model("ONNX", models.onnx_add()))
    return server, go


def test_only_the_one_who_asks_waits(slow: tuple[Server, Path]) -> None:
    server, go = slow
    with server.wire() as asker, server.wire() as other:
        asker.send("AI.MODELGET", "m", "META")
        wait_for(lambda: server.blocked_clients() == 1)
        assert other.timed("PING")[1] < 0.5
        assert other.ask("AI.MODELGET", "m", "BLOB") == models.onnx_add(), "the blob is there at once"
        assert other.ask("DEL", "m") == 1
        go.touch()
        meta = asker.read()
        assert meta[:2] == [b"backend", b"ONNX"] and len(meta) == 16, "of the model that was asked for"
        assert asker.ask("PING") == b"PONG"


def test_where_a_client_cannot_be_blocked_nobody_waits(slow: tuple[Server, Path]) -> None:
    server, _ = slow
    with server.wire() as wire:
        wire.ask("MULTI")
        wire.ask("AI.MODELGET", "m", "META")
        (meta,) = wire.ask("EXEC")
        assert names(meta) == ([], [])
        assert lua(wire, "AI.MODELGET", "m", "META") == meta


@pytest.mark.parametrize("how", ["TIMEOUT", "ERROR"])
def test_client_unblock(slow: tuple[Server, Path], how: str) -> None:
    server, go = slow
    with server.wire() as asker, server.wire() as other:
        number = asker.ask("CLIENT", "ID")
        asker.send("AI.MODELGET", "m", "META")
        wait_for(lambda: server.blocked_clients() == 1)
        assert other.ask("CLIENT", "UNBLOCK", number, how) == 1
        reply = asker.read()
        assert reply == b"TIMEDOUT" if how == "TIMEOUT" else reply.startswith("UNBLOCKED ")
        go.touch()
        assert asker.ask("PING") == b"PONG"


def test_one_who_leaves(slow: tuple[Server, Path]) -> None:
    server, go = slow
    with server.wire() as other:
        asker = server.wire()
        asker.send("AI.MODELGET", "m", "META")
        wait_for(lambda: server.blocked_clients() == 1)
        asker.abort()
        go.touch()
        assert len(other.ask("AI.MODELGET", "m", "META")) == 16


def test_on_a_replica(start_server: StartServer) -> None:
    master, replica = start_server("--repl-diskless-sync-delay", "0"), start_server()
    with master.wire() as wire:
        assert wire.ask("AI.MODELSTORE", "full", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
        follow(replica, master)
        with replica.wire() as reader:
            assert names(reader.ask("AI.MODELGET", "full", "META")) == NAMES
            assert wire.ask("AI.MODELSTORE", "streamed", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
            wait_for(lambda: reader.ask("EXISTS", "streamed") == 1)
            assert names(reader.ask("AI.MODELGET", "streamed", "META")) == NAMES


def test_safe_start(start_server: StartServer) -> None:
    """Nothing but a run compiles what a database brings."""
    server = start_server(options=["SAFE_START", 1])

    def get(wire: Wire) -> tuple[Any, Any]:
        return names(wire.ask("AI.MODELGET", "m", "META"))

    with server.wire() as wire:
        samples.restore(wire, "m", Model("ONNX", models.onnx_add()))
        assert get(wire) == ([], [])
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2)
        assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
        assert get(wire) == NAMES
