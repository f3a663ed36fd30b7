"""The load generator (load.c) and what it sends: commands as bytes, and the replies that each must get."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from testkit.networks import Floats, Network
from testkit.server import Server, fresh_server
from testkit.values import Model
from testkit.wire import Word, encode

KIT = Path(__file__).resolve().parent
ROOT = KIT.parent
LOAD = ROOT / "build" / "bench" / "load"

GET_WARMUP = 0.3

Result = dict[str, Any]


def build(source: Path) -> Path:
    """Compiles a program of one file, which may include client.h, if one of them has changed."""
    name, program = source.stem, ROOT / "build" / "bench" / source.stem
    changed = max(path.stat().st_mtime for path in (source, KIT / "client.h"))
    if program.exists() and program.stat().st_mtime >= changed:
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=program.parent) as folder:  # renamed when ready: two runs may build at the same time
        command = ["cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{KIT}", str(source)]
        subprocess.run([*command, "-o", f"{folder}/{name}"], check=True)
        os.replace(f"{folder}/{name}", program)
    return program


def build_load() -> None:
    build(KIT / "load.c")


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


def modelstore(key: str, model: Model, *options: Word) -> bytes:
    return encode(model.words(key, *options))


def scriptstore(key: str, function: str, source: str) -> bytes:
    return encode(("AI.SCRIPTSTORE", key, "CPU", "ENTRY_POINTS", 1, function, "SOURCE", source))


def execution(name: str, model: Network, *options: Word) -> Traffic:
    keys = [f"{name}:{feed}" for feed, _ in model.feeds]
    request = encode(("AI.MODELEXECUTE", name, "INPUTS", len(keys), *keys, "OUTPUTS", 1, f"{name}:out"))
    setup = modelstore(name, model, *options)
    setup += b"".join(tensorset(key, values) for key, (_, values) in zip(keys, model.feeds, strict=True))
    return Traffic(request, setup=setup)


def dag(name: str, model: Network, *options: Word, command: str = "AI.DAGEXECUTE") -> Traffic:
    """A DAG that gets the first tensor with the request and the others, if any, from keys. It returns the output.

    The expected answer is the model's output to the last bit: replace it if a library's output differs slightly.
    """
    (first, values), *others = model.feeds
    stored = [f"{name}:{feed}" for feed, _ in others]
    words: list[Word] = [command, "LOAD", len(stored), *stored] if stored else [command]
    words += [] if stored or command == "AI.DAGRUN" else ["ROUTING", name]
    words += ["|>", "AI.TENSORSET", first, "FLOAT", *values.shape, "BLOB", values.tobytes()]
    if command == "AI.DAGRUN":
        words += ["|>", "AI.MODELRUN", name, "INPUTS", first, *stored, "OUTPUTS", "out"]
    else:
        words += ["|>", "AI.MODELEXECUTE", name, "INPUTS", len(model.feeds), first, *stored, "OUTPUTS", 1, "out"]
    words += ["|>", "AI.TENSORGET", "out", "BLOB"]
    answer = b"*3\r\n+OK\r\n+OK\r\n" + bulk(model.output.tobytes())
    setup = modelstore(name, model, *options)
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


def run_load(on: Listener, traffic: Traffic, connections: int, seconds: float, warmup: float) -> Result:
    with Load(on, traffic, connections) as load:
        load.start(seconds, warmup)
        return load.finish()


def worst_get(on: Server, disturb: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds that the slowest GET took while disturb() ran, and how many milliseconds that call took."""
    with Load(on, GET) as load:
        load.start(warmup=GET_WARMUP)
        start = time.monotonic()
        disturb()
        took = time.monotonic() - start
        return load.finish(now=True)["max_us"] / 1e3, took * 1e3


def worst_get_beside(request: bytes, before: bytes = b"") -> tuple[float, float]:
    """worst_get() while a server of its own answers the request. before: a request that is answered first."""

    def send() -> None:
        load.start()
        load.finish()

    with fresh_server() as on, Load(on, Traffic(request), requests=1) as load:
        if before:
            with on.wire() as wire:
                wire.socket.sendall(before)
                if (reply := wire.read()) != b"OK":
                    raise RuntimeError(reply)
        return worst_get(on, send)
