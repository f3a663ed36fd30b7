"""Engine processes (ISOLATION process), for tests: what the server tells of them, who runs, what is left of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testkit import models
from testkit.info import module_sections
from testkit.server import Server, module_path
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word

# How the error of a run begins whose process has ended, for whatever reason.
LATE = "ERR a run of '.+' took more than MODEL_EXECUTION_TIMEOUT, 1000 ms"
ENDED = "ERR the process that (ran|compiled) '.+' ended: .+; CPU(:1)? starts anew"
SET_ASIDE = (
    r"ERR '.+' is set aside: 3 engine processes have ended under it. Release it with AI.INFO <key> RESETSTAT, or "
    "store it anew"
)
MEMORY_LIMIT = ["ISOLATION_MEMORY_LIMIT", "4000"]
PATIENCE = 60.0  # seconds for a device to work again: its process imports a library, on a busy machine

# A backend whose models are Python: the blob defines run(inputs), and what else it does is done at the load.
PYTHON_BACKEND = """
class Session:
    inputs = outputs = None

    def __init__(self, run):
        self.run = run

def version():
    return "1"

def load(definition, settings):
    names = {}
    exec(bytes(definition.blob), names)
    return Session(names["run"])
"""
ADD = b"def run(inputs):\n    return [inputs[0] + inputs[1]]\n"


def python_backend(folder: Path) -> Path:
    """A backends path where ONNX is that backend. The others are what they are."""
    backends = folder / "backends"
    backend = backends / "redisai_onnxruntime" / "redisai_onnxruntime.py"
    backend.parent.mkdir(parents=True)
    backend.write_text(PYTHON_BACKEND)
    for path in (module_path().parent / "backends").iterdir():
        if path.name != backend.parent.name:
            (backends / path.name).symlink_to(path)
    return backends


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """As INFO tells of it; parent is who waits for it."""

    state: str
    pid: int
    starts: int
    deaths: int
    last_death: str
    memory: int

    @property
    def parent(self) -> int:
        return int(re.search(r"^PPid:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)[1])  # type: ignore[index]


def engine(wire: Wire, device: str = "CPU") -> EngineProcess:
    line = module_sections(wire, "MODULES")["processes"][f"process_{device}"]
    fields = dict(field.split("=", 1) for field in line.split(","))
    pid, starts, deaths, memory = (int(fields[name]) for name in ("pid", "starts", "deaths", "memory"))
    return EngineProcess(fields["state"], pid, starts, deaths, fields["last_death"], memory)


def engine_is_up(wire: Wire, device: str = "CPU") -> EngineProcess:
    wait_for(lambda: engine(wire, device).state == "up" and engine(wire, device).pid, PATIENCE, "the process is up")
    return engine(wire, device)


def running(wire: Wire) -> dict[str, str]:
    """What runs and compiles, by thread."""
    return module_sections(wire, "MODULES").get("running", {})


def wait_until_runs(wire: Wire, name: str) -> None:
    """Until a worker runs this model or script, rather than compiles it."""

    def runs() -> bool:
        return any(f"={name}," in what for thread, what in running(wire).items() if not thread.startswith("loader"))

    wait_for(runs, PATIENCE, f"{name} runs")


def wait_until_compiles(wire: Wire, name: str) -> None:
    """Until a loader has begun with this model or script."""

    def compiles() -> bool:
        return any(f"={name}," in what for thread, what in running(wire).items() if thread.startswith("loader"))

    wait_for(compiles, PATIENCE, f"{name} is compiled")


def deaths(wire: Wire, key: Word) -> int:
    reply = wire.ask("AI.INFO", key, "FULL")
    return int(dict(zip(reply[::2], reply[1::2], strict=True))[b"deaths"])


def store_add(wire: Wire, key: Word = "add", device: str = "CPU", blob: bytes | None = None) -> None:
    wire.ask_ok("AI.MODELSTORE", key, "ONNX", device, "BLOB", blob or models.onnx_add())


def check_add(wire: Wire, key: Word = "add", patience: float = PATIENCE) -> None:
    """The model adds; a process that has just ended may have taken the first runs along."""
    wire.ask_ok("AI.TENSORSET", "{add}x", "FLOAT", 1, 2, "VALUES", 1, 2)
    deadline = time.monotonic() + patience
    while (reply := wire.ask("AI.MODELEXECUTE", key, "INPUTS", 2, "{add}x", "{add}x", "OUTPUTS", 1, "{add}y")) != b"OK":
        assert isinstance(reply, Error) and re.fullmatch(f"{ENDED}|{SET_ASIDE}|{LATE}", reply), reply
        if re.fullmatch(SET_ASIDE, reply):
            wire.ask_ok("AI.INFO", key, "RESETSTAT")
        assert time.monotonic() < deadline, reply
    assert wire.ask("AI.TENSORGET", "{add}y", "VALUES") == [b"2", b"4"]


# ---- what is left --------------------------------------------------------------------------------------------------


def children(pid: int) -> set[int]:
    """Of all its threads, those that have ended too."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found |= {int(child) for child in (task / "children").read_text().split()}
        except OSError:
            continue
    return found


