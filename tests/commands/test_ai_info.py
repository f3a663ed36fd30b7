"""AI.INFO: what was run, how often, for how long; statistics follow the value, not the name."""

from __future__ import annotations

from typing import Any

import pytest

from testkit import models
from testkit.info import ai_info
from testkit.server import Server
from testkit.wire import Error, Simple, Wire
from tests.conftest import Slow

KEYS = [b"key", b"type", b"backend", b"device", b"tag", b"duration", b"samples", b"calls", b"errors"]


def run(wire: Wire, rows: int, key: str = "m") -> Any:
    wire.ask("AI.TENSORSET", "x", "FLOAT", rows, 2)
    return wire.ask("AI.MODELEXECUTE", key, "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")


@pytest.fixture
def stored(wire: Wire) -> Wire:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "cpu", "TAG", "v1", "BLOB", models.onnx_add())
    return wire


@pytest.mark.parametrize("protocol", [2, 3])
def test_eighteen_elements(server: Server, stored: Wire, protocol: int) -> None:
    with server.wire(protocol) as wire:
        assert wire.ask("AI.INFO", "m") == [
            b"key", b"m", b"type", b"MODEL", b"backend", b"ONNX", b"device", b"cpu", b"tag", b"v1",
            b"duration", 0, b"samples", 0, b"calls", 0, b"errors", 0,
        ]  # fmt: skip


def test_counters(stored: Wire) -> None:
    assert stored.ask("AI.INFO", "m")[::2] == KEYS
    for rows in (1, 5, 10):
        assert run(stored, rows) == b"OK"
    found = ai_info(stored)
    assert (found["calls"], found["samples"], found["errors"]) == (3, 16, 0)
    assert 0 < found["duration"] < 5_000_000


def test_duration_is_in_microseconds(wire: Wire, slow: Slow) -> None:
    reply, seconds = wire.timed(*slow(wire, 0.2))
    assert reply == b"OK"
    assert 0.5 * seconds < ai_info(wire, "slow")["duration"] / 1e6 <= seconds


def test_errors_of_runs_are_counted_and_those_of_parsing_are_not(stored: Wire) -> None:
    assert run(stored, 1) == b"OK"
    stored.ask("AI.TENSORSET", "bad", "INT64", 1, 2)
    failed = stored.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "bad", "bad", "OUTPUTS", 1, "y")
    assert isinstance(failed, Error) and failed.startswith("ERR input 'a' has type INT64, expected: FLOAT: ")
    assert ai_info(stored)["errors"] == 1
    for inputs, text in (
        ("1 x", "ERR Number of keys given as INPUTS here does not match model definition"),
        ("2 x no", "ERR tensor key is empty or in a different shard"),
    ):
        assert stored.ask(*f"AI.MODELEXECUTE m INPUTS {inputs} OUTPUTS 1 y".split()) == Error(text)
    found = ai_info(stored)
    assert (found["errors"], found["samples"]) == (1, 1)


def test_resetstat(stored: Wire) -> None:
    run(stored, 4)
    reply = stored.ask("ai.info", "m", "resetstat")
    assert (type(reply), reply) == (Simple, b"OK")
    found = ai_info(stored)
    assert [found[key] for key in ("duration", "samples", "calls", "errors")] == [0, 0, 0, 0]
    run(stored, 4)
    assert ai_info(stored)["calls"] == 1


def test_after_rename(stored: Wire) -> None:
    run(stored, 4)
    stored.ask("RENAME", "m", "n")
    found = ai_info(stored, "n")
    assert (found["key"], found["calls"], found["samples"]) == (b"n", 1, 4)
    assert stored.ask("AI.INFO", "m") == "ERR cannot find run info for key"
    stored.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    assert ai_info(stored)["calls"] == 0
    run(stored, 4, "n")
    assert (ai_info(stored)["calls"], ai_info(stored, "n")["calls"]) == (0, 2)


def test_a_model_stored_again_starts_anew(stored: Wire) -> None:
    run(stored, 4)
    stored.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "TAG", "v2", "BLOB", models.onnx_add())
    found = ai_info(stored)
    assert (found["tag"], found["device"], found["calls"]) == (b"v2", b"CPU", 0)


def test_torch(wire: Wire) -> None:
    wire.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", models.torch_module(models.Add))
    assert run(wire, 3) == b"OK"
    found = ai_info(wire)
    assert [found[key] for key in ("type", "backend", "tag", "samples", "calls")] == [
        b"MODEL",
        b"TORCH",
        b"",
        3,
        1,
    ]


def test_errors(stored: Wire) -> None:
    assert stored.ask("AI.INFO", "missing") == "ERR cannot find run info for key"
    assert stored.ask("AI.INFO", "missing", "RESETSTAT") == "ERR cannot find run info for key"
    assert stored.ask("AI.INFO", "m", "FOO") == Error("ERR unsupported subcommand")
    too_many = Error("ERR wrong number of arguments for 'AI.INFO' command")
    assert stored.ask("AI.INFO", "m", "RESETSTAT", "x") == too_many
    stored.ask("SET", "string", "x")
    assert stored.ask("AI.INFO", "string") == Error("ERR cannot find run info for key")
    assert stored.ask("PING") == b"PONG"
