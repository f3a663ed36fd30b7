"""A client of bench/features.py: scores the hashes again and again, in one of two ways. One process is one client.

python -m bench.features_client WAY PORT reads from its standard input how many seconds to go on, each time it is asked,
and writes how many times it has scored all hashes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import redis
from onnx import helper

from testkit import networks

HASHES, FIELDS = 100, 30
MODEL = "features:linear"
KEYS = [f"item:{i}" for i in range(HASHES)]
NAMES = [f"field{i}" for i in range(FIELDS)]
Score = Callable[[], Any]


def network() -> networks.Network:
    weights = {"w": networks.random(FIELDS, 1), "b": networks.random(1)}
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    return networks.onnx_model(nodes, weights, "rows", networks.random(HASHES, FIELDS))


def by_dag(client: redis.Redis) -> Score:
    """One command. The server reads the hashes and runs the model."""
    source = ("HASHES", HASHES, *KEYS, "FIELDS", FIELDS, *NAMES)
    words: list[Any] = ["AI.DAGEXECUTE_RO", "ROUTING", MODEL, "|>", "AI.TENSORSET", "x", "FLOAT", "*", FIELDS, "FROM"]
    words += [*source, "|>", "AI.MODELEXECUTE", MODEL, "INPUTS", 1, "x", "OUTPUTS", 1, "y"]
    words += ["|>", "AI.TENSORGET", "y", "BLOB"]
    execute: Any = client.execute_command
    return lambda: np.frombuffer(execute(*words)[-1], np.float32).reshape(HASHES, 1)


def by_pipeline(client: redis.Redis) -> Score:
    """Fetches the hashes by one pipeline, makes the array, and runs the model by one thread, as one worker does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    run = onnxruntime.InferenceSession(network().blob, options, providers=["CPUExecutionProvider"]).run

    def score() -> Any:
        pipeline = client.pipeline(transaction=False)
        for key in KEYS:
            pipeline.hmget(key, NAMES)
        return run(None, {"x": np.array([list(map(float, row)) for row in pipeline.execute()], np.float32)})[0]

    return score


WAYS = {"dag": by_dag, "pipeline": by_pipeline}


def main() -> None:
    score = WAYS[sys.argv[1]](redis.Redis(port=int(sys.argv[2])))
    np.testing.assert_allclose(score(), network().output, rtol=1e-4, atol=1e-4)
    print("ready", flush=True)
    for line in sys.stdin:
        end, count = time.monotonic() + float(line), 0
        while time.monotonic() < end:
            score()
            count += 1
        print(count, flush=True)


if __name__ == "__main__":
    main()
