"""What scripts/bench measured, as pictures: SVG files for the README, each drawn where its figures are there.

A picture brings its own ground, which is light or dark as its reader's browser is told to be; the colours of lines are
legible on both, and differ for those who see few colours. What is plain Redis is grey everywhere, and each library has
its colour and its marker. Letters are the reader's own: that keeps files small.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

PARTS = ("throughput", "beside", "images", "rivals", "growth")

Row = dict[str, Any]
Parts = dict[str, list[Row]]

INK, MUTED, GRID, GROUND = "#1f2328", "#59636e", "#d1d9e0", "#ffffff"
DARK = {INK: "#f0f6fc", MUTED: "#9198a1", GRID: "#3d444d", GROUND: "#0d1117"}
GREY, BLUE, ORANGE, GREEN, PURPLE = "#7d8590", "#2a78c2", "#d55e00", "#00916a", "#bf6a9f"
FONT = "system-ui, sans-serif"
STYLE: Any = {  # of which the types of matplotlib differ by version
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
WIDTH = 9.0  # inches of 72 points: a README is about as wide


@dataclass(slots=True, frozen=True)
class Look:
    label: str
    color: str
    marker: str


REDIS = Look("SET", GREY, "")
LIBRARIES = {
    "onnx": Look("ONNX", BLUE, "o"),
    "torch": Look("TORCH", ORANGE, "s"),
    "tf": Look("TF", GREEN, "^"),
    "tflite": Look("TFLITE", PURPLE, "D"),
}
MODELS = {
    "linear": "Linear model, 4 floats",
    "mlp": "MLP 30-64-64-2",
    "cnn": "CNN, mnist-sized",
    "fraud": "Credit card",
    "fraud-dag": "Credit card, as a DAG",
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
    return f"{short(count)}B" if count >= 1e3 else f"{count:.3g} B"


def new(rows: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def logarithmic(axes: Axes, text: Callable[[float, object], str], name: str = "y") -> None:
    """Once its lines are drawn: a short axis has numbers between the powers of ten, too."""
    getattr(axes, f"set_{name}scale")("log")
    axis = getattr(axes, f"{name}axis")
    least, most = getattr(axes, f"get_{name}lim")()
    subs = (1.0,) if most > 3_000 * least else (1.0, 3.0) if most > 50 * least else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(text))
    axis.set_minor_locator(NullLocator())


def entitle(titles: Sequence[tuple[Axes, str]]) -> None:
    """Of panels side by side. Legends stand between title and panel, so that they hide nothing."""
    lines = max((len(axes.get_legend_handles_labels()[1]) + 1) // 2 for axes, _ in titles)
    for axes, text in titles:
        axes.set_title(text, pad=6 + 15 * lines)
        if axes.get_legend_handles_labels()[1]:
            drawn = axes.legend(loc="lower left", bbox_to_anchor=(-0.03, 0.99), ncols=2, borderaxespad=0)
            drawn.set_in_layout(False)  # else a long one would narrow what is drawn


def curve(axes: Axes, points: Iterable[tuple[float, float]], look: Look, style: str = "-") -> None:
    marker = look.marker if style == "-" else ""
    axes.plot(*zip(*sorted(points), strict=True), color=look.color, marker=marker, linestyle=style, label=look.label)


def of_case(rows: list[Row], name: str) -> list[Row]:
    return [row for row in rows if row["case"] == name]


# ---- throughput, latency ---------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Panel:
    """One model with each library."""

    title: str
    curves: list[tuple[Look, list[Row]]]

    def counts(self) -> set[int]:
        return {row["connections"] for _, rows in self.curves for row in rows}

    def plain(self, number: str) -> list[tuple[int, float]]:
        """What SET did beside each of them, by connections."""
        rows = [row for _, rows in self.curves for row in rows]
        return [(n, median(row["plain"][number] for row in rows if row["connections"] == n)) for n in self.counts()]


def of_models(rows: list[Row], suffix: str = "") -> dict[str, Panel]:
    found = {}
    for name, title in MODELS.items():
        curves = [(look, of_case(rows, f"{name}-{library}{suffix}")) for library, look in LIBRARIES.items()]
        if curves := [(look, its_rows) for look, its_rows in curves if len(its_rows) > 1]:
            found[name] = Panel(title, curves)
    return found


def of_panels(panels: list[Panel], styles: Sequence[tuple[str, Any]]) -> tuple[Figure, list[Axes]]:
    """A figure with room for six, and its legend."""
    figure, all_axes = new(2, 3, 5.6)
    there = {look for panel in panels for look, _ in panel.curves}
    looks = [REDIS, *(look for look in LIBRARIES.values() if look in there)]
    lines = [Line2D([], [], color=look.color, marker=look.marker, label=look.label) for look in looks]
    lines += [Line2D([], [], color=MUTED, linestyle=style, label=label) for label, style in styles]
    figure.legend(handles=lines, loc="outside upper left", ncols=len(lines), handlelength=2.4)
    for axes, panel in zip(all_axes, panels, strict=False):
        axes.set_title(panel.title)
        counts = sorted(panel.counts())
        axes.set_xscale("log")
        axes.set_xticks(counts, labels=[str(count) for count in counts])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("connections")
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    return figure, all_axes


def throughput(parts: Parts) -> Figure | None:
    rows = parts["throughput"]
    panels, batched = of_models(rows), of_models(rows, "-batch")
    if not panels:
        return None
    figure, all_axes = of_panels(list(panels.values()), [("one by one", "-"), ("BATCHSIZE 32", "--")])
    for axes, (name, panel) in zip(all_axes, panels.items(), strict=False):
        curve(axes, panel.plain("requests_per_s"), REDIS)
        for style, each in ("-", panel), ("--", batched.get(name)):
            for look, its_rows in each.curves if each else []:
                curve(axes, [(row["connections"], row["requests_per_s"]) for row in its_rows], look, style)
        logarithmic(axes, short)
    all_axes[0].set_ylabel("requests per second")
    tensors(all_axes[-1], rows)
    return figure


def tensors(axes: Axes, rows: list[Row]) -> None:
    """How many times as long a tensor takes as a string of as many bytes."""
    sizes: list[str] = []
    for command, color, marker in (("tensorset", ORANGE, "v"), ("tensorget", BLUE, "o")):
        found = [row for row in rows if row["case"].startswith(f"{command}-") and row["connections"] == 1]
        sizes = [row["case"].partition("-")[2] for row in found] or sizes
        axes.plot([1 / row["share"] for row in found], color=color, marker=marker, label=command.upper())
    if sizes:
        axes.set_axis_on()
        axes.axhline(1, color=GREY, linewidth=1)
        axes.set_xticks(range(len(sizes)), labels=sizes)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("time, that of SET, GET = 1")
        entitle([(axes, "Tensors beside strings")])


def latency(parts: Parts) -> Figure | None:
    rows = parts["throughput"]
    panels = [*of_models(rows).values()]
    if not panels:
        return None
    if batched := of_models(rows, "-batch").get("fraud"):
        panels.append(Panel(f"{batched.title}, BATCHSIZE 32", batched.curves))
    figure, all_axes = of_panels(panels, [("median", "-"), ("p99", ":")])
    for axes, panel in zip(all_axes, panels, strict=False):
        for number, style in ("p50_us", "-"), ("p99_us", ":"):
            curve(axes, panel.plain(number), REDIS, style)
            for look, its_rows in panel.curves:
                curve(axes, [(row["connections"], row[number]) for row in its_rows], look, style)
        logarithmic(axes, duration)
    return figure


# ---- distributions ---------------------------------------------------------------------------------------------------

JUDGED = 50  # connections
SHARES = (0.0, 0.9, 0.99, 0.999, 0.9999)
BESIDE = (
    ("beside-nothing", GREY, "idle"),
    ("beside-set", PURPLE, "SET"),
    ("beside-cnn-onnx", BLUE, "CNN, ONNX"),
    ("beside-mlp-torch", ORANGE, "MLP, TORCH"),
    ("beside-fraud-tf", GREEN, "Credit card, TF"),
)

Points = Sequence[Sequence[float]]  # microseconds, and the share of requests that took no longer
Line = tuple[Points, str, str, str]  # with its color, label and style


def of_requests(rows: list[Row], suffix: str) -> Iterator[Line]:
    named = {row["case"]: row["latencies"] for row in rows if row["connections"] == JUDGED and "latencies" in row}
    if "set" in named:
        yield named["set"], GREY, "SET", "-"
    for library, look in LIBRARIES.items():
        for case, style, more in ((f"fraud-{library}", "-", ""), (f"fraud-dag-{library}", "--", ", DAG")):
            if points := named.get(case + suffix):
                yield points, look.color, look.label + more, style


def of_gets(rows: list[Row]) -> Iterator[Line]:
    named = {row["case"]: row for row in rows if "latencies" in row}
    for case, color, label in BESIDE:
        if row := named.get(case):
            yield row["latencies"], color, label, "-"
            if busy := row.get("busy"):
                yield busy["latencies"], color, "", "--"


def distributions(parts: Parts) -> Figure | None:
    """Of requests, and of a GET beside them: by how many nines a share of them has."""
    panels: dict[str, list[Line]] = {
        "Credit card, one by one": [*of_requests(parts["throughput"], "")],
        "Credit card, BATCHSIZE 32": [*of_requests(parts["throughput"], "-batch")],
        "A GET beside …": [*of_gets(parts["beside"])],
    }
    panels = {name: lines for name, lines in panels.items() if len(lines) > 1}
    if not panels:
        return None
    figure, all_axes = new(1, len(panels), 3.6)
    for axes, lines in zip(all_axes, panels.values(), strict=True):
        for points, color, label, style in lines:
            shown = [(-log10(1 - share), us) for us, share in points if share < 1]
            axes.plot(*zip(*shown, strict=True), color=color, linestyle=style, label=label or None)
        if any(not label for _, _, label, _ in lines):
            axes.plot([], [], color=MUTED, linestyle="--", label="equal CPU load")
        ticks = [-log10(1 - share) for share in SHARES]
        axes.set_xticks(ticks, labels=[f"{share * 100:g}" for share in SHARES])
        axes.set_xlabel(f"% of requests, {JUDGED} connections")
        axes.set_xlim(ticks[0], ticks[-1])
        logarithmic(axes, duration)
    entitle([*zip(all_axes, panels, strict=True)])
    return figure


# ---- beside, rivals, images ------------------------------------------------------------------------------------------


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
    axes.set_yticks(places, labels=[row["case"].removeprefix("beside-") for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    logarithmic(axes, duration, "x")
    axes.set_xlabel("p99 of a GET of one client, beside 50 connections")
    figure.legend(loc="outside upper left", ncols=4)
    return figure


def bars(axes: Axes, title: str, values: list[tuple[str, str, float]], text: Callable[[float, object], str]) -> None:
    """Horizontal ones, the first on top, each with its number behind it."""
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


def rivals(parts: Parts) -> Figure | None:
    """The credit-card case at the most connections that were measured."""
    rows = parts["rivals"]
    if not rows:
        return None
    most = max(row["connections"] for row in rows)
    found = [row for row in rows if row["connections"] == most]
    rates = [("this module", ORANGE, found[0]["requests_per_s"])]
    waits = [("this module", ORANGE, found[0]["p50_us"])]
    for row in found:
        label = RIVALS.get(row["case"], "the library in a Python loop")
        rates.append((label, BLUE if row["case"] in RIVALS else GREY, row["plain"]["requests_per_s"]))
        if "p50_us" in row["plain"]:
            waits.append((label, BLUE, row["plain"]["p50_us"]))
    figure, (left, right) = new(1, 2, 1.0 + 0.35 * len(rates))
    bars(left, f"Requests per second, {most} connections", rates, short)
    bars(right, "Median latency", waits, duration)
    return figure


def images(parts: Parts) -> Figure | None:
    """Images per second by batch: at the connections that suit best, beside the library's own rate."""
    best: dict[tuple[str, int], Row] = {}
    for row in parts["images"]:
        key = row["case"].removeprefix("mobilenet-"), row["batch"]
        if row["threads"] == 1 and (key not in best or row["share"] > best[key]["share"]):
            best[key] = row
    libraries = [library for library in LIBRARIES if any(key[0] == library for key in best)]
    if not libraries:
        return None
    figure, all_axes = new(1, len(libraries), 2.9)
    for axes, library in zip(all_axes, libraries, strict=True):
        look = LIBRARIES[library]
        rows = [best[key] for key in sorted(best) if key[0] == library]
        places = range(len(rows))
        axes.bar(places, [row["requests_per_s"] for row in rows], color=look.color, width=0.6)
        axes.plot(places, [row["library_per_s"] for row in rows], "_", color=INK, markersize=18, markeredgewidth=1.5)
        for place, row in enumerate(rows):
            above = place, max(row["requests_per_s"], row["library_per_s"])
            text = f"{row['share'] * 100:.0f} %"
            axes.annotate(text, above, xytext=(0, 4), textcoords="offset points", ha="center")
        axes.set_xticks(places, labels=[str(row["batch"]) for row in rows])
        axes.set_title(look.label)
        axes.set_xlabel("batch")
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.15)
        axes.set_xlim(-0.6, max(len(rows), 4) - 0.4)
        axes.yaxis.set_major_formatter(FuncFormatter(short))
    all_axes[0].set_ylabel("images per second")
    mark = Line2D([], [], color=INK, marker="_", linestyle="none", markersize=14, markeredgewidth=1.5)
    mark.set_label("the library alone, in a Python loop; % of its rate")
    figure.legend(handles=[mark], loc="outside upper left")
    return figure


