"""Large weights of ONNX models are given to the library apart from the rest: what it computes stays the same."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.unit.loading import NAMES, load, registry
from tests.unit.test_onnx_backend import FLOAT, graph, info, model

registry.get(NAMES.index("ONNX"))
backend = sys.modules["redisai_backend_onnx"]
custom_ops, weights = (sys.modules[f"redisai_backend_onnx.{name}"] for name in ("custom_ops", "weights"))
SIDE = 200  # a matrix of floats has 160,000 bytes
SEEDS = range(12)
X = np.linspace(-1, 1, 2 * SIDE, dtype=np.float32).reshape(2, SIDE)
Array = NDArray[Any]
Attempts = list[int]  # how many weights the library was given apart, each time that it was given the model


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Attempts:
    made: Attempts = []
    new_session = backend.new_session

    def watched(blob: bytes, options: Any, settings: Any, apart: Any = ()) -> Any:
        made.append(len(apart))
        return new_session(blob, options, settings, apart)

    for module in (backend, custom_ops):
        monkeypatch.setattr(module, "new_session", watched)
    return made


def outputs(blob: bytes | bytearray | memoryview) -> list[Array | None]:
    return list(load("ONNX", memoryview(blob).toreadonly()).run([X]))  # type: ignore[arg-type]


def whole_outputs(blob: bytes) -> list[Array | None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "divide", lambda blob: (blob, []))
        return outputs(blob)


def check_equal(some: list[Array | None], others: list[Array | None]) -> None:
    for one, other in zip(some, others, strict=True):
        assert one is not None and other is not None
        np.testing.assert_array_equal(one, other)


def matrix(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape or (SIDE, SIDE), dtype=np.float32)


def add(*tensors: TensorProto, name: str = "w") -> bytes:
    """y = x + w[0], among other initializers."""
    nodes = [helper.make_node("Gather", [name, "zero"], ["row"]), helper.make_node("Add", ["x", "row"], ["y"])]
    zero = numpy_helper.from_array(np.array(0), "zero")
    return model(graph(nodes, [info("x", FLOAT, [2, SIDE])], [info("y", FLOAT, None)], [zero, *tensors]))


def weight(seed: int = 1, name: str = "w") -> TensorProto:
    return numpy_helper.from_array(matrix(seed), name)


def any_model(seed: int) -> bytes:
    """Some of the ways in which a model uses weights: as they are, packed, folded, converted, in a branch, as an
    output, as the default of an input."""
    chance = np.random.default_rng(seed)
    node = helper.make_node
    constants: dict[str, Array] = {}
    nodes = []
    ends = [info("y", FLOAT, None)]
    at = "x"

    def constant(array: Array) -> str:
        name = f"w{len(constants)}"
        constants[name] = array
        return name

    for number in range(chance.integers(2, 9)):
        kind, y = chance.integers(9), f"x{number}"
        w = matrix(seed * 100 + number)
        if kind == 0:
            nodes.append(node("MatMul", [at, constant(w)], [y]))
        elif kind == 1:
            nodes.append(node("Gemm", [at, constant(w), constant(w[0])], [y], transB=1))
        elif kind == 2:  # folded
            nodes += [node("Add", [constant(w), constant(w)], [y + "w"]), node("MatMul", [at, y + "w"], [y])]
        elif kind == 3:
            half = constant(w.astype(np.float16))
            nodes += [node("Cast", [half], [y + "w"], to=FLOAT), node("MatMul", [at, y + "w"], [y])]
        elif kind == 4:
            names = [constant(w.astype(np.int8)), constant(np.float32(0.1)), constant(np.int8(1))]
            nodes += [node("DequantizeLinear", names, [y + "w"]), node("MatMul", [at, y + "w"], [y])]
        elif kind == 5:
            nodes += [
                node("Gather", [constant(w), constant(np.array([3, 5]))], [y + "w"]),
                node("Mul", [at, y + "w"], [y]),
            ]
        elif kind == 6:
            same = constant(w)
            branches = [
                helper.make_graph([node(op, [at, same], [y + op])], op, [], [info(y + op, FLOAT, None)])
                for op in ("MatMul", "Gemm")
            ]
            inputs = [constant(np.array(True))]
            nodes.append(node("If", inputs, [y], then_branch=branches[0], else_branch=branches[1]))
        elif kind == 7:
            nodes += [
                node("Reshape", [at, constant(np.array([2, 1, 1, SIDE]))], [y + "i"]),
                node("Conv", [y + "i", constant(matrix(number, 130, 1, 1, 130))], [y + "c"]),
                node("ReduceMean", [y + "c", constant(np.array([1, 2, 3]))], [y + "m"], keepdims=0),
                node("Unsqueeze", [y + "m", constant(np.array([1]))], [y + "s"]),
                node("Add", [at, y + "s"], [y]),
            ]
        else:
            same = constant(w)
            nodes.append(node("MatMul", [at, same], [y]))
            ends.append(info(same, FLOAT, [SIDE, SIDE]))
        at = y
    nodes.append(node("Identity", [at], ["y"]))
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    return model(graph(nodes, [info("x", FLOAT, [2, SIDE])], ends, tensors))


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("seed", SEEDS)
def test_any_model(seed: int, shift: int, attempts: Attempts) -> None:
    """Wherever in memory its weights lie. Nothing of the blob is read once there is a session."""
    blob = any_model(seed)
    wanted = whole_outputs(blob)
    memory = bytearray(shift) + blob
    session = load("ONNX", memoryview(memory)[shift:].toreadonly())  # type: ignore[arg-type]
    memory[:] = b"\xff" * len(memory)
    for _ in range(2):
        check_equal(list(session.run([X])), wanted)
    assert len(attempts) == 2 and attempts[1] > 0, "no weights are apart, or the library refuses that"


def test_every_dtype(attempts: Attempts) -> None:
    for number, dtype in weights.DTYPES.items():
        if number == weights.STRING:
            continue
        array = (np.arange(1 << 17) % 2).astype(dtype)
        tensor = TensorProto(name="w", data_type=number, dims=array.shape, raw_data=array.tobytes())
        node = helper.make_node("Identity", ["w"], ["y"])
        blob = model(graph([node], [info("x", FLOAT, None)], [info("y", number, None)], [tensor]))
        check_equal(outputs(blob), [array])
    assert attempts == [1] * 13


def test_weights_are_taken_out() -> None:
    blob = add(weight(1, "other"), weight())
    rest, apart = weights.divide(blob)
    assert [(each.name, each.shape) for each in apart] == [(b"other", [SIDE, SIDE]), (b"w", [SIDE, SIDE])]
    assert len(rest) < 1000 and bytes(apart[1].data) == matrix(1).tobytes()
    remaining = ModelProto.FromString(rest)
    assert [tensor.name for tensor in remaining.graph.initializer] == ["zero", "other", "w"]
    assert [tensor.data_location for tensor in remaining.graph.initializer] == [0, 1, 1]


def test_packed_dimensions(attempts: Attempts) -> None:
    """As some exporters write them."""
    blob = add(weight())
    plain = b"\x08\xc8\x01" * 2
    assert blob.count(plain) == 1
    tensor = ModelProto.FromString(blob).graph.initializer[1].SerializeToString()
    packed = tensor.replace(plain, b"\x0a\x04\xc8\x01\xc8\x01")
    assert len(packed) == len(tensor)
    check_equal(outputs(blob.replace(tensor, packed)), whole_outputs(blob))
    assert attempts == [1, 0]


def changed(**fields: Any) -> bytes:
    tensor = weight()
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(tensor, name)[:] = value
        else:
            setattr(tensor, name, value)
    return add(tensor)


def floats() -> bytes:
    return add(helper.make_tensor("w", FLOAT, [SIDE, SIDE], matrix(1).ravel()))


def texts() -> bytes:
    strings = TensorProto(name="w", data_type=TensorProto.STRING, dims=[40_000], string_data=[b"text"] * 40_000)
    node = helper.make_node("Identity", ["w"], ["y"])
    return model(graph([node], [info("x", FLOAT, None)], [info("y", TensorProto.STRING, None)], [strings]))


def sparse() -> bytes:
    made = ModelProto.FromString(add(weight()))
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    made.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0]), "i"), [4])
    )
    return bytes(made.SerializeToString())


def in_a_branch() -> bytes:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["b"])], "b", [], [info("b", FLOAT, None)], [weight()]
    )
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    yes = numpy_helper.from_array(np.array(True), "yes")
    return model(graph([node], [info("x", FLOAT, None)], [info("y", FLOAT, None)], [yes]))


def two_graphs() -> bytes:
    """The library merges them."""
    made = ModelProto.FromString(add(weight()))
    tensor = made.graph.initializer.pop()
    return bytes(ModelProto(graph={"initializer": [tensor]}).SerializeToString() + made.SerializeToString())


def many_small() -> bytes:
    small = [numpy_helper.from_array(matrix(i, 100, 100), f"s{i}") for i in range(10)]
    return add(weight(), *small)


def many_fields() -> bytes:
    return add(numpy_helper.from_array(matrix(1, 2 * SIDE, SIDE), "w")) + b"\x12\x01x" * 100_001  # the producer's name


LEFT_WHOLE: list[Callable[[], bytes]] = [
    *(floats, texts, sparse, in_a_branch, two_graphs, many_small, many_fields),
    lambda: add(weight(), weight()),  # two have one name
    lambda: add(numpy_helper.from_array(matrix(1, 2, SIDE), "w")),  # too small
    lambda: changed(name="w\0x"),
    lambda: changed(name=""),
    lambda: changed(dims=[SIDE]),
    lambda: changed(dims=[SIDE, SIDE + 1]),
    lambda: changed(dims=[-SIDE, -SIDE]),
    lambda: changed(dims=[0]),
    lambda: changed(dims=[2**62, 4, SIDE, SIDE]),
    lambda: changed(dims=[1] * 100 + [SIDE, SIDE]),
    lambda: changed(data_type=0),
    lambda: changed(data_type=TensorProto.STRING),
    lambda: changed(data_type=TensorProto.INT4),
    lambda: changed(float_data=[1]),
    lambda: changed(raw_data=matrix(1).tobytes()[:-1]),
    lambda: add(weight())[:-10],
    lambda: add(weight()) + b"\xff",
    lambda: b"\x3a" * 100_000,
    lambda: b"\0" * 100_000,
    lambda: b"\x0a\x00" * 1_000_000,
]


@pytest.mark.parametrize("number", range(len(LEFT_WHOLE)))
def test_unusual_models_are_left_whole(number: int, attempts: Attempts) -> None:
    blob = LEFT_WHOLE[number]()
    begin = time.monotonic()
    rest, apart = weights.divide(blob)
    assert rest is blob and not apart
    assert time.monotonic() - begin < 2
    check_as_whole(blob)
    assert attempts == [0, 0]


def check_as_whole(blob: bytes) -> None:
    """The same result, or the same error."""
    try:
        wanted = whole_outputs(blob)
    except (RuntimeError, TypeError, ValueError) as error:
        with pytest.raises(type(error)) as other:
            outputs(blob)
        assert str(other.value) == str(error)
    else:
        check_equal(outputs(blob), wanted)


@pytest.mark.parametrize("seed", range(100))
def test_hostile_models(seed: int) -> None:
    """Other bytes around the weight: the result, or the error, is that of the whole model."""
    chance = random.Random(seed)
    blob = bytearray(add(weight()))
    data = blob.find(matrix(1).tobytes())
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.choice((*range(data + 1), *range(data + 4 * SIDE * SIDE - 3, len(blob) - 4)))
        how = chance.choice(("bit", "byte", "insert", "delete"))
        if how == "insert":
            blob[at:at] = chance.randbytes(chance.choice((1, 2, 4)))
        elif how == "delete":
            del blob[at : at + chance.choice((1, 2, 4))]
        else:
            blob[at] = blob[at] ^ 1 << chance.randrange(8) if how == "bit" else chance.randrange(256)
    check_as_whole(bytes(blob))


def test_a_name_that_is_used_twice(attempts: Attempts) -> None:
    """By a large weight and what is no such weight: the library refuses it, or takes the last."""
    small = numpy_helper.from_array(matrix(2, 1, SIDE), "w")
    constant = helper.make_node("Constant", [], ["w"], value=small)
    made = ModelProto.FromString(add(weight()))
    made.graph.node.insert(0, constant)
    for blob in (add(weight(), small), add(small, weight()), bytes(made.SerializeToString())):
        check_as_whole(blob)
    assert len(attempts) > 6, "none was given as a whole after all"


def test_errors_are_those_of_the_whole_model(attempts: Attempts) -> None:
    blob = add(weight(), name="missing")
    with pytest.raises(RuntimeError) as error:
        whole_outputs(blob)
    with pytest.raises(RuntimeError) as other:
        outputs(blob)
    assert str(other.value) == str(error.value)
    assert attempts == [0, 1, 0]


def test_what_the_library_reads_before_it_has_the_weights(attempts: Attempts) -> None:
    """A shape among them makes it fail, and so does a weight that no node uses. The whole model succeeds."""
    node = helper.make_node("ConstantOfShape", ["w"], ["y"])
    shape = numpy_helper.from_array(np.ones(1 << 13, np.int64), "w")
    for blob in (
        model(graph([node], [info("x", FLOAT, None)], [info("y", FLOAT, None)], [shape])),
        add(weight(), weight(2, "unused")),
    ):
        check_as_whole(blob)
    assert attempts == [0, 1, 0, 0, 2, 0]


def test_the_default_of_an_input(attempts: Attempts) -> None:
    """A weight that is an input too may be given in a run."""
    inputs = [info("x", FLOAT, [2, SIDE]), info("w", FLOAT, [SIDE, SIDE])]
    blob = model(graph([helper.make_node("MatMul", ["x", "w"], ["y"])], inputs, [info("y", FLOAT, None)], [weight()]))
    (y,) = outputs(blob)
    np.testing.assert_allclose(y, X @ matrix(1), rtol=1e-3, atol=1e-3)  # type: ignore[arg-type]
    assert attempts == [1]


def test_weights_in_other_files_and_in_the_blob(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, attempts: Attempts
) -> None:
    monkeypatch.chdir(tmp_path)
    matrix(1).tofile("weights.bin")
    outside = TensorProto(name="w", data_type=FLOAT, dims=[SIDE, SIDE], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="weights.bin")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("MatMul", ["m", "v"], ["y"])]
    ends = [info("x", FLOAT, [2, SIDE])], [info("y", FLOAT, None)]
    (wanted,) = outputs(model(graph(nodes, *ends, [weight(1), weight(2, "v")])))
    blob = model(graph(nodes, *ends, [outside, weight(2, "v")]))
    (y,) = load("ONNX", blob, allow_file_ops=True).run([X])
    check_equal([y], [wanted])
    assert attempts == [2, 1]
    with pytest.raises(PermissionError, match="external data"):
        load("ONNX", blob)
