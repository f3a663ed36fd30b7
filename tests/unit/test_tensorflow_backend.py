"""The TF backend without a server."""

import gc
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redisai.protocol import Definition, Session
from testkit import graph_def, tf_models
from testkit.process import rss
from testkit.tf_models import frozen, graph, placeholder, spec
from tests.unit.loading import ROOT, registry, run_in_threads, settings


def load(blob: bytes, inputs: str, outputs: str, device: str = "CPU", **changes: int) -> Session:
    definition = Definition("TF", device, blob, tuple(inputs.split()), tuple(outputs.split()))
    return registry.get(0).load(definition, settings(**changes))


def run(blob: bytes, inputs: str, outputs: str, *arrays: Any) -> list[Any]:
    return list(load(blob, inputs, outputs).run(arrays))


def strings(*items: bytes) -> Any:
    array = np.empty(len(items), object)
    array[:] = items
    return array


X = np.array([1, -2, 3], np.float32)


@pytest.mark.parametrize("names", ["a b", "a:0 b", "b a"])
def test_runs_by_the_names_of_nodes(names: str) -> None:
    session = load(tf_models.tf_mul(), names, "mul")
    assert (session.inputs, session.outputs) == (tuple(names.split()), ("mul",))
    (y,) = session.run([np.full((2, 2), 3, np.float32), np.arange(4, dtype=np.float32).reshape(2, 2)])
    np.testing.assert_array_equal(y, [[0, 3], [6, 9]])


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ("a c", "mul", 'Input node named "c" not found in TF graph.'),
        ("a:1 b", "mul", 'Input node named "a:1" not found in TF graph.'),
        ("a:x b", "mul", 'Input node named "a:x" not found in TF graph.'),
        ("a b", "product", 'Output node named "product" not found in TF graph'),
        ("a b", "mul:1", 'Output node named "mul:1" not found in TF graph'),
    ],
)
def test_a_name_that_is_not_there(inputs: str, outputs: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        load(tf_models.tf_mul(), inputs, outputs)
    assert str(error.value) == message


def test_outputs_of_every_kind() -> None:
    outputs = load(tf_models.tf_many(), "x", "total where text positive parts:2 parts").run([X])
    total, where, text, positive, part2, part0 = outputs
    assert total is not None and total.shape == () and total.dtype == np.float32 and total == 2
    np.testing.assert_array_equal(where, np.array([[0], [2]], np.int64))
    assert text is not None and text.tolist() == [b"1.0", b"-2.0", b"3.0"]
    assert positive is not None and positive.dtype == np.bool_ and positive.tolist() == [True, False, True]
    np.testing.assert_array_equal(part2, [3])
    np.testing.assert_array_equal(part0, [1])


def test_an_empty_output() -> None:
    (where,) = run(tf_models.tf_many(), "x", "where", np.zeros(3, np.float32))
    assert where.shape == (0, 1) and where.dtype == np.int64


@pytest.mark.parametrize(("output", "kind"), [("complex", "complex64")])
def test_an_output_type_without_name_is_named(output: str, kind: str) -> None:
    with pytest.raises(TypeError, match=f"output '{output}' has type {kind}"):
        run(tf_models.tf_many(), "x", output, X)


@pytest.mark.parametrize("shape", [(), (0,), (2, 1), (1, 1, 1)])
@pytest.mark.parametrize("dtype", list(tf_models.TF_TYPES))
def test_every_type_and_rank(dtype: str, shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape, initial=1))
    if dtype == "STRING":
        array = strings(*[b"", b"a\0\xff" * 100][:count]).reshape(shape)
    else:
        array = np.arange(count).astype(tf_models.TF_TYPES[dtype]).reshape(shape)
    (y,) = run(tf_models.tf_identity(dtype), "x", "y", array)
    assert y.dtype == array.dtype and y.shape == shape
    np.testing.assert_array_equal(y, array)


