"""BATCHSIZE auto: the server finds out how many rows run together, and tells it in AI.INFO key FULL."""

from __future__ import annotations

import os
import threading

import pytest
import torch
from torch import Tensor, nn

from testkit import models
from testkit.batches import Clients, Request, store, witness
from testkit.info import full_ai_info
from testkit.replicas import follow, wait_until_in_step
from testkit.restarts import rewrite
from testkit.server import Server
from testkit.values import Model
from testkit.waiting import wait_for
from testkit.wire import Wire, Word
from tests.conftest import StartServer

AUTO = ("BATCHSIZE", "auto")


class Overhead(nn.Module):
    """With a side of 400 it takes about 2 ms, however many rows there are. It fails for more than `most`."""

    def __init__(self, most: int, side: int) -> None:
        super().__init__()
        self.most = most
        self.side = side

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert x.size(0) <= self.most, "too many rows"
        w = torch.zeros([self.side, self.side])
        for _ in range(4):
            w = torch.mm(w, w)
        told = torch.stack([torch.full([1], float(x.size(0))), x.sum().reshape(1)], 1)
        return x * 3 + 1 + w[0, 0], told.expand(x.size(0), 2)


def overhead(most: int = 1000, side: int = 400) -> Model:
    return Model("TORCH", models.torch_blob(Overhead(most, side)))


def wave(requests: list[Request]) -> list[int]:
    """Sends all at once. That each gets its own rows is checked. Returns with how many rows each has run."""
    for request in requests:
        request.send()
    return [request.result().rows for request in requests]


def ids(wire: Wire) -> dict[int, bytes]:
    """The state of each run."""
    found = [dict(zip(run[::2], run[1::2], strict=True)) for run in wire.ask("AI.RUNS")]
    return {run[b"id"]: run[b"state"] for run in found}


def told(wire: Wire) -> dict[int, float]:
    """us per row by the rows of a run."""
    text = full_ai_info(wire)["auto_row_times"].decode()
    return {int(rows): float(us) for rows, us in (part.split("=") for part in text.split(",") if part)}


def test_batches_that_pay(wire: Wire, clients: Clients) -> None:
    store(wire, "m", overhead(), *AUTO)
    assert full_ai_info(wire)["auto_row_times"] == b""
    requests = clients.each(*[1] * 8)
    sizes: list[int] = []

    def has_learned() -> bool:
        sizes.extend(wave(requests))
        return bool(full_ai_info(wire)["auto_batchsize"] >= 4) and max(sizes) >= 4

    wait_for(has_learned, 30, "batches of 4")
    found, times = full_ai_info(wire), told(wire)
    assert times[found["auto_batchsize"]] < times[min(times)], "that is why"
    assert found["average_batch"] > 1


def test_one_client_never_waits(wire: Wire, clients: Clients) -> None:
    """C runs its requests as it runs those of a model that has no batches."""
    store(wire, "plain", witness("ONNX"))
    store(wire, "m", witness("ONNX"), *AUTO)
    plain, request = clients.one(0, key="plain"), clients.one(0)
    for each in (plain, request):
        assert [each.ask().rows for _ in range(50)] == [1] * 50
    found = full_ai_info(wire)
    assert found["auto_wait"] == 0
    if full_ai_info(wire, "plain")["direct_executions"]:
        assert found["direct_executions"] >= 40


def test_quick_runs_are_compared_with_and_without_batches(wire: Wire, clients: Clients) -> None:
    store(wire, "m", overhead(side=64), *AUTO)
    requests = clients.each(*[1] * 8)

    def has_looked() -> bool:
        wave(requests)
        return bool(full_ai_info(wire)["auto_rates"])

    wait_for(has_looked, 30, "a look")
    rates = dict(part.split("=") for part in full_ai_info(wire)["auto_rates"].decode().split(","))
    assert rates.keys() == {"batches", "alone"} and min(map(int, rates.values())) > 0
    assert 1 < full_ai_info(wire)["average_batch"] < 8, "in both ways"


