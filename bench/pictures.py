"""Draws the figures of scripts/bench as SVG files for README.md and docs/performance.md.

A picture has at most six panels, and a panel at most five lines. Lines differ in colour, marker and label. Plain Redis
is grey in every picture; each library has its colour and its marker. The ground is light or dark as the reader's
browser asks; all colours are legible on both and differ for colour-blind readers. Text uses the reader's own fonts,
which keeps files small.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import log10
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench.report import LATENCY_SHARES

PARTS = ("throughput", "beside", "images", "rivals", "aibench", "growth")

Row = dict[str, Any]
Parts = dict[str, list[Row]]

INK, MUTED, GRID, GROUND = "#1f2328", "#59636e", "#d1d9e0", "#ffffff"
DARK = {INK: "#f0f6fc", MUTED: "#9198a1", GRID: "#3d444d", GROUND: "#0d1117"}
GREY, BLUE, ORANGE, GREEN, PURPLE = "#7d8590", "#2a78c2", "#d55e00", "#00916a", "#bf6a9f"
FONT = "system-ui, sans-serif"
STYLE: Any = {  # typed differently by versions of matplotlib
    "svg.fonttype": "none",
    "svg.hashsalt": "pictures",  # the same figures make the same file
    "font.size": 9.5,
    "text.color": INK,
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": GROUND,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.columnspacing": 1.2,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0,
}
WIDTH = 9.0  # inches of 72 points: about the width of a README


@dataclass(slots=True, frozen=True)
class Look:
    label: str
    color: str
    marker: str


SET = Look("SET", GREY, "x")
LINEAR, CNN = Look("linear", BLUE, "o"), Look("CNN", PURPLE, "D")
ONNX, TORCH, TF = Look("ONNX", BLUE, "o"), Look("TORCH", ORANGE, "s"), Look("TF", GREEN, "^")
LIBRARIES = {"onnx": ONNX, "torch": TORCH, "tf": TF, "tflite": Look("TFLITE", PURPLE, "D")}
MODELS = {  # by how names of cases begin
    "linear": "linear model",
    "mlp": "MLP",
    "cnn": "CNN",
    "fraud": "credit card",
    "fraud-dag": "credit card as a DAG",
    "mobilenet": "MobileNetV2",
}


# ---- shared ----------------------------------------------------------------------------------------------------------


def short(number: float, _: object = None) -> str:
    for size, letter in (1e9, "G"), (1e6, "M"), (1e3, "k"):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def duration(us: float, _: object = None) -> str:
    return f"{us / 1e6:.3g} s" if us >= 1e6 else f"{us / 1e3:.3g} ms" if us >= 1e3 else f"{us:.3g} µs"


def size(count: float, _: object = None) -> str:
    return f"{count / 1e3:.3g} kB" if count >= 1e3 else f"{count:.3g} B"


def case_label(case: str) -> str:
    """The model, the library, and whether it runs in batches."""
    name, batch, _ = case.partition("-batch")
    model, _, library = name.rpartition("-")
    return f"{MODELS[model]}, {LIBRARIES[library].label}" + (", batches" if batch else "")


def new(rows: int, columns: int, height: float, share_y: bool | Literal["col"] = False) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).flat)


def logarithmic(axes: Axes, text: Callable[[float, object], str], name: str = "y") -> None:
    """Call it once the lines are drawn: a short axis also gets numbers between the powers of ten."""
    getattr(axes, f"set_{name}scale")("log")
    axis = getattr(axes, f"{name}axis")
    low, high = getattr(axes, f"get_{name}lim")()
    subs = (1.0,) if high > 3_000 * low else (1.0, 3.0) if high > 50 * low else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(text))
    axis.set_minor_locator(NullLocator())


def entitle(titles: Sequence[tuple[Axes, str]]) -> None:
    """Titles of panels side by side. Legends stand between title and panel, where they hide nothing."""
    lines = max((len(axes.get_legend_handles_labels()[1]) + 1) // 2 for axes, _ in titles)
    for axes, text in titles:
        axes.set_title(text, pad=6 + 15 * lines)
        if axes.get_legend_handles_labels()[1]:
            drawn = axes.legend(loc="lower left", bbox_to_anchor=(-0.03, 0.99), ncols=2, borderaxespad=0)
            drawn.set_in_layout(False)  # else a long one would narrow the panel


def curve(axes: Axes, points: Iterable[tuple[float, float]], look: Look, every: int = 1) -> None:
    """Draws a line through the points in order of x, or none if there are no points."""
    line: dict[str, Any] = {"color": look.color, "marker": look.marker, "markevery": every, "label": look.label}
    axes.plot(*zip(*sorted(points), strict=True), **line)


def spread(ends: Sequence[float], gap: float) -> list[float]:
    """Moves sorted numbers apart by at least `gap`, and as little as possible."""
    groups: list[list[float]] = []  # numbers that touch, each less the gaps below it: a group moves to their mean
    for i, end in enumerate(ends):
        groups.append([end - i * gap])
        while len(groups) > 1 and mean(groups[-2]) > mean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    return [place + i * gap for i, place in enumerate(mean(group) for group in groups for _ in group)]


def label_ends(axes: Axes, gap: float = 0.085) -> None:
    """Writes marker and label of each line to the right of its end, at least `gap` panel heights apart.

    Call it once the scales of all panels are set.
    """
    to_panel = axes.transScale + axes.transLimits
    ends = sorted(
        (float(to_panel.transform(np.asarray(line.get_xydata())[-1])[1]), i) for i, line in enumerate(axes.get_lines())
    )
    lines = [axes.get_lines()[i] for _, i in ends]
    for y, line in zip(spread([end for end, _ in ends], gap), lines, strict=True):
        text = str(line.get_label())
        marker = Line2D([1.05], [y], color=line.get_color(), marker=line.get_marker(), linestyle="none", label="_")
        marker.set(transform=axes.transAxes, clip_on=False)
        axes.add_artist(marker)
        axes.text(1.09, y, text, transform=axes.transAxes, va="center", fontsize=8.5)


# ---- throughput, latency ---------------------------------------------------------------------------------------------

# Panels side by side: what they show, by names of cases.
COLUMNS = {
    "Linear model and CNN in ONNX": {"linear-onnx": LINEAR, "cnn-onnx": CNN},
    "MLP 30-64-64-2": {"mlp-onnx": ONNX, "mlp-torch": TORCH, "mlp-tf": TF},
    "Credit-card network": {"fraud-onnx": ONNX, "fraud-torch": TORCH, "fraud-tf": TF},
}


@dataclass(slots=True, frozen=True)
class Line:
    """Panels one above the other."""

    label: str
    suffix: str  # of the names of cases
    number: str  # of a row


def by_connections(rows: list[Row], lines: Sequence[Line], text: Callable[[float, object], str]) -> Figure | None:
    """Each number by connections, and that of the SET that ran alternately with it."""
    points: dict[str, list[Row]] = {}
    for row in rows:
        points.setdefault(row["case"], []).append(row)
    drawn = {case for case, its in points.items() if len(its) > 1}
    lines = [line for line in lines if any(case + line.suffix in drawn for looks in COLUMNS.values() for case in looks)]
    columns = {
        title: looks
        for title, looks in COLUMNS.items()
        if any(case + line.suffix in drawn for case in looks for line in lines)
    }
    if not columns:
        return None
    figure, all_axes = new(len(lines), len(columns), 0.6 + 2.5 * len(lines), share_y=True)
    for axes, (line, looks) in zip(all_axes, product(lines, columns.values()), strict=True):
        found = [(look, points[case + line.suffix]) for case, look in looks.items() if case + line.suffix in drawn]
        plain: dict[int, list[float]] = {}
        for _, its in found:
            for row in its:
                plain.setdefault(row["connections"], []).append(row["plain"][line.number])
        if found:
            curve(axes, [(count, median(numbers)) for count, numbers in plain.items()], SET)
        for look, its in found:
            curve(axes, [(row["connections"], row[line.number]) for row in its], look)
        axes.set_xscale("log")
        axes.set_xticks(sorted(plain), labels=[str(count) for count in sorted(plain)])
        axes.xaxis.set_minor_locator(NullLocator())
    for axes in all_axes:
        logarithmic(axes, text)
    for axes in all_axes:
        label_ends(axes)
    for axes, title in zip(all_axes, columns, strict=False):
        axes.set_title(title)
    for axes in all_axes[-len(columns) :]:
        axes.set_xlabel("connections")
    for axes, line in zip(all_axes[:: len(columns)], lines, strict=True):
        axes.set_ylabel(line.label)
    return figure


def throughput(parts: Parts) -> Figure | None:
    lines = (
        Line("requests per second, one by one", "", "requests_per_s"),
        Line("requests per second, BATCHSIZE 32", "-batch", "requests_per_s"),
    )
    return by_connections(parts["throughput"], lines, short)


def latency(parts: Parts) -> Figure | None:
    lines = Line("median latency", "", "p50_us"), Line("99th percentile", "", "p99_us")
    return by_connections(parts["throughput"], lines, duration)


def tensors(parts: Parts) -> Figure | None:
    """The time of AI.TENSORSET and AI.TENSORGET, divided by that of SET and GET of as many bytes."""
    panels = {}
    for command in "tensorset", "tensorget":
        rows = [row for row in parts["throughput"] if row["case"].startswith(f"{command}-")]
        if len({row["case"] for row in rows}) > 1:
            panels[command] = rows
    if not panels:
        return None
    figure, all_axes = new(1, len(panels), 2.6, share_y=True)
    for axes, (command, rows) in zip(all_axes, panels.items(), strict=True):
        sizes = list(dict.fromkeys(row["case"].partition("-")[2] for row in rows))
        for count, look in (1, Look("1 connection", BLUE, "o")), (10, Look("10 connections", ORANGE, "s")):
            found = [row for row in rows if row["connections"] == count]
            curve(axes, [(sizes.index(row["case"].partition("-")[2]), 1 / row["share"]) for row in found], look)
        curve(axes, [(i, 1) for i in range(len(sizes))], Look(f"{command[-3:].upper()} = 1", GREY, "x"))
        axes.set_xticks(range(len(sizes)), labels=sizes)
        axes.set_title(f"AI.{command.upper()}")
        axes.set_xlabel("size of the tensor")
    all_axes[0].set_ylim(0, max(axes.dataLim.ymax for axes in all_axes) * 1.1)
    for axes in all_axes:
        label_ends(axes, 0.12)
    all_axes[0].set_ylabel("time, relative")
    return figure


# ---- distributions ---------------------------------------------------------------------------------------------------

CONNECTIONS = 50
TICKS = (0.0, 0.9, 0.99, 0.999, 0.9999)
BESIDE = {
    "beside-nothing": Look("idle", PURPLE, "D"),
    "beside-set": SET,
    "beside-cnn-onnx": Look("CNN", BLUE, "o"),
    "beside-mlp-torch": Look("MLP", ORANGE, "s"),
    "beside-fraud-tf": Look("card", GREEN, "^"),
}

Distributions = list[tuple[Look, list[float]]]  # microseconds, at LATENCY_SHARES


def of_requests(rows: list[Row], name: str, suffix: str = "") -> Distributions:
    named = {row["case"]: row["latencies_us"] for row in rows if "latencies_us" in row}
    looks = {"set": SET} | {f"{name}-{library}{suffix}": look for library, look in LIBRARIES.items()}
    return [(look, named[case]) for case, look in looks.items() if case in named]


def of_gets(rows: list[Row], elsewhere: bool) -> Distributions:
    named = {row["case"]: row.get("busy", row) if elsewhere else row for row in rows}
    return [(look, named[case]["latencies_us"]) for case, look in BESIDE.items() if case in named]


def nines(share: float) -> float:
    """The axis of shares: 90 %, 99 % and 99.9 % are equally far from each other."""
    return -log10(1 - share)


def distributions(parts: Parts) -> Figure | None:
    """Latencies of requests, and of a GET beside them, by the share of requests that took no longer."""
    requests, gets = parts["throughput"], parts["beside"]
    panels = {
        "Credit card, one by one": of_requests(requests, "fraud"),
        "Credit card, BATCHSIZE 32": of_requests(requests, "fraud", "-batch"),
        "GET beside inference": of_gets(gets, elsewhere=False),
        "Credit card as a DAG": of_requests(requests, "fraud-dag"),
        "The DAG, BATCHSIZE 32": of_requests(requests, "fraud-dag", "-batch"),
        "GET beside equal work": of_gets(gets, elsewhere=True),
    }
    panels = {title: lines for title, lines in panels.items() if len(lines) > 1}
    if not panels:
        return None
    columns = (len(panels) + 1) // 2
    rows = -(-len(panels) // columns)
    figure, all_axes = new(rows, columns, 0.4 + 2.6 * rows, share_y="col")
    for axes, (title, lines) in zip(all_axes, panels.items(), strict=False):
        for look, latencies in lines:
            points = zip(map(nines, LATENCY_SHARES), latencies, strict=True)
            curve(axes, points, look, every=5)  # at TICKS
        axes.set_xticks([nines(share) for share in TICKS], labels=[f"{share * 100:g}" for share in TICKS])
        axes.set_title(title)
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    for axes in all_axes[: len(panels)]:
        logarithmic(axes, duration)
    for axes in all_axes[: len(panels)]:
        label_ends(axes)
    for axes in all_axes[-columns:]:
        axes.set_xlabel("% of requests")
    for axes in all_axes[::columns]:
        axes.set_ylabel("latency")
    return figure


# ---- beside, rivals, aibench, images ---------------------------------------------------------------------------------


def beside(parts: Parts) -> Figure | None:
    """p99 of a GET beside inference, and beside equal work elsewhere."""
    rows = [row for row in parts["beside"] if "busy" in row]
    plain = {row["case"]: row["p99_us"] for row in parts["beside"] if "p99_us" in row and "busy" not in row}
    if not rows:
        return None
    figure, (axes,) = new(1, 1, 1.3 + 0.3 * len(rows))
    places = range(len(rows))
    axes.hlines(places, *zip(*((row["busy"]["p99_us"], row["p99_us"]) for row in rows), strict=True), color=GRID, lw=3)
    axes.plot([row["busy"]["p99_us"] for row in rows], places, "o", color=GREY, label="beside equal work elsewhere")
    axes.plot([row["p99_us"] for row in rows], places, "D", color=ORANGE, label="beside inference")
    for case, label, style in ("beside-nothing", "idle server", ":"), ("beside-set", "beside plain SET", "--"):
        if case in plain:
            axes.axvline(plain[case], color=MUTED, linestyle=style, linewidth=1, label=label)
    axes.set_yticks(places, labels=[case_label(row["case"].removeprefix("beside-")) for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    logarithmic(axes, duration, "x")
    axes.set_xlabel("99th percentile of a GET of one client, beside 50 connections")
    figure.legend(loc="outside upper left", ncols=4)
    return figure


def bars(axes: Axes, title: str, values: list[tuple[str, str, float]], text: Callable[[float, object], str]) -> None:
    """Horizontal bars, the first on top, each with its value at its end."""
    places = range(len(values))
    drawn = axes.barh(places, [value for _, _, value in values], color=[color for _, color, _ in values], height=0.6)
    axes.bar_label(drawn, labels=[text(value, None) for _, _, value in values], padding=4, color=INK)
    axes.set_yticks(places, labels=[label for label, _, _ in values])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.invert_yaxis()
    axes.set_title(title)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.xaxis.set_visible(False)
    axes.margins(x=0.15)


RIVALS = {"rival-litserve": "LitServe + Redis", "rival-fastapi": "FastAPI + Redis"}

Bars = list[tuple[str, str, float]]  # label, colour, value


def two_bars(rates: Bars, count: int, waits: Bars, title: str) -> Figure:
    figure, (left, right) = new(1, 2, 1.0 + 0.35 * len(rates))
    figure.set_layout_engine("constrained", wspace=0.08)
    bars(left, f"Requests per second, {count} connections", rates, short)
    bars(right, title, waits, duration)
    return figure


def rivals(parts: Parts) -> Figure | None:
    """The credit-card case as a DAG, at the highest number of connections."""
    rows = parts["rivals"]
    if not rows:
        return None
    count = max(row["connections"] for row in rows)
    found = [row for row in rows if row["connections"] == count]
    rates = [("this module", ORANGE, found[0]["requests_per_s"])]
    waits = [("this module", ORANGE, found[0]["p50_us"])]
    for row in found:
        label = RIVALS.get(row["case"], "the library in a Python loop")
        rates.append((label, BLUE if row["case"] in RIVALS else GREY, row["plain"]["requests_per_s"]))
        if "p50_us" in row["plain"]:
            waits.append((label, BLUE, row["plain"]["p50_us"]))
    return two_bars(rates, count, waits, "Median latency")


def aibench(parts: Parts) -> Figure | None:
    """The credit-card check of AIBench at the highest number of connections, with reference data."""
    rows = [row for row in parts["aibench"] if row["case"].startswith("aibench-")]
    rows = [row for row in rows if not row["case"].endswith("-no-reference")]
    if not rows:
        return None
    count = max(row["connections"] for row in rows)
    found = {row["case"].removeprefix("aibench-"): row for row in rows if row["connections"] == count}
    sides = {"this module, AI.DAGEXECUTE": found["dagexecute"]} if "dagexecute" in found else {}
    others = [row for row in found.values() if "plain" in row]
    sides |= {row["against"]: row["plain"] for row in others}
    sides = {label.replace("AI.DAGRUN", "this module, AI.DAGRUN"): side for label, side in sides.items()}
    order = sorted(sides.items(), key=lambda side: -side[1]["requests_per_s"])
    looks = [(label, ORANGE if "this module" in label else BLUE, side) for label, side in order]
    rates = [(label, color, side["requests_per_s"]) for label, color, side in looks]
    waits = [(label, color, side["p99_us"]) for label, color, side in looks]
    return two_bars(rates, count, waits, "99th percentile of the latency")


def beside_loop(panels: list[tuple[str, Look, list[Row]]], unit: str) -> Figure:
    """Images per second by size of batch, beside the library's own rate."""
    figure, all_axes = new(1, len(panels), 2.9)
    for axes, (title, look, rows) in zip(all_axes, panels, strict=True):
        places = range(len(rows))
        axes.bar(places, [row[unit] for row in rows], color=look.color, width=0.6)
        axes.plot(places, [row["library_per_s"] for row in rows], "_", color=INK, markersize=18, markeredgewidth=1.5)
        for place, row in enumerate(rows):
            above = place, max(row[unit], row["library_per_s"])
            text = f"{row['share'] * 100:.0f} %"
            axes.annotate(text, above, xytext=(0, 4), textcoords="offset points", ha="center", fontsize=8.5)
        axes.set_xticks(places, labels=[str(row["batch"]) for row in rows])
        axes.set_title(title)
        axes.set_xlabel("size of batch")
        axes.grid(visible=False)
        axes.margins(y=0.15)
        axes.set_xlim(-0.6, max(len(rows), 4) - 0.4)
        axes.yaxis.set_major_formatter(FuncFormatter(short))
    all_axes[0].set_ylabel("images per second")
    mark = Line2D([], [], color=INK, marker="_", linestyle="none", markersize=14, markeredgewidth=1.5)
    mark.set_label("the library alone, in a Python loop; % of its rate")
    figure.legend(handles=[mark], loc="outside upper left")
    return figure


