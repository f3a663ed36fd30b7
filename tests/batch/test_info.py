"""AI.INFO key FULL: how many runs there were, of which size, and how long they waited and took."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from testkit import models
from testkit.batches import Clients, batch, batching, store, store_witness
from testkit.info import FULL, full_ai_info
from testkit.server import Server
from testkit.values import Model
from testkit.wire import Error, Wire
from tests.conftest import Slow


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_follows_the_eighteen_elements(server: Server, wire: Wire, protocol: int) -> None:
    store_witness(wire, size=8, min_size=3)
    with server.wire(protocol) as client:
        plain = client.ask("AI.INFO", "m")
        full = client.ask("ai.info", "m", "full")
        assert full[:18] == plain and len(plain) == 18
        assert full[18::2] == [name.encode() for name in FULL]
        assert full[19::2] == [0, 0, 0.0 if protocol == 3 else b"0", *[0] * (len(FULL) - 5), [], []]


def test_wrong_arguments(wire: Wire) -> None:
    store_witness(wire)
    assert wire.ask("AI.INFO", "missing", "FULL") == "ERR cannot find run info for key"
    for words in ("FULL", "x"), ("FULL", "RESETSTAT"), ("RESETSTAT", "FULL"):
        assert wire.ask("AI.INFO", "m", *words) == Error("ERR wrong number of arguments for 'AI.INFO' command")
    assert wire.ask("AI.INFO", "m", "FULLY") == Error("ERR unsupported subcommand")


def test_average_batch(wire: Wire, clients: Clients) -> None:
    """Samples by executions: of batches, of runs alone, and of both."""
    store_witness(wire, size=8, min_size=4)
    requests = clients.each(1, 2, 2)
    for request in requests:
        request.send()
    assert [request.result() for request in requests] == [batch(5, 0, 1, 2)] * 3
    found = full_ai_info(wire)
    assert [found[name] for name in ("calls", "samples", "executions", "average_batch")] == [3, 5, 1, 5]
    assert clients.one(3, 9).ask() == batch(9, 3)
    found = full_ai_info(wire)
    assert [found[name] for name in ("calls", "samples", "executions", "average_batch")] == [4, 14, 2, 7]
    assert clients.one(4, 12).ask() == batch(12, 4)
    assert full_ai_info(wire)["average_batch"] == 26 / 3


def test_without_batchsize(wire: Wire, clients: Clients) -> None:
    store_witness(wire)
    for number, rows in enumerate((1, 5, 3)):
        assert clients.one(number, rows).ask() == batch(rows, number)
    found = full_ai_info(wire)
    assert [found[name] for name in ("calls", "samples", "executions", "average_batch")] == [3, 9, 3, 3]


def test_scripts_have_no_batches(wire: Wire) -> None:
    wire.ask("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 1, "one", "SOURCE", SOURCE)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 3)
    for _ in range(2):
        assert wire.ask("AI.SCRIPTEXECUTE", "s", "one", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    found = full_ai_info(wire, "s")
    assert [found[name] for name in ("calls", "samples", "executions", "average_batch")] == [2, -1, 2, -1]
    assert 0 < found["run_time_max"] <= found["duration"]


SOURCE = """
def one(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] + 1
"""


def check_order(found: dict[str, int]) -> None:
    for what in ("queue_time", "run_time"):
        p50, p99, longest = (found[f"{what}_{which}"] for which in ("p50", "p99", "max"))
        assert 0 <= p50 <= p99 <= longest
        assert 0 <= found[f"{what}_mean"] <= longest


def test_times_of_runs(wire: Wire, slow: Slow) -> None:
    command = slow(wire, 0.1)
    taken = [wire.timed(*command)[1] for _ in range(4)]
    found = full_ai_info(wire, "slow")
    check_order(found)
    assert 0.5 * min(taken) < found["run_time_p50"] / 1e6 <= max(taken)
    assert 0.5 * min(taken) < found["run_time_mean"] / 1e6 <= max(taken)
    assert 0.5 * max(taken) < found["run_time_max"] / 1e6 <= max(taken)
    assert found["queue_time_p50"] < 100_000
    assert found["duration"] == pytest.approx(4 * found["run_time_mean"], abs=10)


def test_times_in_the_queue(wire: Wire, clients: Clients) -> None:
    """After other work, and until the batch is complete."""
    store_witness(wire, size=8, min_size=3, ms=100)
    for number in range(5):
        assert clients.one(number).ask() == batch(1, number)
    found = full_ai_info(wire)
    check_order(found)
    assert 95_000 < found["queue_time_p50"] < 200_000
    assert 95_000 < found["queue_time_mean"] < 300_000
    wire.ask("AI.INFO", "m", "RESETSTAT")
    requests = clients.each(1, 1, 1)
    with clients.busy_worker():
        clients.queue(*requests)
        time.sleep(0.02)
    assert [request.result() for request in requests] == [batch(3, 0, 1, 2)] * 3
    found = full_ai_info(wire)
    check_order(found)
    assert found["queue_time_max"] > 20_000
    assert found["executions"] == 1


def test_resetstat(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=8, min_size=2)
    for request in (requests := clients.each(1, 1)):
        request.send()
    assert [request.result().rows for request in requests] == [2, 2]
    assert wire.ask("AI.INFO", "m", "RESETSTAT") == b"OK"
    found = full_ai_info(wire)
    assert found.pop("batch_rows") == [] and found.pop("slowest") == []
    assert {found[name] for name in ("duration", "samples", "calls", "errors", *FULL[:-2])} == {0}


def test_runs_that_fail(wire: Wire) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask("AI.TENSORSET", "x", "INT64", 1, 2)
    for _ in range(3):
        reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
        assert isinstance(reply, Error) and reply.startswith("ERR input 'a' has type INT64, expected: FLOAT: ")
    found = full_ai_info(wire)
    assert (found["calls"], found["samples"], found["errors"]) == (3, 0, 3)


class Busy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.eye(64)
        for _ in range(20_000):
            y = torch.mm(y, y)
        return x + y[0, 0]


def test_the_duration_of_a_batch_counts_once(wire: Wire, clients: Clients) -> None:
    model = Model("TORCH", models.torch_module(Busy))
    store(wire, "m", model, *batching(8, 6))
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, 1)
    wires = [clients.wire() for _ in range(3)]
    for _ in range(3):
        for i, connection in enumerate(wires):
            connection.send("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, f"y{i}")
        assert [connection.read() for connection in wires] == [b"OK"] * 3
    found = full_ai_info(wire)
    assert (found["calls"], found["samples"], found["executions"]) == (9, 18, 4)
    assert found["duration"] == pytest.approx(4 * found["run_time_mean"], rel=0.05)
    assert found["duration"] < 4.5 * found["run_time_max"]