@pytest.mark.parametrize(
    ("array", "given"), [(np.ones(2), "float64"), (np.ones(2, np.int64), "int64"), (strings(b"a"), "string")]
)
def test_an_input_of_the_wrong_type_is_named(array: Any, given: str) -> None:
    with pytest.raises(TypeError, match=f"^input 'b' has type {given}, expected: float32$"):
        run(tf_models.tf_mul(), "a b", "mul", np.ones((1, 2), np.float32), array)
    with pytest.raises(TypeError, match="^input 'x' has type float32, expected: complex64$"):
        run(graph(lambda tf: tf.cast(placeholder("x", "complex64"), tf.float32, name="y")), "x", "y", X)


def test_an_input_may_contradict_its_declared_shape() -> None:
    blob = graph(lambda tf: tf.reshape(placeholder("x", shape=[256]), [2, 128], name="y"))
    (y,) = run(blob, "x", "y", np.ones((1, 256), np.float32))
    assert y.shape == (2, 128)


def test_an_input_that_does_not_fit() -> None:
    with pytest.raises(RuntimeError, match=re.escape("Incompatible shapes: [1,2] vs. [1,3]")):
        run(tf_models.tf_mul(), "a b", "mul", np.ones((1, 2), np.float32), np.ones((1, 3), np.float32))


def test_inputs_of_any_layout() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    (y,) = run(tf_models.tf_identity(), "x", "y", array)
    np.testing.assert_array_equal(y, array)
    memory = bytes(25)
    (y,) = run(tf_models.tf_identity(), "x", "y", np.frombuffer(memory, np.float32, 6, offset=1))
    assert y.tolist() == [0] * 6


def test_broken_blobs() -> None:
    whole = tf_models.tf_mul()
    for blob in (b"\xff" * 50, whole[:-1], b"\x0b" + whole, b"\x0a\xff\xff\xff\xff\x0f"):
        with pytest.raises(ValueError, match="^Invalid GraphDef$"):
            load(blob, "a b", "mul")
    with pytest.raises(ValueError, match='Input node named "a"'):
        load(b"", "a b", "mul")


def test_gpu_without_cuda() -> None:
    with pytest.raises(RuntimeError, match="^GPU requested but TF couldn't find CUDA$"):
        load(tf_models.tf_mul(), "a b", "mul", "GPU:1")


def countdown(tf: Any, x: Any) -> Any:
    return tf.while_loop(lambda v: tf.reduce_sum(v) < 100.0, lambda v: v * 2, [x])[0]


@pytest.mark.parametrize("inter", [0, 2])
@pytest.mark.parametrize("lower", [True, False])
def test_control_flow(lower: bool, inter: int) -> None:
    """What one executor cannot run, the other does."""
    tf = tf_models.tensorflow()
    blob, output = frozen(lambda x: countdown(tf, x), spec([None]), lower_control_flow=lower)
    (y,) = load(blob, "x", output, inter_op_parallelism=inter).run([np.ones(2, np.float32)])
    assert y is not None and y.tolist() == [64, 64]


def test_a_keras_network_gives_its_own_outputs() -> None:
    network = tf_models.keras_network()
    blob, output = frozen(network, spec([None, 8, 8, 2]))
    images = np.random.default_rng(2).random((5, 8, 8, 2), dtype=np.float32)
    (y,) = run(blob, "x", output, images)
    np.testing.assert_allclose(y, network(images).numpy(), atol=1e-6)


def aligned(array: Any) -> Any:
    """A copy that lies where TensorFlow takes memory as it is, like the tensors of the engine."""
    memory = np.zeros(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize(
    "build",
    [
        lambda tf: tf.identity(placeholder(), name="y"),
        lambda tf: tf.nn.relu(-placeholder(), name="y"),
        lambda tf: tf.raw_ops.InplaceAdd(x=placeholder(), i=[0], v=[5.0], name="y"),
        lambda tf: tf.raw_ops.InplaceUpdate(x=placeholder(), i=[0], v=[5.0], name="y"),
    ],
)
def test_an_input_is_never_changed(build: Callable[[Any], object]) -> None:
    array = aligned(X)
    (y,) = run(graph(build), "x", "y", array)
    y += 1
    np.testing.assert_array_equal(array, X)


def test_a_graph_may_keep_an_input() -> None:
    """It is a copy that the variable keeps: the memory of an input may be another's after the run."""

    def build(tf: Any) -> None:
        variable = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[3])
        x, first = placeholder(), placeholder("first", "bool", [])

        def keep() -> Any:
            tf.raw_ops.AssignVariableOp(resource=variable, value=x)
            return tf.constant(0)

        def add() -> Any:
            tf.raw_ops.AssignAddVariableOp(resource=variable, value=x)
            return tf.constant(0)

        with tf.control_dependencies([tf.cond(first, keep, add)]):
            tf.identity(tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.float32), name="y")

    session = load(graph(build), "x first", "y")
    array = aligned(X)
    session.run([array, np.array(True)])
    array[:] = 100
    (y,) = session.run([X, np.array(False)])
    np.testing.assert_array_equal(y, 2 * X)
    assert (array == 100).all()


