"""Models and scripts that make a library do its worst: an error, a result or the end of the engine process, and the
server and its other clients go on."""
# TorchScript's compiler is not typed.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from testkit import models, tf_models
from testkit.isolation import ENDED, LATE, Pings, bystander, check_add, store_add
from testkit.scripts import execute, function, store_command
from testkit.server import Server
from testkit.tf_models import placeholder, spec
from testkit.values import Model
from testkit.wire import Error, Wire

SMALLEST = -(2**63)
# What the server tells of a run that took too long: the library ended ONNX's, the server the others.
TOO_LONG = f"{LATE}|ERR .*the run took more than MODEL_EXECUTION_TIMEOUT, 1000 ms.*"


@pytest.fixture(scope="module", autouse=True)
def stored(isolated: Server) -> None:
    with isolated.wire() as wire:
        store_add(wire)
        wire.ask_ok("SET", "kept", "1")


@pytest.fixture(autouse=True)
def others(isolated: Server, pings: Pings) -> Any:
    with pings.quick():
        with bystander(isolated):
            yield
        with isolated.wire() as wire:
            check_add(wire)
            assert wire.ask("GET", "kept") == b"1"
            assert wire.ask("EXISTS", "add", "kept") == 2
            wire.ask_ok("AI.INFO", "add", "RESETSTAT")


@pytest.fixture
def wire(isolated: Server) -> Any:
    with isolated.wire() as wire:
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 2)
        yield wire


def check_survived(reply: object) -> None:
    assert reply == b"OK" or isinstance(reply, Error), reply
    if isinstance(reply, Error):
        assert reply.startswith("ERR "), reply
        if "ended:" in reply:
            assert re.fullmatch(ENDED, reply), reply


def run_script(wire: Wire, body: str) -> Any:
    lines = f"x = tensors[0]\n    n = int(x[0])\n    {body}"
    reply = wire.ask(*store_command("s", HELPERS + function("f", lines), ["f"]))
    return wire.ask(*execute("s", "f", inputs=["x"], outputs=["y"])) if reply == b"OK" else reply


def run_torch(wire: Wire, body: str) -> Any:
    module: Any = type("Model", (torch.jit.ScriptModule,), {})()
    module.define(f"def forward(self, x):\n    n = int(x[0])\n    {body}\n")
    blob = io.BytesIO()
    torch.jit.save(module, blob)
    return run_model(wire, Model("TORCH", blob.getvalue()))


def run_model(wire: Wire, model: Model, inputs: tuple[str, ...] = ("x",), outputs: int = 1) -> Any:
    reply = wire.ask(*model.words("m"))
    if reply != b"OK":
        return reply
    names = [f"y{i}" for i in range(outputs)]
    return wire.ask("AI.MODELEXECUTE", "m", "INPUTS", len(inputs), *inputs, "OUTPUTS", outputs, *names)


HELPERS = "def down(n: int) -> int:\n    return down(n + 1) + 1\n"
Run = Callable[[Wire, str], Any]

