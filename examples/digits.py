"""Trains a classifier on scikit-learn's handwritten digits, exports it to ONNX and stores it in Redis.

scripts/serve runs this file against the server that it starts. Other programs can import it: digits() returns the
images and their digits, train() returns scikit-learn's classifier, to_onnx() returns the model to store.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import redis

HELD_OUT = 5  # training leaves out every fifth digit
SAMPLE = 1290  # a three that training leaves out
SHADES = " .:-=+*#@"


def digits() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """All 1,797 images, as 1797 x 64 floats from 0 to 16, and the digits that they show."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images.astype(np.float32), labels.astype(np.int64)


def train() -> Any:
    """Trains the classifier. The result is the same every time."""
    from sklearn.neural_network import MLPClassifier

    images, labels = digits()
    trained = np.arange(len(images)) % HELD_OUT != 0
    return MLPClassifier(hidden_layer_sizes=(64,), max_iter=1000, random_state=0).fit(images[trained], labels[trained])


def to_onnx(classifier: Any) -> bytes:
    """The model's input is n x 64 floats. Its outputs are n classes and n x 10 probabilities (a tensor, not a map)."""
    import skl2onnx

    model = skl2onnx.to_onnx(classifier, digits()[0][:1], options={"zipmap": False}, target_opset=17)
    return bytes(model.SerializeToString())


def drawing(image: npt.NDArray[np.float32]) -> str:
    """Draws each pixel as two characters, because a character is about twice as high as wide."""
    rows = (image.reshape(8, 8) / 16 * (len(SHADES) - 1)).round().astype(int)
    return "\n".join("".join(SHADES[shade] * 2 for shade in row).rstrip() for row in rows)


def prepared(cache: Path) -> tuple[bytes, npt.NDArray[np.float32]]:
    """Returns the model and an image to try it on. A file caches them: importing scikit-learn alone takes a second."""
    if not cache.exists() or cache.stat().st_mtime < Path(__file__).stat().st_mtime:
        unfinished = cache.with_suffix(".new.npz")
        np.savez(unfinished, model=np.frombuffer(to_onnx(train()), np.uint8), image=digits()[0][SAMPLE])
        unfinished.replace(cache)
    with np.load(cache) as saved:
        return saved["model"].tobytes(), saved["image"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Stores a classifier as key digits and a sample image as key image.")
    parser.add_argument("--port", type=int, default=6379)
    parser.add_argument("--cache", type=Path, default=Path("digits.npz"))
    arguments = parser.parse_args()
    model, image = prepared(arguments.cache)
    try:
        with redis.Redis("127.0.0.1", arguments.port) as client:
            client.execute_command("AI.MODELSTORE", "digits", "ONNX", "CPU", "BLOB", model)
            client.execute_command("AI.TENSORSET", "image", "FLOAT", 1, 64, "BLOB", image.tobytes())
    except redis.RedisError as error:
        sys.exit(f"The digit classifier could not be stored: {error}")
    print(drawing(image))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # Ctrl-C in scripts/serve
        sys.exit(130)
