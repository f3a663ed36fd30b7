"""The credit-card case as a service of FastAPI on uvicorn, with the reference data in Redis. bench/rivals.py starts it.

It is as fast as one process gets: raw bytes instead of JSON, uvloop, httptools and hiredis, no log of requests. The
network runs in the event loop: it takes a few microseconds, and passing it to a thread would take longer.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request, Response
from redis.asyncio import Redis

from testkit import networks


def session() -> Any:
    """The network, run by one thread like one worker of the module."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(networks.fraud("ONNX").blob, options, providers=["CPUExecutionProvider"])


def application(redis_port: int) -> FastAPI:
    redis, run = Redis(port=redis_port, protocol=2), session().run
    app = FastAPI(openapi_url=None)

    async def predict(request: Request) -> Response:
        transaction = np.frombuffer(await request.body(), np.float32).reshape(1, -1)
        stored: Any = await redis.get("reference")
        reference = np.frombuffer(stored, np.float32).reshape(1, -1)
        output = run(None, {"transaction": transaction, "reference": reference})[0]
        return Response(output.tobytes(), media_type="application/octet-stream")

    app.add_api_route("/predict", predict, methods=["POST"])
    return app


def main() -> None:
    port, redis_port = map(int, sys.argv[1:])
    app = application(redis_port)
    uvicorn.run(app, port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
