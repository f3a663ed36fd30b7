"""The part "tuning": BATCHSIZE auto beside a grid of fixed settings, by model and load.

Each setting is a key of its own with the same model on one server. All alternate. The best fixed setting is chosen
afterwards, for each load anew: whoever sets numbers would have to know the load. What is best in half of the rounds is
compared in the other half, and the other way round: the best of many figures owes something to chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from bench.harness import alternate, ratios, served
from bench.mobilenet import mobilenet
from bench.report import Goal, Plan, Report
from bench.throughput import output_of, prepare
from testkit import networks
from testkit.info import ai_info
from testkit.load import Result
from testkit.server import Server, fresh_server
from testkit.wire import Word

CONNECTIONS = (1, 4, 16, 50)
WIDE = (1024, 2048, 2048, 2048, 10)  # 40 MB of weights: reading them takes longer than the arithmetic of a row
SHARE = 0.9  # of the best fixed setting's rate
P99 = 1.1  # at one connection: times that without batches
AUTO, NONE = "auto", "none"
LEARNING = 4.0  # seconds of each load before it is measured


def wide() -> networks.Network:
    return networks.dense("ONNX", WIDE, (("x", networks.random(1, WIDE[0])),))


MODELS: dict[str, Callable[[], networks.Network]] = {
    "linear-onnx": partial(networks.linear, "n"),
    "mlp-torch": partial(networks.mlp, "TORCH"),
    "fraud-tf": partial(networks.fraud, "TF"),
    "cnn-onnx": partial(networks.cnn, "n"),
    "mobilenet-onnx": partial(mobilenet, "ONNX"),
    "wide-onnx": wide,
}


def settings(connections: int) -> dict[str, tuple[Word, ...]]:
    """Options of AI.MODELSTORE by their short name: rows at most/least/ms that they are waited for."""
    grid: dict[str, tuple[Word, ...]] = {NONE: (), AUTO: ("BATCHSIZE", "auto")}
    for size in (8, 32) if connections > 1 else (32,):
        grid[str(size)] = ("BATCHSIZE", size)
    for least, ms in ((connections // 2, 1), (connections, 1), (connections, 20)) if connections > 1 else ():
        grid[f"256/{least}/{ms}"] = ("BATCHSIZE", 256, "MINBATCHSIZE", least, "MINBATCHTIMEOUT", ms)
    return grid


def shares(results: dict[str, Sequence[Result]]) -> tuple[list[str], list[float]]:
    """The best fixed setting in each half of the rounds, and the rates of AUTO relative to it in the other half."""
    best, found = [], []
    for half in range(2):
        here, there = ({name: each[k::2] for name, each in results.items()} for k in (half, 1 - half))
        rates = {name: median(each["requests_per_s"] for each in here[name] or there[name]) for name in results}
        best.append(max(set(rates) - {AUTO}, key=rates.__getitem__))
        found += ratios(there[AUTO], there[best[-1]])
    return best, found


def measure(on: Server, name: str, model: networks.Network, connections: int, plan: Plan) -> dict[str, Any]:
    grid = settings(connections)
    keys = {setting: f"{name}-{setting}" for setting in grid}
    traffic = {setting: prepare(on, keys[setting], model, *grid[setting]) for setting in grid}
    served(on, traffic[AUTO], connections, min(LEARNING, 8 * plan.seconds))()
    sides = [served(on, traffic[setting], connections, plan.seconds / 2) for setting in grid]
    rounds = plan.repeat * (3 if connections == 1 else 1)  # the highest latencies differ more from round to round
    results: dict[str, Sequence[Result]] = dict(zip(grid, alternate(rounds, *sides), strict=True))
    output_of(on, keys[AUTO], model)
    rates = {setting: median(each["requests_per_s"] for each in results[setting]) for setting in grid}
    chosen, found = shares(results)
    best = max(chosen, key=rates.__getitem__)
    with on.wire() as wire:
        told = ai_info(wire, keys[AUTO], "FULL")
        wire.ask("DEL", *keys.values())
    return {
        "case": name,
        "connections": connections,
        "auto_per_s": rates[AUTO],
        "none_per_s": rates[NONE],
        "best_per_s": rates[best],
        "best": best,
        "share": median(found),
        "p99_us": median(each["p99_us"] for each in results[AUTO]),
        "none_p99_us": median(each["p99_us"] for each in results[NONE]),
        "best_p99_us": median(each["p99_us"] for each in results[best]),
        "p99_share": median(ratios(results[AUTO], results[NONE], "p99_us")),
        "batchsize": told["auto_batchsize"],
        "wait_us": told["auto_wait"],
        "grid": ", ".join(f"{setting} {rates[setting]:.0f}" for setting in grid if setting != AUTO),
    }


def judge(row: dict[str, Any]) -> list[Goal]:
    name = f"{row['case']}, connections: {row['connections']}"
    goals = [Goal(f"{name}: rate of BATCHSIZE auto to that of the best fixed setting", row["share"], SHARE)]
    if row["connections"] == 1:
        text = f"{name}: p99 of BATCHSIZE auto to that without batches"
        goals.append(Goal(text, row["p99_share"], P99, at_most=True))
    return goals


def run(plan: Plan) -> Report:
    report = Report()
    for name, build in MODELS.items():
        if not plan.wants(name) or (plan.quick and not plan.wanted and name != "wide-onnx"):
            continue
        model = build()
        with fresh_server() as on:
            for connections in (1, 16) if plan.quick else CONNECTIONS:
                row = measure(on, name, model, connections, plan)
                print(
                    "  ".join(
                        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                        for key, value in row.items()
                    ),
                    flush=True,
                )
                report.rows.append(row)
                report.goals += judge(row)
    return report
