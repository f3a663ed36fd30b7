"""AI.INFO: each op of a DAG is a call; AI.INFO key FULL, and what must hold between its numbers."""

from __future__ import annotations

import time
from typing import Any

import pytest

from testkit import dags, models
from testkit.batches import Clients
from testkit.dags import OK, Form, ask, both_forms, check, send
from testkit.info import FULL
from testkit.server import Server
from testkit.wire import Error, Simple, Wire
from tests.commands.test_ai_info import KEYS

MORE = [name.encode() for name in FULL]


def full(wire: Wire, key: str) -> dict[bytes, Any]:
    reply = wire.ask("AI.INFO", key, "FULL")
    assert reply[::2] == KEYS + MORE
    assert reply[:18] == wire.ask("AI.INFO", key), "the documented elements come first, as without FULL"
    found = dict(zip(reply[::2], reply[1::2], strict=True))
    check_numbers(found)
    return found


def check_numbers(found: dict[bytes, Any]) -> None:
    """What holds at all times, batched or not."""
    executions, samples = found[b"executions"], found[b"samples"]
    assert 0 <= executions <= found[b"calls"]
    average = float(found[b"average_batch"])
    if found[b"type"] == b"SCRIPT":
        assert average == -1
    else:
        assert average == (samples / executions if executions else 0)
    for what in (b"queue", b"run"):
        mean, half, p99, worst = (found[b"%s_time_%s" % (what, which)] for which in (b"mean", b"p50", b"p99", b"max"))
        assert all(isinstance(number, int) for number in (mean, half, p99, worst))
        assert 0 <= half <= p99 <= worst
        assert mean <= worst
        if not executions:
            assert worst == 0


@pytest.fixture
def stored(wire: Wire) -> Wire:
    dags.store(wire)
    return wire


CHAIN = (
    "AI.DAGEXECUTE LOAD 2 x y |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 a"
    " |> AI.MODELEXECUTE mul INPUTS 2 a y OUTPUTS 1 b |> AI.MODELEXECUTE add INPUTS 2 a b OUTPUTS 1 c"
    " |> AI.SCRIPTEXECUTE old two INPUTS 1 c OUTPUTS 2 d e |> AI.MODELEXECUTE both INPUTS 2 d e OUTPUTS 2 f g"
)


@both_forms
def test_every_op_is_a_call(stored: Wire, form: Form) -> None:
    for number in range(1, 4):
        check(ask(stored, form(CHAIN)), [OK] * 5)
        for key, calls in (("add", 2), ("mul", 1), ("both", 1), ("old", 1)):
            found = full(stored, key)
            wanted = (calls * number, -1 if key == "old" else calls * number, 0, calls * number)
            assert tuple(found[name] for name in (b"calls", b"samples", b"errors", b"executions")) == wanted
            assert 0 < found[b"duration"] < 5_000_000
    assert dags.calls(stored, "s") == 0


def test_samples_are_rows(stored: Wire) -> None:
    for rows in (1, 5, 10):
        line = (
            f"AI.DAGEXECUTE ROUTING r |> AI.TENSORSET t FLOAT {rows} 2 |> AI.MODELEXECUTE add INPUTS 2 t t OUTPUTS 1 u"
        )
        check(ask(stored, line + " |> AI.MODELEXECUTE add INPUTS 2 t u OUTPUTS 1 v"), [OK, OK, OK])
    found = full(stored, "add")
    assert (found[b"calls"], found[b"samples"], found[b"executions"]) == (6, 32, 6)
    assert float(found[b"average_batch"]) == 32 / 6


def test_ops_that_fail_and_ops_that_do_not_run(stored: Wire) -> None:
    line = (
        "AI.DAGEXECUTE LOAD 1 x |> AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 a |> AI.TENSORSET i INT64 1 2 VALUES 1 2"
        " |> AI.SCRIPTEXECUTE s fails INPUTS 1 a OUTPUTS 1 b |> AI.MODELEXECUTE both INPUTS 2 b b OUTPUTS 2 c d"
    )
    ask(stored, line)
    assert [full(stored, key)[b"calls"] for key in ("add", "s", "both")] == [1, 1, 0]
    assert [full(stored, key)[b"errors"] for key in ("add", "s", "both")] == [0, 1, 0]
    ask(stored, "AI.DAGEXECUTE LOAD 1 x |> AI.TENSORSET i INT64 1 2 |> AI.MODELEXECUTE add INPUTS 2 x i OUTPUTS 1 a")
    found = full(stored, "add")
    assert (found[b"calls"], found[b"errors"], found[b"samples"]) == (2, 1, 1)


