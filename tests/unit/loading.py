"""Loads models and scripts as the engine does, without a server: load("ONNX", blob, "CPU", intra_op_parallelism=1)."""

import importlib.util
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # before a redisai that may be installed: the well-known client

from testkit.server import module_path  # noqa: E402

# The bridge is part of redisai.so. Its tables need no server.
_loader = ExtensionFileLoader("_redisai_bridge", str(module_path()))
_spec = importlib.util.spec_from_loader("_redisai_bridge", _loader)
assert _spec is not None
sys.modules["_redisai_bridge"] = importlib.util.module_from_spec(_spec)
_loader.exec_module(sys.modules["_redisai_bridge"])

from redisai.backends import KINDS, Registry  # noqa: E402
from redisai.loader import options  # noqa: E402
from redisai.protocol import (  # noqa: E402
    Definition,
    Redis,
    ScriptBackend,
    ScriptDefinition,
    ScriptSession,
    Session,
    Settings,
)

registry = Registry(lambda: ROOT / "backends", lambda number, version, advice: None)
NAMES = [kind.name for kind in KINDS]


def settings(**changes: int) -> Settings:
    """The default options, with changes."""
    return Settings(tuple((name, changes.get(name, value)) for name, value in options()))


def load(backend: str, blob: bytes, device: str = "CPU", **changes: Any) -> Session:
    return registry.get(NAMES.index(backend)).load(Definition(backend, device, blob, (), ()), settings(**changes))


def load_script(source: str | bytes, *entry_points: str, device: str = "CPU") -> ScriptSession:
    backend = cast(ScriptBackend, registry.get(NAMES.index("TORCH")))
    source = source.encode() if isinstance(source, str) else source
    return backend.load_script(ScriptDefinition(device, source, entry_points), settings(), _no_redis)


def _no_redis(op: int) -> Redis:
    raise AssertionError(op)


def run_in_threads(count: int, work: Callable[[int], None]) -> None:
    """work(0), work(1), ..., each on a thread of its own; an error of any is raised here."""
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work, number) for number in range(count)]:
            future.result(60)