def test_a_size_that_fails(server: Server, wire: Wire, clients: Clients) -> None:
    """Its requests run one by one, and no client sees an error."""
    store(wire, "m", overhead(most=4), *AUTO)
    requests = clients.each(*[1] * 12)
    reached = 0

    def is_over() -> bool:
        nonlocal reached
        sizes = wave(requests)
        assert max(sizes) <= 4
        reached += max(sizes) == 4
        return reached > 8

    wait_for(is_over, 30, "batches of 4, and what is larger was tried")
    found = full_ai_info(wire)
    assert found["errors"] == 0 and found["auto_batchsize"] <= 4
    assert "without batches" not in server.log()


@pytest.mark.skipif(os.environ.get("REDISAI_DIRECT") == "off", reason="no run of Python can be ended")
def test_a_batch_that_is_ended(wire: Wire, clients: Clients) -> None:
    """That says nothing of its size."""
    if wire.ask("CONFIG", "GET", "ai.isolation")[1] == b"process":
        pytest.skip("its process ends")
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", *AUTO, "BLOB", models.onnx_loop_by_rows())
    for key, rounds in ("short", 1), ("endless", 1 << 40):
        wire.ask_ok("AI.TENSORSET", key, "FLOAT", 1, 1, "VALUES", rounds)
    for rows in 4, 5:  # proves that it can be batched
        wire.ask_ok("AI.TENSORSET", f"x{rows}", "FLOAT", rows, 1)
        wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 1, f"x{rows}", "OUTPUTS", 1, "y")
    first, second, third = (clients.wire() for _ in range(3))

    def run(on: Wire, key: str) -> int:
        """Returns its id."""
        before = ids(wire)
        on.send("AI.MODELEXECUTE", "m", "INPUTS", 1, key, "OUTPUTS", 1, "y")
        wait_for(lambda: len(ids(wire)) > len(before))
        return next(iter(ids(wire).keys() - before.keys()))

    def end(id: int, on: Wire) -> None:
        wait_for(lambda: ids(wire)[id] == b"running")
        wire.ask_ok("AI.KILL", "RUN", id)
        assert "AI.KILL" in on.read()

    for _ in range(2):
        alone = run(first, "endless")
        wait_for(lambda alone=alone: ids(wire)[alone] == b"running")  # type: ignore[misc]
        together = run(second, "endless")
        run(third, "short")
        end(alone, first)
        wait_for(lambda: list(ids(wire).values()) == [b"running"] * 2, what="a batch of two, which may be tried again")
        end(together, second)
        assert third.read() == b"OK"


@pytest.mark.parametrize("backend", ["ONNX", "TORCH"])
def test_a_model_that_cannot_be_batched(server: Server, wire: Wire, clients: Clients, backend: str) -> None:
    before = len(server.log())
    blob = models.onnx_total() if backend == "ONNX" else models.torch_blob(models.Total())
    store(wire, "m", Model(backend, blob), *AUTO)
    wires = [clients.wire() for _ in range(6)]
    for number, each in enumerate(wires):
        each.ask_ok("AI.TENSORSET", f"x{number}", "FLOAT", 2, "VALUES", number, 1)
    for _ in range(3):
        for number, each in enumerate(wires):
            each.send("AI.MODELEXECUTE", "m", "INPUTS", 1, f"x{number}", "OUTPUTS", 1, f"y{number}")
        assert [each.read() for each in wires] == [b"OK"] * 6
        values = [wire.ask("AI.TENSORGET", f"y{number}", "VALUES")[0] for number in range(6)]
        assert [float(value) for value in values] == [1, 2, 3, 4, 5, 6]
    assert full_ai_info(wire)["average_batch"] == 1
    assert server.log()[before:].count("runs without batches from now on") == 1


def test_it_is_changed_under_load(wire: Wire, clients: Clients) -> None:
    store(wire, "m", overhead())
    requests = clients.each(*[1] * 6)
    settings: list[tuple[Word, ...]] = [AUTO, ("BATCHSIZE", 3), AUTO, ("BATCHSIZE", 0), AUTO, ("MAXQUEUE", 50)]
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            wave(requests)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for setting in settings:
            wire.ask_ok("AI.MODELCONFIG", "m", *setting)
            seen = full_ai_info(wire)["calls"] + 12
            wait_for(lambda seen=seen: full_ai_info(wire)["calls"] >= seen, what="two waves")  # type: ignore[misc]
    finally:
        over.set()
        thread.join(30)
    assert full_ai_info(wire)["errors"] == 0
    wave(requests)


