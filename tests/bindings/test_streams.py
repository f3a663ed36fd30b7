"""Bindings of streams: each new entry runs the model, and its result is added to another stream, in order."""

from __future__ import annotations

from typing import Any

from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.bindings.kit import bind, binding, settle, store

STREAM = "FIELDS 1 x MODEL m SET 1 y STREAM out"


def entries(wire: Wire, key: str = "out") -> list[dict[bytes, bytes]]:
    return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in wire.ask("XRANGE", key, "-", "+")]


def results(wire: Wire, field: str = "y") -> list[tuple[str, str, str]]:
    settle(wire)
    return [(e[b"stream"].decode(), e[b"id"].decode(), e.get(field.encode(), b"").decode()) for e in entries(wire)]


def add(wire: Wire, key: str, n: int, value: Any) -> None:
    wire.ask("XADD", key, f"{n}-1", "x", value)


def test_new_entries_only_and_in_order(wire: Wire) -> None:
    add(wire, "in", 1, "before")
    bind(wire, f"ON STREAM KEYS 1 in {STREAM}")
    for i in range(2, 5):
        add(wire, "in", i, i)
    assert results(wire) == [("in", f"{i}-1", str(2 * i + 1)) for i in range(2, 5)]
    assert wire.ask("XINFO", "GROUPS", "in")[0][:2] == [b"name", b"b"]
    add(wire, "inner", 9, 9)
    assert len(results(wire)) == 3


def test_prefixes_and_a_thousand_entries(server: Server, wire: Wire) -> None:
    bind(wire, f"ON STREAM PREFIX 1 in: {STREAM} MAXLEN 100000 VERSION tag")
    with server.client() as client, client.pipeline(transaction=False) as pipeline:
        for i in range(1, 1001):
            for key in ("in:1", "in:2", "in:3"):
                pipeline.xadd(key, {"x": str(i)}, f"{i}-1")
        pipeline.execute()
    found = results(wire)
    for key in ("in:1", "in:2", "in:3"):
        assert [r[1:] for r in found if r[0] == key] == [(f"{i}-1", str(2 * i + 1)) for i in range(1, 1001)]
    assert entries(wire)[-1][b"tag"] == b"one"
    assert binding(wire)["results"] == 3000
    assert binding(wire)["runs"] < 1500


def test_errors_are_entries_too_if_wanted(wire: Wire) -> None:
    bind(wire, f"ON STREAM KEYS 1 in {STREAM} ERROR why")
    for i, value in enumerate(["1", "no number", "3"], 1):
        add(wire, "in", i, value)
    assert results(wire) == [("in", "1-1", "3"), ("in", "2-1", ""), ("in", "3-1", "7")]
    assert entries(wire)[1][b"why"] == b"ERR the field 'x' is no value of the type FLOAT"
    assert binding(wire)["errors"] == 1


def test_a_refused_result_waits(wire: Wire) -> None:
    """No entry is lost where the results cannot be written for a while."""
    bind(wire, f"ON STREAM KEYS 1 in {STREAM}")
    wire.ask_ok("SET", "out", "in the way")
    add(wire, "in", 1, 1)
    wait_for(lambda: "WRONGTYPE" in binding(wire)["last_error"], what="the error")
    wire.ask("DEL", "out")
    assert results(wire) == [("in", "1-1", "3")]


def test_streams_that_are_deleted_and_renamed(wire: Wire) -> None:
    bind(wire, f"ON STREAM PREFIX 1 in {STREAM}")
    add(wire, "in", 1, 1)
    assert len(results(wire)) == 1
    wire.ask_ok("RENAME", "in", "in2")
    add(wire, "in2", 2, 2)
    add(wire, "in", 1, 5)
    assert sorted(results(wire)) == [("in", "1-1", "11"), ("in", "1-1", "3"), ("in2", "2-1", "5")]
    wire.ask("MULTI")
    add(wire, "in", 7, 7)
    wire.ask("DEL", "in")
    wire.ask("EXEC")
    assert len(results(wire)) == 3


def test_run_over_streams_that_exist(wire: Wire) -> None:
    for i in range(1, 4):
        add(wire, "in", i, i)
    bind(wire, f"ON STREAM PREFIX 1 in {STREAM}")
    wire.ask_ok("AI.BINDRUN", "b")
    assert results(wire) == [("in", f"{i}-1", str(2 * i + 1)) for i in range(1, 4)]


def test_the_model_may_come_later(wire: Wire) -> None:
    bind(wire, f"ON STREAM KEYS 1 in {STREAM}")
    wire.ask("AI.MODELDEL", "m")
    for i in range(1, 50):
        add(wire, "in", i, i)
    assert binding(wire)["pending"] == 1
    store(wire, factor=3)
    assert results(wire) == [("in", f"{i}-1", str(3 * i + 1)) for i in range(1, 50)]
