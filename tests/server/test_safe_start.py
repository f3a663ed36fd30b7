"""SAFE_START: what a database, an AOF or a master brings is compiled by its first run. So a server with a model that
ends it can start, and the model can be deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit import models, samples, scripts
from testkit.replicas import caught_up, follow
from testkit.server import Server, ServerExit
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.conftest import StartServer

BACKEND = (
    samples.ADDING_BACKEND
    + """
import os
from pathlib import Path

def load(definition, settings):
    if definition.blob == b"poison" and Path({deadly!r}).exists():
        os._exit(3)
    return Session()
"""
)


class Place:
    """A backends path. Once deadly() was called, its backend for ONNX ends the process that compiles the poison."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "backends"
        self._file = folder / "deadly"
        backend = self.path / "redisai_onnxruntime" / "redisai_onnxruntime.py"
        backend.parent.mkdir(parents=True)
        backend.write_text(BACKEND.format(deadly=str(self._file)))

    def deadly(self) -> None:
        self._file.touch()

    def options(self, safe_start: int) -> list[str | int]:
        return ["BACKENDSPATH", str(self.path), "SAFE_START", safe_start]


def fill(wire: Wire) -> None:
    for key, blob in ("poison", b"poison"), ("good", b"good"):
        wire.ask_ok("AI.MODELSTORE", key, "ONNX", "CPU", "BLOB", blob)
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 2)


def check_alive(server: Server) -> None:
    """The loader has done all that it had to do when this model is stored."""
    with server.wire() as wire:
        wire.ask_ok("AI.MODELSTORE", "last", "ONNX", "CPU", "BLOB", b"last")


def check_rescued(server: Server) -> None:
    """The poison can be deleted, and the others run."""
    check_alive(server)
    with server.wire() as wire:
        assert sorted(wire.ask("AI._MODELSCAN")) == [[b"good", b""], [b"last", b""], [b"poison", b""]]
        wire.ask_ok("AI.MODELDEL", "poison")
        wire.ask_ok("AI.MODELEXECUTE", "good", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
        assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"4"]
    check_alive(server)


AOF = ["--appendonly", "yes", "--appendfsync", "always", "--aof-use-rdb-preamble", "no"]  # killed, nothing may be lost


@pytest.mark.parametrize("aof", [[], AOF], ids=["RDB", "AOF"])
def test_a_start(start_server: StartServer, tmp_path: Path, aof: list[str]) -> None:
    place = Place(tmp_path)
    server = start_server(*aof, options=place.options(0))
    with server.wire() as wire:
        fill(wire)
        wire.ask_ok("SAVE")
    place.deadly()
    server.kill()
    if server.is_isolated:
        check_rescued(server.start())
        return
    with pytest.raises((ServerExit, OSError)):
        server.start()
        check_alive(server)
    server.kill()
    server.options = [str(option) for option in place.options(1)]
    check_rescued(server.start())


def test_restore(start_server: StartServer, tmp_path: Path) -> None:
    place = Place(tmp_path)
    server = start_server(options=place.options(1))
    with server.wire() as wire:
        fill(wire)
        dumped = wire.ask("DUMP", "poison")
        wire.ask("DEL", "poison")
        place.deadly()
        wire.ask_ok("RESTORE", "poison", 0, dumped)
    check_rescued(server)


def test_a_replica(start_server: StartServer, tmp_path: Path) -> None:
    """By the full synchronisation, and by the commands that follow it."""
    place = Place(tmp_path)
    place.deadly()
    (tmp_path / "master").mkdir()
    master = start_server("--repl-diskless-sync-delay", "0", options=Place(tmp_path / "master").options(0))
    replica = start_server(options=place.options(1))
    with master.wire() as wire, replica.wire() as reader:
        fill(wire)
        follow(replica, master)
        wire.ask_ok("AI.MODELSTORE", "poison", "ONNX", "CPU", "BLOB", b"poison")
        caught_up(wire)
        words = "AI.DAGEXECUTE_RO LOAD 1 x |> AI.MODELEXECUTE good INPUTS 2 x x OUTPUTS 1 y |> AI.TENSORGET y VALUES"
        assert reader.ask(*words.split()) == [b"OK", [b"4"]]
        wire.ask_ok("AI.MODELDEL", "poison")
        caught_up(wire)
        reader.ask("REPLICAOF", "NO", "ONE")
    check_alive(replica)


def test_real_models_and_scripts(start_server: StartServer) -> None:
    """They run as always, but no library is loaded before."""
    server = start_server(options=["SAFE_START", 1])
    with server.wire() as wire:
        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
        wire.ask_ok("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 1, "add", "SOURCE",
                    scripts.function("add", "return tensors[0] + tensors[1]"))  # fmt: skip
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        wire.ask_ok("SAVE")
    server.restart()
    told = len(server.log())
    with server.wire() as wire:
        for run, backend in (
            (("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y"), "ONNX"),
            (("AI.SCRIPTEXECUTE", "s", "add", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y"), "TORCH"),
        ):
            assert f"{backend} backend" not in server.log()[told:]
            wire.ask_ok(*run)
            assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"2", b"4"]
            wait_for(lambda: f"{backend} backend" in server.log()[told:])  # noqa: B023 - called at once
