"""docs/service.md: the module in Debian's own redis-server.service, with all restrictions of that service.

systemd runs the service for real, as the first process of a container that this file makes. The container's files are
those of this machine, and what it changes is gone afterwards. /usr/lib/redisai is this checkout's .venv.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from testkit import models, tf_models
from testkit.server import free_port
from testkit.waiting import wait_for
from testkit.wire import Wire, Word

ROOT = Path(__file__).resolve().parents[2]
CONTAINER = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--fork", "--kill-child"]

BOOT = r"""
set -e
folder=$1 venv=$2 port=$3
mount -t tmpfs tmpfs "$folder"
mkdir "$folder"/{changes,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/changes,workdir=$folder/work" "$folder/root"
cd "$folder/root"

mkdir -p usr/lib/redisai/lib
cp -a "$venv/bin" "$venv/pyvenv.cfg" usr/lib/redisai
sed -i "1s,^#!$venv,#!/usr/lib/redisai," usr/lib/redisai/bin/redisai-server
mount --bind "$venv/lib" usr/lib/redisai/lib
sed -i "s/^port .*/port $port/" etc/redis/redis.conf
: >etc/fstab

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
    touch "dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/{shm,pts}
mount -t devpts devpts dev/pts
ln -s pts/ptmx dev/ptmx

pivot_root . mnt
umount -l /mnt
exec env -i container=test PATH=/usr/sbin:/usr/bin /lib/systemd/systemd systemd.unit=redis-server.service
"""


class Lstm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(2, 8)

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        return self.lstm(a)[0]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Container:
    port: int
    init: int

    def run(self, script: str) -> str:
        words = ["nsenter", "--target", str(self.init), "--all", "--root", "--wd", "bash", "-ec", script]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def answers(self) -> bool:
        try:
            with Wire(self.port) as wire:
                return bool(wire.ask("PING") == b"PONG")
        except OSError:
            return False

    def execute(self, backend: str, blob: bytes, inputs: list[str], *named: Word) -> Any:
        with Wire(self.port) as wire:
            wire.ask("AI.TENSORSET", "a", "FLOAT", 1, 2, "VALUES", 2, 3)
            wire.ask("AI.TENSORSET", "words", "STRING", 1, "VALUES", "hello")
            stored = wire.ask("AI.MODELSTORE", "m", backend, "CPU", *named, "BLOB", blob)
            assert stored == b"OK", stored
            outputs = 2 if backend == "TFLITE" else 1
            names = ["o", "p"][:outputs]
            return wire.ask("AI.MODELEXECUTE", "m", "INPUTS", len(inputs), *inputs, "OUTPUTS", outputs, *names)


def init_of(unshare: int) -> int:
    """The first process of the container; 0 before it exists."""
    children = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()
    return int(children[0]) if children else 0


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    if os.geteuid() != 0:
        pytest.skip("only root can make a container")
    for needed in ("/lib/systemd/systemd", "/lib/systemd/system/redis-server.service", "/etc/redis/redis.conf"):
        if not Path(needed).exists():
            pytest.skip(f"this machine has no {needed}")
    folder = tmp_path_factory.mktemp("container")
    probe = subprocess.run([*CONTAINER, "mount", "-t", "cgroup2", "cgroup2", folder], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"this machine cannot make a container: {probe.stderr.strip()}")
    port = free_port()
    log = folder.with_name("container.log")
    with log.open("wb") as output:
        words = [*CONTAINER, "bash", "-c", BOOT, "boot", str(folder), sys.prefix, str(port)]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait_for(lambda: process.poll() is not None or init_of(process.pid), 10, "the container begins")
        made = Container(port, init_of(process.pid))
        wait_for(lambda: process.poll() is not None or made.answers(), 30, "the service without the module answers")
        assert process.poll() is None, log.read_text()
        yield made
    finally:
        process.send_signal(signal.SIGKILL)  # its child, the first process of the container, is killed with it
        process.wait()


def commands() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "service.md").read_text(), re.MULTILINE | re.DOTALL)


def follow(container: Container, script: str) -> None:
    container.run(script)
    wait_for(container.answers, 30, "the service with the module answers")


MULTIPLY: list[Word] = ["INPUTS", 2, "a", "b", "OUTPUTS", 1, "mul"]
STRINGS: list[Word] = ["INPUTS", 1, "x", "OUTPUTS", 1, "y"]


def test_the_documented_service(container: Container) -> None:
    _, load, lift = commands()
    follow(container, load)
    unit = container.run("systemctl show redis-server --property User,MemoryDenyWriteExecute,ProtectHome,NoExecPaths")
    assert set(unit.split("\n")) >= {"User=redis", "MemoryDenyWriteExecute=yes", "ProtectHome=yes", "NoExecPaths=/"}

    assert container.execute("ONNX", models.onnx_mul(), ["a", "a"]) == b"OK"
    assert container.execute("TFLITE", tf_models.tflite_two(), ["a", "a"]) == b"OK"
    assert container.execute("TORCH", models.torch_module(models.Add), ["a", "a"]) == b"OK"
    assert container.execute("TF", tf_models.tf_mul(), ["a", "a"], *MULTIPLY) == b"OK"
    lstm = models.torch_blob(Lstm())
    strings = tf_models.tf_identity("STRING")
    assert "could not create a primitive" in container.execute("TORCH", lstm, ["a"])
    assert "Cannot allocate write+execute memory" in container.execute("TF", strings, ["words"], *STRINGS)

    follow(container, lift)
    assert container.execute("TORCH", lstm, ["a"]) == b"OK"
    assert container.execute("TF", strings, ["words"], *STRINGS) == b"OK"
    assert "active" in container.run("systemctl is-active redis-server")


def test_the_option_is_needed(container: Container) -> None:
    """The service without the documented option: as soon as this passes no more, service.md can do without it."""
    container.run("rm /etc/systemd/system/redis-server.service.d/redisai.conf; systemctl daemon-reload")
    container.run("systemctl restart redis-server || true")
    killed = "systemctl show redis-server --property Result,ExecMainStatus"
    wait_for(lambda: f"ExecMainStatus={signal.SIGSYS}" in container.run(killed), 30, "systemd kills the service")