def best_of(rows: list[Row], prefix: str) -> dict[str, list[Row]]:
    """By library: the row of the better number of connections for each size of batch."""
    best: dict[tuple[str, int], Row] = {}
    for row in rows:
        key = row["case"].removeprefix(prefix), row["batch"]
        if row["threads"] == 1 and (key not in best or row["share"] > best[key]["share"]):
            best[key] = row
    libraries = [library for library in LIBRARIES if any(key[0] == library for key in best)]
    return {library: [best[key] for key in sorted(best) if key[0] == library] for library in libraries}


def images(parts: Parts) -> Figure | None:
    best = best_of(parts["images"], "mobilenet-")
    panels = [(LIBRARIES[library].label, LIBRARIES[library], rows) for library, rows in best.items()]
    return beside_loop(panels, "requests_per_s") if panels else None


def vision(parts: Parts) -> Figure | None:
    """MobileNetV1: batches that one client sends, and batches that the server makes of what many send."""
    rows = [row for row in parts["aibench"] if row["case"].startswith("vision-")]
    alone = [row for row in rows if row["connections"] == 1]
    many = [row for row in rows if row["connections"] > 1]
    panels = [
        (f"{LIBRARIES[library].label}, {title}", LIBRARIES[library], found)
        for title, its in (("one client", alone), ("BATCHSIZE", many))
        for library, found in best_of(its, "vision-").items()
    ]
    return beside_loop(panels, "images_per_s") if panels else None


