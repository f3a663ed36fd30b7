"""While large models load the server is not deaf: it says LOADING at once, to our commands too, and tells how far."""

from __future__ import annotations

import re
import subprocess

import pytest

from testkit import models
from testkit.restarts import is_rewriting, is_saving
from testkit.server import Server, free_port
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import StartServer

MODELS = 5
TENSORS = 50
WORST = 0.5  # s; the machine may do other things as well, so this is far from what it takes to read all
OURS = (
    "AI.TENSORGET x",
    "AI.TENSORSET x FLOAT 1",
    "AI.MODELGET m0 META",
    "AI.MODELSTORE m9 ONNX CPU BLOB b",
    "AI.MODELRUN m0 INPUTS x OUTPUTS x x",
    "AI.SCRIPTGET s",
    "AI._MODELSCAN",
    "AI.INFO m0",
    "AI.DAGEXECUTE_RO LOAD 1 x |> AI.TENSORGET x",
)


def connect(server: Server) -> Wire:
    """To a server that has only just been started, and that need not be ready."""
    wires: list[Wire] = []

    def connected() -> bool:
        try:
            wires.append(Wire(server.port))
        except OSError:
            return False
        return True

    wait_for(connected, 20, "the server listens")
    return wires[0]


def loaded_bytes(wire: Wire) -> int:
    """How far the load has come; 0 once it is done."""
    found = re.search(rb"loading_loaded_bytes:(\d+)", wire.ask("INFO", "persistence"))
    return int(found[1]) if found else 0


@pytest.mark.parametrize("form", ["rdb", "aof"])
def test_large_models_load(start_server: StartServer, form: str) -> None:
    aof = ("--appendonly", "yes", "--aof-use-rdb-preamble", "yes") if form == "aof" else ()
    server = start_server(*aof)
    with server.wire() as wire:
        assert wire.ask("AI.MODELSTORE", "m0", "ONNX", "CPU", "BLOB", models.onnx_padded(8_000_000)) == b"OK"
        assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1) == b"OK"
        for copy in range(1, MODELS):
            assert wire.ask("COPY", "m0", f"m{copy}") == 1
        for copy in range(TENSORS):
            assert wire.ask("COPY", "x", f"x{copy}") == 1
        assert wire.ask("BGREWRITEAOF" if aof else "BGSAVE")
        wait_for(lambda: not is_rewriting(wire) and not is_saving(wire), 60, "all is saved")
        digest = wire.ask("DEBUG", "DIGEST")
    server.kill()

    # a short sleep after each key, and so often a look at the clients that it happens within values
    server.arguments += ["--key-load-delay", "10000", "--loading-process-events-interval-bytes", "262144"]
    server.port = free_port()
    server.process = subprocess.Popen(server.command(), stdin=subprocess.DEVNULL)
    with connect(server) as wire:
        worst, answers, seen = 0.0, 0, set()
        while True:
            reply, seconds = wire.timed("PING")
            worst = max(worst, seconds)
            if reply == b"PONG":
                break
            assert reply.startswith("LOADING ")
            info, refused = wire.ask("INFO", "modules"), [wire.ask(*line.split()) for line in OURS]
            assert b"ai_RedisAI_version" in info
            if far := loaded_bytes(wire):
                answers += 1
                seen.add(far)
                assert all(isinstance(each, Error) and each.startswith("LOADING ") for each in refused), refused
        print(f"LOADING {answers} times, at {len(seen)} places, {worst} s at worst")
        assert len(seen) > MODELS
        assert worst < WORST
        # all of it is there at once, and compiled later
        assert wire.ask("DEBUG", "DIGEST") == digest
        assert wire.ask("AI.MODELEXECUTE", "m0", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert server.stop() == 0
