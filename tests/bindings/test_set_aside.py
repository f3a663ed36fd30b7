"""A model under which engine processes end is set aside, and what is bound to it waits: nothing is passed over."""

from __future__ import annotations

from pathlib import Path

from testkit.isolation import python_backend
from testkit.waiting import wait_for
from tests.bindings.kit import BINDINGS, bind, binding, settle
from tests.conftest import StartServer

FATAL = b"import os\ndef run(inputs):\n    os.abort()\n"
SAME = b"def run(inputs):\n    return inputs\n"


def test_entries_wait_for_the_release(start_server: StartServer, tmp_path: Path) -> None:
    more = ("ISOLATION", "process", "BACKENDSPATH", str(python_backend(tmp_path)), "ALLOW_FILE_OPS", "1")
    server = start_server(options=[*BINDINGS, *more])
    with server.wire() as wire:
        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", FATAL)
        bind(wire, "ON STREAM PREFIX 1 in FIELDS 1 x MODEL m SET 1 y STREAM out")
        for i in range(20):
            wire.ask("XADD", "in", f"{i + 1}-1", "x", i)
        wait_for(lambda: "set aside" in binding(wire)["last_error"], 20, "the model is set aside")
        assert (binding(wire)["pending"], binding(wire)["errors"] < 4) == (1, True)
        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", SAME)
        settle(wire)
        assert wire.ask("XLEN", "out") == 20 - binding(wire)["errors"]
    server.kill()
