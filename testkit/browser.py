"""A headless Chromium for the tests, through chromedriver: the WebDriver protocol, as far as they need it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"]


class Browser:
    def __init__(self, port: int, width: int, height: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._path = "/session"
        options = {"args": [*ARGUMENTS, f"--window-size={width},{height}"]}
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self._path += "/" + self._ask("POST", "", capabilities=wanted)["sessionId"]

    def _ask(self, method: str, path: str, **words: Any) -> Any:
        body = json.dumps(words) if method == "POST" else None
        self._connection.request(method, self._path + path, body)
        answer = self._connection.getresponse()
        value = json.load(answer)["value"]
        assert answer.status == 200, value
        return value

    def open(self, url: str) -> None:
        self._ask("POST", "/url", url=url)

    def run(self, script: str) -> Any:
        """What a function body of JavaScript returns in the page."""
        return self._ask("POST", "/execute/sync", script=script, args=[])

    def picture(self) -> bytes:
        """The window, as PNG."""
        return base64.b64decode(self._ask("GET", "/screenshot"))

    def close(self) -> None:
        self._ask("DELETE", "")
        self._connection.close()


def has_browser() -> bool:
    return shutil.which("chromedriver") is not None


@contextmanager
def browser(width: int = 900, height: int = 860) -> Iterator[Browser]:
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert driver.stdout
        lines = iter(driver.stdout.readline, "")
        port = next(int(found[1]) for line in lines if (found := re.search(r"successfully on port (\d+)", line)))
        started = Browser(port, width, height)
        yield started
        started.close()
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
