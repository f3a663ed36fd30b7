"""Batching of models that cannot be batched, fail in a batch, or have odd inputs and outputs."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from testkit import models, tf_models
from testkit.batches import Clients, batch, batching, store, store_witness, strict
from testkit.info import full_ai_info
from testkit.server import Server
from testkit.values import Model
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word

Array = npt.NDArray[Any]
Outcome = list[Array] | Error

NAMES = {np.dtype(kind): name for name, kind in tf_models.TF_TYPES.items() if name != "STRING"}
DTYPES = {name.encode(): dtype for dtype, name in NAMES.items()}
FLOAT = TensorProto.FLOAT
BACKENDS = ("ONNX", "TORCH", "TF", "TFLITE")


def floats(*rows: Sequence[float]) -> Array:
    return np.array(rows, np.float32)


def write(wire: Wire, key: str, array: Array) -> None:
    if array.dtype == object:
        words: list[Word] = ["STRING", *array.shape, "RAW", *array.ravel()]
    else:
        words = [NAMES[array.dtype], *array.shape, "BLOB", array.tobytes()]
    assert wire.ask("AI.TENSORSET", key, *words) == b"OK"


def read(wire: Wire, key: str) -> Array:
    _, dtype, _, shape, _, data = wire.ask("AI.TENSORGET", key, "META", "RAW")
    if dtype == b"STRING":
        return np.array(data, object).reshape(shape)
    return np.frombuffer(data, DTYPES[dtype]).reshape(shape)


class Together:
    """Runs of one model that are on their way at the same time, each on a connection of its own."""

    def __init__(self, clients: Clients, *feeds: Sequence[Array], outputs: int = 1, prefix: str = "") -> None:
        self.outputs = [[f"{prefix}y{i}:{k}" for k in range(outputs)] for i in range(len(feeds))]
        self.wires = [clients.wire() for _ in feeds]
        for i, (wire, arrays) in enumerate(zip(self.wires, feeds, strict=True)):
            for k, array in enumerate(arrays):
                write(wire, f"{prefix}x{i}:{k}", array)
            names = [f"{prefix}x{i}:{k}" for k in range(len(arrays))]
            wire.ask("DEL", *self.outputs[i])
            wire.send("AI.MODELEXECUTE", "m", "INPUTS", len(names), *names, "OUTPUTS", outputs, *self.outputs[i])

    def outcomes(self) -> list[Outcome]:
        found: list[Outcome] = []
        for wire, names in zip(self.wires, self.outputs, strict=True):
            reply = wire.read()
            if isinstance(reply, Error):
                assert wire.ask("EXISTS", *names) == 0
                found.append(reply)
            else:
                assert reply == b"OK"
                found.append([read(wire, name) for name in names])
        return found


def together(clients: Clients, *feeds: Sequence[Array], outputs: int = 1) -> list[Outcome]:
    return Together(clients, *feeds, outputs=outputs).outcomes()


def same(outcome: Outcome, *expected: Array) -> bool:
    assert not isinstance(outcome, Error), outcome
    pairs = list(zip(outcome, expected, strict=True))
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist() for a, b in pairs)


# ---- models that cannot be batched ---------------------------------------------------------------------------------


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(1, 2) + 1


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0, keepdim=True)


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1)


def fixed(x: Any) -> Any:
    tf = tf_models.tensorflow()
    return tf.reshape(tf.concat([x, x], 0), [1, 4])[:, :2] + 1


def total(x: Any) -> Any:
    return tf_models.tensorflow().reduce_sum(x)


def mean(x: Any) -> Any:
    return tf_models.tensorflow().reduce_mean(x, 0, keepdims=True)


def flat(x: Any) -> Any:
    return tf_models.tensorflow().reshape(x, [-1])


def tf_model(function: Callable[[Any], Any]) -> Model:
    def build(tf: Any) -> None:
        tf.identity(function(tf_models.placeholder()), name="y")

    return Model("TF", tf_models.graph(build), inputs=("x",), outputs=("y",))


def onnx_odd(kind: str) -> bytes:
    x = models.value("x", FLOAT, ["n", 2])
    if kind == "fixed":
        one = numpy_helper.from_array(np.array([1], np.float32), "one")
        ends = [models.value(name, FLOAT, [1, 2]) for name in "xy"]
        return models.onnx_model([helper.make_node("Add", ["x", "one"], ["y"])], ends[:1], ends[1:], [one])
    if kind == "total":
        return models.onnx_node("ReduceSum", [x], [models.value("y", FLOAT, [])], keepdims=0)
    if kind == "mean":
        return models.onnx_node("ReduceMean", [x], [models.value("y", FLOAT, [1, 2])], axes=[0])
    shape = numpy_helper.from_array(np.array([-1]), "shape")
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    return models.onnx_model(nodes, [x], [models.value("y", FLOAT, ["n"])], [shape])


TORCH_ODD: dict[str, Any] = {"fixed": Fixed, "total": models.Total, "mean": Mean, "flat": Flat}
TF_ODD: dict[str, Callable[[Any], Any]] = {"fixed": fixed, "total": total, "mean": mean, "flat": flat}
RESULTS: dict[str, Callable[[Array], Array]] = {
    "fixed": lambda x: x + 1,
    "total": lambda x: np.array(x.sum(), np.float32),
    "mean": lambda x: x.mean(0, keepdims=True),
    "flat": lambda x: x.reshape(-1),
}


def odd(kind: str, backend: str) -> Model:
    if backend == "ONNX":
        return Model(backend, onnx_odd(kind))
    if backend == "TORCH":
        return Model(backend, models.torch_module(TORCH_ODD[kind]))
    if backend == "TF":
        return tf_model(TF_ODD[kind])
    return Model(backend, tf_models.tflite(TF_ODD[kind], tf_models.spec([1 if kind == "fixed" else None, 2])))


def warnings(server: Server, before: str) -> list[str]:
    return [line for line in server.log()[len(before) :].splitlines() if " # " in line]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", list(RESULTS))
@pytest.mark.parametrize("min_size", [0, 4])
def test_models_that_cannot_be_batched(
    server: Server, wire: Wire, clients: Clients, backend: str, kind: str, min_size: int
) -> None:
    """Each request is run by itself and right, and the log says so once."""
    before = server.log()
    store(wire, "m", odd(kind, backend), *batching(8, min_size))
    inputs = [floats([i, i + 0.5]) for i in range(4)]
    for turn in range(3):
        if min_size:
            runs = Together(clients, *([x] for x in inputs))
        else:
            with clients.busy_worker():
                runs = Together(clients, *([x] for x in inputs))
                clients.wait_blocked(len(inputs) + 1)
        for outcome, x in zip(runs.outcomes(), inputs, strict=True):
            assert same(outcome, RESULTS[kind](x)), (turn, outcome, x)
    found = full_ai_info(wire)
    assert (found["calls"], found["executions"], found["errors"]) == (12, 12, 0)
    wait_for(lambda: warnings(server, before))  # an engine process tells it on another way than its results
    (warning,) = warnings(server, before)
    assert "batch" in warning.lower()


@pytest.mark.parametrize("kind", ["fixed", "total"])
def test_a_model_known_not_to_be_batched_waits_for_nobody(wire: Wire, clients: Clients, kind: str) -> None:
    store(wire, "m", odd(kind, "ONNX"), *batching(8, 4))
    x = floats([1, 2])
    together(clients, *([x] for _ in range(4)))
    (outcome,) = together(clients, [x])
    assert same(outcome, RESULTS[kind](x))


def test_those_who_wait_when_it_turns_out(wire: Wire, clients: Clients) -> None:
    """Requests of another shape that wait for a minimum need not wait any more."""
    store(wire, "m", odd("total", "TORCH"), *batching(8, 4))
    early = Together(clients, [floats([1, 2, 3])], [floats([4, 5, 6])], prefix="early:")
    clients.wait_blocked(2)
    for outcome in together(clients, *([floats([1, 2])] for _ in range(4))):
        assert same(outcome, np.array(3, np.float32))
    first, second = early.outcomes()
    assert same(first, np.array(6, np.float32)) and same(second, np.array(15, np.float32))


def test_a_model_that_is_stored_again_may_be_batched(wire: Wire, clients: Clients) -> None:
    store(wire, "m", odd("total", "TORCH"), *batching(8, 4))
    together(clients, *([floats([1, 2])] for _ in range(4)))
    store_witness(wire, size=8, min_size=4)
    requests = clients.each(1, 1, 1, 1)
    for request in requests:
        request.send()
    assert [request.result() for request in requests] == [batch(4, 0, 1, 2, 3)] * 4


# ---- models that can, and fail --------------------------------------------------------------------------------------

GOOD, BAD = floats([1], [2]), floats([1_000_000])
OUT_OF_BOUNDS = {"ONNX": "out of data bounds", "TORCH": "out of bounds", "TF": "is not in [0, 100)"}


@pytest.mark.parametrize("backend", OUT_OF_BOUNDS)
def test_a_batch_that_fails_gives_each_request_the_error(wire: Wire, clients: Clients, backend: str) -> None:
    store(wire, "m", strict(backend), *batching(8, 5))
    for _ in range(3):
        assert all(same(outcome, GOOD * 2) for outcome in together(clients, [GOOD], [GOOD], [GOOD]))
    wire.ask("AI.INFO", "m", "RESETSTAT")
    outcomes = together(clients, [GOOD], [BAD], [GOOD])
    assert all(isinstance(outcome, Error) and OUT_OF_BOUNDS[backend] in outcome for outcome in outcomes), outcomes
    assert len(set(map(str, outcomes))) == 1
    found = full_ai_info(wire)
    assert (found["calls"], found["errors"]) == (3, 3)
    assert all(same(outcome, GOOD * 2) for outcome in together(clients, [GOOD], [GOOD], [GOOD]))
    assert full_ai_info(wire)["errors"] == 3


@pytest.mark.parametrize("backend", OUT_OF_BOUNDS)
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_first_batch_that_fails_proves_nothing(
    server: Server, wire: Wire, clients: Clients, backend: str, bad: int
) -> None:
    """As long as it is not known whether a model can be batched, an error is that of the request that caused it."""
    before = server.log()
    store(wire, "m", strict(backend), *batching(8, 5))
    outcomes = together(clients, *([BAD if i == bad else GOOD] for i in range(3)))
    for i, outcome in enumerate(outcomes):
        assert isinstance(outcome, Error) if i == bad else same(outcome, GOOD * 2)
    for _ in range(3):
        assert all(same(outcome, GOOD * 2) for outcome in together(clients, [GOOD], [GOOD], [GOOD]))
    found = full_ai_info(wire)
    assert (found["calls"], found["errors"]) == (12, 1)
    assert found["executions"] < 12, "it is batched after all"
    assert warnings(server, before) == []


class Keep(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x[:, 0] > 0]


def keep(backend: str) -> Model:
    """The rows that begin with a positive number."""
    if backend == "TORCH":
        return Model(backend, models.torch_module(Keep))
    if backend == "TF":
        return tf_model(
            lambda x: tf_models.tensorflow().boolean_mask(x, tf_models.tensorflow().reshape(x[:, :1], [-1]) > 0)
        )
    nodes = [
        helper.make_node("Gather", ["x", "first"], ["column"], axis=1),
        helper.make_node("Greater", ["column", "zero"], ["wanted"]),
        helper.make_node("Compress", ["x", "wanted"], ["y"], axis=0),
    ]
    constants = {"first": np.int64(0), "zero": np.float32(0)}
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    ends = [models.value("x", FLOAT, ["n", 2]), models.value("y", FLOAT, ["k", 2])]
    return Model(backend, models.onnx_model(nodes, ends[:1], ends[1:], weights))


@pytest.mark.parametrize("backend", OUT_OF_BOUNDS)
def test_a_batch_that_comes_out_with_other_rows(wire: Wire, clients: Clients, backend: str) -> None:
    store(wire, "m", keep(backend), *batching(8, 4))
    good, bad = floats([1, 2]), floats([-1, 2], [3, 4])
    for _ in range(2):
        assert all(same(outcome, good) for outcome in together(clients, *[[good]] * 4))
    outcomes = together(clients, [good], [bad], [good])
    assert outcomes == ["ERR Model did not generate the expected batch size"] * 3
    found = full_ai_info(wire)
    assert (found["calls"], found["errors"]) == (11, 3)
    assert all(same(outcome, good) for outcome in together(clients, *[[good]] * 4))


def test_a_run_alone_may_have_any_rows(wire: Wire, clients: Clients) -> None:
    """Even of a model that can be batched: BATCHSIZE is reached, so nothing has to be divided."""
    store(wire, "m", keep("ONNX"), *batching(3))
    (outcome,) = together(clients, [floats([-1, 2], [3, 4], [5, 6])])
    assert same(outcome, floats([3, 4], [5, 6]))


@pytest.mark.parametrize("backend", ["ONNX", "TORCH"])
def test_other_types_fail_by_themselves(wire: Wire, clients: Clients, backend: str) -> None:
    blob = models.onnx_identity("FLOAT", ("n", 2)) if backend == "ONNX" else models.torch_module(models.InPlaceAdd)
    store(wire, "m", Model(backend, blob), *batching(8, 2))
    x = floats([1, 2])
    expected = x if backend == "ONNX" else x + 1
    for _ in range(3):
        one, two, three, four = together(clients, [x], [x > 0], [x], [x > 0])
        assert same(one, expected) and same(three, expected)
        assert isinstance(two, Error) and isinstance(four, Error)
    assert full_ai_info(wire)["errors"] == 6


def test_another_number_of_outputs_than_the_model_has(wire: Wire, clients: Clients) -> None:
    """Is the mistake of one request, not of those it could have been batched with."""
    store(wire, "m", Model("TORCH", models.torch_module(models.SumAndProduct)), *batching(8, 3))
    x = floats([1, 2])
    for _ in range(2):
        pair = Together(clients, [x, x], [x, x], outputs=2)
        run = ("AI.MODELEXECUTE", "m", "INPUTS", 2, "x0:0", "x0:1", "OUTPUTS")
        text = "ERR Number of keys given as OUTPUTS here does not match model definition"
        assert wire.ask(*run, 1, "a") == wire.ask(*run, 3, "a", "b", "c") == text
        assert wire.ask(*run, 2, "a", "b") == b"OK"
        assert all(same(outcome, x * 2, x * x) for outcome in pair.outcomes())


# ---- inputs and outputs ---------------------------------------------------------------------------------------------


def test_inputs_of_different_rows_run_alone(wire: Wire, clients: Clients) -> None:
    store(wire, "m", Model("TORCH", models.torch_module(models.Add)), *batching(8, 4))
    a, b = floats([1, 2], [3, 4], [5, 6]), floats([10, 20])
    for left, right in (a, b), (b, a), (a, np.array(5, np.float32)), (np.array([1, 2], np.float32), a):
        (outcome,) = together(clients, [left, right])
        assert same(outcome, left + right)


@pytest.mark.parametrize("backend", ["ONNX", "TORCH", "TF", "TFLITE"])
def test_several_inputs_of_equal_rows(wire: Wire, clients: Clients, backend: str) -> None:
    inputs, outputs = ("a", "b"), ("mul",)
    if backend == "ONNX":
        blob = models.onnx_mul()
    elif backend == "TORCH":
        blob = models.torch_module(models.SumAndProduct)
    elif backend == "TF":
        blob = tf_models.tf_mul()
    else:
        blob = tf_models.tflite(lambda a, b: a * b, *(tf_models.spec([None, 2], name=name) for name in "ab"))
    store(wire, "m", Model(backend, blob, inputs=inputs, outputs=outputs), *batching(8, 6))
    chance = np.random.default_rng(1)
    for _ in range(3):
        feeds = [[chance.integers(0, 100, (rows, 2)).astype(np.float32) for _ in "ab"] for rows in (1, 3, 2)]
        outcomes = together(clients, *feeds, outputs=2 if backend == "TORCH" else 1)
        for outcome, (a, b) in zip(outcomes, feeds, strict=True):
            assert same(outcome, a + b, a * b) if backend == "TORCH" else same(outcome, a * b)
    found = full_ai_info(wire)
    assert (found["calls"], found["samples"], found["executions"]) == (9, 18, 4)


# TorchScript has no strings, and no TensorFlow Lite model can be made for BFLOAT16.
LACKING = (("TORCH", "STRING"), ("TFLITE", "BFLOAT16"))
TYPES = [(backend, dtype) for backend in BACKENDS for dtype in models.ONNX_TYPES if (backend, dtype) not in LACKING]


@pytest.mark.parametrize(("backend", "dtype"), TYPES)
def test_every_type(wire: Wire, clients: Clients, backend: str, dtype: str) -> None:
    """Strings of different lengths, and empty ones, too."""
    inputs, outputs = ("x",), ("y",)
    if backend == "ONNX":
        blob = models.onnx_identity(dtype, ("n", 3))
    elif backend == "TORCH":
        blob = models.torch_module(models.Identity)
    elif backend == "TF":
        blob = tf_models.tf_identity(dtype)
    else:
        blob = tf_models.tflite(lambda x: x, tf_models.spec([None, 3], tf_models.TF_TYPES[dtype]))
    store(wire, "m", Model(backend, blob, inputs=inputs, outputs=outputs), *batching(8, 6))
    for _ in range(3):
        if dtype == "STRING":
            words = np.array(
                [b"", b"a\0", b"zwei", b"vier" * 100, "drei\u00df".encode(), b"\0", b"x" * 23, b"\0y" * 12, b"z"],
                object,
            )
            feeds = [[np.resize(np.roll(words, i), (i, 3))] for i in (1, 3, 2)]
        else:
            kind = np.dtype(tf_models.TF_TYPES[dtype])
            feeds = [
                [(np.arange(3 * i) % (2 if dtype == "BOOL" else 127)).astype(kind).reshape(i, 3)] for i in (1, 3, 2)
            ]
        for outcome, (x,) in zip(together(clients, *feeds), feeds, strict=True):
            assert same(outcome, x)
    found = full_ai_info(wire)
    assert (found["calls"], found["samples"], found["executions"]) == (9, 18, 4)


def test_strings_and_numbers_in_one_model(wire: Wire, clients: Clients) -> None:
    ends = [(f"{name}{i}", kind) for i in "xy" for name, kind in (("s", TensorProto.STRING), ("f", FLOAT))]
    values = [models.value(name, kind, ["n"]) for name, kind in ends]
    nodes = [helper.make_node("Identity", [f"{name}x"], [f"{name}y"]) for name in "sf"]
    store(wire, "m", Model("ONNX", models.onnx_model(nodes, values[:2], values[2:])), *batching(8, 4))
    feeds = [[np.array([b"%d" % i * i], object), np.array([i], np.float32)] for i in range(4)]
    for _ in range(3):
        for outcome, (s, f) in zip(together(clients, *feeds, outputs=2), feeds, strict=True):
            assert same(outcome, s, f)
    assert full_ai_info(wire)["executions"] == 4


@pytest.mark.parametrize("module", [models.InPlaceAdd, models.InPlaceRelu, models.InPlaceItem])
def test_models_that_write_to_their_inputs(wire: Wire, clients: Clients, module: Any) -> None:
    store(wire, "m", Model("TORCH", models.torch_module(module)), *batching(8, 3))
    feeds = [[floats([i, -i])] for i in range(1, 4)]
    for _ in range(3):
        for outcome, (x,) in zip(together(clients, *feeds), feeds, strict=True):
            if module is models.InPlaceItem:
                assert not isinstance(outcome, Error)  # what row 0 is depends on the batch
            else:
                assert same(outcome, x + 1 if module is models.InPlaceAdd else np.maximum(x, 0))
        for i, (x,) in enumerate(feeds):
            assert same([read(wire, f"x{i}:0")], x)


class Strided(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x[:, ::2], x.transpose(1, 2), x[:, :1].expand(x.size(0), 3, x.size(2))


def test_outputs_that_are_views(wire: Wire, clients: Clients) -> None:
    store(wire, "m", Model("TORCH", models.torch_module(Strided)), *batching(8, 6))
    feeds = [[np.arange(i * 12, dtype=np.float32).reshape(i, 3, 4) * i] for i in (2, 1, 3)]
    for _ in range(3):
        for outcome, (x,) in zip(together(clients, *feeds, outputs=3), feeds, strict=True):
            assert same(outcome, x[:, ::2], x.transpose(0, 2, 1), np.repeat(x[:, :1], 3, 1))
    assert full_ai_info(wire)["executions"] == 4


def test_sequences_are_not_divided(wire: Wire, clients: Clients) -> None:
    """Their 0th dimension is not the batch, so these are run one by one."""
    store(wire, "m", Model("ONNX", models.onnx_sequence()), *batching(8, 3))
    feeds = [[floats(*[[i]] * rows)[:, 0]] * 2 for i, rows in ((1, 1), (2, 3), (3, 1))]
    for _ in range(2):
        for outcome, (x, _) in zip(together(clients, *feeds, outputs=2), feeds, strict=True):
            assert same(outcome, np.stack([x, x]), x + x)


def test_an_output_that_is_no_tensor(wire: Wire, clients: Clients) -> None:
    store(wire, "m", Model("ONNX", models.onnx_ragged()), *batching(8, 3))
    x = np.array([3], np.float32)
    for _ in range(2):
        for outcome in together(clients, *[[x, x]] * 3, outputs=2):
            assert isinstance(outcome, Error) and "output 'sequence'" in outcome


def test_a_classifiers_scores_are_divided(wire: Wire, clients: Clients) -> None:
    store(wire, "m", Model("ONNX", models.onnx_classifier(5, -3)), *batching(8, 6))
    feeds = [[np.arange(rows * 2, dtype=np.float32).reshape(rows, 2) + rows] for rows in (1, 3, 2)]
    for _ in range(4):
        for outcome, (x,) in zip(together(clients, *feeds, outputs=2), feeds, strict=True):
            assert same(outcome, x.argmax(1), x)
    found = full_ai_info(wire)
    assert found["executions"] < 12, "some ran as one"


def test_large_tensors(wire: Wire, clients: Clients) -> None:
    """Those that lie in the strings that brought them, beside small ones with the same batch key."""
    store_witness(wire, size=8, min_size=7)
    requests = [clients.one(number, rows, width=200_000) for number, rows in enumerate((1, 4, 2))]
    for request in requests:
        request.send()
    assert [request.result() for request in requests] == [batch(7, 0, 1, 2)] * 3


def test_inputs_without_rows(wire: Wire, clients: Clients) -> None:
    """Which a model may have made: they run at once, by themselves."""
    store(wire, "none", keep("ONNX"))
    store_witness(wire, size=8, min_size=4)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", -1, -1)
    assert wire.ask("AI.MODELEXECUTE", "none", "INPUTS", 1, "x", "OUTPUTS", 1, "empty") == b"OK"
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "empty", "OUTPUTS", 2, "y", "t") == b"OK"
    assert same([read(wire, "y"), read(wire, "t")], np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32))
