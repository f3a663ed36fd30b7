"""TorchScript that would crash the library, or show memory of others: an error or a result, in models and scripts."""
# TorchScript's compiler is not typed.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import io
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto

from testkit import models
from testkit.engines import engine_pids
from testkit.scripts import execute, function, store_command
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import StartServer

SMALLEST = "torch.full([{}], -9223372036854775807 - 1)"


def run_script(wire: Wire, expression: str) -> Any:
    """The reply for a script that computes this from x, two zeros, and n, which is 0."""
    body = f"x = tensors[0]\n    n = int(x[0])\n    return {expression}"
    reply = wire.ask(*store_command("s", function("f", body), ["f"]))
    return wire.ask(*execute("s", "f", inputs=["x"], outputs=["y"])) if reply == b"OK" else reply


def run_model(wire: Wire, expression: str) -> Any:
    module: Any = type("Model", (torch.jit.ScriptModule,), {})()
    module.define(f"def forward(self, x):\n    n = int(x[0])\n    return {expression}\n")
    blob = io.BytesIO()
    torch.jit.save(module, blob)
    reply = wire.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", blob.getvalue())
    return wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") if reply == b"OK" else reply


Run = Callable[[Wire, str], Any]
both = pytest.mark.parametrize("run", [run_script, run_model])


@pytest.fixture(autouse=True)
def zeros(wire: Wire) -> None:
    assert wire.ask("AI.TENSORSET", "x", "FLOAT", 2) == b"OK"


@both
@pytest.mark.parametrize("expression", ["x.size(0) % n", "x.size(0) // n", "divmod(x.size(0), n)[0]"])
def test_divisions_by_zero_are_errors(wire: Wire, run: Run, expression: str) -> None:
    reply = run(wire, f"torch.tensor({expression})")
    assert isinstance(reply, Error) and "ZeroDivisionError" in reply


@both
def test_the_smallest_integer_by_minus_one(wire: Wire, run: Run) -> None:
    """Python has a larger integer for that. TorchScript has not."""
    assert run(wire, "torch.tensor((n - 9223372036854775807 - 1) // (n - 1))") == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [-(2**63)]


@pytest.mark.parametrize("expression", ["torch.tensor(5 % 0)", "torch.tensor((-9223372036854775807 - 1) // -1)"])
def test_divisions_by_constants(wire: Wire, expression: str) -> None:
    """The compiler computes them. (A model with them cannot be saved.)"""
    run_script(wire, expression)
    assert wire.ask("PING") == b"PONG"


@both
@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize("dtype", ["", ".to(torch.int32)"])
@pytest.mark.parametrize(
    "division",
    [
        "torch.div({x}, -1, rounding_mode='trunc')",
        "torch.div({x}, torch.full([1], -1), rounding_mode='floor')",
        "{x} // -1",
        "{x} % -1",
        "torch.remainder({x}, -1)",
        "torch.fmod({x}, n - 1)",
        "torch.floor_divide({x}, -1)",
        "{x}.div_(n - 1, rounding_mode='trunc')",
        "torch.lcm({x}, {x} + 1)",
    ],
)
def test_divisions_of_tensors(wire: Wire, run: Run, division: str, dtype: str, size: int) -> None:
    x = SMALLEST.format(size) if not dtype else f"torch.full([{size}], -2147483648).to(torch.int32)"
    run(wire, division.format(x=x))
    assert wire.ask("PING") == b"PONG"


@both
@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("x.clone(memory_format=4)", "4 is no MemoryFormat"),
        ("x.to(torch.float64, memory_format=4 + n)", "4 is no MemoryFormat"),
        ("torch.zeros([2], dtype=200)", "200 is no ScalarType"),
        ("torch.zeros([2], dtype=n - 1)", "-1 is no ScalarType"),
        ("torch.sum(x, dtype=1000)", "1000 is no ScalarType"),
        ("torch.zeros([2], layout=100)", "100 is no Layout"),
    ],
)
def test_numbers_that_stand_for_nothing(wire: Wire, run: Run, expression: str, what: str) -> None:
    reply = run(wire, expression)
    assert isinstance(reply, Error) and what in reply


