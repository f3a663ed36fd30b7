"""What every part of scripts/bench gets and returns, and the shape of its figures."""

from __future__ import annotations

from collections.abc import Callable
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
