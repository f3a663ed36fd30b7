"""Who may do what: users, strangers, and the process itself after it has lost its rights."""

from __future__ import annotations

import pytest

from testkit.users import Login
from testkit.waiting import wait_for
from testkit.wire import Wire, Word
from tests.flows.kit import Process, is_error

ADMIN = [
    ("RG.PYEXECUTE", "x"), ("RG.DUMPREGISTRATIONS",), ("RG.UNREGISTER", "i"), ("RG.GETEXECUTION", "i"),
    ("RG.DUMPEXECUTIONS",), ("RG.ABORTEXECUTION", "i"), ("RG.DROPEXECUTION", "i"), ("RG.GETRESULTS", "i"),
    ("RG.GETRESULTSBLOCKING", "i"), ("RG.PYDUMPREQS",), ("RG.PYDUMPSESSIONS",), ("RG.PYSTATS",), ("RG.INFOCLUSTER",),
    ("RG.REFRESHCLUSTER",),
]  # fmt: skip
FORBIDDEN = "NOPERM this command is for the flow process"


def test_administrators_only(flows: Process, login: Login, wire: Wire) -> None:
    user = login("+@all", "-config", "~*")
    for words in ADMIN:
        assert user.ask(*words) == f"NOPERM {words[0]} needs a user who may run CONFIG SET"
    user.send("RG.TRIGGER", "t")
    ((_, number, name, *_),) = flows.next()
    assert name == b"caller"
    flows.reply(number, ":1")
    assert user.read() == 1
    for words in ADMIN:
        wire.send(*words)
        ((_, number, _, _, command, *_),) = flows.next()
        assert command.decode() == words[0]
        flows.reply(number, "_")
        assert wire.read() is None
    assert is_error(login("+get").ask("RG.TRIGGER", "t"), "NOPERM ")


STRANGE: list[tuple[Word, ...]] = [
    ("RG._PROCESS", "CONNECT", ""),
    ("RG._PROCESS", "CONNECT", "0" * 64),
    ("RG._PROCESS", "USER", "0" * 64, "default"),
    ("RG._PROCESS", "NEXT"),
    ("RG._PROCESS", "REPLY", 1, "+x"),
    ("RG._PROCESS", "LOAD"),
    ("RG._PROCESS", "LOG", "warning", "x"),
    ("RG._PROCESS", "WATCH"),
    ("RG._PROCESS", "HOOKS", "get", ""),
    ("RG._FLOW", "i", "x"),
    ("RG._FLOW", "i"),
    ("RG._CALL", "PING"),
    ("RG._ATOMIC", 1),
]


@pytest.mark.parametrize("words", STRANGE, ids=str)
def test_strangers(flows: Process, wire: Wire, words: tuple[Word, ...]) -> None:
    assert wire.ask(*words) == FORBIDDEN


def test_without_a_password(flows: Process, wire: Wire) -> None:
    """RG._PROCESS may be sent before AUTH; it shows nothing, and the connection stays without rights."""
    wire.ask_ok("CONFIG", "SET", "requirepass", "secret")
    try:
        with flows.server.wire() as stranger:
            for words in STRANGE:
                assert stranger.ask(*words) == (
                    FORBIDDEN if words[0] != "RG._FLOW" else "NOAUTH Authentication required."
                )
            assert is_error(stranger.ask("RG._HOOKED", "GET", "k"), "NOAUTH ")
            assert is_error(stranger.ask("RG.TRIGGER", "t"), "NOAUTH ")
            assert is_error(stranger.ask("GET", "k"), "NOAUTH ")
            assert stranger.ask("RG._PROCESS", "CONNECT", flows.secret) == b"OK"
            assert stranger.ask("SET", "k", 1) == b"OK"
            with flows.user() as own:
                assert own.ask("GET", "k") == b"1"
    finally:
        wire.ask_ok("CONFIG", "SET", "requirepass", "")


@pytest.mark.parametrize("words", [("RESET",), ("AUTH", "caller", "any")], ids=str)
def test_a_connection_that_becomes_another(flows: Process, login: Login, words: tuple[Word, ...]) -> None:
    login("+@all", "~*").close()
    own = flows.user()
    assert own.ask("RG._CALL", "PING") == b"PONG"
    assert flows.do("LOAD") == []
    assert is_error(flows.control.ask("RG._CALL", "PING"), "NOPERM this connection is no user's")
    for connection in (own, flows.control):
        assert connection.ask(*words) in (b"OK", b"RESET")
        assert connection.ask("RG._CALL", "PING") == FORBIDDEN
        assert connection.ask("RG._PROCESS", "LOAD") == FORBIDDEN
    flows.control.ask_ok("RG._PROCESS", "CONNECT", flows.secret)
    assert flows.do("LOAD") == []


def test_users(flows: Process, wire: Wire, login: Login) -> None:
    login("+get", "~mine:*").close()
    with flows.server.wire() as own:
        for name in ("nobody", "", "flows"):
            assert own.ask("RG._PROCESS", "USER", flows.secret, name).startswith("ERR there is no user ")
        wire.ask_ok("ACL", "SETUSER", "caller", "off")
        assert is_error(
            own.ask("RG._PROCESS", "USER", flows.secret, "caller"), "ERR there is no user 'caller', or it is off"
        )
        wire.ask_ok("ACL", "SETUSER", "caller", "on")
        own.ask_ok("RG._PROCESS", "USER", flows.secret, "caller")
        assert own.ask("GET", "mine:k") is None
        assert is_error(own.ask("GET", "k"), "NOPERM ")
        assert is_error(own.ask("SET", "mine:k", 1), "NOPERM ")
        assert own.ask("RG._PROCESS", "LOAD") == FORBIDDEN, "it is not the control connection"
        own.ask_ok("RG._PROCESS", "USER", flows.secret, "default")
        assert own.ask("SET", "k", 1) == b"OK"
        own.ask_ok("RG._PROCESS", "USER", flows.secret, "caller")
        assert wire.ask("ACL", "DELUSER", "caller") == 1
        with pytest.raises((ConnectionError, OSError)):
            own.ask("GET", "mine:k")
    assert flows.do("LOAD") == []


def test_a_hooked_command_of_a_restricted_user(flows: Process, login: Login) -> None:
    """Hooks give no rights, and the server's own check of keys holds."""
    assert flows.do("HOOKS", "set", "", "get", "") == b"OK"
    user = login("+set", "+rg._hooked", "+multi", "+exec", "~mine:*")
    assert is_error(user.ask("SET", "k", 1), "NOPERM ")
    assert is_error(user.ask("GET", "mine:k"), "NOPERM ")
    user.send("SET", "mine:k", 1)
    ((_, number, name, *_),) = flows.next()
    assert name == b"caller"
    flows.reply(number, "+hooked")
    assert user.read() == b"hooked"
    user.ask_ok("MULTI")
    assert user.ask("GET", "mine:k") == b"QUEUED"
    assert is_error(user.ask("EXEC")[0], "NOPERM ")
    assert is_error(login("+set", "~*").ask("SET", "k", 1), "NOPERM ")


def test_what_the_log_shows(flows: Process) -> None:
    assert flows.do("LOG", "warning", "one\r\n2 * forged line\x1b") == b"OK"
    wait_for(lambda: "flows: one  2 * forged line " in flows.server.log())
    assert is_error(flows.do("LOG", "warning"), "ERR LOG ")
