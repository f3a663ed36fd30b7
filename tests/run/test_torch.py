"""Running TorchScript models: results of every type, odd outputs, errors of the model's own."""

from __future__ import annotations

import re

import numpy as np
import pytest

from testkit import models
from testkit.paths import both_paths
from testkit.samples import ELEMENTS
from testkit.server import Client
from testkit.wire import Error, Wire

DATA = {name: data for name, data in ELEMENTS.items() if name != "STRING"}  # of which TorchScript has no tensors

pytestmark = both_paths


def store(wire: Wire, module: type, device: str = "CPU") -> None:
    assert wire.ask("AI.MODELSTORE", "m", "TORCH", device, "BLOB", models.torch_module(module)) == b"OK"


@pytest.mark.parametrize(
    "command",
    [
        "AI.MODELEXECUTE m INPUTS 2 a b OUTPUTS 2 s p",
        "AI.MODELRUN m INPUTS a b OUTPUTS s p",
        "ai.modelexecute m inputs 2 a b outputs 2 s p timeout 10000",
        "ai.modelrun m timeout 10000 inputs a b outputs s p",
    ],
)
@pytest.mark.parametrize("device", ["CPU", "cpu:1"])
def test_every_way_to_run(wire: Wire, device: str, command: str) -> None:
    store(wire, models.SumAndProduct, device)
    wire.ask("AI.TENSORSET", "a", "FLOAT", 2, "VALUES", 1, 2)
    wire.ask("AI.TENSORSET", "b", "FLOAT", 2, "VALUES", 5, 6)
    assert wire.ask(*command.split()) == b"OK"
    assert wire.ask("AI.TENSORGET", "s", "META", "VALUES") == [
        b"dtype",
        b"FLOAT",
        b"shape",
        [2],
        b"values",
        [b"6", b"8"],
    ]
    assert wire.ask("AI.TENSORGET", "p", "VALUES") == [b"5", b"12"]


@pytest.mark.parametrize("dtype", list(DATA))
@pytest.mark.parametrize("shape", [(2,), (1, 2), (2, 1, 1)])
def test_every_type_through_identity(wire: Wire, dtype: str, shape: tuple[int, ...]) -> None:
    store(wire, models.Identity)
    wire.ask("AI.TENSORSET", "x", dtype, *shape, "BLOB", DATA[dtype])
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    wanted = [b"dtype", dtype.encode(), b"shape", list(shape), b"blob", DATA[dtype]]
    assert wire.ask("AI.TENSORGET", "y") == wanted


def test_uint16_works_or_is_a_clear_error(wire: Wire) -> None:
    store(wire, models.Identity)
    wire.ask("AI.TENSORSET", "x", "UINT16", 2, "VALUES", 1, 65535)
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    if isinstance(reply, Error):
        assert "uint16" in reply.lower()
    else:
        assert wire.ask("AI.TENSORGET", "y", "VALUES") == [1, 65535]


def test_strings_are_a_clear_error(wire: Wire) -> None:
    store(wire, models.Identity)
    wire.ask("AI.TENSORSET", "x", "STRING", 2, "VALUES", "a", "b")
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    assert isinstance(reply, Error)
    assert reply.startswith("ERR ")
    assert "string" in reply.lower()
    assert wire.ask("EXISTS", "y") == 0


@pytest.mark.parametrize("dtype", ["FLOAT", "INT32", "BOOL"])
def test_a_scalar_in_and_out(wire: Wire, dtype: str) -> None:
    store(wire, models.Identity)
    wire.ask("AI.TENSORSET", "x", dtype, "VALUES", 1)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y") == wire.ask("AI.TENSORGET", "x")
    assert wire.ask("AI.TENSORGET", "y", "META") == [b"dtype", dtype.encode(), b"shape", []]


def test_an_output_of_rank_0(wire: Wire) -> None:
    store(wire, models.Total)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 3, "VALUES", 1, 2, 3)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "META", "VALUES") == [b"dtype", b"FLOAT", b"shape", [], b"values", [b"6"]]


def test_an_empty_output(wire: Wire) -> None:
    store(wire, models.Keep)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 3, "VALUES", -1, 0, -2)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y") == [b"dtype", b"FLOAT", b"shape", [0], b"blob", b""]


def test_a_result_that_is_not_contiguous(r: Client, wire: Wire) -> None:
    store(wire, models.Transposed)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    r.execute_command("AI.TENSORSET", "x", "FLOAT", 2, 3, "BLOB", x.tobytes())
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y") == [b"dtype", b"FLOAT", b"shape", [3, 2], b"blob", x.T.tobytes()]


@pytest.mark.parametrize(("module", "name"), [(models.Complex, "complex")])
def test_an_output_of_a_type_without_a_name(wire: Wire, module: type, name: str) -> None:
    store(wire, module)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    assert isinstance(reply, Error)
    assert reply.startswith("ERR ")
    assert any(word in reply.lower() for word in name.split("|"))
    assert wire.ask("EXISTS", "y") == 0


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (models.Raises, r"first line +second line \(line \d+ of models\.py, in forward\)"),
        (models.NotATensor, ".*of them can be outputs"),
    ],
    ids=["Raises", "NotATensor"],
)
def test_a_model_that_fails(wire: Wire, module: type, text: str) -> None:
    """At run time, or when it is stored where that can be told from its declaration; on one line either way."""
    reply = wire.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", models.torch_module(module))
    if reply == b"OK":
        wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
        reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    assert isinstance(reply, Error) and re.fullmatch(f"ERR (.* )?{text}", reply)
    assert wire.ask("EXISTS", "y") == 0
    assert wire.ask("PING") == b"PONG"


def test_shapes_that_do_not_fit(wire: Wire) -> None:
    store(wire, models.Add)
    wire.ask("AI.TENSORSET", "a", "FLOAT", 2)
    wire.ask("AI.TENSORSET", "b", "FLOAT", 3)
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "a", "b", "OUTPUTS", 1, "y")
    assert isinstance(reply, Error)
    assert "must match the size" in reply
    assert wire.ask("EXISTS", "y") == 0


@pytest.mark.parametrize("module", models.IN_PLACE)
def test_a_model_that_writes_in_place_never_changes_a_stored_tensor(wire: Wire, module: type) -> None:
    store(wire, module)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 4, "VALUES", -1, 2, -3, 4)
    wire.ask("COPY", "x", "copy")
    results = []
    for _ in range(3):
        assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
        results.append(wire.ask("AI.TENSORGET", "y", "VALUES"))
        assert wire.ask("AI.TENSORGET", "x", "VALUES") == [b"-1", b"2", b"-3", b"4"]
        assert wire.ask("AI.TENSORGET", "copy", "VALUES") == [b"-1", b"2", b"-3", b"4"]
    assert results[0] == results[1] == results[2] != [b"-1", b"2", b"-3", b"4"]


def test_an_output_that_is_an_input(wire: Wire) -> None:
    """The result shares memory with the input inside the library; stored, it is a tensor of its own."""
    store(wire, models.Identity)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
    wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 8, 9)
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"1", b"2"]
