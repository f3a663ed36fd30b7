"""AI.MODELCONFIG, and the limits that AI.MODELSTORE takes: what is kept, given back, refused, told and copied."""

from __future__ import annotations

from typing import Any

import pytest

from testkit import models
from testkit.info import full_ai_info
from testkit.replicas import caught_up, follow
from testkit.server import Server
from testkit.users import Login
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.conftest import Slow, StartServer

PLAIN = ["backend", "device", "tag", "batchsize", "minbatchsize", "inputs", "outputs", "minbatchtimeout"]
NEW = ["maxqueue", "timeout", "minbatchtimeout_us", "priority", "cache"]
MOST = 2**63 - 1
ALL: tuple[Word, ...] = ("BATCHSIZE", 4, "MINBATCHSIZE", 2, "MINBATCHTIMEOUT", 1.5, "MAXQUEUE", 9, "TIMEOUT", 8)
ALL += ("PRIORITY", "high", "CACHE", 7)


def store(wire: Wire, *options: Word, key: str = "m") -> Any:
    return wire.ask("AI.MODELSTORE", key, "ONNX", "CPU", *options, "BLOB", models.onnx_add())


def limits(wire: Wire, key: str = "m") -> dict[str, Any]:
    """The numbers that AI.MODELGET META tells, but for zeros, and the priority."""
    reply = wire.ask("AI.MODELGET", key, "META")
    names = [name.decode() for name in reply[::2]]
    assert names[:8] == PLAIN and set(names[8:]) <= set(NEW)
    assert all(value for value in reply[17::2])
    told = zip(names, reply[1::2], strict=True)
    return {name: value for name, value in told if (isinstance(value, int) and value) or name == "priority"}


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("MAXQUEUE 100", {"maxqueue": 100}),
        ("timeout 250", {"timeout": 250}),
        (f"CACHE {MOST}", {"cache": MOST}),
        ("TIMEOUT 5 MAXQUEUE 7 TAG t", {"maxqueue": 7, "timeout": 5}),
        ("MAXQUEUE 0 TIMEOUT 0", {}),
        (f"MAXQUEUE {MOST} TIMEOUT {MOST}", {"maxqueue": MOST, "timeout": MOST}),
        ("MAXQUEUE 3 BATCHSIZE 8 TIMEOUT 4", {"maxqueue": 3, "batchsize": 8, "timeout": 4}),
        ("PRIORITY low", {"priority": b"low"}),
        ("priority HIGH TIMEOUT 5", {"priority": b"high", "timeout": 5}),
        ("PRIORITY high PRIORITY normal", {}),
        ("MINBATCHTIMEOUT 3", {"minbatchtimeout": 3}),
        ("MINBATCHTIMEOUT 3.0", {"minbatchtimeout": 3}),
        ("MINBATCHTIMEOUT 0.25", {"minbatchtimeout": 1, "minbatchtimeout_us": 250}),
        ("MINBATCHTIMEOUT 2.5", {"minbatchtimeout": 3, "minbatchtimeout_us": 2500}),
        ("MINBATCHTIMEOUT 1e-9", {"minbatchtimeout": 1, "minbatchtimeout_us": 1}),
        ("MINBATCHTIMEOUT 0.0004", {"minbatchtimeout": 1, "minbatchtimeout_us": 1}),
        ("MINBATCHTIMEOUT 0.9999", {"minbatchtimeout": 1}),
        ("MINBATCHTIMEOUT 0", {}),
    ],
)
@pytest.mark.parametrize("command", ["AI.MODELSTORE", "AI.MODELCONFIG"])
def test_what_is_kept(wire: Wire, command: str, words: str, kept: dict[str, Any]) -> None:
    batching: list[Word] = ["BATCHSIZE", 4, "MINBATCHSIZE", 2] if "MINBATCH" in words else []
    if command == "AI.MODELSTORE":
        assert store(wire, *batching, *words.split()) == b"OK"
    else:
        assert store(wire, *batching) == b"OK"
        if "TAG" in words:
            words = words.replace(" TAG t", "")
        wire.ask_ok(command, "m", *words.split())
    assert limits(wire) == kept | ({"batchsize": 4, "minbatchsize": 2} if batching else {})


