"""The commands of scripts as COMMAND tells them: keys, flags, arguments; and ACL rules that follow from them."""

from __future__ import annotations

import pytest

from testkit import scripts
from testkit.metadata import (
    COMMANDS,
    check_arity,
    check_docs,
    check_first_key,
    check_flags,
    check_keywords,
    docs,
    keys_of,
)
from testkit.server import Server
from testkit.users import Login
from testkit.wire import Error, Wire

GETKEYS: list[tuple[str, str]] = [
    ("AI.SCRIPTSTORE s CPU ENTRY_POINTS 1 f SOURCE x", "s"),
    ("AI.SCRIPTSTORE s CPU TAG t ENTRY_POINTS 2 KEYS g SOURCE x", "s"),
    ("AI.SCRIPTSET s CPU TAG t SOURCE x", "s"),
    ("AI.SCRIPTGET s META SOURCE", "s"),
    ("AI.SCRIPTDEL s", "s"),
    ("AI.INFO s", "s"),
    ("AI.SCRIPTEXECUTE s f KEYS 1 k", "s k"),
    ("AI.SCRIPTEXECUTE s f INPUTS 1 a", "s a"),
    ("AI.SCRIPTEXECUTE s f KEYS 2 k l INPUTS 2 a b ARGS 2 x y OUTPUTS 2 c d TIMEOUT 5", "s k l a b c d"),
    ("ai.scriptexecute s f keys 2 k l inputs 2 a b args 2 x y outputs 2 c d timeout 5", "s k l a b c d"),
    ("AI.SCRIPTEXECUTE s f INPUTS 2 a b OUTPUTS 1 c ARGS 1 x KEYS 1 k", "s a b c k"),
    ("AI.SCRIPTEXECUTE s f INPUTS 1 a OUTPUTS 1 a", "s a"),
    ("AI.SCRIPTEXECUTE s f KEYS 3 INPUTS ARGS OUTPUTS INPUTS 1 KEYS ARGS 1 OUTPUTS", "s INPUTS ARGS OUTPUTS KEYS"),
    ("AI.SCRIPTEXECUTE KEYS INPUTS KEYS 1 TIMEOUT ARGS 2 1 k OUTPUTS 1 y", "KEYS TIMEOUT y"),
    ("AI.SCRIPTEXECUTE s KEYS INPUTS 1 a ARGS 4 OUTPUTS 1 x y OUTPUTS 1 z", "s a z"),
    ("AI.SCRIPTRUN s f INPUTS a b OUTPUTS c d", "s a b c d"),
    ("ai.scriptrun s f inputs a outputs b", "s a b"),
    ("AI.SCRIPTRUN s f TIMEOUT 5 INPUTS a b OUTPUTS c", "s a b c"),
    ("AI.SCRIPTRUN s f INPUTS a $ b c OUTPUTS d", "s a b c d"),
    ("AI.SCRIPTRUN s f INPUTS $ a OUTPUTS b", "s a b"),
    ("AI.SCRIPTRUN s f INPUTS a", "s a"),
    ("AI.SCRIPTRUN INPUTS f INPUTS a OUTPUTS b", "INPUTS a b"),
]


@pytest.mark.parametrize(("line", "keys"), GETKEYS)
def test_getkeys(wire: Wire, line: str, keys: str) -> None:
    assert keys_of(wire, line) == set(keys.split())


@pytest.mark.parametrize(
    "line",
    [
        "AI.SCRIPTEXECUTE s f KEYS",
        "AI.SCRIPTEXECUTE s f KEYS x k",
        "AI.SCRIPTEXECUTE s f KEYS 100 k",
        "AI.SCRIPTEXECUTE s f INPUTS 9223372036854775807 a OUTPUTS 1 b",
        "AI.SCRIPTEXECUTE s f INPUTS -5 a OUTPUTS 1 b",
        "AI.SCRIPTEXECUTE s f INPUTS 1 a OUTPUTS 99999999999 b",
        "AI.SCRIPTEXECUTE s f ARGS 4294967297 a",
        "AI.SCRIPTEXECUTE s f FOO",
        "AI.SCRIPTEXECUTE s f",
        "AI.SCRIPTRUN s f INPUTS",
        "AI.SCRIPTRUN s f",
        "AI.SCRIPTRUN s f INPUTS $",
        "AI.SCRIPTRUN s f INPUTS $ $ $ OUTPUTS",
        "AI.SCRIPTRUN s f TIMEOUT",
        "AI.SCRIPTRUN s INPUTS a OUTPUTS b",
    ],
)
def test_getkeys_of_what_is_malformed(wire: Wire, line: str) -> None:
    """An error or the keys that can be told, the script's among them; never more than there are words."""
    found = wire.ask("COMMAND", "GETKEYS", *line.split())
    if not isinstance(found, Error):
        assert b"s" in found
        assert {key.decode() for key in found} <= set(line.split())
    assert wire.ask("PING") == b"PONG"


