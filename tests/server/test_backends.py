"""Backends as plug-ins: found by path, loaded when first needed or asked for, and replaceable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from testkit import models, tf_models
from testkit.engines import engine_pids
from testkit.info import module_sections
from testkit.server import Server, module_path
from testkit.wire import Error, Wire, Word
from tests.conftest import StartServer

BACKENDS = module_path().parent / "backends"
PATHS = {
    "TF": "redisai_tensorflow/redisai_tensorflow.so",
    "TFLITE": "redisai_tflite/redisai_tflite.so",
    "TORCH": "redisai_torch/redisai_torch.so",
    "ONNX": "redisai_onnxruntime/redisai_onnxruntime.so",
}
VERSIONS = {
    "TF": "TensorFlow_version",
    "TFLITE": "TensorFlowLite_version",
    "TORCH": "Torch_version",
    "ONNX": "onnxruntime_version",
}
# Each adds, or multiplies, two matrices of n x 2.
BLOBS: dict[str, Callable[[], bytes]] = {
    "TF": tf_models.tf_mul,
    "TFLITE": tf_models.tflite_two,
    "TORCH": lambda: models.torch_module(models.SumAndProduct),
    "ONNX": models.onnx_add,
}
NOUTPUTS = {"TF": 1, "TFLITE": 2, "TORCH": 2, "ONNX": 1}


def loaded(wire: Wire) -> set[str]:
    """The backends whose versions INFO MODULES shows."""
    shown = module_sections(wire, "MODULES").get("backends_info", {})
    return {backend for backend, field in VERSIONS.items() if field in shown}


def named(backend: str) -> list[Word]:
    return ["INPUTS", 2, "a", "b", "OUTPUTS", 1, "mul"] if backend == "TF" else []


def run_a_model(wire: Wire, backend: str) -> None:
    assert wire.ask("AI.MODELSTORE", backend, backend, "CPU", *named(backend), "BLOB", BLOBS[backend]()) == b"OK"
    assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 2, 2) == b"OK"
    outputs = ["y", "z"][: NOUTPUTS[backend]]
    assert wire.ask("AI.MODELEXECUTE", backend, "INPUTS", 2, "x", "x", "OUTPUTS", len(outputs), *outputs) == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"4", b"4"]


@pytest.mark.parametrize("order", [list(PATHS), list(reversed(PATHS))])
def test_each_is_loaded_when_first_needed(start_server: StartServer, order: list[str]) -> None:
    """In either order: they bring large libraries that have names in common."""
    with start_server().wire() as wire:
        for number, backend in enumerate(order):
            assert loaded(wire) == set(order[:number])
            run_a_model(wire, backend)
        for backend in order:
            run_a_model(wire, backend)


def test_all_loaded_at_start(start_server: StartServer) -> None:
    server = start_server(options=[word for pair in PATHS.items() for word in pair])
    with server.wire() as wire:
        for backend in PATHS:
            run_a_model(wire, backend)
        assert loaded(wire) == set(PATHS)
    assert server.stop() == 0


@pytest.mark.parametrize("backend", list(PATHS))
@pytest.mark.parametrize("how", ["option", "absolute option", "LOADBACKEND", "another suffix"])
def test_loaded_by_path(start_server: StartServer, backend: str, how: str) -> None:
    path = str(BACKENDS / PATHS[backend]) if how == "absolute option" else PATHS[backend]
    with start_server(options=[backend, path] if how.endswith("option") else []).wire() as wire:
        if not how.endswith("option"):
            assert loaded(wire) == set()
            given = path if how == "LOADBACKEND" else path.replace(".so", ".py")
            assert wire.ask("AI.CONFIG", "LOADBACKEND", backend, given) == b"OK"
            assert loaded(wire) == {backend}
        run_a_model(wire, backend)


def test_tensorflow_is_loaded_without_its_python_package(server: Server, wire: Wire) -> None:
    run_a_model(wire, "TF")
    pid = engine_pids(wire)["CPU"] if server.is_isolated else server.pid
    mapped = Path(f"/proc/{pid}/maps").read_text()
    assert "/libtensorflow_cc.so.2" in mapped
    assert "pywrap_tensorflow" not in mapped


OWN = """
from redisai.protocol import Definition, Settings

