"""The images of Containerfile that scripts/containers has built: each is run by podman as a user would.

Only with the names of targets in the environment variable CONTAINERS, which scripts/containers sets: building the
images takes half an hour and needs root.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from testkit import models, tf_models
from testkit.server import Client, free_port
from testkit.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
TARGETS = os.environ.get("CONTAINERS", "").split()
START_SECONDS = 60.0

pytestmark = pytest.mark.skipif(not TARGETS, reason="scripts/containers builds the images and runs this test")

MATRIX = [None, 2]


def tflite_add() -> bytes:
    spec = tf_models.spec
    return tf_models.tflite(lambda x, y: x + y, spec(MATRIX, name="x"), spec(MATRIX, name="y"))


# The backend, how its model is stored, and the names that TF needs. Each model adds two matrices.
MODELS: dict[str, tuple[str, Callable[[], bytes], tuple[str | int, ...]]] = {
    "onnx": ("ONNX", models.onnx_add, ()),
    "torch": ("TORCH", lambda: models.torch_module(models.Add), ()),
    "tf": ("TF", lambda: tf_models.tf_add("float32"), ("INPUTS", 2, "a", "b", "OUTPUTS", 1, "sum")),
    "tflite": ("TFLITE", tflite_add, ()),
}


def podman(*words: str, check: bool = True) -> str:
    done = subprocess.run(["podman", *words], capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, f"podman {' '.join(words)}: {done.stderr}"
    return done.stdout.strip()


class Container:
    """One of an image, with no network: the test uses a socket in its volume."""

    def __init__(self, target: str, volume: Path, *arguments: str, options: tuple[str, ...] = ()) -> None:
        self.volume = volume
        volume.mkdir(exist_ok=True)
        os.chown(volume, 999, 999)
        socket = ("--unixsocket", "/data/redis.sock", "--unixsocketperm", "777")
        mount = ("--network", "none", "--volume", f"{volume}:/data", *options)
        self.id = podman("run", "--detach", *mount, f"redisai:{target}", *arguments, *socket)

    def client(self) -> Client:
        wait_for(self.answers, START_SECONDS, "the container answers")
        return self.connect()

    def connect(self) -> Client:
        return Client(unix_socket_path=str(self.volume / "redis.sock"), socket_timeout=60.0)

    def answers(self) -> bool:
        assert self.state() == "running", podman("logs", self.id)
        try:
            with self.connect() as client:
                return bool(client.ping())
        except redis.ConnectionError:  # BusyLoadingError is one
            return False

    def state(self) -> str:
        return podman("inspect", "--format", "{{.State.Status}}", self.id)

    def exit_code(self) -> int:
        return int(podman("inspect", "--format", "{{.State.ExitCode}}", self.id))

    def health(self) -> str:
        """What the command of HEALTHCHECK prints: nothing where all is well."""
        command = json.loads(podman("inspect", "--format", "{{json .Config.Healthcheck.Test}}", self.id))
        assert command[0] == "CMD"
        return podman("exec", self.id, *command[1:], check=False)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Container]]:
    started: list[Container] = []

    def start(target: str, *arguments: str, options: tuple[str, ...] = ()) -> Container:
        container = Container(target, tmp_path / f"data{len(started)}", *arguments, options=options)
        started.append(container)
        return container

    yield start
    for container in started:
        podman("rm", "--force", "--time", "0", container.id)


def run(client: Client, model: str) -> Any:
    client.execute_command("AI.MODELEXECUTE", model, "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
    return client.execute_command("AI.TENSORGET", "y", "VALUES")


@pytest.mark.parametrize("target", TARGETS)
def test_image(start: Callable[..., Container], target: str) -> None:
    # As Kubernetes runs it: without writing anywhere but in volumes.
    container = start(target, "--maxmemory", "1gb", options=("--read-only", "--cap-drop", "all"))
    wanted = list(MODELS) if target == "all" else [target]
    with container.client() as client:
        assert client.execute_command("CONFIG", "GET", "maxmemory") == {b"maxmemory": b"1073741824"}
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 3, 4)
        for name in wanted:
            backend, blob, names = MODELS[name]
            client.execute_command("AI.MODELSTORE", name, backend, "CPU", *names, "BLOB", blob())
            assert run(client, name) == [6.0, 8.0], name
    assert podman("healthcheck", "run", container.id) == ""
    process = podman("exec", container.id, "sh", "-c", "cat /proc/1/comm; id -un; stat -c %U /proc/1")
    assert process.split() == ["redis-server", "redis", "redis"]

    podman("stop", container.id)  # sends SIGTERM, and kills after 10 seconds
    assert container.exit_code() == 0
    assert (container.volume / "dump.rdb").stat().st_uid == 999
    podman("start", container.id)
    with container.client() as client:
        for name in wanted:
            assert run(client, name) == [6.0, 8.0], name


@pytest.mark.parametrize("target", TARGETS[:1])
def test_crash_ends_the_container(start: Callable[..., Container], target: str) -> None:
    """Without an init process: the kernel spares process 1 the signals that it does not handle."""
    for command, code in (("SEGFAULT", 139), ("PANIC", 139)):
        container = start(target, "--enable-debug-command", "local")
        with container.client() as client, pytest.raises(redis.ConnectionError):
            client.execute_command("DEBUG", command)
        wait_for(lambda container=container: container.state() == "exited", START_SECONDS, "the container ends")  # type: ignore[misc]
        assert container.exit_code() == code, podman("logs", container.id)


@pytest.mark.parametrize("target", TARGETS[:1])
def test_health(start: Callable[..., Container], target: str) -> None:
    container = start(target, "--requirepass", "secret")
    wait_for(lambda: "Authentication required" in container.health(), START_SECONDS, "the server asks for a password")
    container = start(target, "--requirepass", "secret", options=("--env", "REDISCLI_AUTH=secret"))
    wait_for(lambda: not container.health(), START_SECONDS, "the container is healthy")


def test_page(tmp_path: Path) -> None:
    """The commands of docs/containers.md, in order, but for those that build, and those of Kubernetes."""
    if "onnx" not in TARGETS:
        pytest.skip("the page runs redisai:onnx")
    page = (ROOT / "docs/containers.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = "".join(block for block in blocks if re.match(r"podman (?!build|compose)", block))
    assert lines.count("podman") >= 6
    script = lines.replace("6379:6379", f"{free_port()}:6379")
    try:
        done = subprocess.run(
            ["bash", "-euxc", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
    finally:
        podman("rm", "--force", "--ignore", "redisai")
        podman("volume", "rm", "--force", "redisai")
