"""AI.KILL ends what runs of a model or script."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from testkit import scripts
from testkit.isolation import (
    ADD,
    check_add,
    deaths,
    engine,
    engine_is_up,
    store_add,
    wait_until_compiles,
    wait_until_runs,
)
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire

SLEEP = b"import time\ndef run(inputs):\n    time.sleep(0.95)\n    return inputs\n"
RUN = ("AI.MODELEXECUTE", "slow", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
NOTBUSY = "NOTBUSY Nothing runs this model or script right now."


@pytest.fixture
def wire(python_models: Server) -> Iterator[Wire]:
    with python_models.wire() as wire:
        store_add(wire, blob=ADD)
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        wire.ask_ok("AI.MODELSTORE", "slow", "ONNX", "CPU", "BLOB", SLEEP)
        check_add(wire)
        yield wire


def test_a_model(python_models: Server, wire: Wire) -> None:
    before = engine(wire)
    with python_models.wire() as busy:
        busy.send(*RUN)
        wait_until_runs(wire, "slow")
        assert wire.ask("AI.KILL", "slow") == b"OK"
        assert busy.read() == "ERR the run of 'slow' was ended by AI.KILL"
    check_add(wire)
    assert engine(wire).last_death == "AI.KILL" and engine(wire).pid != before.pid
    assert deaths(wire, "slow") == 0


@pytest.mark.parametrize("called", [False, True], ids=["", "that has written"])
def test_a_script(python_models: Server, wire: Wire, called: bool) -> None:
    scripts.store_redis(wire, "gone_on", "for_ever")
    wire.ask("DEL", "started", "go", "done")
    with python_models.wire() as busy:
        if called:
            busy.send(*scripts.execute("s", "gone_on", ["started", "go", "done"]))
            wait_for(lambda: wire.ask("EXISTS", "started"), 60)
        else:
            busy.send(*scripts.execute("s", "for_ever", ["x"], [], [], ["y"]))
            wait_until_runs(wire, "s")
        assert wire.ask("AI.KILL", "s") == b"OK"
        assert busy.read() == "ERR the run of 's' was ended by AI.KILL"
    assert wire.ask("EXISTS", "done") == 0
    assert deaths(wire, "s") == 0


def test_others_of_the_process_are_run_again(python_models: Server, wire: Wire) -> None:
    with python_models.wire() as busy, python_models.wire() as other:
        busy.send(*RUN)
        wait_until_runs(wire, "slow")
        for _ in range(20):
            other.send("AI.MODELEXECUTE", "add", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "z")
        assert wire.ask("AI.KILL", "slow") == b"OK"
        assert busy.read() == "ERR the run of 'slow' was ended by AI.KILL"
        assert [other.read() for _ in range(20)] == [b"OK"] * 20
    assert wire.ask("AI.TENSORGET", "z", "VALUES") == [b"2", b"4"]


def test_in_a_dag(python_models: Server, wire: Wire) -> None:
    with python_models.wire() as busy:
        busy.send("AI.DAGEXECUTE", "LOAD", 1, "x", "PERSIST", 1, "y", "|>", *RUN)
        wait_until_runs(wire, "slow")
        wire.ask("DEL", "y")
        assert wire.ask("AI.KILL", "slow") == b"OK"
        assert "the run of 'slow' was ended by AI.KILL" in str(busy.read())
    assert wire.ask("EXISTS", "y") == 0


ENDLESS = b"while True: pass\n"  # at the load


@pytest.mark.parametrize("stored", [False, True], ids=["", "over another"])
def test_a_store(python_models: Server, wire: Wire, stored: bool) -> None:
    before = engine(wire)
    wire.ask("DEL", "endless")
    if stored:
        wire.ask_ok("AI.MODELSTORE", "endless", "ONNX", "CPU", "BLOB", ADD)
    with python_models.wire() as busy:
        busy.send("AI.MODELSTORE", "endless", "ONNX", "CPU", "BLOB", ENDLESS)
        wait_until_compiles(wire, "endless")
        assert wire.ask("AI.KILL", "endless") == b"OK"
        assert busy.read() == "ERR the process that compiled 'endless' ended: AI.KILL; CPU starts anew"
    assert wire.ask("EXISTS", "endless") == int(stored)
    check_add(wire)
    assert engine(wire).pid != before.pid


def test_a_store_of_the_same_name_elsewhere(python_models: Server, wire: Wire) -> None:
    with python_models.wire() as busy:
        busy.send("AI.MODELSTORE", "endless", "ONNX", "CPU", "BLOB", ENDLESS)
        wait_until_compiles(wire, "endless")
        with python_models.wire() as other:
            other.ask_ok("SELECT", 1)
            for key in ("endless", "endless2", "endles"):
                assert other.ask("AI.KILL", key) == "ERR no model or script at this key"
        assert wire.ask("AI.KILL", "endless") == b"OK"
        assert "AI.KILL" in busy.read()


def test_a_model_that_is_compiled_for_a_run(python_models: Server, wire: Wire) -> None:
    """Its deaths are not counted."""
    once = b"import os\nwhile os.path.exists(%r): pass\n" + ADD
    file = python_models.folder / "compiles for ever"
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", once % str(file).encode())
    file.touch()
    before = engine(wire).pid
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: engine_is_up(wire).pid != before)
    for _ in range(4):
        engine_is_up(wire)  # else what the last one was compiling would count
        with python_models.wire() as busy:
            busy.send("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
            wait_until_compiles(wire, "m")
            assert wire.ask("AI.KILL", "m") == b"OK"
            assert busy.read() == "ERR the process that compiled 'm' ended: AI.KILL; CPU starts anew"
    assert deaths(wire, "m") == 0
    file.unlink()
    wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")


def test_nothing_runs(wire: Wire) -> None:
    before = engine(wire)
    assert wire.ask("AI.KILL", "slow") == NOTBUSY
    assert engine(wire) == engine(wire) and engine(wire).pid == before.pid


def test_what_cannot_be_ended(wire: Wire) -> None:
    wire.ask("SET", "text", "1")
    for key in ("x", "text", "no such key"):
        assert wire.ask("AI.KILL", key) == "ERR no model or script at this key"
    for words in ((), ("slow", "more")):
        assert "wrong number of arguments" in wire.ask("AI.KILL", *words)


@pytest.mark.parametrize("rules", [("+@all", "-config"), ("+ai.kill",), ("+@all", "-@admin")])
def test_not_an_administrator(python_models: Server, wire: Wire, rules: tuple[str, ...]) -> None:
    wire.ask("ACL", "SETUSER", "someone", "reset", "on", "nopass", "~*", *rules)
    with python_models.wire() as someone:
        someone.ask_ok("AUTH", "someone", "x")
        assert someone.ask("AI.KILL", "slow").startswith("NOPERM ")


def test_no_right_to_the_key(python_models: Server, wire: Wire) -> None:
    wire.ask("ACL", "SETUSER", "someone", "reset", "on", "nopass", "~other", "+@all")
    with python_models.wire() as someone:
        someone.ask_ok("AUTH", "someone", "x")
        assert someone.ask("AI.KILL", "slow").startswith("NOPERM ")


def test_models_in_the_servers_own_process(server: Server) -> None:
    with server.wire() as wire:
        if wire.ask("CONFIG", "GET", "ai.isolation")[1:] == [b"process"]:
            pytest.skip("all servers run models in engine processes")
        scripts.store_plain(wire)
        assert wire.ask("AI.KILL", "s") == "ERR AI.KILL needs the module to be loaded with ISOLATION process"