def test_modelget_of_a_model_with_all(wire: Wire) -> None:
    assert store(wire, *ALL) == b"OK"
    meta = wire.ask("AI.MODELGET", "m", "META")
    more = [b"maxqueue", 9, b"timeout", 8, b"minbatchtimeout_us", 1500, b"cache", 7, b"priority", b"high"]
    assert meta[14:] == [b"minbatchtimeout", 2, *more]
    assert wire.ask("AI.MODELGET", "m") == [*meta, b"blob", models.onnx_add()]
    full = wire.ask("AI.MODELGET", "m", "FULL")
    assert (full[16::2][:2], full[20:]) == ([b"input_details", b"output_details"], meta[16:])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("MAXQUEUE -1", "Invalid argument for MAXQUEUE"),
        ("MAXQUEUE x", "Invalid argument for MAXQUEUE"),
        ("MAXQUEUE 1.5", "Invalid argument for MAXQUEUE"),
        ("MAXQUEUE 9223372036854775808", "Invalid argument for MAXQUEUE"),
        ("TIMEOUT -1", "Invalid argument for TIMEOUT"),
        ("CACHE -1", "Invalid argument for CACHE"),
        ("CACHE 1mb", "Invalid argument for CACHE"),
        ("TIMEOUT 0.5", "Invalid argument for TIMEOUT"),
        ("BATCHSIZE 4 MINBATCHSIZE 2 MINBATCHTIMEOUT -0.5", "Invalid argument for MINBATCHTIMEOUT"),
        ("BATCHSIZE 4 MINBATCHSIZE 2 MINBATCHTIMEOUT nan", "Invalid argument for MINBATCHTIMEOUT"),
        ("BATCHSIZE 4 MINBATCHSIZE 2 MINBATCHTIMEOUT inf", "Invalid argument for MINBATCHTIMEOUT"),
        ("BATCHSIZE 4 MINBATCHSIZE 2 MINBATCHTIMEOUT 1e300", "Invalid argument for MINBATCHTIMEOUT"),
        ("BATCHSIZE 4 MINBATCHTIMEOUT 0.5", "MINBATCHTIMEOUT specified without MINBATCHSIZE"),
        ("MINBATCHSIZE 4", "MINBATCHSIZE specified without BATCHSIZE"),
        ("PRIORITY", "Invalid argument for PRIORITY: low, normal or high is needed"),
        ("PRIORITY 2", "Invalid argument for PRIORITY: low, normal or high is needed"),
        ("PRIORITY lower", "Invalid argument for PRIORITY: low, normal or high is needed"),
    ],
)
@pytest.mark.parametrize("command", ["AI.MODELSTORE", "AI.MODELCONFIG"])
def test_errors(wire: Wire, command: str, words: str, error: str) -> None:
    if command == "AI.MODELSTORE":
        assert store(wire, *words.split()) == f"ERR {error}"
        assert wire.ask("EXISTS", "m") == 0
    else:
        assert store(wire) == b"OK"
        assert wire.ask(command, "m", "TIMEOUT", 3, *words.split()) == f"ERR {error}"
        assert limits(wire) == {}, "all or none"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("m", "wrong number of arguments for 'AI.MODELCONFIG' command"),
        ("m TIMEOUT", "wrong number of arguments for 'AI.MODELCONFIG' command"),
        ("m TIMEOUT 3 MAXQUEUE", "Invalid argument for MAXQUEUE"),
        ("m TAG t", "Invalid argument: TAG"),
        ("none TIMEOUT 3", "model key is empty"),
    ],
)
def test_errors_of_modelconfig(wire: Wire, words: str, error: str) -> None:
    assert store(wire) == b"OK"
    reply = wire.ask("AI.MODELCONFIG", *words.split())
    assert isinstance(reply, Error) and reply.endswith(error)
    wire.ask("SET", "text", "x")
    assert wire.ask("AI.MODELCONFIG", "text", "TIMEOUT", 3).startswith("WRONGTYPE ")


def test_minima_in_any_order(wire: Wire) -> None:
    assert store(wire) == b"OK"
    wire.ask_ok("AI.MODELCONFIG", "m", "MINBATCHTIMEOUT", 2, "MINBATCHSIZE", 3, "BATCHSIZE", 4)
    wire.ask_ok("AI.MODELCONFIG", "m", "BATCHSIZE", 0)
    assert limits(wire) == {"minbatchsize": 3, "minbatchtimeout": 2}
    wire.ask_ok("AI.MODELCONFIG", "m", "TIMEOUT", 5)
    assert limits(wire) == {"minbatchsize": 3, "minbatchtimeout": 2, "timeout": 5}


