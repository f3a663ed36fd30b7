"""What each worker and the loader do: in INFO, in the log when a client waits too long, and in crash reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit import models, samples, scripts
from testkit.info import module_sections
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.conftest import Slow, StartServer

WORKER = "queue_CPU_bthread_n1"


def running(wire: Wire) -> dict[str, dict[str, str]]:
    """By thread, what it does."""
    found = module_sections(wire, "MODULES").get("running", {})
    return {thread: dict(pair.split("=", 1) for pair in value.split(",")) for thread, value in found.items()}


def test_a_model(server: Server, wire: Wire, slow: Slow) -> None:
    words = slow(wire, 1.0)
    wait_for(lambda: running(wire) == {})
    with server.wire() as busy:
        busy.send(*words)
        wait_for(lambda: running(wire))
        found = running(wire)
        assert found.keys() == {WORKER}
        assert found[WORKER]["model"] == "slow"
        assert found[WORKER]["tag"] == ""
        wait_for(lambda: int(running(wire)[WORKER]["ms"]) > 100)
        assert busy.read() == b"OK"
    wait_for(lambda: running(wire) == {})


def test_one_of_several_in_a_dag(server: Server, wire: Wire, slow: Slow) -> None:
    """A worker takes several ops at once; the one that it is at is named."""
    words = slow(wire, 0.5)
    wire.ask_ok("AI.MODELSTORE", "quick", "ONNX", "CPU", "TAG", "v1", "BLOB", models.onnx_add())
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2)
    quick = ("|>", "AI.MODELEXECUTE", "quick", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
    with server.wire() as busy:
        busy.send("AI.DAGEXECUTE", "LOAD", 2, "x", "slow:n", *quick, "|>", *words, *quick, "|>", *words)
        wait_for(lambda: running(wire).get(WORKER, {}).get("model") == "slow")
        assert len(busy.read()) == 4


def test_odd_names(server: Server, wire: Wire, slow: Slow) -> None:
    """Whatever ends a line or a field is replaced, and long names are cut."""
    slow(wire, 0.5)
    wait_for(lambda: running(wire) == {})
    key = "a,b=c\r\n" + "d" * 200
    wire.ask_ok("AI.MODELSTORE", key, "ONNX", "CPU", "TAG", "e\nf" + "g" * 200, "BLOB", models.onnx_loop())
    with server.wire() as busy:
        busy.send("AI.MODELEXECUTE", key, "INPUTS", 1, "slow:n", "OUTPUTS", 1, "out")
        wait_for(lambda: WORKER in running(wire))
        found = running(wire)[WORKER]
        assert found["model"] == "a?b?c??" + "d" * 49
        assert found["tag"] == "e?f" + "g" * 29
        assert busy.read() == b"OK"


def test_a_script(server: Server, wire: Wire) -> None:
    scripts.store_redis(wire, "gone_on")
    with server.wire() as busy:
        busy.send(*scripts.execute("s", "gone_on", ["started", "go", "done"]))
        wait_for(lambda: wire.ask("EXISTS", "started"))
        found = running(wire)[WORKER]
        assert (found["script"], found["function"]) == ("s", "gone_on")
        wire.ask("SET", "go", "x")
        assert busy.read() == b"OK"


def test_after_a_restart(start_server: StartServer, slow: Slow) -> None:
    """The key is known from the database."""
    server = start_server()
    with server.wire() as wire:
        slow(wire, 0.5)
        wire.ask_ok("SAVE")
    with server.restart().wire() as wire, server.wire() as busy:
        busy.send(*slow(wire, 0.5)[:-1], "out")
        wait_for(lambda: running(wire).get(WORKER, {}).get("model") == "slow")
        assert busy.read() == b"OK"


def test_the_loader(start_server: StartServer, tmp_path: Path) -> None:
    backends, go = samples.slow_backend(tmp_path)
    server = start_server(options=["BACKENDSPATH", str(backends)])
    with server.wire() as wire, server.wire() as busy:
        busy.send("AI.MODELSTORE", "m", "ONNX", "CPU", "TAG", "v1", "BLOB", b"x")
        loader = "loader_CPU" if server.is_isolated else "loader"
        wait_for(lambda: loader in running(wire))
        found = running(wire)
        assert (found[loader]["model"], found[loader]["tag"]) == ("m", "v1")
        wire.ask("MULTI")
        wire.ask("AI.MODELSTORE", "n", "ONNX", "CPU", "BLOB", b"x")
        wire.ask("EXEC")
        assert f"{loader} has been busy for " in server.log()
        assert " ms with model=m,tag=v1\n" in server.log()
        go.touch()
        assert busy.read() == b"OK"


def test_the_log_of_a_timeout(start_server: StartServer, slow: Slow) -> None:
    server = start_server(options=["MODEL_EXECUTION_TIMEOUT", 60000])
    with server.wire() as wire, server.wire() as busy:
        words = slow(wire, 4.0)
        busy.send(*words)

        def is_logged() -> bool:
            assert wire.ask(*words, "TIMEOUT", 200) == b"TIMEDOUT"
            return f"{WORKER} has been busy for " in server.log()

        wait_for(is_logged)
        assert is_logged()
        assert server.log().count(f"{WORKER} has been busy for ") == 1
        assert " ms with model=slow,tag=\n" in server.log()


@pytest.mark.parametrize("signal", [True, False], ids=["main thread", "worker"])
def test_a_crash(start_server: StartServer, tmp_path: Path, slow: Slow, signal: bool) -> None:
    server = start_server(options=[] if signal else ["BACKENDSPATH", str(crashing_backend(tmp_path))])
    if server.is_isolated and not signal:
        pytest.skip("a crash of an engine process has no report: tests/isolation has what it does")
    with server.wire() as wire, server.wire() as busy:
        if signal:
            busy.send(*slow(busy, 5.0))
            wait_for(lambda: running(wire).get(WORKER, {}).get("model") == "slow")
            wire.send("DEBUG", "SEGFAULT")
        else:
            wire.ask_ok("AI.MODELSTORE", "slow", "ONNX", "CPU", "BLOB", b"x")
            wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1)
            wire.send("AI.MODELEXECUTE", "slow", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        assert server.process
        server.process.wait(60)
    report = server.log().partition("=== REDIS BUG REPORT START")[2] or server.log().partition("BUG REPORT START")[2]
    assert "# ai_running" in report
    assert f"{WORKER}:model=slow,tag=,ms=" in report


def crashing_backend(folder: Path) -> Path:
    backend = folder / "backends" / "redisai_onnxruntime" / "redisai_onnxruntime.py"
    backend.parent.mkdir(parents=True)
    backend.write_text(
        "import ctypes\n\n"
        "class Session:\n"
        "    inputs = outputs = None\n\n"
        "    def run(self, inputs):\n"
        "        ctypes.string_at(0)\n\n"
        "def version():\n    return '1'\n\n"
        "def load(definition, settings):\n    return Session()\n"
    )
    return folder / "backends"
