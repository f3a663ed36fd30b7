"""AI.RUNS: what waits for a device and what runs, and for which client."""

from __future__ import annotations

from typing import Any

from testkit import models, scripts
from testkit.batches import Clients
from testkit.server import Server
from testkit.users import logins
from testkit.wire import Wire, Word

RUN: tuple[Word, ...] = ("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")


def runs(wire: Wire, *key: Word) -> list[dict[str, Any]]:
    found = [
        {name.decode(): value for name, value in zip(run[::2], run[1::2], strict=True)}
        for run in wire.ask("AI.RUNS", *key)
    ]
    return sorted(found, key=lambda run: -run["age_us"])


def store(wire: Wire, key: str = "m") -> None:
    wire.ask_ok("AI.MODELSTORE", key, "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)


def test_nothing_runs(wire: Wire) -> None:
    store(wire)
    assert wire.ask(*RUN) == b"OK"
    assert wire.ask("AI.RUNS") == wire.ask("AI.RUNS", "m") == []


def test_fields(wire: Wire, clients: Clients) -> None:
    store(wire)
    with clients.busy_worker():
        other = clients.wire()
        id = other.ask("CLIENT", "ID")
        other.send(*RUN)
        clients.wait_blocked(2)
        busy, ours = runs(wire)
        assert busy["state"] == b"running" and busy["function"] != b""
        assert ours.pop("age_us") in range(1, busy["age_us"])
        assert ours.pop("id") > busy["id"]
        expected = {"client": id, "key": b"m", "function": b"", "device": b"CPU", "state": b"queued"}
        expected["priority"] = b"normal"
        assert ours == expected
        assert wire.ask("CLIENT", "UNBLOCK", id) == 1
        assert other.read() == b"TIMEDOUT"
        assert [run["key"] for run in runs(wire)] == [busy["key"]]


def test_operations_of_a_dag(wire: Wire, clients: Clients) -> None:
    store(wire)
    scripts.store(wire, "double", f"def double{scripts.SIGNATURE}:\n    return tensors[0] * 2\n", ["double"])
    words: list[Word] = ["AI.DAGEXECUTE", "LOAD", 1, "x", "|>", *RUN, "|>"]
    words += ["AI.SCRIPTEXECUTE", "double", "double", "INPUTS", 1, "y", "OUTPUTS", 1, "z"]
    with clients.busy_worker():
        other = clients.wire()
        other.send(*words)
        clients.wait_blocked(2)
        found = [(run["key"], run["function"], run["state"]) for run in runs(wire)[1:]]
        assert sorted(found) == [(b"double", b"double", b"waiting"), (b"m", b"", b"queued")]
        assert [run["key"] for run in runs(wire, "m")] == [b"m"]
    assert other.read() == [b"OK", b"OK"]


def test_key(wire: Wire, clients: Clients) -> None:
    """The model that is at the key now: not one that was there before, though it still runs."""
    store(wire)
    store(wire, "other")
    with clients.busy_worker():
        waiting = [clients.wire() for _ in range(3)]
        for key, each in zip(("m", "m", "other"), waiting, strict=True):
            each.send("AI.MODELEXECUTE", key, *RUN[2:])
        clients.wait_blocked(4)
        assert [len(runs(wire, key)) for key in ("m", "other")] == [2, 1]
        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
        assert runs(wire, "m") == []
        assert len(runs(wire)) == 4
    assert [each.read() for each in waiting] == [b"OK"] * 3


def test_many(wire: Wire, clients: Clients) -> None:
    store(wire)
    with clients.busy_worker():
        waiting = [clients.wire() for _ in range(200)]
        for each in waiting:
            each.send(*RUN)
        clients.wait_blocked(201)
        assert len({run["client"] for run in runs(wire, "m")}) == 200
        wire.ask_ok("MULTI")
        wire.ask("AI.RUNS", "m")
        assert [len(reply) for reply in wire.ask("EXEC")] == [200]
    assert [each.read() for each in waiting] == [b"OK"] * 200


def test_who_may(server: Server) -> None:
    with logins(server) as login:
        assert login("~*", "+@all").ask("AI.RUNS") == []
        refused = login("~*", "+ai.runs").ask("AI.RUNS")
        assert refused == "NOPERM AI.RUNS needs a user who may run CONFIG SET"


def test_errors(wire: Wire) -> None:
    wire.ask("SET", "text", "x")
    for key in "missing", "text":
        assert wire.ask("AI.RUNS", key) == "ERR no model or script at this key"
    assert wire.ask("AI.RUNS", "a", "b") == "ERR wrong number of arguments for 'AI.RUNS' command"