TORCH = {
    "% 0": "return torch.tensor(x.size(0) % n)",
    "// 0": "return torch.tensor(x.size(0) // n)",
    "tensors % 0": "return torch.ones([3], dtype=torch.int64) % torch.zeros([3], dtype=torch.int64)",
    "tensors // 0": "return torch.ones([3], dtype=torch.int64) // torch.zeros([3], dtype=torch.int64)",
    "smallest // -1": "return torch.tensor((n - 9223372036854775807 - 1) // (n - 1))",
    "smallest tensors // -1": "return torch.full([9], -9223372036854775807 - 1) // -1",
    "smallest tensors % -1": "return torch.full([9], -9223372036854775807 - 1) % (n - 1)",
    "lcm": "return torch.lcm(torch.full([9], -9223372036854775807 - 1), torch.full([9], -1))",
    "bincount": "return torch.bincount(torch.tensor([1, 1099511627776]))",
    "bincount of the largest": "return torch.bincount(torch.tensor([1, 9223372036854775807]))",
    "one_hot": "return torch.nn.functional.one_hot(torch.tensor([1099511627776 + n]))",
    "one_hot of a negative": "return torch.nn.functional.one_hot(torch.tensor([n - 5]), 3)",
    "zeros": "return torch.zeros([1099511627776])",
    "ones, many dimensions": "return torch.ones([100000, 100000, 100000, 100000])",
    "repeat": "return x.repeat([1099511627776])",
    "repeat_interleave": "return torch.repeat_interleave(x, 1099511627776)",
    "expand, then clone": "return x[0].expand([1099511627776]).clone()",
    "arange": "return torch.arange(1099511627776)",
    "pad": "return torch.nn.functional.pad(x, [1099511627776, 0])",
    "cat without end": "y = x\n    while True:\n        y = torch.cat([y, y])\n    return y",
    "as_strided": "return torch.as_strided(x, [10], [1000000000]).clone()",
    "index": "return x[torch.tensor([1000000000])]",
    "gather": "return torch.gather(x, 0, torch.tensor([-1000000000]))",
    "take": "return torch.take(x, torch.tensor([1000000000]))",
    "scatter": "return torch.zeros([3]).scatter(0, torch.tensor([1000000000]), 1.0)",
    "index_add": "return torch.zeros([3]).index_add(0, torch.tensor([-1000000000]), torch.ones([1]))",
    "embedding": "return torch.embedding(torch.ones([3, 3]), torch.tensor([-1000000000]))",
    "embedding_bag": (
        "return torch.embedding_bag(torch.ones([3, 3]), torch.tensor([0, 1, 2]), torch.tensor([0, -100000000, 2]))[0]"
    ),
    "embedding_bag, bad index": (
        "return torch.embedding_bag(torch.ones([3, 3]), torch.tensor([0, 1000000000]), torch.tensor([0]))[0]"
    ),
    "lstm": (
        "w: List[Tensor] = []\n"
        "    return torch.lstm(torch.ones([1, 1, 3]), [torch.ones([1, 1, 3]), torch.ones([1, 1, 3])], w, True, 1, 0.0, "
        "False, False, False)[0]"
    ),
    "lstm, too few": (
        "return torch.lstm(torch.ones([1, 1, 3]), [torch.ones([1, 1, 3])], [torch.ones([12, 3])], True, 3, 0.0, "
        "False, True, False)[0]"
    ),
    "gru": "w: List[Tensor] = []\n    return torch.gru(torch.ones([1, 1, 3]), torch.ones([1, 1, 3]), w, True, 1, 0.0, "
    "False, False, False)[0]",
    "eigvals": "return torch.linalg.eigvals(torch.full([3, 3], float('inf')))",
    "svd": "return torch.linalg.svdvals(torch.full([3, 3], float('nan')))",
    "det of nothing": "return torch.linalg.det(torch.zeros([0, 0]))",
    "unfold": "return x.unfold(0, 1, 9223372036854775807)",
    "pool": "return torch.max_pool2d(torch.ones([1, 1, 1]), [3, 3])",
    "pool of the largest": "return torch.max_pool2d(torch.ones([1, 9, 9]), [3, 3], [9223372036854775807, 1])",
    "a stride of 0": "return torch.conv1d(torch.ones([1, 1, 9]), torch.ones([1, 1, 3]), stride=[0])",
    "groups of 0": "return torch.conv1d(torch.ones([1, 1, 9]), torch.ones([1, 1, 3]), groups=n)",
    "fft": "return torch.fft.fft(x, 1099511627776).real",
    "searchsorted": "return torch.searchsorted(x, torch.full([3], float('nan')))",
    "a list without end": "y: List[int] = []\n    while True:\n        y.append(1)\n    return x",
    "a string without end": "y = 'x'\n    while True:\n        y = y + y\n    return x",
    "a loop": "while bool(x.sum() == 0):\n        x = x + 0\n    return x",
    "a loop of integers": "while n < 1:\n        n = n * 1\n    return x",
    "a loop in parallel": "while bool(x.sum() == 0):\n        x = torch.relu(torch.zeros([300, 300]) @ torch.zeros([300, 300]))"
    "\n    return x",
}
ONLY_SCRIPTS = {"recursion": "return torch.tensor(down(n))"}


@pytest.mark.parametrize("what", TORCH)
@pytest.mark.parametrize("run", [run_script, run_torch])
def test_torch(wire: Wire, run: Run, what: str) -> None:
    reply = run(wire, TORCH[what])
    check_survived(reply)
    if "loop" in what:
        assert re.fullmatch(TOO_LONG, str(reply)), reply


@pytest.mark.parametrize("what", ONLY_SCRIPTS)
def test_scripts(wire: Wire, what: str) -> None:
    check_survived(run_script(wire, ONLY_SCRIPTS[what]))


# ---- ONNX ----------------------------------------------------------------------------------------------------------


