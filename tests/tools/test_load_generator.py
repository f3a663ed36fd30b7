"""The load generator counts right and wrong replies and sees stalls: figures need a check that would find an error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from testkit.load import LOAD, build_load
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Word, encode

NESTED_ERROR = 'return {1, {"a", {}, {{err="ERR inside"}}}, false}'


@pytest.fixture(scope="module")
def load() -> Path:
    build_load()
    return LOAD


def request(folder: Path, *commands: tuple[Word, ...]) -> str:
    path = folder / "request"
    path.write_bytes(b"".join(map(encode, commands)))
    return str(path)


def run(load: Path, server: Server, *words: str) -> dict[str, Any]:
    done = subprocess.run([str(load), "--port", str(server.port), *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_right_replies_are_counted(load: Path, server: Server, tmp_path: Path) -> None:
    expected = tmp_path / "expected"
    expected.write_bytes(b"+OK\r\n$3\r\nxxx\r\n*2\r\n$1\r\na\r\n*0\r\n")
    nested = ("EVAL", 'return {"a", {}}', 0)
    file = request(tmp_path, ("SET", "k", "xxx"), ("GET", "k"), nested)
    shape = ("--connections", "3", "--pipeline", "4", "--requests", "1000")
    result = run(load, server, *shape, "--expect", str(expected), file)
    assert (result["requests"], result["errors"], result["commands_per_request"]) == (1000, 0, 3)
    assert 0 < result["p50_us"] <= result["p99_us"] <= result["p999_us"] <= result["max_us"]
    assert result["requests_per_s"] == pytest.approx(1000 / result["seconds"], rel=1e-3)


def test_large_replies_are_compared_to_the_last_byte(load: Path, server: Server, tmp_path: Path) -> None:
    data, expected = os.urandom(3_000_000), tmp_path / "expected"
    with server.wire() as wire:
        wire.ask("SET", "k", data)
    for last, errors in (data[-1:], 0), (bytes([data[-1] ^ 1]), 5):
        expected.write_bytes(b"$%d\r\n%s\r\n" % (len(data), data[:-1] + last))
        result = run(load, server, "--requests", "5", "--expect", str(expected), request(tmp_path, ("GET", "k")))
        assert (result["requests"], result["errors"]) == (5, errors)
        assert result["bytes_in"] == 5 * expected.stat().st_size


@pytest.mark.parametrize(
    ("command", "first"), [(("FOO",), "-ERR unknown command"), (("EVAL", NESTED_ERROR, 0), "-ERR inside")]
)
def test_an_error_anywhere_in_a_reply_counts(
    load: Path, server: Server, tmp_path: Path, command: tuple[Word, ...], first: str
) -> None:
    result = run(load, server, "--requests", "7", request(tmp_path, ("PING",), command, ("PING",)))
    assert result["errors"] == 7
    assert result["first_error"].startswith(first)


@pytest.mark.parametrize(("expected", "errors"), [("+PONG", 0), ("+PONGS", 5), ("+PANG", 5), ("+PONG\r\n", 0)])
def test_a_prefix_is_required_of_every_reply(
    load: Path, server: Server, tmp_path: Path, expected: str, errors: int
) -> None:
    result = run(load, server, "--requests", "5", "--prefix", expected, request(tmp_path, ("PING",), ("PING",)))
    assert result["errors"] == errors


def test_a_stall_is_seen(load: Path, server: Server, tmp_path: Path) -> None:
    words = [str(load), "--port", str(server.port), "--seconds", "60", request(tmp_path, ("GET", "k"))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr and process.stdout
        assert process.stderr.readline() == "started\n"
        with server.wire() as wire:
            wire.ask("DEBUG", "SLEEP", "0.2")
        process.send_signal(signal.SIGTERM)
        result = json.loads(process.stdout.read())
    assert 100_000 < result["max_us"] < 5_000_000


def test_a_server_that_goes_away_is_a_failure(load: Path, tmp_path: Path, server: Server) -> None:
    words = [str(load), "--port", str(server.port), "--seconds", "60", request(tmp_path, ("PING",))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        process.stderr.readline()
        with server.wire() as wire:
            wait_for(lambda: wire.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"), what="a client to kill")
        assert process.wait(30) == 1
        assert process.stderr.read().startswith("load: ")
