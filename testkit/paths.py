"""Runs of one model on both paths: by the library's C API (src/direct/), and by Python on a server without that."""

from __future__ import annotations

import pytest

from testkit.info import full_ai_info
from testkit.server import Server

WITHOUT_DIRECT = {"REDISAI_DIRECT": "off"}

both_paths = pytest.mark.parametrize("server", ["direct", "python"], indirect=True)


def check_path(server: Server, direct: int = 0, python: int = 0, key: str = "m") -> None:
    """Each run took the path that it should: so many can be direct, so many are Python's on any server."""
    if server.environment == WITHOUT_DIRECT:
        direct, python = 0, direct + python
    with server.wire() as wire:
        found = full_ai_info(wire, key)
    assert (found["direct_executions"], found["executions"]) == (direct, direct + python)