def onnx_of(op: str, *constants: Any, kind: int = TensorProto.FLOAT, inputs: int = 0, **attributes: Any) -> bytes:
    """A node of these constants, after x where there is an input."""
    names = [f"c{i}" for i in range(len(constants))]
    made = [numpy_helper.from_array(np.asarray(constant), name) for constant, name in zip(constants, names, strict=True)]
    node = helper.make_node(op, ["x", *names][1 - inputs :], ["y"], **attributes)
    ends = [models.value("x", TensorProto.FLOAT, ["n"])], [models.value("y", kind, None)]
    graph = helper.make_graph([node], "g", *ends, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


INTEGER = TensorProto.INT64
ONNX: dict[str, Callable[[], bytes]] = {
    "/ 0": lambda: onnx_of("Div", np.array([1, 2, 3]), np.array([0, 0, 0]), kind=INTEGER),
    "% 0": lambda: onnx_of("Mod", np.array([1, 2, 3]), np.array([0, 0, 0]), kind=INTEGER),
    "smallest / -1": lambda: onnx_of("Div", np.full(9, SMALLEST), np.full(9, -1), kind=INTEGER),
    "smallest % -1": lambda: onnx_of("Mod", np.full(9, SMALLEST), np.full(9, -1), kind=INTEGER),
    "ConstantOfShape": lambda: onnx_of("ConstantOfShape", np.array([2**40])),
    "ConstantOfShape of two": lambda: onnx_of("ConstantOfShape", np.array([2**40, 2**40])),
    "ConstantOfShape of less": lambda: onnx_of("ConstantOfShape", np.array([-5])),
    "Expand": lambda: onnx_of("Expand", np.array([2**40]), inputs=1),
    "Tile": lambda: onnx_of("Tile", np.array([2**40]), inputs=1),
    "Range": lambda: onnx_of("Range", np.int64(0), np.int64(2**62), np.int64(1), kind=INTEGER),
    "Range of steps of 0": lambda: onnx_of("Range", np.int64(0), np.int64(9), np.int64(0), kind=INTEGER),
    "Pad": lambda: onnx_of("Pad", np.array([2**40, 0]), inputs=1),
    "Pad of less": lambda: onnx_of("Pad", np.array([-100, -100]), inputs=1),
    "OneHot": lambda: onnx_of("OneHot", np.array([1]), np.int64(2**40), np.array([0.0, 1.0], np.float32)),
    "Gather": lambda: onnx_of("Gather", np.array([10**9]), inputs=1),
    "GatherND": lambda: onnx_of("GatherND", np.array([[-(10**9)]]), inputs=1),
    "GatherElements": lambda: onnx_of("GatherElements", np.array([10**9]), inputs=1),
    "ScatterND": lambda: onnx_of("ScatterND", np.array([[10**9]]), np.array([1], np.float32), inputs=1),
    "Slice": lambda: onnx_of("Slice", np.array([SMALLEST]), np.array([2**62]), np.array([0]), np.array([SMALLEST]), inputs=1),
    "Reshape": lambda: onnx_of("Reshape", np.array([2**62, 4, -1]), inputs=1),
    "Resize": lambda: onnx_of(
        "Resize", np.array([], np.float32), np.array([1e12], np.float32), mode="nearest", inputs=1
    ),
    "TopK": lambda: onnx_of("TopK", np.array([10**9]), inputs=1),
    "MaxPool": lambda: onnx_of("MaxPool", np.ones((1, 1, 1, 1), np.float32), kernel_shape=[3, 3]),
    "Conv of groups of 0": lambda: onnx_of(
        "Conv", np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 3, 3), np.float32), group=0
    ),
    "ReverseSequence": lambda: onnx_of("ReverseSequence", np.ones((2, 2), np.float32), np.array([100, 10**9])),
    "DFT": lambda: onnx_of("DFT", np.ones((1, 8, 1), np.float32), np.int64(2**40)),
}


@pytest.mark.parametrize("what", ONNX)
def test_onnx(wire: Wire, what: str) -> None:
    check_survived(run_model(wire, Model("ONNX", ONNX[what]())))


def test_onnx_loop(wire: Wire) -> None:
    wire.ask_ok("AI.TENSORSET", "n", "INT64", "VALUES", 10**12)
    reply = run_model(wire, Model("ONNX", models.onnx_loop()), ("n",))
    assert re.fullmatch(TOO_LONG, str(reply)), reply


# ---- TF ------------------------------------------------------------------------------------------------------------


def tf(build: Callable[[Any, Any], Any]) -> Model:
    """What build(tensorflow, x) makes, which is a constant of the graph but for x."""
    blob = tf_models.graph(lambda tf: tf.identity(build(tf, placeholder("x")), name="y"))
    return Model("TF", blob, inputs=("x",), outputs=("y",))


def integers(tf: Any, x: Any, number: int) -> Any:
    """Numbers that the library does not know when it loads the graph."""
    return tf.cast(x, tf.int64) + tf.constant(number, tf.int64)


