"""Which words of a command are keys: COMMAND GETKEYS, ACL rules, cluster slots."""

from __future__ import annotations

import pytest

from testkit import models
from testkit.metadata import keys_of
from testkit.server import Server
from testkit.users import USER, Login
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.conftest import StartServer

GETKEYS: list[tuple[str, str]] = [
    ("AI.TENSORSET t FLOAT 1", "t"),
    ("AI.TENSORSET t FLOAT 2 VALUES 1 2", "t"),
    ("AI.TENSORSET t FLOAT 2 VALUES FROM LIST l", "t"),
    ("AI.TENSORSET t FLOAT * FROM HASH h FIELDS 2 a b DEFAULT x", "t"),
    ("AI.HASHSET h f t", "h t"),
    ("AI.HASHSET h f t as blob g u h AS as number", "h t u AS"),
    ("AI.TENSORGET t META", "t"),
    ("AI.MODELSTORE m ONNX CPU BLOB x", "m"),
    ("AI.MODELSTORE m TF CPU TAG t INPUTS 1 a OUTPUTS 1 b BLOB x", "m"),
    ("AI.MODELSET m TF CPU INPUTS a OUTPUTS b BLOB x", "m"),
    ("AI.MODELGET m META", "m"),
    ("AI.MODELDEL m", "m"),
    ("AI.INFO m RESETSTAT", "m"),
    ("AI.MODELEXECUTE m INPUTS 1 a OUTPUTS 1 b", "m a b"),
    ("AI.MODELEXECUTE m INPUTS 3 a b c OUTPUTS 2 d e", "m a b c d e"),
    ("ai.modelexecute m inputs 1 a outputs 1 b timeout 5", "m a b"),
    ("AI.MODELEXECUTE m INPUTS 1 a OUTPUTS 1 b TIMEOUT 5", "m a b"),
    ("AI.MODELEXECUTE m INPUTS 2 OUTPUTS b OUTPUTS 1 INPUTS TIMEOUT 5", "m OUTPUTS b INPUTS"),
    ("AI.MODELEXECUTE m INPUTS 1 OUTPUTS OUTPUTS 1 OUTPUTS", "m OUTPUTS"),
    ("AI.MODELEXECUTE INPUTS INPUTS 1 INPUTS OUTPUTS 1 TIMEOUT TIMEOUT 5", "INPUTS TIMEOUT"),
    ("AI.MODELEXECUTE OUTPUTS INPUTS 2 1 2 OUTPUTS 2 3 4", "OUTPUTS 1 2 3 4"),
    ("AI.MODELEXECUTE m INPUTS 4 OUTPUTS 1 x y OUTPUTS 1 z", "m OUTPUTS 1 x y z"),
    ("AI.MODELEXECUTE m INPUTS 1 a OUTPUTS 1 a", "m a"),
    ("AI.MODELRUN m INPUTS a OUTPUTS b", "m a b"),
    ("AI.MODELRUN m INPUTS a b c OUTPUTS d e", "m a b c d e"),
    ("ai.modelrun m timeout 5 inputs a outputs b", "m a b"),
    ("AI.MODELRUN m TIMEOUT 5 INPUTS a b OUTPUTS c d", "m a b c d"),
    ("AI.MODELRUN INPUTS INPUTS a OUTPUTS b", "INPUTS a b"),
    ("AI.MODELRUN OUTPUTS INPUTS a OUTPUTS b", "OUTPUTS a b"),
    ("AI.MODELRUN TIMEOUT TIMEOUT 5 INPUTS INPUTS OUTPUTS TIMEOUT", "TIMEOUT INPUTS"),
]


@pytest.mark.parametrize(("line", "keys"), GETKEYS)
def test_getkeys(wire: Wire, line: str, keys: str) -> None:
    assert keys_of(wire, line) == set(keys.split())


@pytest.mark.parametrize(
    "line",
    [
        "AI.MODELEXECUTE m INPUTS x a OUTPUTS 1 b",
        "AI.MODELEXECUTE m INPUTS 100 a OUTPUTS 1 b",
        "AI.MODELEXECUTE m INPUTS 9223372036854775807 a OUTPUTS 1 b",
        "AI.MODELEXECUTE m INPUTS -5 a OUTPUTS 1 b",
        "AI.MODELEXECUTE m INPUTS 1 a OUTPUTS 99999999999 b",
        "AI.MODELEXECUTE m FOO 1 a BAR 1 b",
        "AI.MODELEXECUTE m INPUTS 1 a OUTPUTS 1",
        "AI.MODELRUN m INPUTS",
        "AI.MODELRUN m OUTPUTS INPUTS",
        "AI.MODELRUN m TIMEOUT",
        "AI.MODELRUN m FOO BAR",
        "AI.TENSORSET m FLOAT * FROM HASHES 9 h",
        "AI.TENSORSET m FLOAT * FROM HASHES 9223372036854775807 h FIELDS",
        "AI.TENSORSET m FLOAT FROM FROM",
        "AI.HASHSET m f t g",
        "AI.HASHSET m f t AS",
    ],
)
def test_getkeys_of_what_is_malformed(wire: Wire, line: str) -> None:
    """An error or the keys that can be told, the model's among them; never more than there are words."""
    found = wire.ask("COMMAND", "GETKEYS", *line.split())
    if not isinstance(found, Error):
        assert b"m" in found
        assert {key.decode() for key in found} <= set(line.split())
    assert wire.ask("PING") == b"PONG"


