"""AI.SCRIPTSTORE, SCRIPTSET, SCRIPTGET, SCRIPTDEL, _SCRIPTSCAN: what is kept and given back."""

from __future__ import annotations

import pytest

from testkit import scripts
from testkit.scripts import FUNCTIONS, OLD, SOURCE, execute, store_command, values
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Simple, Wire, Word

ADD = scripts.function("add", FUNCTIONS["add"])
LARGE = "\n".join(scripts.function(f"f{number}", "return tensors[0] + 1") for number in range(1500))


@pytest.mark.parametrize("protocol", [2, 3])
def test_get_meta_and_source(server: Server, protocol: int) -> None:
    meta = [b"device", b"CPU", b"tag", b"v1", b"Entry Points", [b"add", b"total"]]
    source = SOURCE.encode()
    with server.wire(protocol) as wire:
        stored = wire.ask(*store_command("s", SOURCE, ("add", "total"), tag="v1"))
        assert (type(stored), stored) == (Simple, b"OK")
        assert wire.ask("AI.SCRIPTGET", "s", "META") == meta
        assert wire.ask("AI.SCRIPTGET", "s", "SOURCE") == source
        assert wire.ask("AI.SCRIPTGET", "s", "META", "SOURCE") == [*meta, b"source", source]
        assert wire.ask("AI.SCRIPTGET", "s") == [*meta, b"source", source]
        assert wire.ask("ai.scriptget", "s", "meta", "source") == [*meta, b"source", source]
        assert wire.ask("TYPE", "s") == b"AI_SCRIPT"


def test_get_of_a_script_without_entry_points(wire: Wire) -> None:
    stored = wire.ask("AI.SCRIPTSET", "s", "CPU", "TAG", "old", "SOURCE", OLD)
    assert (type(stored), stored) == (Simple, b"OK")
    meta = [b"device", b"CPU", b"tag", b"old", b"Entry Points", []]
    assert wire.ask("AI.SCRIPTGET", "s", "META") == meta
    assert wire.ask("AI.SCRIPTGET", "s") == [*meta, b"source", OLD.encode()]
    assert wire.ask("AI.SCRIPTGET", "s", "SOURCE") == OLD.encode()


def test_words_in_lower_case(wire: Wire) -> None:
    words: list[Word] = ["ai.scriptstore", "s", "cpu", "tag", "t", "entry_points", 1, "add", "source", ADD]
    assert wire.ask(*words) == b"OK"
    assert wire.ask("ai.scriptset", "o", "cpu", "tag", "t", "source", OLD) == b"OK"
    assert wire.ask("ai.scriptget", "s", "source") == ADD.encode()
    assert sorted(wire.ask("ai._scriptscan")) == [[b"o", b"t"], [b"s", b"t"]]
    assert wire.ask("ai.scriptdel", "s") == b"OK"


@pytest.mark.parametrize("tag", [b"v1:2", b"", b"two words", b"nul\0inside", b"\xff\xfe", b"SOURCE", b"x" * 1000])
@pytest.mark.parametrize("command", ["AI.SCRIPTSTORE", "AI.SCRIPTSET"])
def test_tag(wire: Wire, command: str, tag: bytes) -> None:
    entry_points: list[Word] = ["ENTRY_POINTS", 1, "add"] if command == "AI.SCRIPTSTORE" else []
    assert wire.ask(command, "s", "CPU", "TAG", tag, *entry_points, "SOURCE", ADD) == b"OK"
    assert wire.ask("AI.SCRIPTGET", "s", "META")[3] == tag
    assert wire.ask("AI._SCRIPTSCAN") == [[b"s", tag]]


@pytest.mark.parametrize("device", ["CPU", "cpu", "Cpu", "CPU:0", "cpu:1", "CPU:12345"])
def test_device_as_given(wire: Wire, device: str) -> None:
    assert wire.ask(*store_command("s", ADD, ["add"], device)) == b"OK"
    assert wire.ask("AI.SCRIPTGET", "s", "META")[1] == device.encode()
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 21)
    assert wire.ask(*execute("s", "add", inputs=["x", "x"], outputs=["y"])) == b"OK"
    assert values(wire, "y") == [b"42"]


@pytest.mark.parametrize(
    "source",
    [
        ADD.rstrip("\n"),
        f"\n\n# a comment\n{ADD}\n\n",
        ADD.replace("\n", "\r\n"),
        f"# h\u00e9 \u2713\n{ADD}",
        LARGE + ADD,
    ],
    ids=["no last line break", "comments", "CRLF", "UTF-8", "1500 functions"],
)
def test_source_is_given_back_to_the_byte(wire: Wire, source: str) -> None:
    assert wire.ask(*store_command("s", source, ["add"])) == b"OK"
    assert wire.ask("AI.SCRIPTGET", "s", "SOURCE") == source.encode()
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 21)
    assert wire.ask(*execute("s", "add", inputs=["x", "x"], outputs=["y"])) == b"OK"
    assert values(wire, "y") == [b"42"]


