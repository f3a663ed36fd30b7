"""LATENCY tells of the module's work on the main thread that is no command."""

from __future__ import annotations

import pytest

from testkit import models, scripts
from testkit.server import Server
from testkit.wire import Wire, Word

ATTEMPTS = 20
KEYS = 100_000
OPS = 200


def events(wire: Wire) -> dict[str, int]:
    """Those of the module, with the most milliseconds of each."""
    return {name.decode(): most for name, _, _, most, *_ in wire.ask("LATENCY", "LATEST") if b"redisai" in name}


def watch(wire: Wire, threshold: int) -> None:
    wire.ask_ok("CONFIG", "SET", "latency-monitor-threshold", threshold)
    wire.ask("LATENCY", "RESET")


def test_quick_work_is_not_told(wire: Wire) -> None:
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2)
    watch(wire, 1)
    for _ in range(100):
        wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
    # A busy machine may take the core away meanwhile.
    assert not events(wire) or max(events(wire).values()) < 100
    watch(wire, 0)


def test_commands_of_scripts(wire: Wire) -> None:
    source = (
        f"def sort{scripts.SIGNATURE}:\n    redis.execute('SORT', keys[0], 'LIMIT', '0', '1')\n    return tensors[0]\n"
    )
    scripts.store(wire, "s", source, ["sort"])
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1)
    wire.ask("EVAL", "for i = 1, tonumber(ARGV[1]) do redis.call('LPUSH', KEYS[1], i * 7 % 1009) end", 1, "list", KEYS)
    for threshold in 60_000, 1:
        watch(wire, threshold)
        wire.ask_ok("AI.SCRIPTEXECUTE", "s", "sort", "KEYS", 1, "list", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        assert list(events(wire)) == ([] if threshold == 60_000 else ["redisai-tasks"])
    assert 1 <= events(wire)["redisai-tasks"] < 60_000


def test_scans(wire: Wire) -> None:
    fill = "for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'k' .. i, 'x') end"
    wire.ask("EVAL", fill, 0, KEYS)
    watch(wire, 1)
    assert wire.ask("AI._MODELSCAN") == []
    assert list(events(wire)) == ["redisai-slices"]
    watch(wire, 0)


def test_results_of_an_engine_process(server: Server, wire: Wire) -> None:
    """They come while a script keeps the main thread: then it takes all of them at once."""
    if wire.ask("CONFIG", "GET", "ai.isolation")[1] != b"process":
        pytest.skip("there is none")
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 4000, 2)
    dag: list[Word] = ["AI.DAGEXECUTE", "LOAD", 1, "x"]
    for number in range(OPS):
        dag += ["|>", "AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, f"y{number}"]
    spin = "local s = redis.call('TIME') repeat local t = redis.call('TIME') until (t[1]-s[1])*1e6+t[2]-s[2] > 2e5"
    watch(wire, 1)
    for _ in range(ATTEMPTS):
        with server.wire() as other:
            other.send(*dag)
            wire.ask("EVAL", spin, 0)
            assert other.read() == [b"OK"] * OPS
        if "redisai-results" in events(wire):
            break
    assert "redisai-results" in events(wire)
    watch(wire, 0)
