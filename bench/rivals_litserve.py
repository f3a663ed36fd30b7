"""The credit-card case as a service of LitServe, with the reference data in Redis. bench/rivals.py starts it.

It is as fast as one worker gets: raw bytes instead of JSON, one request at a time and LitServe's own queue. At 50
connections these were slower: batches of 32 with and without a wait for more, fast_queue, two workers, two API servers.
"""

import sys
from typing import Annotated, Any

import numpy as np
from fastapi import Body, Response
from litserve import LitAPI, LitServer
from redis import Redis

from bench.rivals_fastapi import session
from testkit.networks import Floats

# LitServe looks at the annotations of decode_request and encode_response: they must not be strings.
Raw = Annotated[bytes, Body(media_type="application/octet-stream")]


class Fraud(LitAPI):  # type: ignore[misc] # the library has no types
    def __init__(self, redis_port: int) -> None:
        super().__init__()
        self.redis_port = redis_port

    def setup(self, device: str) -> None:
        """LitServe calls it in the worker's process."""
        self.redis, self.run = Redis(port=self.redis_port, protocol=2), session().run

    def decode_request(self, request: Raw) -> Floats:
        return np.frombuffer(request, np.float32).reshape(1, -1)

    def predict(self, transaction: Floats) -> Any:
        stored: Any = self.redis.get("reference")
        reference = np.frombuffer(stored, np.float32).reshape(1, -1)
        return self.run(None, {"transaction": transaction, "reference": reference})[0]

    def encode_response(self, output: Floats) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


def main() -> None:
    port, redis_port = map(int, sys.argv[1:])
    quiet = {"log_level": "warning", "access_log": False, "generate_client_file": False}
    server = LitServer(Fraud(redis_port), accelerator="cpu", disable_openapi_url=True)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, loop="uvloop", http="httptools", **quiet)


if __name__ == "__main__":
    main()