def test_numbers_hold_after_it(wire: Wire, clients: Clients) -> None:
    """What it has found out, such as which priorities wait, is forgotten."""
    store(wire, "m", overhead(), *AUTO, "PRIORITY", "low")
    requests = clients.each(*[1] * 4)
    wait_for(lambda: wave(requests) and full_ai_info(wire)["auto_batchsize"] > 1, 30, "batches")
    wire.ask_ok("AI.MODELCONFIG", "m", "BATCHSIZE", 4, "MINBATCHSIZE", 2, "MINBATCHTIMEOUT", 60_000, "PRIORITY", "high")
    clients.run_other_model()  # the workers hear of it a little later
    first, second = requests[:2]
    first.send()
    wait_for(lambda: list(ids(wire).values()) == [b"queued"], what="a request that waits for another")
    second.send()
    assert [first.result().rows, second.result().rows] == [2, 2]


@pytest.mark.parametrize("saved", ["RDB", "AOF", "AOF rewritten"])
def test_it_is_kept(start_server: StartServer, saved: str) -> None:
    arguments = ("--appendonly", "no" if saved == "RDB" else "yes", "--aof-use-rdb-preamble", "no")
    server = start_server(*arguments, "--appendfsync", "always")
    with server.wire() as wire:
        store(wire, "stored", witness("ONNX"), *AUTO)
        store(wire, "configured", witness("ONNX"), "BATCHSIZE", 8, "MINBATCHSIZE", 2)
        wire.ask_ok("AI.MODELCONFIG", "configured", "BATCHSIZE", "AUTO")
        before = {key: wire.ask("AI.MODELGET", key) for key in ("stored", "configured")}
        assert [reply[6:8] for reply in before.values()] == [[b"batchsize", -1]] * 2
        digest = wire.ask("DEBUG", "DIGEST")
        if saved != "AOF":
            wire.ask_ok("SAVE") if saved == "RDB" else rewrite(wire)
    server.kill()
    with server.start().wire() as wire:
        assert {key: wire.ask("AI.MODELGET", key) for key in before} == before
        assert wire.ask("DEBUG", "DIGEST") == digest
        assert "auto_batchsize" in full_ai_info(wire, "configured")


def test_replicas_have_it(server: Server, start_server: StartServer, wire: Wire) -> None:
    store(wire, "first", witness("ONNX"), *AUTO)
    other = start_server()
    follow(other, server)
    with other.wire() as replica:
        wait_until_in_step(replica)
        store(wire, "second", witness("ONNX"))
        wire.ask_ok("AI.MODELCONFIG", "second", *AUTO)
        assert wire.ask("WAIT", 1, 10_000) == 1
        for key in ("first", "second"):
            assert replica.ask("AI.MODELGET", key) == wire.ask("AI.MODELGET", key)
            assert "auto_batchsize" in full_ai_info(replica, key)


def test_words(wire: Wire) -> None:
    blob = ("BLOB", models.onnx_add())
    for words in (("MINBATCHSIZE", 2), ("MINBATCHSIZE", 2, "MINBATCHTIMEOUT", 1)):
        error = wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", *AUTO, *words, *blob)
        assert error == "ERR MINBATCHSIZE specified with BATCHSIZE auto"
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", *AUTO, "MINBATCHSIZE", 0, *blob)
    assert wire.ask("AI.MODELCONFIG", "m", "MINBATCHSIZE", 2) == "ERR MINBATCHSIZE specified with BATCHSIZE auto"
    for word in ("autos", "-1", ""):
        error = wire.ask("AI.MODELSTORE", "n", "ONNX", "CPU", "BATCHSIZE", word, *blob)
        assert error == "ERR Invalid argument for BATCHSIZE"
    wire.ask_ok("AI.MODELCONFIG", "m", "BATCHSIZE", 4, "MINBATCHSIZE", 2)
    assert "auto_batchsize" not in full_ai_info(wire)
