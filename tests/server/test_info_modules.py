"""INFO MODULES and INFO EVERYTHING: every section and field, in every state of the server."""

from __future__ import annotations

import re

import pytest

from testkit import models
from testkit.info import module_sections
from testkit.server import Client, Server, isolation, program
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.conftest import StartServer

SECTIONS = ["versions", "git", "load_time_configs", "backends_info", "cpu"]
CPU_FIELDS = [
    f"{who}_used_cpu_{what}" for who in ("self", "children", "main_thread") for what in ("sys", "user")
]  # fmt: skip


def check_always_there(found: dict[str, dict[str, str]]) -> None:
    versions = found["versions"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", versions["RedisAI_version"])
    assert versions["low_level_API_version"] == "0", "there is none"
    assert versions["rdb_version"] == "4"
    assert re.fullmatch(r"[0-9a-f]{7,40}|unknown", found["git"]["git_sha"])
    assert found["load_time_configs"].keys() == {
        "threads_per_queue", "inter_op_parallelism", "intra_op_parallelism",
        "model_execution_timeout", "backend_memory_limit", "allow_file_ops", "model_chunk_size", "safe_start",
        "isolation", "isolation_memory_limit", "model_load_timeout", "max_queued", "max_queued_bytes",
        "bindings", "flows", "flows_memory_limit",
    }  # fmt: skip
    assert list(found)[: len(SECTIONS)] == SECTIONS, "readers go by position"
    assert list(found["cpu"])[: len(CPU_FIELDS)] == CPU_FIELDS
    for value in found["cpu"].values():
        assert re.fullmatch(r"\d+\.\d{6}", value), "seconds"


def workers(device: str, count: int) -> list[str]:
    return [f"queue_{device}_bthread_n{number}_used_cpu_total" for number in range(1, count + 1)]


@pytest.mark.parametrize("which", ["MODULES", "EVERYTHING"])
def test_before_any_backend_and_model(start_server: StartServer, which: str) -> None:
    with start_server().wire() as wire:
        found = module_sections(wire, which)
        check_always_there(found)
        assert list(found["cpu"])[len(CPU_FIELDS) :] == workers("CPU", 1)
        assert found.get("backends_info", {}) == {}
        assert found["load_time_configs"] == {
            "threads_per_queue": "1", "inter_op_parallelism": "0", "intra_op_parallelism": "0",
            "model_execution_timeout": "5000", "backend_memory_limit": "0", "allow_file_ops": "0",
            "model_chunk_size": "535822336", "safe_start": "0", "isolation": isolation(),
            "isolation_memory_limit": "0", "model_load_timeout": "0", "max_queued": "0", "max_queued_bytes": "0",
            "bindings": "no", "flows": "no", "flows_memory_limit": "0",
        }  # fmt: skip


@pytest.mark.parametrize("how", ["option", "LOADBACKEND"])
def test_with_onnx_loaded_and_no_model(start_server: StartServer, how: str) -> None:
    path = "redisai_onnxruntime/redisai_onnxruntime.so"
    server = start_server(options=["ONNX", path] if how == "option" else [])
    with server.wire() as wire:
        # Answered once the backend is there, also where the option has only started to load it.
        assert wire.ask("AI.CONFIG", "LOADBACKEND", "ONNX", path) == b"OK"
        for which in ("MODULES", "EVERYTHING"):
            found = module_sections(wire, which)
            check_always_there(found)
            backends = found["backends_info"]
            assert re.match(r"\d+\.\d+", backends["onnxruntime_version"])
            for field in ("memory", "memory_access_num", "maximum_run_sessions_number"):
                assert int(backends[f"onnxruntime_{field}"]) >= 0
            assert "Torch_version" not in backends
        assert wire.ask("AI._MODELSCAN") == []


def test_capacities(start_server: StartServer) -> None:
    """CPU's queue always counts, also before it is there, and wherever it comes among the others."""
    with start_server(options=["THREADS_PER_QUEUE", 3]).wire() as wire:
        for queues, device in ((2, "CPU:1"), (2, "CPU"), (3, "CPU:2")):
            assert wire.ask("AI.MODELSTORE", "m", "ONNX", device, "BLOB", models.onnx_add()) == b"OK"
            found = module_sections(wire, "MODULES")
            assert found["backends_info"]["onnxruntime_maximum_run_sessions_number"] == str(3 * queues)
            assert list(found["cpu"])[len(CPU_FIELDS) :][:3] == workers("CPU", 3)
            assert len(found["cpu"]) == len(CPU_FIELDS) + 3 * queues


def test_with_models_of_both_backends(start_server: StartServer) -> None:
    with start_server(options=["THREADS_PER_QUEUE", 2]).wire() as wire:
        wire.ask("AI.MODELSTORE", "torch", "TORCH", "CPU", "BLOB", models.torch_module(models.Add))
        assert re.match(r"2\.\d+", module_sections(wire, "MODULES")["backends_info"]["Torch_version"])
        wire.ask("AI.MODELSTORE", "onnx", "ONNX", "CPU:1", "BLOB", models.onnx_add())
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2)
        for model in ("torch", "onnx"):
            assert wire.ask("AI.MODELEXECUTE", model, "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
        for which in ("MODULES", "EVERYTHING"):
            found = module_sections(wire, which)
            check_always_there(found)
            assert {"Torch_version", "onnxruntime_version"} <= found["backends_info"].keys()
            assert list(found["cpu"])[len(CPU_FIELDS) :] == workers("CPU", 2) + workers("CPU:1", 2)
            assert found["backends_info"]["onnxruntime_maximum_run_sessions_number"] == "4"
        wire.ask("FLUSHALL")
        check_always_there(module_sections(wire, "EVERYTHING"))


@pytest.mark.parametrize("options", [[], ["ISOLATION", "process"]], ids=["embedded", "isolated"])
def test_memory_of_onnx_runtime(start_server: StartServer, options: list[str | int]) -> None:
    """It is that of the models; stores, runs and deletions count as accesses."""

    def figures() -> tuple[int, int]:
        found = module_sections(wire, "MODULES")["backends_info"]
        return int(found["onnxruntime_memory"]), int(found["onnxruntime_memory_access_num"])

    with start_server(options=options).wire() as wire:
        blob = models.onnx_add()
        accesses = 0
        for key in "m", "n":
            wire.ask_ok("AI.MODELSTORE", key, "ONNX", "CPU", "BLOB", blob)
            memory, now = figures()
            assert memory == len(blob) * (1 if key == "m" else 2) and now > accesses
            accesses = now
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2)
        for _ in range(3):
            wire.ask_ok("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
            assert figures() == (memory, accesses + 1)
            accesses += 1
        wire.ask("DEL", "m", "n")
        wait_for(lambda: figures()[0] == 0, what="the loader drops the models")
        assert figures()[1] > accesses


def test_while_a_model_compiles(server: Server, wire: Wire) -> None:
    with server.wire() as other:
        other.send("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_padded(1_000_000))
        for _ in range(20):
            check_always_there(module_sections(wire, "EVERYTHING"))
        assert other.read() == b"OK"


def test_the_name_of_the_module(r: Client) -> None:
    loaded = r.execute_command("MODULE", "LIST")
    names = [module[b"name"] if isinstance(module, dict) else module[1] for module in loaded]
    own = [{"redis": b"vectorset", "valkey": b"lua"}[program().name]]  # modules that are part of the server
    assert sorted(names) == sorted([b"ai", *(own if program().since(redis=(8, 0), valkey=(9, 1)) else [])])