class Session:
    inputs = ("left", "right")
    outputs = ("half",)

    def __init__(self, divisor):
        self.divisor = divisor

    def run(self, inputs):
        return [(inputs[0] + inputs[1]) / self.divisor]

def version():
    return "7.8.9"

def load(definition: Definition, settings: Settings) -> Session:
    if definition.blob == b"bad":
        raise ValueError("this blob\\n  is bad")
    return Session(inputs_dtype(definition.blob))
"""
BESIDE = """
import numpy

def inputs_dtype(blob):
    return numpy.float32(len(blob))
"""


@pytest.mark.parametrize("backend", list(PATHS))
@pytest.mark.parametrize("how", ["BACKENDSPATH", "option", "LOADBACKEND"])
def test_a_backend_of_ones_own(start_server: StartServer, tmp_path: Path, backend: str, how: str) -> None:
    """A folder with a Python file, which may import others beside it, in the place of one of ours."""
    name = Path(PATHS[backend]).stem if how == "BACKENDSPATH" else "mine"
    folder = tmp_path / "backends" / name
    folder.mkdir(parents=True)
    (folder / f"{name}.py").write_text("from .beside import inputs_dtype\n" + OWN)
    (folder / "beside.py").write_text(BESIDE)
    path = str(folder / f"{name}.so")
    options = [backend, path] if how == "option" else ["BACKENDSPATH", str(tmp_path / "backends")]
    with start_server(options=options).wire() as wire:
        if how == "LOADBACKEND":
            assert wire.ask("AI.CONFIG", "LOADBACKEND", backend, path) == b"OK"
        names: list[Word] = ["INPUTS", 2, "left", "right", "OUTPUTS", 1, "half"] if backend == "TF" else []
        assert wire.ask("AI.MODELSTORE", "m", backend, "CPU", *names, "BLOB", b"xx") == b"OK"
        assert module_sections(wire, "MODULES")["backends_info"][VERSIONS[backend]] == "7.8.9"
        wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 3, 5)
        assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
        assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"3", b"5"]
        meta = wire.ask("AI.MODELGET", "m", "META")
        assert meta[11] == [b"left", b"right"] and meta[13] == [b"half"]
        reply = wire.ask("AI.MODELSTORE", "bad", backend, "CPU", *names, "BLOB", b"bad")
        assert isinstance(reply, Error) and reply.startswith("ERR this blob") and reply.endswith("is bad")


def test_one_backend_cannot_take_the_place_of_another(start_server: StartServer, tmp_path: Path) -> None:
    folder = tmp_path / "redisai_onnxruntime"
    folder.mkdir()
    (folder / "redisai_onnxruntime.py").write_text(OWN)
    with start_server().wire() as wire:
        run_a_model(wire, "ONNX")
        assert wire.ask("AI.CONFIG", "LOADBACKEND", "ONNX", str(folder)) == "ERR error loading backend"
        assert wire.ask("AI.CONFIG", "LOADBACKEND", "ONNX", PATHS["ONNX"]) == b"OK"
        run_a_model(wire, "ONNX")


def test_a_library_that_is_not_installed(start_server: StartServer, tmp_path: Path) -> None:
    folder = tmp_path / "redisai_tensorflow"
    folder.mkdir()
    (folder / "redisai_tensorflow.py").write_text("import a_library_of_which_nobody_heard\n")
    with start_server(options=["BACKENDSPATH", str(tmp_path)]).wire() as wire:
        reply = wire.ask("AI.MODELSTORE", "m", "TF", "CPU", *named("TF"), "BLOB", tf_models.tf_mul())
        assert reply.startswith("ERR Could not load backend: TF: No module named 'a_library_of_which_nobody_heard'")
        assert "pip install" in reply
        assert wire.ask("EXISTS", "m") == 0


def test_installed_backends_can_be_seen_from_outside() -> None:
    for path in PATHS.values():
        assert (BACKENDS / path).exists(), path
