"""What the parts of the benchmark share: alternating measurements, medians, and what figures depend on."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from testkit.load import Listener, Result, Traffic, run_load
from testkit.server import Server

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = ("requests_per_s", "p50_us", "p99_us", "p999_us", "max_us")

T = TypeVar("T")


def alternate(repeat: int, *sides: Callable[[], T]) -> list[list[T]]:
    """Measures every side `repeat` times, each as often before another as after it."""
    results: list[list[T]] = [[] for _ in sides]
    for i in range(repeat):
        for side in range(len(sides))[:: -1 if i % 2 == 0 else 1]:
            results[side].append(sides[side]())
    return results


def served(on: Listener, traffic: Traffic, connections: int, seconds: float) -> Callable[[], Result]:
    """A side: so many connections that repeat a request."""
    return partial(run_load, on, traffic, connections, seconds, min(0.3, seconds / 2))


def ratios(ours: Sequence[Result], theirs: Sequence[Result], number: str = "requests_per_s") -> list[float]:
    """One for each round: neighbours in time, so that a change in the machine's speed affects both alike."""
    return [a[number] / b[number] for a, b in zip(ours, theirs, strict=True)]


def row(
    case: str,
    against: str,
    connections: int,
    ours: Sequence[Result],
    theirs: Sequence[Result],
    distribution: bool = False,
) -> Result:
    """What every comparison of rates stores; its part may add to it."""
    return {
        "case": case,
        "against": against,
        "connections": connections,
        **median_of(ours, distribution),
        "plain": median_of(theirs),
        "share": median(ratios(ours, theirs)),
    }


def median_of(results: Sequence[Result], distribution: bool = False) -> Result:
    """The median of each number over several runs. Only what bench/pictures.py draws asks for the distribution.

    The library in a loop has a rate only: nothing waits there, so there are no latencies.
    """
    row: Result = {number: median(result[number] for result in results) for number in NUMBERS if number in results[0]}
    if distribution:
        # load.c reports the same shares in every run.
        row["latencies_us"] = [median(times) for times in zip(*(each["latencies_us"] for each in results), strict=True)]
    return row


def machine(on: Server) -> dict[str, Any]:
    """The machine and the versions that the figures depend on."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    with on.wire() as wire:
        info: bytes = wire.ask("INFO", "server", "modules")
    versions = {name.decode(): value.decode() for name, value in re.findall(rb"(\w+_version):(\S+)", info)}
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **versions,
    }
