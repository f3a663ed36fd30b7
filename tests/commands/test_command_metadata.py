"""COMMAND INFO and COMMAND DOCS of the commands for tensors, models and the server: flags, arity, summary, arguments.

Those of scripts and DAGs are in tests/scripts and tests/dag.
"""

from __future__ import annotations

from typing import Any

import pytest

from testkit.metadata import COMMANDS, check_arity, check_docs, check_first_key, check_flags, check_keywords, docs, tree
from testkit.server import Server
from testkit.wire import Wire

NAMES = [name for name in COMMANDS if "SCRIPT" not in name and "DAG" not in name]


@pytest.mark.parametrize("name", NAMES)
def test_flags(wire: Wire, name: str) -> None:
    check_flags(wire, name)


@pytest.mark.parametrize("name", NAMES)
def test_arity_is_declared(wire: Wire, name: str) -> None:
    check_arity(wire, name)


@pytest.mark.parametrize("name", NAMES)
def test_docs(server: Server, name: str) -> None:
    check_docs(server, name)


@pytest.mark.parametrize("name", [name for name in NAMES if COMMANDS[name].keywords])
def test_arguments_name_every_keyword(server: Server, name: str) -> None:
    check_keywords(server, name)


def test_tree_of_arguments(server: Server) -> None:
    words: list[Any] = [(name.lower(), "pure-token", name, "", []) for name in ("TF", "TFLITE", "TORCH", "ONNX")]
    names: list[Any] = [("count", "integer", "", "", []), ("name", "string", "", "multiple", [])]
    timeout: tuple[Any, ...] = ("milliseconds", "integer", "MINBATCHTIMEOUT", "optional", [])
    minimum = ("minbatchsize", "block", "", "optional", [("min", "integer", "MINBATCHSIZE", "", []), timeout])
    assert tree(docs(server, "AI.MODELSTORE")[b"arguments"]) == [
        ("key", "key", "", "", []),
        ("backend", "oneof", "", "", words),
        ("device", "string", "", "", []),
        ("tag", "string", "TAG", "optional", []),
        ("batchsize", "block", "", "optional", [("max", "integer", "BATCHSIZE", "", []), minimum]),
        ("max", "integer", "MAXQUEUE", "optional", []),
        ("milliseconds", "integer", "TIMEOUT", "optional", []),
        ("priority", "string", "PRIORITY", "optional", []),
        ("bytes", "integer", "CACHE", "optional", []),
        ("warmup", "block", "WARMUP", "optional", [names[0], ("input", "string", "", "multiple", [])]),
        ("inputs", "block", "INPUTS", "optional", names),
        ("outputs", "block", "OUTPUTS", "optional", names),
        ("chunk", "string", "BLOB", "multiple", []),
    ]
    data: list[Any] = [("blob", "string", "BLOB", "", []), ("value", "string", "VALUES", "multiple", [])]
    data.append(("element", "string", "RAW", "multiple", []))
    dimension, (*given, choices) = tree(docs(server, "AI.TENSORSET")[b"arguments"])[2:]
    assert dimension == ("dimension", "integer", "", "multiple", [])
    assert given == ["data", "oneof", "", "optional"] and choices[:3] == data
    sources = [("hash", "string"), ("hashes", "block"), ("string", "string"), ("list", "string"), ("stream", "string")]
    assert [source[4][1][:2] for source in choices[3:]] == sources


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in NAMES
        if name not in ("AI._MODELSCAN", "AI.CONFIG", "AI.KILL", "AI._BOUND")
        and "BIND" not in name
        and not name.startswith("RG.")
    ],
)
def test_key_specs_are_declared(wire: Wire, name: str) -> None:
    check_first_key(wire, name)


def test_no_command_is_forgotten(wire: Wire) -> None:
    ours = {name.decode().upper() for name in wire.ask("COMMAND", "LIST", "FILTERBY", "MODULE", "ai")}
    assert ours == set(COMMANDS)


def test_the_shims_own_arity_error_has_the_name_as_typed(wire: Wire) -> None:
    """AI.MODELGET takes at most META and BLOB; Redis itself checks only the fewest."""
    for name in ("AI.MODELGET", "ai.modelget", "Ai.ModelGet"):
        reply = wire.ask(name, "m", "META", "BLOB", "more", "words")
        assert reply in (f"ERR wrong number of arguments for '{name}' command", "ERR model key is empty")
