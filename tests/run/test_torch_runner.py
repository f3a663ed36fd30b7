"""Models and scripts of TORCH without Python: which runs are so, that both paths answer alike, and what the log and
INFO say where the runner is missing or was built for another PyTorch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit import models, scripts, tf_models
from testkit.info import full_ai_info
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

def fails{scripts.SIGNATURE}:
    return tensors[len(tensors)]
"""


def store(wire: Wire, blob: bytes) -> None:
    assert wire.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", blob) == b"OK"


def store_script(wire: Wire) -> None:
    names = ["scaled", "written", "fails"]
    assert wire.ask("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 3, *names, "SOURCE", FUNCTIONS) == b"OK"


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
def test_functions_without_entry_points(server: Server, wire: Wire) -> None:
    scripts.store_old(wire)
    for key, number in ("x", 1), ("z", 5):
        wire.ask("AI.TENSORSET", key, "FLOAT", 1, "VALUES", number)
    for function, inputs, wanted in [
        ("add", ["x", "z"], [b"6"]),
        ("addn", ["x", "z", "z"], [b"11"]),
        ("only", ["x", "x"], [b"2"]),
        ("in_place", ["x"], [b"2"]),
        ("constant", [], [b"7"]),
    ]:
        words: list[Word] = ["INPUTS", *inputs] if inputs else []
        assert wire.ask("AI.SCRIPTRUN", "old", function, *words, "OUTPUTS", "y") == b"OK"
        assert (scripts.values(wire, "y"), scripts.values(wire, "x")) == (wanted, [b"1"])
    check_path(server, direct=5, key="old")
    for inputs in ["x"], ["x", "x", "x"]:
        reply = wire.ask("AI.SCRIPTRUN", "old", "add", "INPUTS", *inputs, "OUTPUTS", "y")
        assert isinstance(reply, Error) and "Wrong number of inputs" in reply
    check_path(server, direct=5, python=2, key="old")


# ---- functions that call Redis or run models -------------------------------------------------------------------------

CALLING = f"""
def counted{scripts.SIGNATURE}:
    redis.execute("INCR", keys[0])
    return tensors

def strict{scripts.SIGNATURE}:
    redis.execute("INCR", keys[0])
    assert len(tensors) > 1, "too few"
    return tensors[0]

def refused{scripts.SIGNATURE}:
    redis.execute("INCR", keys[0])
    redis.execute("LPUSH", keys[0], "x")

def indexed{scripts.SIGNATURE}:
    redis.execute("INCR", keys[0])
    return tensors[len(tensors)]

def no_tensor{scripts.SIGNATURE}:
    return redis.execute("INCR", keys[0])

def no_type{scripts.SIGNATURE}:
    redis.execute("INCR", keys[0])
    return torch.complex(tensors[0], tensors[0])

def no_model{scripts.SIGNATURE}:
    redis.execute("INCR", keys[0])
    return redisAI.model_execute("missing", tensors, 1)

def sparse{scripts.SIGNATURE}:
    redis.execute("INCR", keys[0])
    return redisAI.model_execute(keys[1], [tensors[0].to_sparse()], 1)

def learnt{scripts.SIGNATURE}:
    redis.execute("INCR", keys[0])
    return tensors[0].clone().requires_grad_(True) * 2

def modelled{scripts.SIGNATURE}:
    out = redisAI.model_execute(keys[0], tensors, 1)[0]
    out += 1
    return out
"""
REFUSED = f"{scripts.FAILED}WRONGTYPE Operation against a key holding the wrong kind of value"


@pytest.fixture
def calling(wire: Wire) -> Wire:
    names = ["counted", "strict", "refused", "indexed", "no_tensor", "no_type", "no_model", "sparse", "learnt"]
    scripts.store(wire, "s", CALLING, [*names, "modelled"])
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
    return wire


@both_paths
def test_a_function_with_effects(server: Server, calling: Wire) -> None:
    for count in 1, 2:
        assert calling.ask(*scripts.execute("s", "counted", ["n"], ["x", "x"], outputs=["y", "z"])) == b"OK"
        assert calling.ask("GET", "n") == b"%d" % count
    assert calling.ask(*scripts.execute("s", "learnt", ["n"], ["x"], outputs=["y"])) == b"OK"
    assert scripts.values(calling, "y") == [b"2", b"4"]
    check_path(server, direct=3, key="s")


@both_paths
@pytest.mark.parametrize(
    ("function", "text"),
    [
        ("counted", "ERR Function returned unexpected number of outputs - counted"),
        ("strict", "ERR AssertionError: too few (line 8, in strict)"),
        ("refused", REFUSED),
        ("indexed", "ERR list index out of range (line 17, in indexed)"),
        ("no_tensor", "ERR Function returned non-tensor values"),
        ("no_type", "ERR output 0 has type complex64, which tensors cannot have"),
        ("no_model", "ERR redisAI.model_execute: ERR the script runs a model whose key was not declared with KEYS"),
        ("sparse", "ERR output 0 has type float32, which tensors cannot have"),
    ],
)
def test_an_error_after_an_effect(server: Server, calling: Wire, function: str, text: str) -> None:
    """The function has run once, and the error is the same on both paths."""
    calling.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_identity())
    outputs: list[Word] = ["y", "z"] if function == "counted" else ["y"]
    assert calling.ask(*scripts.execute("s", function, ["n", "m"], ["x"], outputs=outputs)) == text
    assert calling.ask("GET", "n") == b"1"
    assert calling.ask("EXISTS", "y", "z") == 0
    assert calling.ask(*scripts.execute("s", "counted", ["n"], ["x"], outputs=["y"])) == b"OK"
    assert calling.ask("GET", "n") == b"2"
    check_path(server, direct=1, python=1, key="s")


