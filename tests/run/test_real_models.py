"""Models that no one here trained, run through redis-py: they must give their libraries' own outputs.

Speech detection (silero-vad, as ONNX and as TorchScript) hears a recording of speech; text detection (rapidocr) looks
at photographs that come with scikit-image; the digit classifier of the examples reads all of scikit-learn's digits.
The packages are installed without their dependencies, so they are never imported here: only their files are used.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import redis
import skimage.data
import skimage.transform
import skimage.util
import torch

from examples import digits

Floats = npt.NDArray[np.float32]

RUNS = 100
RATE = 16000
WINDOW = 512  # samples that silero-vad hears at a time, at 16 kHz
CONTEXT = 64  # samples of the window before that its ONNX model is given again

# All of these lie in scikit-image's wheel: nothing is downloaded.
PHOTOGRAPHS = ["page", "clock", "coffee", "text", "chelsea", "moon", "astronaut", "camera", "rocket", "coins"]


def package_file(package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec and spec.origin, f"{package} is not installed: ./scripts/test does that"
    return Path(spec.origin).parent / path


@pytest.fixture(scope="module")
def silero_onnx() -> bytes:
    return package_file("silero_vad", "data/silero_vad.onnx").read_bytes()


@pytest.fixture(scope="module")
def silero_jit() -> Path:
    return package_file("silero_vad", "data/silero_vad.jit")


@pytest.fixture(scope="module")
def detector() -> bytes:
    return package_file("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx").read_bytes()


@pytest.fixture(scope="module")
def speech() -> list[Floats]:
    """One window of 1 x WINDOW samples after another, the recording's first seconds."""
    path = Path(sys.prefix) / "share" / "silero-vad" / "test.wav"
    assert path.exists(), f"no {path}: ./scripts/test unpacks it from silero-vad's source package"
    with wave.open(str(path)) as recording:
        assert (recording.getframerate(), recording.getnchannels(), recording.getsampwidth()) == (RATE, 1, 2)
        samples = np.frombuffer(recording.readframes(RUNS * WINDOW), "<i2")
    windows = (samples.astype(np.float32) / 32768).reshape(RUNS, 1, WINDOW)
    return list(windows)