@pytest.fixture
def user(wire: Wire, login: Login) -> Wire:
    wire.ask("AI.MODELSTORE", "my:m", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask("COPY", "my:m", "other:m")
    wire.ask("AI.TENSORSET", "my:x", "FLOAT", 1, 2)
    wire.ask("COPY", "my:x", "other:x")
    return login("+@all", "-@admin", "~my:*")


# A command, and the first element of its reply, or the reply.
ALLOWED = {
    "AI.TENSORSET my:t FLOAT 1": b"OK",
    "AI.TENSORGET my:x": b"dtype",
    "AI.MODELGET my:m META": b"backend",
    "AI.INFO my:m": b"key",
    "AI.MODELEXECUTE my:m INPUTS 2 my:x my:x OUTPUTS 1 my:y": b"OK",
    "AI.MODELRUN my:m INPUTS my:x my:x OUTPUTS my:y": b"OK",
}
DENIED = [
    "AI.TENSORSET other:t FLOAT 1",
    "AI.TENSORGET other:x",
    "AI.MODELGET other:m META",
    "AI.MODELDEL other:m",
    "AI.MODELSTORE other:n ONNX CPU BLOB x",
    "AI.MODELSET other:n ONNX CPU BLOB x",
    "AI.INFO other:m",
    "AI.MODELEXECUTE other:m INPUTS 2 my:x my:x OUTPUTS 1 my:y",
    "AI.MODELEXECUTE my:m INPUTS 2 other:x my:x OUTPUTS 1 my:y",
    "AI.MODELEXECUTE my:m INPUTS 2 my:x other:x OUTPUTS 1 my:y",
    "AI.MODELEXECUTE my:m INPUTS 2 my:x my:x OUTPUTS 1 other:y",
    "AI.MODELRUN other:m INPUTS my:x my:x OUTPUTS my:y",
    "AI.MODELRUN my:m INPUTS my:x other:x OUTPUTS my:y",
    "AI.MODELRUN my:m TIMEOUT 1000 INPUTS my:x my:x OUTPUTS other:y",
]


@pytest.mark.parametrize("line", ALLOWED)
def test_acl_allows(user: Wire, line: str) -> None:
    reply = user.ask(*line.split())
    assert (reply[0] if isinstance(reply, list) else reply) == ALLOWED[line]


@pytest.mark.parametrize("line", DENIED)
def test_acl_denies(user: Wire, wire: Wire, line: str) -> None:
    reply = user.ask(*line.split())
    assert isinstance(reply, Error)
    assert reply.startswith("NOPERM ")
    assert wire.ask("EXISTS", "my:y", "other:y") == 0


def test_acl_config_is_for_administrators(user: Wire, wire: Wire) -> None:
    wire.ask("ACL", "SETUSER", USER, "-@admin")
    assert user.ask("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE").startswith("NOPERM ")
    assert wire.ask("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE") == 535822336


def test_acl_reading_and_writing_are_told_apart(server: Server, wire: Wire, user: Wire) -> None:
    wire.ask("ACL", "SETUSER", USER, "resetkeys", "%R~my:*", "%W~out:*")
    assert user.ask("AI.TENSORGET", "my:x", "META") == [b"dtype", b"FLOAT", b"shape", [1, 2]]
    assert user.ask("AI.TENSORSET", "my:x", "FLOAT", 1).startswith("NOPERM ")
    assert user.ask("AI.TENSORSET", "out:x", "FLOAT", 1) == b"OK"
    assert user.ask("AI.TENSORGET", "out:x").startswith("NOPERM ")
    assert user.ask("AI.MODELEXECUTE", "my:m", "INPUTS", 2, "my:x", "my:x", "OUTPUTS", 1, "out:y") == b"OK"
    assert user.ask("AI.MODELEXECUTE", "my:m", "INPUTS", 2, "my:x", "my:x", "OUTPUTS", 1, "my:y").startswith("NOPERM ")
    assert user.ask("AI.MODELRUN", "my:m", "INPUTS", "my:x", "my:x", "OUTPUTS", "out:y") == b"OK"
    assert user.ask("AI.MODELRUN", "my:m", "INPUTS", "my:x", "out:x", "OUTPUTS", "out:y").startswith("NOPERM ")


def test_cluster(start_server: StartServer) -> None:
    server = start_server("--cluster-enabled", "yes")
    with server.wire() as wire:
        assert wire.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383) == b"OK"
        wait_for(lambda: b"cluster_state:ok" in wire.ask("CLUSTER", "INFO"), 20)
        assert wire.ask("AI.MODELSTORE", "m{1}", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
        assert wire.ask("AI.TENSORSET", "x{1}", "FLOAT", 1, 2, "VALUES", 1, 2) == b"OK"
        run: list[Word] = ["AI.MODELEXECUTE", "m{1}", "INPUTS", 2, "x{1}", "x{1}", "OUTPUTS", 1]
        assert wire.ask(*run, "y{1}") == b"OK"
        assert wire.ask("AI.TENSORGET", "y{1}", "VALUES") == [b"2", b"4"]
        assert wire.ask(*run, "y{2}").startswith("CROSSSLOT ")
        assert wire.ask("AI.MODELRUN", "m{1}", "INPUTS", "x{1}", "x{2}", "OUTPUTS", "y{1}").startswith("CROSSSLOT ")
        assert wire.ask("AI.MODELEXECUTE", "m{2}", *run[2:], "y{1}").startswith("CROSSSLOT ")
