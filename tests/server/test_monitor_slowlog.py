"""What operators see: MONITOR, SLOWLOG, latency, statistics of commands and errors, keyspace events, CLIENT LIST."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from testkit import models, samples, scripts
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.conftest import Slow

SECRET = "not-for-everybody"


@pytest.fixture
def watched(server: Server, wire: Wire) -> Iterator[Wire]:
    """All statistics are new, everything is slow."""
    wire.ask("CONFIG", "SET", "slowlog-log-slower-than", 0)
    wire.ask("CONFIG", "RESETSTAT")
    yield wire
    for name, value in (
        ("slowlog-log-slower-than", 10000),
        ("latency-monitor-threshold", 0),
        ("notify-keyspace-events", ""),
    ):
        assert wire.ask("CONFIG", "SET", name, value) == b"OK"


def statistics(wire: Wire, command: str) -> dict[str, float]:
    found = re.search(rf"cmdstat_{command}:(.*)\r".encode(), wire.ask("INFO", "commandstats"), re.IGNORECASE)
    if found is None:
        return {}
    return {name: float(value) for name, value in (pair.split("=") for pair in found[1].decode().split(","))}


def slow_entries(wire: Wire, command: str) -> list[tuple[float, list[bytes], bytes]]:
    """Seconds, words and client's name of the slow log's entries of a command, the newest first."""
    entries = wire.ask("SLOWLOG", "GET", -1)
    return [(each[2] / 1e6, each[3], each[5]) for each in entries if each[3][0].upper() == command.encode()]


def under_way(server: Server, wire: Wire, slow: Slow) -> dict[str, tuple[Word, ...]]:
    run = slow(wire, 0.15)
    scripts.store(wire, "models", scripts.MODELS, scripts.MODELS_ENTRY_POINTS)
    words = "AI.MODELEXECUTE slow INPUTS 1 slow:n OUTPUTS 1 y"
    named = scripts.execute("models", "named", ["slow"], ["slow:n"], ["slow"], ["y"])
    return {
        "AI.MODELEXECUTE": run,
        "AI.MODELRUN": ("AI.MODELRUN", "slow", "INPUTS", "slow:n", "OUTPUTS", "y"),
        "AI.DAGEXECUTE": tuple(f"AI.DAGEXECUTE LOAD 1 slow:n |> {words}".split()),
        "AI.DAGEXECUTE_RO": tuple(f"AI.DAGEXECUTE_RO LOAD 1 slow:n |> {words}".split()),
        "AI.SCRIPTEXECUTE": named,
        "AI.MODELSTORE": ("AI.MODELSTORE", "large", "ONNX", "CPU", "BLOB", models.onnx_padded(8_000_000)),
    }


def test_blocked_time_is_the_commands(server: Server, watched: Wire, slow: Slow) -> None:
    """commandstats, the latency histogram and the slow log tell how long a command took, not how long C was busy."""
    for command, words in under_way(server, watched, slow).items():
        with server.wire() as wire:
            wire.ask("CLIENT", "SETNAME", "asker")
            watched.ask("CONFIG", "RESETSTAT")
            watched.ask("SLOWLOG", "RESET")
            reply, seconds = wire.timed(*words)
        assert reply == b"OK" or reply == [b"OK"], (command, reply)
        shortest = seconds / 2
        told = statistics(watched, command)
        assert told["calls"] == 1 and told["failed_calls"] == 0
        assert shortest * 1e6 < told["usec"] < seconds * 1.1e6, (command, seconds, told)
        ((slowest, logged, name),) = slow_entries(watched, command)
        assert shortest < slowest < seconds * 1.1 and name == b"asker"
        assert logged[:2] == [str(word).encode() for word in words[:2]]
        histogram = watched.ask("LATENCY", "HISTOGRAM", command)
        assert histogram[1][1] == 1, histogram
        found = re.search(
            rf"latency_percentiles_usec_{command}:p50=([\d.]+)".encode(), watched.ask("INFO", "latencystats")
        )
        assert found and float(found[1]) > shortest * 1e6


def test_time_in_the_queue_counts(server: Server, watched: Wire, slow: Slow) -> None:
    """A run after another has waited for it, and its client with it."""
    words = slow(watched, 0.3)
    with server.wire() as one, server.wire() as two:
        one.send(*words)
        wait_for(lambda: server.blocked_clients() == 1)
        two.send("AI.MODELEXECUTE", "slow", "INPUTS", 1, "slow:n", "OUTPUTS", 1, "second")
        assert [one.read(), two.read()] == [b"OK", b"OK"]
    times = {entry[1][-1]: entry[0] for entry in slow_entries(watched, "AI.MODELEXECUTE")}
    assert times[b"second"] > times[b"slow:out"] > 0.1


def test_nobody_is_told_of_a_loop_that_was_held_up(server: Server, watched: Wire, slow: Slow) -> None:
    """LATENCY's events are those of the event loop, which no run and no compilation holds up."""
    for words in under_way(server, watched, slow).values():
        watched.ask("CONFIG", "SET", "latency-monitor-threshold", 100)
        watched.ask("LATENCY", "RESET")
        assert not isinstance(watched.ask(*words), Error)
        events = {event[0] for event in watched.ask("LATENCY", "LATEST")}
        assert not events & {b"command", b"command-unblocking"}, (words[0], events)


