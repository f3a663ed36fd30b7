"""What the parts of the benchmark share: alternating measurements, medians, and what figures depend on."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from testkit.load import Result
from testkit.server import Server

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = ("requests_per_s", "p50_us", "p99_us", "p999_us", "max_us")

T = TypeVar("T")


def alternate(repeat: int, ours: Callable[[], T], theirs: Callable[[], T]) -> tuple[list[T], list[T]]:
    """Measures both `repeat` times, each as often before the other as after it."""
    results: tuple[list[T], list[T]] = [], []
    for i in range(repeat):
        sides = (results[1], theirs), (results[0], ours)
        for measured, measure in sides[:: 1 if i % 2 == 0 else -1]:
            measured.append(measure())
    return results


def median_of(results: Sequence[Result], distribution: bool = False) -> Result:
    """The median of each number over several runs. Only what bench/pictures.py draws asks for the distribution."""
    row: Result = {number: median(result[number] for result in results) for number in NUMBERS}
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
