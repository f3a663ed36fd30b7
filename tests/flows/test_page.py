"""docs/flows.md: its programs and sessions give what the page says."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import pytest

from testkit.server import Server
from testkit.waiting import wait_for
from tests.flows.programs import Programs
from tests.tools.test_docs import ask, blocks, cli, session


def test_page(programs: Programs, real_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = real_server
    monkeypatch.chdir(tmp_path)
    asked = 0
    page = blocks("docs/flows.md")
    for (language, text), (_, following) in zip(page, [*page[1:], ("", "")], strict=True):
        if language == "python":
            name = re.match(r"# (\w+\.py)\n", text)
            Path(name[1] if name else "program.py").write_text(
                text.replace("redis.Redis()", f"redis.Redis(port={server.port})")
            )
            if not name:
                runpy.run_path("program.py", run_name="__main__")  # a file, because TorchScript reads its source
        elif language == "sh" and text.startswith("redis-cli"):
            words = text.replace("redis-cli", f"{cli()} -p {server.port}", 1)
            printed = following if following.startswith("1) ") else "OK\n"
            assert subprocess.check_output(words, shell=True, text=True, timeout=60).strip() == printed.strip(), text
        for command, reply in session(text):
            if command.startswith("HGET"):  # the flow runs beside the client
                wait_for(lambda: ask(server, command) == reply, what=command)  # noqa: B023
            assert ask(server, command) == reply, command
            asked += 1
    assert asked >= 6
