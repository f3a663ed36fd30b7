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
from bench.harness import alternate, median_of, ratios, row, served
from bench.mobilenet import mobilenet
from bench.report import Goal, Plan, Report, show, show_titles
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
        much = case.connections, plan.seconds
        isolated, plain = alternate(plan.repeat, served(ours, traffic[0], *much), served(embedded, traffic[1], *much))
        for on in (ours, embedded):
            throughput.output_of(on, case.name, model)
        extra = median(a["p50_us"] - b["p50_us"] for a, b in zip(isolated, plain, strict=True))
        yield row(case.name, "embedded", case.connections, isolated, plain) | {
            "workers": case.workers,
            "extra_us": extra,
        }
        if case.connections == MANY and case.name in BESIDE:
            for on in (ours, embedded):
                throughput.send(on, SET.request)
            gets = alternate(
                plan.repeat,
                partial(get_beside, ours, traffic[0], plan.seconds),
                partial(get_beside, embedded, traffic[1], plan.seconds),
            )
            ratio = median(ratios(gets[0], gets[1], "p99_us"))
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
    for each in rows:
        name = each["case"]
        if name == "idle":
            yield Goal("cores that an idle server with an engine process uses", each["cores"], 0.002, at_most=True)
        elif "ratio" in each:
            yield Goal(f"{name}: p99 to that of the embedded mode", each["ratio"], MAX_GET, at_most=True)
        elif each["connections"] == 1 and not shares[name, 1]:
            yield Goal(f"{name}, one connection: more than embedded, us", each["extra_us"], MAX_EXTRA_US, at_most=True)
        else:
            text = f"{name}, {throughput.count(each['connections'])}: rate to that of the embedded mode"
            yield Goal(text, each["share"], shares[name, each["connections"]])


def run(plan: Plan) -> Report:
    report = Report()
    show_titles()
    for case in CASES:
        if not plan.wants(case.name) or (plan.quick and case.name != "linear-onnx"):
            continue
        for each in measure(case, plan):
            report.rows.append(each)
            if "plain" in each:
                show(each)
            else:
                numbers = (f"{name} {value:.3f}" for name, value in each.items() if name != "case")
                print(each["case"], *numbers, sep="  ", flush=True)
    report.goals += judge(report.rows)
    return report
