"""Reads a photographed page in one client session, with three libraries.

PyTorch scales the photograph and cuts the lines of text out of it (a script), ONNX Runtime finds where text is and
recognises characters (models of rapidocr), TensorFlow spells them out. A picture travels to the server and a few lines
of text travel back; everything between stays where it is.

    pip install redis scikit-image onnx tensorflow && pip install --no-deps rapidocr-onnxruntime
    python examples/read_text.py --port 6379
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import redis

# A script is TorchScript: no imports, `torch` and the typing names are there.
SCRIPT = """
def sample(page, x, y):
    # The page's colours at points between -1 (left, top) and 1 (right, bottom), on a grid of any shape
    return torch.grid_sampler(page, torch.stack(torch.broadcast_tensors(x, y), 2)[None], 0, 1, False)

def scale(tensors: List[Tensor], keys: List[str], args: List[str]):
    # The detector wants -1 to 1 rather than 0 to 255, three colours, and sides that are multiples of 32
    page = (tensors[0] / 127.5 - 1).expand(1, 3, -1, -1)
    height, width = [side * int(args[0]) // 32 * 32 for side in tensors[0].size()]
    return sample(page, torch.linspace(-1, 1, width), torch.linspace(-1, 1, height)[:, None])

def regions(text):
    # Numbers pixels so that connected ones have the same number: each takes the highest of its neighbours, then the
    # one that the pixel of that number has taken meanwhile, until nothing changes
    numbers = torch.arange(1, text.numel() + 1).view_as(text) * text
    before = torch.zeros_like(numbers)
    while not torch.equal(numbers, before):
        before = numbers
        numbers = torch.max_pool2d(numbers[None].float(), 3, 1, 1)[0].long() * text
        numbers = torch.constant_pad_nd(numbers.flatten(), [1, 0])[numbers]
    return numbers

def powers(x):
    return torch.stack([torch.ones_like(x), x, x * x], -1)

def cut(tensors: List[Tensor], keys: List[str], args: List[str]):
    page, numbers = tensors[0], regions(torch.max_pool2d(tensors[1], 4)[0, 0] > 0.3)
    rows: List[Tensor] = []
    heights: List[Tensor] = []
    for number in torch.unique(numbers[numbers > 0]):
        y, x = (numbers == number).nonzero().unbind(1)
        y, x = (2 * y + 1) / numbers.size(0) - 1, (2 * x + 1) / numbers.size(1) - 1
        # A page is hardly ever flat: a parabola follows the line, and what is cut out along it is straight
        bend = powers(x).pinverse() @ y
        # Half the height to cut: what the detector marks is the core of a line, and deviates less from its bend
        half = 6.5 * (y - powers(x) @ bend).std(unbiased=False)
        if float(half) * numbers.size(0) < 2:
            continue  # a speck, too low for letters
        margin = half * page.size(2) / page.size(3)
        left, right = float(x.min() - margin), float(x.max() + margin)
        x = torch.linspace(left, right, int(24 * (right - left) / margin))
        rows.append(sample(page, x, powers(x) @ bend + half * torch.linspace(-1, 1, 48)[:, None]))
        heights.append(bend[0])
    assert len(rows) > 0, "there is no text on this page"
    # From the top to the bottom, as one tensor: the shorter ones are filled up with grey
    widest = max([row.size(3) for row in rows])
    rows = [torch.constant_pad_nd(row, [0, widest - row.size(3)]) for row in rows]
    return torch.cat(rows)[torch.stack(heights).argsort()]
"""

STEPS = """
AI.SCRIPTEXECUTE reader scale INPUTS 1 page ARGS 1 2 OUTPUTS 1 scaled
AI.MODELEXECUTE detector INPUTS 1 scaled OUTPUTS 1 text
AI.SCRIPTEXECUTE reader cut INPUTS 2 scaled text OUTPUTS 1 lines
AI.MODELEXECUTE recogniser INPUTS 1 lines OUTPUTS 1 scores
AI.MODELEXECUTE speller INPUTS 1 scores OUTPUTS 1 words
AI.TENSORGET words VALUES
"""


def photograph() -> npt.NDArray[np.uint8]:
    """A page of a manual, as a camera saw it: 191 x 384 shades of grey."""
    import skimage.data

    page: npt.NDArray[np.uint8] = skimage.data.page()  # type: ignore[no-untyped-call]
    return page


def rapidocr(model: str) -> bytes:
    """One of the package's models; nothing of it is imported, so what it depends on need not be there."""
    package = importlib.util.find_spec("rapidocr_onnxruntime")
    if package is None or package.origin is None:
        sys.exit("Its models are needed: pip install --no-deps rapidocr-onnxruntime")
    return (Path(package.origin).parent / "models" / f"{model}.onnx").read_bytes()


def characters(recogniser: bytes) -> list[str]:
    """What the recogniser's classes from 1 on mean; class 0 is the gap between characters."""
    import onnx

    properties = {entry.key: entry.value for entry in onnx.load_from_string(recogniser).metadata_props}
    return [*properties["character"].splitlines(), " "]


def spelling(alphabet: Sequence[str]) -> bytes:
    """A TensorFlow graph: scores, lines x positions x classes, become one string for each line.

    A character that stands at several positions in a row is one character, unless there is a gap between.
    """
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        scores = tf.compat.v1.placeholder(tf.float32, [None, None, None], "scores")
        best = tf.argmax(scores, 2)
        before = tf.pad(best[:, :-1], [[0, 0], [1, 0]])
        spelled = tf.where(tf.equal(best, before), "", tf.gather(["", *alphabet], best))
        tf.identity(tf.strings.reduce_join(spelled, 1), "lines")
    return bytes(graph.as_graph_def().SerializeToString())


def store(client: redis.Redis) -> None:
    """Once for a server: the script and the three models."""
    recogniser = rapidocr("ch_PP-OCRv4_rec_infer")
    nodes = ["INPUTS", "1", "scores", "OUTPUTS", "1", "lines"]
    commands: list[list[str | bytes]] = [
        ["AI.SCRIPTSTORE", "reader", "CPU", "ENTRY_POINTS", "2", "scale", "cut", "SOURCE", SCRIPT],
        ["AI.MODELSTORE", "detector", "ONNX", "CPU", "BLOB", rapidocr("ch_PP-OCRv4_det_infer")],
        ["AI.MODELSTORE", "recogniser", "ONNX", "CPU", "BLOB", recogniser],
        ["AI.MODELSTORE", "speller", "TF", "CPU", *nodes, "BLOB", spelling(characters(recogniser))],
    ]
    for command in commands:
        client.execute_command(*command)  # type: ignore[no-untyped-call]


def read(client: redis.Redis, page: npt.NDArray[np.uint8]) -> list[str]:
    """The lines of text on a page, all in one round trip: the server answers commands in the order they were sent."""
    pipeline = client.pipeline(transaction=False)
    pipeline.execute_command("AI.TENSORSET", "page", "UINT8", *page.shape, "BLOB", page.tobytes())  # type: ignore[no-untyped-call]
    for step in STEPS.split("\n")[1:-1]:
        pipeline.execute_command(*step.split())  # type: ignore[no-untyped-call]
    answers: list[Any] = pipeline.execute()
    return [line.decode() for line in answers[-1]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Stores what reads text in Redis, and lets it read a page.")
    parser.add_argument("--port", type=int, default=6379)
    port = parser.parse_args().port
    try:
        with redis.Redis("127.0.0.1", port) as client:
            store(client)
            print("\n".join(read(client, photograph())))
    except redis.RedisError as error:
        sys.exit(f"The page could not be read: {error}")


if __name__ == "__main__":
    main()
