"""AI.BIND's grammar and errors, and who may bind and be acted for."""

from __future__ import annotations

import pytest

from testkit.server import program
from testkit.users import USER, Login
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.bindings.kit import LINE, bind, binding, settle
from tests.conftest import StartServer

GOOD = "ON HASH PREFIX 1 k: FIELDS 1 x MODEL m SET 1 y"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("IN HASH PREFIX 1 k: FIELDS 1 x MODEL m SET 1 y", "ON is missing behind the name"),
        ("ON LIST PREFIX 1 k: FIELDS 1 x MODEL m SET 1 y", "ON needs HASH or STREAM"),
        ("ON HASH KEY 1 k: FIELDS 1 x MODEL m SET 1 y", "ON needs PREFIX or KEYS"),
        ("ON HASH PREFIX x k: FIELDS 1 x MODEL m SET 1 y", "wrong number behind PREFIX: x"),
        ("ON HASH PREFIX 99 k: FIELDS 1 x MODEL m SET 1 y", "wrong number behind PREFIX: 99"),
        ("ON HASH PREFIX 1 k: FIELD 1 x MODEL m SET 1 y", "FIELDS is missing: what the model gets"),
        ("ON HASH PREFIX 1 k: FIELDS 0 MODEL m SET 1 y a", "wrong number behind FIELDS: 0"),
        ("ON HASH PREFIX 1 k: FIELDS 1 x AS FLOTE MODEL m SET 1 y", "AS needs a type of tensors, not FLOTE"),
        (
            "ON HASH PREFIX 1 k: FIELDS 1 x AS FLOAT 0 MODEL m SET 1 y",
            "AS has a wrong dimension, or too large a row: 0",
        ),
        (
            "ON HASH PREFIX 1 k: FIELDS 1 x AS FLOAT 4294967296 4294967296 MODEL m SET 1 y",
            "AS has a wrong dimension, or too large a row: 4294967296",
        ),
        (
            "ON HASH PREFIX 1 k: FIELDS 2 x z AS FLOAT 3 MODEL m SET 1 y",
            "AS has 3 elements, and FIELDS 2 fields; one field of a number type may hold all elements as bytes",
        ),
        ("ON HASH PREFIX 1 k: FIELDS 1 x DEFAULT no MODEL m SET 1 y", "DEFAULT is no value of the type FLOAT"),
        (
            "ON HASH PREFIX 1 k: FIELDS 1 x AS FLOAT 2 DEFAULT 0 MODEL m SET 1 y",
            "DEFAULT is not for a field that holds all elements as bytes",
        ),
        ("ON HASH PREFIX 1 k: FIELDS 1 x SET 1 y MODEL m a b", "MODEL or SCRIPT is missing behind the fields"),
        ("ON HASH PREFIX 1 k: FIELDS 1 x DEFAULT 1 SCRIPT m", "a word is missing behind the script's key"),
        ("ON HASH PREFIX 1 k: FIELDS 1 x DEFAULT 1 MODEL m", "SET is missing: the fields of the results"),
        (f"{GOOD} SET 1 z", "SET comes twice"),
        ("ON HASH PREFIX 1 k: FIELDS 1 x MODEL m SET 1 y AS X", "AS needs NUMBER, TEXT, ARGMAX or BLOB"),
        ("ON HASH PREFIX 1 k: FIELDS 1 x MODEL m SET 1 y AS", "AS needs NUMBER, TEXT, ARGMAX or BLOB"),
        ("ON HASH PREFIX 1 k: FIELDS 1 x MODEL m SET 1 x", "the field 'x' is read and set; name another to set"),
        (f"{GOOD} VERSION x", "the field 'x' is read and set; name another to set"),
        (f"{GOOD} STREAM s", "unexpected argument: STREAM"),
        (f"{GOOD} USER ann", "unexpected argument: USER"),
        ("ON STREAM KEYS 1 k: FIELDS 1 x MODEL m SET 1 y", "STREAM is missing: where the results go"),
        ("ON STREAM KEYS 1 k: FIELDS 1 x MODEL m SET 1 y MAXLEN 3", "unexpected argument: MAXLEN"),
        ("ON STREAM KEYS 1 k: FIELDS 1 x MODEL m SET 1 y STREAM s MAXLEN 0", "MAXLEN is no positive number"),
        ("ON HASH PREFIX 1 k: FIELDS 1 x MODEL none SET 1 y", "model key is empty"),
    ],
)
def test_errors(wire: Wire, line: str, error: str) -> None:
    assert wire.ask("AI.BIND", "b", *line.split()) == f"ERR {error}"
    assert wire.ask("AI.BINDLIST") == []


