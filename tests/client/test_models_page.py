"""docs/models.md: every program on the page runs as it is printed, against a real server, and so do its commands.

Each program compares what it gets with the framework's own predictions. It is written to a file, because TorchScript
reads its source.
"""

from __future__ import annotations

import os
import re
import runpy
import subprocess
from pathlib import Path

import pytest

from testkit import tf_models, vision
from testkit.server import Server
from tests.tools.test_docs import ROOT, blocks, cli

PAGE = "docs/models.md"


def programs() -> list[tuple[str, str]]:
    """The section and the text of each program, in order."""
    sections = (ROOT / PAGE).read_text().split("\n## ")
    pairs = [(section.partition("\n")[0], section) for section in sections]
    return [(name, text) for name, section in pairs for text in re.findall(r"```python\n(.*?)```", section, re.DOTALL)]


@pytest.fixture(scope="module", autouse=True)
def _torchvision(tmp_path_factory: pytest.TempPathFactory) -> None:
    """transformers imports it where it is installed."""
    vision.make_stand_ins(tmp_path_factory.mktemp("stand-ins"))


@pytest.mark.parametrize(("section", "program"), programs(), ids=[name for name, _ in programs()])
def test_program(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, program: str) -> None:
    tf_models.tensorflow()  # quietly
    monkeypatch.chdir(tmp_path)
    Path("program.py").write_text(program.replace("redis.Redis()", f"redis.Redis(port={server.port})"))
    runpy.run_path("program.py", run_name="__main__")


def test_commands(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    writing = next(text for _, text in programs() if '"iris.onnx"' in text)
    exec(writing, {})
    installing, commands = (text for language, text in blocks(PAGE) if language == "sh")
    assert installing == 'pip install ".[onnx,torch,tf,tflite,client]"\n'
    words = commands.replace("redis-cli", f"{cli()} -p {server.port}")
    done = subprocess.run(["bash", "-ec", words], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.stdout.split() == ["OK", "OK", "OK", "0"], done


def test_there_is_a_program_for_each_row_of_the_table() -> None:
    table = (ROOT / PAGE).read_text().partition("| from |")[2].partition("\n\n")[0]
    sections = {re.sub(r"[^\w-]", "", name.lower().replace(" ", "-")) for name, _ in programs()}
    assert set(re.findall(r"\(#([\w-]+)\)", table)) <= sections
