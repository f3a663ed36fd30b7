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


