"""Programs that users of flows write: each is given to the server as it stands, and does its work."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from testkit.waiting import wait_for
from testkit.wire import Error
from tests.flows.programs import Programs

WORD_COUNT = """
GearsBuilder() \\
    .flatmap(lambda record: record["value"].split()) \\
    .map(str.lower) \\
    .countby() \\
    .map(lambda found: f"{found['value']} {found['key']}") \\
    .run("line:*")
"""

# As many calls of each user in a window of seconds; the next are refused.
RATE_LIMITER = """
CALLS, SECONDS = 3, 60

def is_allowed(words):
    key = f"calls:{words[1]}"
    with atomic():
        calls = execute("INCR", key)
        if calls == 1:
            execute("EXPIRE", key, SECONDS)
    return "yes" if calls <= CALLS else "no"

GB("CommandReader").map(is_allowed).register(trigger="Allowed")
"""

# Each change of a hash goes to a stream, and from there, in order, into a file of lines.
WRITE_BEHIND = """
import json

def note(record):
    fields = json.dumps(record["value"])
    execute("XADD", "changes", "*", "key", record["key"], "event", record["event"], "fields", fields)

def write(records):
    with open(FILE, "a") as file:
        for record in records:
            file.write(json.dumps(record["value"]) + "\\n")

GB("KeysReader").foreach(note).register("person:*", eventTypes=["hset", "del"], mode="sync")

behind = GB("StreamReader").aggregate([], lambda lines, record: lines + [record], lambda some, more: some + more)
behind.foreach(write).register("changes", batch=10, duration=50)
"""

EXPIRED = """
def note(record):
    execute("RPUSH", "expired", record["key"])
    execute("HINCRBY", "audit", record["event"], 1)

GB("KeysReader", desc="which sessions have expired").foreach(note).register("session:*", eventTypes=["expired"])
"""

# Readings of a sensor become a hash of the last one and of the sum.
STREAM_TO_HASH = """
async def keep(record):
    value = record["value"]
    key = "sensor:" + record["key"].partition(":")[2]
    execute("HSET", key, "last", value["degrees"], "at", record["id"])
    execute("HINCRBYFLOAT", key, "sum", value["degrees"])

GB("StreamReader").filter(lambda record: "degrees" in record["value"]).foreach(keep).register("readings:*")
"""


def test_word_count(programs: Programs) -> None:
    wire = programs.wire
    for number, line in enumerate(("The quick brown fox", "the lazy dog", "THE end")):
        wire.ask_ok("SET", f"line:{number}", line)
    results, errors = wire.ask("RG.PYEXECUTE", WORD_COUNT)
    assert sorted(results) == sorted(f"{3 if word == 'the' else 1} {word}".encode()
                                     for word in ("the", "quick", "brown", "fox", "lazy", "dog", "end"))  # fmt: skip
    assert errors == []


def test_rate_limiter(programs: Programs) -> None:
    wire = programs.wire
    wire.ask_ok("RG.PYEXECUTE", RATE_LIMITER)
    answers = [wire.ask("RG.TRIGGER", "Allowed", user) for user in ("ada", "ada", "bob", "ada", "ada", "bob")]
    assert [answer[0] for answer in answers] == [b"yes", b"yes", b"yes", b"yes", b"no", b"yes"]
    assert 0 < wire.ask("TTL", "calls:ada") <= 60
    assert "IndexError" in str(wire.ask("RG.TRIGGER", "Allowed"))
    assert isinstance(wire.ask("RG.TRIGGER", "allowed", "ada"), Error)


def test_write_behind(programs: Programs, tmp_path: Path) -> None:
    wire = programs.wire
    file = tmp_path / "changes"
    wire.ask_ok("RG.PYEXECUTE", f"FILE = {str(file)!r}\n{WRITE_BEHIND}")
    for number in range(95):
        wire.ask("HSET", f"person:{number}", "name", f"n{number}")
    wire.ask("DEL", "person:7")

    def lines() -> list[dict[str, str]]:
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    wait_for(lambda: len(lines()) == 96, 10, "all changes are in the file")
    assert [line["key"] for line in lines()] == [*(f"person:{number}" for number in range(95)), "person:7"]
    assert json.loads(lines()[3]["fields"]) == {"name": "n3"}
    assert lines()[-1] == {"key": "person:7", "event": "del", "fields": "null"}
    wait_for(lambda: wire.ask("XLEN", "changes") == 0, 10, "what is written has left the stream")


def test_audit_of_expired_keys(programs: Programs) -> None:
    wire = programs.wire
    wire.ask_ok("RG.PYEXECUTE", EXPIRED)
    for number in range(20):
        wire.ask_ok("SET", f"session:{number}", "x", "PX", 1 + number)
    wire.ask_ok("SET", "other:1", "x", "PX", 1)
    wait_for(lambda: wire.ask("LLEN", "expired") == 20, 10, "all sessions have expired")
    assert sorted(wire.ask("LRANGE", "expired", 0, -1)) == sorted(f"session:{n}".encode() for n in range(20))
    assert wire.ask("HGETALL", "audit") == [b"expired", b"20"]


def test_stream_to_hash(programs: Programs) -> None:
    wire = programs.wire
    wire.ask_ok("RG.PYEXECUTE", STREAM_TO_HASH)
    ids = {}
    for degrees, room in itertools.product(range(10), ("hall", "attic")):
        ids[room] = wire.ask("XADD", f"readings:{room}", "*", "degrees", degrees)
        wire.ask("XADD", f"readings:{room}", "*", "humidity", degrees)
    for room in ids:
        programs.until("HGET", f"sensor:{room}", "sum", is_=b"45")
        assert wire.ask("HMGET", f"sensor:{room}", "last", "at") == [b"9", ids[room]]
