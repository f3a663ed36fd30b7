"""scripts/bench: runs the parts of the benchmark and writes their figures as JSON, as a table and as pictures.

Each part starts its own servers on loopback. It measures each case several times, alternating with its comparison. The
files are written anew after each part, so a run that is stopped loses only the part that it was measuring.

results.json stores what the table and the pictures show and no more: one row for each point.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby
from json import dumps
from pathlib import Path
from typing import Any

from bench.harness import ROOT, machine
from bench.report import LATENCY_SHARES, Goal, Part, Plan, Report
from testkit.load import build_load
from testkit.process import watch_others
from testkit.server import fresh_server

PARTS = (
    "throughput",
    "tuning",
    "loops",
    "beside",
    "images",
    "isolation",
    "rivals",
    "aibench",
    "features",
    "bindings",
    "flows",
    "growth",
)
WIDTH = 120  # columns of the JSON
DIGITS = 9
BACKENDS = {"ONNX": "onnxruntime", "TORCH": "torch", "TF": "tensorflow", "TFLITE": "tflite"}


def about() -> dict[str, Any]:
    """The machine, and the versions of the installed libraries."""
    with fresh_server() as on:
        with on.wire() as wire:
            for name, folder in BACKENDS.items():
                wire.ask("AI.CONFIG", "LOADBACKEND", name, f"redisai_{folder}/redisai_{folder}.so")
        return machine(on)


def goal(of: Goal) -> dict[str, Any]:
    return asdict(of) | {"reached": of.reached}


def stored(report: Report) -> dict[str, Any]:
    goals = [goal(each) for each in report.goals]
    part: dict[str, Any] = rounded({"rows": report.rows, "goals": goals, "skipped": report.skipped})
    return part


def rounded(value: Any) -> Any:
    """The same with DIGITS significant digits, which change no digit of the table."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


# ---- JSON ------------------------------------------------------------------------------------------------------------


def pretty(value: Any, margin: str = "", name: str = "") -> str:
    """JSON in lines of WIDTH columns: numbers and texts share lines, a dict or a list begins a line of its own."""
    flat = name + dumps(value)
    if len(margin + flat) < WIDTH or not isinstance(value, dict | list):
        return flat
    pairs = list(value.items()) if isinstance(value, dict) else [("", each) for each in value]
    nested = [isinstance(each, dict | list) for _, each in pairs]
    # What begins with a number or a text, as rows do, needs no lines for its brackets.
    before, after = (f"\n{margin} ", f"\n{margin}") if nested[0] else ("", "")
    taken = 0 if before else len(name)  # columns of the first line
    lines: list[str] = []
    for i, (key, each) in enumerate(pairs):
        item = pretty(each, f"{margin} ", f"{dumps(key)}: " if key else "")
        joins = i and not nested[i - 1] and not nested[i]
        if joins and len(f"{margin} {lines[-1]}, {item},") + taken * (len(lines) == 1) < WIDTH:
            lines[-1] += f", {item}"
        else:
            lines.append(item)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return name + opening + before + f",\n{margin} ".join(lines) + after + closing


# ---- the table -------------------------------------------------------------------------------------------------------


def flat(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of a row. Lists, such as distributions, are only for pictures."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name} ")
        elif not isinstance(value, list):
            yield prefix + name, value


def cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(titles: list[str], lines: list[list[Any]]) -> Iterator[str]:
    numbers = [all(isinstance(each[i], int | float) for each in lines) for i in range(len(titles))]
    yield "| " + " | ".join(titles) + " |"
    yield "|" + "|".join("---:" if number else "---" for number in numbers) + "|"
    for each in lines:
        yield "| " + " | ".join(map(cell, each)) + " |"
    yield ""


def titled(name: str) -> str:
    return name.removesuffix("_us").replace("_per_s", "/s").replace("_", " ") + (", us" if name.endswith("_us") else "")


def text(figures: dict[str, Any]) -> str:
    about, plan = figures["machine"], figures["plan"]
    lines = ["# What scripts/bench measured", ""]
    lines += [f"- {titled(name)}: {cell(value)}" for name, value in about.items()]
    lines += [f"- the other: {plan['other']}"] if plan.get("other") else []
    lines += [f"- every pair measured {plan['repeat']} times, alternating; {plan['seconds']:g} s each time", ""]
    goals = [each for part in figures["parts"].values() for each in part["goals"]]
    if goals:
        lines += ["## Goals", ""]
        words = [("at most " if each["at_most"] else "at least ") + f"{each['limit']:g}" for each in goals]
        lines += table(
            ["goal", "limit", "here", "reached"],
            [
                [each["text"], word, float(each["value"]), "yes" if each["reached"] else "**no**"]
                for each, word in zip(goals, words, strict=True)
            ],
        )
    for name, part in figures["parts"].items():
        lines += [f"## {name}", ""]
        for titles, rows in groupby((dict(flat(row)) for row in part["rows"]), key=list):
            lines += table([titled(title) for title in titles], [list(row.values()) for row in rows])
        lines += [f"- skipped: {each}" for each in part["skipped"]]
        lines += [""] if part["skipped"] else []
    return "\n".join(lines).rstrip() + "\n"


