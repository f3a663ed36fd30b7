"""WARMUP is saved with its model. A model without it is saved as before, so that older builds read it."""

from __future__ import annotations

import pytest

from testkit import models, rdb, samples
from testkit.restarts import rewrite
from testkit.server import Server
from testkit.wire import Error, Wire
from tests.conftest import StartServer

WARMUPS = ["2 FLOAT 1 2 FLOAT 1 2", "2 FLOAT 8 2 FLOAT 8 2"]
WORDS = [word for warmup in WARMUPS for word in ("WARMUP", *warmup.split())]
TOLD = [b"warmup", [warmup.encode() for warmup in WARMUPS]]


@pytest.mark.parametrize("saved", ["RDB", "AOF", "AOF rewritten", "AOF rewritten as RDB"])
def test_restart(start_server: StartServer, saved: str) -> None:
    preamble = "yes" if saved == "AOF rewritten as RDB" else "no"
    arguments = ("--aof-use-rdb-preamble", preamble, "--appendonly", "no" if saved == "RDB" else "yes")
    server = start_server(*arguments, "--appendfsync", "always")
    with server.wire() as wire:
        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "MAXQUEUE", 3, *WORDS, "BLOB", models.onnx_add())
        before = wire.ask("AI.MODELGET", "m")
        digest = wire.ask("DEBUG", "DIGEST")
        if saved == "RDB":
            wire.ask_ok("SAVE")
        elif saved != "AOF":
            rewrite(wire)
    server.kill()
    with server.start().wire() as wire:
        assert before[16:-2] == [b"maxqueue", 3, *TOLD]
        assert wire.ask("AI.MODELGET", "m") == before
        assert wire.ask("DEBUG", "DIGEST") == digest


def test_layout_and_copies(wire: Wire) -> None:
    """The number of the backend tells of a list behind the limits."""
    wire.ask_ok("AI.MODELSTORE", "plain", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", *WORDS, "BLOB", models.onnx_add())
    plain, payload = wire.ask("DUMP", "plain"), wire.ask("DUMP", "m")
    fields, usual = rdb.decode(payload).fields, rdb.decode(plain).fields
    assert rdb.decode(payload).version == 4
    assert usual[0] == rdb.BACKENDS["ONNX"] and fields[0] == rdb.BACKENDS["ONNX"] + 1024
    texts = [f"{warmup}\0".encode() for warmup in WARMUPS]
    assert fields[1:] == [*usual[1:6], 2, *texts, *usual[6:]]
    assert wire.ask("COPY", "m", "copy") == 1
    wire.ask_ok("RESTORE", "restored", 0, payload)
    for key in "copy", "restored":
        assert wire.ask("AI.MODELGET", key, "META")[16:] == TOLD
        assert wire.ask("DUMP", key) == payload
    *same, other = wire.ask("DEBUG", "DIGEST-VALUE", "m", "copy", "restored", "plain")
    assert len(set(same)) == 1 and other not in same
    wire.ask_ok("RESTORE", "no_warms", 0, plain)  # the blobs of both are allocated alike
    assert len(wire.ask("AI.MODELGET", "no_warms", "META")) == 16  # it is compiled, too
    assert wire.ask("MEMORY", "USAGE", "restored") > wire.ask("MEMORY", "USAGE", "no_warms")


POSSIBLE = ("0", "1 FLOAT", "1 FLOAT 1 ", "1 float 0")
IMPOSSIBLE = (
    *("", "1", "-1", "+0", "00", "x FLOAT 1", "1 FLOT 1", "1  FLOAT 1", "1 FLOAT x", "1 FLOAT 2x", "1 FLOAT 01"),
    *("1 FLOAT 1 FLOAT 1", "9 " + "FLOAT " * 8, "1 FLOAT 4294967296 4294967296", f"1 {'F' * 5000} 1"),
)


@pytest.mark.parametrize("warmup", [*POSSIBLE, *IMPOSSIBLE])
def test_impossible_warmups_are_refused(server: Server, wire: Wire, warmup: str) -> None:
    type_name, fields = rdb.fields_of(samples.ONNX, 4)
    assert isinstance(fields[0], int)
    payload = rdb.dump_fields(type_name, 4, [fields[0] + 1024, *fields[1:6], 1, f"{warmup}\0".encode(), *fields[6:]])
    reply = wire.ask("RESTORE", "m", 0, payload)
    if warmup in POSSIBLE:
        assert reply == b"OK"
        assert wire.ask("AI.MODELGET", "m", "META")[-1] == [warmup.encode()]
        samples.check_run(wire, "m")
    else:
        assert reply == Error("ERR Bad data format")
        assert "impossible warm-up" in server.log()
