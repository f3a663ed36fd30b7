"""README's first command, ./scripts/serve, on a machine that is set up: the line it prints, Ctrl-C, a port in use."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from testkit.server import free_port

ROOT = Path(__file__).resolve().parents[2]
SERVE = str(ROOT / "scripts" / "serve")


def serve_and_ask(*arguments: str) -> tuple[float, list[str]]:
    """Starts it, runs the line that it prints, presses Ctrl-C. Returns the seconds until the line, and the answers."""
    started = time.monotonic()
    # A shell ignores SIGINT in what it runs in the background, such as these tests, and programs inherit that.
    command = ["env", "--default-signal=INT", SERVE, *arguments]
    serve = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert serve.stdout
        line = next(line for line in serve.stdout if line.startswith(("redis-cli", "valkey-cli")))
        seconds = time.monotonic() - started
        answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
        os.killpg(serve.pid, signal.SIGINT)  # as a terminal does: all of them get it
        assert serve.wait(timeout=60) == 0
        return seconds, answer.stdout.split()
    finally:
        if serve.poll() is None:
            os.killpg(serve.pid, signal.SIGKILL)


def test_serve_twice() -> None:
    port = free_port()
    try:
        _, answer = serve_and_ask("--port", str(port))
        assert answer == ["OK", "3"]
        seconds, answer = serve_and_ask("--port", str(port), "--", "--maxmemory", "1gb")
        assert answer == ["OK", "3"]
        assert seconds < 5
    finally:
        shutil.rmtree(ROOT / ".serve" / str(port))


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = subprocess.run([SERVE, "--port", str(port)], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"serve: port {port} is in use") and "--port" in answer.stderr


@pytest.mark.parametrize("arguments", [["--port"], ["--port", "x"], ["--port=70000"], ["--prot", "1"]])
def test_wrong_arguments(arguments: list[str]) -> None:
    answer = subprocess.run([SERVE, *arguments], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1
    assert answer.stderr.startswith("serve: ") and "usage: ./scripts/serve" in answer.stderr


@pytest.mark.parametrize("option", ["--port", "--daemonize", "--requirepass"])
def test_what_cannot_be_passed_on(option: str) -> None:
    answer = subprocess.run([SERVE, "--", option, "x"], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"serve: {option} cannot be passed on") and "redisai-server" in answer.stderr


def test_an_argument_that_redis_refuses() -> None:
    port = free_port()
    folder = ROOT / ".serve" / str(port)
    try:
        serve_and_ask("--port", str(port))
        answer = subprocess.run(
            [SERVE, "--port", str(port), "--", "--nosuch", "1"], capture_output=True, text=True, timeout=60
        )
        assert answer.returncode == 1
        assert "Bad directive" in answer.stderr
        assert "bye bye" not in answer.stderr, "the end of the run before"
    finally:
        shutil.rmtree(folder)
