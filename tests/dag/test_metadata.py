"""COMMAND INFO and COMMAND DOCS of the four DAG commands: flags, arity, key specifications, arguments."""

from __future__ import annotations

import pytest

from testkit.metadata import WRITE, command_info, docs, tokens
from testkit.server import Server
from testkit.wire import Wire

COMMANDS = {
    "AI.DAGEXECUTE": (WRITE, b"LOAD PERSIST ROUTING TIMEOUT |>"),
    "AI.DAGEXECUTE_RO": ({"readonly"}, b"LOAD ROUTING TIMEOUT |>"),
    "AI.DAGRUN": (WRITE, b"LOAD PERSIST TIMEOUT |>"),
    "AI.DAGRUN_RO": ({"readonly"}, b"LOAD TIMEOUT |>"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_flags(wire: Wire, name: str) -> None:
    found = {flag.decode() for flag in command_info(wire, name)[2]}
    assert found & {"write", "denyoom", "readonly", "admin"} == COMMANDS[name][0]
    assert "movablekeys" in found, "cluster clients ask the server where the keys are"


@pytest.mark.parametrize("name", COMMANDS)
def test_arity_is_left_to_the_command(wire: Wire, name: str) -> None:
    """It has a text of its own for too few words."""
    assert command_info(wire, name)[1] < 0


@pytest.mark.parametrize("name", COMMANDS)
def test_key_specs_are_declared(wire: Wire, name: str) -> None:
    specs = [dict(zip(spec[::2], spec[1::2], strict=True)) for spec in command_info(wire, name)[8]]
    flags = [set(spec[b"flags"]) for spec in specs]
    assert any(b"RO" in found for found in flags)
    assert any(b"OW" in found or b"RW" in found for found in flags) == (COMMANDS[name][0] == WRITE)
    assert command_info(wire, name)[3] == 0, "what comes first may be LOAD, PERSIST, ROUTING or none"


@pytest.mark.parametrize("name", COMMANDS)
def test_docs(server: Server, name: str) -> None:
    found = docs(server, name)
    assert len(found[b"summary"]) > 10
    assert found[b"group"] == b"module"
    assert found[b"since"]
    named = tokens(found[b"arguments"])
    wanted = set(COMMANDS[name][1].split())
    assert wanted <= named
    assert not {b"LOAD", b"PERSIST", b"ROUTING"} & (named - wanted)