def test_a_graph_may_keep_strings() -> None:
    def build(tf: Any) -> None:
        queue = tf.raw_ops.FIFOQueueV2(component_types=[tf.string])
        enqueue = tf.raw_ops.QueueEnqueueV2(handle=queue, components=[placeholder("x", "string")])
        with tf.control_dependencies([enqueue]):
            size = tf.raw_ops.QueueSizeV2(handle=queue)
            last = tf.cond(size > 2, lambda: tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[tf.string])[0],
                           lambda: tf.constant([""]))  # fmt: skip
            tf.identity(last, name="y")

    session = load(graph(build), "x", "y")
    given = [strings(b"%d" % number * 50) for number in range(5)]
    taken = [session.run([array])[0] for array in given]
    del session
    gc.collect()
    assert [array.tolist() for array in taken if array is not None] == [[b""]] * 2 + [a.tolist() for a in given[:3]]


BEYOND: dict[str, Callable[[Any], object]] = {
    "ReadFile": lambda tf: tf.io.read_file("/etc/passwd"),
    "WriteFile": lambda tf: tf.io.write_file("/tmp/x", "x"),
    "MatchingFiles": lambda tf: tf.io.matching_files("/*"),
    "PyFunc": lambda tf: tf.compat.v1.py_func(lambda: 1.0, [], tf.float64),
    "EagerPyFunc": lambda tf: tf.py_function(lambda: 1.0, [], tf.float64),
    "SaveV2": lambda tf: tf.raw_ops.SaveV2(prefix="/tmp/x", tensor_names=["a"], shape_and_slices=[""], tensors=[1.0]),
    "RestoreV2": lambda tf: tf.raw_ops.RestoreV2(
        prefix="/x", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]
    ),
    "TextLineDataset": lambda tf: tf.raw_ops.TextLineDataset(filenames="/x", compression_type="", buffer_size=1),
    "WholeFileReaderV2": lambda tf: tf.raw_ops.WholeFileReaderV2(),
    "PrintV2": lambda tf: tf.print("x", output_stream="file:///tmp/x"),
    "DebugIdentityV2": lambda tf: tf.raw_ops.DebugIdentityV2(input=1.0, debug_urls=["file:///tmp/x"]),
    "ImmutableConst": lambda tf: tf.raw_ops.ImmutableConst(dtype=tf.float32, shape=[1], memory_region_name="/x"),
    "Abort": lambda tf: tf.raw_ops.Abort(),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", list(BEYOND))
def test_what_reaches_beyond_the_graph_is_refused_by_name(name: str, inside: bool) -> None:
    def build(tf: Any) -> None:
        tf.identity(placeholder(), name="y")
        function = tf.function(lambda: (BEYOND[name](tf), 0)[1])
        function() if inside else BEYOND[name](tf)

    with pytest.raises(PermissionError, match=f"node '.+' of the graph is a {name},.*ALLOW_FILE_OPS"):
        load(graph(build), "x", "y")


def test_what_reaches_beyond_the_graph_can_be_allowed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    blob = graph(lambda tf: tf.io.read_file(placeholder("x", "string", []), name="y"))
    (y,) = load(blob, "x", "y", allow_file_ops=True).run([np.array(str(tmp_path / "file").encode(), object)])
    assert y is not None and y.shape == () and y.item() == b"content"