def test_entry_points_are_kept_in_order(wire: Wire) -> None:
    names = list(FUNCTIONS)[::-1]
    assert wire.ask(*store_command("s", SOURCE, names)) == b"OK"
    assert wire.ask("AI.SCRIPTGET", "s", "META")[5] == [name.encode() for name in names]


def test_keys_are_binary(wire: Wire) -> None:
    key = b"\0s\r\n\xff"
    assert wire.ask(*store_command(key, ADD, ["add"])) == b"OK"
    assert wire.ask("AI._SCRIPTSCAN") == [[key, b""]]
    assert wire.ask("AI.SCRIPTGET", key, "SOURCE") == ADD.encode()
    assert wire.ask("AI.SCRIPTDEL", key) == b"OK"


def test_scan(wire: Wire) -> None:
    assert wire.ask("AI._SCRIPTSCAN") == []
    wire.ask("SET", "string", "x")
    wire.ask("AI.TENSORSET", "t", "FLOAT", 1)
    assert wire.ask(*store_command("a", ADD, ["add"], tag="first")) == b"OK"
    assert wire.ask("AI.SCRIPTSET", "b", "CPU", "SOURCE", OLD) == b"OK"
    assert sorted(wire.ask("AI._SCRIPTSCAN")) == [[b"a", b"first"], [b"b", b""]]
    assert wire.ask("AI._MODELSCAN") == []
    wire.ask("AI.SCRIPTDEL", "a")
    assert wire.ask("AI._SCRIPTSCAN") == [[b"b", b""]]


def test_delete(wire: Wire) -> None:
    assert wire.ask(*store_command("s", ADD, ["add"])) == b"OK"
    reply = wire.ask("AI.SCRIPTDEL", "s")
    assert (type(reply), reply) == (Simple, b"OK")
    assert wire.ask("EXISTS", "s") == 0
    assert wire.ask("AI.SCRIPTDEL", "s") == "ERR script key is empty"
    assert wire.ask("AI.SCRIPTGET", "s") == "ERR script key is empty"


@pytest.mark.parametrize("how", [["DEL", "s"], ["UNLINK", "s"], ["FLUSHALL"], ["RENAME", "s", "n"]])
def test_gone_by_redis_commands(wire: Wire, how: list[Word]) -> None:
    assert wire.ask(*store_command("s", ADD, ["add"])) == b"OK"
    assert wire.ask(*how) in (b"OK", 1)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1)
    assert wire.ask(*execute("s", "add", inputs=["x", "x"], outputs=["y"])) == "ERR script key is empty"


def test_rename_and_copy(wire: Wire) -> None:
    assert wire.ask(*store_command("s", ADD, ["add"], tag="t")) == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 4)
    assert wire.ask("RENAME", "s", "n") == b"OK"
    assert wire.ask("COPY", "n", "o") == 1
    assert wire.ask("COPY", "n", "s", "DB", 3) == 1
    assert wire.ask("DEL", "n") == 1
    assert wire.ask("AI.SCRIPTGET", "o", "SOURCE") == ADD.encode()
    assert wire.ask(*execute("o", "add", inputs=["x", "x"], outputs=["y"])) == b"OK"
    assert values(wire, "y") == [b"8"]


def test_storing_again_replaces(wire: Wire) -> None:
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 3)
    run = execute("s", "f", inputs=["x"], outputs=["y"])
    for number in (1, 2):
        source = scripts.function("f", f"return tensors[0] + {number}")
        assert wire.ask(*store_command("s", source, ["f"], tag=f"v{number}")) == b"OK"
        assert wire.ask(*run) == b"OK"
        assert values(wire, "y") == [b"%d" % (3 + number)]
        assert wire.ask("AI._SCRIPTSCAN") == [[b"s", b"v%d" % number]]
    assert wire.ask("AI.SCRIPTSET", "s", "CPU", "SOURCE", OLD) == b"OK"
    assert wire.ask("AI.SCRIPTGET", "s", "META")[5] == []
    assert wire.ask(*run) == "ERR Function does not exist: f"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("no script", "ERR expected def but found 'ident' here: "),
        (scripts.function("g", "return tensors[0]"), "ERR Function f does not exist in the given script."),
    ],
    ids=["broken", "without f"],
)
def test_a_refused_script_leaves_the_old_one(wire: Wire, source: str, text: str) -> None:
    assert wire.ask(*store_command("s", ADD, ["add"], tag="old")) == b"OK"
    assert wire.ask(*store_command("s", source, ["f"], tag="new")).startswith(text)
    assert wire.ask("AI.SCRIPTGET", "s") == [
        b"device", b"CPU", b"tag", b"old", b"Entry Points", [b"add"], b"source", ADD.encode(),
    ]  # fmt: skip