def test_long_arguments_are_cut_short(watched: Wire) -> None:
    data = b"\x07" * 100_000
    watched.ask("SLOWLOG", "RESET")
    assert watched.ask("AI.TENSORSET", "t", "UINT8", 100_000, "BLOB", data) == b"OK"
    ((_, words, _),) = slow_entries(watched, "AI.TENSORSET")
    assert words[:5] == [b"AI.TENSORSET", b"t", b"UINT8", b"100000", b"BLOB"]
    assert len(words[5]) < 200 and words[5].endswith(b"more bytes)")
    assert watched.ask("AI.TENSORSET", "v", "INT8", 100, "VALUES", *range(100)) == b"OK"
    ((_, words, _), _) = slow_entries(watched, "AI.TENSORSET")
    assert len(words) == 32 and words[-1].endswith(b"more arguments)")


def test_errors_and_timeouts_are_counted(watched: Wire, slow: Slow) -> None:
    words = slow(watched, 0.5)
    watched.ask("CONFIG", "RESETSTAT")
    assert watched.ask(*words, "TIMEOUT", 20) == b"TIMEDOUT"
    assert statistics(watched, "AI.MODELEXECUTE")["calls"] == 1
    assert watched.ask(*words[:4], "no such input", *words[5:]).startswith("ERR ")
    assert watched.ask("AI.TENSORSET", "slow", "FLOAT", 1).startswith("WRONGTYPE ")
    told = watched.ask("INFO", "errorstats")
    assert b"errorstat_ERR:count=" in told and b"errorstat_WRONGTYPE:count=1" in told
    assert statistics(watched, "AI.TENSORSET")["failed_calls"] == 1
    assert statistics(watched, "AI.MODELEXECUTE")["failed_calls"] == 1


# ---- MONITOR ---------------------------------------------------------------------------------------------------------


def monitored(server: Server, wire: Wire, *commands: tuple[Word, ...]) -> list[str]:
    """What MONITOR shows while these commands are done, without the times."""
    with server.wire() as monitor:
        assert monitor.ask("MONITOR") == b"OK"
        for words in commands:
            wire.ask(*words)
        wire.ask("ECHO", "the end")
        lines: list[str] = []
        while not lines or "the end" not in lines[-1]:
            lines.append(monitor.read().decode())
    return [line.split(" ", 1)[1] for line in lines[:-1]]


def test_monitor_shows_each_command_once(server: Server, wire: Wire) -> None:
    """As it came: not what is replicated for it, and nothing of the module's own."""
    dag = "AI.DAGEXECUTE LOAD 1 x PERSIST 1 z |> AI.MODELEXECUTE m INPUTS 2 x x OUTPUTS 1 z"
    commands: list[tuple[Word, ...]] = [
        ("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2),
        ("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add()),
        ("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y"),
        tuple(dag.split()),
        ("AI.TENSORGET", "z", "VALUES"),
        ("AI._MODELSCAN",),
        ("AI.INFO", "m"),
        ("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE"),
        ("AI.MODELDEL", "m"),
    ]
    seen = monitored(server, wire, *commands)
    # AI.CONFIG is for administrators, whose commands MONITOR does not show
    wanted = [words for words in commands if words[0] != "AI.CONFIG"]
    assert [line.split('"')[1] for line in seen] == [words[0] for words in wanted], seen
    for line, words in zip(seen, wanted, strict=True):
        assert re.match(r"\[0 127\.0\.0\.1:\d+\] ", line)
        assert line.count('"') >= 2 * min(len(words), 5)


def test_monitor_shows_what_scripts_do(server: Server, wire: Wire) -> None:
    scripts.store_redis(wire, "then")
    seen = monitored(server, wire, scripts.execute("s", "then", ["a", "b"], (), ["INCR", "c"]))
    assert '"AI.SCRIPTEXECUTE" "s" "then"' in seen[0]
    assert [line.split("] ")[1] for line in seen[1:]] in (
        ['"SET" "a" "before"'],
        ['"SET" "a" "before"', '"INCR" "c"'],
    ), "the second touches a key that was not declared"


# ---- others ----------------------------------------------------------------------------------------------------------


def test_client_list_shows_who_waits(server: Server, wire: Wire, slow: Slow) -> None:
    words = slow(wire, 0.3)
    with server.wire() as runner:
        number = runner.ask("CLIENT", "ID")
        runner.send(*words)
        wait_for(lambda: server.blocked_clients() == 1)
        told = wire.ask("CLIENT", "LIST", "ID", number).decode()
        assert " cmd=ai.modelexecute " in told.lower()
        assert "flags=b" in told
        assert runner.read() == b"OK"


def test_scans_count_for_their_command(server: Server, watched: Wire) -> None:
    """AI._MODELSCAN looks at all keys, in slices: that time is its own."""
    assert watched.ask("DEBUG", "POPULATE", 300_000) == b"OK"
    watched.ask("CONFIG", "RESETSTAT")
    reply, seconds = watched.timed("AI._MODELSCAN")
    assert reply == []
    told = statistics(watched, "AI._MODELSCAN")
    assert told["usec"] > seconds * 0.5e6, (told, seconds)


def test_keyspace_events(server: Server, watched: Wire) -> None:
    """Redis tells of deletions and expiry of our keys as of any others."""
    watched.ask("CONFIG", "SET", "notify-keyspace-events", "KEA")
    with server.wire() as listener:
        assert listener.ask("PSUBSCRIBE", "__keyspace@0__:*")[0] == b"psubscribe"
        samples.store_tensor(watched, "t", samples.TENSORS["FLOAT"])
        watched.ask("RENAME", "t", "u")
        watched.ask("COPY", "u", "v")
        watched.ask("DEL", "v")
        watched.ask("SET", "last", "x")
        seen: list[tuple[bytes, bytes]] = []
        while not seen or seen[-1][0] != b"last":
            _, _, channel, event = listener.read()
            seen.append((channel.split(b":")[1], event))
    told = {event for event in seen if event[0] != b"last"}
    assert {(b"t", b"rename_from"), (b"u", b"rename_to"), (b"v", b"copy_to"), (b"v", b"del")} <= told