def test_errors_of_parsing_are_not_counted(stored: Wire) -> None:
    for line, text in (
        (
            "AI.DAGEXECUTE LOAD 1 x |> AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 a |> AI.TENSORGET missing",
            "ERR INPUT key cannot be found in DAG",
        ),
        (
            "AI.DAGEXECUTE LOAD 1 x PERSIST 1 b |> AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 a",
            "ERR PERSIST key cannot be found in DAG",
        ),
        (
            "AI.DAGEXECUTE LOAD 1 x |> AI.MODELEXECUTE add INPUTS 1 x OUTPUTS 1 a",
            "ERR Number of keys given as INPUTS here does not match model definition",
        ),
    ):
        check(ask(stored, line), Error(text))
    found = full(stored, "add")
    assert (found[b"calls"], found[b"errors"], found[b"executions"]) == (0, 0, 0)


@pytest.mark.parametrize("protocol", [2, 3])
def test_full_before_anything_ran(server: Server, stored: Wire, protocol: int) -> None:
    with server.wire(protocol) as wire:
        for key, average in (("add", 0), ("s", -1)):
            reply = wire.ask("ai.info", key, "full")
            assert isinstance(reply, list)
            more = dict(zip(reply[18::2], reply[19::2], strict=True))
            assert list(more) == MORE
            assert isinstance(more[b"average_batch"], float if protocol == 3 else bytes)
            assert float(more.pop(b"average_batch")) == average
            assert more.pop(b"batch_rows") == more.pop(b"slowest") == []
            assert set(more.values()) == {0}


def test_single_runs_count_too(stored: Wire) -> None:
    for _ in range(5):
        assert ask(stored, "AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 z") == b"OK"
        assert ask(stored, "AI.MODELRUN add INPUTS x y OUTPUTS z") == b"OK"
        assert ask(stored, "AI.SCRIPTEXECUTE s add INPUTS 2 x y OUTPUTS 1 z") == b"OK"
    assert full(stored, "add")[b"executions"] == 10
    assert full(stored, "s")[b"executions"] == 5


def test_times(stored: Wire, clients: Clients) -> None:
    """A script keeps the worker for 0.2 s or more; a model waits for it in the queue."""
    with clients.busy_worker():
        send(stored, "AI.DAGEXECUTE LOAD 1 x |> AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 a")
        clients.wait_blocked(2)
        time.sleep(0.2)
    check(stored.read(), [OK])
    found, waited = full(stored, "busy"), full(stored, "add")
    assert 200_000 <= waited[b"queue_time_max"] < 5_000_000
    for which in (b"mean", b"p50", b"p99", b"max"):
        assert 200_000 <= found[b"run_time_" + which] < 5_000_000
        assert waited[b"run_time_" + which] < 150_000
    # one execution: all four are that one, as near as a histogram tells
    assert found[b"run_time_mean"] == pytest.approx(found[b"duration"], rel=0.1)
    assert found[b"run_time_p50"] == pytest.approx(found[b"duration"], rel=0.1)
    assert found[b"run_time_p99"] == pytest.approx(found[b"duration"], rel=0.1)


def test_resetstat(stored: Wire) -> None:
    check(ask(stored, CHAIN), [OK] * 5)
    for key in ("add", "old"):
        reply = stored.ask("AI.INFO", key, "RESETSTAT")
        assert (type(reply), reply) == (Simple, b"OK")
        found = full(stored, key)
        average = float(found.pop(b"average_batch"))
        assert average == (-1 if key == "old" else 0)
        assert [found[name] for name in (b"duration", b"calls", b"errors")] == [0, 0, 0]
        assert found.pop(b"batch_rows") == found.pop(b"slowest") == []
        assert {found[name] for name in MORE if name in found} == {0}
    check(ask(stored, CHAIN), [OK] * 5)
    assert full(stored, "add")[b"executions"] == 2


def test_numbers_follow_the_value(stored: Wire) -> None:
    check(ask(stored, CHAIN), [OK] * 5)
    stored.ask("RENAME", "add", "other")
    assert full(stored, "other")[b"executions"] == 2
    stored.ask("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", models.onnx_add())
    assert full(stored, "add")[b"executions"] == 0


def test_words(stored: Wire) -> None:
    assert stored.ask("AI.INFO", "missing", "FULL") == "ERR cannot find run info for key"
    for words in (["FULL", "RESETSTAT"], ["RESETSTAT", "FULL"], ["FULL", "FULL"], ["FULLER"]):
        reply = stored.ask("AI.INFO", "add", *words)
        assert isinstance(reply, Error), words
    assert stored.ask("PING") == b"PONG"
