"""AI.INFO of scripts: what was run, how often, for how long."""

from __future__ import annotations

import pytest

from testkit import scripts
from testkit.info import ai_info
from testkit.scripts import execute, store_old, store_plain
from testkit.server import Server
from testkit.wire import Error, Simple, Wire


@pytest.fixture
def stored(wire: Wire) -> Wire:
    store_plain(wire)
    store_old(wire)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 4, "VALUES", 1, 2, 3, 4)
    return wire


@pytest.mark.parametrize("protocol", [2, 3])
def test_eighteen_elements(server: Server, protocol: int) -> None:
    with server.wire(protocol) as wire:
        assert wire.ask(*scripts.store_command("s", scripts.SOURCE, ["add"], "cpu", tag="v1")) == b"OK"
        assert wire.ask("AI.INFO", "s") == [
            b"key", b"s", b"type", b"SCRIPT", b"backend", b"TORCH", b"device", b"cpu", b"tag", b"v1",
            b"duration", 0, b"samples", -1, b"calls", 0, b"errors", 0,
        ]  # fmt: skip


def test_counters(stored: Wire) -> None:
    for number in range(1, 4):
        assert stored.ask(*execute("s", "add", inputs=["x", "x"], outputs=["y"])) == b"OK"
        found = ai_info(stored, "s")
        assert (found["calls"], found["samples"], found["errors"]) == (number, -1, 0)
    assert 0 < found["duration"] < 5_000_000
    assert stored.ask(*execute("s", "nothing", inputs=["x"])) == b"OK"
    assert ai_info(stored, "s")["calls"] == 4
    assert stored.ask("AI.SCRIPTRUN", "old", "add", "INPUTS", "x", "x", "OUTPUTS", "y") == b"OK"
    found = ai_info(stored, "old")
    assert (found["calls"], found["samples"], found["errors"]) == (1, -1, 0)


def test_errors_of_runs_are_counted_and_those_of_parsing_are_not(stored: Wire) -> None:
    failed = stored.ask(*execute("s", "fails", inputs=["x"], outputs=["y"]))
    assert isinstance(failed, Error) and failed.startswith("ERR AssertionError: first line    second line (line ")
    failed = stored.ask(*execute("s", "out_of_range", inputs=["x"], outputs=["y"]))
    assert isinstance(failed, Error) and failed.startswith("ERR list index out of range (line ")
    found = ai_info(stored, "s")
    assert (found["calls"], found["errors"], found["samples"]) == (2, 2, -1)
    for line, text in (
        ("s add INPUTS 2 x missing OUTPUTS 1 y", "ERR tensor key is empty or in a different shard"),
        ("s add FOO", "ERR KEYS or INPUTS scope must be provided first for AI.SCRIPTEXECUTE command"),
        ("s add INPUTS x x OUTPUTS 1 y", "ERR Invalid argument for inputs count in AI.SCRIPTEXECUTE"),
    ):
        assert stored.ask("AI.SCRIPTEXECUTE", *line.split()) == Error(text)
    found = ai_info(stored, "s")
    assert (found["calls"], found["errors"]) == (2, 2)


def test_resetstat(stored: Wire) -> None:
    stored.ask(*execute("s", "add", inputs=["x", "x"], outputs=["y"]))
    reply = stored.ask("ai.info", "s", "resetstat")
    assert (type(reply), reply) == (Simple, b"OK")
    found = ai_info(stored, "s")
    assert [found[key] for key in ("duration", "samples", "calls", "errors")] == [0, -1, 0, 0]


def test_statistics_follow_the_value(stored: Wire) -> None:
    stored.ask(*execute("s", "add", inputs=["x", "x"], outputs=["y"]))
    stored.ask("RENAME", "s", "n")
    found = ai_info(stored, "n")
    assert (found["key"], found["calls"]) == (b"n", 1)
    assert stored.ask("AI.INFO", "s") == "ERR cannot find run info for key"
    store_plain(stored, "n")
    assert ai_info(stored, "n")["calls"] == 0, "a script stored again starts anew"
