"""The camera: adds frames to the stream camera:0, from photographs or from a video device.

Each frame is a JPEG in the field `image`. With --pixels, the field `pixels` has it in the classifier's size besides, as
bytes: height x width x red, green, blue.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import redis
from PIL import Image

from .classifier import SIDE

STREAM = "camera:0"
KEPT = 100  # frames, which is 10 seconds
SIZE = (480, 360)
HOLD = 10  # frames of one photograph
PHOTOGRAPHS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def files(folder: Path | None) -> list[Path]:
    """The photographs of a folder. Without one, those of scikit-image, of which one shows a cat."""
    if folder is None:
        import skimage

        return [Path(skimage.__file__).parent / "data" / name for name in PHOTOGRAPHS]
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not found:
        sys.exit(f"camera: {folder} has no photographs (.jpg, .png, .webp)")
    return found


def photographs(folder: Path | None) -> Iterator[Image.Image]:
    """One photograph after the other, for ever. The camera moves a little from frame to frame."""
    for path in cycle(files(folder)):
        with Image.open(path) as photograph:
            shown = photograph.convert("RGB")
        # It is cut to the shape of a frame. A frame is nine tenths of that, and the camera moves in the rest.
        width = min(shown.width, shown.height * SIZE[0] / SIZE[1])
        height = width * SIZE[1] / SIZE[0]
        top = (shown.height - height) / 2 + height * 0.05
        for step in range(HOLD):
            left = (shown.width - width) / 2 + width * 0.1 * step / HOLD
            yield shown.resize(SIZE, box=(left, top, left + width * 0.9, top + height * 0.9))


def video(device: Path) -> Iterator[Image.Image]:
    try:
        import cv2
    except ImportError:
        sys.exit("camera: a video device needs OpenCV: .venv/bin/pip install opencv-python-headless")
    capture = cv2.VideoCapture(str(device))
    if not capture.isOpened():
        sys.exit(f"camera: OpenCV cannot read from {device}")
    while True:
        there_is_one, frame = capture.read()
        if not there_is_one:
            sys.exit(f"camera: {device} gives no more frames")
        image = Image.fromarray(frame[:, :, ::-1])
        image.thumbnail(SIZE)
        yield image


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description="Adds frames to the stream camera:0.")
    parser.add_argument("--redis-port", type=int, default=6379)
    parser.add_argument("--rate", type=float, default=10, help="frames a second")
    parser.add_argument("--source", type=Path, help="a folder of photographs, or a video device")
    parser.add_argument("--pixels", action="store_true", help="adds the classifier's input, too")
    options = parser.parse_args()
    source: Path | None = options.source
    if source and not source.exists():
        sys.exit(f"camera: there is no {source}")
    images = video(source) if source and not source.is_dir() else photographs(source)
    client = redis.Redis("127.0.0.1", options.redis_port)
    due = time.monotonic()
    try:
        for image in images:
            fields: dict[str, bytes] = {"image": jpeg(image)}
            if options.pixels:
                fields["pixels"] = image.resize((SIDE, SIDE)).tobytes()
            client.xadd(STREAM, fields, maxlen=KEPT)  # type: ignore[arg-type]
            due = max(due + 1 / options.rate, time.monotonic() - 1)  # it does not hurry after a long break
            time.sleep(max(0, due - time.monotonic()))
    except redis.RedisError as error:
        sys.exit(f"camera: a frame could not be added: {error}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
