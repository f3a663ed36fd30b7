"""What the server's own check of keys does not cover: resetting statistics takes the right to write, and the lists of
models and scripts have only what the caller may read."""

from __future__ import annotations

import pytest

from testkit import models, scripts
from testkit.users import Login
from testkit.wire import Error, Wire

RESET = ("AI.INFO", "app:m", "RESETSTAT")
REFUSED = "NOPERM AI.INFO RESETSTAT needs the right to write the key"


@pytest.fixture
def stored(wire: Wire) -> Wire:
    for prefix in "app", "other":
        wire.ask_ok("AI.MODELSTORE", f"{prefix}:m", "ONNX", "CPU", "TAG", "v1", "BLOB", models.onnx_add())
        wire.ask_ok("AI.SCRIPTSET", f"{prefix}:s", "CPU", "TAG", "v2", "SOURCE", scripts.OLD)
    wire.ask_ok("AI.TENSORSET", "app:x", "FLOAT", 1, 2)
    wire.ask_ok("AI.MODELEXECUTE", "app:m", "INPUTS", 2, "app:x", "app:x", "OUTPUTS", 1, "app:y")
    return wire


def calls(wire: Wire) -> int:
    found = wire.ask("AI.INFO", "app:m")
    return int(dict(zip(found[::2], found[1::2], strict=True))[b"calls"])


def test_who_only_reads_resets_nothing(login: Login, stored: Wire) -> None:
    user = login("+@all", "%R~app:*")
    assert user.ask(*RESET) == Error(REFUSED)
    assert user.ask("EVAL", "return redis.pcall(unpack(ARGV))", 0, *RESET) == Error(REFUSED)
    user.ask("MULTI")
    user.ask(*RESET)
    assert user.ask("EXEC") == [Error(REFUSED)]
    assert calls(user) == 1


def test_who_writes_resets(login: Login, stored: Wire) -> None:
    assert login("+@all", "%R~*", "%W~app:*").ask(*RESET) == b"OK"
    assert calls(stored) == 0
    assert stored.ask("AI.INFO", "other:m", "RESETSTAT") == b"OK"  # the default user


LISTS = {
    "all": (("+@all", "~*"), [b"app", b"other"]),
    "some": (("+@all", "%R~app:*"), [b"app"]),
    "written only": (("+@all", "%W~*"), []),
    "none": (("+@all",), []),
}


@pytest.mark.parametrize(("rules", "prefixes"), LISTS.values(), ids=LISTS)
def test_lists(login: Login, stored: Wire, rules: tuple[str, ...], prefixes: list[bytes]) -> None:
    user = login(*rules)
    for command, name, tag in ("AI._MODELSCAN", b":m", b"v1"), ("AI._SCRIPTSCAN", b":s", b"v2"):
        expected = [[prefix + name, tag] for prefix in prefixes]
        assert sorted(user.ask(command)) == expected
        assert sorted(user.ask("EVAL", f"return redis.call('{command}')", 0)) == expected
        user.ask("MULTI")
        user.ask(command)
        assert [sorted(found) for found in user.ask("EXEC")] == [expected]


def test_lists_in_scripts(login: Login, stored: Wire) -> None:
    """A script's commands run as the user who called it."""
    scripts.store_redis(stored, "nested", key="app:redis")
    user = login("+@all", "~app:*")
    words = scripts.execute("app:redis", "nested", ["app:k"], (), ["AI._MODELSCAN"], ["app:out"])
    assert user.ask(*words) == b"OK"
    told = bytes(stored.ask("AI.TENSORGET", "app:out", "BLOB"))
    assert b"app:m" in told and b"other:m" not in told
