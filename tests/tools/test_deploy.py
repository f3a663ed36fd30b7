"""Containerfile and deploy/: they are valid, their probes tell what Kubernetes must know, and their pods form a group.

The pods are processes on addresses of the loopback network, with the files and scripts of the ConfigMap. Images are
tested by test_container.py.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compose_spec
import kubernetes_validate
import pytest
import redis
import yaml

from testkit import models, rdb, samples
from testkit.server import Client, Server
from testkit.waiting import wait_for
from tests.conftest import StartServer

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
TOOLS = Path(sys.executable).parent
PRIVATE_MOUNTS = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
SETTLE_SECONDS = 60.0


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [one for path in KUBERNETES.iterdir() for one in manifests(path.name) if one["kind"] == kind]
    return found


def containers(kind: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in of_kind(kind)["spec"]["template"]["spec"]["containers"]}


# ---- valid -----------------------------------------------------------------------------------------------------------


def test_containerfile() -> None:
    # Versions of packages are Debian's and constraints.txt's; only the last stages matter for size and user.
    ignored = [word for rule in ("DL3002", "DL3008", "DL3009", "DL3013", "DL3066") for word in ("--ignore", rule)]
    done = subprocess.run([TOOLS / "hadolint", *ignored, ROOT / "Containerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", sorted(path.name for path in KUBERNETES.iterdir()))
def test_manifests(name: str) -> None:
    for manifest in manifests(name):
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
        manifest["spec" if manifest["kind"] != "ConfigMap" else "data"]["nosuch"] = {}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_compose_file() -> None:
    text = (ROOT / "deploy/compose.yml").read_text()
    assert compose_spec.PyCompose.from_yaml(text).service_names() == ["redisai"]
    with pytest.raises(ValueError):
        compose_spec.PyCompose.from_yaml(text.replace("command:", "comand:"))


# ---- probes ----------------------------------------------------------------------------------------------------------


class Probe:
    """Runs the commands of probes beside a server, as if its port were 6379."""

    def __init__(self, server: Server, folder: Path) -> None:
        folder.mkdir()
        shutil.copy(ROOT / "deploy/redisai-ready", folder)
        cli = shutil.which("redis-cli") or shutil.which("valkey-cli")
        (folder / "redis-cli").write_text(f'#!/bin/sh\nexec {cli} -p {server.port} "$@"\n')
        (folder / "redis-cli").chmod(0o755)
        self.path = f"{folder}:{os.environ['PATH']}"

    def run(self, *command: str, password: str = "") -> tuple[bool, str]:
        environment = {"PATH": self.path, "REDISCLI_AUTH": password} if password else {"PATH": self.path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("kind", "name"), [("StatefulSet", "server"), ("DaemonSet", "server")])
def test_probes(start_server: StartServer, tmp_path: Path, kind: str, name: str) -> None:
    container = containers(kind)[name]
    live, ready = (container[probe]["exec"]["command"] for probe in ("livenessProbe", "readinessProbe"))
    server = start_server("--loading-process-events-interval-bytes", "1024")
    with server.wire() as wire:
        for number in range(200):
            wire.ask("AI.TENSORSET", f"t{number}", "UINT8", 4000, "BLOB", os.urandom(4000))
        wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
        wire.ask("SAVE")
    probe = Probe(server, tmp_path / "bin")
    assert probe.run(*live) == (True, "PONG\n")
    assert probe.run(*ready) == (True, "")
    assert probe.run(*ready, "m") == (True, "")
    found, words = probe.run(*ready, "nosuch")
    assert not found
    assert "cannot find run info for key" in words
    server.kill()
    assert not probe.run(*live)[0]
    assert not probe.run(*ready)[0]

    server.arguments += ["--key-load-delay", "30000"]  # microseconds
    server.process = subprocess.Popen(server.command(), stdin=subprocess.DEVNULL)
    wait_for(lambda: "LOADING" in probe.run(*live)[1], SETTLE_SECONDS, "the server loads its data")
    assert probe.run(*live)[0], "a server that loads its data is alive"
    is_ready, words = probe.run(*ready)
    assert not is_ready
    assert "LOADING" in words


def test_the_probe_waits_until_models_are_compiled(start_server: StartServer, tmp_path: Path) -> None:
    backends, go = samples.slow_backend(tmp_path)
    server = start_server(options=["BACKENDSPATH", str(backends), "PRELOAD", "ONNX", "ALLOW_FILE_OPS", 1])
    with server.wire() as wire:
        wire.ask_ok("RESTORE", "m", 0, rdb.dump(samples.ONNX, 4))
    probe = Probe(server, tmp_path / "bin")
    for arguments in (), ("m",):
        assert probe.run("redisai-ready", *arguments) == (False, "ready\n0\npending\n1\n")
    go.touch()
    wait_for(lambda: probe.run("redisai-ready") == (True, ""))
    assert probe.run("redisai-ready", "m") == (True, "")


def test_probes_with_a_password(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    with server.wire() as wire:
        wire.ask("CONFIG", "SET", "requirepass", "secret")
    probe = Probe(server, tmp_path / "bin")
    assert probe.run("redis-cli", "PING")[0], "a server that asks for a password is alive"
    assert not probe.run("redisai-ready")[0]
    assert probe.run("redisai-ready", password="secret") == (True, "")


# ---- pods ------------------------------------------------------------------------------------------------------------


class Pod:
    """The two containers of a pod: its name, an address of its own, and the folder that /data is there."""

    def __init__(self, number: int, folder: Path, address: str, path: str) -> None:
        self.name = f"redisai-{number}"
        self.folder = folder / self.name
        self.folder.mkdir()
        self.address = address
        self.config = folder / "config"
        self.hosts = folder / "hosts"
        self.environment = {"HOSTNAME": self.name, "NAMESPACE": "test", "PATH": path}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, role: str) -> None:
        """Its container: the names of the pods are known there only."""
        inside = 'mount --bind "$1" /etc/hosts && shift && exec setpriv --pdeathsig KILL -- "$@"'
        (command,) = [one["command"] for name, one in containers("StatefulSet").items() if name == role]
        words = [*PRIVATE_MOUNTS, "sh", "-c", inside, "sh", str(self.hosts)]
        words += [str(self.config / Path(command[0]).name), *command[1:], "--bind", self.address]
        with (self.folder / f"{role}.log").open("ab") as log:
            self.processes[role] = subprocess.Popen(
                words, cwd=self.folder, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def end(self, role: str, number: signal.Signals) -> int:
        self.processes[role].send_signal(number)
        return self.processes[role].wait(20)

    def client(self) -> Client:
        return Client(host=self.address, port=6379, socket_timeout=20.0)

    def role(self) -> tuple[str, str]:
        """Of its server, with the name of its master's pod where it is a replica in step."""
        try:
            with self.client() as client:
                found: Any = client.info("replication")
                writes_file = client.info("persistence")["aof_rewrite_in_progress"]
        except redis.RedisError:  # it starts
            return ("", "")
        # A server that writes the first file after a synchronization ignores SIGTERM.
        in_step = found.get("master_link_status") == "up" and not writes_file
        return (found["role"], found["master_host"].split(".")[0] if in_step else "")

    def master(self) -> str:
        """The pod that its Sentinel names."""
        try:
            with Client(host=self.address, port=26379, decode_responses=True) as client:
                found = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "redisai")
                (state,) = client.execute_command("SENTINEL", "MASTERS")
        except redis.RedisError:  # it starts
            return ""
        known = dict(zip(state[::2], state[1::2], strict=True)) if isinstance(state, list) else state
        complete = (int(known["num-slaves"]), int(known["num-other-sentinels"])) == (2, 2)
        return str(found[0]).split(".")[0] if complete else ""


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[list[Pod]]:
    if subprocess.run([*PRIVATE_MOUNTS, "mount", "--bind", "/etc/hosts", "/etc/hosts"]).returncode:
        pytest.skip("this user may not mount a file of host names, which the pods need")
    config = tmp_path / "config"
    config.mkdir()
    for name, text in manifests("sentinel.yaml")[0]["data"].items():
        (config / name).write_text(text)
    (config / "start").chmod(0o755)
    links = tmp_path / "bin"
    links.mkdir()
    for name in ("redis-server", "redis-sentinel"):
        server = shutil.which("redis-server") or shutil.which("valkey-server")
        assert server
        (links / name).symlink_to(server)
    network = f"127.{random.randrange(1, 255)}.{random.randrange(255)}"
    pods = [Pod(i, tmp_path, f"{network}.{i + 1}", f"{TOOLS}:{links}:{os.environ['PATH']}") for i in range(3)]
    (tmp_path / "hosts").write_text("".join(f"{pod.address} {pod.name}.redisai.test.svc\n" for pod in pods))
    try:
        for pod in pods:
            for role in ("server", "sentinel"):
                pod.start(role)
        yield pods
    finally:
        for pod in pods:
            for process in pod.processes.values():
                process.kill()
                process.wait()


