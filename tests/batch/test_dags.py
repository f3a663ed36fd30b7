"""Runs of models inside DAGs take part in batches: with each other, with those of other DAGs, with MODELEXECUTE."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from testkit import models
from testkit.batches import Batch, Clients, Floats, batch, batching, read_batch, store, store_witness, strict, witness
from testkit.info import full_ai_info
from testkit.wire import Error, Wire, Word
from tests.conftest import Slow


def mark(number: int, rows: int = 1) -> Floats:
    x = np.zeros((rows, 1), np.float32)
    x[0, 0] = 1 << number
    return x


def put(name: str, x: Floats) -> list[Word]:
    return ["|>", "AI.TENSORSET", name, "FLOAT", *x.shape, "BLOB", x.tobytes()]


def run(x: str, y: str, told: str, key: str = "m") -> list[Word]:
    return ["|>", "AI.MODELEXECUTE", key, "INPUTS", 1, x, "OUTPUTS", 2, y, told]


def get(*names: str) -> list[Word]:
    return [word for name in names for word in ("|>", "AI.TENSORGET", name, "BLOB")]


def two_runs(first: int) -> list[Word]:
    """A DAG of two independent runs, of which it tells the batches."""
    words: list[Word] = ["AI.DAGEXECUTE", "ROUTING", "m", *put("a", mark(first)), *put("b", mark(first + 1))]
    return [*words, *run("a", "ya", "ta"), *run("b", "yb", "tb"), *get("ya", "yb", "ta", "tb")]


def read_two(reply: Any, first: int) -> list[Batch]:
    assert reply[:4] == [b"OK"] * 4, reply
    assert reply[4:6] == [(mark(first) * 3 + 1).tobytes(), (mark(first + 1) * 3 + 1).tobytes()]
    return [read_batch(told) for told in reply[6:]]


def test_runs_of_one_dag_are_batched(wire: Wire) -> None:
    store_witness(wire, size=8, min_size=2)
    assert read_two(wire.ask(*two_runs(3)), 3) == [batch(2, 3, 4)] * 2
    found = full_ai_info(wire)
    assert (found["calls"], found["samples"], found["executions"]) == (2, 2, 1)


@pytest.mark.parametrize("backend", ["ONNX", "TORCH", "TF", "TFLITE"])
def test_dags_and_single_runs_are_batched(wire: Wire, clients: Clients, backend: str) -> None:
    store_witness(wire, size=8, min_size=6, backend=backend)
    single = clients.one(0)
    clients.queue(single)
    one, other = clients.wire(), clients.wire()
    one.send(*two_runs(1))
    clients.wait_blocked(2)
    other.send(*two_runs(3))
    clients.wait_blocked(3)
    clients.run_other_model()
    assert clients.server.blocked_clients() == 3
    everybody = batch(6, *range(6))
    assert clients.one(5, dag=True).ask() == everybody
    assert single.result() == everybody
    assert read_two(one.read(), 1) == read_two(other.read(), 3) == [everybody] * 2
    found = full_ai_info(wire)
    assert (found["calls"], found["samples"], found["executions"], found["errors"]) == (6, 6, 1, 0)


@pytest.mark.parametrize("command", ["AI.DAGEXECUTE", "AI.DAGEXECUTE_RO", "AI.DAGRUN", "AI.DAGRUN_RO"])
def test_every_form_takes_part(wire: Wire, clients: Clients, command: str) -> None:
    """With inputs from the keyspace, or set by the DAG."""
    store_witness(wire, size=8, min_size=3)
    single = clients.one(0)
    clients.queue(single)
    wire.ask("AI.TENSORSET", "stored", "FLOAT", 1, 1, "VALUES", 2)
    op: list[Word] = ["|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "stored", "OUTPUTS", 2, "y", "t"]
    old: list[Word] = ["|>", "AI.MODELRUN", "m", "INPUTS", "stored", "OUTPUTS", "y", "t"]
    loads = [command, "LOAD", 1, "stored", *(op if "EXECUTE" in command else old), *get("t")]
    setting = [command, *(["ROUTING", "m"] if "EXECUTE" in command else []), *put("stored", mark(2))]
    setting += [*(op if "EXECUTE" in command else old), *get("t")]
    first = clients.wire()
    first.send(*loads)
    clients.wait_blocked(2)
    reply = wire.ask(*setting)
    assert reply[:2] == [b"OK", b"OK"]
    assert read_batch(reply[2]) == single.result() == read_batch(first.read()[1]) == batch(3, 0, 1, 2)


def test_a_chain_is_batched_link_by_link(wire: Wire, clients: Clients) -> None:
    """Two DAGs each run the model on its own output: first the one batch, then the other."""
    store_witness(wire, size=8, min_size=2)

    def chain(number: int) -> list[Word]:
        words: list[Word] = ["AI.DAGEXECUTE", "ROUTING", "m", *put("x", mark(number))]
        return [*words, *run("x", "x", "t1"), *run("x", "x", "t2"), *run("x", "y", "t3"), *get("t1", "y", "t2", "t3")]

    other = clients.wire()
    other.send(*chain(2))
    clients.wait_blocked(1)
    clients.run_other_model()
    assert clients.server.blocked_clients() == 1
    for number, reply in (5, wire.ask(*chain(5))), (2, other.read()):
        assert reply[:4] == [b"OK"] * 4
        assert read_batch(reply[4]) == batch(2, 2, 5)
        x = mark(number)
        for _ in range(3):
            x = x * 3 + 1
        assert reply[5] == x.tobytes()
        assert [read_batch(told).rows for told in reply[6:]] == [2, 2]
    found = full_ai_info(wire)
    assert (found["calls"], found["samples"], found["executions"]) == (6, 6, 3)


def test_models_that_wait_for_each_other(wire: Wire, clients: Clients) -> None:
    """m, then n, and n, then m: no DAG could go on if a worker waited within it."""
    store_witness(wire, "m", size=8, min_size=2, ms=100)
    store_witness(wire, "n", size=8, min_size=2, ms=100)
    wires = [clients.wire() for _ in range(4)]
    start = time.monotonic()
    for number, (connection, keys) in enumerate(zip(wires, ("mn", "nm", "nm", "mn"), strict=True)):
        words: list[Word] = ["AI.DAGEXECUTE", "ROUTING", "m", *put("x", mark(number))]
        connection.send(*words, *run("x", "y", "t", keys[0]), *run("y", "z", "u", keys[1]), *get("z"))
    for number, connection in enumerate(wires):
        assert connection.read() == [b"OK"] * 3 + [((mark(number) * 3 + 1) * 3 + 1).tobytes()]
    assert time.monotonic() - start < 2
    assert full_ai_info(wire, "m")["executions"] <= 3 and full_ai_info(wire, "n")["executions"] <= 3


@pytest.mark.parametrize("device", ["CPU", "CPU:1"])
def test_a_run_whose_inputs_come_late(wire: Wire, clients: Clients, slow: Slow, device: str) -> None:
    """It joins those that wait by then; its own time counts from when its command came."""
    store_witness(wire, size=8, min_size=2, device=device)
    slow(wire, 0.15)
    single = clients.one(0)
    clients.queue(single)
    wire.ask("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 1, "one", "SOURCE", ONE)
    late: list[Word] = ["AI.DAGEXECUTE", "LOAD", 1, "slow:n"]
    late += ["|>", "AI.MODELEXECUTE", "slow", "INPUTS", 1, "slow:n", "OUTPUTS", 1, "done"]
    late += ["|>", "AI.SCRIPTEXECUTE", "s", "one", "INPUTS", 1, "done", "OUTPUTS", 1, "x"]
    reply = wire.ask(*late, *run("x", "y", "t"), *get("y", "t"))
    assert reply[:3] == [b"OK"] * 3
    assert reply[3] == np.float32(2 * 3 + 1).tobytes()
    assert read_batch(reply[4]) == single.result() == batch(2, 0, 1)


ONE = """
def one(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0].sum().reshape(1, 1) * 0 + 2
"""


def test_minbatchtimeout_counts_from_the_command(wire: Wire, slow: Slow) -> None:
    """What was over before its run was ready is not waited for again."""
    store(wire, "wide", witness("ONNX"), *batching(128, 100, 300))  # the slow model makes 64 rows
    slow(wire, 1.0)
    words: list[Word] = ["AI.DAGEXECUTE", "LOAD", 1, "slow:n"]
    words += ["|>", "AI.MODELEXECUTE", "slow", "INPUTS", 1, "slow:n", "OUTPUTS", 1, "x"]
    reply = wire.ask(*words, *run("x", "y", "t", "wide"), *get("t"))
    assert reply[:2] == [b"OK"] * 2
    assert read_batch(reply[2]).rows == 64
    assert full_ai_info(wire, "wide")["queue_time_max"] < 250_000


def test_what_persists_is_of_the_right_rows(wire: Wire) -> None:
    store_witness(wire, size=8, min_size=4)
    words: list[Word] = ["AI.DAGEXECUTE", "PERSIST", 2, "p", "q", *put("a", mark(0, 3)), *put("b", mark(4))]
    assert wire.ask(*words, *run("a", "p", "t"), *run("b", "q", "u")) == [b"OK"] * 4
    assert wire.ask("AI.TENSORGET", "p", "META", "BLOB")[3::2] == [[3, 1], (mark(0, 3) * 3 + 1).tobytes()]
    assert wire.ask("AI.TENSORGET", "q", "META", "BLOB")[3::2] == [[1, 1], (mark(4) * 3 + 1).tobytes()]
    assert full_ai_info(wire)["executions"] == 1


def test_a_failing_batch_fails_each_of_its_dags(wire: Wire, clients: Clients) -> None:
    """And nothing else: what the DAGs did before stands in their replies, what was to come is NA."""
    store(wire, "m", strict("TORCH"), *batching(8, 3))
    wire.ask("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", models.onnx_add(("n", 1)))
    good, bad = mark(1), mark(20)

    def dag(x: Floats) -> list[Word]:
        words: list[Word] = ["AI.DAGEXECUTE", "PERSIST", 1, "z", *put("x", x)]
        words += ["|>", "AI.MODELEXECUTE", "add", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "s"]
        words += ["|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "s", "OUTPUTS", 1, "y"]
        return [*words, "|>", "AI.MODELEXECUTE", "add", "INPUTS", 2, "y", "y", "OUTPUTS", 1, "z", *get("z")]

    def ask(*inputs: Floats) -> list[Any]:
        wires = [clients.wire() for _ in inputs]
        for connection, x in zip(wires, inputs, strict=True):
            connection.send(*dag(x))
        return [connection.read() for connection in wires]

    fine = [b"OK", b"OK", b"OK", b"OK", (good * 8).tobytes()]
    assert ask(good, good, good) == [fine] * 3
    assert ask(good, good, good) == [fine] * 3
    wire.ask("DEL", "z")
    before = full_ai_info(wire)
    for reply in ask(good, bad, good):
        assert reply[:2] == [b"OK", b"OK"] and reply[3:] == [b"NA", b"NA"]
        assert isinstance(reply[2], Error) and "out of bounds" in reply[2]
    after = full_ai_info(wire)
    assert (after["errors"], after["calls"] - before["calls"]) == (3, 3)
    assert wire.ask("EXISTS", "z") == 0
    assert ask(good, good, good) == [fine] * 3


def test_dags_over_devices_with_mixed_shapes(wire: Wire, clients: Clients) -> None:
    """Many, at once, whose ops share batches: all come to an end, with their own rows."""
    for key, device in ("m", "CPU"), ("n", "CPU:1"), ("o", "CPU:2"):
        store_witness(wire, key, size=8, min_size=3, ms=5, device=device)
    wires = [clients.wire() for _ in range(20)]
    for turn in range(10):
        inputs = [np.full((1 + (i + turn) % 4, 1 + i % 3), 100 * turn + i, np.float32) for i in range(len(wires))]
        for i, (connection, x) in enumerate(zip(wires, inputs, strict=True)):
            first, second, third = "mno"[i % 3], "mno"[i // 3 % 3], "mno"[i // 9 % 3]
            words: list[Word] = ["AI.DAGEXECUTE", "ROUTING", "r", *put("x", x), *run("x", "a", "t", first)]
            words += [*run("x", "b", "u", second), *run("a", "c", "v", third), *get("b", "c")]
            connection.send(*words)
        start = time.monotonic()
        for connection, x in zip(wires, inputs, strict=True):
            y = x * 3 + 1
            assert connection.read() == [b"OK"] * 4 + [y.tobytes(), (y * 3 + 1).tobytes()]
        assert time.monotonic() - start < 5
    for key in "mno":
        found = full_ai_info(wire, key)
        assert found["executions"] < found["calls"] and found["errors"] == 0
