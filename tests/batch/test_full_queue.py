"""A batch that waits for more rows than the limits let in runs once a run is refused, with the rows it has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit.batches import Clients, Request, batch, store_witness
from testkit.info import full_ai_info
from testkit.wire import Wire, Word

MINIMUM, ROOM = 8, 3


def refuse(clients: Clients) -> None:
    """One more run is one too many."""
    one = clients.one(20)
    one.send()
    assert one.wire.read().startswith("BUSY ")


@pytest.fixture
def full(request: pytest.FixtureRequest, wire: Wire, clients: Clients) -> Iterator[list[Request]]:
    """As many requests wait as may: together they are fewer than a batch needs."""
    store_witness(wire, size=16, min_size=MINIMUM)
    set_limit: tuple[Word, ...] = ("AI.MODELCONFIG", "m", "MAXQUEUE")
    if getattr(request, "param", "") == "MAX_QUEUED":
        set_limit = ("AI.CONFIG", "MAX_QUEUED")
    wire.ask_ok(*set_limit, ROOM)
    requests = clients.each(*[1] * ROOM)
    clients.queue(*requests)
    yield requests
    wire.ask_ok(*set_limit, 0)


@pytest.mark.parametrize("full", ["MAXQUEUE", "MAX_QUEUED"], indirect=True)
def test_it_runs(clients: Clients, full: list[Request]) -> None:
    refuse(clients)
    assert [request.result() for request in full] == [batch(ROOM, *range(ROOM))] * ROOM


def test_then_batches_wait_again(wire: Wire, clients: Clients, full: list[Request]) -> None:
    refuse(clients)
    for request in full:
        request.result()
    wire.ask_ok("AI.MODELCONFIG", "m", "MAXQUEUE", 0)
    requests = clients.each(1, 2, 5)
    clients.queue(*requests[:2])
    clients.run_other_model()
    assert full_ai_info(wire)["queued"] == 2, "the batch waits for its minimum"
    requests[2].send()
    assert [request.result() for request in requests] == [batch(MINIMUM, 0, 1, 2)] * 3


def test_other_models_wait_on(wire: Wire, clients: Clients, full: list[Request]) -> None:
    """It is the limit of one model. That of the server is everybody's."""
    store_witness(wire, key="another", size=16, min_size=MINIMUM)
    one, rest = clients.one(0, key="another"), clients.one(1, MINIMUM - 1, key="another")
    clients.queue(one)
    refuse(clients)
    assert [request.result() for request in full] == [batch(ROOM, *range(ROOM))] * ROOM
    clients.run_other_model()
    assert full_ai_info(wire, "another")["queued"] == 1
    rest.send()
    assert [one.result(), rest.result()] == [batch(MINIMUM, 0, 1)] * 2


def test_with_other_shapes(wire: Wire, clients: Clients, full: list[Request]) -> None:
    """Each shape is a batch of its own, and none of them is complete."""
    wire.ask_ok("AI.MODELCONFIG", "m", "MAXQUEUE", ROOM + 2)
    others = [clients.one(10 + number, width=2) for number in range(2)]
    clients.queue(*others)
    refuse(clients)
    assert [request.result() for request in full] == [batch(ROOM, *range(ROOM))] * ROOM
    assert [request.result() for request in others] == [batch(2, 10, 11)] * 2
