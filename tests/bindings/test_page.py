"""docs/bindings.md: its program and sessions give what the page says, once the bindings have done their work."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from testkit.server import Server
from tests.bindings.kit import settle
from tests.tools.test_docs import ask, blocks, session


def test_page(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    replies = 0
    for language, text in blocks("docs/bindings.md"):
        if language == "python":
            Path("program.py").write_text(text.replace("redis.Redis()", f"redis.Redis(port={server.port})"))
            runpy.run_path("program.py", run_name="__main__")  # a file, because TorchScript reads its source
        for command, reply in session(text):
            with server.wire() as wire:
                settle(wire)
            given = ask(server, command)
            if command.startswith("XREVRANGE"):  # the time of the result
                given = re.sub(r'^1\) 1\) "\d+-\d+"', '1) 1) "1-1"', given)
            assert given == reply, command
            replies += 1
    assert replies >= 9