def photographs() -> Iterator[Floats]:
    """RUNS pieces of photographs as the detector wants them: 1 x 3 x height x width, multiples of 32, -1 to 1."""
    random = np.random.default_rng(1)
    for index in range(RUNS):
        name = PHOTOGRAPHS[index % len(PHOTOGRAPHS)]
        image = enlarged(name, factor=1 + index // len(PHOTOGRAPHS) % 2)
        height, width = (min(int(random.integers(8, 18)) * 32, side // 32 * 32) for side in image.shape[:2])
        top, left = int(random.integers(image.shape[0] - height + 1)), int(random.integers(image.shape[1] - width + 1))
        crop = image[top : top + height, left : left + width]
        yield (crop * 2 - 1).transpose(2, 0, 1)[None].copy()


@functools.cache
def enlarged(name: str, factor: int) -> Floats:
    image: Floats = skimage.util.img_as_float32(getattr(skimage.data, name)())  # type: ignore[no-untyped-call]
    if image.ndim == 2:
        image = np.stack([image] * 3, axis=-1)
    height, width, _ = image.shape
    large: Floats = skimage.transform.resize(image, (height * factor, width * factor))  # type: ignore[no-untyped-call]
    return large.astype(np.float32)


def ask(r: redis.Redis, *words: str | int | bytes) -> Any:
    return r.execute_command(*words)  # type: ignore[no-untyped-call]


def store(r: redis.Redis, key: str, backend: str, blob: bytes) -> None:
    assert ask(r, "AI.MODELSTORE", key, backend, "CPU", "BLOB", blob) == b"OK"


def set_tensor(r: redis.Redis, key: str, array: npt.NDArray[Any]) -> None:
    name = {"float32": "FLOAT", "int64": "INT64"}[array.dtype.name]
    assert ask(r, "AI.TENSORSET", key, name, *array.shape, "BLOB", array.tobytes()) == b"OK"


def get_tensor(r: redis.Redis, key: str) -> npt.NDArray[Any]:
    _, name, _, shape, _, blob = ask(r, "AI.TENSORGET", key, "META", "BLOB")
    array: npt.NDArray[Any] = np.frombuffer(blob, {b"FLOAT": "<f4", b"INT64": "<i8"}[name])
    return array.reshape(tuple(shape))


def execute(r: redis.Redis, model: str, inputs: list[str], outputs: list[str]) -> None:
    named = ["INPUTS", str(len(inputs)), *inputs, "OUTPUTS", str(len(outputs)), *outputs]
    assert ask(r, "AI.MODELEXECUTE", model, *named) == b"OK"


def check_speech_and_silence(heard: list[float]) -> None:
    """Else the outputs agree for want of anything to hear."""
    assert min(heard) < 0.2 < 0.8 < max(heard)


def test_speech_detection_in_onnx(r: redis.Redis, silero_onnx: bytes, speech: list[Floats]) -> None:
    session = onnxruntime.InferenceSession(silero_onnx, providers=["CPUExecutionProvider"])
    state = np.zeros((2, 1, 128), np.float32)
    context = np.zeros((1, CONTEXT), np.float32)
    rate = np.array([RATE], np.int64)
    store(r, "vad", "ONNX", silero_onnx)
    set_tensor(r, "state", state)
    set_tensor(r, "rate", rate)
    heard = []
    for window in speech:
        window = np.concatenate([context, window], axis=1)
        context = window[:, -CONTEXT:]
        expected, state = session.run(None, {"input": window, "state": state, "sr": rate})
        set_tensor(r, "window", window)
        # the state never leaves the server: one run's output is the next one's input
        execute(r, "vad", ["window", "state", "rate"], ["speech", "state"])
        np.testing.assert_allclose(get_tensor(r, "speech"), expected, atol=1e-5)
        np.testing.assert_allclose(get_tensor(r, "state"), state, atol=1e-4)
        heard.append(float(expected.item()))
    check_speech_and_silence(heard)


def test_speech_detection_in_torchscript(r: redis.Redis, silero_jit: Path, speech: list[Floats]) -> None:
    model = torch.jit.load(silero_jit)  # type: ignore[no-untyped-call]
    store(r, "vad", "TORCH", silero_jit.read_bytes())
    set_tensor(r, "rate", np.array([RATE], np.int64))
    heard = []
    for window in speech:
        # this one keeps its state inside, so the order of the runs counts
        with torch.no_grad():
            expected = model(torch.from_numpy(window), RATE).numpy()
        set_tensor(r, "window", window)
        execute(r, "vad", ["window", "rate"], ["speech"])
        np.testing.assert_allclose(get_tensor(r, "speech"), expected, atol=1e-5)
        heard.append(float(expected.item()))
    check_speech_and_silence(heard)


def test_speech_detection_agrees_in_both(
    r: redis.Redis, silero_onnx: bytes, silero_jit: Path, speech: list[Floats]
) -> None:
    """The same network in two formats and two libraries."""
    store(r, "onnx", "ONNX", silero_onnx)
    store(r, "torch", "TORCH", silero_jit.read_bytes())
    set_tensor(r, "state", np.zeros((2, 1, 128), np.float32))
    set_tensor(r, "rate", np.array([RATE], np.int64))
    context = np.zeros((1, CONTEXT), np.float32)
    for window in speech:
        set_tensor(r, "window", window)
        execute(r, "torch", ["window", "rate"], ["torch:speech"])
        window = np.concatenate([context, window], axis=1)
        context = window[:, -CONTEXT:]
        set_tensor(r, "window", window)
        execute(r, "onnx", ["window", "state", "rate"], ["onnx:speech", "state"])
        np.testing.assert_allclose(get_tensor(r, "onnx:speech"), get_tensor(r, "torch:speech"), atol=1e-4)


def test_text_detection_in_photographs(r: redis.Redis, detector: bytes) -> None:
    session = onnxruntime.InferenceSession(detector, providers=["CPUExecutionProvider"])
    store(r, "detector", "ONNX", detector)
    finds = 0
    for photograph in photographs():
        (expected,) = session.run(None, {"x": photograph})
        set_tensor(r, "photograph", photograph)
        execute(r, "detector", ["photograph"], ["text"])
        np.testing.assert_allclose(get_tensor(r, "text"), expected, rtol=1e-3, atol=1e-6)
        finds += bool(expected.max() > 0.9)
    assert finds > RUNS // 5  # else the outputs agree for want of anything to see


def test_every_digit_is_read_as_scikit_learn_does(r: redis.Redis) -> None:
    images, _ = digits.digits()
    classifier = digits.train()
    expected = classifier.predict(images)
    store(r, "digits", "ONNX", digits.to_onnx(classifier))

    set_tensor(r, "images", images)
    execute(r, "digits", ["images"], ["classes", "probabilities"])
    assert np.array_equal(get_tensor(r, "classes"), expected)
    np.testing.assert_allclose(get_tensor(r, "probabilities"), classifier.predict_proba(images), atol=1e-5)

    # and one by one, as clients would
    pipeline = r.pipeline(transaction=False)
    for image in images:
        ask(pipeline, "AI.TENSORSET", "image", "FLOAT", 1, 64, "BLOB", image.tobytes())
        ask(pipeline, "AI.MODELEXECUTE", "digits", "INPUTS", 1, "image", "OUTPUTS", 2, "class", "odds")
        ask(pipeline, "AI.TENSORGET", "class", "VALUES")
    answers = pipeline.execute()
    assert len(answers) == 3 * 1797
    assert [classes for (classes,) in answers[2::3]] == expected.tolist()
