"""Models whose STRING inputs and outputs hold any bytes: pictures, serialised messages, NULs, what is no UTF-8."""

# TorchScript reads comments about types in the code that it compiles, so they cannot stand there.
# mypy: disable-error-code="no-any-return, no-untyped-call"
# ruff: noqa: UP006, UP035 - TorchScript knows these spellings in every version

from __future__ import annotations

from typing import Any, Dict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from testkit import models, tf_models
from testkit.batches import Clients, batching
from testkit.dags import OK, check
from testkit.info import full_ai_info
from testkit.paths import both_paths, check_path
from testkit.server import Server
from testkit.values import Model
from testkit.wire import Error, Wire, Word
from tests.conftest import StartServer

ELEMENTS = [b"a\0b", b"", b"\0", b"\xff\0\xfe\0", bytes(range(256)) * 1000, b"plain"]
RUN = ("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")

IDENTITIES = {
    "ONNX": lambda: Model("ONNX", models.onnx_identity("STRING", ("n",))),
    "TF": lambda: Model("TF", tf_models.tf_identity("STRING"), inputs=("x",), outputs=("y",)),
    "TFLITE": lambda: Model("TFLITE", tf_models.tflite(lambda x: x, tf_models.spec([None], "string"))),
}


def raw(wire: Wire, key: str, *elements: bytes) -> None:
    assert wire.ask("AI.TENSORSET", key, "STRING", len(elements), "RAW", *elements) == b"OK"


@both_paths
@pytest.mark.parametrize("backend", IDENTITIES)
@pytest.mark.parametrize("count", [1, 3, 6])
def test_identity(server: Server, wire: Wire, backend: str, count: int) -> None:
    """Also of outputs of 256 KB, and of a MB in the next test."""
    assert wire.ask(*IDENTITIES[backend]().words("m")) == b"OK"
    raw(wire, "x", *ELEMENTS[:count])
    assert wire.ask(*RUN) == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "META", "RAW") == [
        b"dtype", b"STRING", b"shape", [count], b"values", ELEMENTS[:count],
    ]  # fmt: skip
    check_path(server, python=1)


@both_paths
@pytest.mark.parametrize("backend", IDENTITIES)
def test_large(server: Server, wire: Wire, backend: str) -> None:
    elements = [bytes(range(256)) * 4096, *[b"%d\0" % i for i in range(20_000)]]
    assert wire.ask(*IDENTITIES[backend]().words("m")) == b"OK"
    raw(wire, "x", *elements)
    for _ in range(2):  # the second takes what the first has made
        assert wire.ask(*RUN) == b"OK"
        assert wire.ask("RENAME", "y", "x") == b"OK"
    assert wire.ask("AI.TENSORGET", "x", "RAW") == elements


@both_paths
def test_pictures(server: Server, wire: Wire) -> None:
    tf = tf_models.tensorflow()
    pixels = (np.arange(2 * 5 * 7 * 3) % 251).astype(np.uint8).reshape(2, 5, 7, 3)
    pictures = [tf.io.encode_png(one).numpy() for one in pixels]
    assert all(b"\0" in picture for picture in pictures)

    def build(tf: Any) -> None:
        x = tf_models.placeholder("x", "string", [None])
        decoded = tf.map_fn(lambda one: tf.io.decode_png(one, channels=3), x, fn_output_signature=tf.uint8)
        tf.identity(decoded, name="pixels")
        tf.identity(tf.map_fn(tf.io.encode_png, decoded, fn_output_signature=tf.string), name="encoded")

    model = Model("TF", tf_models.graph(build), inputs=("x",), outputs=("pixels", "encoded"))
    assert wire.ask(*model.words("m")) == b"OK"
    raw(wire, "x", *pictures)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 2, "pixels", "encoded") == b"OK"
    assert wire.ask("AI.TENSORGET", "pixels") == [
        b"dtype", b"UINT8", b"shape", [2, 5, 7, 3], b"blob", pixels.tobytes(),
    ]  # fmt: skip
    assert wire.ask("AI.TENSORGET", "encoded", "RAW") == pictures


def test_a_jpeg(wire: Wire) -> None:
    tf = tf_models.tensorflow()
    grey = np.full((8, 8, 1), 200, np.uint8)
    jpeg = tf.io.encode_jpeg(grey).numpy()
    assert b"\0" in jpeg

    def build(tf: Any) -> None:
        tf.io.decode_jpeg(tf_models.placeholder("x", "string", []), name="y")

    assert wire.ask(*Model("TF", tf_models.graph(build), inputs=("x",), outputs=("y",)).words("m")) == b"OK"
    assert wire.ask("AI.TENSORSET", "x", "STRING", "RAW", jpeg) == b"OK"
    assert wire.ask(*RUN) == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "BLOB") == grey.tobytes()


def test_examples(wire: Wire) -> None:
    """tf.Example, as TensorFlow's servers get it."""
    tf = tf_models.tensorflow()

    def example(number: float, data: bytes) -> bytes:
        feature = {
            "number": tf.train.Feature(float_list=tf.train.FloatList(value=[number])),
            "data": tf.train.Feature(bytes_list=tf.train.BytesList(value=[data])),
        }
        return bytes(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())

    def build(tf: Any) -> None:
        x = tf_models.placeholder("x", "string", [None])
        wanted = {"number": tf.io.FixedLenFeature([], tf.float32), "data": tf.io.FixedLenFeature([], tf.string)}
        found = tf.io.parse_example(x, wanted)
        tf.identity(found["number"], name="number")
        tf.identity(found["data"], name="data")

    model = Model("TF", tf_models.graph(build), inputs=("x",), outputs=("number", "data"))
    assert wire.ask(*model.words("m")) == b"OK"
    examples = [example(0, b"a\0b"), example(2.5, b"\0")]
    assert all(b"\0" in one for one in examples)
    raw(wire, "x", *examples)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 2, "number", "data") == b"OK"
    assert wire.ask("AI.TENSORGET", "number", "VALUES") == [b"0", b"2.5"]
    assert wire.ask("AI.TENSORGET", "data", "RAW") == [b"a\0b", b"\0"]