NAMES = [name for name in COMMANDS if "SCRIPT" in name]


@pytest.mark.parametrize("name", NAMES)
def test_flags_and_arity(wire: Wire, name: str) -> None:
    check_flags(wire, name)
    check_arity(wire, name)


@pytest.mark.parametrize("name", NAMES)
def test_docs(server: Server, name: str) -> None:
    check_docs(server, name)
    check_keywords(server, name)


def test_arguments_that_are_keys_name_their_specification(server: Server) -> None:
    found = docs(server, "AI.SCRIPTEXECUTE")[b"arguments"]
    flat = found + [inner for argument in found for inner in argument.get(b"arguments", [])]
    keys = [(argument[b"name"], argument[b"key_spec_index"]) for argument in flat if argument[b"type"] == b"key"]
    assert keys == [(b"key", 0), (b"key", 1), (b"input", 2), (b"output", 3)]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "AI._SCRIPTSCAN"])
def test_key_specs_are_declared(wire: Wire, name: str) -> None:
    check_first_key(wire, name)


# ---- ACL rules -------------------------------------------------------------------------------------------------------


@pytest.fixture
def user(wire: Wire, login: Login) -> Wire:
    scripts.store_plain(wire, "my:s")
    scripts.store_old(wire, "my:old")
    wire.ask("COPY", "my:s", "other:s")
    wire.ask("AI.TENSORSET", "my:x", "FLOAT", 1, "VALUES", 2)
    wire.ask("COPY", "my:x", "other:x")
    return login("+@all", "-@admin", "~my:*")


@pytest.mark.parametrize(
    ("line", "first"),
    [
        ("AI.SCRIPTGET my:s META", b"device"),
        ("AI.INFO my:s", b"key"),
        ("AI.SCRIPTEXECUTE my:s add INPUTS 2 my:x my:x OUTPUTS 1 my:y", b"OK"),
        ("AI.SCRIPTEXECUTE my:s count KEYS 1 my:k ARGS 1 other:x OUTPUTS 1 my:y", b"OK"),
        ("AI.SCRIPTRUN my:old addn INPUTS my:x $ my:x my:x OUTPUTS my:y", b"OK"),
        ("AI.SCRIPTDEL my:s", b"OK"),
    ],
)
def test_acl_allows(user: Wire, line: str, first: bytes) -> None:
    """first: the reply, or its first element."""
    reply = user.ask(*line.split())
    assert (reply[0] if isinstance(reply, list) else reply) == first


@pytest.mark.parametrize(
    "line",
    [
        "AI.SCRIPTGET other:s META",
        "AI.SCRIPTDEL other:s",
        "AI.INFO other:s",
        "AI.SCRIPTSTORE other:t CPU ENTRY_POINTS 1 f SOURCE x",
        "AI.SCRIPTSET other:t CPU SOURCE x",
        "AI.SCRIPTEXECUTE other:s add INPUTS 2 my:x my:x OUTPUTS 1 my:y",
        "AI.SCRIPTEXECUTE my:s add INPUTS 2 my:x other:x OUTPUTS 1 my:y",
        "AI.SCRIPTEXECUTE my:s add INPUTS 2 my:x my:x OUTPUTS 1 other:y",
        "AI.SCRIPTEXECUTE my:s count KEYS 1 other:k OUTPUTS 1 my:y",
        "AI.SCRIPTEXECUTE my:s count INPUTS 1 my:x ARGS 1 a KEYS 2 my:k other:k OUTPUTS 1 my:y",
        "AI.SCRIPTRUN my:old addn INPUTS my:x $ my:x other:x OUTPUTS my:y",
        "AI.SCRIPTRUN my:old addn INPUTS other:x $ my:x OUTPUTS my:y",
        "AI.SCRIPTRUN my:old addn TIMEOUT 1000 INPUTS my:x $ my:x OUTPUTS other:y",
    ],
)
def test_acl_denies(user: Wire, wire: Wire, line: str) -> None:
    reply = user.ask(*line.split())
    assert isinstance(reply, Error)
    assert reply.startswith("NOPERM ")
    assert wire.ask("EXISTS", "my:y", "other:y", "other:t") == 0
