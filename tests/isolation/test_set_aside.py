"""A model or script under which three engine processes have ended runs no more, until it is released or stored anew."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit import scripts
from testkit.isolation import (
    ADD,
    ENDED,
    SET_ASIDE,
    check_add,
    deaths,
    engine,
    python_backend,
    running,
    store_add,
    wait_until_runs,
)
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.conftest import StartServer

FATAL = b"import os\ndef run(inputs):\n    os.abort()\n"
RUN = ("AI.MODELEXECUTE", "bad", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
ABORTED = "ERR the process that ran 'bad' ended: SIGABRT; CPU starts anew"


@pytest.fixture(scope="module", autouse=True)
def stored(python_models: Server) -> None:
    with python_models.wire() as wire:
        store_add(wire, blob=ADD)
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)


@pytest.fixture
def wire(python_models: Server) -> Iterator[Wire]:
    with python_models.wire() as wire:
        yield wire


def set_aside(wire: Wire) -> None:
    wire.ask_ok("AI.MODELSTORE", "bad", "ONNX", "CPU", "BLOB", FATAL)
    for number in range(1, 4):
        assert wire.ask(*RUN) == ABORTED
        assert deaths(wire, "bad") == number
    assert re.fullmatch(SET_ASIDE, wire.ask(*RUN))


def test_after_three_deaths(wire: Wire) -> None:
    set_aside(wire)
    before = engine(wire)
    for _ in range(5):
        assert re.fullmatch(SET_ASIDE, wire.ask(*RUN))
    assert engine(wire).deaths == before.deaths
    check_add(wire)
    assert deaths(wire, "add") == 0
    assert deaths(wire, "bad") == 3


def test_released(wire: Wire) -> None:
    set_aside(wire)
    wire.ask_ok("AI.INFO", "bad", "RESETSTAT")
    assert deaths(wire, "bad") == 0
    assert wire.ask(*RUN) == ABORTED
    assert deaths(wire, "bad") == 1


def test_stored_anew(wire: Wire) -> None:
    set_aside(wire)
    wire.ask_ok("AI.MODELSTORE", "bad", "ONNX", "CPU", "BLOB", ADD.replace(b"inputs[1]", b"inputs[0]"))
    assert deaths(wire, "bad") == 0
    assert wire.ask(*RUN) == b"OK"


def test_in_a_dag(wire: Wire) -> None:
    set_aside(wire)
    reply = wire.ask("AI.DAGEXECUTE", "LOAD", 1, "x", "|>", *RUN)
    assert any(re.fullmatch(SET_ASIDE, str(item)) for item in (reply if isinstance(reply, list) else [reply]))


def test_a_script(wire: Wire) -> None:
    """Processes that end from outside count for what ran."""
    scripts.store_redis(wire, "gone_on")
    for number in range(1, 4):
        wire.ask("DEL", "started", "go")
        with python_models_wire(wire) as busy:
            busy.send(*scripts.execute("s", "gone_on", ["started", "go", "done"]))
            wait_for(lambda: wire.ask("EXISTS", "started"), 60)
            os.kill(engine(wire).pid, signal.SIGSEGV)
            assert busy.read() == "ERR the process that ran 's' ended: SIGSEGV; CPU starts anew"
        assert deaths(wire, "s") == number
    assert re.fullmatch(SET_ASIDE, wire.ask(*scripts.execute("s", "gone_on", ["started", "go", "done"])))
    assert wire.ask("EXISTS", "done") == 0
    wire.ask_ok("AI.INFO", "s", "RESETSTAT")
    wire.ask("SET", "go", "1")
    assert wire.ask(*scripts.execute("s", "gone_on", ["started", "go", "done"])) == b"OK"


def python_models_wire(wire: Wire) -> Wire:
    return Wire(wire.socket.getpeername()[1])


def test_after_a_load(wire: Wire, tmp_path: Path) -> None:
    """The model compiles once, at its store, and never again."""
    blob = b"import os, pathlib\nonce = pathlib.Path('%s')\n" % bytes(tmp_path / "once")
    blob += b"if once.exists(): os.abort()\nonce.touch()\ndef run(inputs):\n    os._exit(3)\n"
    wire.ask_ok("AI.MODELSTORE", "bad", "ONNX", "CPU", "BLOB", blob)
    assert wire.ask(*RUN) == "ERR the process that ran 'bad' ended: exit status 3; CPU starts anew"
    for _ in range(2):
        assert wire.ask(*RUN) == "ERR the process that compiled 'bad' ended: SIGABRT; CPU starts anew"
    assert re.fullmatch(SET_ASIDE, wire.ask(*RUN))


def test_innocent_models_of_a_process(wire: Wire) -> None:
    """Other runs that a worker has begun with the fatal one fail with it, and do not count."""
    wire.ask_ok("AI.MODELSTORE", "bad", "ONNX", "CPU", "BLOB", FATAL)
    for _ in range(3):
        add = ("AI.MODELEXECUTE", "add", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "z")
        with python_models_wire(wire) as busy:
            busy.socket.settimeout(60)
            for words in (add, RUN, add, add):
                busy.send(*words)
            replies = [busy.read() for _ in range(4)]
        assert replies[1] == ABORTED
        for reply in (replies[0], *replies[2:]):
            assert reply == b"OK" or re.fullmatch(ENDED, reply)
    assert deaths(wire, "add") == 0


@pytest.mark.parametrize("ending", ["os.abort()", "os._exit(3)", "os.kill(os.getpid(), 9); time.sleep(1)"])
def test_several_workers(start_server: StartServer, tmp_path: Path, ending: str) -> None:
    """Whoever runs beside it is not guilty, where the process tells who raised the signal."""
    options: list[str | int] = [
        "ISOLATION",
        "process",
        "THREADS_PER_QUEUE",
        3,
        "BACKENDSPATH",
        str(python_backend(tmp_path)),
    ]
    server = start_server(options=options)
    with server.wire() as wire, server.wire() as busy:
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1)
        slow = b"import time\ndef run(inputs):\n    time.sleep(3)\n    return inputs\n"
        wire.ask_ok("AI.MODELSTORE", "slow", "ONNX", "CPU", "BLOB", slow)
        blob = f"import os, time\ndef run(inputs):\n    {ending}\n".encode()
        wire.ask_ok("AI.MODELSTORE", "bad", "ONNX", "CPU", "BLOB", blob)
        busy.send("AI.MODELEXECUTE", "slow", "INPUTS", 1, "x", "OUTPUTS", 1, "z")
        wait_until_runs(wire, "slow")
        assert re.fullmatch(ENDED, wire.ask(*RUN))
        assert re.fullmatch(ENDED, busy.read())
        assert deaths(wire, "bad") == 1
        assert deaths(wire, "slow") == (ending != "os.abort()")  # nobody knows who it was


def test_figures(wire: Wire) -> None:
    before = engine(wire)
    wire.ask_ok("AI.MODELSTORE", "bad", "ONNX", "CPU", "BLOB", FATAL)
    assert wire.ask(*RUN) == ABORTED
    check_add(wire)
    after = engine(wire)
    assert (after.state, after.last_death) == ("up", "SIGABRT")
    assert (after.starts, after.deaths) == (before.starts + 1, before.deaths + 1)
    assert after.pid != before.pid and after.memory > 1 << 20
    wait_for(lambda: running(wire) == {})  # a worker has told its result before it rests


def test_not_a_right_of_readers(python_models: Server, wire: Wire) -> None:
    set_aside(wire)
    wire.ask("ACL", "SETUSER", "reader", "on", "nopass", "+@all", "%R~*")
    with python_models.wire() as reader:
        reader.ask_ok("AUTH", "reader", "x")
        assert "NOPERM" in reader.ask("AI.INFO", "bad", "RESETSTAT")
    assert re.fullmatch(SET_ASIDE, wire.ask(*RUN))
