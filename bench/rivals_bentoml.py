"""The credit-card check as a service of BentoML with one worker. bench/rivals.py starts it. Requests are JSON."""

import os
import sys
from pathlib import Path

import bentoml
import numpy as np

from bench.rivals_check import Check, words


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Fraud:
    def __init__(self) -> None:
        redis_port, backend = os.environ["CHECK"].split()
        self.check = Check(int(redis_port), backend)

    @bentoml.api  # type: ignore[untyped-decorator] # it is not installed where types are checked
    def predict(self, transaction: np.ndarray) -> np.ndarray:
        return self.check(transaction.astype(np.float32).tobytes())


def main() -> None:
    port, (redis_port, backend) = words()
    program = str(Path(sys.executable).parent / "bentoml")
    service = ["serve", "bench.rivals_bentoml:Fraud", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"CHECK": f"{redis_port} {backend}", "BENTOML_DO_NOT_TRACK": "True"}
    os.execve(program, [program, *service], environment)  # it must get our signals: its workers are no children of ours


if __name__ == "__main__":
    main()
