"""Scripts in MULTI and Lua: running one is refused, storing, reading and deleting work."""

from __future__ import annotations

import pytest

from testkit import scripts
from testkit.scripts import OLD, execute, function, store_command, store_old, store_redis, values
from testkit.transactions import check_refused_in_lua, check_refused_in_multi, check_transaction, lua
from testkit.wire import Wire, Word
from tests.conftest import StartServer

ADD = function("add", "return tensors[0] + tensors[1]")
RUNS = ["AI.SCRIPTEXECUTE s run KEYS 1 x ARGS 3 SET x y", "AI.SCRIPTRUN old add INPUTS t t OUTPUTS y"]


@pytest.fixture
def stored(wire: Wire) -> Wire:
    store_redis(wire, "run")
    store_old(wire)
    wire.ask("AI.TENSORSET", "t", "FLOAT", 1, "VALUES", 4)
    return wire


@pytest.mark.parametrize("line", RUNS)
def test_runs_are_refused_in_multi(stored: Wire, line: str) -> None:
    check_refused_in_multi(stored, line, ("x", "y"))


@pytest.mark.parametrize("line", RUNS)
def test_runs_are_refused_in_lua(stored: Wire, line: str) -> None:
    check_refused_in_lua(stored, line, "s", ("x", "y"))


def test_the_others_work_in_multi(wire: Wire) -> None:
    wire.ask("AI.TENSORSET", "t", "FLOAT", 1, "VALUES", 4)
    commands: list[tuple[tuple[Word, ...], object]] = [
        (store_command("s", ADD, ["add"], tag="v1"), b"OK"),
        (("AI.SCRIPTGET", "s", "SOURCE"), ADD.encode()),
        (("AI.SCRIPTGET", "s", "META"), [b"device", b"CPU", b"tag", b"v1", b"Entry Points", [b"add"]]),
        (("AI._SCRIPTSCAN",), [[b"s", b"v1"]]),
        (store_command("bad", "no script", ["add"]), None),
        (store_command("bad", ADD, ["missing"]), None),
        (("AI.INFO", "s", "RESETSTAT"), b"OK"),
        (("AI.SCRIPTSET", "o", "CPU", "SOURCE", OLD), b"OK"),
        (("AI.SCRIPTDEL", "o"), b"OK"),
        (("AI.SCRIPTDEL", "o"), "ERR script key is empty"),
        (("AI.SCRIPTSET", "t", "CPU", "SOURCE", OLD), None),
    ]
    check_transaction(wire, commands)
    assert wire.ask("EXISTS", "o", "bad") == 0
    assert wire.ask(*execute("s", "add", inputs=["t", "t"], outputs=["y"])) == b"OK"
    assert values(wire, "y") == [b"8"]


def test_the_others_work_in_lua(wire: Wire) -> None:
    assert lua(wire, *store_command("s", ADD, ["add"])) == b"ok: OK"
    assert lua(wire, "AI.SCRIPTGET", "s", "SOURCE") == ADD.encode()
    assert lua(wire, "AI.SCRIPTGET", "s", "META") == [b"device", b"CPU", b"tag", b"", b"Entry Points", [b"add"]]
    assert lua(wire, "AI._SCRIPTSCAN") == [[b"s", b""]]
    bad = lua(wire, *store_command("bad", ADD, ["missing"]))
    assert isinstance(bad, bytes)
    assert bad.startswith(b"error: ERR Function missing does not exist in the given script.")
    wire.ask("AI.TENSORSET", "t", "FLOAT", 1, "VALUES", 4)
    assert wire.ask(*execute("s", "add", inputs=["t", "t"], outputs=["y"])) == b"OK"
    assert lua(wire, "AI.SCRIPTDEL", "s") == b"ok: OK"
    assert wire.ask("EXISTS", "s", "bad") == 0


def test_a_transaction_that_stores_and_replaces(wire: Wire) -> None:
    wire.ask("MULTI")
    for number in range(3):
        wire.ask(*store_command("s", function("f", f"return tensors[0] + {number}"), ["f"]))
    wire.ask("AI.SCRIPTDEL", "s")
    wire.ask(*store_command("s", function("f", "return tensors[0] + 10"), ["f"]))
    assert wire.ask("EXEC") == [b"OK"] * 5
    wire.ask("AI.TENSORSET", "t", "FLOAT", 1, "VALUES", 4)
    assert wire.ask(*execute("s", "f", inputs=["t"], outputs=["y"])) == b"OK"
    assert values(wire, "y") == [b"14"]


def test_the_first_command_of_a_server(start_server: StartServer) -> None:
    """The engine starts and the backend is imported while the transaction waits."""
    with start_server().wire() as wire:
        wire.ask("MULTI")
        wire.ask(*store_command("s", scripts.REDIS, scripts.REDIS_ENTRY_POINTS))
        assert wire.ask("EXEC") == [b"OK"]
        assert wire.ask(*execute("s", "run", ["k"], (), ["SET", "k", "x"])) == b"OK"
        assert wire.ask("GET", "k") == b"x"
