"""Flows that break the process again and again: an administrator gets them out."""

from __future__ import annotations

from testkit.server import module_path
from testkit.waiting import wait_for
from tests.conftest import StartServer
from tests.flows.kit import FLOWS
from tests.flows.programs import Programs
from tests.flows.test_sessions import answers, sessions


def test_a_flow_that_ends_the_process_at_each_start(start_server: StartServer) -> None:
    server = start_server(options=FLOWS, module=module_path())
    with Programs(server) as programs:
        programs.register(answers("fine"), "ID", "good")
        programs.execute("if execute('GET', 'bad'): __import__('os')._exit(3)\n" + answers("bad", "bad"), "ID", "bad")
        programs.ask("SET", "bad", "1")
        programs.register("import os\nGB('CommandReader').map(lambda x: os._exit(3)).register(trigger='end')")
        programs.trigger("end")
        programs.until_logged("flows rest for a minute")
        assert "flows rest" in programs.trigger("t")
        found = sessions(programs)
        assert "flows rest" in found["bad"]["error"]
        (name,) = found["bad"]["registrations"]
        assert programs.ask("RG.UNREGISTER", name) == b"OK"
        assert "bad" not in sessions(programs)
        assert programs.figures()["deaths"] == "3"
        assert programs.figures()["registered"] == "2"


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
