"""What the benchmarks share: the load generator, requests as bytes, a server, CPU time taken by other processes."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

from bench.models import Floats, Model
from server import Server, module_path
from wire import Word, encode

ROOT = Path(__file__).resolve().parent.parent
LOAD = ROOT / "build" / "bench" / "load"
NUMBERS = ("requests_per_s", "p50_us", "p99_us", "p999_us", "max_us")

Result = dict[str, Any]


def build(name: str) -> Path:
    """Compiles bench/<name>.c, which includes client.h, if one of them has changed."""
    source, program = ROOT / "bench" / f"{name}.c", ROOT / "build" / "bench" / name
    changed = max(path.stat().st_mtime for path in (source, ROOT / "bench" / "client.h"))
    if program.exists() and program.stat().st_mtime >= changed:
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=program.parent) as folder:  # renamed when ready: two runs may build at the same time
        command = ["cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", str(source)]
        subprocess.run([*command, "-o", f"{folder}/{name}"], check=True)
        os.replace(f"{folder}/{name}", program)
    return program


def build_load() -> None:
    build("load")


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


@dataclass(slots=True, frozen=True)
class Traffic:
    """The request that a client repeats, and the answer that it must get each time."""

    request: bytes
    answer: bytes = b"+OK\r\n"  # of HTTP: the body
    setup: bytes = b""
    http: bool = False


SET = Traffic(encode(("SET", "plain", "xxx")))
GET = Traffic(encode(("GET", "plain")), bulk(b"xxx"), SET.request)


def tensorset(key: str, values: Floats) -> bytes:
    return encode(("AI.TENSORSET", key, "FLOAT", *values.shape, "BLOB", values.tobytes()))


def modelstore(key: str, backend: str, blob: bytes, options: tuple[Word, ...] = ()) -> bytes:
    return encode(("AI.MODELSTORE", key, backend, "CPU", *options, "BLOB", blob))


def scriptstore(key: str, function: str, source: str) -> bytes:
    return encode(("AI.SCRIPTSTORE", key, "CPU", "ENTRY_POINTS", 1, function, "SOURCE", source))


def execution(name: str, model: Model, *options: Word) -> Traffic:
    keys = [f"{name}:{feed}" for feed, _ in model.feeds]
    request = encode(("AI.MODELEXECUTE", name, "INPUTS", len(keys), *keys, "OUTPUTS", 1, f"{name}:out"))
    setup = modelstore(name, model.backend, model.blob, (*options, *model.nodes))
    setup += b"".join(tensorset(key, values) for key, (_, values) in zip(keys, model.feeds, strict=True))
    return Traffic(request, setup=setup)


def dag(name: str, model: Model, *options: Word) -> Traffic:
    """A DAG that gets the first tensor with the request and the others from keys. It returns the output.

    The expected answer is the model's output to the last bit: replace it if a library's output differs slightly.
    """
    (first, values), *others = model.feeds
    stored = [f"{name}:{feed}" for feed, _ in others]
    words: list[Word] = ["AI.DAGEXECUTE", "LOAD", len(stored), *stored]
    words += ["|>", "AI.TENSORSET", first, "FLOAT", *values.shape, "BLOB", values.tobytes()]
    words += ["|>", "AI.MODELEXECUTE", name, "INPUTS", len(model.feeds), first, *stored, "OUTPUTS", 1, "out"]
    words += ["|>", "AI.TENSORGET", "out", "BLOB"]
    answer = b"*3\r\n+OK\r\n+OK\r\n" + bulk(model.output.tobytes())
    setup = modelstore(name, model.backend, model.blob, (*options, *model.nodes))
    setup += b"".join(tensorset(key, values) for key, (_, values) in zip(stored, others, strict=True))
    return Traffic(encode(tuple(words)), answer, setup)


class Listener(Protocol):
    """Anything that listens on a port of 127.0.0.1."""

    @property
    def port(self) -> int: ...


class Load:
    """One process of the load generator. Within `with`, its requests and answers are in files."""

    def __init__(
        self, on: Listener, traffic: Traffic, connections: int = 1, requests: int | None = None, pipeline: int = 1
    ) -> None:
        self.traffic = traffic
        self.folder = TemporaryDirectory()
        self.process: subprocess.Popen[bytes] | None = None
        self.words = [str(LOAD), "--port", str(on.port), "--connections", str(connections)]
        self.words += ["--pipeline", str(pipeline)] if pipeline > 1 else []
        self.words += ["--requests", str(requests)] if requests else []
        self.words += ["--http"] if traffic.http else []

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
        # Unbuffered: communicate() would miss what readline() had read beyond the line.
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        assert self.process.stderr
        line = self.process.stderr.readline()
        if line != b"started\n":
            raise RuntimeError((line + self.process.stderr.read()).decode())

    def finish(self, now: bool = False) -> Result:
        """Waits for its end. A wrong reply is an error: only right answers count."""
        assert self.process
        if now:
            self.process.terminate()
        out, err = self.process.communicate(timeout=600)
        if self.process.returncode:
            raise RuntimeError(err.decode())
        result: Result = json.loads(out)
        if result["errors"]:
            raise RuntimeError(f"{result['errors']} wrong replies, the first: {result['first_error']}")
        return result


T = TypeVar("T")


def alternate(repeat: int, ours: Callable[[], T], theirs: Callable[[], T]) -> tuple[list[T], list[T]]:
    """Measures both `repeat` times, each as often before the other as after it."""
    results: tuple[list[T], list[T]] = [], []
    for i in range(repeat):
        sides = (results[1], theirs), (results[0], ours)
        for measured, measure in sides[:: 1 if i % 2 == 0 else -1]:
            measured.append(measure())
    return results


def run_load(on: Listener, traffic: Traffic, connections: int, seconds: float, warmup: float) -> Result:
    with Load(on, traffic, connections) as load:
        load.start(seconds, warmup)
        return load.finish()


def median_of(results: Sequence[Result], distribution: bool = False) -> Result:
    """The median of each number over several runs. Only what bench/pictures.py draws asks for the distribution."""
    row: Result = {number: median(result[number] for result in results) for number in NUMBERS}
    if distribution:
        # load.c reports the same shares in every run.
        row["latencies_us"] = [median(times) for times in zip(*(each["latencies_us"] for each in results), strict=True)]
    return row


@contextmanager
def server(threads_per_queue: int = 1) -> Iterator[Server]:
    """An empty server with the module."""
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
    """CPU time of all processes except this one and its children that have ended."""
    fields = Path("/proc/stat").read_text().split(maxsplit=9)
    user, nice, system, steal = (int(fields[i]) / os.sysconf("SC_CLK_TCK") for i in (1, 2, 3, 8))
    return user + nice + system + steal - sum(os.times()[:4])


def watch_others() -> Callable[[], float]:
    """Returns a function that returns the cores that others took since now. Our children must have ended by then."""
    before, start = others_seconds(), time.monotonic()
    return lambda: max(0.0, (others_seconds() - before) / (time.monotonic() - start))


def machine(on: Server) -> dict[str, Any]:
    """The machine and the versions that the figures depend on."""
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
