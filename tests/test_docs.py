"""The sessions printed in README.md and docs/ answer what is printed, and the program between them stores its model."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from server import Client, Server

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/commands.md", "docs/configuration.md")
PROMPT = "127.0.0.1:6379> "


def blocks(page: str, language: str = "") -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def sessions(page: str) -> list[tuple[str, str]]:
    """Command and reply pairs of a page, in order."""
    pairs = []
    for block in blocks(page):
        if block.startswith(PROMPT):
            for part in block.split(PROMPT)[1:]:
                command, _, reply = part.partition("\n")
                pairs.append((command, reply.rstrip("\n")))
    return pairs


def ask(server: Server, command: str) -> str:
    cli = shutil.which("redis-cli") or shutil.which("valkey-cli")
    assert cli
    words = [cli, "--no-raw", "-p", str(server.port)]
    answer = subprocess.run(words, input=command, capture_output=True, text=True, timeout=60, check=True)
    return answer.stdout.rstrip("\n")


@pytest.mark.parametrize("page", [page for page in PAGES if sessions(page)])
def test_sessions(server: Server, r: Client, page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (program,) = blocks("README.md", "python")
    monkeypatch.setattr("redis.Redis", lambda: r)
    (tmp_path / "program.py").write_text(program)  # TorchScript reads its source
    runpy.run_path(str(tmp_path / "program.py"), run_name="__main__")
    for command, reply in sessions(page):
        assert ask(server, command) == reply, command


def test_there_are_sessions() -> None:
    assert len(sessions("README.md")) >= 6
    assert len(sessions("docs/commands.md")) >= 15
