"""The ONNX backend without a server."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from testkit import models
from tests.unit.loading import ROOT, load, registry, run_in_threads

FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
info = helper.make_tensor_value_info


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: Any = ()) -> GraphProto:
    return helper.make_graph(nodes, "g", inputs, outputs, list(constants))


def model(g: GraphProto, opset: int = 21) -> bytes:
    made = helper.make_model(g, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return bytes(made.SerializeToString())


def one_op(op: str, kind: int, result: int, **attributes: Any) -> bytes:
    node = helper.make_node(op, ["x"], ["y"], **attributes)
    return model(graph([node], [info("x", kind, None)], [info("y", result, None)]))


def endless() -> bytes:
    """Counts to n in a Loop."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Neg", ["v"], ["w"])],
        "body",
        [info("i", INT64, []), info("go", BOOL, []), info("v", FLOAT, [])],
        [info("go_on", BOOL, []), info("w", FLOAT, [])],
    )
    loop = helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)
    return model(graph([loop], [info("x", FLOAT, []), info("n", INT64, [])], [info("y", FLOAT, [])]))


def test_runs_and_declares_names() -> None:
    weights = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    session = load(
        "ONNX", model(graph([node], [info("x", FLOAT, [None, 2])], [info("y", FLOAT, [None, 3])], [weights]))
    )
    assert (session.inputs, session.outputs) == (("x",), ("y",))
    (y,) = session.run([np.ones((2, 2), np.float32)])
    np.testing.assert_array_equal(y, [[3, 5, 7]] * 2)


def test_rank_0_and_empty_outputs() -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0), helper.make_node("NonZero", ["x"], ["where"])]
    outputs = [info("sum", FLOAT, []), info("where", INT64, None)]
    session = load("ONNX", model(graph(nodes, [info("x", FLOAT, None)], outputs)))
    total, where = session.run([np.zeros((2, 2), np.float32)])
    assert total is not None and where is not None
    assert total.shape == () and total == 0 and total.dtype == np.float32
    assert where.shape == (2, 0) and where.dtype == np.int64


@pytest.mark.parametrize("strings", [[b"a", b"\xc3\xa9", b""], [b"a\0b", b"\xff", b"\0"], []])
def test_strings(strings: list[bytes]) -> None:
    session = load("ONNX", one_op("Identity", STRING, STRING))
    array = np.empty((1, len(strings)), object)
    array[0, :] = strings
    (y,) = session.run([array])
    assert y is not None and y.shape == array.shape
    assert y.ravel().tolist() == strings


def test_booleans() -> None:
    (y,) = load("ONNX", one_op("Not", BOOL, BOOL)).run([np.array([True, False])])
    assert y is not None and y.dtype == np.bool_ and y.tolist() == [False, True]


@pytest.mark.parametrize(
    ("array", "kind"), [(np.array([[1, 2]], np.float32), FLOAT), (np.array(["é".encode(), b""], object), STRING)]
)
def test_a_sequence_is_stacked(array: Any, kind: int) -> None:
    node = helper.make_node("SequenceConstruct", ["x", "x"], ["parts"])
    outputs = [helper.make_tensor_sequence_value_info("parts", kind, None)]
    (parts,) = load("ONNX", model(graph([node], [info("x", kind, array.shape)], outputs))).run([array])
    np.testing.assert_array_equal(parts, np.stack([array, array]))


def test_an_empty_sequence_has_the_declared_type() -> None:
    node = helper.make_node("SequenceEmpty", [], ["parts"], dtype=TensorProto.INT32)
    outputs = [helper.make_tensor_sequence_value_info("parts", TensorProto.INT32, None)]
    (parts,) = load("ONNX", model(graph([node], [], outputs))).run([])
    assert parts.dtype == np.int32 and parts.shape == (0,)


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "INT4"])
def test_an_output_type_without_name_is_named(kind: str) -> None:
    number = TensorProto.DataType.Value(kind)
    session = load("ONNX", one_op("Cast", FLOAT, number, to=number))
    with pytest.raises(TypeError, match=rf"output 'y' has type tensor\({kind.lower()}\)"):
        session.run([np.ones(2, np.float32)])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((1, 2)), "Unexpected input data type. Actual: (tensor(double)) , expected: (tensor(float))"),
        (np.ones((1, 3), np.float32), "Got invalid dimensions for input: x"),
        (np.ones(2, np.float32), "Invalid rank for input: x"),
        (np.array([b"a"], object), "Unexpected input data type"),
    ],
)
def test_wrong_inputs(array: Any, message: str) -> None:
    node = helper.make_node("Neg", ["x"], ["y"])
    session = load("ONNX", model(graph([node], [info("x", FLOAT, [None, 2])], [info("y", FLOAT, [None, 2])])))
    with pytest.raises(RuntimeError) as error:
        session.run([array])
    assert str(error.value).startswith(message)