# ---- growth ----------------------------------------------------------------------------------------------------------


VISIBLE = {"memory_bytes": 1e6, "resident_bytes": 1e7}  # min of all items together: a server's own needs vary by less
GROWTH = {
    "stored model": {("growth-models", "AI.MODELEXECUTE"): Look("run", BLUE, "o")},
    "stored tensor": {
        ("growth-tensors", "AI.MODELEXECUTE"): Look("run", BLUE, "o"),
        ("growth-tensors", "AI.TENSORSET"): Look("TENSORSET", ORANGE, "s"),
        ("growth-tensors", "AI.TENSORGET"): Look("TENSORGET", GREEN, "^"),
    },
    "waiting request": {
        ("growth-waiting", "AI.MODELEXECUTE"): Look("a client each", BLUE, "o"),
        ("growth-waiting-batch", "AI.MODELEXECUTE"): Look("BATCHSIZE 32", ORANGE, "s"),
        ("growth-pipelined", "AI.MODELEXECUTE"): Look("50 clients", GREEN, "^"),
    },
}
PLAIN_ITEMS = {"GET": "string of 16 B", "SET": "SET"}

Grown = list[tuple[Look, list[Row]]]


def points(rows: list[Row], number: str) -> list[tuple[float, float]]:
    return [(row["items"], row[number]) for row in rows]


