"""examples/camera: its pages in a browser, with a flow and with a binding, how it ends, and docs/camera.md.

PICTURE=docs takes the pictures of that page anew: of what the flow's test sees then.
"""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from examples.camera import camera, classifier
from examples.camera.start import BINDING
from testkit.browser import Browser, browser, has_browser
from testkit.waiting import wait_for
from tests.tools.test_docs import blocks

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [text.strip() for language, text in blocks("docs/camera.md") if language == "sh"]
CAT = "chelsea.png"
STRIP = "return [...document.querySelectorAll('#recent li')].map((e) => [e.querySelector('img').src, e.innerText])"


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(errors: Path, command: str, *words: str) -> Iterator[tuple[int, str]]:
    """Redis's port and the address of the pages. Presses Ctrl-C at the end."""
    # A shell ignores SIGINT in what it runs in the background, such as these tests, and programs inherit that.
    whole = ["env", "--default-signal=INT", *command.split(), *words]
    with errors.open("w") as stderr:
        system = subprocess.Popen(
            whole, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
        )
    try:
        assert system.stdout
        told = ""
        while "Cats only" not in told:
            line = system.stdout.readline()
            assert line, errors.read_text()
            told += line
        ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", told)]
        yield ports[0], f"http://127.0.0.1:{ports[1]}"
        os.killpg(system.pid, signal.SIGINT)  # as a terminal does: all of them get it
        wait_for(lambda: not answers(ports[1]), 60, "the end of the pages")
        os.killpg(system.pid, signal.SIGINT)  # of an impatient user
        assert system.wait(60) == 0
        assert errors.read_text() == ""
    finally:
        if system.poll() is None:
            system.terminate()
            system.wait(60)


def thumbnail(image: Image.Image) -> npt.NDArray[np.float32]:
    return np.asarray(image.resize((8, 6)), np.float32)


@pytest.fixture(scope="module")
def photographs() -> dict[str, npt.NDArray[np.float32]]:
    firsts = islice(camera.photographs(None), 0, None, camera.HOLD)
    return {path.name: thumbnail(next(firsts)) for path in camera.files(None)}


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    if not has_browser():
        pytest.skip("chromedriver is not installed")
    with browser() as window:
        yield window


def test_the_page_has_both() -> None:
    assert COMMANDS == ["./examples/camera/run", "./examples/camera/run --binding"]
    assert BINDING in [text.strip() for language, text in blocks("docs/camera.md") if not language]


@pytest.mark.parametrize("command", COMMANDS)
def test_pages(window: Browser, photographs: dict[str, npt.NDArray[np.float32]], command: str, tmp_path: Path) -> None:
    def name(source: str) -> str:
        """Which photograph that is."""
        image = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))
        distances = {each: np.abs(known - thumbnail(image)).mean() for each, known in photographs.items()}
        return min(distances, key=lambda each: distances[each])

    def shown(what: str) -> Any:
        return window.run(f"return document.querySelector('#{what}').innerText")

    def save_picture(page: str, recent: int, label: str) -> None:
        if (folder := os.environ.get("PICTURE")) and "--binding" not in command:
            wait_for(lambda: len(window.run(STRIP)) >= recent and shown("label") == label, 60)
            drawn = Image.open(io.BytesIO(window.picture())).convert("RGB")
            drawn.quantize(160, Image.Quantize.MAXCOVERAGE).save(f"{folder}/camera-{page}.png", optimize=True)

    # A flow classifies every tenth frame, a binding all.
    rate = "10" if os.environ.get("PICTURE") else "20" if "--binding" in command else "40"
    with running(tmp_path / "errors", command, "--rate", rate, "--port", "0") as (port, address):
        seen: set[str] = set()
        window.open(f"{address}/all")

        def has_shown_all() -> bool:
            if source := window.run(
                "const frame = document.querySelector('#frame'); return frame.complete && frame.src"
            ):
                seen.add(name(source))
            return seen == set(photographs)

        wait_for(has_shown_all, 60, "all photographs")
        wait_for(lambda: shown("run").endswith(" ms") and float(shown("rate")) > 0, 60, "figures")
        assert shown("label") in classifier.labels()
        runs = int(shown("runs"))
        save_picture("all", 6, "espresso")

        window.open(f"{address}/cats")
        # So every photograph has been classified once more.
        wait_for(lambda: shown("runs").isdigit() and int(shown("runs")) >= runs + len(photographs), 60, "more runs")
        wait_for(lambda: window.run(STRIP), 60, "cats")
        cats = [classifier.labels()[number] for number in classifier.CATS]
        for source, text in window.run(STRIP):
            assert name(source) == CAT and text.splitlines()[0] in cats, text
        wait_for(lambda: shown("rate")[0].isdigit(), 60, "the rate")
        save_picture("cats", 3, "Egyptian cat")
        assert shown("label") in cats and int(shown("probability").removesuffix(" %")) > 20
    assert not answers(port)


def test_what_is_missing(tmp_path: Path) -> None:
    def told(program: str, *words: object) -> str:
        command = [sys.executable, "-m", f"examples.camera.{program}", *map(str, words)]
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert answer.returncode == 1
        return answer.stderr

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for option in "--port", "--redis-port":
            wanted = f"camera: port {port} is in use; choose another one: ./examples/camera/run {option} {port + 1}\n"
            assert told("start", "--port", 0, option, port) == wanted
    for path, wanted in (tmp_path, f"{tmp_path} has no photographs (.jpg, .png, .webp)"), ("/no", "there is no /no"):
        assert told("camera", "--source", path) == f"camera: {wanted}\n"
