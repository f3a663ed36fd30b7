"""What scripts/bench and scripts/stalls share: the load generator, requests as bytes, a server of one's own."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.models import Floats, Model
from server import Server, module_path
from wire import Word, encode

ROOT = Path(__file__).resolve().parent.parent
LOAD = ROOT / "build" / "bench" / "load"


def build_load() -> None:
    source = ROOT / "bench" / "load.c"
    if LOAD.exists() and LOAD.stat().st_mtime >= source.stat().st_mtime:
        return
    LOAD.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=LOAD.parent) as folder:  # renamed when ready: two runs may build at once
        command = ["cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", str(source), "-o", f"{folder}/load"]
        subprocess.run(command, check=True)
        os.replace(f"{folder}/load", LOAD)


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


@dataclass(slots=True, frozen=True)
class Traffic:
    """What a client sends over and over, and what it must be answered each time."""

    request: bytes
    answer: bytes = b"+OK\r\n"
    setup: bytes = b""


SET = Traffic(encode(("SET", "plain", "xxx")))
GET = Traffic(encode(("GET", "plain")), bulk(b"xxx"), SET.request)


def tensorset(key: str, values: Floats) -> bytes:
    return encode(("AI.TENSORSET", key, "FLOAT", *values.shape, "BLOB", values.tobytes()))


def modelstore(key: str, backend: str, blob: bytes, options: tuple[Word, ...] = ()) -> bytes:
    return encode(("AI.MODELSTORE", key, backend, "CPU", *options, "BLOB", blob))


def scriptstore(key: str, function: str, source: str) -> bytes:
    return encode(("AI.SCRIPTSTORE", key, "CPU", "ENTRY_POINTS", 1, function, "SOURCE", source))


def execution(name: str, model: Model, *options: Word) -> Traffic:
    request = encode(("AI.MODELEXECUTE", name, "INPUTS", 1, f"{name}:in", "OUTPUTS", 1, f"{name}:out"))
    setup = modelstore(name, model.backend, model.blob, (*options, *model.nodes)) + tensorset(f"{name}:in", model.feed)
    return Traffic(request, setup=setup)


class Load:
    """One process of the load generator; within `with`, what it sends lies in files."""

    def __init__(self, on: Server, traffic: Traffic, connections: int = 1, requests: int | None = None) -> None:
        self.traffic = traffic
        self.folder = TemporaryDirectory()
        self.process: subprocess.Popen[str] | None = None
        self.words = [str(LOAD), "--port", str(on.port), "--connections", str(connections)]
        self.words += ["--requests", str(requests)] if requests else []

    def __enter__(self) -> Load:
        parts = {"setup": self.traffic.setup, "expect": self.traffic.answer, "request": self.traffic.request}
        for name, data in parts.items():
            path = Path(self.folder.name) / name
            path.write_bytes(data)
            self.words += [] if not data else [str(path)] if name == "request" else [f"--{name}", str(path)]
        return self

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()

    def start(self, seconds: float = 1e6, warmup: float = 0.0) -> None:
        """Returns when the warm-up is over."""
        words = [*self.words, "--seconds", str(seconds), "--warmup", str(warmup)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        line = self.process.stderr.readline()
        if line != "started\n":
            raise RuntimeError(line + self.process.stderr.read())

    def finish(self, now: bool = False) -> dict[str, Any]:
        """Waits for its end. A wrong reply is an error: what is measured has to be right."""
        assert self.process
        if now:
            self.process.terminate()
        out, err = self.process.communicate(timeout=600)
        if self.process.returncode:
            raise RuntimeError(err)
        result: dict[str, Any] = json.loads(out)
        if result["errors"]:
            raise RuntimeError(f"{result['errors']} wrong replies, the first: {result['first_error']}")
        return result


def run_load(on: Server, traffic: Traffic, connections: int, seconds: float, warmup: float) -> dict[str, Any]:
    with Load(on, traffic, connections) as load:
        load.start(seconds, warmup)
        return load.finish()


@contextmanager
def server(threads_per_queue: int = 1) -> Iterator[Server]:
    """A server with the module, so many workers, and nothing in it."""
    module = module_path()
    if not module.is_file():
        sys.exit(f"{module} is not there: install the module first (scripts/setup), or name it in REDISAI_MODULE")
    with TemporaryDirectory() as folder:
        started = Server(Path(folder), options=["THREADS_PER_QUEUE", threads_per_queue], module=module)
        try:
            yield started.start()
        finally:
            started.stop()


def others_seconds() -> float:
    """CPU time used by all processes but ours, those of ours that have ended included: tells a busy machine."""
    fields = Path("/proc/stat").read_text().split(maxsplit=9)
    user, nice, system, steal = (int(fields[i]) / os.sysconf("SC_CLK_TCK") for i in (1, 2, 3, 8))
    return user + nice + system + steal - sum(os.times()[:4])


def watch_others() -> Callable[[], float]:
    """How many cores others took from here to the call of what it returns; no process of ours may be left then."""
    before, start = others_seconds(), time.monotonic()
    return lambda: max(0.0, (others_seconds() - before) / (time.monotonic() - start))


def machine(on: Server) -> dict[str, Any]:
    """What figures depend on besides us."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    with on.wire() as wire:
        info: bytes = wire.ask("INFO", "server", "modules")
    versions = {name.decode(): value.decode() for name, value in re.findall(rb"(\w+_version):(\S+)", info)}
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **versions,
    }
