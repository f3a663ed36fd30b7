"""The sessions printed in README.md and docs/ answer what is printed, and the programs between them run.

Every page has the model that the first program of docs/commands.md stores. A block of Python that begins with a file's
name is written to that file, for the shell command after it that reads it.
"""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from examples import digits
from testkit.server import Client, Server

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/commands.md", "docs/configuration.md", "docs/operations.md", "docs/scripts.md")
PROMPT = "127.0.0.1:6379> "


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of a page's blocks, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def page_blocks(page: str, section: str, language: str) -> list[str]:
    """The blocks of one language below a heading, in order."""
    text = re.split(r"^#+ ", (ROOT / page).read_text(), flags=re.MULTILINE)
    (found,) = (part for part in text if part.startswith(f"{section}\n"))
    return re.findall(rf"^```{language}\n(.*?)^```$", found, re.MULTILINE | re.DOTALL)


def clients_program(section: str, number: int = 0) -> str:
    return page_blocks("docs/clients.md", section, "python")[number]


def session(block: str) -> list[tuple[str, str]]:
    """Command and reply pairs, in order."""
    if not block.startswith(PROMPT):
        return []
    parts = [part.partition("\n") for part in block.split(PROMPT)[1:]]
    return [(command, reply.rstrip("\n")) for command, _, reply in parts]


def sessions(page: str) -> list[tuple[str, str]]:
    return [pair for language, text in blocks(page) if not language for pair in session(text)]


def cli() -> str:
    found = shutil.which("redis-cli") or shutil.which("valkey-cli")
    assert found
    return found


def ask(server: Server, command: str) -> str:
    words = [cli(), "--no-raw", "-p", str(server.port)]
    answer = subprocess.run(words, input=command, capture_output=True, text=True, timeout=60, check=True)
    return answer.stdout.rstrip()  # compilers' messages may end with spaces, which no page shows


def program(page: str) -> str:
    return next(text for language, text in blocks(page) if language == "python")


def test_five_minutes(r: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = digits.to_onnx(digits.train())
    r.execute_command("AI.MODELSTORE", "digits", "ONNX", "CPU", "BLOB", model)
    monkeypatch.setattr("redis.Redis", lambda: r)
    exec(program("README.md"), {})
    assert f"It prints `{capsys.readouterr().out.strip()}`." in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", [page for page in PAGES if sessions(page)])
def test_sessions(server: Server, r: Client, page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("redis.Redis", lambda: r)
    r.execute_command("LATENCY", "RESET")  # other tests have left events on this server
    (tmp_path / "program.py").write_text(program("docs/commands.md"))  # TorchScript reads its source
    runpy.run_path(str(tmp_path / "program.py"), run_name="__main__")
    for language, text in blocks(page):
        if language == "python" and (name := re.match(r"# (\w+\.py)\n", text)):
            (tmp_path / name[1]).write_text(text)
        elif language == "sh" and (name := re.search(r" < (\w+\.py)\n$", text)) and (tmp_path / name[1]).exists():
            words = text.replace("redis-cli", f"{cli()} -p {server.port}", 1)
            assert subprocess.check_output(words, shell=True, cwd=tmp_path, text=True, timeout=60) == "OK\n", text
        elif not language:
            for command, reply in session(text):
                assert ask(server, command) == reply, command


def test_files_that_readers_write() -> None:
    """In the checkout they are no changes: git ignores them."""
    pages = ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
    code = "".join(text for page in pages for language, text in blocks(page) if language in ("python", "sh"))
    names = sorted(set(re.findall(r"(?<![\w./-])[\w-]+\.(?:npz|onnx|pt|py)\b", code)))
    assert {"predict.py", "greet.py", "weather.py", "copy.onnx", "copy.pt"} <= set(names)
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is no checkout of git")
    asked = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert asked.stdout.split() == names, asked.stderr


def test_there_are_sessions() -> None:
    assert len(sessions("docs/commands.md")) >= 25
    assert len(sessions("docs/scripts.md")) >= 25
