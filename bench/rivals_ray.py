"""The credit-card check as a service of Ray Serve with one replica. bench/rivals.py starts it."""

import os
from tempfile import TemporaryDirectory

# Read when it is imported. A busy machine takes longer than its 5 and 10 seconds to start a process.
os.environ |= {f"RAY_SERVE_PROXY_{what}_CHECK_TIMEOUT_S": "60" for what in ("READY", "HEALTH")}

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from bench.rivals_check import Check, words


class Fraud:
    def __init__(self, redis_port: int, backend: str) -> None:
        self.check = Check(redis_port, backend)

    async def __call__(self, request: Request) -> Response:
        output = self.check(await request.body())
        return Response(output.tobytes(), media_type="application/octet-stream")


def main() -> None:
    port, of = words()
    with TemporaryDirectory() as folder:
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        ray.init(num_cpus=2, _node_ip_address="127.0.0.1", _temp_dir=folder, **quiet)
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
        deployment = serve.deployment(Fraud, max_ongoing_requests=100)
        serve.run(deployment.bind(*of), route_prefix="/predict", blocking=True)


if __name__ == "__main__":
    main()
