"""AI.MODELGET FULL: what a model says of each input and output; and errors of runs that say the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from torch import Tensor, nn

from testkit import models, samples, scripts, tf_models
from testkit.batches import batching
from testkit.dags import ask
from testkit.paths import both_paths
from testkit.server import Server
from testkit.values import Model
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word


def details(wire: Wire, key: str = "m", *words: Word) -> list[Any]:
    """Those of the inputs, then those of the outputs, each as a dictionary."""
    reply = wire.ask("AI.MODELGET", key, "FULL", *words)
    assert reply[:16] == wire.ask("AI.MODELGET", key, "META")
    assert reply[16] == b"input_details" and reply[18] == b"output_details"
    return [[dict(zip(port[::2], port[1::2], strict=True)) for port in ports] for ports in (reply[17], reply[19])]


def port(name: str, dtype: str | None, shape: list[int] | None, **more: Any) -> dict[bytes, Any]:
    extra = {key.encode(): value for key, value in more.items()}
    return {b"name": name.encode(), b"dtype": dtype and dtype.encode(), b"shape": shape, **extra}


def without_shapes() -> bytes:
    x = helper.make_value_info("x", helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    scalar = models.value("s", TensorProto.DOUBLE, [])
    nodes = [helper.make_node("NonZero", ["x"], ["y"]), helper.make_node("Neg", ["s"], ["z"])]
    y = helper.make_value_info("y", helper.make_tensor_type_proto(TensorProto.INT64, None))
    graph = helper.make_graph(nodes, "g", [x, scalar], [y, models.value("z", TensorProto.DOUBLE, [])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


class Scaled(nn.Module):
    def forward(self, x: Tensor, factor: float, power: int, negate: bool) -> tuple[Tensor, Tensor]:
        y = x * factor**power
        return (-y, x) if negate else (y, x)


MODELS: dict[str, tuple[Model, list[Any]]] = {
    "ONNX": (
        Model("ONNX", models.onnx_add(("n", 2, None))),
        [[port("a", "FLOAT", [-1, 2, -1]), port("b", "FLOAT", [-1, 2, -1])], [port("sum", "FLOAT", [-1, 2, -1])]],
    ),
    "ONNX without shapes": (
        Model("ONNX", without_shapes()),
        [[port("x", "FLOAT", None), port("s", "DOUBLE", [])], [port("y", "INT64", [-1, -1]), port("z", "DOUBLE", [])]],
    ),
    "classes": (
        Model("ONNX", models.onnx_classifier("z", "é, b", "")),
        [
            [port("x", "FLOAT", [-1, 3])],
            [port("class", "INT64", [-1]), port("scores", "FLOAT", [-1, 3], classes=[b"z", "é, b".encode(), b""])],
        ],
    ),
    "numbers as classes": (
        Model("ONNX", models.onnx_classifier(-5, 2**62)),
        [
            [port("x", "FLOAT", [-1, 2])],
            [port("class", "INT64", [-1]), port("scores", "FLOAT", [-1, 2], classes=[b"-5", b"4611686018427387904"])],
        ],
    ),
    "a type without a name": (
        Model("ONNX", models.onnx_cast(TensorProto.FLOAT8E4M3FN, opset=19)),
        [[port("x", "FLOAT", [-1])], [port("y", None, [-1])]],
    ),
    "a sequence": (
        Model("ONNX", models.onnx_sequence()),
        [
            [port("a", "FLOAT", [-1]), port("b", "FLOAT", [-1])],
            [port("sequence", "FLOAT", None), port("sum", "FLOAT", [-1])],
        ],
    ),
    "TF": (
        Model("TF", tf_models.tf_mul((None, 2)), inputs=("a", "b"), outputs=("mul",)),
        [[port("a", "FLOAT", [-1, 2]), port("b", "FLOAT", [-1, 2])], [port("mul", "FLOAT", [-1, 2])]],
    ),
    "TF without shapes": (
        Model("TF", tf_models.tf_mul(None), inputs=("a", "b"), outputs=("mul",)),
        [[port("a", "FLOAT", None), port("b", "FLOAT", None)], [port("mul", "FLOAT", None)]],
    ),
    "TORCH": (
        Model("TORCH", models.torch_module(Scaled)),
        [
            [
                port("x", None, None),
                port("factor", "DOUBLE", None, type=b"float"),
                port("power", "INT64", None, type=b"int"),
                port("negate", "BOOL", None, type=b"bool"),
            ],
            [port("", None, None), port("", None, None)],
        ],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_models_declare(wire: Wire, name: str) -> None:
    model, wanted = MODELS[name]
    assert wire.ask(*model.words("m")) == b"OK"
    assert details(wire) == wanted
    assert wire.ask("AI.MODELGET", "m", "BLOB", "FULL")[20:] == [b"blob", model.blob]


def test_what_a_tflite_model_declares(wire: Wire) -> None:
    assert wire.ask("AI.MODELSTORE", "m", "TFLITE", "CPU", "BLOB", tf_models.tflite_two()) == b"OK"
    inputs, outputs = details(wire)
    assert [(found[b"dtype"], found[b"shape"]) for found in inputs] == [(b"FLOAT", [-1, 2])] * 2
    assert [found[b"name"] for found in inputs] == wire.ask("AI.MODELGET", "m", "META")[11]
    assert [found[b"dtype"] for found in outputs] == [b"FLOAT"] * 2


def test_full_has_what_meta_has(wire: Wire) -> None:
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
    assert wire.ask("AI.MODELGET", "m", "META", "full") == wire.ask("AI.MODELGET", "m", "FULL")


def test_scripts_have_no_details(wire: Wire) -> None:
    assert wire.ask("AI.SCRIPTSET", "s", "CPU", "SOURCE", scripts.OLD) == b"OK"
    assert wire.ask("AI.SCRIPTGET", "s", "FULL") == Error("ERR Invalid argument: FULL")


def test_copies_and_saved_models_have_them_too(wire: Wire) -> None:
    model, wanted = MODELS["classes"]
    assert wire.ask(*model.words("m")) == b"OK"
    assert wire.ask("COPY", "m", "copy") == 1
    assert details(wire, "copy") == wanted
    assert wire.ask("DEBUG", "RELOAD") == b"OK"
    wait_for(lambda: details(wire) == wanted, what="the loader has compiled the model")


def test_a_model_that_cannot_be_compiled_has_none(wire: Wire) -> None:
    samples.restore(wire, "m", samples.TF)
    assert details(wire) == [[], []]


# ---- errors of runs --------------------------------------------------------------------------------------------------


@both_paths
@pytest.mark.parametrize(
    ("dtype", "shape", "reason"),
    [
        ("DOUBLE", [1, 2], "input 'b' has type DOUBLE, expected: FLOAT: Unexpected input data type."),
        ("STRING", [1, 2], "input 'b' has type STRING, expected: FLOAT: Unexpected input data type."),
        ("FLOAT", [1, 3], "Got invalid dimensions for input: b for the following indices  index: 1 Got: 3 Expected: 2"),
        ("FLOAT", [2], "Invalid rank for input: b Got: 1 Expected: 2"),
    ],
)
def test_onnx(server: Server, wire: Wire, dtype: str, shape: list[int], reason: str) -> None:
    store(wire, Model("ONNX", models.onnx_add()), dtype, shape)
    check(wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "good", "bad", "OUTPUTS", 1, "y"), reason)
    check(ask(wire, "AI.DAGEXECUTE LOAD 2 good bad |> AI.MODELEXECUTE m INPUTS 2 good bad OUTPUTS 1 y")[0], reason)


@both_paths
def test_tensorflow(server: Server, wire: Wire) -> None:
    store(wire, MODELS["TF"][0], "FLOAT", [1, 3])
    reason = "input 'b' has shape [1, 3], expected: [-1, 2]: Incompatible shapes: [1,2] vs. [1,3]"
    check(wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "good", "bad", "OUTPUTS", 1, "y"), reason)


def test_in_batches(server: Server, wire: Wire) -> None:
    store(wire, MODELS["TF"][0], "FLOAT", [1, 3], *batching(4, 2))
    others = [server.wire() for _ in range(2)]
    for other in others:
        other.send("AI.MODELEXECUTE", "m", "INPUTS", 2, "good", "bad", "OUTPUTS", 1, "y")
    for other in others:
        check(other.read(), "input 'b' has shape [1, 3], expected: [-1, 2]: Incompatible shapes")
        other.close()


def test_in_scripts(wire: Wire) -> None:
    scripts.store_models(wire)
    store(wire, Model("ONNX", models.onnx_add()), "DOUBLE", [1, 2])
    reply = wire.ask(*scripts.execute("s", "one", ["m"], ["good", "bad"], outputs=["y"]))
    check(reply, "input 'b' has type DOUBLE, expected: FLOAT")


def store(wire: Wire, model: Model, dtype: str, shape: list[int], *options: Word) -> None:
    assert wire.ask(*model.words("m", *options)) == b"OK"
    wire.ask("AI.TENSORSET", "good", "FLOAT", 1, 2, "VALUES", 1, 2)
    wire.ask("AI.TENSORSET", "bad", dtype, *shape, "VALUES", *[1] * int(np.prod(shape)))


def check(reply: object, reason: str) -> None:
    assert isinstance(reply, Error)
    assert reply.startswith(f"ERR {reason}")