TF: dict[str, Callable[[Any, Any], Any]] = {
    "/ 0": lambda tf, x: tf.raw_ops.TruncateDiv(x=integers(tf, x, 5), y=integers(tf, x, 0)),
    "% 0": lambda tf, x: tf.raw_ops.FloorMod(x=integers(tf, x, 5), y=integers(tf, x, 0)),
    "smallest / -1": lambda tf, x: tf.raw_ops.TruncateDiv(x=integers(tf, x, SMALLEST), y=integers(tf, x, -1)),
    "smallest % -1": lambda tf, x: tf.raw_ops.FloorMod(x=integers(tf, x, SMALLEST), y=integers(tf, x, -1)),
    "smallest // -1": lambda tf, x: tf.raw_ops.FloorDiv(x=integers(tf, x, SMALLEST), y=integers(tf, x, -1)),
    "MaxPool": lambda tf, x: tf.raw_ops.MaxPool(
        input=tf.reshape(x[:1], [1, 1, 1, 1]), ksize=[1, 3, 3, 1], strides=[1, 1, 1, 1], padding="VALID"
    ),
    "fill": lambda tf, x: tf.raw_ops.Fill(dims=integers(tf, x[:1], 2**40), value=1.0),
    "fill of less": lambda tf, x: tf.raw_ops.Fill(dims=integers(tf, x[:1], -5), value=1.0),
    "fill of too much": lambda tf, x: tf.raw_ops.Fill(dims=integers(tf, x, 2**40), value=1.0),
    "tile": lambda tf, x: tf.raw_ops.Tile(input=x, multiples=integers(tf, x[:1], 2**40)),
    "pad": lambda tf, x: tf.raw_ops.Pad(input=x, paddings=tf.reshape(integers(tf, x, 2**40), [1, 2])),
    "one_hot": lambda tf, x: tf.raw_ops.OneHot(
        indices=integers(tf, x, 1), depth=tf.cast(x[0], tf.int32) + 2**30, on_value=1.0, off_value=0.0
    ),
    "gather": lambda tf, x: tf.raw_ops.GatherV2(params=x, indices=integers(tf, x, 10**9), axis=0),
    "gather of less": lambda tf, x: tf.raw_ops.GatherNd(params=x, indices=integers(tf, x[:1], -(10**9))),
    "scatter": lambda tf, x: tf.raw_ops.ScatterNd(
        indices=tf.reshape(integers(tf, x, 10**9), [2, 1]), updates=x, shape=tf.constant([5], tf.int64)
    ),
    "segments": lambda tf, x: tf.raw_ops.UnsortedSegmentSum(
        data=x, segment_ids=integers(tf, x, 10**9), num_segments=tf.constant(5)
    ),
    "segments, many": lambda tf, x: tf.raw_ops.SegmentSum(data=x, segment_ids=integers(tf, x, 2**40)),
    "bincount": lambda tf, x: tf.raw_ops.Bincount(
        arr=tf.cast(x, tf.int32), size=tf.cast(x[0], tf.int32) + 2**30, weights=x[:0]
    ),
    "range": lambda tf, x: tf.range(integers(tf, x, 0)[0], integers(tf, x, 2**40)[0], 1),
    "ReverseSequence": lambda tf, x: tf.raw_ops.ReverseSequence(
        input=tf.reshape(tf.concat([x, x], 0), [2, 2]), seq_lengths=integers(tf, x, 100), seq_dim=1
    ),
    "slice": lambda tf, x: tf.raw_ops.Slice(input=x, begin=integers(tf, x[:1], 10**9), size=integers(tf, x[:1], 1)),
    "resize": lambda tf, x: tf.raw_ops.ResizeBilinear(
        images=tf.reshape(x[:1], [1, 1, 1, 1]), size=tf.cast(x, tf.int32) + 2**24
    ),
    "strings": lambda tf, x: tf.strings.length(tf.strings.format("{}", tf.fill([2**27], x[0]), summarize=-1)),
    "decode": lambda tf, x: tf.cast(tf.io.decode_png(tf.as_string(x[0])), tf.float32),
    "while": lambda tf, x: tf.while_loop(lambda y: tf.reduce_sum(y) >= 0, lambda y: [y + 0], [x])[0],
}


@pytest.mark.parametrize("what", TF)
def test_tf(wire: Wire, what: str) -> None:
    reply = run_model(wire, tf(TF[what]))
    check_survived(reply)
    if what == "while":
        assert re.fullmatch(TOO_LONG, str(reply)), reply


# ---- TFLITE --------------------------------------------------------------------------------------------------------


def ints(tf: Any, x: Any, number: int) -> Any:
    return tf.cast(x, tf.int32) + number


