"""Runs that a worker takes together: each gives what it gives alone, whatever becomes of those beside it."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from testkit import models, tf_models
from testkit.batches import Clients
from testkit.info import ai_info
from testkit.server import Server
from testkit.wire import Word, encode

RUNS = 64  # twice what a worker takes at once
INPUTS: dict[str, tuple[Word, ...]] = {
    "row": ("FLOAT", 1, 2, "VALUES", 3, 5),
    "rows": ("FLOAT", 4, 2, "VALUES", *range(8)),
    "wide": ("FLOAT", 1, 3, "VALUES", 1, 2, 3),
    "double": ("DOUBLE", 1, 2, "VALUES", 3, 5),
    "text": ("STRING", 1, 2, "VALUES", "a", "b"),
    "large": ("FLOAT", 70_000, 2, "BLOB", np.arange(140_000, dtype=np.float32).tobytes()),
}


def store_models(wire: Any) -> list[str]:
    nodes = ("INPUTS", 2, "a", "b", "OUTPUTS", 1, "mul")
    assert wire.ask("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
    assert wire.ask("AI.MODELSTORE", "mul", "ONNX", "CPU", "BLOB", models.onnx_mul()) == b"OK"
    assert (
        wire.ask("AI.MODELSTORE", "strings", "ONNX", "CPU", "BLOB", models.onnx_identity("STRING", ("n", 2))) == b"OK"
    )
    assert wire.ask("AI.MODELSTORE", "tf", "TF", "CPU", *nodes, "BLOB", tf_models.tf_mul()) == b"OK"
    return ["add", "mul", "strings", "tf"]


@pytest.mark.parametrize("seed", range(4))
def test_each_as_alone(server: Server, wire: Any, clients: Clients, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    names = store_models(wire)
    for key, words in INPUTS.items():
        assert wire.ask("AI.TENSORSET", key, *words) == b"OK"

    def command(model: str, inputs: tuple[str, ...], output: str) -> tuple[Word, ...]:
        return ("AI.MODELEXECUTE", model, "INPUTS", len(inputs), *inputs, "OUTPUTS", 1, output)

    def value(key: str) -> Any:
        return wire.ask("AI.TENSORGET", key, "META", "BLOB") if wire.ask("EXISTS", key) else None

    chosen = []
    for _ in range(RUNS):
        # Mostly right, so that there is something to go wrong beside.
        model = rng.choice(names)
        right = ("text",) if model == "strings" else ("row", "row")
        odd = tuple(rng.choice(list(INPUTS)) for _ in right)
        chosen.append((model, right if rng.random() < 0.7 else odd))
    alone = []
    for model, inputs in chosen:
        wire.ask("DEL", "y")
        alone.append((wire.ask(*command(model, inputs, "y")), value("y")))
    assert any(reply == b"OK" for reply, _ in alone)
    assert any(reply != b"OK" for reply, _ in alone)

    calls = {name: ai_info(wire, name) for name in names}
    wires = [clients.wire() for _ in chosen]
    with clients.busy_worker():
        for number, (one, (model, inputs)) in enumerate(zip(wires, chosen, strict=True)):
            one.send(*command(model, inputs, f"y{number}"))
        clients.wait_blocked(RUNS + 1)
    together = [(one.read(), value(f"y{number}")) for number, one in enumerate(wires)]
    assert together == alone
    for name in names:
        before, after = calls[name], ai_info(wire, name)
        mine = [reply for (model, _), (reply, _) in zip(chosen, alone, strict=True) if model == name]
        assert after["calls"] - before["calls"] == len(mine)
        assert after["errors"] - before["errors"] == sum(reply != b"OK" for reply in mine)


def test_one_that_takes_too_long(start_server: Any) -> None:
    """Those before it and after it are answered as ever."""
    server = start_server(options=["MODEL_EXECUTION_TIMEOUT", 1000])
    with server.wire() as wire:
        assert wire.ask("AI.MODELSTORE", "loop", "ONNX", "CPU", "BLOB", models.onnx_loop()) == b"OK"
        for key, rounds in ("brief", 1000), ("endless", 2**40):
            assert wire.ask("AI.TENSORSET", key, "INT64", "VALUES", rounds) == b"OK"
        wires = [server.wire() for _ in range(9)]
        for number, one in enumerate(wires):
            key = "endless" if number == 4 else "brief"
            one.send("AI.MODELEXECUTE", "loop", "INPUTS", 1, key, "OUTPUTS", 1, f"y{number}")
        replies = [one.read() for one in wires]
        for one in wires:
            one.close()
        late = replies.pop(4)
        assert "the run took more than MODEL_EXECUTION_TIMEOUT, 1000 ms" in late
        assert replies == [b"OK"] * 8


def test_pipelined_runs_that_store_nothing(start_server: Any) -> None:
    """Redis processes the next command of a client that was blocked just before its loop sleeps: nobody must have to
    wait for the loop to wake by itself, which here takes a second."""
    server = start_server("--hz", "1")
    with server.wire() as wire:
        assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
        assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2) == b"OK"
    run = "AI.MODELEXECUTE m INPUTS 2 x x OUTPUTS 1 y"
    words = tuple(f"AI.DAGEXECUTE_RO LOAD 1 x |> {run} |> AI.TENSORGET y VALUES".split())
    wires = [server.wire() for _ in range(5)]
    begin = time.monotonic()
    for one in wires:
        one.socket.sendall(encode(words) * 40)
    replies = [one.read() for _ in range(40) for one in wires]
    took = time.monotonic() - begin
    for one in wires:
        one.close()
    assert replies == [[b"OK", [b"2", b"4"]]] * 200
    assert took < 0.5


def test_outputs_that_are_inputs(wire: Any) -> None:
    """A model that hands its inputs on, run by a script on tensors that are no arrays as they stand."""
    shapes = ["m", "n"]
    inputs = [models.value(name, TensorProto.FLOAT, shapes) for name in "ab"]
    assert wire.ask("AI.MODELSTORE", "same", "ONNX", "CPU", "BLOB", models.onnx_model([], inputs, inputs)) == b"OK"
    source = """
def f(tensors: List[Tensor], keys: List[str], args: List[str]):
    n = int(args[0])
    y = redisAI.model_execute(keys[0], [torch.ones(n, n + 1).t(), (2 * torch.ones(n, n + 1)).t()], 2)
    return torch.stack([y[0].min(), y[0].max(), y[1].min(), y[1].max()])
"""
    assert wire.ask("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 1, "f", "SOURCE", source) == b"OK"
    for size in 2, 4, 20, 300:
        assert wire.ask("AI.SCRIPTEXECUTE", "s", "f", "KEYS", 1, "same", "ARGS", 1, size, "OUTPUTS", 1, "y") == b"OK"
        assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"1", b"1", b"2", b"2"]