UNSET: dict[str, Callable[[Any], Any]] = {
    "Empty": lambda tf: tf.raw_ops.Empty(shape=[9], dtype=tf.float32),
    "TemporaryVariable": lambda tf: tf.raw_ops.DestroyTemporaryVariable(
        ref=tf.raw_ops.TemporaryVariable(shape=[9], dtype=tf.float32, var_name="v"), var_name="v"
    ),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", list(UNSET))
def test_what_shows_memory_of_the_process_is_refused_by_name(name: str, inside: bool) -> None:
    def build(tf: Any) -> None:
        placeholder()
        tf.identity(tf.function(lambda: UNSET[name](tf))() if inside else UNSET[name](tf), name="y")

    with pytest.raises(PermissionError, match=f"node '.+' of the graph is a {name}, which shows memory of the server"):
        load(graph(build), "x", "y", allow_file_ops=True)


def test_an_operation_of_the_librarys_own_that_shows_memory() -> None:
    blob = graph_def.node("x", "Placeholder")
    blob += graph_def.node(
        "y", "_ParallelConcatStart", more={"dtype": graph_def.field(6, 1), "shape": graph_def.shape([9])}
    )
    with pytest.raises(PermissionError, match="which shows memory of the server"):
        load(blob, "x", "y")


def test_zeros_are_no_memory_of_the_process() -> None:
    blob = graph(lambda tf: tf.raw_ops.Empty(shape=placeholder("x", "int32"), dtype=tf.float32, init=True, name="y"))
    (y,) = run(blob, "x", "y", np.array([9], np.int32))
    assert not y.any()


WINDOWS: dict[str, Callable[[Any, Any], Any]] = {
    "max": lambda tf, x: tf.raw_ops.MaxPool(input=x, ksize=[1, 3, 3, 1], strides=[1, 1, 1, 1], padding="VALID"),
    "convolution": lambda tf, x: tf.nn.conv2d(x, tf.ones([3, 3, 1, 1]), 1, "VALID"),
    "depthwise": lambda tf, x: tf.nn.depthwise_conv2d(x, tf.ones([3, 3, 1, 1]), [1, 1, 1, 1], "VALID"),
}


@pytest.mark.parametrize("name", list(WINDOWS))
def test_an_image_that_is_smaller_than_the_window(name: str) -> None:
    """Nothing comes out. oneDNN, which newer CPUs use by default, ended the process, or answered with its memory."""
    session = load(graph(lambda tf: tf.identity(WINDOWS[name](tf, placeholder()), name="y")), "x", "y")
    for given, expected in (((1, 2, 2, 1), (1, 0, 0, 1)), ((1, 2, 30, 1), (1, 0, 28, 1)), ((0, 5, 5, 1), (0, 3, 3, 1))):
        (y,) = session.run([np.ones(given, np.float32)])
        assert y is not None and y.shape == expected
    with pytest.raises(RuntimeError, match="output size would be negative"):
        session.run([np.ones((1, 1, 1, 1), np.float32)])
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0"


def test_what_prints_to_the_log_is_fine() -> None:
    blob = graph(
        lambda tf: (tf.raw_ops.PrintV2(input="x", output_stream="log(info)"), tf.identity(placeholder(), name="y"))
    )
    run(blob, "x", "y", X)


HARMLESS = {
    *("RiscSort", "TensorArrayGrad", "TensorArrayGradV2", "TensorArrayGradV3", "TensorArrayGradWithShape"),
    "PrintV2",  # refused by its attribute
}


def test_no_operation_of_the_library_that_names_a_file_is_missed() -> None:
    """Every operation that has an argument or attribute which sounds like the name of a file or of a host."""
    load(tf_models.tf_mul(), "a b", "mul")
    from tensorflow.core.framework import op_def_pb2

    api, ops = sys.modules["redisai_backend_tf.c_api"], sys.modules["redisai_backend_tf.graph_ops"]
    buffer = api.lib.TF_GetAllOpList()
    listed = op_def_pb2.OpList.FromString(bytes(api.ffi.buffer(buffer.data, buffer.length)))
    assert len(listed.op) > 1000
    sounds = re.compile("file|path|prefix|dir|addr|server|uri|url|stream|source|region")
    missed = {
        op.name
        for op in listed.op
        if any(sounds.search(argument.name) for argument in op.input_arg if argument.type == 7)
        or any(sounds.search(a.name) for a in op.attr if a.type == "string")
        if not ops.REFUSED.search(op.name.encode()) and not op.name.startswith("Cudnn")
    }
    assert missed - HARMLESS == set()


def test_runs_at_once() -> None:
    session = load(tf_models.tf_many(), "x", "total text")
    failures: list[object] = []

    def work(number: int) -> None:
        for size in range(1, 200):
            total, text = session.run([np.full(size * 3, number, np.float32)])
            if total != size * 3 * number or text is None or text.tolist() != [b"%d.0" % number] * size * 3:
                failures.append((number, size))

    run_in_threads(4, work)
    assert not failures


def test_memory_comes_back() -> None:
    text = strings(*[b"x" * 1000] * 1000)
    image = np.ones((1000, 1000), np.float32)

    def use() -> None:
        run(tf_models.tf_identity("STRING"), "x", "y", text)
        run(tf_models.tf_identity(), "x", "y", image)
        with pytest.raises(RuntimeError):
            run(tf_models.tf_mul(), "a b", "mul", image, image[:, :2])

    for _ in range(10):
        use()
    before = rss("self")
    for _ in range(50):  # 250 MB, were all of it kept
        use()
    gc.collect()
    assert rss("self") < before + (50 << 20)


ALONE = """
import sys
from pathlib import Path
from tests.unit.test_tensorflow_backend import X, run
first = sys.argv[1].split()
def libraries():
    for name in first:
        __import__(name)
libraries()
print(run(Path(sys.argv[2]).read_bytes(), "x", "y", X)[0].tolist(), "tensorflow" in sys.modules)
for name in ("torch", "onnxruntime", "ai_edge_litert.interpreter"):
    __import__(name)
import torch
assert torch.jit.script(torch.nn.Linear(3, 2))(torch.from_numpy(X)).shape == (2,)
"""


@pytest.mark.parametrize("first", ["", "torch onnxruntime ai_edge_litert.interpreter"])
def test_beside_other_libraries_and_without_the_python_package(tmp_path: Path, first: str) -> None:
    """In a process of its own: here the package is imported to build graphs."""
    (tmp_path / "graph.pb").write_bytes(tf_models.tf_identity())
    command = [sys.executable, "-c", ALONE, first, str(tmp_path / "graph.pb")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (answer.returncode, answer.stdout) == (0, f"{X.tolist()} False\n"), answer.stderr


def test_damaged_graphs_are_errors_or_run() -> None:
    tf = tf_models.tensorflow()
    sound, output = frozen(lambda x: countdown(tf, x), spec([None]), lower_control_flow=False)
    chance = random.Random(5)
    for _ in range(300):
        blob = bytearray(sound)
        for _ in range(chance.randrange(1, 5)):
            blob[chance.randrange(len(blob))] = chance.choice([0, 1, 127, 128, 255])
        try:
            session = load(bytes(blob[: chance.choice([len(blob), chance.randrange(len(blob))])]), "x", output)
        except (RuntimeError, ValueError, PermissionError):
            continue
        assert session.inputs == ("x",)


COLLECTED = """
import threading
from testkit import tf_models
from tests.unit.loading import NAMES, registry, settings
from redisai.protocol import Definition
backend = registry.get(NAMES.index("TF"))
sessions = [backend.load(Definition("TF", "CPU", tf_models.tf_mul(), ("a", "b"), ("mul",)), settings())]
from redisai_backend_tf.c_api import ffi
with ffi._lock:
    thread = threading.Thread(target=sessions.clear, daemon=True)
    thread.start()
    thread.join(10)
    print("stuck" if thread.is_alive() else "freed", flush=True)
"""


def test_a_session_is_freed_under_any_lock() -> None:
    """Garbage is collected anywhere, also in cffi while it has its lock. In a process where no session was freed."""
    ended = subprocess.run([sys.executable, "-c", COLLECTED], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.stdout == "freed\n", ended.stderr
