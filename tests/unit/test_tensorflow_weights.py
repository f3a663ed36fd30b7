"""Large weights of TensorFlow graphs become variables. Clients see no difference but memory."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from testkit import graph_def, tf_models
from testkit.graph_def import field, node, numbers, text
from testkit.process import rss
from testkit.tf_models import frozen, spec
from tests.unit.test_tensorflow_backend import load

SIDE = 300
ROW = np.linspace(-1, 1, SIDE, dtype=np.float32).reshape(1, SIDE)
X = node("x", "Placeholder")
FLOAT = field(6, graph_def.FLOAT)


def weight(seed: int = 0, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape or (SIDE, SIDE), np.float32)


def dense() -> bytes:
    """Three layers whose weights have the same shape."""
    blob, last = X, "x"
    for layer in range(3):
        blob += node(f"w{layer}", "Const", constant=weight(layer)) + node(
            f"b{layer}", "Const", constant=weight(9, SIDE)
        )
        blob += node(f"product{layer}", "MatMul", f"{last} w{layer}")
        blob += node(f"sum{layer}", "BiasAdd", f"product{layer} b{layer}")
        last = f"relu{layer}"
        blob += node(last, "Relu", f"sum{layer}")
    return blob + node("y", "Identity", last)


def through_identities() -> bytes:
    """As a frozen graph reads its variables; one is used twice, and the first layer's is an output's neighbour."""
    blob = (
        X + node("w", "Const", constant=weight(1)) + node("read", "Identity", "w") + node("again", "Identity", "read:0")
    )
    return blob + node("first", "MatMul", "x read") + node("y", "MatMul", "first again") + node("end", "NoOp", "^read")


def convolution(scale: bool = False) -> bytes:
    strides = {"strides": numbers([1, 1, 1, 1]), "padding": text("SAME")}
    blob = X + node("shape", "Const", constant=np.array([1, 10, 10, 3], np.int32)) + node("image", "Reshape", "x shape")
    blob += node("f", "Const", constant=weight(2, 5, 5, 3, 32)) + node("small", "Conv2D", "image f", more=strides)
    blob += node("g", "Const", constant=weight(3, 3, 3, 32, 256)) + node("large", "Conv2D", "small g", more=strides)
    blob += node("c", "Const", constant=weight(4, 256)) + node("scaled", "Mul" if scale else "BiasAdd", "large c")
    return blob + node("y", "Relu", "scaled")


def gather() -> bytes:
    of = {"Tparams": FLOAT, "Tindices": field(6, graph_def.INT32), "Taxis": field(6, graph_def.INT32)}
    blob = X + node("table", "Const", constant=weight(5, 1000, SIDE)) + node("axis", "Const", constant=np.int32(0))
    blob += node("indices", "Cast", "x", more={"SrcT": FLOAT, "DstT": field(6, graph_def.INT32)})
    return blob + node("y", "GatherV2", "table indices axis", more=of)


def einsum() -> bytes:
    of = {"equation": text("ab,bc->ac"), "N": field(3, 2)}
    return X + node("w", "Const", constant=weight(6)) + node("y", "Einsum", "x w", more=of)


def batched() -> bytes:
    return X + node("w", "Const", constant=weight(7)) + node("y", "BatchMatMulV2", "x w")


CASES: dict[str, tuple[Callable[[], bytes], int]] = {
    "dense": (dense, 3),
    "identities": (through_identities, 1),
    "convolution": (convolution, 1),
    "gather": (gather, 1),
    "einsum": (einsum, 1),
    "batched": (batched, 1),
}


def module(name: str = "") -> Any:
    load(tf_models.tf_mul(), "a b", "mul")
    return sys.modules["redisai_backend_tf" + name]


def weights(blob: bytes, *ports: str) -> list[Any]:
    found: list[Any] = module(".weights").split(blob, ports or ("x", "y"))[1]
    return found


def whole(monkeypatch: pytest.MonkeyPatch, blob: bytes, outputs: str = "y", inter: int = 0) -> Any:
    """The session of a graph that keeps its weights."""
    with monkeypatch.context() as patch:
        patch.setattr(module(), "split", lambda blob, ports: (blob, []))
        return load(blob, "x", outputs, inter_op_parallelism=inter)


@pytest.mark.parametrize("inter", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_outputs_are_the_same(monkeypatch: pytest.MonkeyPatch, name: str, inter: int) -> None:
    build, count = CASES[name]
    blob = build()
    assert len(weights(blob)) == count
    session = load(blob, "x", "y", inter_op_parallelism=inter)
    other = whole(monkeypatch, blob, inter=inter)
    for sign in 1, 2:
        np.testing.assert_array_equal(session.run([abs(ROW * sign)])[0], other.run([abs(ROW * sign)])[0])


def test_two_sessions_have_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = [X + node("w", "Const", constant=weight(seed)) + node("y", "MatMul", "x w") for seed in (1, 2)]
    sessions: list[Any] = [load(blob, "x", "y") for blob in blobs]
    for seed, session in enumerate(sessions, 1):
        (y,) = session.run([ROW])
        np.testing.assert_allclose(y, ROW @ weight(seed), rtol=1e-3, atol=1e-4)


W = node("w", "Const", constant=weight())
SMALL = node("small", "Const", constant=weight(0, SIDE, 2))
STAY: dict[str, Callable[[], bytes]] = {
    "added": lambda: X + W + node("y", "AddV2", "x w"),
    "added and multiplied": lambda: X + W + node("product", "MatMul", "x w") + node("y", "AddV2", "product w"),
    "of constants alone": lambda: X + W + node("square", "MatMul", "w w") + node("y", "MatMul", "x square"),
    "an output": lambda: X + node("y", "Const", constant=weight()) + node("z", "MatMul", "x y"),
    "an output's source": lambda: X + W + node("y", "Identity", "w") + node("z", "MatMul", "x y"),
    "an input": lambda: node("x", "Const", constant=weight()) + SMALL + node("y", "MatMul", "x small"),
    "small": lambda: X + SMALL + node("y", "MatMul", "x small"),
    "filters that are scaled": lambda: convolution(scale=True),
    "unused": lambda: X + W + node("y", "Relu", "x"),
    "waits": lambda: X + node("w", "Const", "^x", constant=weight()) + node("y", "MatMul", "x w"),
}  # fmt: skip


@pytest.mark.parametrize("name", STAY)
def test_what_stays_a_constant(name: str) -> None:
    """TensorFlow computes what depends on constants alone only once. Inputs and outputs keep their meaning."""
    assert weights(STAY[name]()) == []
    load(STAY[name](), "x", "y").run([ROW])


def test_names_that_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes, an input and an output have the names that the variables would get."""
    blob = node("weights0", "Placeholder") + node("weights1/0/value", "Const", constant=weight(1))
    blob += node("a", "MatMul", "weights0 weights1/0/value") + node("weights2", "Const", constant=weight(2))
    blob += node("weights3/0/assignment", "MatMul", "a weights2")
    session: Any = load(blob, "weights0", "weights3/0/assignment")
    assert len(weights(blob, "weights0", "weights3/0/assignment")) == 2
    (y,) = session.run([ROW])
    np.testing.assert_allclose(y, ROW @ weight(1) @ weight(2), rtol=1e-3, atol=1e-2)
    with pytest.raises(ValueError, match='Output node named "weights4/0" not found'):
        load(blob, "weights0", "weights4/0")


