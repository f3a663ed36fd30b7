"""ISOLATION_MEMORY_LIMIT: what a process may allocate, and what the server holds of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit import scripts
from testkit.isolation import ADD, check_add, engine, python_backend, store_add
from testkit.process import rss
from testkit.server import Server, ServerExit
from testkit.wire import Error, Wire
from tests.conftest import StartServer

LIMIT = 1000  # MB
TOO_MUCH = {
    "one array": "return [np.ones(2 * 10**9, np.uint8)]",
    "many arrays": "kept = [np.ones(10**8, np.uint8) for _ in range(30)]\n    return inputs",
    "bytes": "return [np.frombuffer(b'x' * (2 * 10**9), np.uint8)]",
    "a mapping": "import mmap\n    m = mmap.mmap(-1, 2 * 10**9, mmap.MAP_PRIVATE)\n    m[:] = bytes(2 * 10**9)",
    "a list": "x = [1]\n    while True:\n        x = x + x",
}


@pytest.fixture
def server(start_server: StartServer, tmp_path: Path) -> Server:
    options = ["ISOLATION", "process", "ISOLATION_MEMORY_LIMIT", LIMIT]
    return start_server(options=[*options, "BACKENDSPATH", str(python_backend(tmp_path))])


@pytest.mark.parametrize("what", TOO_MUCH)
def test_a_run(server: Server, what: str) -> None:
    with server.wire() as wire:
        store_add(wire, blob=ADD)
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1)
        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", f"import numpy as np\ndef run(inputs):\n    {TOO_MUCH[what]}\n")
        check_add(wire)
        before = rss(server.pid)
        reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        assert isinstance(reply, Error), reply
        assert rss(server.pid) < before + (50 << 20)
        check_add(wire)
        assert engine(wire).memory < LIMIT << 20


def test_a_load(server: Server) -> None:
    with server.wire() as wire:
        blob = b"import numpy\nx = numpy.ones(2 * 10**9, numpy.uint8)\n"
        reply = wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob)
        assert isinstance(reply, Error) and "allocate" in reply
        assert wire.ask("EXISTS", "m") == 0


def test_a_script(server: Server) -> None:
    with server.wire() as wire:
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1)
        reply = wire.ask(*scripts.store_command("s", scripts.function("f", "return torch.ones([500000000])"), ["f"]))
        if reply == b"OK":
            reply = wire.ask(*scripts.execute("s", "f", inputs=["x"], outputs=["y"]))
        assert isinstance(reply, Error), reply


def test_outputs_are_limited_too(server: Server) -> None:
    """They lie in memory that the server shares, which the kernel's limit does not cover."""
    with server.wire() as wire:
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1)
        body = b"import numpy as np\none = np.ones(3 * 10**8, np.uint8)\ndef run(inputs):\n    return [one] * 5\n"
        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", body)
        reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 5, *"abcde")
        assert isinstance(reply, Error), reply
        assert wire.ask("EXISTS", *"abcde") == 0


def test_large_outputs_leave_no_shared_memory(server: Server) -> None:
    with server.wire() as wire:
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1)
        body = b"import numpy as np\none = np.ones(2 * 10**8, np.uint8)\ndef run(inputs):\n    return [one]\n"
        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", body)
        for _ in range(12):
            wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        wire.ask("DEL", "y")
        check_shared(server, wire)


def check_shared(server: Server, wire: Wire) -> None:
    status = Path(f"/proc/{server.pid}/status").read_text()
    shared = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssShmem"))
    assert shared < 450_000, shared  # kB: of the latest output, and of one whose reading the process has not noticed


@pytest.mark.parametrize("limit", [1, 10])
def test_too_little_to_start(start_server: StartServer, limit: int) -> None:
    with pytest.raises(ServerExit) as refusal:
        start_server(options=["ISOLATION", "process", "ISOLATION_MEMORY_LIMIT", limit])
    assert "the engine cannot start in" in str(refusal.value)


def test_no_limit(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(options=["ISOLATION", "process", "BACKENDSPATH", str(python_backend(tmp_path))])
    with server.wire() as wire:
        store_add(wire, blob=ADD)
        check_add(wire)
        limits = Path(f"/proc/{engine(wire).pid}/limits").read_text()
        assert "Max data size             unlimited            unlimited" in limits
