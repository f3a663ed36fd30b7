"""The ACL category @ai, where the server takes new categories: all commands of the module."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from testkit.metadata import COMMANDS
from testkit.server import module_path
from testkit.users import Login
from testkit.wire import Error, Wire
from tests.conftest import StartServer

DEPLOY = ("ai.modelstore", "ai.modelset", "ai.scriptstore", "ai.scriptset")
PAGE = Path(__file__).resolve().parents[2] / "docs/security.md"


@pytest.fixture
def has_category(wire: Wire) -> None:
    if b"ai" not in wire.ask("ACL", "CAT"):
        pytest.skip("this server takes no new ACL categories: Redis 7.4 and Valkey 8 are the first that do")


def is_refused(reply: object) -> bool:
    return isinstance(reply, Error) and reply.startswith("NOPERM ")


@pytest.mark.usefixtures("has_category")
def test_it_has_all_commands(wire: Wire) -> None:
    assert {name.decode().upper() for name in wire.ask("ACL", "CAT", "ai")} == set(COMMANDS)
    for name in COMMANDS:
        assert b"@ai" in wire.ask("COMMAND", "INFO", name)[0][6], name


@pytest.mark.usefixtures("has_category")
def test_it_can_be_given_and_taken(login: Login) -> None:
    user = login("~*", "+@ai")
    assert user.ask("AI.TENSORSET", "t", "FLOAT", 1) == b"OK"
    assert is_refused(user.ask("GET", "t"))
    user = login("~*", "+@all", "-@ai")
    assert is_refused(user.ask("AI.TENSORGET", "t"))
    assert user.ask("DEL", "t") == 1


@pytest.fixture(params=["named", "category"])
def application(request: pytest.FixtureRequest, login: Login) -> Wire:
    """The users that docs/security.md gives to applications."""
    rules = re.findall(r"^ACL SETUSER app on >password (.*)$", PAGE.read_text(), re.MULTILINE)
    assert len(rules) == 2
    if request.param == "category":
        request.getfixturevalue("has_category")
    return login(*rules[request.param == "category"].split())


def test_an_application_may_run_and_not_deploy(application: Wire) -> None:
    ask = application.ask
    assert ask("PING") == b"PONG"
    assert ask("AI.TENSORSET", "app:t", "FLOAT", 1) == b"OK"
    assert ask("AI.MODELEXECUTE", "app:m", "INPUTS", 1, "app:t", "OUTPUTS", 1, "app:u") == "ERR model key is empty"
    assert is_refused(ask("GET", "app:t"))
    for command in (*DEPLOY, "ai.config"):
        script = ("CPU", "ENTRY_POINTS", 1, "f", "SOURCE", "s")  # of enough words for AI.SCRIPTSTORE
        words = script if command == "ai.scriptstore" else ("ONNX", "CPU", "BLOB", "b")
        assert is_refused(ask(command, "app:m", *words)), command


def test_together_with_others(login: Login, wire: Wire) -> None:
    if b"AI.CONFIG" not in wire.ask("ACL", "CAT", "admin"):
        pytest.skip("this server has no ACL categories for commands of modules: Redis 7.2 is the first that has")
    user = login("~*", "+@admin")
    assert user.ask("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE") == 535822336
    assert is_refused(user.ask("AI.TENSORSET", "t", "FLOAT", 1))


@pytest.mark.usefixtures("has_category")
def test_a_user_of_redis_conf(start_server: StartServer, tmp_path: Path) -> None:
    """Users are read when the module is there."""
    config = tmp_path / "redis.conf"
    config.write_text(f"user caller on nopass ~* +@ai\nloadmodule {module_path()}\n")
    with start_server("--include", str(config), module=None).wire() as wire:
        assert wire.ask("AUTH", "caller", "any") == b"OK"
        assert wire.ask("AI.TENSORSET", "t", "FLOAT", 1) == b"OK"
        assert is_refused(wire.ask("GET", "t"))