def test_names(wire: Wire) -> None:
    assert wire.ask("AI.BIND", "b") == "ERR wrong number of arguments for 'AI.BIND' command"
    for command in ("AI.UNBIND", "AI.BINDINFO", "AI.BINDRUN"):
        assert wire.ask(command, "b") == "ERR there is no binding 'b'"
    bind(wire, GOOD)
    assert wire.ask("AI.BIND", "b", *GOOD.split()) == "ERR there is a binding 'b' already; AI.UNBIND removes it"
    told = binding(wire)
    assert told["definition"] == [word.encode() for word in GOOD.split()]
    assert (told["user"], told["db"], told["pending"], told["lag_ms"], told["last_error"]) == ("default", 0, 0, 0, "")
    assert wire.ask("AI._BOUND", "b", "k:1") == "ERR AI._BOUND is for masters and the AOF"
    wire.ask_ok("AI.UNBIND", "b")
    wire.ask("HSET", "k:1", "x", 1)
    assert wire.ask("HGET", "k:1", "y") is None


def test_older_servers_need_an_option(start_server: StartServer) -> None:
    with start_server().wire() as wire:
        error = str(wire.ask("AI.BIND", "b", *GOOD.split()))
        assert ("BINDINGS yes" in error) == (not program().since((7, 2), (7, 2)))


def test_rights_to_bind(login: Login, wire: Wire) -> None:
    """To read and change all keys of a prefix, and to read the model."""
    for rules, error in (
        (["+@all", "~k:*", "~m"], None),
        (["+@all", "~k:", "~m"], "NOPERM AI.BIND needs the right to read and change all keys that begin with 'k:'"),
        (["+@all", "%R~k:*", "~m"], "NOPERM AI.BIND needs the right to read and change all keys that begin with 'k:'"),
        (["+@all", "~k:*"], "NOPERM AI.BIND needs the right to read the key 'm'"),
    ):
        reply = login(*rules).ask("AI.BIND", "b", *GOOD.split())
        assert reply == (error or b"OK")
        wire.ask("AI.UNBIND", "b")
    assert "NOPERM" in str(login("+@all", "-ai.bind", "~*").ask("AI.BIND", "b", *GOOD.split()))
    stream = "ON STREAM KEYS 1 k: FIELDS 1 x MODEL m SET 1 y STREAM out"
    assert "'out'" in login("+@all", "~k:", "~m").ask("AI.BIND", "b", *stream.split())


def test_rights_to_act(login: Login, wire: Wire) -> None:
    """The binding acts as the user who made it, with the rights that this user has then."""
    assert login("+@all", "~k:*", "~m").ask("AI.BIND", "b", *GOOD.split()) == b"OK"
    wire.ask("HSET", "k:1", "x", 1)
    settle(wire)
    assert wire.ask("HGET", "k:1", "y") == b"3"
    for rules, error in (
        (["+@all", "~k:1", "~m"], "NOPERM the binding's user may not read and change this key"),
        (["+@all", "-hset", "~k:*", "~m"], "run this command"),
    ):
        wire.ask("ACL", "SETUSER", USER, "reset", "on", *rules)
        before = binding(wire)["errors"]
        wire.ask("HSET", "k:2", "x", 1)
        settle(wire)
        told = binding(wire)
        assert (told["errors"], told["last_error_key"]) == (before + 1, "k:2")
        assert error in told["last_error"].replace("run the 'hset'", "run this")
        assert wire.ask("HGET", "k:2", "y") is None
    wire.ask("ACL", "DELUSER", USER)
    wire.ask("HSET", "k:3", "x", 1)
    wait_for(lambda: "is gone" in binding(wire)["last_error"], what="the error")
    wire.ask("ACL", "SETUSER", USER, "on", "+@all", "~*")
    settle(wire)
    assert wire.ask("HGET", "k:3", "y") == b"3"


def test_what_a_binding_may_not_do_in_memory(wire: Wire) -> None:
    """Out of memory, results wait: nothing is lost."""
    bind(wire, f"ON HASH PREFIX 1 k: FIELDS 1 x {LINE}")
    wire.ask("HSET", "k:1", "x", 1)
    settle(wire)
    wire.ask("MULTI")
    wire.ask("HSET", "k:2", "x", 1)
    wire.ask("CONFIG", "SET", "maxmemory", 1)
    wire.ask("EXEC")
    try:
        wait_for(lambda: "OOM" in binding(wire)["last_error"], what="the error")
    finally:
        wire.ask("CONFIG", "SET", "maxmemory", 0)
    settle(wire)
    assert wire.ask("HGET", "k:2", "y") == b"3"