def test_variables_of_the_graph_keep_theirs() -> None:
    """One that has the name of a weight's variable."""
    shared = {"dtype": FLOAT, "shape": graph_def.shape([SIDE, SIDE]), "shared_name": text("weights0/0")}
    blob = X + W + node("product", "MatMul", "x w") + node("v", "VarHandleOp", more=shared)
    blob += node("y", "ReadVariableOp", "v", more={"dtype": FLOAT})
    with pytest.raises(ValueError, match="a variable without a value"):
        load(blob, "x", "y product")


def test_falls_back_to_the_whole_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load(dense(), "x", "y").run([ROW])[0]
    calls = []

    def fail(*arguments: object) -> None:
        calls.append(arguments)
        raise RuntimeError("no assignment")

    monkeypatch.setattr(module().Session, "_run_first", fail)
    np.testing.assert_array_equal(load(dense(), "x", "y").run([ROW])[0], expected)
    assert calls


@pytest.mark.parametrize("lower", [True, False])
def test_control_flow(monkeypatch: pytest.MonkeyPatch, lower: bool) -> None:
    """A weight before a loop, and one within it."""
    tf = tf_models.tensorflow()
    before, within = tf.constant(weight(1) / SIDE), tf.constant(weight(2) / SIDE)

    def function(x: Any) -> Any:
        return tf.while_loop(lambda i, v: i < 3, lambda i, v: (i + 1, tf.matmul(v, within)), [0, tf.matmul(x, before)])[
            1
        ]

    blob, output = frozen(function, spec([None, SIDE]), lower_control_flow=lower)
    assert len(weights(blob, "x", output)) == 1
    (y,), (z,) = load(blob, "x", output).run([ROW]), whole(monkeypatch, blob, output).run([ROW])
    np.testing.assert_array_equal(y, z)


