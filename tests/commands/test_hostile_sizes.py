"""Small commands and models that ask for very much: an error at once, and the server goes on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from testkit import models, tf_models
from testkit.server import Server
from testkit.values import Model
from testkit.wire import Error, Wire

LIMIT = "ERR tensor size exceeds the limit of 536870912 bytes (proto-max-bulk-len)"


class Expand(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(3000000, 1000000, 2)


def test_strings_are_counted_with_their_offsets(wire: Wire) -> None:
    assert wire.ask("AI.TENSORSET", "t", "STRING", 300_000_000) == LIMIT


def test_an_output_expanded_from_one_row(wire: Wire) -> None:
    assert wire.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", models.torch_module(Expand)) == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2)
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    assert reply.startswith("ERR output 0 of 24000000000000 bytes exceeds the limit")
    assert wire.ask("EXISTS", "y") == 0


def onnx_fill() -> Model:
    fill = helper.make_node("ConstantOfShape", ["x"], ["filled"])
    smallest = helper.make_node("ReduceMin", ["filled"], ["y"], keepdims=0)
    ends = [models.value("x", TensorProto.INT64, [2]), models.value("y", TensorProto.FLOAT, [])]
    return Model("ONNX", models.onnx_model([fill, smallest], ends[:1], ends[1:]))


def tf_fill() -> Model:
    blob = tf_models.graph(lambda tf: tf.reduce_min(tf.fill(tf_models.placeholder("x", "int64", [2]), 0.0), name="y"))
    return Model("TF", blob, inputs=("x",), outputs=("y",))


@pytest.mark.parametrize("model", [onnx_fill, tf_fill])
def test_a_run_that_asks_for_terabytes(server: Server, wire: Wire, model: Callable[[], Model]) -> None:
    """It may not even ask the system, which grants as much where vm.overcommit_memory is 1, as Redis wants it."""
    assert wire.ask(*model().words("m")) == b"OK"
    for size, fits in ((10, True), (3_000_000, False), (10, True)):
        wire.ask("AI.TENSORSET", "x", "INT64", 2, "VALUES", size, 1_000_000)
        reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        assert (reply == b"OK") == fits
        if not fits:
            # TensorFlow waits for memory, for longer than a run in a process may take
            assert reply.endswith("BACKEND_MEMORY_LIMIT sets how much there is") or (
                server.is_isolated and "took more than MODEL_EXECUTION_TIMEOUT" in reply
            )


class Empty(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.empty(3000000, 1000000).size(1)  # nothing writes to it


def test_a_block_that_no_machine_has(wire: Wire) -> None:
    """Servers with the system's jemalloc granted it; a library that wrote to it ended the process."""
    assert wire.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", models.torch_module(Empty)) == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1)
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    assert isinstance(reply, Error) and "you tried to allocate 12000000000000 bytes" in reply


def test_the_longest_timeout(wire: Wire) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "BLOB", np.ones(2, np.float32).tobytes())
    for timeout in (2**62, 2**63 - 1):
        words = ("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y", "TIMEOUT", timeout)
        assert wire.ask(*words) == b"OK"


def test_a_model_in_pieces_stays_as_it_was_stored(wire: Wire) -> None:
    """Redis trims arguments that are held, when their command ends."""
    blob = models.onnx_padded(3000)
    script = "return redis.call('AI.MODELSTORE', KEYS[1], 'ONNX', 'CPU', 'BLOB', ARGV[1], ARGV[2])"
    for size in (20, 100, 5000):
        assert wire.ask("EVAL", script, 1, "m", blob[:size], blob[size:]) == b"OK"
        assert wire.ask("AI.MODELGET", "m", "BLOB") == blob
