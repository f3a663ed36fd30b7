"""The credit-card check as a service of MLServer. bench/rivals.py starts it.

Requests are JSON of the Open Inference Protocol. One process does all: workers of MLServer 1.7.1 do not start with
uvloop 0.23.
"""

from __future__ import annotations

import asyncio

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from bench.rivals_check import Check, words
from testkit.server import free_port


class Fraud(MLModel):  # type: ignore[misc] # it is not installed where types are checked
    async def load(self) -> bool:
        self.check = Check(*words()[1])
        return True

    async def predict(self, request: InferenceRequest) -> InferenceResponse:
        transaction = NumpyCodec.decode_input(request.inputs[0]).astype(np.float32)
        output = NumpyCodec.encode_output("output", self.check(transaction.tobytes()))
        return InferenceResponse(model_name=self.name, id=request.id, outputs=[output])


async def main() -> None:
    ports = {"http_port": words()[0], "grpc_port": free_port(), "metrics_port": free_port()}
    settings = Settings(host="127.0.0.1", debug=False, parallel_workers=0, metrics_endpoint=None, **ports)
    await MLServer(settings).start([ModelSettings(name="fraud", implementation=Fraud)])


if __name__ == "__main__":
    asyncio.run(main())
