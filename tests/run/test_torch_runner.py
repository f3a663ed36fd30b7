"""Models and scripts of TORCH without Python: which runs are so, that both paths answer alike, and what the log and
INFO say where the runner is missing or was built for another PyTorch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit import models, scripts
from testkit.paths import both_paths, check_path
from testkit.server import Server, module_path
from testkit.wire import Error, Wire, Word
from tests.conftest import StartServer

BACKEND = module_path().parent / "backends" / "redisai_torch"
WORDS: tuple[Word, ...] = ("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
FUNCTIONS = f"""
def scaled{scripts.SIGNATURE}:
    return tensors[0] * float(args[0]) + len(keys)

def written{scripts.SIGNATURE}:
    return [tensors[0].add_(1), tensors[1]]

def counted{scripts.SIGNATURE}:
    redis.execute("INCR", keys[0])
    assert len(tensors) > 1, "too few"
    return tensors[0]

def fails{scripts.SIGNATURE}:
    return tensors[len(tensors)]
"""


def store(wire: Wire, blob: bytes) -> None:
    assert wire.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", blob) == b"OK"


def store_script(wire: Wire) -> None:
    names = ["scaled", "written", "counted", "fails"]
    assert wire.ask("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 4, *names, "SOURCE", FUNCTIONS) == b"OK"


@both_paths
@pytest.mark.parametrize("module", [models.InPlaceAdd, models.InPlaceView, models.InPlaceOut])
def test_a_model_that_writes_to_its_input(server: Server, wire: Wire, module: type) -> None:
    store(wire, models.torch_module(module))
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, 2, "VALUES", 1, 2, 3, 4)
    assert wire.ask(*WORDS) == b"OK"
    assert wire.ask("AI.TENSORGET", "x", "VALUES") == [b"1", b"2", b"3", b"4"]
    check_path(server, direct=1)


@both_paths
def test_nested_outputs_and_views(server: Server, wire: Wire) -> None:
    store(wire, models.torch_module(models.Transposed))
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, 3, "VALUES", *range(6))
    assert wire.ask(*WORDS) == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "META", "VALUES")[3:] == [
        [3, 2],
        b"values",
        [b"0", b"3", b"1", b"4", b"2", b"5"],
    ]
    check_path(server, direct=1)


@both_paths
@pytest.mark.parametrize("module", [models.Complex, models.Raises])
def test_python_says_what_is_wrong(server: Server, wire: Wire, module: type) -> None:
    store(wire, models.torch_module(module))
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
    reply = wire.ask(*WORDS)
    assert isinstance(reply, Error), reply
    check_path(server, python=1)
    words: dict[type, str] = {
        models.Complex: "output 0 has type complex64",
    }
    assert words.get(module, "ERR ") in reply


@both_paths
def test_entry_points(server: Server, wire: Wire) -> None:
    store_script(wire)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
    ask: list[Word] = ["AI.SCRIPTEXECUTE", "s"]
    scaled: list[Word] = ["scaled", "KEYS", 2, "a", "b", "INPUTS", 1, "x", "ARGS", 1, "10", "OUTPUTS", 1, "y"]
    assert wire.ask(*ask, *scaled) == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"12", b"22"]
    assert wire.ask(*ask, "written", "INPUTS", 2, "x", "x", "OUTPUTS", 2, "y", "z") == b"OK"
    assert [wire.ask("AI.TENSORGET", key, "VALUES") for key in "xyz"] == [[b"1", b"2"], [b"2", b"3"], [b"1", b"2"]]
    check_path(server, direct=2, key="s")


@both_paths
def test_errors_of_entry_points(server: Server, wire: Wire) -> None:
    store_script(wire)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)
    for function, noutputs, reason in [
        ("fails", 1, "list index out of range"),
        ("scaled", 2, "unexpected number of outputs"),
    ]:
        outputs = ["y", "z"][:noutputs]
        words: list[Word] = [function, "INPUTS", 1, "x", "ARGS", 1, "1", "OUTPUTS", noutputs, *outputs]
        reply = wire.ask("AI.SCRIPTEXECUTE", "s", *words)
        assert isinstance(reply, Error) and reason in reply
    check_path(server, python=2, key="s")


@both_paths
def test_what_has_effects_runs_once(server: Server, wire: Wire) -> None:
    """Else a function that fails would count twice: here, and in Python."""
    store_script(wire)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)
    reply = wire.ask("AI.SCRIPTEXECUTE", "s", "counted", "KEYS", 1, "n", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    assert isinstance(reply, Error) and "too few" in reply
    assert wire.ask("GET", "n") == b"1"
    check_path(server, python=1, key="s")


# ---- the runner ------------------------------------------------------------------------------------------------------


@pytest.fixture
def without(start_server: StartServer, tmp_path: Path) -> Callable[[str | None], Server]:
    """A server whose runner was built for another PyTorch; None: it was not built."""

    def start(version: str | None) -> Server:
        folder = tmp_path / "backends" / "redisai_torch"
        shutil.copytree(BACKEND, folder, ignore=shutil.ignore_patterns("runner-*.so"))
        if version:
            (folder / f"runner-{version}.so").touch()
        return start_server(options=["BACKENDSPATH", str(folder.parent)])

    return start


@pytest.mark.parametrize(
    ("version", "reason"),
    [(None, "its runner is not built"), ("1.0.0-0", "its runner was built for another PyTorch or module")],
)
def test_no_runner(without: Callable[[str | None], Server], version: str | None, reason: str) -> None:
    server = without(version)
    with server.wire() as wire:
        for key in "m", "n":
            wire.ask("AI.MODELSTORE", key, "TORCH", "CPU", "BLOB", models.torch_module(models.Identity))
        wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
        assert wire.ask(*WORDS) == b"OK"
        check_path(server, python=1)
        advice = (
            f"Python runs all models and scripts, slower: {reason}; run `redisai-server --build-torch` and start anew"
        )
        assert f"ai_TORCH_advice:{advice}" in wire.ask("INFO", "MODULES").decode().splitlines()
    assert server.log().count(f"TORCH: {advice}") == 1


def test_with_a_runner_there_is_no_advice(server: Server, wire: Wire) -> None:
    store(wire, models.torch_module(models.Identity))
    assert "TORCH_advice" not in wire.ask("INFO", "MODULES").decode()
    assert "build-torch" not in server.log()


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "build_runner.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_a_build_replaces_other_runners(tmp_path: Path) -> None:
    for name in "build_runner.py", "runner.cpp":
        shutil.copy(BACKEND / name, tmp_path)
    (tmp_path / "runner-1.0.0.so").touch()
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; echo library >"$2"\n')
    compiler.chmod(0o755)
    answer = build(tmp_path, CXX=str(compiler))
    assert answer.returncode == 0 and "run without Python" in answer.stdout, answer.stderr
    (built,) = tmp_path.glob("runner-*")
    assert built.read_text() == "library\n" and built.name != "runner-1.0.0.so"


def test_a_build_that_fails_leaves_the_runner(tmp_path: Path) -> None:
    shutil.copy(BACKEND / "build_runner.py", tmp_path)
    shutil.copy(BACKEND / "runner.cpp", tmp_path)
    (tmp_path / "runner-1.0.0.so").touch()
    answer = build(tmp_path, CXX="/bin/false")
    assert answer.returncode == 1 and "/bin/false could not build the runner for PyTorch " in answer.stderr
    assert [path.name for path in tmp_path.glob("runner-*")] == ["runner-1.0.0.so"]
    answer = build(tmp_path, PATH=str(tmp_path))
    assert (
        answer.returncode == 1 and "there is no C++ compiler. On Debian and Ubuntu: apt install g++." in answer.stderr
    )