SETTERS: list[list[Word]] = [["SET", "k", "x"], ["AI.TENSORSET", "k", "FLOAT", 1], ["RPUSH", "k", "x"]]


@pytest.mark.parametrize("setter", SETTERS)
@pytest.mark.parametrize(
    "words",
    [["AI.SCRIPTSTORE", "k", "CPU", "ENTRY_POINTS", 1, "add", "SOURCE"], ["AI.SCRIPTSET", "k", "CPU", "SOURCE"]],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("source", ["no script at all", ADD], ids=["broken", "sound"])
def test_onto_a_key_of_another_type(wire: Wire, setter: list[Word], words: list[Word], source: str) -> None:
    wire.ask(*setter)
    before = wire.ask("TYPE", "k")
    assert wire.ask(*words, source).startswith("WRONGTYPE ")
    assert wire.ask("TYPE", "k") == before
    assert wire.ask("PING") == b"PONG"


@pytest.mark.parametrize("setter", SETTERS)
@pytest.mark.parametrize(
    "line",
    [
        "AI.SCRIPTGET k",
        "AI.SCRIPTGET k META",
        "AI.SCRIPTGET k SOURCE",
        "AI.SCRIPTDEL k",
        "AI.SCRIPTEXECUTE k add INPUTS 1 a OUTPUTS 1 b",
        "AI.SCRIPTRUN k add INPUTS a OUTPUTS b",
    ],
)
def test_a_key_of_another_type_is_no_script(wire: Wire, setter: list[Word], line: str) -> None:
    wire.ask(*setter)
    assert wire.ask(*line.split()).startswith("WRONGTYPE ")
    assert wire.ask("EXISTS", "k") == 1


@pytest.mark.parametrize(
    "line",
    [
        "AI.MODELGET s",
        "AI.MODELDEL s",
        "AI.MODELEXECUTE s INPUTS 1 a OUTPUTS 1 b",
        "AI.MODELSTORE s ONNX CPU BLOB x",
        "AI.TENSORGET s",
        "AI.TENSORSET s FLOAT 1",
    ],
)
def test_a_script_is_no_model_and_no_tensor(wire: Wire, line: str) -> None:
    assert wire.ask(*store_command("s", ADD, ["add"])) == b"OK"
    assert wire.ask(*line.split()).startswith("WRONGTYPE ")
    assert wire.ask("TYPE", "s") == b"AI_SCRIPT"


def test_a_key_that_changes_its_type_while_the_script_compiles(server: Server, wire: Wire) -> None:
    """One reply either way, and what the other client wrote is never lost without a word."""
    with server.wire() as other:
        wire.send(*store_command("k", LARGE, ["f0"]))
        assert other.ask("SET", "k", "x") == b"OK"
        reply = wire.read()
        if isinstance(reply, Error):
            assert reply.startswith("WRONGTYPE ")
            assert other.ask("GET", "k") == b"x"
        assert wire.ask("PING") == b"PONG"


def test_the_client_leaves_while_the_script_compiles(server: Server, wire: Wire) -> None:
    for _ in range(3):
        leaver = server.wire()
        leaver.send(*store_command("s", LARGE, ["f0"]))
        leaver.abort()
    assert wire.ask(*store_command("last", ADD, ["add"])) == b"OK"
    wait_for(lambda: server.blocked_clients() == 0, what="nobody waits any more")


def test_in_another_database(wire: Wire) -> None:
    wire.ask("SELECT", 3)
    assert wire.ask(*store_command("s", ADD, ["add"])) == b"OK"
    assert wire.ask("AI._SCRIPTSCAN") == [[b"s", b""]]
    wire.ask("SELECT", 0)
    assert wire.ask("AI._SCRIPTSCAN") == []
    assert wire.ask("EXISTS", "s") == 0


def test_memory_comes_back(server: Server, wire: Wire) -> None:
    source = "#" * 1_000_000 + "\n" + ADD
    assert wire.ask(*store_command("s", source, ["add"])) == b"OK"
    wire.ask("FLUSHALL")
    before = server.used_memory()
    for number in range(6):
        assert wire.ask(*store_command(f"s{number % 2}", source, ["add"])) == b"OK"
    assert len(source) <= wire.ask("MEMORY", "USAGE", "s0") <= len(source) * 1.3 + 8192
    wire.ask("AI.SCRIPTDEL", "s0")
    wire.ask("UNLINK", "s1")
    wait_for(lambda: server.used_memory() < before + (1 << 19), what="memory comes back")
