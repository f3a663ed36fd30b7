"""A page is read by three libraries in one client session: examples/read_text.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from examples import read_text
from testkit.server import Client, Server

ROOT = Path(__file__).resolve().parents[2]

# What the page says. The prompt ">>>" in front of the last line is not seen: it is not found by the detector either.
PAGE = """
Region-based segmentation
Let us first determine markers of the coins and the
background. These markers are pixels that we can label
unambiguously as either object or background. Here,
the markers are found at the two extreme parts of the
histogram of grey values:
markers = np.zeros_like(coins)
""".strip().splitlines()


@pytest.fixture
def reader(r: Client) -> Client:
    read_text.store(r)
    return r


def tensor(r: Client, key: str) -> npt.NDArray[np.float32]:
    _, dtype, _, shape, _, blob = r.execute_command("AI.TENSORGET", key, "META", "BLOB")
    assert dtype == b"FLOAT"
    return np.frombuffer(blob, np.float32).reshape(tuple(shape))


def run(model: bytes, feed: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    output: npt.NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: feed})[0]
    return output


def check_text(lines: list[str]) -> None:
    """Every character is right. Spaces are what the recogniser is least sure of: a few may be missing."""
    assert [line.replace(" ", "") for line in lines] == [line.replace(" ", "") for line in PAGE]
    words = [word for line in PAGE for word in line.split()]
    read = [word for line in lines for word in line.split()]
    assert len(set(words) & set(read)) > 0.8 * len(set(words))


def test_the_example_prints_the_text(server: Server) -> None:
    program = [sys.executable, str(ROOT / "examples" / "read_text.py"), "--port", str(server.port)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    check_text(done.stdout.splitlines())


def test_every_stage_gives_what_its_library_does(reader: Client) -> None:
    page = read_text.photograph()
    lines = read_text.read(reader, page)
    check_text(lines)

    # the script scaled the page without moving or bending it
    scaled = tensor(reader, "scaled")
    assert scaled.shape == (1, 3, 352, 768)
    assert (scaled[0, 0] == scaled[0, 2]).all()
    means = (scaled[0, 0].reshape(11, 32, 24, 32).mean((1, 3)) + 1) * 127.5
    rows, columns = (np.linspace(0, side, parts + 1).round().astype(int) for side, parts in ((191, 11), (384, 24)))
    expected = np.array([[page[a:b, c:d].mean() for c, d in pairs(columns)] for a, b in pairs(rows)])
    np.testing.assert_allclose(means, expected, atol=8)

    # ONNX Runtime found text, and recognised characters, as it does by itself
    found = run(read_text.rapidocr("ch_PP-OCRv4_det_infer"), scaled)
    np.testing.assert_allclose(tensor(reader, "text"), found, rtol=1e-3, atol=1e-5)
    recogniser = read_text.rapidocr("ch_PP-OCRv4_rec_infer")
    recognised = run(recogniser, tensor(reader, "lines"))
    np.testing.assert_allclose(tensor(reader, "scores"), recognised, rtol=1e-2, atol=1e-4)

    # TensorFlow spelled what the scores say
    alphabet = ["", *read_text.characters(recogniser)]
    for classes, line in zip(recognised.argmax(2), lines, strict=True):
        changes = np.append(True, classes[1:] != classes[:-1])
        assert "".join(alphabet[best] for best in classes[changes]) == line


def test_another_page_at_another_scale(reader: Client) -> None:
    """Nothing in it knows the one photograph: two of the lines, on a page as large as they are."""
    page = np.ascontiguousarray(read_text.photograph()[44:92])
    assert [line.replace(" ", "") for line in read_text.read(reader, page)] == [
        line.replace(" ", "") for line in PAGE[1:3]
    ]


def pairs(edges: npt.NDArray[Any]) -> list[tuple[int, int]]:
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