@both
@pytest.mark.parametrize("module", ["torch", "torch.nn.functional"])
def test_negative_offsets(wire: Wire, run: Run, module: str) -> None:
    weight, indices, offsets = "torch.ones([3, 3])", "torch.tensor([0, 1, 2])", "torch.tensor([0, -100000000, 2])"
    if module == "torch":
        run(wire, f"torch.embedding_bag({weight}, {indices}, {offsets})[0]")
    elif run is run_script:
        run(wire, f"torch.nn.functional.embedding_bag({indices}, {weight}, {offsets})")
    assert wire.ask("PING") == b"PONG"


@both
@pytest.mark.parametrize(
    "expression",
    [
        "torch.empty([{}])",
        "torch.empty_like(torch.ones([{}]))",
        "x.new_empty([{}])",
        "torch.empty_strided([{}], [1])",
        "x.new_empty_strided([{}], [1])",
        "torch.empty_permuted([{}], [0])",
        "torch.empty([{}], out=torch.ones([1]))",
    ],
)
def test_memory_is_cleared(wire: Wire, run: Run, expression: str) -> None:
    """Memory that was freed just before has the right size."""
    for size in (300, 30_000, 3_000_000):
        used = f"(torch.full([{size}], 7.5) * 2).sum() * 0"
        assert run(wire, f"{used} + {expression.format(size)} + {used}") == b"OK"
        y = np.frombuffer(wire.ask("AI.TENSORGET", "y", "BLOB"), np.float32)
        np.testing.assert_array_equal(y, np.zeros(size))


@both
@pytest.mark.parametrize("expression", ["torch.ones([1]).resize_([1000])", "x.set_(x)", "x.resize_as_(x)"])
def test_memory_is_not_resized(wire: Wire, run: Run, expression: str) -> None:
    reply = run(wire, expression)
    assert isinstance(reply, Error) and "cannot be used in a" in reply


@both
def test_memory_that_no_machine_has(server: Server, wire: Wire, run: Run) -> None:
    pid = engine_pids(wire)["CPU"] if server.is_isolated else server.pid
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert "Max data size             unlimited" not in limits  # else the machine's memory would be filled
    for expression in ("torch.bincount(torch.tensor([1, 1099511627776]))", "torch.empty([1099511627776])"):
        reply = run(wire, expression)
        assert isinstance(reply, Error) and "allocate memory" in reply


@both
def test_memory_is_limited(start_server: StartServer, run: Run) -> None:
    server = start_server(options=["BACKEND_MEMORY_LIMIT", 100])
    with server.wire() as wire:
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 2)
        for megabytes in (80, 104, 80):  # the allocator rounds up
            reply = run(wire, f"torch.ones([{megabytes * 250_000}]).sum()")
            if megabytes < 100:
                assert reply == b"OK"
            else:
                size = megabytes * 1_000_000
                limit = f"you tried to allocate {size} bytes; BACKEND_MEMORY_LIMIT sets how much there is"
                assert isinstance(reply, Error) and limit in reply


@pytest.mark.parametrize("operator", ["Div", "Mod"])
def test_divisions_in_other_libraries(wire: Wire, operator: str) -> None:
    a, b, y = (models.value(name, TensorProto.INT64, (1,)) for name in "aby")
    blob = models.onnx_node(operator, [a, b], [y])
    assert wire.ask("AI.MODELSTORE", "d", "ONNX", "CPU", "BLOB", blob) == b"OK"
    for key, number in (("a", -(2**63)), ("b", -1)):
        assert wire.ask("AI.TENSORSET", key, "INT64", 1, "BLOB", np.int64(number).tobytes()) == b"OK"
    assert wire.ask("AI.MODELEXECUTE", "d", "INPUTS", 2, "a", "b", "OUTPUTS", 1, "y") == b"OK"


def test_divisions_once_the_server_has_set_its_handlers_anew(wire: Wire) -> None:
    for value in ("no", "yes"):
        wire.ask("CONFIG", "SET", "crash-log-enabled", value)
        run_script(wire, "torch.tensor(5 % 0)")
        assert wire.ask("PING") == b"PONG"


def test_the_server_still_reports_other_signals(start_server: StartServer) -> None:
    server = start_server()
    assert server.process is not None
    server.process.send_signal(signal.SIGFPE)
    wait_for(lambda: server.process and server.process.poll() is not None, what="the server has ended")
    assert "crashed by signal: 8" in server.log()
