"""A model's limits after a restart. A model without the new ones is saved as before, so that older builds read it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from testkit import models, rdb, samples
from testkit.restarts import rewrite
from testkit.server import Server
from testkit.wire import Error, Wire
from tests.conftest import StartServer

NUMBERS = {"BATCHSIZE": 4, "MINBATCHSIZE": 2, "MINBATCHTIMEOUT": 1.5, "MAXQUEUE": 9, "TIMEOUT": 8, "CACHE": 7}
LIMITS = [word for pair in NUMBERS.items() for word in pair]
MORE = [b"maxqueue", 9, b"timeout", 8, b"minbatchtimeout_us", 1500, b"cache", 7]


@pytest.mark.parametrize("saved", ["RDB", "AOF", "AOF rewritten", "AOF rewritten as RDB"])
def test_restart(start_server: StartServer, saved: str) -> None:
    preamble = "yes" if saved == "AOF rewritten as RDB" else "no"
    arguments = ("--aof-use-rdb-preamble", preamble, "--appendonly", "no" if saved == "RDB" else "yes")
    server = start_server(*arguments, "--appendfsync", "always")
    with server.wire() as wire:
        wire.ask_ok("AI.MODELSTORE", "stored", "ONNX", "CPU", *LIMITS, "BLOB", models.onnx_add())
        wire.ask_ok("AI.MODELSTORE", "configured", "ONNX", "CPU", "TIMEOUT", 3, "BLOB", models.onnx_add())
        wire.ask_ok("AI.MODELCONFIG", "configured", *LIMITS)
        wire.ask_ok("AI.MODELSTORE", "odd", "ONNX", "CPU", *LIMITS[:6], "BLOB", models.onnx_add())
        wire.ask_ok("AI.MODELCONFIG", "odd", "BATCHSIZE", 0, "TIMEOUT", 7)
        before = {key: wire.ask("AI.MODELGET", key) for key in ("stored", "configured", "odd")}
        digest = wire.ask("DEBUG", "DIGEST")
        if saved == "RDB":
            wire.ask_ok("SAVE")
        elif saved != "AOF":
            rewrite(wire)
    server.kill()
    with server.start().wire() as wire:
        assert before["stored"][16:-2] == MORE == before["configured"][16:-2]
        assert {key: wire.ask("AI.MODELGET", key) for key in before} == before
        assert wire.ask("DEBUG", "DIGEST") == digest


def test_layout(wire: Wire) -> None:
    """The number of the backend tells of three more numbers, and of CACHE. Without, it is saved as it always was."""
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    plain = wire.ask("DUMP", "m")
    wire.ask_ok("AI.MODELCONFIG", "m", *LIMITS)
    fields = rdb.decode(wire.ask("DUMP", "m"))
    assert fields.version == 4
    assert fields.fields[0] == rdb.BACKENDS["ONNX"] + 256 + 1024
    assert fields.fields[3:10] == [4, 2, 1, 500, 9, 8, 7]
    wire.ask_ok("AI.MODELCONFIG", "m", *(word for name in NUMBERS for word in (name, 0)))
    assert wire.ask("DUMP", "m") == plain
    assert rdb.decode(plain).fields[0] == rdb.BACKENDS["ONNX"]


@pytest.mark.parametrize("us", [0, 999, 1000, -1])
@pytest.mark.parametrize("maxqueue", [0, 2**63 - 1, -1])
@pytest.mark.parametrize("timeout", [0, 5, -1])
def test_impossible_limits_are_refused(server: Server, wire: Wire, us: int, maxqueue: int, timeout: int) -> None:
    model = replace(samples.ONNX, batchsize=2, minbatchsize=1, minbatchtimeout=3)
    type_name, fields = rdb.fields_of(model, 4)
    assert isinstance(fields[0], int)
    numbers = [number & (2**64 - 1) for number in (us, maxqueue, timeout)]
    payload = rdb.dump_fields(type_name, 4, [fields[0] + 256, *fields[1:6], *numbers, *fields[6:]])
    reply = wire.ask("RESTORE", "m", 0, payload)
    if 0 <= us <= 999 and maxqueue >= 0 and timeout >= 0:
        assert reply == b"OK"
        saved = rdb.decode(wire.ask("DUMP", "m"))
        assert saved == rdb.decode(payload if us or maxqueue or timeout else rdb.dump(model, 4))
    else:
        assert reply == Error("ERR Bad data format")
        assert "impossible limit" in server.log()


@pytest.mark.parametrize("flags", [512, 1024, 1024 + 512])
@pytest.mark.parametrize("cache", [5, -1])
def test_a_cache_alone(wire: Wire, flags: int, cache: int) -> None:
    model = replace(samples.ONNX, batchsize=2)
    type_name, fields = rdb.fields_of(model, 4)
    assert isinstance(fields[0], int)
    payload = rdb.dump_fields(type_name, 4, [fields[0] + flags, *fields[1:6], cache & (2**64 - 1), *fields[6:]])
    reply = wire.ask("RESTORE", "m", 0, payload)
    if flags == 1024 and cache > 0:
        assert reply == b"OK"
        assert rdb.decode(wire.ask("DUMP", "m")) == rdb.decode(payload)
        assert wire.ask("AI.MODELGET", "m", "META")[16:] == [b"cache", cache]
    else:
        assert reply == Error("ERR Bad data format")
