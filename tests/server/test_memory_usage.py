"""MEMORY USAGE tells within 5 % what a value costs: what used_memory grows by when many are stored, divided by them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from testkit import models, rdb, samples, scripts
from testkit.server import Server, module_path, program
from testkit.waiting import wait_for
from testkit.wire import Wire, Word

ADD = scripts.function("f", "return tensors[0] + tensors[1]")
# How a value is stored, and of how many the mean is taken. Keys are of one length, and so many that one more doubles no
# table of keys: 1100 are there before, and a table for 2048 (Redis) or 1792 (Valkey) holds the rest.
BEFORE = 1100
CASES: dict[str, tuple[Callable[[str], tuple[Word, ...]], int]] = {
    "tensor of one number": (lambda key: ("AI.TENSORSET", key, "FLOAT", 1, "VALUES", 1), 400),
    "tensor of 8 dimensions": (lambda key: ("AI.TENSORSET", key, "INT8", *[1] * 8), 400),
    "tensor of 400 bytes": (lambda key: ("AI.TENSORSET", key, "FLOAT", 10, 10, "BLOB", bytes(400)), 400),
    "tensor of 3000 bytes": (lambda key: ("AI.TENSORSET", key, "UINT8", 3000, "BLOB", bytes(3000)), 300),
    "tensor of 600 kB": (lambda key: ("AI.TENSORSET", key, "UINT8", 600_000, "BLOB", bytes(600_000)), 20),
    "tensor of 5 MB of zeros": (lambda key: ("AI.TENSORSET", key, "UINT8", 5_000_000), 10),
    "100 strings": (lambda key: ("AI.TENSORSET", key, "STRING", 100, "VALUES", *range(100)), 300),
    "50000 strings": (lambda key: ("AI.TENSORSET", key, "STRING", 50_000, "BLOB", b"some text\0" * 50_000), 20),
    "ONNX model": (lambda key: ("AI.MODELSTORE", key, "ONNX", "CPU", "BLOB", models.onnx_add()), 300),
    "ONNX model with everything": (
        lambda key: ("AI.MODELSTORE", key, "ONNX", "CPU", "TAG", "t" * 50, "BATCHSIZE", 4, "BLOB", models.onnx_add()),
        300,
    ),
    "ONNX model of 1 MB": (lambda key: ("AI.MODELSTORE", key, "ONNX", "CPU", "BLOB", models.onnx_padded(250_000)), 20),
    "TORCH model": (
        lambda key: ("AI.MODELSTORE", key, "TORCH", "CPU", "BLOB", models.torch_module(models.Add)),
        100,
    ),
    "script": (lambda key: scripts.store_command(key, ADD, ["f"]), 100),
    "script of many functions": (
        lambda key: scripts.store_command(key, scripts.SOURCE, tuple(scripts.FUNCTIONS)),
        60,
    ),
    "loaded tensor": (lambda key: ("RESTORE", key, 0, rdb.dump(samples.TENSORS["large"], 4)), 50),
    "loaded model": (lambda key: ("RESTORE", key, 0, rdb.dump(samples.TF, 4)), 100),
    "loaded script": (lambda key: ("RESTORE", key, 0, rdb.dump(samples.SCRIPTS["script"], 4)), 100),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that nobody else uses, whose backends are loaded, and without the slow log, which keeps arguments."""
    server = Server(tmp_path_factory.mktemp("alone"), ["--slowlog-log-slower-than", "-1"], module=module_path()).start()
    try:
        with server.wire() as wire:
            for name in ("onnx", "torch"):
                assert wire.ask(*samples.MODELS[name].words(name)) == b"OK"
            scripts.store(wire, "s", ADD, ["f"])
        yield server
    finally:
        server.kill()


def settled(server: Server) -> int:
    """used_memory when nothing is under way any more: no job of the loader, no client's buffer, no table that grows."""
    seen = [0]
    # Of the same size, glibc's malloc sometimes takes more, so each client that asks costs something else.
    noise = 512 if program().allocator == "libc" else 0
    with server.wire() as wire:  # the loader comes to this last
        assert wire.ask("AI.MODELSTORE", "last", "ONNX", "CPU", "BLOB", models.onnx_mul()) == b"OK"

    def same_again() -> bool:
        seen.append(server.used_memory())
        return len(seen) > 20 and max(seen[-20:]) - min(seen[-20:]) <= noise

    wait_for(same_again, 20, "used_memory stays the same")
    return seen[-1]