def log_of(pods: list[Pod]) -> str:
    return "\n".join(path.read_text()[-1500:] for pod in pods for path in pod.folder.glob("*.log"))


def test_pods(pods: list[Pod]) -> None:
    first, *others = pods

    def settled(master: Pod) -> bool:
        wanted = [("master", "") if pod is master else ("slave", master.name) for pod in pods]
        return [pod.role() for pod in pods] == wanted and all(pod.master() == master.name for pod in pods)

    try:
        wait_for(lambda: settled(first), SETTLE_SECONDS, "pod 0 is the master")
    except AssertionError as error:
        raise AssertionError(log_of(pods)) from error
    with first.client() as client:
        assert client.execute_command("CONFIG", "GET", "maxmemory") == {b"maxmemory": b"1073741824"}
        client.execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        assert client.execute_command("WAIT", 2, 10000) == 2

    assert first.end("server", signal.SIGKILL) == -signal.SIGKILL
    wait_for(lambda: any(pod.role()[0] == "master" for pod in others), SETTLE_SECONDS, "a replica was promoted")
    (promoted,) = [pod for pod in others if pod.role()[0] == "master"]
    with promoted.client() as client:
        assert client.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"

    first.start("server")
    wait_for(lambda: settled(promoted), SETTLE_SECONDS, "pod 0 follows the new master")
    # All of them at once, as when the nodes are upgraded: the master is the one that was, not pod 0.
    for pod in pods:
        for role in ("sentinel", "server"):
            assert pod.end(role, signal.SIGTERM) == 0, log_of(pods)
    for pod in pods:
        for role in ("server", "sentinel"):
            pod.start(role)
    wait_for(lambda: settled(promoted), SETTLE_SECONDS, "the master is the same after a restart of all")
    with first.client() as client:
        assert client.execute_command("AI.TENSORGET", "y", "VALUES") == [2.0, 4.0]


@pytest.mark.parametrize("page", ["docs/containers.md", "docs/arm.md"])
def test_pages_name_files(page: str) -> None:
    names = set(re.findall(r"(?:deploy|scripts)/[\w/.-]*\w", (ROOT / page).read_text()))
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []
