"""An engine process, or its parent, gets a signal while something is under way: what was acknowledged stays."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from testkit import scripts
from testkit.isolation import (
    ADD,
    ENDED,
    LATE,
    Pings,
    bystander,
    check_add,
    descendants,
    engine,
    engine_is_up,
    exists,
    python_backend,
    store_add,
    wait_until_runs,
)
from testkit.server import Server, ServerExit
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import StartServer

SLOW = b"import time\ndef run(inputs):\n    time.sleep(0.9)\n    return [inputs[0] + inputs[0]]\n"
SLOW_LOAD = b"import time\ntime.sleep(2)\ndef run(inputs):\n    return [inputs[0] + inputs[0]]\n"
SCRIPT = """
def calls(tensors: List[Tensor], keys: List[str], args: List[str]):
    for i in range(1000000):
        redis.execute("SET", keys[0], str(i))
    return tensors[0]

def runs(tensors: List[Tensor], keys: List[str], args: List[str]):
    return redisAI.model_execute(keys[0], tensors, 1)
"""


@pytest.fixture(scope="module", autouse=True)
def stored(python_models: Server) -> None:
    with python_models.wire() as wire:
        store_add(wire, blob=ADD)
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        wire.ask_ok("SET", "kept", "1")


RUN = ("AI.MODELEXECUTE", "slow", "INPUTS", 1, "x", "OUTPUTS", 1, "y")


def store_slow(wire: Wire, *options: Any) -> None:
    wire.ask_ok("AI.MODELSTORE", "slow", "ONNX", "CPU", *options, "BLOB", SLOW)


def a_run(wire: Wire, busy: Wire) -> None:
    store_slow(wire)
    busy.send(*RUN)
    wait_until_runs(wire, "slow")


def a_batch(wire: Wire, busy: Wire) -> None:
    store_slow(wire, "BATCHSIZE", 8, "MINBATCHSIZE", 2)
    store_slow(busy, "BATCHSIZE", 8, "MINBATCHSIZE", 1)
    for _ in range(4):
        busy.send(*RUN)
    wait_until_runs(wire, "slow")


def a_dag(wire: Wire, busy: Wire) -> None:
    store_slow(wire)
    busy.send(
        "AI.DAGEXECUTE",
        "LOAD",
        1,
        "x",
        "PERSIST",
        1,
        "y",
        "|>",
        *RUN,
        "|>",
        "AI.MODELEXECUTE",
        "slow",
        "INPUTS",
        1,
        "y",
        "OUTPUTS",
        1,
        "z",
    )
    wait_until_runs(wire, "slow")


def a_dag_of_two_devices(wire: Wire, busy: Wire) -> None:
    store_slow(wire)
    wire.ask_ok("AI.MODELSTORE", "far", "ONNX", "CPU:1", "BLOB", SLOW)
    far = ("AI.MODELEXECUTE", "far", "INPUTS", 1, "x", "OUTPUTS", 1, "z")
    busy.send(
        "AI.DAGEXECUTE",
        "LOAD",
        1,
        "x",
        "|>",
        *RUN,
        "|>",
        *far,
        "|>",
        "AI.MODELEXECUTE",
        "slow",
        "INPUTS",
        1,
        "z",
        "OUTPUTS",
        1,
        "w",
    )
    wait_until_runs(wire, "slow")


def a_command_of_a_script(wire: Wire, busy: Wire) -> None:
    scripts.store(wire, "s", SCRIPT, ["calls", "runs"])
    wire.ask("DEL", "counter")
    busy.send(*scripts.execute("s", "calls", ["counter"], ["x"], [], ["y"]))
    wait_for(lambda: wire.ask("EXISTS", "counter"), 60)


def a_model_of_a_script(wire: Wire, busy: Wire) -> None:
    scripts.store(wire, "s", SCRIPT, ["calls", "runs"])
    store_slow(wire)
    busy.send(*scripts.execute("s", "runs", ["slow"], ["x"], [], ["y"]))
    wait_until_runs(wire, "s")


def a_store(wire: Wire, busy: Wire) -> None:
    busy.send("AI.MODELSTORE", "late", "ONNX", "CPU", "BLOB", SLOW_LOAD)
    wait_for(lambda: b"loader" in wire.ask("INFO", "MODULES"), 60)


def a_start(wire: Wire, busy: Wire) -> None:
    os.kill(engine_is_up(wire).pid, signal.SIGKILL)
    wait_for(lambda: engine(wire).state == "starting" or engine(wire).state == "up")
    busy.send("AI.MODELSTORE", "slow", "ONNX", "CPU", "BLOB", SLOW)


def nothing(wire: Wire, busy: Wire) -> None:
    busy.send("PING")


UNDER_WAY = [
    a_run, a_batch, a_dag, a_dag_of_two_devices, a_command_of_a_script, a_model_of_a_script, a_store, a_start, nothing,
]  # fmt: skip
SIGNALS = [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("whom", ["engine", "parent"])
@pytest.mark.parametrize("begin", UNDER_WAY)
def test_signals(
    python_models: Server, pings: Pings, begin: Callable[[Wire, Wire], None], whom: str, number: signal.Signals
) -> None:
    server = python_models
    with server.wire() as wire, pings.quick(), bystander(server):
        for key in ("slow", "far", "s", "late", "y", "z", "w"):
            wire.ask("DEL", key)
        engine_is_up(wire)
        with server.wire() as busy:
            begin(wire, busy)
            process = engine(wire)
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended already
                if process.pid:
                    os.kill(process.pid if whom == "engine" else process.parent, number)
            reply = busy.read()
        for item in reply if isinstance(reply, list) else [reply]:
            assert item in (b"OK", b"PONG", b"NA") or is_ended(item), reply
        check_add(wire)
        for key in ("slow", "far", "s"):
            if wire.ask("EXISTS", key):
                wire.ask_ok("AI.INFO", key, "RESETSTAT")
        # What was acknowledged is there, and nothing else.
        assert wire.ask("GET", "kept") == b"1"
        assert wire.ask("AI.TENSORGET", "x", "VALUES") == [b"1", b"2"]
        assert wire.ask("EXISTS", "late") == (begin is a_store and reply == b"OK")
        if wire.ask("EXISTS", "slow"):
            assert wire.ask(*RUN) == b"OK"
            assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"2", b"4"]
        # A parent that is stopped must not stay so.
        if whom == "parent" and number == signal.SIGSTOP and exists(process.pid):
            os.kill(process.parent, signal.SIGCONT)
        wire.ask_ok("AI.INFO", "add", "RESETSTAT")


def is_ended(reply: object) -> bool:
    return isinstance(reply, Error) and bool(re.fullmatch(f"{ENDED}|{LATE}", reply))


# ---- nothing is left -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["SHUTDOWN", "SIGTERM", "SIGKILL", "DEBUG SEGFAULT"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_no_process_is_left(start_server: StartServer, tmp_path: Path, how: str, busy: bool) -> None:
    server = start_server(options=["ISOLATION", "process", "BACKENDSPATH", str(python_backend(tmp_path))])
    with server.wire() as wire, server.wire() as other:
        for device in ("CPU", "CPU:1"):
            store_add(wire, f"add {device}", device, ADD)
            check_add(wire, f"add {device}")
        if busy:
            store_slow(wire)
            wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1)
            other.send(*RUN)
            wait_until_runs(wire, "slow")
        processes = descendants(server.pid)
        assert len(processes) == 4
        if how == "SIGKILL":
            server.kill()
        elif how == "SIGTERM":
            server.stop()
        else:
            wire.send(*how.split())
    assert server.process
    server.process.wait(60)
    wait_for(lambda: not any(map(exists, processes)), what="all processes have ended")


def test_no_process_is_left_of_a_module_that_is_refused(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(module=None)
    from testkit.server import module_path

    with server.wire() as wire:
        reply = wire.ask("MODULE", "LOAD", str(module_path()), "ISOLATION", "process", "ISOLATION_MEMORY_LIMIT", 1)
        assert isinstance(reply, Error), reply
        wait_for(lambda: not descendants(server.pid), 30, "all processes have ended")
        assert wire.ask("PING") == b"PONG"


def test_the_server_does_not_start_with_too_little_memory(start_server: StartServer) -> None:
    with pytest.raises(ServerExit) as refusal:
        start_server(options=["ISOLATION", "process", "ISOLATION_MEMORY_LIMIT", 1])
    assert "the engine cannot start in" in str(refusal.value)
