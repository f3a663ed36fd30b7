"""READY: whether the server has imported, loaded and compiled what its start brings. PRELOAD: libraries to import."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from testkit import rdb, samples
from testkit.info import module_sections
from testkit.server import Server, ServerExit
from testkit.users import Login
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.conftest import StartServer

READY, NOT_READY = [b"ready", 1, b"pending", 0], [b"ready", 0, b"pending", 1]


def test_a_library_is_imported_before_anything_is_stored(start_server: StartServer, tmp_path: Path) -> None:
    backends, go = samples.slow_backend(tmp_path)
    server = start_server(options=["BACKENDSPATH", str(backends), "PRELOAD", "onnx", "ALLOW_FILE_OPS", 1])
    with server.wire() as wire:
        assert wire.ask("AI.INFO") == NOT_READY
        assert module_sections(wire, "MODULES")["start"] == {"ready": "0", "pending": "1"}
        assert "onnxruntime_version" not in module_sections(wire, "MODULES")["backends_info"]
        go.touch()
        wait_for(lambda: wire.ask("AI.INFO") == READY)
        assert module_sections(wire, "MODULES")["start"] == {"ready": "1", "pending": "0"}
        assert module_sections(wire, "MODULES")["backends_info"]["onnxruntime_version"] == "1"
        assert wire.ask("CONFIG", "GET", "ai.preload") == [b"ai.preload", b"onnx"]
        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", b"x")


def test_several_libraries_of_which_one_is_missing(start_server: StartServer, tmp_path: Path) -> None:
    backends, go = samples.slow_backend(tmp_path)
    go.touch()
    server = start_server(
        *("--ai.preload", "TFLITE,ONNX"), options=["BACKENDSPATH", str(backends), "ALLOW_FILE_OPS", 1]
    )
    with server.wire() as wire:
        wait_for(lambda: wire.ask("AI.INFO") == READY)
        assert "Could not load backend: TFLITE: there is no " in server.log()
        assert "onnxruntime_version" in module_sections(wire, "MODULES")["backends_info"]


def test_documented_line(start_server: StartServer) -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    (options,) = re.findall(r"^loadmodule \S+ (PRELOAD .*)$", page, re.MULTILINE)
    with start_server(options=options.split()).wire() as wire:
        wait_for(lambda: wire.ask("AI.INFO") == READY)
        assert {"Torch_version", "onnxruntime_version"} <= module_sections(wire, "MODULES")["backends_info"].keys()


@pytest.mark.parametrize("value", ["ONNX,", "", "ONNX, TF", "ONXX", ","])
def test_words_of_preload(start_server: StartServer, value: str) -> None:
    if value in ("ONNX,", ""):
        with start_server(options=["PRELOAD", value]).wire() as wire:
            wait_for(lambda: wire.ask("AI.INFO") == READY)
        return
    with pytest.raises(ServerExit, match=f"invalid value '{value}' for PRELOAD: TF, TFLITE, TORCH, ONNX, or some"):
        start_server(options=["PRELOAD", value])


def test_not_ready_while_data_are_loading(start_server: StartServer) -> None:
    server = start_server("--loading-process-events-interval-bytes", "1024")
    with server.wire() as wire:
        assert wire.ask("AI.INFO") == READY
        for number in range(20):
            wire.ask_ok("AI.TENSORSET", f"t{number}", "UINT8", 4000)
        wire.ask_ok("SAVE")
    server.kill()
    server.arguments += ["--key-load-delay", "30000"]  # microseconds
    server.process = subprocess.Popen(server.command(), stdin=subprocess.DEVNULL)

    def is_told() -> bool:
        try:
            with Wire(server.port) as wire:
                return module_sections(wire, "MODULES")["start"]["ready"] == "0"
        except OSError:
            return False

    wait_for(is_told)
    wait_for(lambda: server.answers())
    with server.wire() as wire:
        assert wire.ask("AI.INFO") == READY


def test_what_comes_later_changes_nothing(start_server: StartServer, tmp_path: Path) -> None:
    """A replica that gets a new model goes on serving the others."""
    backends, go = samples.slow_backend(tmp_path)
    server = start_server(options=["BACKENDSPATH", str(backends), "ALLOW_FILE_OPS", 1])
    with server.wire() as wire:
        wire.ask_ok("RESTORE", "m", 0, rdb.dump(samples.ONNX, 4))
        assert wire.ask("AI.INFO") == READY
        go.touch()


def test_key_and_words(server: Server, wire: Wire) -> None:
    assert wire.ask("AI.INFO") == READY
    assert wire.ask("COMMAND", "GETKEYS", "AI.INFO", "m") == [b"m"]
    assert wire.ask("AI.INFO", "m", "FULL", "x") == "ERR wrong number of arguments for 'AI.INFO' command"
    assert wire.ask("EVAL", "return redis.call('AI.INFO')[2]", 0) == 1
    wire.ask_ok("MULTI")
    assert wire.ask("AI.INFO") == b"QUEUED"
    assert wire.ask("EXEC") == [READY]


def test_a_user_without_keys_may_ask(login: Login) -> None:
    user = login("+ai.info")
    assert user.ask("AI.INFO") == READY
    assert user.ask("AI.INFO", "m").startswith("NOPERM")