def descendants(pid: int) -> set[int]:
    own = children(pid)
    for child in list(own):
        try:
            own |= descendants(child)
        except OSError:
            continue
    return own


def zombies(pid: int) -> set[int]:
    def is_zombie(child: int) -> bool:
        try:
            return ") Z " in Path(f"/proc/{child}/stat").read_text()
        except OSError:
            return False

    return {child for child in descendants(pid) if is_zombie(child)}


def exists(pid: int) -> bool:
    """And has not ended: an orphan that has waits for whoever reaps orphans here."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Holdings:
    descriptors: int
    mappings: int  # of shared memory
    threads: int
    children: int
    shared: int  # bytes


def holdings(server: Server) -> Holdings:
    status = Path(f"/proc/{server.pid}/status").read_text()
    shmem = re.search(r"^RssShmem:\s+(\d+) kB", status, re.MULTILINE)
    assert shmem
    return Holdings(
        len(os.listdir(f"/proc/{server.pid}/fd")),
        Path(f"/proc/{server.pid}/maps").read_text().count("memfd:redisai"),
        len(os.listdir(f"/proc/{server.pid}/task")),
        len(children(server.pid)),
        int(shmem[1]) * 1024,
    )


# ---- who is not concerned ------------------------------------------------------------------------------------------


class Bystander:
    """Another client, which runs a model that adds, again and again, on a device that fails again and again."""

    def __init__(self, server: Server, key: str) -> None:
        self.wire = server.wire()
        self.key = key
        self.replies: list[object] = []
        self.sums: list[tuple[int, object]] = []
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.go_on)
        self.thread.start()

    def go_on(self) -> None:
        number = 0
        while not self.stopped.wait(0.005):
            number += 1
            self.wire.ask("AI.TENSORSET", "bystander:x", "FLOAT", 1, 2, "VALUES", number, 1)
            words = ("INPUTS", 2, "bystander:x", "bystander:x", "OUTPUTS", 1, "bystander:y", "TIMEOUT", 120_000)
            reply = self.wire.ask("AI.MODELEXECUTE", self.key, *words)
            self.replies.append(reply)
            if reply == b"OK":
                self.sums.append((number, self.wire.ask("AI.TENSORGET", "bystander:y", "VALUES")))
            elif re.fullmatch(SET_ASIDE, str(reply)):
                self.wire.ask("AI.INFO", self.key, "RESETSTAT")

    def stop(self) -> None:
        self.stopped.set()
        self.thread.join(120)
        assert not self.thread.is_alive(), "a client has got no answer"
        self.wire.close()

    def check(self) -> None:
        for reply in self.replies:
            assert reply == b"OK" or re.fullmatch(f"{ENDED}|{SET_ASIDE}|{LATE}", str(reply)), reply
        for number, found in self.sums:
            assert found == [b"%d" % (2 * number), b"2"]


@contextmanager
def bystander(server: Server, key: str = "add", lies: bool = False) -> Iterator[Bystander]:
    """Checks in the end that the other client has got right answers, or errors that name the process that ended. Where
    the process lies, its answers may be anything, but there is one to each command."""
    other = Bystander(server, key)
    try:
        yield other
    finally:
        other.stop()
    if not lies:
        other.check()


class Pings:
    """What PING takes (testkit/pinger.py)."""

    def __init__(self, server: Server, file: Path) -> None:
        self.file = file
        command = [sys.executable, "-m", "testkit.pinger", str(server.port), str(server.pid)]
        with file.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, cwd=Path(__file__).parents[1])
        wait_for(self.times, what="PINGs are answered")

    def times(self, since: int = 0) -> list[float]:
        return [float(line) for line in self.file.read_text().split("\n")[since:-1]]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    @contextmanager
    def quick(self) -> Iterator[None]:
        """Meanwhile PING is answered within 10 ms, but for one in a hundred, and always within 200 ms."""
        before = len(self.times())
        yield
        # One that is on its way belongs to these.
        wait_for(lambda: len(self.times()) > before + 3, 120, "PING is answered")
        times = sorted(self.times(before))
        assert times[-1] < 0.200, times[-5:]
        assert times[-1 - (len(times) + 99) // 100] < 0.010, times[-5:]
