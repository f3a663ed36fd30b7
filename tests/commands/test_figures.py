"""AI.INFO FULL and INFO MODULES: where the time of runs goes, sizes of batches, what clients have given up, totals."""

from __future__ import annotations

import time
from typing import Any

import pytest

from testkit import models
from testkit.batches import Clients, store_witness
from testkit.info import ai_info, full_ai_info, module_sections
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.conftest import Slow, StartServer

PARTS = ("input_duration", "infer_duration", "output_duration")


def run(wire: Wire, rows: int) -> Any:
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", rows, 2)
    return wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")


def parts(wire: Wire, key: str = "m") -> list[int]:
    info = full_ai_info(wire, key)
    assert sum(info[part] for part in PARTS) == info["duration"]
    return [info[part] for part in PARTS]


@pytest.mark.parametrize("server", ["direct", "python"], indirect=True)
def test_copying_large_outputs_is_told_apart(wire: Wire) -> None:
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_outer())
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1500, 1)
    for _ in range(6):  # the first cannot know that it will take long
        wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    given, infer, output = parts(wire)
    assert output > 6 * 100, "9 MB each"
    assert infer > 0 and given < output


@pytest.mark.parametrize("server", ["direct", "python"], indirect=True)
def test_a_long_run_is_inference(wire: Wire, slow: Slow) -> None:
    words = slow(wire, 0.05)
    for _ in range(3):
        wire.ask_ok(*words)
    given, infer, output = parts(wire, "slow")
    assert infer > 20 * (given + output)


def test_the_time_in_the_queue(wire: Wire, clients: Clients) -> None:
    store_witness(wire)
    with clients.busy_worker():
        request = clients.one(1)
        request.send()
        clients.wait_blocked(2)
        begun = time.monotonic()
        wait_for(lambda: time.monotonic() - begun > 0.05)
    request.result()
    info = full_ai_info(wire)
    assert 50_000 <= info["queue_duration"] <= info["queue_time_max"] + 1
    assert info["calls"] == 1


def test_rows_of_single_runs(wire: Wire) -> None:
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    assert ai_info(wire, "m", "FULL")["batch_rows"] == []
    for rows in (1, 2, 3, 4, 5, 8, 9, 16384, 16385):
        assert run(wire, rows) == b"OK"
    assert ai_info(wire, "m", "FULL")["batch_rows"] == [1, 1, 2, 1, 4, 2, 8, 2, 16, 1, 16384, 1, -1, 1]
    wire.ask_ok("AI.INFO", "m", "RESETSTAT")
    info = ai_info(wire, "m", "FULL")
    assert info["batch_rows"] == []
    assert {info[name] for name in (*PARTS, "queue_duration", "timeouts", "abandoned", "last_run")} == {0}


@pytest.mark.parametrize("server", ["direct", "python"], indirect=True)
@pytest.mark.parametrize("backend", ["ONNX", "TORCH"])
def test_rows_of_batches(wire: Wire, clients: Clients, backend: str) -> None:
    store_witness(wire, size=8, min_size=6, ms=10_000, backend=backend)
    requests = clients.each(1, 2, 3)
    for request in requests:
        request.send()
    assert {request.result().rows for request in requests} == {6}
    info = ai_info(wire, "m", "FULL")
    assert (info["batch_rows"], info["calls"], info["executions"]) == ([8, 1], 3, 1)
    assert sum(info[part] for part in PARTS) == info["duration"]


def test_what_clients_have_given_up(server: Server, wire: Wire, clients: Clients) -> None:
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2)
    words = ("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1)
    before = totals(wire)
    with clients.busy_worker():
        for _ in range(2):
            assert wire.ask(*words, "y", "TIMEOUT", 1) == b"TIMEDOUT"
        assert wire.ask("AI.DAGEXECUTE", "LOAD", 1, "x", "TIMEOUT", 1, *("|>", *words, "y") * 3) == b"TIMEDOUT"
        with server.wire() as leaver:
            leaver.send(*words, "y")
            clients.wait_blocked(2)
        clients.wait_blocked(1)
    wait_for(lambda: full_ai_info(wire)["queued"] == 0)
    info = full_ai_info(wire)
    assert [info[name] for name in ("timeouts", "abandoned", "calls", "errors")] == [5, 1, 0, 0]
    after = totals(wire)
    assert {name: after[name] - before[name] for name in ("timeouts", "abandoned")} == {"timeouts": 5, "abandoned": 1}


def test_last_run(wire: Wire) -> None:
    wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    assert full_ai_info(wire)["last_run"] == 0
    before = time.time() * 1000
    run(wire, 1)
    assert before - 2 <= full_ai_info(wire)["last_run"] <= time.time() * 1000 + 2


def totals(wire: Wire) -> dict[str, int]:
    found = module_sections(wire, "MODULES")["totals"]
    return {name.removeprefix("total_"): int(value) for name, value in found.items()}


def devices(wire: Wire) -> dict[str, dict[str, int]]:
    found = module_sections(wire, "MODULES")["devices"]
    pairs = {name.removeprefix("device_"): line.split(",") for name, line in found.items()}
    return {name: {k: int(v) for k, v in (p.split("=") for p in line)} for name, line in pairs.items()}


def test_totals_of_devices_and_server(start_server: StartServer) -> None:
    with start_server().wire() as wire:
        assert not any(number for line in devices(wire).values() for number in line.values())
        assert set(totals(wire).values()) == {0}
        for device in ("CPU", "CPU:1"):
            wire.ask_ok("AI.MODELSTORE", "m", "ONNX", device, "BLOB", models.onnx_add())
            for _ in range(3):
                assert run(wire, 1) == b"OK"
        wire.ask_ok("AI.TENSORSET", "bad", "INT64", 1, 2)
        assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "bad", "bad", "OUTPUTS", 1, "y").startswith("ERR")
        info = full_ai_info(wire)
        wire.ask("DEL", "m")
        found = devices(wire)
        assert {name: (f["calls"], f["errors"], f["executions"]) for name, f in found.items()} == {
            "CPU": (3, 0, 3),
            "CPU:1": (4, 1, 4),
        }
        assert found["CPU:1"]["duration"] == info["duration"]
        assert found["CPU:1"]["queue_duration"] == info["queue_duration"]
        server = totals(wire)
        for field in found["CPU"]:
            assert server[field] == found["CPU"][field] + found["CPU:1"][field]

        wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", "CACHE", 100_000, "BLOB", models.onnx_add())
        for _ in range(3):
            run(wire, 1)
        server, info = totals(wire), full_ai_info(wire)
        assert (server["cache_hits"], server["cache_misses"], server["cache_entries"]) == (2, 1, 1)
        assert server["cache_bytes"] == info["cache_bytes"] > 0
        wire.ask("DEL", "m")
        wait_for(lambda: totals(wire)["cache_bytes"] == 0)