TFLITE: dict[str, Callable[[Any, Any], Any]] = {
    "FLOOR_MOD by 0": lambda tf, x: tf.math.floormod(ints(tf, x, 5), ints(tf, x, 0)),
    "FLOOR_MOD by -1": lambda tf, x: tf.math.floormod(ints(tf, x, -(2**31)), ints(tf, x, -1)),
    "FLOOR_DIV by 0": lambda tf, x: tf.math.floordiv(ints(tf, x, 5), ints(tf, x, 0)),
    "FLOOR_DIV by -1": lambda tf, x: tf.math.floordiv(ints(tf, x, -(2**31)), ints(tf, x, -1)),
    "DIV by 0": lambda tf, x: tf.raw_ops.TruncateDiv(x=ints(tf, x, 5), y=ints(tf, x, 0)),
    "DIV by -1": lambda tf, x: tf.raw_ops.TruncateDiv(x=ints(tf, x, -(2**31)), y=ints(tf, x, -1)),
    "FILL": lambda tf, x: tf.fill(ints(tf, x, 2**30), x[0]),
    "FILL of less": lambda tf, x: tf.fill(ints(tf, x, -5), x[0]),
    "TILE": lambda tf, x: tf.tile(x, ints(tf, x[:1], 2**30)),
    "PADV2": lambda tf, x: tf.pad(x, tf.reshape(ints(tf, x, 2**30), [1, 2])),
    "PADV2 of less": lambda tf, x: tf.pad(x, tf.reshape(ints(tf, x, -100), [1, 2])),
    "GATHER": lambda tf, x: tf.gather(x, ints(tf, x, 10**9)),
    "GATHER of less": lambda tf, x: tf.gather(x, ints(tf, x, -(10**9))),
    "GATHER_ND": lambda tf, x: tf.gather_nd(x, tf.reshape(ints(tf, x, 10**9), [2, 1])),
    "SCATTER_ND": lambda tf, x: tf.scatter_nd(tf.reshape(ints(tf, x, 10**9), [2, 1]), x, [5]),
    "SLICE": lambda tf, x: tf.slice(x, ints(tf, x[:1], 10**9), ints(tf, x[:1], 1)),
    "RANGE": lambda tf, x: tf.range(ints(tf, x, 0)[0], ints(tf, x, 2**31 - 1)[0], 1),
    "RANGE of steps of 0": lambda tf, x: tf.range(ints(tf, x, 0)[0], ints(tf, x, 9)[0], ints(tf, x, 0)[0]),
    "RESHAPE": lambda tf, x: tf.reshape(x, ints(tf, x, 2**30)),
    "BROADCAST_TO": lambda tf, x: tf.broadcast_to(x[0], ints(tf, x, 2**30)),
    "ONE_HOT": lambda tf, x: tf.one_hot(ints(tf, x, 1), ints(tf, x, 2**30)[0]),
    "EMBEDDING_LOOKUP": lambda tf, x: tf.nn.embedding_lookup(tf.ones([3, 3]), ints(tf, x, 10**9)),
    "UNSORTED_SEGMENT_SUM": lambda tf, x: tf.math.unsorted_segment_sum(x, ints(tf, x, 10**9), 5),
    "SEGMENT_SUM": lambda tf, x: tf.math.segment_sum(x, ints(tf, x, 10**9)),
    "TOPK": lambda tf, x: tf.math.top_k(x, ints(tf, x, 10**9)[0])[0],
    "REVERSE_SEQUENCE of 100": lambda tf, x: tf.reverse_sequence(tf.ones([2, 3]), ints(tf, x, 100), seq_axis=1),
    "REVERSE_SEQUENCE of 10**9": lambda tf, x: tf.reverse_sequence(tf.ones([2, 3]), ints(tf, x, 10**9), seq_axis=1),
    "RESIZE_BILINEAR": lambda tf, x: tf.compat.v1.image.resize_bilinear(tf.ones([1, 1, 1, 1]), ints(tf, x, 2**28)),
    "WHILE": lambda tf, x: tf.while_loop(lambda y: tf.reduce_sum(y) >= 0, lambda y: [y + 0], [x])[0],
}


@pytest.mark.parametrize("what", TFLITE)
def test_tflite(wire: Wire, what: str) -> None:
    tf = tf_models.tensorflow()
    blob = tf_models.tflite(lambda x: TFLITE[what](tf, x), spec([2]))
    reply = run_model(wire, Model("TFLITE", blob))
    check_survived(reply)
    if what == "WHILE":
        assert re.fullmatch(TOO_LONG, str(reply)), reply
