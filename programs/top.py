"""The redisai-top command: what a server and its models do now, on a terminal. docs/top.md is its manual.

Rates and means are differences of two samples. figures.py says how asking for them stalls nobody.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from typing import Any, NamedTuple

import redis
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .address import add_url, without_password
from .figures import Figures, ServerFigures, label

SCAN_SECONDS = 10  # for how long a list of all models is kept
PLAIN_WIDTH = 1000  # of what is no terminal: so that nothing is cut there
WIDE = 100  # columns that a terminal must have for all of the table
Failure = (redis.RedisError, OSError)


class Sample(NamedTuple):
    at: float
    server: ServerFigures
    models: dict[tuple[str, str], dict[str, Any]]  # AI.INFO FULL by key and type


def take(figures: Figures) -> Sample:
    server = figures.server()
    return Sample(time.monotonic(), server, {(info["key"], info["type"]): info for info in figures.infos()})


def growth(old: float | None, new: float) -> float:
    """Of a counter, which begins anew at 0 with a new version of a model and when the server is restarted."""
    return new - old if old is not None and old <= new else new


def printable(text: object) -> str:
    """Keys and tags may hold what a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in label(text))


def size(text: str) -> str:
    number = float(text)
    for unit in "B", "KB", "MB":
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def duration(seconds: float) -> str:
    minutes, hours, days = int(seconds / 60), int(seconds / 3600), int(seconds / 86400)
    return f"{days} d {hours % 24} h" if days else f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def ms(microseconds: float) -> str:
    return f"{microseconds / 1000:.2f}" if microseconds < 100_000 else f"{microseconds / 1000:.0f}"


class View:
    """What is shown: of one sample, or with the rates since the one before."""

    def __init__(self, before: Sample | None, now: Sample) -> None:
        self.before = before
        self.now = now
        self.seconds = now.at - before.at if before else 0

    def grown(self, info: dict[str, Any], field: str) -> float:
        old = self.before.models.get((info["key"], info["type"])) if self.before else None
        return growth(old[field] if old else None, info[field])

    def rate(self, info: dict[str, Any]) -> float:
        return self.grown(info, "calls") / self.seconds if self.before else 0

    def show(self, console: Console, title: str) -> Group:
        parts: list[Text | Table] = [*self.head(title), Text(), self.devices(), Text()]
        height = console.height - 1 if console.is_terminal else PLAIN_WIDTH**2
        used = len(console.render_lines(Group(*parts), pad=False))
        return Group(*parts, self.models(max(height - used - 1, 1), console.width >= WIDE))

    def head(self, title: str) -> list[Text]:
        lines = self.now.server.lines
        memory = size(lines["used_memory"])
        if int(lines["maxmemory"]):
            memory += f" of {size(lines['maxmemory'])}"
        runs = f"{sum(map(self.rate, self.now.models.values())):.1f} runs/s, " if self.before else ""
        return [
            Text.assemble(
                (title, "bold"),
                f"  module {lines['ai_RedisAI_version']}, server {lines['redis_version']},"
                f" up {duration(int(lines['uptime_in_seconds']))},"
                f" {lines['connected_clients']} clients, {lines['blocked_clients']} of them wait",
            ),
            Text(
                f"{runs}{lines['ai_queued_runs']} runs wait with {size(lines['ai_queued_bytes'])},"
                f" {lines['ai_refused_runs']} refused; memory {memory}, libraries {size(lines['ai_backends_memory'])}"
            ),
        ]

    def devices(self) -> Table:
        table = Table("WORKER", box=None, pad_edge=False, header_style="reverse")
        table.add_column("CPU", justify="right")
        table.add_column("DOES", no_wrap=True)
        server = self.now.server
        for worker, seconds in server.cpu.items():
            old = self.before.server.cpu.get(worker) if self.before else None
            share = f"{growth(old, seconds) / self.seconds:.0%}" if self.before else "-"
            what, since = server.busy.get(worker, ("", 0))
            busy = f"{what} for {since:.1f} s" if what else ""
            table.add_row(printable(" ".join(worker)), share, printable(busy))
        for device, fields in server.processes.items():
            said = f"{fields['state']}, {size(fields['memory'])}, {fields['deaths']} deaths"
            table.add_row(f"process {printable(device)}", "", said)
        return table

    def models(self, rows: int, is_wide: bool) -> Table:
        table = Table(box=None, pad_edge=False, header_style="reverse")
        table.add_column("MODEL", no_wrap=True, min_width=10)
        if is_wide:
            table.add_column("TAG", no_wrap=True, max_width=16)
            table.add_column("BACKEND", no_wrap=True)
        table.add_column("DEVICE", no_wrap=True)
        for name in "RUNS/S", "BATCH", "WAITING", "WAIT P99", "RUN", "RUN P99", "ERRORS", "REFUSED":
            table.add_column(name, justify="right", no_wrap=True)
        infos = sorted(self.now.models.values(), key=lambda info: (-self.rate(info), info["key"]))
        for info in infos[: rows if len(infos) <= rows else rows - 1]:
            runs = self.grown(info, "executions")
            batch = f"{self.grown(info, 'samples') / runs:.1f}" if runs and info["samples"] >= 0 else "-"
            counts = [
                Text(str(info[field]), "red" if self.before and self.grown(info, field) else "")
                for field in ("errors", "refused")
            ]
            kind = info["backend"] if info["type"] == "MODEL" else "script"
            table.add_row(
                printable(info["key"]),
                *([printable(info["tag"]) or "-", kind] if is_wide else []),
                printable(info["device"]),
                f"{self.rate(info):.1f}" if self.before else "-",
                batch,
                str(info["queued"]),
                ms(info["queue_time_p99"]),
                ms(self.grown(info, "duration") / runs) if runs else "-",
                ms(info["run_time_p99"]),
                *counts,
            )
        if len(infos) > rows:
            table.add_row(f"and {len(infos) - table.row_count} more")
        return table


def watch(figures: Figures, console: Console, title: str, seconds: float) -> None:
    now = take(figures)
    shown: Group = View(None, now).show(console, title)
    with Live(shown, console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(seconds)
            try:
                before, now = now, take(figures)
                shown = View(before, now).show(console, title)
                live.update(shown, refresh=True)
            except Failure as error:  # it may come back
                live.update(Group(Text(printable(error), "bold red"), shown), refresh=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="redisai-top", description="What a server with the module and its models do now. Ctrl-C ends it."
    )
    add_url(parser)
    parser.add_argument("--seconds", type=float, default=2, help="between two samples (default: 2)")
    parser.add_argument("--once", action="store_true", help="print the figures of these seconds as text, and end")
    options = parser.parse_args()
    if not 0.1 <= options.seconds <= 3600:
        parser.error("--seconds must be between 0.1 and 3600")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the terminal is put in order again
    title = printable(without_password(options.url))
    console = Console(highlight=False, markup=False, emoji=False)
    try:
        figures = Figures(options.url, SCAN_SECONDS)
        if console.is_terminal and not options.once:
            watch(figures, console, title, options.seconds)
        console = Console(width=PLAIN_WIDTH, highlight=False, markup=False, emoji=False, force_terminal=False)
        before = take(figures)
        time.sleep(options.seconds)
        console.print(View(before, take(figures)).show(console, title))
        return 0
    except KeyboardInterrupt:
        return 0
    except (*Failure, ValueError) as error:
        print(f"redisai-top: {title}: {printable(error)}", file=sys.stderr)
        return 1
