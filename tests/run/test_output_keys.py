"""Where results go: keys of another type, keys that are inputs too, keys that change while the model runs."""

from __future__ import annotations

import pytest

from testkit import models
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire, Word
from tests.conftest import Slow, StartServer


@pytest.fixture
def stored(wire: Wire) -> Wire:
    wire.ask("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask("AI.MODELSTORE", "split", "ONNX", "CPU", "BLOB", models.onnx_split3())
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
    wire.ask("AI.TENSORSET", "three", "FLOAT", 3, "VALUES", 1, 2, 3)
    return wire


SETTERS: list[list[Word]] = [["SET", "out", "x"], ["RPUSH", "out", "x"], ["COPY", "add", "out"]]


@pytest.mark.parametrize("setter", SETTERS)
@pytest.mark.parametrize(
    "line",
    [
        "AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 out",
        "AI.MODELRUN add INPUTS x x OUTPUTS out",
        "AI.MODELEXECUTE split INPUTS 1 three OUTPUTS 3 a b out",
        "AI.MODELEXECUTE split INPUTS 1 three OUTPUTS 3 a out c",
        "AI.MODELEXECUTE split INPUTS 1 three OUTPUTS 3 out b c",
        "AI.MODELRUN split INPUTS three OUTPUTS a out c",
    ],
)
def test_an_output_key_of_another_type(stored: Wire, setter: list[Word], line: str) -> None:
    """One WRONGTYPE, nothing stored, and the connection keeps step."""
    stored.ask(*setter)
    before = stored.ask("TYPE", "out")
    stored.send(*line.split())
    stored.send("ECHO", "next")
    assert stored.read().startswith("WRONGTYPE ")
    assert stored.read() == b"next"
    assert stored.ask("EXISTS", "a", "b", "c") == 0
    assert stored.ask("TYPE", "out") == before


def test_an_output_key_that_changes_its_type_during_the_run(server: Server, wire: Wire, slow: Slow) -> None:
    command = slow(wire, 0.3, output="out")
    with server.wire() as other:
        wire.send(*command)
        wait_for(lambda: server.blocked_clients() == 1)
        other.ask("SET", "out", "x")
        assert wire.read().startswith("WRONGTYPE ")
        assert wire.ask("PING") == b"PONG"
        assert other.ask("GET", "out") == b"x"


def test_one_key_as_input_and_output(stored: Wire) -> None:
    for line in ("AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 x", "AI.MODELRUN add INPUTS x x OUTPUTS x"):
        assert stored.ask(*line.split()) == b"OK"
    assert stored.ask("AI.TENSORGET", "x", "VALUES") == [b"4", b"8"]


def test_results_replace_tensors_of_any_shape_and_type(stored: Wire) -> None:
    stored.ask("AI.TENSORSET", "y", "STRING", 3, "VALUES", "a", "b", "c")
    assert stored.ask("AI.MODELEXECUTE", "add", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
    assert stored.ask("AI.TENSORGET", "y", "META", "VALUES") == [
        b"dtype", b"FLOAT", b"shape", [1, 2], b"values", [b"2", b"4"],
    ]  # fmt: skip


def test_keys_are_binary(stored: Wire) -> None:
    key = b"\x00out\r\n\xff"
    assert stored.ask("AI.TENSORSET", b"in\0", "FLOAT", 1, 2, "VALUES", 1, 2) == b"OK"
    assert stored.ask("AI.MODELEXECUTE", "add", "INPUTS", 2, b"in\0", "x", "OUTPUTS", 1, key) == b"OK"
    assert stored.ask("AI.TENSORGET", key, "VALUES") == [b"2", b"4"]
    assert stored.ask("EXISTS", "in") == 0


def test_keys_named_like_keywords(stored: Wire) -> None:
    stored.ask("RENAME", "add", "INPUTS")
    stored.ask("RENAME", "x", "OUTPUTS")
    stored.ask("AI.TENSORSET", "TIMEOUT", "FLOAT", 1, 2, "VALUES", 10, 20)
    first = "AI.MODELEXECUTE INPUTS INPUTS 2 OUTPUTS TIMEOUT OUTPUTS 1 BLOB"
    assert stored.ask(*first.split()) == b"OK"
    assert stored.ask("AI.TENSORGET", "BLOB", "VALUES") == [b"11", b"22"]
    last = "AI.MODELEXECUTE INPUTS INPUTS 2 TIMEOUT TIMEOUT OUTPUTS 1 OUTPUTS TIMEOUT 9000"
    assert stored.ask(*last.split()) == b"OK"
    assert stored.ask("AI.TENSORGET", "OUTPUTS", "VALUES") == [b"20", b"40"]


def test_results_go_to_the_right_database(server: Server, stored: Wire) -> None:
    """Results go to the database in which the run was asked for, whatever other clients have selected."""
    with server.wire() as other:
        other.ask("SELECT", 3)
        other.ask("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", models.onnx_add())
        other.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 5, 5)
        other.send("AI.MODELEXECUTE", "add", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
        assert stored.ask("AI.MODELEXECUTE", "add", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
        assert other.read() == b"OK"
        assert other.ask("AI.TENSORGET", "y", "VALUES") == [b"10", b"10"]
    assert stored.ask("AI.TENSORGET", "y", "VALUES") == [b"2", b"4"]


def test_results_wake_those_who_watch(server: Server, stored: Wire) -> None:
    with server.wire() as watcher:
        watcher.ask("WATCH", "y")
        assert stored.ask("AI.MODELEXECUTE", "add", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
        watcher.ask("MULTI")
        watcher.ask("PING")
        assert watcher.ask("EXEC") is None


def test_a_cluster_that_fails_meanwhile(start_server: StartServer, slow: Slow) -> None:
    server = start_server("--cluster-enabled", "yes")
    with server.wire() as wire, server.wire() as runner:
        wire.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_for(lambda: b"cluster_state:ok" in wire.ask("CLUSTER", "INFO"), 20)
        slow(wire, 0.5)
        rounds = wire.ask("AI.TENSORGET", "slow:n", "VALUES")
        wire.ask("AI.TENSORSET", "{n}", "INT64", "VALUES", *rounds)
        wire.ask("AI.MODELSTORE", "slow{n}", "ONNX", "CPU", "BLOB", models.onnx_loop())
        runner.send("AI.MODELEXECUTE", "slow{n}", "INPUTS", 1, "{n}", "OUTPUTS", 1, "out{n}")
        wait_for(lambda: server.blocked_clients() == 1)
        other = (wire.ask("CLUSTER", "KEYSLOT", "n") + 1) % 16384
        assert wire.ask("CLUSTER", "DELSLOTS", other) == b"OK"
        assert runner.read() == "CLUSTERDOWN The cluster is down"
        assert wire.ask("CLUSTER", "ADDSLOTS", other) == b"OK"
        wait_for(lambda: b"cluster_state:ok" in wire.ask("CLUSTER", "INFO"), 20)
        assert wire.ask("EXISTS", "out{n}") == 0
