"""The credit-card check as the services run it that bench/rivals.py starts, each in a file bench/rivals_<name>.py:

    python -m bench.rivals_<name> PORT PORT-OF-REDIS BACKEND

The service gets a transaction, reads the reference data of the card from Redis, and runs the network by one thread of
the backend's library, as one worker of the module does. PORT-OF-REDIS 0 means a network without reference data.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from redis import Redis

from bench.library_loop import LIBRARIES
from testkit import networks
from testkit.networks import Floats

KEY = "reference"


class Check:
    def __init__(self, redis_port: int, backend: str) -> None:
        model = networks.fraud(backend, reference=redis_port > 0)
        with TemporaryDirectory() as folder:
            path = Path(folder, "model")
            path.write_bytes(model.blob)
            self.library = LIBRARIES[backend](path, 1)
        self.redis = Redis(port=redis_port, protocol=2) if redis_port else None

    def __call__(self, transaction: bytes) -> Floats:
        stored: Any = self.redis.get(KEY) if self.redis else None
        return self.run(transaction, stored)

    def run(self, transaction: bytes, reference: bytes | None) -> Floats:
        """For services that read the reference by themselves."""
        parts = [transaction] if reference is None else [transaction, reference]
        return self.library([np.frombuffer(part, np.float32).reshape(1, -1) for part in parts])


def words() -> tuple[int, tuple[int, str]]:
    """The port, and what makes the check."""
    return int(sys.argv[1]), (int(sys.argv[2]), sys.argv[3])
