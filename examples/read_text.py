"""Reads a photographed page in one client session, with three libraries.

1. PyTorch scales the photograph (a script).
2. ONNX Runtime finds the text (a model of rapidocr).
3. PyTorch cuts out the lines of text (a script).
4. ONNX Runtime recognises the characters (a model of rapidocr).
5. TensorFlow spells the lines.

The client sends one picture and receives a few lines of text. All other data stays on the server.

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

# A script is TorchScript. It cannot import; `torch` and the typing names are already defined.
SCRIPT = """
def sample(page, x, y):
    # Returns the page's colours at the points of a grid. Points go from -1 (left, top) to 1 (right, bottom).
    return torch.grid_sampler(page, torch.stack(torch.broadcast_tensors(x, y), 2)[None], 0, 1, False)

def scale(tensors: List[Tensor], keys: List[str], args: List[str]):
    # The detector needs values from -1 to 1 instead of 0 to 255, three colours, and sides that are multiples of 32
    page = (tensors[0] / 127.5 - 1).expand(1, 3, -1, -1)
    height, width = [side * int(args[0]) // 32 * 32 for side in tensors[0].size()]
    return sample(page, torch.linspace(-1, 1, width), torch.linspace(-1, 1, height)[:, None])

def regions(text):
    # Numbers the pixels so that connected pixels have the same number. In each step, a pixel takes the highest number
    # among its neighbours. Then it looks up the pixel with that number and takes that pixel's new number. The loop ends
    # when no number changes.
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
        # The page is rarely flat, so the lines are bent. A cut along a fitted parabola makes a line straight.
        bend = powers(x).pinverse() @ y
        # Half the height of the cut, larger than the marked pixels: the detector marks only the core of a line
        half = 6.5 * (y - powers(x) @ bend).std(unbiased=False)
        if float(half) * numbers.size(0) < 2:
            continue  # a speck, not high enough for letters
        margin = half * page.size(2) / page.size(3)
        left, right = float(x.min() - margin), float(x.max() + margin)
        x = torch.linspace(left, right, int(24 * (right - left) / margin))
        rows.append(sample(page, x, powers(x) @ bend + half * torch.linspace(-1, 1, 48)[:, None]))
        heights.append(bend[0])
    assert len(rows) > 0, "there is no text on this page"
    # Returns the lines from top to bottom as one tensor. Grey fills the ends of the shorter lines.
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
    """Returns a photograph of a page of a manual: 191 x 384 shades of grey."""
    import skimage.data

    page: npt.NDArray[np.uint8] = skimage.data.page()  # type: ignore[no-untyped-call]
    return page


def rapidocr(model: str) -> bytes:
    """Returns a model of the package rapidocr. It does not import the package, so the dependencies may be missing."""
    package = importlib.util.find_spec("rapidocr_onnxruntime")
    if package is None or package.origin is None:
        sys.exit("The models are missing. Install them: pip install --no-deps rapidocr-onnxruntime")
    return (Path(package.origin).parent / "models" / f"{model}.onnx").read_bytes()


def characters(recogniser: bytes) -> list[str]:
    """Returns the characters of the recogniser's classes from 1 on. Class 0 is the gap between characters."""
    import onnx

    properties = {entry.key: entry.value for entry in onnx.load_from_string(recogniser).metadata_props}
    return [*properties["character"].splitlines(), " "]


def spelling(alphabet: Sequence[str]) -> bytes:
    """Returns a TensorFlow graph that makes one string per line from scores: lines x positions x classes.

    Equal characters at successive positions count once, unless a gap separates them.
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
    """Stores the script and the three models. One call per server is enough."""
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
    """Returns the lines of text on a page. One round trip is enough: the server runs the commands in the order sent."""
    pipeline = client.pipeline(transaction=False)
    pipeline.execute_command("AI.TENSORSET", "page", "UINT8", *page.shape, "BLOB", page.tobytes())  # type: ignore[no-untyped-call]
    for step in STEPS.split("\n")[1:-1]:
        pipeline.execute_command(*step.split())  # type: ignore[no-untyped-call]
    answers: list[Any] = pipeline.execute()
    return [line.decode() for line in answers[-1]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Stores a script and models that read text, then reads a page.")
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