def test_broken_blobs_get_the_librarys_words() -> None:
    whole = one_op("Neg", FLOAT, FLOAT)
    for blob in (b"", b"x", os.urandom(1000), b"????ORTM" * 100, whole[: len(whole) // 2]):
        with pytest.raises(RuntimeError) as error:
            load("ONNX", blob)
        assert not str(error.value).startswith("[")
    with pytest.raises(RuntimeError, match=r"^No graph was found in the protobuf\.$"):
        load("ONNX", b"")


def external(location: str = "secret.bin") -> TensorProto:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def hidden(where: str) -> bytes:
    """A model with a tensor in another file, in each of the places that can hold one."""
    tensor = external()
    constant = NodeProto(
        op_type="Constant", output=["w"], attribute=[AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor)]
    )
    inner = GraphProto(name="inner", initializer=[tensor])
    made = ModelProto(ir_version=10, graph=GraphProto(name="g"))
    made.opset_import.add(version=21)
    if where == "initializer":
        made.graph.initializer.append(tensor)
    elif where == "constant":
        made.graph.node.append(constant)
    elif where == "tensors":
        made.graph.node.append(
            NodeProto(attribute=[AttributeProto(name="a", type=AttributeProto.TENSORS, tensors=[tensor])])
        )
    elif where == "subgraph":
        made.graph.node.append(NodeProto(attribute=[AttributeProto(name="body", type=AttributeProto.GRAPH, g=inner)]))
    elif where == "subgraphs":
        made.graph.node.append(
            NodeProto(attribute=[AttributeProto(name="bodies", type=AttributeProto.GRAPHS, graphs=[inner])])
        )
    elif where == "sparse":
        made.graph.sparse_initializer.add(values=tensor)
    elif where == "sparse attribute":
        attribute = AttributeProto(name="a", type=AttributeProto.SPARSE_TENSOR)
        attribute.sparse_tensor.indices.CopyFrom(tensor)
        made.graph.node.append(NodeProto(attribute=[attribute]))
    elif where == "function":
        made.functions.append(FunctionProto(name="f", node=[constant]))
    elif where == "function attribute":
        attribute = AttributeProto(name="a", type=AttributeProto.TENSOR, t=tensor)
        made.functions.append(FunctionProto(name="f", attribute_proto=[attribute]))
    elif where == "training":
        made.training_info.add(algorithm=inner)
    return bytes(made.SerializeToString())


PLACES = [
    *("initializer", "constant", "tensors", "subgraph", "subgraphs", "sparse", "sparse attribute"),
    *("function", "function attribute", "training"),
]


@pytest.mark.parametrize("where", PLACES)
def test_tensors_in_other_files_are_refused(where: str) -> None:
    with pytest.raises(PermissionError, match=r"external data.*onnx\.save\(onnx\.load\(path\), path\)"):
        load("ONNX", hidden(where))


def test_a_field_number_that_the_library_reads_otherwise_is_refused() -> None:
    """Of the tag's 35 bits the library takes 32: a graph to it, some unknown field to who reads them all."""
    made = ModelProto.FromString(hidden("initializer"))
    inside = made.graph.SerializeToString()
    assert len(inside) < 128
    plain = b"\x3a" + bytes([len(inside)]) + inside
    blob = made.SerializeToString()
    assert blob.count(plain) == 1
    with pytest.raises(ValueError, match="protobuf parsing failed"):
        load("ONNX", blob.replace(plain, b"\xba\x80\x80\x80\x10" + plain[1:]))


def test_tensors_in_other_files_can_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the folder that Redis works in."""
    monkeypatch.chdir(tmp_path)
    np.array([3, 4], np.float32).tofile("weights.bin")
    node = helper.make_node("Add", ["x", "w"], ["y"])
    inputs, outputs = [info("x", FLOAT, [2])], [info("y", FLOAT, [2])]
    session = load("ONNX", model(graph([node], inputs, outputs, [external("weights.bin")])), allow_file_ops=True)
    (y,) = session.run([np.ones(2, np.float32)])
    np.testing.assert_array_equal(y, [4, 5])


def test_a_model_may_speak_of_locations() -> None:
    node = helper.make_node("Neg", ["location"], ["y"])
    session = load("ONNX", model(graph([node], [info("location", FLOAT, [1])], [info("y", FLOAT, [1])])))
    assert session.inputs == ("location",)


def test_hostile_blobs_end_soon() -> None:
    nested = b"location"
    for _ in range(1000):  # graphs in attributes of nodes of graphs
        for tag in (0x0A, 0x2A, 0x32):
            size, varint = len(nested), b""
            while size > 127:
                varint, size = varint + bytes([size & 127 | 128]), size >> 7
            nested = bytes([tag]) + varint + bytes([size]) + nested
    for blob in (b"location" * 1000, b"\xff" * 1000 + b"location", b"\x3a\xff\xff\xff\xff\x0flocation", nested):
        begin = time.monotonic()
        with pytest.raises((RuntimeError, ValueError)):
            load("ONNX", blob)
        assert time.monotonic() - begin < 5


def test_gpu_without_cuda() -> None:
    with pytest.raises(RuntimeError, match=r"^GPU requested but ONNX couldn't find CUDA$"):
        load("ONNX", one_op("Neg", FLOAT, FLOAT), device="GPU:1")


def test_a_run_that_takes_too_long_ends() -> None:
    session = load("ONNX", endless(), model_execution_timeout=300)
    x = np.array(1, np.float32)
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"terminate flag.*MODEL_EXECUTION_TIMEOUT, 300 ms") as error:
        session.run([x, np.array(10**12)])
    assert 0.25 < time.monotonic() - begin < 3
    assert not str(error.value).startswith("[")
    (y,) = session.run([x, np.array(3)])
    assert y == -1


def test_each_run_has_its_own_time() -> None:
    """Short runs that start all the time neither use up each other's time nor keep a long one alive."""
    session = load("ONNX", endless(), model_execution_timeout=400)
    x = np.array(1, np.float32)
    ended: list[float] = []

    def run_long() -> None:
        begin = time.monotonic()
        with pytest.raises(RuntimeError, match="TIMEOUT"):
            session.run([x, np.array(10**12)])
        ended.append(time.monotonic() - begin)

    threads = [threading.Thread(target=run_long) for _ in range(2)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and time.monotonic() - begin < 10:
        session.run([x, np.array(2)])
    for thread in threads:
        thread.join(10)
    assert len(ended) == 2 and max(ended) < 5


def test_runs_at_once() -> None:
    session = load("ONNX", one_op("Neg", FLOAT, FLOAT))
    failures: list[object] = []

    def run(number: int) -> None:
        for size in range(1, 200):
            (y,) = session.run([np.full((size, 3), number, np.float32)])
            if y is None or y.shape != (size, 3) or not (y == -number).all():
                failures.append((number, size))

    run_in_threads(4, run)
    assert not failures


def test_figures() -> None:
    blob = one_op("Neg", FLOAT, FLOAT)
    session = load("ONNX", blob)
    before = registry.onnx_figures()
    assert before is not None
    session.run([np.ones(1, np.float32)])
    del session
    after = registry.onnx_figures()
    assert after == (before[0] - len(blob), before[1] + 2)  # the run and the deletion


LIMITED = """
import sys
import numpy as np
from pathlib import Path
from tests.unit.loading import load
session = load("ONNX", Path(sys.argv[1]).read_bytes(), backend_memory_limit=64)
one = np.ones(1, np.float32)
def run(n):
    try:
        return float(session.run([one, np.array([n])])[0])
    except RuntimeError as error:
        assert "Available memory" in str(error), error
# The third fits only once the arena has handed back what the second left in it; the fourth does not fit at all.
print([run(n) for n in (1000, 7_000_000, 7_800_000, 20_000_000, 1000)])
"""


def test_memory_limit(tmp_path: Path) -> None:
    """In a process of its own: the arena belongs to the process."""
    nodes = [
        helper.make_node("Expand", ["x", "n"], ["a"]),
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("ReduceMin", ["b"], ["y"], keepdims=0),
    ]
    blob = model(graph(nodes, [info("x", FLOAT, [1]), info("n", INT64, [1])], [info("y", FLOAT, [])]))
    (tmp_path / "model.onnx").write_bytes(blob)
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "model.onnx")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    e = float(np.exp(np.float32(1)))
    assert answer.returncode == 0, answer.stderr
    assert eval(answer.stdout) == pytest.approx([e, e, e, None, e])


OVERDRAWN = """
import sys
import numpy as np
from pathlib import Path
from tests.unit.loading import load
narrow, outer = (Path(name).read_bytes() for name in sys.argv[1:])
session = load("ONNX", outer, backend_memory_limit=2)
def attempt(act):
    try:
        return act()
    except (MemoryError, RuntimeError) as error:
        return str(error)
print(attempt(lambda: load("ONNX", narrow, backend_memory_limit=2)))
print(attempt(lambda: session.run([np.ones((1000, 1), np.float32)])))
print(attempt(lambda: session.run([np.ones((10, 1), np.float32)])[0].shape))
"""


def test_weights_may_take_more_than_their_bytes(tmp_path: Path) -> None:
    """The library keeps those of a matrix of one column as one of 16. The model is refused, the limit holds."""
    weights = numpy_helper.from_array(np.ones((100_000, 1), np.float32), "w")
    ends = [info("x", FLOAT, [None, 100_000]), info("y", FLOAT, None)]
    narrow = model(graph([helper.make_node("MatMul", ["x", "w"], ["y"])], ends[:1], ends[1:], [weights]))
    for name, blob in (("narrow", narrow), ("outer", models.onnx_outer())):
        (tmp_path / name).write_bytes(blob)
    command = [sys.executable, "-c", OVERDRAWN, str(tmp_path / "narrow"), str(tmp_path / "outer")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    refused, limited, fits = answer.stdout.split("\n")[:1] + answer.stdout.strip().split("\n")[-2:]
    exceeded = "Onnxruntime memory limit exceeded, memory allocation failed."
    assert refused == f"Exception during initialization: {exceeded}" and exceeded in limited, answer.stderr
    assert limited.endswith("BACKEND_MEMORY_LIMIT sets how much there is") and fits == "(10, 10)"
