"""Loads models as the engine does, without a server: load("ONNX", blob, "CPU", intra_op_parallelism=1)."""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # before a redisai that may be installed: the well-known client is called so

from redisai.backends import KINDS, Registry  # noqa: E402
from redisai.protocol import Definition, Session, Settings  # noqa: E402

registry = Registry(lambda: ROOT / "backends", lambda number, version: None)


def load(backend: str, blob: bytes, device: str = "CPU", **settings: Any) -> Session:
    number = [kind.name for kind in KINDS].index(backend)
    return registry.get(number).load(Definition(backend, device, blob, (), ()), Settings(**settings))
