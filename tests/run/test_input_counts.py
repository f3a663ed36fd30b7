"""Models that need not be given all of their inputs, and models that have none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from testkit import models, scripts
from testkit.batches import batching
from testkit.dags import OK, ask, check
from testkit.paths import both_paths, check_path
from testkit.scripts import values
from testkit.server import Server
from testkit.values import Model
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word

FLOAT = TensorProto.FLOAT
MISMATCH = Error("ERR Number of keys given as INPUTS here does not match model definition")


def with_defaults() -> bytes:
    """y = (x or, if there is none, an optional's 100) * factor + offset: x may be left out, and so may all after it."""
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, ["n"]))
    inputs = [
        helper.make_value_info("more", optional),
        models.value("factor", FLOAT, [1]),
        models.value("x", FLOAT, ["n"]),
        models.value("offset", FLOAT, []),
    ]
    constants = [
        numpy_helper.from_array(np.array([2], np.float32), "factor"),
        numpy_helper.from_array(np.array(1, np.float32), "offset"),
    ]
    given = helper.make_graph(
        [helper.make_node("OptionalGetElement", ["more"], ["given"])],
        "given",
        [],
        [models.value("given", FLOAT, ["n"])],
    )
    zeros = helper.make_graph(
        [helper.make_node("Sub", ["x", "x"], ["zeros"])], "zeros", [], [models.value("zeros", FLOAT, ["n"])]
    )
    nodes = [
        helper.make_node("OptionalHasElement", ["more"], ["has"]),
        helper.make_node("If", ["has"], ["added"], then_branch=given, else_branch=zeros),
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Sum", ["scaled", "offset", "added"], ["y"]),
    ]
    return models.onnx_model(nodes, inputs, [models.value("y", FLOAT, ["n"])], constants)


@both_paths
def test_inputs_that_may_be_left_out(server: Server, wire: Wire) -> None:
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", with_defaults()) == b"OK"
    assert wire.ask("AI.MODELGET", "m", "META")[11] == [b"x", b"more", b"factor", b"offset"]
    found = [dict(zip(port[::2], port[1::2], strict=True)) for port in wire.ask("AI.MODELGET", "m", "FULL")[17]]
    assert [port.get(b"optional", 0) for port in found] == [0, 1, 1, 1]
    assert [port[b"shape"] for port in found] == [[-1], None, [1], []]
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
    wire.ask("AI.TENSORSET", "more", "FLOAT", 2, "VALUES", 100, 200)
    wire.ask("AI.TENSORSET", "ten", "FLOAT", 1, "VALUES", 10)
    wire.ask("AI.TENSORSET", "half", "FLOAT", "VALUES", 0.5)
    keys = ["x", "more", "ten", "half"]
    wanted = [[3, 5], [103, 205], [111, 221], [110.5, 220.5]]
    for count in range(1, 5):
        given: list[Word] = [*keys[:count]]
        for command in (
            ["AI.MODELEXECUTE", "m", "INPUTS", count, *given, "OUTPUTS", 1, "y"],
            ["AI.MODELRUN", "m", "INPUTS", *given, "OUTPUTS", "y"],
        ):
            assert wire.ask(*command) == b"OK"
            assert [float(number) for number in values(wire, "y")] == wanted[count - 1]
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 5, *keys, "x", "OUTPUTS", 1, "y") == MISMATCH
    refused = Error("ERR Input count must be a positive integer")
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 0, "OUTPUTS", 1, "y") == refused
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", -1, "OUTPUTS", 1, "y") == refused


@both_paths
def test_defaults_that_are_left_out_need_no_python(server: Server, wire: Wire) -> None:
    inputs = [models.value("factor", FLOAT, [1]), models.value("x", FLOAT, ["n"])]
    constants = [numpy_helper.from_array(np.array([2], np.float32), "factor")]
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    blob = models.onnx_model([node], inputs, [models.value("y", FLOAT, ["n"])], constants)
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 3)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert values(wire, "y") == [b"6"]
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
    assert values(wire, "y") == [b"9"]
    check_path(server, direct=1, python=1)


def test_in_dags_scripts_and_batches(wire: Wire) -> None:
    scripts.store_models(wire)
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", *batching(8), "BLOB", with_defaults())
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
    one, two = "AI.MODELEXECUTE m INPUTS 1 x OUTPUTS 1 y", "AI.MODELEXECUTE m INPUTS 2 x y OUTPUTS 1 z"
    check(ask(wire, f"AI.DAGEXECUTE LOAD 1 x |> {one} |> {two} |> AI.TENSORGET z VALUES"), [OK, OK, [b"6", b"10"]])
    reply = ask(wire, f"AI.DAGEXECUTE LOAD 1 x |> {one.replace('1 x', '5 x x x x x')}")
    assert reply == MISMATCH
    for inputs in (["x"], ["x", "x"]):
        assert wire.ask(*scripts.execute("s", "one", ["m"], inputs, outputs=["y"])) == b"OK"
    reply = wire.ask(*scripts.execute("s", "one", ["m"], ["x"] * 5, outputs=["y"]))
    assert isinstance(reply, Error) and "the model takes 1 to 4 inputs, 5 were given" in reply


