"""A script's commands are those of the user who called it, at the moment at which they come."""

from __future__ import annotations

import pytest

from testkit.scripts import FAILED, execute, is_denied, store_redis, values
from testkit.users import Login
from testkit.waiting import wait_for
from testkit.wire import Error, Wire


@pytest.fixture(autouse=True)
def stored(wire: Wire) -> None:
    store_redis(wire, "gone_on", "reply", "run")
    wire.ask("SET", "k", "kept")


def test_a_user_without_the_command(login: Login, wire: Wire) -> None:
    user = login("+@all", "-set", "~*")
    reply = user.ask(*execute("s", "run", ["k"], (), ["SET", "k", "changed"]))
    assert is_denied(reply)
    assert wire.ask("GET", "k") == b"kept"
    assert user.ask(*execute("s", "run", ["k"], (), ["APPEND", "k", "!"])) == b"OK"
    assert wire.ask("GET", "k") == b"kept!"
    assert wire.ask(*execute("s", "run", ["k"], (), ["SET", "k", "changed"])) == b"OK", "another user may"


@pytest.mark.parametrize("rule", ["-config|get", "-@admin", "-@dangerous"])
def test_a_user_without_administration(login: Login, wire: Wire, rule: str) -> None:
    user = login("+@all", rule, "~*")
    assert user.ask(*execute("s", "run", ["k"], (), ["CONFIG", "GET", "dir"])).startswith(FAILED)
    assert user.ask(*execute("s", "run", ["k"], (), ["ACL", "LIST"])).startswith(FAILED)


def test_a_user_without_the_key(login: Login, wire: Wire) -> None:
    user = login("+@all", "~s", "~mine*")
    assert user.ask(*execute("s", "run", ["k"], (), ["SET", "k", "changed"])).startswith("NOPERM ")
    assert user.ask(*execute("s", "run", ["mine", "k"], (), ["SET", "mine", "x"])).startswith("NOPERM ")
    assert user.ask(*execute("s", "run", ["mine"], (), ["SET", "k", "changed"])).startswith(FAILED)
    assert wire.ask("GET", "k") == b"kept"
    assert wire.ask("EXISTS", "mine") == 0
    assert user.ask(*execute("s", "run", ["mine"], (), ["SET", "mine", "x"])) == b"OK"


def test_a_user_who_may_only_read_the_key(login: Login, wire: Wire) -> None:
    user = login("+@all", "~s", "%R~k", "~out")
    for command in (["SET", "k", "changed"], ["DEL", "k"], ["APPEND", "k", "!"], ["GETSET", "k", "changed"]):
        reply = user.ask(*execute("s", "run", ["k"], (), command))
        assert isinstance(reply, Error)
        assert "NOPERM" in reply
        assert wire.ask("GET", "k") == b"kept"


def test_a_user_who_may_only_write_the_key(login: Login, wire: Wire) -> None:
    user = login("+@all", "~s", "%W~k", "~out")
    reply = user.ask(*execute("s", "reply", ["k"], (), ["GET", "k"], ["out"]))
    assert isinstance(reply, Error)
    assert "NOPERM" in reply
    assert wire.ask("EXISTS", "out") == 0


def test_a_user_without_the_scripts_key_or_command(login: Login, wire: Wire) -> None:
    user = login("+@all", "~k")
    assert user.ask(*execute("s", "run", ["k"], (), ["SET", "k", "changed"])).startswith("NOPERM ")
    user = login("+@all", "-ai.scriptexecute", "~*")
    assert user.ask(*execute("s", "run", ["k"], (), ["SET", "k", "changed"])).startswith("NOPERM ")
    assert wire.ask("GET", "k") == b"kept"


def test_publishing_to_a_channel(login: Login, wire: Wire) -> None:
    user = login("+@all", "~*", "resetchannels", "&mine")
    assert user.ask(*execute("s", "run", ["k"], (), ["PUBLISH", "mine", "x"])) == b"OK"
    assert user.ask(*execute("s", "run", ["k"], (), ["PUBLISH", "other", "x"])).startswith(FAILED)


def test_who_is_asking(login: Login, wire: Wire) -> None:
    user = login("+@all", "~*")
    words = execute("s", "reply", ["k"], (), ["ACL", "WHOAMI"], ["out"])
    reply = user.ask(*words)
    if reply == b"OK":  # Redis may refuse ACL in scripts altogether
        assert wire.ask("AI.TENSORGET", "out", "BLOB") == b"s6:caller"
    else:
        assert reply.startswith(FAILED)


def test_rules_that_change_while_the_script_runs(login: Login, wire: Wire) -> None:
    user = login("+@all", "~*")
    user.send(*execute("s", "gone_on", ["a", "b", "c"]))
    wait_for(lambda: wire.ask("GET", "a") == b"started")
    wire.ask("ACL", "SETUSER", "caller", "-set")
    wire.ask("SET", "b", "go")
    reply = user.read()
    assert isinstance(reply, Error)
    assert reply.startswith(FAILED)
    assert wire.ask("EXISTS", "c") == 0


def test_a_user_who_is_deleted_while_the_script_runs(login: Login, wire: Wire) -> None:
    user = login("+@all", "~*")
    user.send(*execute("s", "gone_on", ["a", "b", "c"]))
    wait_for(lambda: wire.ask("GET", "a") == b"started")
    assert wire.ask("ACL", "DELUSER", "caller") == 1
    wire.ask("SET", "b", "go")
    assert wire.ask(*execute("s", "run", ["k"], (), ["SET", "k", "after"])) == b"OK"  # comes after the other
    assert wire.ask("EXISTS", "c") == 0


def test_two_users_at_once(login: Login, wire: Wire) -> None:
    """Each script has its own caller's rights."""
    user = login("+@all", "-set", "~*")
    user.send(*execute("s", "run", ["x"], (), ["SET", "x", "no"]))
    wire.send(*execute("s", "run", ["y"], (), ["SET", "y", "yes"]))
    assert is_denied(user.read())
    assert wire.read() == b"OK"
    assert wire.ask("MGET", "x", "y") == [None, b"yes"]


def test_outputs_are_the_callers_too(login: Login, wire: Wire) -> None:
    user = login("+@all", "~s", "~k", "%R~out")
    reply = user.ask(*execute("s", "reply", ["k"], (), ["GET", "k"], ["out"]))
    assert reply.startswith("NOPERM ")
    assert wire.ask("EXISTS", "out") == 0
    user = login("+@all", "~s", "~k", "%W~out")
    assert user.ask(*execute("s", "reply", ["k"], (), ["GET", "k"], ["out"])) == b"OK"
    assert bytes(values(wire, "out")) == b"s4:kept"
