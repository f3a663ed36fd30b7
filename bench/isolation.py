"""The part "isolation": compares runs in an engine process (ISOLATION process) with runs in the server itself.

Two servers alternate, one of each kind. TORCH runs in two workers. What one connection pays is compared in microseconds
of the median, all else in rates. A GET beside inference is measured, too, and the CPU time of two idle servers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from bench import throughput
from bench.beside import loaded
from bench.harness import alternate, median_of
from bench.mobilenet import mobilenet
from bench.report import Goal, Plan, Report
from testkit import networks
from testkit.engines import engine_pids
from testkit.load import GET, SET, Result, Traffic, run_load
from testkit.process import thread_ns
from testkit.server import Server, fresh_server

WARMUP = 0.3
MANY = 50
MAX_EXTRA_US = 40.0
MAX_GET = 1.1  # p99 beside inference, relative to the embedded mode; the goal is 1, the rest is noise
IDLE_SECONDS = 2.0


@dataclass(slots=True, frozen=True)
class Case:
    name: str
    build: Callable[[], networks.Network]
    connections: int
    share: float  # of the embedded rate, at least
    workers: int = 1


CASES = (
    Case("linear-onnx", networks.linear, 1, 0.0),
    Case("linear-onnx", networks.linear, MANY, 0.85),
    Case("cnn-onnx", networks.cnn, MANY, 0.95),
    Case("fraud-tf", partial(networks.fraud, "TF"), MANY, 0.95),
    Case("fraud-onnx", partial(networks.fraud, "ONNX"), MANY, 0.95),
    Case("mlp-torch", partial(networks.mlp, "TORCH"), MANY, 1.0, workers=2),
    Case("mobilenet-onnx", partial(mobilenet, "ONNX"), 1, 1 / 1.15),
    Case("mobilenet-torch", partial(mobilenet, "TORCH"), 1, 1 / 1.15),
)
BESIDE = ("linear-onnx", "cnn-onnx")


def processes(on: Server) -> list[int]:
    """The server, and its engine processes."""
    with on.wire() as wire:
        return [on.pid, *engine_pids(wire).values()]


def idle_cores(on: Server) -> float:
    """Cores that the server and its processes use while nobody asks anything; the commands of others count not."""
    pids = processes(on)
    time.sleep(1.0)  # what has been begun ends
    before, start = sum(sum(thread_ns(pid).values()) for pid in pids), time.monotonic()
    time.sleep(IDLE_SECONDS)
    used = sum(sum(thread_ns(pid).values()) for pid in pids) - before
    return used / 1e9 / (time.monotonic() - start)


def get_beside(on: Server, traffic: Traffic, seconds: float) -> Result:
    with loaded(on, traffic):
        return run_load(on, GET, 1, seconds, WARMUP)


def measure(case: Case, plan: Plan) -> Iterator[dict[str, Any]]:
    model = case.build()
    with fresh_server(case.workers, "process") as ours, fresh_server(case.workers) as embedded:
        traffic = [throughput.prepare(on, case.name, model) for on in (ours, embedded)]
        much = case.connections, plan.seconds, min(WARMUP, plan.seconds / 2)
        isolated, plain = alternate(
            plan.repeat,
            partial(run_load, ours, traffic[0], *much),
            partial(run_load, embedded, traffic[1], *much),
        )
        for on in (ours, embedded):
            throughput.output_of(on, case.name, model)
        pairs = list(zip(isolated, plain, strict=True))
        row: dict[str, Any] = {"case": case.name, "connections": case.connections, "workers": case.workers}
        row |= {**median_of(isolated), "embedded": median_of(plain)}
        row["share"] = median(a["requests_per_s"] / b["requests_per_s"] for a, b in pairs)
        row["extra_us"] = median(a["p50_us"] - b["p50_us"] for a, b in pairs)
        yield row
        if case.connections == MANY and case.name in BESIDE:
            for on in (ours, embedded):
                throughput.send(on, SET.request)
            gets = alternate(
                plan.repeat,
                partial(get_beside, ours, traffic[0], plan.seconds),
                partial(get_beside, embedded, traffic[1], plan.seconds),
            )
            ratio = median(a["p99_us"] / b["p99_us"] for a, b in zip(*gets, strict=True))
            yield {
                "case": f"get-beside-{case.name}",
                "p99_us": median_of(gets[0])["p99_us"],
                "embedded_p99_us": median_of(gets[1])["p99_us"],
                "ratio": ratio,
            }
        if case.name == "linear-onnx" and case.connections == MANY:
            yield {"case": "idle", "cores": idle_cores(ours), "embedded_cores": idle_cores(embedded)}


def judge(rows: list[dict[str, Any]]) -> Iterator[Goal]:
    shares = {(case.name, case.connections): case.share for case in CASES}
    for row in rows:
        name = row["case"]
        if name == "idle":
            yield Goal("cores that an idle server with an engine process uses", row["cores"], 0.002, at_most=True)
        elif "ratio" in row:
            yield Goal(f"{name}: p99 to that of the embedded mode", row["ratio"], MAX_GET, at_most=True)
        elif row["connections"] == 1 and not shares[name, 1]:
            yield Goal(f"{name}, one connection: more than embedded, us", row["extra_us"], MAX_EXTRA_US, at_most=True)
        else:
            text = f"{name}, {throughput.count(row['connections'])}: rate to that of the embedded mode"
            yield Goal(text, row["share"], shares[name, row["connections"]])


def run(plan: Plan) -> Report:
    report = Report()
    for case in CASES:
        if not plan.wants(case.name) or (plan.quick and case.name != "linear-onnx"):
            continue
        for row in measure(case, plan):
            report.rows.append(row)
            print(
                "  ".join(
                    f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
                    for key, value in row.items()
                    if not isinstance(value, dict)
                ),
                flush=True,
            )
    report.goals += judge(report.rows)
    return report
