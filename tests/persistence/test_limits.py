"""A model's limits after a restart. A model without the new ones is saved as before, so that older builds read it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from testkit import models, rdb, samples
from testkit.restarts import rewrite
from testkit.server import Server
from testkit.wire import Error, Wire, Word
from tests.conftest import StartServer

NUMBERS: dict[str, Word] = {"BATCHSIZE": 4, "MINBATCHSIZE": 2, "MINBATCHTIMEOUT": 1.5, "MAXQUEUE": 9, "TIMEOUT": 8}
NUMBERS |= {"PRIORITY": "low", "CACHE": 7}
LIMITS: list[Word] = [word for pair in NUMBERS.items() for word in pair]
MORE = [b"maxqueue", 9, b"timeout", 8, b"minbatchtimeout_us", 1500, b"cache", 7, b"priority", b"low"]


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
        wire.ask_ok("AI.MODELSTORE", "first", "ONNX", "CPU", "PRIORITY", "HIGH", "BLOB", models.onnx_add())
        before = {key: wire.ask("AI.MODELGET", key) for key in ("stored", "configured", "odd", "first")}
        digest = wire.ask("DEBUG", "DIGEST")
        if saved == "RDB":
            wire.ask_ok("SAVE")
        elif saved != "AOF":
            rewrite(wire)
    server.kill()
    with server.start().wire() as wire:
        assert before["stored"][16:-2] == MORE == before["configured"][16:-2]
        assert before["first"][16:-2] == [b"priority", b"high"]
        assert {key: wire.ask("AI.MODELGET", key) for key in before} == before
        assert wire.ask("DEBUG", "DIGEST") == digest


def test_layout(wire: Wire) -> None:
    """The number of the backend tells of three more numbers, of the priority, and of CACHE. A model that has none is
    saved as it always was."""
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    plain = wire.ask("DUMP", "m")
    wire.ask_ok("AI.MODELCONFIG", "m", *LIMITS)
    fields = rdb.decode(wire.ask("DUMP", "m"))
    assert fields.version == 4
    assert fields.fields[0] == rdb.BACKENDS["ONNX"] + 256 + 512 + 2048
    assert fields.fields[3:11] == [4, 2, 1, 500, 9, 8, 1, 7]
    none: list[Word] = [word for name in NUMBERS for word in (name, "normal" if name == "PRIORITY" else 0)]
    wire.ask_ok("AI.MODELCONFIG", "m", *none[:-4], "CACHE", 0)
    fields = rdb.decode(wire.ask("DUMP", "m"))
    assert fields.fields[0] == rdb.BACKENDS["ONNX"] + 512
    assert fields.fields[3:7] == [0, 0, 0, 1]
    wire.ask_ok("AI.MODELCONFIG", "m", *none)
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


@pytest.mark.parametrize("priority", [0, 1, 2, 3, 4, 2**64 - 1])
def test_impossible_priorities_are_refused(server: Server, wire: Wire, priority: int) -> None:
    type_name, fields = rdb.fields_of(samples.ONNX, 4)
    assert isinstance(fields[0], int)
    payload = rdb.dump_fields(type_name, 4, [fields[0] + 512, *fields[1:6], priority, *fields[6:]])
    reply = wire.ask("RESTORE", "m", 0, payload)
    if priority in (1, 3):
        assert reply == b"OK"
        assert rdb.decode(wire.ask("DUMP", "m")) == rdb.decode(payload)
    else:
        assert reply == Error("ERR Bad data format")
        assert "impossible priority" in server.log()


@pytest.mark.parametrize("flags", [512, 2048, 2048 + 4096])
@pytest.mark.parametrize("cache", [5, -1])
def test_a_cache_alone(wire: Wire, flags: int, cache: int) -> None:
    model = replace(samples.ONNX, batchsize=2)
    type_name, fields = rdb.fields_of(model, 4)
    assert isinstance(fields[0], int)
    payload = rdb.dump_fields(type_name, 4, [fields[0] + flags, *fields[1:6], cache & (2**64 - 1), *fields[6:]])
    reply = wire.ask("RESTORE", "m", 0, payload)
    if flags == 2048 and cache > 0:
        assert reply == b"OK"
        assert rdb.decode(wire.ask("DUMP", "m")) == rdb.decode(payload)
        assert wire.ask("AI.MODELGET", "m", "META")[16:] == [b"cache", cache]
    else:
        assert reply == Error("ERR Bad data format")
