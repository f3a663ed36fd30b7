"""docs/clients.md: the sessions of the clients give what the page says.

Those of redisai-py and SmartRedis run in tests/tools/, where their environments are made: test_packaging.py and
test_smartsim.py. Go and Java have no packages here, so the commands of their sessions are sent, in order.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from testkit.server import Client, Server
from testkit.waiting import wait_for
from tests.conftest import StartServer
from tests.tools.test_docs import clients_program, page_blocks

PRINTED = "[ 98.6 212. ]"
NODE = pytest.mark.skipif(not shutil.which("npm"), reason="needs Node.js and npm")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which has the model that the page's first program writes."""
    monkeypatch.chdir(tmp_path)
    exec(clients_program("Clients", 0), {})
    return tmp_path


def run(program: str, port: int, capsys: pytest.CaptureFixture[str]) -> str:
    """What a program prints on a server of this port."""
    capsys.readouterr()
    program = re.sub(r"\bRedis\(\)", f"Redis(port={port})", program).replace("port=7000", f"port={port}")
    Path("program.py").write_text(program)
    runpy.run_path("program.py", run_name="__main__")
    return capsys.readouterr().out


def test_our_client(here: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(clients_program("Our Python client", 0), server.port, capsys) == f"{PRINTED}\n"
    error = "Number of keys given as INPUTS here does not match model definition"
    second = clients_program("Our Python client", 1)
    assert run(second, server.port, capsys) == f"{PRINTED}\n{error}\n" and f"# {error}\n" in second
    assert run(clients_program("Our Python client", 2), server.port, capsys) == ""


def test_redis_py(here: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        assert run(clients_program("redis-py", number), server.port, capsys) == f"{PRINTED}\n"


def test_redis_py_in_a_cluster(here: Path, start_server: StartServer, capsys: pytest.CaptureFixture[str]) -> None:
    server = start_server("--cluster-enabled", "yes")
    with server.wire() as wire:
        assert wire.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383) == b"OK"
        wait_for(lambda: b"cluster_state:ok" in wire.ask("CLUSTER", "INFO"), what="the cluster is up")
    assert run(clients_program("redis-py", 3), server.port, capsys) == f"{PRINTED}\n"


@NODE
def test_node(here: Path, server: Server) -> None:
    (here / "package.json").write_text(json.dumps({"private": True}))
    words = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "redis", "ioredis"]
    done = subprocess.run(words, cwd=here, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    environment = {**os.environ, "REDIS_URL": f"redis://127.0.0.1:{server.port}"}
    for section in "node-redis", "ioredis":
        program = here / f"{section}.mjs"
        program.write_text(page_blocks("docs/clients.md", section, "js")[0])
        answer = subprocess.run(["node", program], env=environment, capture_output=True, text=True, timeout=60)
        assert answer.stdout == "Float32Array(2) [ 98.5999984741211, 212 ]\n", answer.stderr


@pytest.mark.parametrize(
    ("section", "language", "call"),
    [("go-redis", "go", r"rdb\.Do\(ctx, (.*?)\)(?=\.\w)"), ("Jedis", "java", r"ask\(jedis, (.*)\)")],
)
def test_the_commands_of(here: Path, r: Client, section: str, language: str, call: str) -> None:
    celsius = np.array([37, 100], "<f4").tobytes()
    values = {"model": (here / "fahrenheit.onnx").read_bytes(), "celsius.Bytes()": celsius, "celsius.array()": celsius}
    (program,) = page_blocks("docs/clients.md", section, language)
    calls = [re.split(", ", words) for words in re.findall(call, program)]
    replies = [r.execute_command(*(values.get(word, word.strip('"')) for word in words)) for words in calls]
    assert replies[:3] == [b"OK"] * 3 and len(replies) == 4
    np.testing.assert_allclose(np.frombuffer(replies[3], "<f4"), [98.6, 212])