class Constant(nn.Module):
    def forward(self) -> Tensor:
        return torch.ones(2)


def constant() -> bytes:
    node = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(2, np.float32)))
    return models.onnx_model([node], [], [models.value("y", FLOAT, [2])])


WITHOUT = {
    "ONNX": lambda: Model("ONNX", constant()),
    "TORCH": lambda: Model("TORCH", models.torch_module(Constant)),
}


@both_paths
@pytest.mark.parametrize("backend", WITHOUT)
def test_models_without_inputs(server: Server, wire: Wire, backend: str) -> None:
    assert wire.ask(*WITHOUT[backend]().words("m")) == b"OK"
    assert wire.ask("AI.MODELGET", "m", "META")[11] == []
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 0, "OUTPUTS", 1, "y") == b"OK"
    assert values(wire, "y") == [b"1", b"1"]
    dag = "AI.DAGEXECUTE PERSIST 1 z |> AI.MODELEXECUTE m INPUTS 0 OUTPUTS 1 z |> AI.TENSORGET z VALUES"
    check(ask(wire, dag), [OK, [b"1", b"1"]])
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == MISMATCH
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 0, "OUTPUTS", 0, "y") == Error(
        "ERR Output count must be a positive integer"
    )
    assert wire.ask("DEBUG", "RELOAD") == b"OK"
    wait_for(lambda: wire.ask("AI.MODELGET", "m", "META", "FULL")[19], what="the loader has compiled the model")
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 0, "OUTPUTS", 1, "y") == b"OK"


@both_paths
@pytest.mark.parametrize("words", ["0", "0 3", "3 0", "2 0 5", "0 VALUES", "0 4 BLOB "])
def test_dimensions_of_0(server: Server, wire: Wire, words: str) -> None:
    """Past keys of length 0, as a decoder's first step has them."""
    shape = [int(word) for word in words.split() if word.isdigit()]
    blob = models.onnx_identity("FLOAT", tuple(f"d{i}" for i in range(len(shape))))
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob)
    assert wire.ask("AI.TENSORSET", "x", "FLOAT", *words.split(" ")) == b"OK"
    assert wire.ask("AI.TENSORGET", "x") == [b"dtype", b"FLOAT", b"shape", shape, b"blob", b""]
    assert wire.ask("AI.TENSORGET", "x", "VALUES") == []
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y") == [b"dtype", b"FLOAT", b"shape", shape, b"blob", b""]
    assert wire.ask("DEBUG", "RELOAD") == b"OK"
    assert wire.ask("AI.TENSORGET", "x") == [b"dtype", b"FLOAT", b"shape", shape, b"blob", b""]


@pytest.mark.parametrize("dtype", ["STRING", "BOOL", "INT64", "BFLOAT16"])
def test_dimensions_of_0_in_every_type(wire: Wire, dtype: str) -> None:
    assert wire.ask("AI.TENSORSET", "x", dtype, 2, 0) == b"OK"
    assert wire.ask("AI.TENSORGET", "x") == [b"dtype", dtype.encode(), b"shape", [2, 0], b"blob", b""]
    for words in (["VALUES", 1], ["BLOB", b"\0"]):
        assert isinstance(wire.ask("AI.TENSORSET", "x", dtype, 2, 0, *words), Error)


def test_past_keys_of_length_0(wire: Wire) -> None:
    past, new = (models.value(name, FLOAT, [1, 2, name, 3]) for name in ("past", "new"))
    node = helper.make_node("Concat", ["past", "new"], ["present"], axis=2)
    blob = models.onnx_model([node], [past, new], [models.value("present", FLOAT, [1, 2, "all", 3])])
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob)
    wire.ask("AI.TENSORSET", "past", "FLOAT", 1, 2, 0, 3)
    wire.ask("AI.TENSORSET", "new", "FLOAT", 1, 2, 1, 3, "VALUES", *range(6))
    for length in (1, 2, 3):
        assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "past", "new", "OUTPUTS", 1, "past") == b"OK"
        assert wire.ask("AI.TENSORGET", "past", "META")[3] == [1, 2, length, 3]
