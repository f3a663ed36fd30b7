"""Waiting for conditions rather than for time, and how late a reply may come."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from testkit.wire import Wire

TIMEOUTS = [0.050, 0.083, 0.117, 0.149, 0.031]  # seconds


def wait_for(condition: Callable[[], object], seconds: float = 10.0, what: str = "") -> None:
    """Waits until condition() is true, and fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not after {seconds} s: {what or condition}"
        time.sleep(0.005)


def wait_until_alone(wire: Wire) -> None:
    """Until no client but this one is connected."""
    wait_for(lambda: wire.ask("CLIENT", "LIST").count(b"\n") == 1, what="the other clients are gone")


def check_times(times: list[tuple[float, float]]) -> None:
    """(asked for, taken): never early, never much late, and as a rule, the machine being shared, hardly late at all."""
    late = [taken - asked for asked, taken in times]
    assert min(late) >= -0.002, times
    assert statistics.median(late) < 0.030, times
    assert max(late) < 0.200, times