MODELS: dict[str, Callable[[], bytes]] = {
    "ONNX": lambda: models.onnx_identity(shape=("n", 2)),
    "TORCH": lambda: models.torch_module(models.Identity),
    "TF": tf_models.tf_identity,
}


@both_paths
@pytest.mark.parametrize("backend", MODELS)
def test_a_model_of_a_script(server: Server, calling: Wire, backend: str) -> None:
    names: list[Word] = ["INPUTS", 1, "x", "OUTPUTS", 1, "y"] if backend == "TF" else []
    assert calling.ask("AI.MODELSTORE", "m", backend, "CPU", *names, "BLOB", MODELS[backend]()) == b"OK"
    for key in "s", "m":
        calling.ask("AI.INFO", key, "RESETSTAT")
    words = scripts.execute("s", "modelled", ["m"], ["x"], outputs=["y"])
    for _ in range(2):
        assert calling.ask(*words) == b"OK"
        assert [scripts.values(calling, key) for key in "xy"] == [[b"1", b"2"], [b"2", b"3"]]
    for key in "s", "m":
        check_path(server, direct=2, key=key)
    found = full_ai_info(calling, "m")
    assert (found["samples"], found["errors"]) == (2, 0)


@both_paths
def test_a_model_that_only_python_runs(server: Server, calling: Wire) -> None:
    """The script itself needs no Python. Python's part counts the model's run, also where it fails."""
    calling.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BATCHSIZE", 4, "BLOB", models.onnx_add())
    assert calling.ask(*scripts.execute("s", "modelled", ["m"], ["x", "x"], outputs=["y"])) == b"OK"
    assert scripts.values(calling, "y") == [b"3", b"5"]
    check_path(server, python=1, key="m")
    check_path(server, direct=1, key="s")


@both_paths
def test_a_model_that_fails_in_a_script(server: Server, calling: Wire) -> None:
    calling.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add(("n", 3)))
    reply = calling.ask(*scripts.execute("s", "modelled", ["m"], ["x", "x"], outputs=["y"]))
    assert isinstance(reply, Error) and " has shape [1, 2], expected: [-1, 3]: " in reply
    assert reply == calling.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
    assert full_ai_info(calling, "m")["errors"] == 2


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
        body = 'redis.execute("INCR", keys[1])\n    return redisAI.model_execute(keys[0], tensors, 1)'
        scripts.store(wire, "s", scripts.function("f", body), ["f"])
        assert wire.ask(*scripts.execute("s", "f", ["m", "n:1"], ["x"], outputs=["y"])) == b"OK"
        assert (wire.ask("GET", "n:1"), scripts.values(wire, "y")) == (b"1", [b"1", b"2"])
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
