"""Keyspace events: whatever sets or deletes a tensor, model or script is told to subscribers, on replicas too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit import models, scripts
from testkit.replicas import caught_up, follow
from testkit.server import Server
from testkit.wire import Wire, Word
from tests.conftest import StartServer

SCRIPT = scripts.function("add", "return tensors[0] + tensors[1]")
Event = tuple[str, str]


class Events:
    """The events of a server: names and keys, in order."""

    def __init__(self, server: Server, classes: str = "Edg") -> None:
        self.publisher, self.subscriber = server.wire(), server.wire()
        self.publisher.ask_ok("CONFIG", "SET", "notify-keyspace-events", classes)
        self.subscriber.ask("PSUBSCRIBE", "__keyevent@*", "the end")

    def take(self) -> list[Event]:
        """Those since the last call."""
        self.publisher.ask("PUBLISH", "the end", "")
        found = []
        while (message := [word.decode() for word in self.subscriber.read()[1:]])[0] != "the end":
            if message[0] != "psubscribe":
                found.append((message[1].removeprefix("__keyevent@0__:"), message[2]))
        return found

    def close(self) -> None:
        self.publisher.ask("CONFIG", "SET", "notify-keyspace-events", "")
        self.publisher.close()
        self.subscriber.close()


@pytest.fixture
def events(server: Server) -> Iterator[Events]:
    events = Events(server)
    events.subscriber.read()  # the second of two answers
    yield events
    events.close()


def add(key: str) -> tuple[Word, ...]:
    return ("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, key)


def store(wire: Wire) -> None:
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask_ok("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 1, "add", "SOURCE", SCRIPT)


def test_fields_of_hashes(wire: Wire, server: Server) -> None:
    events = Events(server, "Ehd")
    events.subscriber.read()
    store(wire)
    events.take()
    line = "AI.DAGEXECUTE PERSIST 1 t |> AI.TENSORSET t FLOAT 1 |> AI.HASHSET h f t g t"
    wire.ask(*line.split())
    assert sorted(events.take()) == [("ai.tensorset", "t"), ("hset", "h"), ("hset", "h")]
    wire.ask("AI.HASHSET", "h", "f", "t")
    assert events.take() == [("hset", "h")]
    events.close()


def test_what_stores_and_deletes(wire: Wire, events: Events) -> None:
    store(wire)
    wire.ask_ok("ai.Modelset", "old", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask_ok("AI.SCRIPTSET", "older", "CPU", "SOURCE", scripts.OLD)
    assert events.take() == [
        ("ai.tensorset", "x"), ("ai.modelstore", "m"), ("ai.scriptstore", "s"),
        ("ai.modelset", "old"), ("ai.scriptset", "older"),
    ]  # fmt: skip
    wire.ask_ok("AI.MODELDEL", "m")
    wire.ask_ok("AI.SCRIPTDEL", "s")
    assert events.take() == [("ai.modeldel", "m"), ("del", "m"), ("ai.scriptdel", "s"), ("del", "s")]


def test_outputs(wire: Wire, events: Events) -> None:
    """Like TENSORSET, as which they are replicated."""
    store(wire)
    events.take()
    wire.ask_ok(*add("y"))
    assert events.take() == [("ai.tensorset", "y")]
    wire.ask_ok("AI.SCRIPTEXECUTE", "s", "add", "INPUTS", 2, "x", "y", "OUTPUTS", 1, "z")
    assert events.take() == [("ai.tensorset", "z")]
    made = ("|>", "AI.TENSORSET", "a", "FLOAT", 1)
    run = ("|>", "AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "b")
    assert wire.ask("AI.DAGEXECUTE", "LOAD", 1, "x", "PERSIST", 2, "a", "b", *made, *run) == [b"OK", b"OK"]
    assert events.take() == [("ai.tensorset", "a"), ("ai.tensorset", "b")]
    assert wire.ask("AI.DAGEXECUTE", "PERSIST", 1, "a", *made) == [b"OK"]  # never leaves the main thread
    assert events.take() == [("ai.tensorset", "a")]


def test_what_changes_nothing(wire: Wire, events: Events) -> None:
    store(wire)
    events.take()
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", "no number")
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", b"no model")
    wire.ask("AI.MODELDEL", "x")
    wire.ask("AI.MODELDEL", "nothing")
    wire.ask("AI.TENSORGET", "x")
    wire.ask("AI.SCRIPTEXECUTE", "s", "no function", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "z")
    assert events.take() == []


def test_in_transactions(wire: Wire, events: Events) -> None:
    wire.ask("MULTI")
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1)
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask("AI.MODELDEL", "m")
    assert wire.ask("EXEC") == [b"OK"] * 3
    expected = [("ai.tensorset", "x"), ("ai.modelstore", "m"), ("ai.modeldel", "m"), ("del", "m")]
    assert events.take() == expected


def test_the_classes(wire: Wire, events: Events) -> None:
    """Events of the module are of the class d; the deletion is also of Redis's own class g."""
    for classes, expected in ("Eg", ["del"]), ("Ed", ["ai.modelstore", "ai.modeldel"]), ("E$", []):
        wire.ask_ok("CONFIG", "SET", "notify-keyspace-events", classes)
        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
        wire.ask_ok("AI.MODELDEL", "m")
        assert [name for name, _ in events.take()] == expected


def test_on_a_replica(start_server: StartServer) -> None:
    master, replica = start_server("--repl-diskless-sync-delay", "0"), start_server()
    follow(replica, master)
    events = Events(replica)
    events.subscriber.read()
    with master.wire() as wire:
        store(wire)
        wire.ask_ok(*add("y"))
        wire.ask_ok("AI.MODELDEL", "m")
        caught_up(wire)
    assert events.take() == [
        ("ai.tensorset", "x"), ("ai.modelstore", "m"), ("ai.scriptstore", "s"), ("ai.tensorset", "y"),
        ("ai.modeldel", "m"), ("del", "m"),
    ]  # fmt: skip
    events.close()
