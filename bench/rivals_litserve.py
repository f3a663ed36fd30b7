"""The credit-card check as a service of LitServe. bench/rivals.py starts it.

It is as fast as one worker gets: raw bytes instead of JSON, one request at a time and LitServe's own queue. At 50
connections these were slower: batches of 32 with and without a wait for more, fast_queue, two workers, two API servers.
"""

from typing import Annotated

from fastapi import Body, Response
from litserve import LitAPI, LitServer

from bench.rivals_check import Check, words
from testkit.networks import Floats

# LitServe looks at the annotations of decode_request and encode_response: they must not be strings.
Raw = Annotated[bytes, Body(media_type="application/octet-stream")]


class Fraud(LitAPI):  # type: ignore[misc] # the library has no types
    def __init__(self, redis_port: int, backend: str) -> None:
        super().__init__()
        self.of = redis_port, backend

    def setup(self, device: str) -> None:
        """LitServe calls it in the worker's process."""
        self.check = Check(*self.of)

    def decode_request(self, request: Raw) -> bytes:
        return request

    def predict(self, transaction: bytes) -> Floats:
        return self.check(transaction)

    def encode_response(self, output: Floats) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


def main() -> None:
    port, of = words()
    quiet = {"log_level": "warning", "access_log": False, "generate_client_file": False}
    server = LitServer(Fraud(*of), accelerator="cpu", disable_openapi_url=True)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, loop="uvloop", http="httptools", **quiet)


if __name__ == "__main__":
    main()
