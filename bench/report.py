"""What every part of scripts/bench gets and returns, and the shape of its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

# The shares of requests at which a distribution is stored: five for every power of ten of what is left (load.c).
LATENCY_SHARES = tuple(round(1 - 10 ** (-i / 5), 6) for i in range(21))


@dataclass(slots=True, frozen=True)
class Plan:
    """How much is measured."""

    seconds: float  # for each measurement
    repeat: int  # times that each pair is measured
    quick: bool  # only a few cases
    wanted: tuple[str, ...]  # how names of cases begin; empty: all
    other: str = ""  # path of another module to compare with (bench/loops.py)
    other_server: str = ""  # the redis-server that loads it; empty: the same as ours

    def wants(self, name: str) -> bool:
        return not self.wanted or name.startswith(self.wanted)


@dataclass(slots=True, frozen=True)
class Goal:
    """A measured value and its limit."""

    text: str
    value: float
    limit: float
    at_most: bool = False  # the limit is a maximum, else a minimum

    @property
    def reached(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        word, bound = "reached" if self.reached else "MISSED", "at most" if self.at_most else "at least"
        return f"{word}: {self.text}: {bound} {self.limit:g}; here {self.value:.3f}"


@dataclass(slots=True)
class Report:
    """Rows go into bench/results.json as they are. Each holds one point: names to numbers, texts, dicts or lists."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # what was not measured, and why


# A part also prints a line for each measurement at once, so that a run that is stopped shows what it has measured.
Part = Callable[[Plan], Report]


# ---- a line for each comparison --------------------------------------------------------------------------------------

COLUMNS = (
    ("case", "<21"),
    ("conns", ">5"),
    ("req/s", ">7"),
    ("p50 us", ">8"),
    ("p99 us", ">8"),
    ("turns", ">5"),
    ("against", "<10"),
    ("req/s", ">7"),
    ("p50 us", ">8"),
    ("p99 us", ">8"),
    ("turns", ">5"),
    ("share", ">6"),
    ("from-to", ">11"),
    ("p99", ">5"),
)


def turns(result: dict[str, Any], connections: int) -> float:
    """The 99th percentile, in the time in which each connection gets one answer: connections x mean service time.

    A server that answers in the order of requests has 1 or little more, however fast it is.
    """
    return float(result["p99_us"] * result["requests_per_s"] / 1e6 / connections)


def numbers(side: dict[str, Any], connections: int) -> list[str]:
    rate = f"{side['requests_per_s']:.0f}"
    if "p99_us" not in side:  # a loop, where nothing waits
        return [rate, "-", "-", "-"]
    return [rate, f"{side['p50_us']:.0f}", f"{side['p99_us']:.0f}", f"{turns(side, connections):.2f}"]


def show(row: dict[str, Any]) -> None:
    """Prints a row of harness.row(). "share" is the ratio of rates, the last column that of the 99th percentiles."""
    n = row["connections"]
    cells = [row["case"], str(n), *numbers(row, n), row["against"], *numbers(row["plain"], n), f"{row['share']:.3f}"]
    cells.append(f"{row['share_min']:.2f}-{row['share_max']:.2f}" if "share_min" in row else "-")
    line([*cells, f"{row['p99_share']:.2f}" if "p99_share" in row else "-"])


def show_titles() -> None:
    line(title for title, _ in COLUMNS)


def line(cells: Iterable[str]) -> None:
    print("  ".join(f"{cell:{layout}}" for cell, (_, layout) in zip(cells, COLUMNS, strict=True)), flush=True)
