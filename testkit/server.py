"""Real redis-server processes for the tests: started on free loopback ports, always stopped.

setpriv gives each the parent-death signal, so that none outlives a test process that is killed. That signal follows
the thread that started the server: start servers from the main thread only.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis

from testkit.info import info
from testkit.waiting import wait_for
from testkit.wire import Wire, Word

START_SECONDS = 60.0
STOP_SECONDS = 20.0
LOG_TAIL = 8000


def module_path() -> Path:
    """The module under test: REDISAI_MODULE, else the one installed beside the pytest that runs."""
    named = os.environ.get("REDISAI_MODULE")
    return Path(named) if named else Path(sysconfig.get_path("platlib")) / "redisai_module" / "redisai.so"


def isolation() -> str:
    """The option ISOLATION of servers that set none themselves: REDISAI_OPTIONS may have it."""
    words = os.environ.get("REDISAI_OPTIONS", "").lower().split()
    return words[words.index("isolation") + 1] if "isolation" in words else "none"


def server_program() -> str:
    named = os.environ.get("REDISAI_SERVER")
    found = named or shutil.which("redis-server") or shutil.which("valkey-server")
    assert found, "neither redis-server nor valkey-server is on PATH"
    return found


@dataclass(frozen=True, slots=True)
class Program:
    """What server_program() is: ("redis", (7, 0, 15), "jemalloc")."""

    name: str
    version: tuple[int, ...]
    allocator: str

    def since(self, redis: tuple[int, ...], valkey: tuple[int, ...]) -> bool:
        """Whether it is of that version or later."""
        return self.version >= (redis if self.name == "redis" else valkey)


@cache
def program() -> Program:
    told = subprocess.check_output([server_program(), "--version"], text=True)
    found = re.match(r"(Redis|Valkey) server v=([\d.]+) .*malloc=([a-z]+)", told)
    assert found, told
    return Program(found[1].lower(), tuple(map(int, found[2].split("."))), found[3])


def free_port() -> int:
    """A free port whose cluster bus port, 10,000 above, exists too."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 55536:
            return port


class Client(redis.Redis):
    """redis-py, with types for the one method that the tests call most."""

    def execute_command(self, *words: Any, **options: Any) -> Any:
        return super().execute_command(*words, **options)  # type: ignore[no-untyped-call]


class ServerExit(RuntimeError):
    """The server ended by itself; the message holds its log."""


class Server:
    """One redis-server with the module. arguments: for redis-server; options: load-time options of the module;
    environment: what it has beyond ours; program: the redis-server, if not server_program().

    module=None starts it without the module. The folder holds everything that it writes, and start() after stop() or
    kill() starts it again there.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str] = (),
        options: Sequence[str | int] = (),
        module: Path | None = None,
        environment: Mapping[str, str] = {},
        program: str | None = None,
    ) -> None:
        self.folder = folder
        self.arguments = list(arguments)
        self.options = [*map(str, options), *os.environ.get("REDISAI_OPTIONS", "").split()]
        self.module = module
        self.environment = environment
        self.program = program or server_program()
        self.log_file = folder / "redis.log"
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def is_isolated(self) -> bool:
        """Whether models run in processes of their own."""
        words = [option.lower() for option in self.options]
        return "isolation" in words and words[words.index("isolation") + 1] == "process"

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def command(self) -> list[str]:
        words = ["setpriv", "--pdeathsig", "KILL", "--", self.program]
        words += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        words += ["--logfile", str(self.log_file), "--save", "", "--enable-debug-command", "local"]
        words += ["--crash-memcheck-enabled", "no"]
        words += self.arguments
        if self.module:
            words += ["--loadmodule", str(self.module), *self.options]
        return words

    def start(self) -> Server:
        """Starts it and waits until it answers; raises ServerExit where it refuses to start."""
        for attempt in range(5):
            self.port = free_port()
            with self.log_file.open("ab") as output:
                self.process = subprocess.Popen(
                    self.command(),
                    stdout=output,
                    stderr=output,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **self.environment},
                )
            try:
                wait_for(self.answers, START_SECONDS, "the server answers PING")
                return self
            except ServerExit:
                if attempt == 4 or "Address already in use" not in self.log_tail():
                    raise
            except AssertionError:
                self.kill()
                raise
        raise AssertionError

    def answers(self) -> bool:
        assert self.process
        if self.process.poll() is not None:
            raise ServerExit(f"redis-server ended with {self.process.returncode}:\n{self.log_tail()}")
        try:
            with Wire(self.port, timeout=START_SECONDS) as wire:
                return bool(wire.ask("PING") == b"PONG")
        except OSError:
            return False

    def check_alive(self) -> None:
        """Fails, with the log, where the process has ended or was replaced."""
        if not self.answers():
            raise ServerExit(f"redis-server does not answer:\n{self.log_tail()}")

    def client(self, protocol: int = 2) -> Client:
        return Client(port=self.port, protocol=protocol, decode_responses=False, socket_timeout=60.0)

    def wire(self, protocol: int = 2) -> Wire:
        return Wire(self.port, protocol)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def log_tail(self) -> str:
        """The end of the log, or what a crash report begins with."""
        before, crash, after = self.log().partition("=== REDIS BUG REPORT START")
        return before[-LOG_TAIL // 4 :] + crash + after[:LOG_TAIL] if crash else before[-LOG_TAIL:]

    def stop(self) -> int:
        """Ends it in order and returns its exit status."""
        return self.end(signal.SIGTERM)

    def kill(self) -> int:
        return self.end(signal.SIGKILL)

    def end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_SECONDS)
            raise

    def restart(self, by: signal.Signals = signal.SIGTERM) -> Server:
        self.end(by)
        return self.start()

    def info(self, *sections: Word) -> dict[str, str]:
        with self.wire() as wire:
            return info(wire, *sections)

    def used_memory(self) -> int:
        return int(self.info("memory")["used_memory"])

    def blocked_clients(self) -> int:
        return int(self.info("clients")["blocked_clients"])


@contextmanager
def fresh_server(
    threads_per_queue: int = 1,
    isolation: str = "",
    module: Path | None = None,
    program: str | None = None,
    more: Sequence[str] = (),
) -> Iterator[Server]:
    """A server with the module, with so many workers on each device and no keys."""
    module = module or module_path()
    if not module.is_file():
        sys.exit(f"{module} is not there: install the module first (scripts/setup), or name it in REDISAI_MODULE")
    with TemporaryDirectory() as folder:
        options = ["THREADS_PER_QUEUE", str(threads_per_queue), *(["ISOLATION", isolation] if isolation else []), *more]
        started = Server(Path(folder), options=options, module=module, program=program)
        try:
            yield started.start()
        finally:
            started.stop()


def settled_memory(server: Server) -> int:
    """used_memory once it falls no more: Redis frees bit by bit what clients leave."""
    lowest, since = server.used_memory(), time.monotonic()
    while time.monotonic() - since < 1:
        time.sleep(0.1)
        used = server.used_memory()
        if used < lowest - 1024:
            lowest, since = used, time.monotonic()
    return lowest