@pytest.mark.parametrize("case", CASES)
def test_usage(alone: Server, case: str) -> None:
    store, count = CASES[case]
    with alone.wire() as wire:
        wire.ask("FLUSHALL")
        for i in range(BEFORE):
            wire.ask("AI.TENSORSET", f"before:{i:04}", "INT8", 1)
        for i in range(2):  # what only the first ones need
            assert wire.ask(*store(f"first:{i:05}")) == b"OK"
    before = settled(alone)
    with alone.wire() as wire:
        for i in range(count):
            assert wire.ask(*store(f"value:{i:05}")) == b"OK"
    truth = (settled(alone) - before) / count
    with alone.wire() as wire:
        told = wire.ask("MEMORY", "USAGE", f"value:{count // 2:05}")
    print(f"{case}: {told} told, {truth} used: {told / truth:.3f}")
    # A full bucket of Valkey's table (8.1 and later) gets another: up to 16 bytes a key, which are not the value's.
    table = 16 if program().name == "valkey" and program().version >= (8, 1) else 0
    assert 0.95 * (truth - table) <= told <= 1.05 * truth


def test_usage_of_a_model_that_runs(alone: Server) -> None:
    """Its statistics cost something too."""
    with alone.wire() as wire:
        wire.ask("FLUSHALL")
        assert wire.ask(*samples.ONNX.words("m")) == b"OK"
        before = wire.ask("MEMORY", "USAGE", "m")
        samples.check_run(wire, "m")
        assert wire.ask("MEMORY", "USAGE", "m") >= before


# ---- memory that Redis does not know of ------------------------------------------------------------------------------


def held(wire: Wire, field: str) -> int:
    found = re.search(rb"ai_%s:(\d+)" % field.encode(), wire.ask("INFO", "modules"))
    return int(found[1]) if found else -1


def test_what_onnx_sessions_hold_is_told(alone: Server) -> None:
    data = models.onnx_padded(1_000_000)
    with alone.wire() as wire:
        wire.ask("FLUSHALL")
        wait_for(lambda: held(wire, "onnxruntime_memory") == 0, what="nothing is held")
        for i in range(3):
            assert wire.ask("AI.MODELSTORE", f"m{i}", "ONNX", "CPU", "BLOB", data) == b"OK"
        wait_for(lambda: held(wire, "onnxruntime_memory") >= 3 * len(data), what="three models are held")
        assert wire.ask("DEL", "m0", "m1", "m2") == 3
        wait_for(lambda: held(wire, "onnxruntime_memory") == 0, what="they are let go of")


@pytest.mark.parametrize("batching", [(), ("BATCHSIZE", 4, "MINBATCHSIZE", 2, "MINBATCHTIMEOUT", 1)], ids=str)
def test_a_model_deleted_as_soon_as_it_has_run_is_not_told(alone: Server, batching: tuple[Word, ...]) -> None:
    """Its worker may still hold it. A thousand times, because that depends on who is faster."""
    with alone.wire() as wire:
        wire.ask("FLUSHALL")
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 1, 2)
        for _ in range(1000):
            wire.ask_ok("AI.MODELSTORE", "m", "ONNX", "CPU", *batching, "BLOB", models.onnx_add())
            wire.send("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
            wire.send("DEL", "m")
            assert (wire.read(), wire.read()) == (b"OK", 1)
            wait_for(lambda: held(wire, "onnxruntime_memory") == 0, 5, "nothing is held")


class Heavy(nn.Module):
    """32 MB of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(8_000_000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weights[0]


def test_memory_of_libraries_is_told(alone: Server) -> None:
    """It grows by as much as models have weights, beside Redis's own memory."""
    data = models.torch_module(Heavy)
    with alone.wire() as wire:
        wire.ask("FLUSHALL")
        assert wire.ask("AI.MODELSTORE", "first", "TORCH", "CPU", "BLOB", data) == b"OK"
        before = held(wire, "backends_memory")
        assert before > len(data) // 2
        for i in range(3):
            assert wire.ask("AI.MODELSTORE", f"m{i}", "TORCH", "CPU", "BLOB", data) == b"OK"
        assert held(wire, "backends_memory") - before > 2 * len(data)
