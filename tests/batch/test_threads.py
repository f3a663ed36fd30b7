"""INTRA_OP_PARALLELISM holds for large batches too, which libraries like to spread over all cores."""

from __future__ import annotations

import numpy as np
import pytest

from testkit.batches import batching, store
from testkit.networks import perceptron
from testkit.process import thread_ns
from tests.conftest import StartServer


@pytest.mark.parametrize("rows", [5, 32])
@pytest.mark.parametrize("backend", ["ONNX", "TORCH", "TF"])
def test_one_thread_means_one(start_server: StartServer, backend: str, rows: int) -> None:
    """Rows in one request, or in a batch of as many: all the work is done by the worker itself."""
    model = perceptron(backend)
    server = start_server(options=["INTRA_OP_PARALLELISM", 1])
    with server.wire() as wire:
        store(wire, "m", model, *batching(64))
        x = np.repeat(model.feed, rows, 0)
        assert wire.ask("AI.TENSORSET", "x", "FLOAT", *x.shape, "BLOB", x.tobytes()) == b"OK"
        run = ("|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")

        def some() -> None:
            for _ in range(200):  # enough for what other threads may do once not to count
                assert wire.ask("AI.DAGEXECUTE", "LOAD", 1, "x", *run * 6) == [b"OK"] * 6

        some()
        before = thread_ns(server.pid)
        some()
        after = thread_ns(server.pid)
        took = sorted(after[thread] - before.get(thread, 0) for thread in after if thread != server.pid)
        print("ms:", [round(ns / 1e6, 1) for ns in took[-4:]])
        assert sum(took[:-1]) < 0.2 * took[-1]