def draw_memory(axes: Axes, found: Grown) -> None:
    """Memory as Redis counts it; for stored items also the growth of the whole process."""
    rows = found[0][1]
    if "store_us" in rows[0]:
        for number, look in (
            ("resident_bytes", Look("process", PURPLE, "D")),
            ("memory_bytes", Look("counted by Redis", BLUE, "o")),
        ):
            seen = [row for row in rows if row["items"] * row[number] >= VISIBLE[number]]
            curve(axes, points(seen, number), look)
    else:
        for look, its_rows in found:
            if not its_rows[0]["case"].endswith("-batch"):  # it coincides with the line without batches
                curve(axes, points(its_rows, "memory_bytes"), look)
    plain = Look(PLAIN_ITEMS[rows[0]["plain"]["command"]], GREY, "x")
    curve(axes, [(row["items"], row["plain"]["memory_bytes"]) for row in rows], plain)


def growth(parts: Parts) -> Figure | None:
    """The time of one command in the upper panels, the memory of one item in the lower ones."""
    panels: dict[str, Grown] = {}
    for name, looks in GROWTH.items():
        found = [
            (look, [row for row in parts["growth"] if (row["case"], row["command"]) == which])
            for which, look in looks.items()
        ]
        if found := [(look, rows) for look, rows in found if len(rows) > 1]:
            panels[name] = found
    if not panels:
        return None
    figure, all_axes = new(2, len(panels), 5.5)
    upper, lower = all_axes[: len(panels)], all_axes[len(panels) :]
    for (name, found), above, below in zip(panels.items(), upper, lower, strict=True):
        for look, rows in found:
            curve(above, points(rows, "us"), look)
        rows = found[0][1]
        if name == "stored model":
            curve(above, points(rows[1:], "store_us"), Look("store", ORANGE, "s"))
        plain = Look(rows[0]["plain"]["command"], GREY, "x")
        curve(above, [(row["items"], row["plain"]["us"]) for row in rows], plain)
        draw_memory(below, found)
        below.set_xlabel(f"{name}s")
        for axes, text in (above, duration), (below, size):
            logarithmic(axes, short, "x")
            low, high = axes.dataLim.intervaly
            if high > 5 * low:
                logarithmic(axes, text)
            else:
                axes.set_ylim(0, high * 1.1)
                axes.yaxis.set_major_formatter(FuncFormatter(text))
    entitle([(axes, f"Time, by {name}s") for axes, name in zip(upper, panels, strict=True)])
    entitle([(axes, f"Memory of a {name}") for axes, name in zip(lower, panels, strict=True)])
    return figure


