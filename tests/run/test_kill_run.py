"""AI.KILL RUN ends one run by its id in AI.RUNS, whether it waits or is under way. Its client is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testkit import models, scripts
from testkit.batches import Clients
from testkit.info import full_ai_info
from testkit.server import Server
from testkit.users import logins
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.conftest import Slow

RUN: tuple[Word, ...] = ("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
LONG: tuple[Word, ...] = ("AI.MODELEXECUTE", "long", "INPUTS", 1, "n", "OUTPUTS", 1, "out")
GONE = "NOTBUSY No run with this id waits or is under way."


def store(wire: Wire) -> None:
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)


def store_long(wire: Wire) -> None:
    wire.ask_ok("AI.MODELSTORE", "long", "ONNX", "CPU", "BLOB", models.onnx_loop())
    wire.ask_ok("AI.TENSORSET", "n", "INT64", "VALUES", 1 << 40)


def ids(wire: Wire, key: str, state: str) -> list[int]:
    """Of the runs of this model or script that are in this state."""
    found = [dict(zip(run[::2], run[1::2], strict=True)) for run in wire.ask("AI.RUNS", key)]
    return [run[b"id"] for run in found if run[b"state"] == state.encode()]


def wait_for_run(wire: Wire, key: str, state: str = "running") -> int:
    wait_for(lambda: ids(wire, key, state), what=f"a run of {key} is {state}")
    return ids(wire, key, state)[0]


def is_isolated(wire: Wire) -> bool:
    return bool(wire.ask("CONFIG", "GET", "ai.isolation")[1] == b"process")


def ended(key: str, id: int) -> str:
    return f"ERR the run of '{key}' was ended by AI.KILL RUN {id}"


@contextmanager
def waiting(clients: Clients, count: int) -> Iterator[list[Wire]]:
    """So many clients wait with RUN for the one worker."""
    with clients.busy_worker():
        wires = [clients.wire() for _ in range(count)]
        for number, wire in enumerate(wires, 2):
            wire.send(*RUN)
            clients.wait_blocked(number)
        yield wires


def test_one_that_waits(wire: Wire, clients: Clients) -> None:
    store(wire)
    with waiting(clients, 3) as wires:
        middle = sorted(ids(wire, "m", "queued"))[1]
        wire.ask_ok("AI.KILL", "RUN", middle)
        assert wires[1].read() == ended("m", middle)
        assert wire.ask("AI.KILL", "RUN", middle) == GONE
        assert len(ids(wire, "m", "queued")) == 2
    assert [wires[0].read(), wires[2].read()] == [b"OK"] * 2
    assert full_ai_info(wire)["calls"] == 2, "it never ran"
    assert wires[1].ask(*RUN) == b"OK", "its client goes on"


# What Python runs cannot be ended.
in_c = pytest.mark.skipif(os.environ.get("REDISAI_DIRECT") == "off", reason="Python runs all models")


@in_c
def test_one_that_runs(wire: Wire, clients: Clients) -> None:
    """ONNX Runtime can end it; in an engine process anything can be ended."""
    store_long(wire)
    store(wire)
    long, next = clients.wire(), clients.wire()
    long.send(*LONG)
    id = wait_for_run(wire, "long")
    next.send(*RUN)
    wire.ask_ok("AI.KILL", "RUN", id)
    assert long.read() == ended("long", id)
    assert next.read() == b"OK", "the worker is free again, long before MODEL_EXECUTION_TIMEOUT"
    assert wire.ask("EXISTS", "out") == 0
    assert full_ai_info(wire, "long")["errors"] == 1
    assert full_ai_info(wire, "long")["run_time_max"] < 4_000_000


def test_what_the_library_cannot_end(wire: Wire, clients: Clients) -> None:
    store(wire)
    scripts.store_redis(wire)
    keys = ["started", "go", "done"]
    busy = clients.wire()
    busy.send(*scripts.execute("s", "gone_on", keys))
    wait_for(lambda: wire.ask("EXISTS", "started"))
    id = wait_for_run(wire, "s")
    reply = wire.ask("AI.KILL", "RUN", id)
    if is_isolated(wire):
        assert reply == b"OK"
        assert busy.read() == ended("s", id)
        assert clients.wire().ask(*RUN) == b"OK"
        assert wire.ask("EXISTS", "done") == 0
        return
    assert reply == (
        "ERR the run of 's' is under way, and only the option ISOLATION process could end it; "
        f"CLIENT UNBLOCK {busy_client(wire, id)} ends the client's wait"
    )
    wire.ask_ok("SET", "go", "x")
    assert busy.read() == b"OK", "nothing has happened to it"


@pytest.mark.parametrize("server", ["python"], indirect=True)
def test_what_python_runs(server: Server, wire: Wire, clients: Clients, slow: Slow) -> None:
    """It can tell ONNX Runtime nothing meanwhile."""
    if is_isolated(wire):
        pytest.skip("its process is ended, whatever it runs")
    busy = clients.wire()
    busy.send(*slow(wire, 0.5))
    id = wait_for_run(wire, "slow")
    assert wire.ask("AI.KILL", "RUN", id).startswith(
        "ERR the run of 'slow' is under way, and only the option ISOLATION"
    )
    assert busy.read() == b"OK"


def busy_client(wire: Wire, id: int) -> int:
    (run,) = [run for run in wire.ask("AI.RUNS") if run[run.index(b"id") + 1] == id]
    return int(run[run.index(b"client") + 1])


@in_c
def test_of_a_dag(wire: Wire, clients: Clients) -> None:
    """All its operations have one id. One runs, another waits for the worker, a third for the second."""
    store_long(wire)
    store(wire)
    dag = clients.wire()
    chain = ("|>", *RUN, "|>", "AI.MODELEXECUTE", "m", "INPUTS", 2, "y", "y", "OUTPUTS", 1, "z")
    dag.send("AI.DAGEXECUTE", "LOAD", 2, "n", "x", "PERSIST", 1, "z", "|>", *LONG, *chain)
    id = wait_for_run(wire, "long")
    assert ids(wire, "m", "waiting") == [id]
    wire.ask_ok("AI.KILL", "RUN", id)
    assert dag.read() == f"ERR the DAG was ended by AI.KILL RUN {id}"
    assert wire.ask(*RUN) == b"OK"
    assert wire.ask("EXISTS", "z") == 0


@in_c
def test_of_a_batch(wire: Wire, clients: Clients) -> None:
    """The others of its batch run again."""
    wire.ask_ok(
        "AI.MODELSTORE", "m", "ONNX", "CPU", "BATCHSIZE", 8, "MINBATCHSIZE", 4, "BLOB", models.onnx_loop_by_rows()
    )
    for key, rounds in ("short", 1), ("endless", 1 << 40):
        wire.ask_ok("AI.TENSORSET", key, "FLOAT", 1, 1, "VALUES", rounds)
    for rows in 4, 5:  # proves that it can be batched
        wire.ask_ok("AI.TENSORSET", f"x{rows}", "FLOAT", rows, 1)
        wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 1, f"x{rows}", "OUTPUTS", 1, "y")
    wires = [clients.wire() for _ in range(4)]
    for number, (each, key) in enumerate(zip(wires, ["short", "endless", "short", "short"], strict=True), 1):
        each.send("AI.MODELEXECUTE", "m", "INPUTS", 1, key, "OUTPUTS", 1, f"y{number}")
        wait_for(lambda number=number: len(wire.ask("AI.RUNS", "m")) == number)  # type: ignore[misc]
    wait_for(lambda: len(ids(wire, "m", "running")) == 4)
    id = sorted(ids(wire, "m", "running"))[1]
    wire.ask_ok("AI.KILL", "RUN", id)
    assert wires[1].read() == ended("m", id)
    if is_isolated(wire):  # they wait for the minimum of rows again
        wires[1].send("AI.MODELEXECUTE", "m", "INPUTS", 1, "short", "OUTPUTS", 1, "y2")
        assert wires[1].read() == b"OK"
    assert [wires[i].read() for i in (0, 2, 3)] == [b"OK"] * 3
    assert wire.ask("AI.TENSORGET", "y1", "VALUES") == [b"1"]


def test_a_key_may_be_called_run(wire: Wire) -> None:
    store(wire)
    wire.ask_ok("RENAME", "m", "RUN")
    expected = "NOTBUSY Nothing runs this model or script right now."
    if not is_isolated(wire):
        expected = "ERR AI.KILL needs the module to be loaded with ISOLATION process"
    assert wire.ask("AI.KILL", "RUN") == expected
    assert wire.ask("COMMAND", "GETKEYS", "AI.KILL", "RUN") == [b"RUN"]
    assert isinstance(wire.ask("COMMAND", "GETKEYS", "AI.KILL", "RUN", 1), Error), "there is none"


def test_errors(wire: Wire) -> None:
    needed = "ERR AI.KILL RUN: the id of a run is needed, as AI.RUNS tells it"
    for id in ("x", "", -1, 0, "1.0", 1 << 64):
        assert wire.ask("AI.KILL", "RUN", id) == needed
    assert wire.ask("AI.KILL", "RUN", (1 << 63) - 1) == GONE
    for words in ((), ("RUN", 1, 2), ("ID", 1)):
        assert "wrong number of arguments" in wire.ask("AI.KILL", *words)


@pytest.mark.parametrize("rules", [("+@all", "-config"), ("+ai.kill",)])
def test_not_an_administrator(server: Server, rules: tuple[str, ...]) -> None:
    with logins(server) as login:
        assert login("~*", *rules).ask("AI.KILL", "RUN", 1).startswith("NOPERM ")


def test_who_has_no_right_to_a_key(server: Server) -> None:
    """It needs none: the id names the run."""
    with logins(server) as login:
        assert login("~other", "+@all").ask("AI.KILL", "RUN", 1) == GONE
