"""The credit-card check as a Python function in Triton, by PyTriton. bench/rivals.py starts it.

Triton gives the function many requests at once, which was ten times as fast at 64 connections as one at a time.
"""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from bench.rivals_check import Check, words
from testkit.networks import FRAUD
from testkit.server import free_port


def main() -> None:
    port, of = words()
    check = Check(*of)

    def predict(requests: list[Any]) -> list[dict[str, Any]]:
        return [{"output": check(request["transaction"].tobytes())} for request in requests]

    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    config = TritonConfig(http_address="127.0.0.1", grpc_address="127.0.0.1", **ports)
    with TemporaryDirectory() as folder, Triton(config=config, workspace=f"{folder}/work") as triton:
        triton.bind(
            "fraud",
            predict,
            inputs=[Tensor(name="transaction", shape=(FRAUD[0],), dtype=np.float32)],
            outputs=[Tensor(name="output", shape=(FRAUD[-1],), dtype=np.float32)],
            config=ModelConfig(max_batch_size=64),
        )
        triton.serve()


if __name__ == "__main__":
    main()