@pytest.mark.parametrize("way", ["COPY", "DUMP"])
def test_copies(wire: Wire, way: str) -> None:
    assert store(wire, *ALL) == b"OK"
    if way == "COPY":
        assert wire.ask("COPY", "m", "n") == 1
    else:
        assert wire.ask("RESTORE", "n", 0, wire.ask("DUMP", "m")) == b"OK"
    assert wire.ask("AI.MODELGET", "n") == wire.ask("AI.MODELGET", "m")
    assert wire.ask("DUMP", "n") == wire.ask("DUMP", "m")
    assert wire.ask("DEBUG", "DIGEST-VALUE", "n") == wire.ask("DEBUG", "DIGEST-VALUE", "m")
    wire.ask_ok("AI.MODELCONFIG", "m", "MAXQUEUE", 10)
    assert limits(wire, "n")["maxqueue"] == (10 if way == "COPY" else 9)


@pytest.mark.parametrize("inside", ["", "MULTI", "EVAL"])
def test_watchers_and_subscribers_are_told(server: Server, wire: Wire, inside: str) -> None:
    assert store(wire) == b"OK"
    wire.ask_ok("CONFIG", "SET", "notify-keyspace-events", "Kd")
    words = ("AI.MODELCONFIG", "m", "MAXQUEUE", 3)
    with server.wire() as other:
        other.ask("PSUBSCRIBE", "__keyspace@0__:m")
        wire.ask_ok("WATCH", "m")
        with server.wire() as changer:
            if inside == "MULTI":
                assert [changer.ask(*each) for each in (("MULTI",), words, ("EXEC",))][2] == [b"OK"]
            elif inside == "EVAL":
                assert changer.ask("EVAL", "return redis.call(unpack(ARGV))", 0, *words) == b"OK"
            else:
                changer.ask_ok(*words)
        assert other.read()[3] == b"ai.modelconfig"
        assert [wire.ask(*each) for each in (("MULTI",), ("PING",), ("EXEC",))][2] is None
    wire.ask_ok("CONFIG", "SET", "notify-keyspace-events", "")


def test_who_may(wire: Wire, login: Login) -> None:
    assert store(wire) == b"OK"
    with login("+@all", "%R~m") as reader:
        assert reader.ask("AI.MODELCONFIG", "m", "MAXQUEUE", 3).startswith("NOPERM ")
    with login("+@all", "~m") as owner:
        owner.ask_ok("AI.MODELCONFIG", "m", "MAXQUEUE", 3)


def test_a_replica_has_the_same(start_server: StartServer) -> None:
    master, replica = start_server("--repl-diskless-sync-delay", "0"), start_server()
    with master.wire() as wire, replica.wire() as reader:
        assert store(wire, "MAXQUEUE", 5, key="old") == b"OK"
        follow(replica, master)
        assert store(wire, "BATCHSIZE", 8) == b"OK"
        wire.ask_ok("AI.MODELCONFIG", "m", "MINBATCHSIZE", 2, "MINBATCHTIMEOUT", 0.5, "TIMEOUT", 100)
        wire.ask_ok("AI.MODELCONFIG", "old", "MAXQUEUE", 6, "PRIORITY", "low")
        assert store(wire, "PRIORITY", "high", key="new") == b"OK"
        assert isinstance(wire.ask("AI.MODELCONFIG", "m", "MINBATCHSIZE", -1), Error)
        caught_up(wire)
        for key in "m", "old", "new":
            wait_for(lambda key=key: wire.ask("AI.MODELGET", key) == reader.ask("AI.MODELGET", key))  # type: ignore[misc]
        assert limits(reader, "old") == {"maxqueue": 6, "priority": b"low"}
        assert limits(reader, "new") == {"priority": b"high"}
        assert reader.ask("AI.MODELCONFIG", "m", "MAXQUEUE", 1).startswith("READONLY ")


# ---- TIMEOUT ---------------------------------------------------------------------------------------------------------


def test_timeout_of_the_model(wire: Wire, slow: Slow) -> None:
    """Runs that say none have it; those of a DAG do not."""
    run = slow(wire, 0.1)
    wire.ask_ok("AI.MODELCONFIG", "slow", "TIMEOUT", 20)
    reply, seconds = wire.timed(*run)
    assert reply == b"TIMEDOUT" and seconds > 0.018
    assert wire.ask("AI.MODELRUN", "slow", "INPUTS", "slow:n", "OUTPUTS", "slow:out") == b"TIMEDOUT"
    assert wire.ask(*run, "TIMEOUT", 60_000) == b"OK"
    assert wire.ask("AI.DAGEXECUTE", "LOAD", 1, "slow:n", "|>", *run) == [b"OK"]
    wire.ask_ok("AI.MODELCONFIG", "slow", "TIMEOUT", MOST)
    wire.ask_ok(*run)
    wire.ask_ok("AI.MODELCONFIG", "slow", "TIMEOUT", 0)
    wire.ask_ok(*run)
    assert full_ai_info(wire, "slow")["refused"] == 0
