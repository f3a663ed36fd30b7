"""ONNX models with custom operators: of onnxruntime-extensions, and of libraries that the operator names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from testkit import models
from testkit.models import value
from testkit.packages import python_without
from testkit.server import Server
from testkit.wire import Error, Wire
from tests.conftest import StartServer

EXTENSIONS = "ai.onnx.contrib"
OWN = "our.own.domains"  # as long as the other


def upper(domain: str = EXTENSIONS, operator: str = "StringUpper") -> bytes:
    """x STRING -> y: the same in capitals."""
    x, y = value("x", TensorProto.STRING, ["n"]), value("y", TensorProto.STRING, ["n"])
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], domain=domain)], "g", [x], [y])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def extensions() -> Path:
    package = importlib.util.find_spec("onnxruntime_extensions")
    assert package is not None and package.origin is not None
    return next(Path(package.origin).parent.glob("_extensions_pydll*.so"))


@pytest.fixture
def own_library(tmp_path: Path) -> str:
    """A library of another domain, outside the Python environment."""
    path = tmp_path / "own operators.so"
    code = extensions().read_bytes().replace(EXTENSIONS.encode(), OWN.encode())
    path.write_bytes(code.replace(b"com.microsoft.extensions", b"com.microsoft.our_domain"))  # which it has too
    return str(path)


def store(wire: Wire, blob: bytes) -> object:
    return wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob)


def check_upper(wire: Wire, times: int = 1) -> None:
    for number in range(times):
        wire.ask_ok("AI.TENSORSET", "x", "STRING", 2, "VALUES", "abc", f"x{number}")
        wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"ABC", b"X%d" % number]


def test_operators_of_the_package(server: Server, wire: Wire) -> None:
    for _ in range(3):
        assert store(wire, upper()) == b"OK"
        check_upper(wire, 10)
    assert store(wire, models.onnx_add()) == b"OK"


def test_an_operator_that_nobody_has(wire: Wire) -> None:
    for blob, operator in ((upper(operator="Nobodys"), f"{EXTENSIONS}:Nobodys"), (upper(OWN), f"{OWN}:StringUpper")):
        reply = store(wire, blob)
        text = "the server loads those that the option ONNX_CUSTOM_OPS names"
        assert reply == f"ERR the model needs a library with the operator {operator}; {text}"
        assert wire.ask("EXISTS", "m") == 0


def test_where_the_package_is_not_installed(start_server: StartServer, tmp_path: Path) -> None:
    python = python_without(tmp_path, "onnxruntime_extensions")
    with start_server(options=["PYTHON", str(python), "ALLOW_FILE_OPS", 1]).wire() as wire:
        needs = (
            f"ERR the model needs the package onnxruntime-extensions, for {EXTENSIONS}:StringUpper; install it into "
        )
        assert store(wire, upper()) == f"{needs}{python.parents[1]} (pip install onnxruntime-extensions)"
        assert store(wire, models.onnx_add()) == b"OK"


def test_a_model_waits_for_the_package(start_server: StartServer, wire: Wire, tmp_path: Path) -> None:
    """A server keeps a model that it did not store itself. It runs once the package is installed."""
    assert store(wire, upper()) == b"OK"
    dump = wire.ask("DUMP", "m")
    python = python_without(tmp_path, "onnxruntime_extensions")
    with start_server(options=["PYTHON", str(python), "ALLOW_FILE_OPS", 1]).wire() as other:
        other.ask_ok("RESTORE", "m", 0, dump)
        other.ask_ok("AI.TENSORSET", "x", "STRING", 1, "VALUES", "abc")
        reply = other.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        assert isinstance(reply, Error) and "the model needs the package onnxruntime-extensions" in reply
        site = next(python.parents[1].glob("lib/*/site-packages"))
        (site / "onnxruntime_extensions").symlink_to(extensions().parent)
        check_upper(other)


def test_libraries_that_the_operator_names(start_server: StartServer, own_library: str) -> None:
    """Beside those of the package. With ISOLATION process, too, they may lie anywhere."""
    with start_server(options=["ONNX_CUSTOM_OPS", f"{own_library}:"]).wire() as wire:
        for domain in (OWN, EXTENSIONS):
            assert store(wire, upper(domain)) == b"OK"
            check_upper(wire)
        assert wire.ask("CONFIG", "GET", "ai.onnx-custom-ops") == [b"ai.onnx-custom-ops", f"{own_library}:".encode()]


def test_a_library_that_is_not_there(start_server: StartServer, tmp_path: Path) -> None:
    path = str(tmp_path / "nothing.so")
    with start_server(options=["ONNX_CUSTOM_OPS", path]).wire() as wire:
        assert store(wire, models.onnx_add()) == b"OK"
        reply = store(wire, upper(OWN))
        assert isinstance(reply, Error) and "nothing.so" in reply and "cannot open shared object file" in reply