def write(figures: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(pretty(figures) + "\n")
    path.with_suffix(".md").write_text(text(figures))


def draw(figures: dict[str, Any], folder: Path) -> None:
    if not find_spec("matplotlib"):
        print("no pictures: matplotlib is not installed (.venv/bin/pip install matplotlib)")
        return
    from bench import pictures

    pictures.draw(figures, folder)


# ---- the run ---------------------------------------------------------------------------------------------------------


def measure(name: str, plan: Plan) -> Report:
    """Returns a report of the failure if the part fails: the others still run."""
    part: Part = import_module(f"bench.{name}").run
    try:
        return part(plan)
    except Exception as error:
        traceback.print_exc()
        return Report(skipped=[f"{name} failed: {error}"])


def names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--parts", type=names, default=PARTS, help=f"which: {','.join(PARTS)} (default all)")
    parser.add_argument("--cases", type=names, default=(), help="names of cases, or their beginnings: linear,fraud-dag")
    parser.add_argument("--quick", action="store_true", help="a few cases, once each, in about a minute")
    parser.add_argument("--seconds", type=float, help="for each measurement (default 1, quick 0.2)")
    parser.add_argument("--repeat", type=int, help="times that each pair is measured (default 5, quick 1)")
    parser.add_argument("--json", type=Path, help="file of the figures; the table and the pictures go beside it")
    parser.add_argument("--other", type=Path, help="path of another module: only compares ours with it, case by case")
    parser.add_argument("--other-server", default="", help="the redis-server for --other (default: the same as ours)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    return parser


def main() -> int:
    parser = arguments()
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.other:
        if options.parts != PARTS:
            parser.error("--other compares by itself: leave out --parts, and choose by --cases")
        if not options.other.is_file():
            parser.error(f"--other: {options.other} is not there")
        options.parts = ("loops",)
    plan = Plan(
        seconds=options.seconds or (0.2 if options.quick else 1.0),
        repeat=options.repeat or (1 if options.quick else 5),
        quick=options.quick,
        wanted=options.cases,
        other=str(options.other.resolve()) if options.other else "",
        other_server=options.other_server,
    )
    # Only a run of everything replaces the figures that the README shows.
    whole = options.parts == PARTS and not options.quick and not options.cases
    path: Path = options.json or ROOT / ("bench" if whole else "build/bench") / "results.json"

    build_load()
    figures: dict[str, Any] = {"machine": about(), "plan": asdict(plan)}
    figures |= {"latency_shares": list(LATENCY_SHARES), "parts": {}}
    failed, start, others = False, time.monotonic(), watch_others()
    for name in options.parts:
        print(f"\n== {name}", flush=True)
        report = measure(name, plan)
        failed |= any(each.startswith(f"{name} failed") for each in report.skipped)
        if not (report.rows or report.goals or report.skipped):
            continue
        figures["parts"][name] = stored(report)
        figures["machine"]["cores_taken_by_others"] = round(others(), 2)
        figures["plan"]["minutes"] = round((time.monotonic() - start) / 60, 1)
        write(figures, path)
    if not figures["parts"]:
        from bench.loops import cases

        sys.exit(f"no such case; there are {', '.join(case.name for case in cases())}")

    goals = [
        Goal(**{key: value for key, value in each.items() if key != "reached"}) for each in every(figures, "goals")
    ]
    print("", *(f"skipped: {each}" for each in every(figures, "skipped")), *goals, sep="\n")
    machine = figures["machine"]
    print(f"{machine['cpu']}, {machine['cores']} cores, of which others took {machine['cores_taken_by_others']}")
    print(f"{path}, and {path.with_suffix('.md').name} beside it")
    draw(figures, path.parent)
    return int(failed or (options.check and not (goals and all(each.reached for each in goals))))


def every(figures: dict[str, Any], what: str) -> list[Any]:
    return [each for part in figures["parts"].values() for each in part[what]]


if __name__ == "__main__":
    sys.exit(main())
