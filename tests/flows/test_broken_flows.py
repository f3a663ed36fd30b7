"""Flows that break the process again and again: an administrator gets them out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testkit.isolation import ADD, Pings, python_backend, store_add
from testkit.server import module_path
from testkit.waiting import wait_for
from tests.conftest import StartServer
from tests.flows.kit import FLOWS
from tests.flows.programs import Programs
from tests.flows.test_sessions import answers, sessions
from tests.flows.test_streams import start_anew

HASTE = "REDISAI_FLOWS_HASTE"  # how many times faster the server's times of waiting pass
STREAM = "GB('StreamReader').foreach(lambda x: execute('RPUSH', 'out', x['id'])).register('s')"


@contextmanager
def hasty(start_server: StartServer, monkeypatch: pytest.MonkeyPatch, folder: Path, haste: int) -> Iterator[Programs]:
    """Flows whose server waits so many times shorter. They must not disturb its other clients."""
    monkeypatch.setenv(HASTE, str(haste))
    server = start_server(options=FLOWS, module=module_path())
    pings = Pings(server, folder / "pings")
    with Programs(server) as programs, pings.quick():
        yield programs
    pings.stop()


def test_a_flow_that_ends_the_process_at_each_start(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All flows rest, and go on by themselves."""
    with hasty(start_server, monkeypatch, tmp_path, 12) as programs:
        programs.register(answers("fine"), "ID", "good")
        programs.register(STREAM, "ID", "stream")
        programs.execute("if execute('GET', 'bad'): __import__('os')._exit(3)\n" + answers("bad", "bad"), "ID", "bad")
        programs.ask("SET", "bad", "1")
        programs.register("import os\nGB('CommandReader').map(lambda x: os._exit(3)).register(trigger='end')")
        programs.trigger("end")
        programs.until_logged("flows rest for a minute")
        since = time.monotonic()
        programs.ask("XADD", "s", "1-1", "n", "1")
        assert "flows rest" in programs.trigger("t")
        assert programs.registrations() == []
        found = sessions(programs)
        assert "flows rest" in found["bad"]["error"]
        (name,) = found["bad"]["registrations"]
        assert programs.ask("RG.UNREGISTER", name) == b"OK"
        assert "bad" not in sessions(programs)
        assert programs.figures()["deaths"] == "3"
        assert programs.figures()["registered"] == "3"
        assert programs.ask("EXISTS", "out") == 0
        programs.until("LRANGE", "out", 0, -1, is_=[b"1-1"])
        assert 3 < time.monotonic() - since < 8, "it has rested for 5 s"
        assert programs.trigger("t") == [b"fine"]
        assert len(programs.registrations()) == 3
        assert programs.figures()["deaths"] == "3"


def test_code_that_keeps_the_process(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A regular expression for ages: no other thread runs. The process is ended after 30 s, here 1.5; flows go on."""
    with (
        hasty(start_server, monkeypatch, tmp_path, 20) as programs,
        programs.server.wire() as first,
        programs.server.wire() as second,
    ):
        programs.register(answers("fine"))
        programs.register(STREAM)
        programs.register(
            "import re\ndef f(x):\n  execute('SET', 'begun', '1')\n  re.match('(a+)+$', 'a' * 60 + 'b')\n"
            "GB('CommandReader').map(f).register(trigger='stuck')"
        )
        first.send("RG.TRIGGER", "stuck")
        programs.until("GET", "begun", is_=b"1")
        since = time.monotonic()
        programs.ask("XADD", "s", "1-1", "n", "1")
        while (reply := second.ask("RG.TRIGGER", "t")) == [b"fine"]:
            assert time.monotonic() < since + 5, "it goes on beside the expression"
        assert time.monotonic() > since + 1, "it may be busy for less"
        assert reply == first.read() == "ERR the flow process ended: it has taken no message for 30 s"
        assert programs.trigger("t") == [b"fine"]
        programs.until("LRANGE", "out", 0, -1, is_=[b"1-1"])
        assert "flows: the flow process ended: it has taken no message for 30 s" in programs.server.log()
        figures = programs.figures()
        assert (figures["deaths"], figures["last_death"]) == ("1", "it has taken no message for 30 s")


CHURN = (
    ADD
    + b"""
import os, threading
def churn():
    while True:
        for number in range(2_000):
            os.environ[f"CHURN{number}"] = "x"
        for number in range(2_000):
            del os.environ[f"CHURN{number}"]
threading.Thread(target=churn, daemon=True).start()
"""
)


def test_a_library_that_changes_the_environment(start_server: StartServer, tmp_path: Path) -> None:
    """setenv() moves the server's variables, also while the flow process is being started with them."""
    server = start_server(options=[*FLOWS, "BACKENDSPATH", str(python_backend(tmp_path))], module=module_path())
    with Programs(server) as programs:
        programs.register(answers("fine"))
        store_add(programs.wire, blob=CHURN)
        for _ in range(10):
            start_anew(programs)
        assert programs.trigger("t") == [b"fine"]
        assert programs.figures()["deaths"] == "0", server.log_tail()


SAVE = """
import gc
from flows.server import Control
control = next(each for each in gc.get_objects() if isinstance(each, Control))
control.say("RG._FLOW", "no text", "x")
control.say("RG._FLOW", "no id", '{"user": "default", "db": 0, "code": "", "description": null, "requirements": [],'
            '"registrations": {"0": {"id": 7.5, "group": null}}}')
import os
os._exit(1)
"""


def test_sessions_that_do_not_run(start_server: StartServer) -> None:
    """Those that cannot be read, or register nothing any more, are listed and can be removed."""
    with Programs(start_server(options=FLOWS, module=module_path())) as programs:
        programs.execute("if not execute('GET', 'x'): " + answers("no"), "ID", "nothing")
        programs.ask("SET", "x", "1")
        programs.execute(SAVE)
        wait_for(lambda: len(sessions(programs)) == 3 and "nothing this time" in sessions(programs)["nothing"]["error"])
        errors = {name: row["error"] for name, row in sessions(programs).items()}
        assert "it cannot be read" in errors["no text"]
        assert "it cannot be read" in errors["no id"]
        assert programs.ask("RG.UNREGISTER", *sessions(programs)["nothing"]["registrations"]) == b"OK"
        for name in ("no text", "no id"):
            assert programs.execute("pass", "REPLACE_WITH", name) == b"OK"
        assert sessions(programs) == {}
        assert programs.figures()["registered"] == "0"
