"""Sessions: ID, UPGRADE, REPLACE_WITH, what is kept over a restart, and RG.PYDUMPSESSIONS."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.server import Server, module_path
from testkit.waiting import wait_for
from testkit.wire import Error
from tests.conftest import StartServer
from tests.flows.kit import FLOWS
from tests.flows.programs import Programs
from tests.flows.test_streams import start_anew


def answers(text: str, trigger: str = "t") -> str:
    return f"GB('CommandReader').map(lambda x: {text!r}).register(trigger={trigger!r})"


def sessions(programs: Programs) -> dict[str, dict[str, Any]]:
    rows = [programs.named(row) for row in programs.ask("RG.PYDUMPSESSIONS")]
    return {str(row["ID"]): row for row in rows}


def test_upgrade(programs: Programs) -> None:
    programs.register(answers("one"), "ID", "a", "DESCRIPTION", "first")
    assert programs.registrations()[0]["desc"] == "first"
    assert "the session 'a' exists: add UPGRADE" in programs.refused(answers("two"), "ID", "a")
    assert programs.trigger("t") == [b"one"]
    programs.register(answers("two"), "ID", "a", "UPGRADE")
    assert programs.trigger("t") == [b"two"]
    assert len(programs.registrations()) == 1
    programs.register("pass\n" + answers("new"), "ID", "b", "UPGRADE", "REPLACE_WITH", "a")
    assert programs.trigger("t") == [b"new"]
    assert list(sessions(programs)) == ["b"]
    assert "there is no session 'a'" in programs.refused(answers("x"), "REPLACE_WITH", "a")


def test_code_that_fails_leaves_nothing(programs: Programs) -> None:
    programs.register(answers("one"), "ID", "a")
    assert "ZeroDivisionError" in programs.refused(answers("two") + "\n1/0", "ID", "a", "UPGRADE")
    assert "is registered already" in programs.refused(answers("x", "u") + "\n" + answers("two"))
    assert "ValueError: no" in programs.refused(
        "def no(): raise ValueError('no')\nGB('KeysReader').register(onRegistered=no)"
    )
    assert programs.trigger("t") == [b"one"]
    assert len(programs.registrations()) == 1


def test_on_registered(programs: Programs) -> None:
    name = programs.register(
        "async def end(): execute('RPUSH', 'log', 'end')\n"
        "GB('KeysReader').register(onRegistered=lambda: execute('RPUSH', 'log', 'begin'), onUnregistered=end)"
    )
    assert programs.ask("RG.UNREGISTER", name) == b"OK"
    assert programs.ask("LRANGE", "log", 0, -1) == [b"begin", b"end"]
    assert programs.ask("RG.UNREGISTER", name) == Error(
        f"ERR there is no registration '{name}': RG.DUMPREGISTRATIONS lists them"
    )


def test_words_of_pyexecute(programs: Programs) -> None:
    assert "RG.PYEXECUTE does not know the word 'ODD'" in programs.refused("pass", "odd")
    assert "ID needs a value" in programs.refused("pass", "ID")
    assert programs.execute("pass", "id", "x", "Unblocking") == b"OK"
    assert sessions(programs) == {}


def test_requirements(programs: Programs) -> None:
    assert programs.execute(answers("fine"), "ID", "a", "REQUIREMENTS", "numpy", "hiredis>=1") == b"OK"
    rows = {row[3]: row for row in programs.ask("RG.PYDUMPREQS")}
    assert rows[b"numpy"][7] == b"yes"
    again = ("ID", "a", "UPGRADE", "FORCE_REINSTALLATION", "REQUIREMENTS", "numpy")
    assert programs.execute(answers("fine"), *again) == b"OK"  # only what is in the flows' own folder is installed anew
    assert programs.refused("pass", "REQUIREMENTS", "no such thing !").startswith("ERR ")


def test_an_upgrade_goes_on_where_it_was(programs: Programs) -> None:
    code = (
        "GB('StreamReader').foreach(lambda x: execute('RPUSH', {!r}, x['value']['n'])).register('s', trimStream=False)"
    )
    programs.register(code.format("one"), "ID", "a")
    programs.ask("XADD", "s", "*", "n", "1")
    wait_for(lambda: programs.registrations()[0]["data"]["numSuccess"] == 1)
    wait_for(lambda: b"0-0" not in programs.ask("XINFO", "GROUPS", "s")[0])
    programs.register(code.format("two"), "ID", "a", "UPGRADE")
    programs.ask("XADD", "s", "*", "n", "2")
    programs.until("LRANGE", "two", 0, -1, is_=[b"2"])
    assert len(programs.ask("XINFO", "GROUPS", "s")) == 1


GROUPS = "XINFO", "GROUPS", "s1"


@pytest.fixture
def failed(programs: Programs) -> str:
    """The code of a session 'a' that has run an entry of the stream s1, and has failed since."""
    code = "GB('StreamReader').foreach(lambda x: execute('RPUSH', 'out', x['id'])).register('s*', trimStream=False)"
    programs.register(f"if execute('GET', 'broken'): 1/0\n{code}", "ID", "a")
    programs.ask("XADD", "s1", "1-1", "n", "1")
    wait_for(lambda: any(b"1-1" in group for group in programs.ask(*GROUPS)), what="the entry has run")
    programs.ask("SET", "broken", "1")
    start_anew(programs)
    assert sessions(programs)["a"]["error"].startswith("ZeroDivisionError")
    assert len(programs.ask(*GROUPS)) == 1
    return code


def test_an_upgrade_of_failed_code_goes_on_where_it_was(programs: Programs, failed: str) -> None:
    programs.register(failed, "ID", "a", "UPGRADE")
    programs.ask("XADD", "s1", "2-1", "n", "2")
    programs.until("LRANGE", "out", 0, -1, is_=[b"1-1", b"2-1"])
    assert len(programs.ask(*GROUPS)) == 1


@pytest.mark.parametrize("how", ["upgraded", "replaced", "unregistered"])
def test_failed_code_leaves_no_groups(programs: Programs, failed: str, how: str) -> None:
    if how == "unregistered":
        assert programs.ask("RG.UNREGISTER", *sessions(programs)["a"]["registrations"]) == b"OK"
    else:
        words = ("ID", "a", "UPGRADE") if how == "upgraded" else ("REPLACE_WITH", "a")
        programs.register(answers("fine"), *words)
    assert programs.ask(*GROUPS) == []
    assert "a" not in sessions(programs) or how == "upgraded"


@pytest.mark.parametrize("by_kill", [False, True])
def test_restarts(start_server: StartServer, by_kill: bool) -> None:
    """Of the server, and of the process alone. What was unregistered stays so; positions are kept."""
    server: Server = start_server("--appendonly", "yes", options=FLOWS, module=module_path())
    with Programs(server) as programs:
        gone = programs.register(answers("gone", "gone") + "\n" + answers("one"), "ID", "a")
        gone = str(programs.registrations()[0]["id"])
        programs.register("GB('StreamReader').foreach(lambda x: execute('RPUSH', 'out', x['id'])).register('s*')")
        programs.register("if execute('GET', 'broken'): 1/0\n" + answers("late", "late"), "ID", "b")
        assert programs.ask("RG.UNREGISTER", gone) == b"OK"
        before = [(each["id"], each["reader"]) for each in programs.registrations()]
        programs.ask("XADD", "s1", "1-1", "a", "b")
        programs.until("XLEN", "s1", is_=0)
        programs.ask("SET", "broken", "1")
        if by_kill:
            assert programs.ask("DEBUG", "SLEEP", 0) == b"OK"
            import os
            import signal

            os.kill(int(programs.figures()["pid"]), signal.SIGKILL)
            wait_for(lambda: programs.figures()["deaths"] == "1")
    if not by_kill:
        server.restart()
    with Programs(server) as programs:
        assert programs.trigger("t") == [b"one"]
        assert "no flow is registered" in programs.trigger("gone")
        programs.ask("XADD", "s1", "2-1", "a", "b")
        programs.until("LRANGE", "out", 0, -1, is_=[b"1-1", b"2-1"])
        assert [(each["id"], each["reader"]) for each in programs.registrations()] == before[:2]
        assert sessions(programs)["b"]["error"].startswith("ZeroDivisionError")
        assert "the flows of the session 'b' do not run" in server.log()
        assert programs.ask("RG.UNREGISTER", before[2][0]) == b"OK"
        assert "b" not in sessions(programs)