# ---- growth ----------------------------------------------------------------------------------------------------------


LEAST = {"memory_bytes": 1e6, "resident_bytes": 1e7}  # of all items: a server's own needs vary by less
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
PLAIN_ITEMS = {"GET": "string of 16 B", "SET": "client that sets"}

Grown = list[tuple[Look, list[Row]]]


def points(rows: list[Row], number: str) -> list[tuple[float, float]]:
    return [(row["items"], row[number]) for row in rows]


def draw_memory(axes: Axes, found: Grown) -> None:
    """As Redis counts it; for stored items also what the whole process has grown by."""
    rows = found[0][1]
    if "store_us" in rows[0]:
        for number, look in (
            ("resident_bytes", Look("process", PURPLE, "D")),
            ("memory_bytes", Look("counted by Redis", BLUE, "o")),
        ):
            seen = [row for row in rows if row["items"] * row[number] >= LEAST[number]]
            curve(axes, points(seen, number), look)
    else:
        for look, its_rows in found:
            curve(axes, points(its_rows, "memory_bytes"), look)
    plain = Look(PLAIN_ITEMS[rows[0]["plain"]["command"]], GREY, "")
    curve(axes, [(row["items"], row["plain"]["memory_bytes"]) for row in rows], plain)


def growth(parts: Parts) -> Figure | None:
    """Above, the time of one request; below, the memory of one item."""
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
    figure, all_axes = new(2, len(panels), 5.2)
    upper, lower = all_axes[: len(panels)], all_axes[len(panels) :]
    for (name, found), above, below in zip(panels.items(), upper, lower, strict=True):
        for look, rows in found:
            curve(above, points(rows, "us"), look)
        rows = found[0][1]
        if name == "stored model":
            curve(above, points(rows[1:], "store_us"), Look("store", ORANGE, "s"))
        plain = Look(rows[0]["plain"]["command"], GREY, "")
        curve(above, [(row["items"], row["plain"]["us"]) for row in rows], plain)
        draw_memory(below, found)
        for axes, text in (above, duration), (below, size):
            logarithmic(axes, short, "x")
            least, most = axes.dataLim.intervaly
            if most > 5 * least:
                logarithmic(axes, text)
            else:
                axes.set_ylim(0, most * 1.1)
                axes.yaxis.set_major_formatter(FuncFormatter(text))
    entitle([(axes, f"Time, by {name}s") for axes, name in zip(upper, panels, strict=True)])
    entitle([(axes, f"Memory of a {name}") for axes, name in zip(lower, panels, strict=True)])
    return figure


# ---- files -----------------------------------------------------------------------------------------------------------

PICTURES: dict[str, Callable[[Parts], Figure | None]] = {
    "throughput": throughput,
    "latency": latency,
    "distributions": distributions,
    "beside": beside,
    "images": images,
    "rivals": rivals,
    "growth": growth,
}


def svg(figure: Figure) -> str:
    """Smaller than matplotlib makes it, and with colours for a dark ground."""
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
    """Draws what there are figures for, and returns the files."""
    parts = {name: figures["parts"].get(name, {"rows": []})["rows"] for name in PARTS}
    drawn = []
    with matplotlib.rc_context(STYLE):
        for name, picture in PICTURES.items():
            figure = picture(parts)
            if figure is not None:
                drawn.append(folder / f"{name}.svg")
                drawn[-1].write_text(svg(figure))
    return drawn
