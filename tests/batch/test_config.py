"""AI.MODELCONFIG changes BATCHSIZE, MINBATCHSIZE and MINBATCHTIMEOUT while requests come and wait."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from testkit import models
from testkit.batches import Clients, batch, batching, prove, store, store_witness, witness
from testkit.info import full_ai_info
from testkit.server import Server
from testkit.values import Model
from testkit.waiting import wait_for
from testkit.wire import Wire

BACKENDS = ("ONNX", "TORCH")


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_begin(wire: Wire, clients: Clients, backend: str) -> None:
    store_witness(wire, backend=backend)
    assert clients.one(0).ask() == batch(1, 0)
    wire.ask_ok("AI.MODELCONFIG", "m", *batching(8, 4))
    prove(wire, "m", 4)
    first, second, third, fourth = clients.each(1, 1, 1, 1)
    clients.queue(first, second, third)
    clients.run_other_model()
    assert clients.server.blocked_clients() == 3
    assert fourth.ask() == batch(4, 0, 1, 2, 3)
    assert [request.result() for request in (first, second, third)] == [batch(4, 0, 1, 2, 3)] * 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_end(wire: Wire, clients: Clients, backend: str) -> None:
    """Also for those that wait for one."""
    store_witness(wire, size=8, min_size=4, backend=backend)
    waiting = clients.each(1, 1)
    clients.queue(*waiting)
    wire.ask_ok("AI.MODELCONFIG", "m", "BATCHSIZE", 0)
    assert [request.result() for request in waiting] == [batch(1, 0), batch(1, 1)]
    requests = clients.each(1, 1, 2)
    with clients.busy_worker():
        clients.queue(*requests)
    assert [request.result().rows for request in requests] == [1, 1, 2]
    found = full_ai_info(wire)
    assert found["executions"] == found["calls"] == 5
    store_witness(wire, "plain", backend=backend)
    clients.one(0, key="plain").ask()
    if full_ai_info(wire, "plain")["direct_executions"]:
        assert found["direct_executions"] >= 3, "C runs it, as it runs a model that was never batched"
    wire.ask_ok("AI.MODELCONFIG", "m", "BATCHSIZE", 8)
    prove(wire, "m", 4)  # the workers hear of it a little later
    again = clients.each(2, 2)
    clients.queue(again[0])
    assert [again[1].ask(), again[0].result()] == [batch(4, 0, 1)] * 2, "MINBATCHSIZE was kept"


@pytest.mark.parametrize(
    "limits",
    [
        ("MINBATCHSIZE", 2),
        ("MINBATCHSIZE", 0),
        ("MINBATCHTIMEOUT", 1),
        ("MINBATCHTIMEOUT", 0.5),
        ("BATCHSIZE", 2),
    ],
    ids=str,
)
def test_those_who_wait_go(wire: Wire, clients: Clients, limits: tuple[str, float]) -> None:
    store_witness(wire, size=8, min_size=4)
    waiting = clients.each(1, 1)
    clients.queue(*waiting)
    clients.run_other_model()
    assert clients.server.blocked_clients() == 2
    wire.ask_ok("AI.MODELCONFIG", "m", *limits)
    assert [request.result() for request in waiting] == [batch(2, 0, 1)] * 2


def test_those_who_wait_stay(wire: Wire, clients: Clients) -> None:
    store_witness(wire, size=8, min_size=3, ms=60_000)
    first, second, third = clients.each(1, 1, 2)
    clients.queue(first, second)
    for _ in range(20):
        wire.ask_ok("AI.MODELCONFIG", "m", "MINBATCHTIMEOUT", 0)
        wire.ask_ok("AI.MODELCONFIG", "m", "MINBATCHSIZE", 4)
    clients.run_other_model()
    assert clients.server.blocked_clients() == 2
    assert third.ask() == batch(4, 0, 1, 2)
    assert [first.result(), second.result()] == [batch(4, 0, 1, 2)] * 2


def test_while_requests_come(server: Server, wire: Wire) -> None:
    store_witness(wire, size=4)
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 1, "VALUES", 1)
    run = ("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 2, "y", "b")
    wires = [server.wire() for _ in range(8)]
    wait = ("MINBATCHSIZE", 2, "MINBATCHTIMEOUT", 1)
    for step in range(300):
        for one in wires:
            one.send(*run)
        size = (0, 2, 8, 1)[step % 4]
        wire.ask_ok("AI.MODELCONFIG", "m", "BATCHSIZE", size, *(wait if size else ()))
        assert [one.read() for one in wires] == [b"OK"] * 8
    for one in wires:
        one.close()


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0, keepdim=True)


def test_a_model_that_could_not_be_batched_is_tried_anew(server: Server, wire: Wire) -> None:
    store(wire, "m", Model("TORCH", models.torch_module(Mean), tag="anew"), *batching(4))
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 2, 1, "VALUES", 1, 2)
    run = ("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")

    def tried() -> int:
        assert wire.ask(*run) == b"OK"
        return server.log().count("model 'anew' runs without batches from now on")

    wait_for(lambda: tried() == 1)
    wire.ask_ok("AI.MODELCONFIG", "m", "BATCHSIZE", 3)
    wait_for(lambda: tried() == 2)


@pytest.mark.parametrize("how", ["AI.MODELSTORE", "AI.MODELCONFIG"])
def test_parts_of_a_millisecond(wire: Wire, clients: Clients, how: str) -> None:
    """Where the machine is busy some wait longer, so the best of some attempts counts."""
    limits = ("BATCHSIZE", 8, "MINBATCHSIZE", 4, "MINBATCHTIMEOUT", 0.4)
    store(wire, "m", witness("ONNX"), *(limits if how == "AI.MODELSTORE" else ()))
    if how == "AI.MODELCONFIG":
        wire.ask_ok(how, "m", *limits)
    prove(wire, "m", 4)
    request = clients.one(0)

    def median() -> int:
        wire.ask_ok("AI.INFO", "m", "RESETSTAT")
        for _ in range(20):
            assert request.ask() == batch(1, 0)
        return int(full_ai_info(wire)["queue_time_p50"])

    medians = [median() for _ in range(5)]
    print("us waited:", medians)
    assert min(medians) >= 370
    assert min(medians) < 900
