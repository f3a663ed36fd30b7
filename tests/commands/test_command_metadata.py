"""COMMAND INFO and COMMAND DOCS: flags, arity, summary, arguments; and the names as clients type them."""

from __future__ import annotations

import pytest

from testkit.metadata import WRITE, command_info, docs, tokens
from testkit.server import Server
from testkit.wire import Wire

COMMANDS: dict[str, set[str]] = {
    "AI.TENSORSET": WRITE,
    "AI.TENSORGET": {"readonly"},
    "AI.MODELSTORE": WRITE,
    "AI.MODELSET": WRITE,
    "AI.MODELGET": {"readonly"},
    "AI.MODELDEL": {"write"},
    "AI._MODELSCAN": {"readonly"},
    "AI.MODELEXECUTE": WRITE,
    "AI.MODELRUN": WRITE,
    "AI.INFO": {"readonly"},
    "AI.CONFIG": {"admin"},
}
KEYED = [name for name in COMMANDS if name not in ("AI._MODELSCAN", "AI.CONFIG")]


@pytest.mark.parametrize(("name", "flags"), COMMANDS.items())
def test_flags(wire: Wire, name: str, flags: set[str]) -> None:
    found = {flag.decode() for flag in command_info(wire, name)[2]}
    relevant = {"write", "denyoom", "readonly", "admin"}
    assert found & relevant == flags


@pytest.mark.parametrize("name", COMMANDS)
def test_arity_is_declared(wire: Wire, name: str) -> None:
    arity = command_info(wire, name)[1]
    exact = {"AI.MODELDEL": 2, "AI._MODELSCAN": 1}
    assert arity == exact[name] if name in exact else arity < -1
    too_few = wire.ask(name.lower(), *["x"] * (abs(arity) - 2)) if abs(arity) > 1 else wire.ask(name.lower(), "x")
    assert too_few.lower() == f"err wrong number of arguments for '{name.lower()}' command"


@pytest.mark.parametrize("name", COMMANDS)
def test_docs(server: Server, name: str) -> None:
    found = docs(server, name)
    assert len(found[b"summary"]) > 10
    assert found[b"group"] == b"module"
    assert found[b"since"]
    if name != "AI._MODELSCAN":
        assert found[b"arguments"], "redis-cli's hints come from these"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("AI.TENSORSET", b"BLOB VALUES"),
        ("AI.TENSORGET", b"META BLOB VALUES"),
        ("AI.MODELSTORE", b"TAG BATCHSIZE MINBATCHSIZE MINBATCHTIMEOUT INPUTS OUTPUTS BLOB"),
        ("AI.MODELSET", b"TAG BATCHSIZE MINBATCHSIZE MINBATCHTIMEOUT INPUTS OUTPUTS BLOB"),
        ("AI.MODELGET", b"META BLOB"),
        ("AI.MODELEXECUTE", b"INPUTS OUTPUTS TIMEOUT"),
        ("AI.MODELRUN", b"TIMEOUT INPUTS OUTPUTS"),
        ("AI.INFO", b"RESETSTAT"),
        ("AI.CONFIG", b"BACKENDSPATH LOADBACKEND MODEL_CHUNK_SIZE"),
    ],
)
def test_arguments_name_every_keyword(server: Server, name: str, words: bytes) -> None:
    assert set(words.split()) <= tokens(docs(server, name)[b"arguments"])


@pytest.mark.parametrize("name", KEYED)
def test_key_specs_are_declared(wire: Wire, name: str) -> None:
    specs = command_info(wire, name)[8]
    assert specs, "cluster clients look here"
    assert command_info(wire, name)[3] == 1, "the first key is the first argument"


def test_the_shims_own_arity_error_has_the_name_as_typed(wire: Wire) -> None:
    """AI.MODELGET takes at most META and BLOB; Redis itself checks only the fewest."""
    for name in ("AI.MODELGET", "ai.modelget", "Ai.ModelGet"):
        reply = wire.ask(name, "m", "META", "BLOB", "more", "words")
        assert reply in (f"ERR wrong number of arguments for '{name}' command", "ERR model key is empty")
