"""COMMAND INFO and COMMAND DOCS of the four DAG commands: flags, arity, key specifications, arguments."""

from __future__ import annotations

import pytest

from testkit.metadata import (
    COMMANDS,
    WRITE,
    check_docs,
    check_flags,
    check_keywords,
    command_info,
    docs,
    flags,
    tokens,
    tree,
)
from testkit.server import Server
from testkit.wire import Wire

NAMES = [name for name in COMMANDS if "DAG" in name]


@pytest.mark.parametrize("name", NAMES)
def test_flags(wire: Wire, name: str) -> None:
    check_flags(wire, name)
    assert "movablekeys" in flags(wire, name), "cluster clients ask the server where the keys are"


@pytest.mark.parametrize("name", NAMES)
def test_arity(wire: Wire, name: str) -> None:
    """AI.DAGEXECUTE has a text of its own for too few words, so it announces none."""
    assert command_info(wire, name)[1] == COMMANDS[name].arity


@pytest.mark.parametrize("name", NAMES)
def test_key_specs_are_declared(wire: Wire, name: str) -> None:
    specs = [dict(zip(spec[::2], spec[1::2], strict=True)) for spec in command_info(wire, name)[8]]
    found = [set(spec[b"flags"]) for spec in specs]
    assert any(b"RO" in each for each in found)
    assert any(b"OW" in each or b"RW" in each for each in found) == (COMMANDS[name].flags == WRITE)
    assert command_info(wire, name)[3] == 0, "what comes first may be LOAD, PERSIST, ROUTING or none"


@pytest.mark.parametrize("name", NAMES)
def test_docs(server: Server, name: str) -> None:
    check_docs(server, name)
    check_keywords(server, name)
    more = tokens(docs(server, name)[b"arguments"]) - set(COMMANDS[name].keywords.split())
    assert not {"LOAD", "PERSIST", "ROUTING"} & more


def test_the_last_argument_is_a_command(server: Server) -> None:
    last = tree(docs(server, "AI.DAGEXECUTE")[b"arguments"])[-1]
    assert last == ("command", "string", "|>", "multiple multiple_token", [])