class Texts(nn.Module):
    def forward(self, text: str, named: Dict[str, Tensor]) -> Tensor:
        total = torch.zeros(1)
        for key, x in named.items():
            total = total + x * (1000 * len(text) + len(key))
        return total


@both_paths
def test_torchscript(server: Server, wire: Wire) -> None:
    """TorchScript counts bytes, also of text that is no UTF-8."""
    assert wire.ask(*Model("TORCH", models.torch_module(Texts)).words("m")) == b"OK"
    raw(wire, "text", b"\xff\0\xfe")
    raw(wire, "keys", b"a\0b\xff")
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 2)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 3, "text", "keys", "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"6008"]


@pytest.mark.parametrize("backend", IDENTITIES)
def test_dag(wire: Wire, backend: str) -> None:
    assert wire.ask(*IDENTITIES[backend]().words("m")) == b"OK"
    words: list[Word] = ["|>", "AI.TENSORSET", "x", "STRING", 2, "RAW", b"|>", b"a\0"]
    words += ["|>", *RUN, "|>", "AI.TENSORGET", "y", "RAW"]
    words += ["|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "y", "OUTPUTS", 1, "z"]
    words += ["|>", "AI.TENSORGET", "z", "|>", "AI.TENSORGET", "z", "VALUES"]
    found = wire.ask("AI.DAGEXECUTE", "PERSIST", 1, "z", *words)
    assert isinstance(found[4], Error) and "use VALUES or RAW" in found[4]
    check([*found[:4], found[5]], [OK, OK, [b"|>", b"a\0"], OK, [b"|>", b"a\0"]])
    assert wire.ask("AI.TENSORGET", "z", "RAW") == [b"|>", b"a\0"]


@pytest.mark.parametrize("backend", ["ONNX", "TF"])
def test_batch(wire: Wire, clients: Clients, backend: str) -> None:
    """The elements of several clients are joined, run as one, and each client gets its own."""
    assert wire.ask(*IDENTITIES[backend]().words("m", *batching(100, 6))) == b"OK"
    parts = [ELEMENTS[:1], ELEMENTS[1:3], ELEMENTS[3:]]
    for _ in range(3):
        wires = [clients.wire() for _ in parts]
        for number, (other, part) in enumerate(zip(wires, parts, strict=True)):
            raw(wire, f"x{number}", *part)
            other.send("AI.MODELEXECUTE", "m", "INPUTS", 1, f"x{number}", "OUTPUTS", 1, f"y{number}")
        for number, (other, part) in enumerate(zip(wires, parts, strict=True)):
            assert other.read() == b"OK"
            assert wire.ask("AI.TENSORGET", f"y{number}", "RAW") == part
    found = full_ai_info(wire)
    assert found["calls"] == 9 and found["executions"] < 9


def test_isolated(start_server: StartServer) -> None:
    """In an engine process, small and large."""
    server = start_server(options=("ISOLATION", "process"))
    with server.wire() as wire:
        assert wire.ask(*IDENTITIES["ONNX"]().words("m")) == b"OK"
        large = [bytes(range(256)) * 4096, b"\0"]
        for elements in ([b"\0"], [b"a\0", b"", b"\0b"], large, [b"\0%d" % i for i in range(10_000)]):
            raw(wire, "x", *elements)
            assert wire.ask(*RUN) == b"OK"
            assert wire.ask("AI.TENSORGET", "y", "RAW") == elements


@pytest.mark.parametrize("operator", ["StringNormalizer", "StringSplit", "RegexFullMatch", "StringConcat"])
def test_operators_of_onnx_get_what_is_no_text(wire: Wire, operator: str) -> None:
    """They give a result or an error; the server lives."""
    from onnx import TensorProto, helper

    given = {
        "StringNormalizer": {"case_change_action": "UPPER", "locale": "C.UTF-8"},
        "StringSplit": {"delimiter": " "},
        "RegexFullMatch": {"pattern": ".*"},
    }.get(operator, {})
    inputs = ["x", "x"] if operator == "StringConcat" else ["x"]
    outputs = ["y", "z"] if operator == "StringSplit" else ["y"]
    shape = ["n", "k"] if operator == "StringSplit" else ["n"]
    ends = [models.value("y", TensorProto.BOOL if operator == "RegexFullMatch" else TensorProto.STRING, shape)]
    ends += [models.value("z", TensorProto.INT64, ["n"])] if operator == "StringSplit" else []
    node = helper.make_node(operator, inputs, outputs, **given)
    blob = models.onnx_model([node], [models.value("x", TensorProto.STRING, ["n"])], ends, opset=20)
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob) == b"OK"
    for elements in ([b"a\0b", b"c"], [b"\xff\xfe", b"\xc3"], [b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"]):
        raw(wire, "x", *elements)
        reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", len(outputs), *outputs)
        assert reply == b"OK" or (isinstance(reply, Error) and reply.startswith("ERR ")), reply
        assert reply == b"OK" or operator == "StringNormalizer", "it alone looks at characters"
