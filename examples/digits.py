"""A classifier of handwritten digits: trained on scikit-learn's bundled digits, exported to ONNX, stored in Redis.

scripts/serve runs this file against the server that it starts. As a library: digits() gives the images and what they
show, train() scikit-learn's own classifier, to_onnx() the model to store.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import redis

HELD_OUT = 5  # every fifth digit is kept out of training
SAMPLE = 1290  # one of those: a three
SHADES = " .:-=+*#@"


def digits() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """All 1,797 digits: images as 1797 x 64 floats from 0 to 16, and what they show."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images.astype(np.float32), labels.astype(np.int64)


def train() -> Any:
    """The fitted classifier, the same every time."""
    from sklearn.neural_network import MLPClassifier

    images, labels = digits()
    trained = np.arange(len(images)) % HELD_OUT != 0
    return MLPClassifier(hidden_layer_sizes=(64,), max_iter=1000, random_state=0).fit(images[trained], labels[trained])


def to_onnx(classifier: Any) -> bytes:
    """Input: n x 64 floats. Outputs: n classes, and n x 10 probabilities as a plain tensor rather than a map."""
    import skl2onnx

    model = skl2onnx.to_onnx(classifier, digits()[0][:1], options={"zipmap": False}, target_opset=17)
    return bytes(model.SerializeToString())


def drawing(image: npt.NDArray[np.float32]) -> str:
    """Twice as wide as high, as letters are high."""
    rows = (image.reshape(8, 8) / 16 * (len(SHADES) - 1)).round().astype(int)
    return "\n".join("".join(SHADES[shade] * 2 for shade in row).rstrip() for row in rows)


def prepared(cache: Path) -> tuple[bytes, npt.NDArray[np.float32]]:
    """The model and the digit to try it on; made once, as scikit-learn alone takes a second to import."""
    if not cache.exists() or cache.stat().st_mtime < Path(__file__).stat().st_mtime:
        unfinished = cache.with_suffix(".new.npz")
        np.savez(unfinished, model=np.frombuffer(to_onnx(train()), np.uint8), image=digits()[0][SAMPLE])
        unfinished.replace(cache)
    with np.load(cache) as saved:
        return saved["model"].tobytes(), saved["image"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Stores the classifier as key digits, a digit to try it on as image.")
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