def constant(shape: bytes, data: bytes, more: bytes = b"", dtype: int = graph_def.FLOAT) -> bytes:
    """x and a constant w of a tensor as given, multiplied."""
    value = field(8, field(1, dtype) + field(2, shape) + field(4, data) + more)
    w = node("w", "Const", more={"dtype": field(6, dtype), "value": value})
    return X + w + node("y", "MatMul", "x w")


def dims(*sizes: int) -> bytes:
    return b"".join(field(2, field(1, size)) for size in sizes)


DATA = weight().tobytes()
ODD: dict[str, bytes] = {
    "too few bytes": constant(dims(SIDE, SIDE), DATA[:-4]),
    "too many bytes": constant(dims(SIDE, SIDE), DATA + bytes(4)),
    "not whole elements": constant(dims(SIDE, SIDE), DATA[:-1]),
    "negative": constant(dims(-SIDE, -SIDE), DATA),
    "overflow": constant(dims(1 << 32, 1 << 32), DATA),
    "overflow to the size": constant(dims(1 << 62, SIDE * SIDE, 4), DATA),
    "empty": constant(dims(0, SIDE), DATA),
    "unknown rank": constant(field(3, 1), DATA),
    "many dimensions": constant(dims(SIDE, SIDE, *[1] * 300), DATA),
    "a number where the data should be": constant(dims(SIDE, SIDE), DATA, field(4, 5)),
    "data twice": constant(dims(SIDE, SIDE), DATA, field(4, DATA[:-4])),
    "values besides": constant(dims(SIDE, SIDE), DATA, field(5, DATA)),
    "no such type": constant(dims(SIDE, SIDE), DATA, dtype=77),
    "strings": constant(dims(SIDE, SIDE), DATA, dtype=7),
    "resources": constant(dims(SIDE, SIDE), DATA, dtype=20),
    "halves": constant(dims(SIDE, 2 * SIDE), DATA, dtype=19),
    "the same name twice": W + X + W + node("y", "MatMul", "x w"),
    "a name that is no text": X + W.replace(b"w", b"\xff", 1) + node("y", "MatMul", "x x"),
    "a circle": X + node("w", "Const", constant=weight()) + node("a", "Identity", "b") + node("b", "Identity", "a")
    + node("y", "MatMul", "a w"),
    "a circle of its own": X + W + node("a", "Identity", "w b") + node("b", "Identity", "a")
    + node("y", "MatMul", "x b"),
    "no such input": X + W + node("y", "MatMul", "z w"),
    "no such factor": X + W + node("y", "MatMul", "x w") + node("z", "Mul", "u v"),
    "no such output": X + W + node("y", "MatMul", "x w:1"),
    "another shape": X + node("w", "Const", constant=weight(0, SIDE + 1, SIDE)) + node("y", "MatMul", "x w"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_constants_have_the_same_outcome(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def outcome(open: Callable[[], Any]) -> object:
        try:
            return open().run([ROW])[0].tolist()
        except (RuntimeError, ValueError, TypeError) as error:
            return type(error), str(error).replace("{{node w}}", "")

    assert outcome(lambda: load(ODD[name], "x", "y")) == outcome(lambda: whole(monkeypatch, ODD[name]))


def test_damaged_graphs_are_errors_or_run() -> None:
    """Only bytes that are no weights are damaged."""
    sound = through_identities()
    begin = sound.index(weight(1).tobytes())
    places = [*range(begin), *range(begin + weight(1).nbytes, len(sound))]
    chance = random.Random(5)
    for _ in range(300):
        blob = bytearray(sound)
        for _ in range(chance.randrange(1, 4)):
            blob[chance.choice(places)] = chance.choice([0, 1, 127, 128, 255])
        try:
            load(bytes(blob), "x", "y").run([ROW])
        except (RuntimeError, ValueError, PermissionError):
            continue


def test_weights_above_the_limit_are_refused_at_once() -> None:
    load(tf_models.tf_mul(), "a b", "mul")  # the limit of the first session is the library's
    blob = X + node("w", "Const", constant=weight(0, 1000, 1025)) + node("y", "MatMul", "x w")
    with pytest.raises(
        MemoryError, match="^the model's weights take 5 MB, more than BACKEND_MEMORY_LIMIT allows, 4 MB$"
    ):
        load(blob, "x", "y", backend_memory_limit=4)


def test_memory_comes_back() -> None:
    blob = X + node("w", "Const", constant=weight(0, 1000, 1000)) + node("y", "MatMul", "x w")
    row = np.ones((1, 1000), np.float32)
    for _ in range(10):
        load(blob, "x", "y").run([row])
    before = rss("self")
    for _ in range(50):  # 200 MB, were all of it kept
        load(blob, "x", "y").run([row])
    gc.collect()
    assert rss("self") < before + (50 << 20)
