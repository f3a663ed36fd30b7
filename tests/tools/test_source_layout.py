"""src/ keeps the shape that docs/architecture.md draws."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for path in (ROOT / "src").rglob("*.*") if path.suffix in (".c", ".cpp", ".h"))
MAX_LINES = 19530
MAX_FUNCTION_LINES = 60


def check_includes(src: Path) -> str:
    """What scripts/includes finds wrong."""
    return subprocess.run([ROOT / "scripts/includes", src], capture_output=True, text=True, timeout=60).stderr


def test_includes_point_one_way() -> None:
    assert check_includes(ROOT / "src") == ""


@pytest.mark.parametrize(
    ("file", "include", "found"),
    [
        ("values/model.c", "commands/execute.h", "values may not include commands"),
        ("redis/command.c", "values/tensor.h", "redis may not include values"),
        ("direct/direct.c", "commands/tensor.h", "direct may not include commands"),
        ("run/state.h", "run/queue.h", "a circle of includes"),
    ],
)
def test_a_wrong_include_is_found(tmp_path: Path, file: str, include: str, found: str) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    path = tmp_path / "src" / file
    path.write_text(f'#include "{include}"\n' + path.read_text())
    assert found in check_includes(tmp_path / "src")


def test_the_path_of_a_request_exists() -> None:
    """The table names functions that are in the files it names."""
    text = (ROOT / "docs/architecture.md").read_text()
    section = text.partition("## AI.MODELEXECUTE from the socket to the reply")[2].partition("\n## ")[0]
    rows = re.findall(r"^\|[^|]*\|[^|]*\| `([\w/.]+)` \| (.*) \|$", section, re.MULTILINE)
    assert len(rows) > 10
    for file, functions in rows:
        source = (ROOT / file).read_text()
        for function in re.findall(r"`(\w+)`", functions):
            assert re.search(rf"\b{function}\b", source), (file, function)


def test_size() -> None:
    assert sum(len(path.read_text().splitlines()) for path in SOURCES) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heads_and_functions(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith(f"/* {path.name} - "), "the head says what the file owns"
    start = 0
    for number, line in enumerate(lines):
        if re.match(r"[a-zA-Z_]", line):
            start = number  # functions and structs alone begin at the margin
        elif line.startswith("}"):
            assert number - start < MAX_FUNCTION_LINES, f"line {start + 1} begins a function that is too long"
