"""docs/features.md: its programs and sessions give what the page says, in order."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from testkit.server import Server
from tests.tools.test_docs import ask, blocks, session


def test_page(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    replies = 0
    for language, text in blocks("docs/features.md"):
        if language == "python":
            capsys.readouterr()
            Path("program.py").write_text(text.replace("redis.Redis()", f"redis.Redis(port={server.port})"))
            runpy.run_path("program.py", run_name="__main__")  # a file, because TorchScript reads its source
            printed = capsys.readouterr().out.strip()
            assert printed in text
        for command, reply in session(text):
            assert ask(server, command) == reply, command
            replies += 1
    assert replies > 5 and printed
