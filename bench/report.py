"""What the parts of scripts/bench are told and what they give back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, frozen=True)
class Plan:
    """How much is measured."""

    seconds: float  # each measurement
    repeat: int  # how often each pair is measured
    quick: bool  # a few cases, for a look or a test
    wanted: tuple[str, ...]  # names of cases, or beginnings of names; none: all

    def wants(self, name: str) -> bool:
        return not self.wanted or name.startswith(self.wanted)


@dataclass(slots=True, frozen=True)
class Goal:
    """What must be reached, and what was."""

    text: str
    value: float
    limit: float
    at_most: bool = False  # else at least

    @property
    def reached(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        word, bound = "reached" if self.reached else "MISSED", "at most" if self.at_most else "at least"
        return f"{word}: {self.text}: {bound} {self.limit:g}; here {self.value:.3f}"


@dataclass(slots=True)
class Report:
    """Rows are figures as they go into bench/results.json: names to numbers, texts and lists of these."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # what could not be measured here, and why


# A part prints a line for each measurement as it goes: figures that come only in the end are lost when it is stopped.
Part = Callable[[Plan], Report]