# ---- files -----------------------------------------------------------------------------------------------------------

PICTURES: dict[str, Callable[[Parts], Figure | None]] = {
    "throughput": throughput,
    "latency": latency,
    "tensors": tensors,
    "distributions": distributions,
    "beside": beside,
    "images": images,
    "rivals": rivals,
    "aibench": aibench,
    "vision": vision,
    "growth": growth,
}


def svg(figure: Figure) -> str:
    """The figure as SVG: smaller than matplotlib's, and with other colours for a dark ground."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<!DOCTYPE.*?>", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<=[ "(])-?\d+\.\d{2,}', lambda number: f"{float(number[0]):.1f}", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", FONT, text)
    text = re.sub(r" transform=\"rotate\(-0 [^\"]*\"", "", text)
    text = re.sub(r"\n\s*", "\n", text)
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    return text.replace("<defs>", f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>\n<defs>", 1)


def draw(figures: dict[str, Any], folder: Path) -> list[Path]:
    """Draws the pictures that there are figures for. Returns the files."""
    parts = {name: figures["parts"].get(name, {"rows": []})["rows"] for name in PARTS}
    drawn = []
    with matplotlib.rc_context(STYLE):
        for name, picture in PICTURES.items():
            figure = picture(parts)
            if figure is not None:
                drawn.append(folder / f"{name}.svg")
                drawn[-1].write_text(svg(figure))
    return drawn
