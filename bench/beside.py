"""The part "beside": how long a GET of one client takes while others run models, and while a large model is stored.

Inference takes CPU time and time of the event loop, as any other work would. So it is compared with equal work
elsewhere: bench/busy.c, a process whose thread computes as long for each request as the worker does, and stores each
result with a plain SET. The worker's time for a request is measured first; the kernel counts CPU time by thread.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from bench import throughput
from bench.harness import ROOT, alternate, median_of, ratios
from bench.mobilenet import mobilenet
from bench.report import Goal, Plan, Report
from testkit import networks
from testkit.load import GET, SET, Load, Result, Traffic, build, modelstore, run_load, worst_get_beside
from testkit.process import thread_ns
from testkit.server import Server, fresh_server
from testkit.values import Model
from testkit.wire import encode

BUSY = ROOT / "bench" / "busy.c"
CONNECTIONS = 50
WARMUP = 0.3
MEGABYTES = 500
MAX_RATIO = 1.3
MAX_MS = 10.0
LOADS = (
    "linear-onnx",
    "mlp-onnx",
    "mlp-torch",
    "mlp-tf",
    "mlp-torch-batch",
    "cnn-onnx",
    "cnn-onnx-batch",
    "fraud-tf",
    "fraud-tf-batch",
    "fraud-dag-tf",
)
# Cases of which bench/pictures.py draws the distribution of latencies.
DRAWN = ("beside-nothing", "beside-set", "beside-cnn-onnx", "beside-mlp-torch", "beside-fraud-tf")
QUICK = ("beside-nothing", "beside-set", "beside-cnn-onnx", "beside-storing")


# ---- CPU time --------------------------------------------------------------------------------------------------------


def threads_ns(pid: int) -> tuple[int, int]:
    """CPU time of the main thread, and of all other threads together."""
    used = thread_ns(pid)
    return used[pid], sum(used.values()) - used[pid]


def commands(on: Server) -> int:
    return int(on.info("stats")["total_commands_processed"])


@dataclass(slots=True, frozen=True)
class Work:
    """Cores that the event loop and the worker use, and the commands answered per second."""

    loop: float
    worker: float
    requests: float


@contextmanager
def watched(on: Server, worker: int) -> Iterator[Callable[[], Work]]:
    """`worker` is the process whose threads, except the main one, do the work."""
    start, done, loop, others = time.monotonic(), commands(on), threads_ns(on.pid)[0], threads_ns(worker)[1]

    def work() -> Work:
        seconds = time.monotonic() - start
        loop_ns, worker_ns = threads_ns(on.pid)[0] - loop, threads_ns(worker)[1] - others
        return Work(loop_ns / 1e9 / seconds, worker_ns / 1e9 / seconds, (commands(on) - done) / seconds)

    yield work


# ---- loads -----------------------------------------------------------------------------------------------------------


@contextmanager
def loaded(on: Server, traffic: Traffic) -> Iterator[int]:
    """Runs the load; yields the process whose threads do the work."""
    with Load(on, traffic, CONNECTIONS) as load:
        load.start(warmup=WARMUP)
        yield on.pid
        load.finish(now=True)


@contextmanager
def busy(on: Server, burn_us: float) -> Iterator[int]:
    words = [str(build(BUSY)), str(on.port), str(CONNECTIONS), f"{burn_us:.3f}"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        if (line := process.stderr.readline()) != "started\n":
            raise RuntimeError(line + process.stderr.read())
        time.sleep(WARMUP)
        yield process.pid
        if process.poll() is not None:
            raise RuntimeError(process.stderr.read())
    finally:
        process.kill()
        process.wait()


Loader = Callable[[], AbstractContextManager[int]]


def burned_us(on: Server, load: Loader, seconds: float) -> float:
    """CPU time of the worker for each request, in microseconds."""
    with load() as worker, watched(on, worker) as work:
        time.sleep(seconds)
        done = work()
    return done.worker / done.requests * 1e6


# ---- measuring -------------------------------------------------------------------------------------------------------


def gets(on: Server, load: Loader, seconds: float) -> tuple[Result, Work]:
    with load() as worker, watched(on, worker) as work:
        result = run_load(on, GET, 1, seconds, WARMUP)
        return result, work()


def summary(name: str, measured: list[tuple[Result, Work]]) -> dict[str, Any]:
    works = [work for _, work in measured]
    return {
        **median_of([result for result, _ in measured], distribution=name in DRAWN),
        "worker_cores": median(work.worker for work in works),
        "loop_cores": median(work.loop for work in works),
        "commands_per_s": median(work.requests for work in works),
    }


def show(name: str, row: dict[str, Any]) -> None:
    numbers = [f"{row[number]:>8.0f}" for number in ("p50_us", "p99_us", "p999_us", "max_us", "commands_per_s")]
    numbers += [f"{row[number]:>7.2f}" for number in ("worker_cores", "loop_cores")]
    print(f"{name:<36}", *numbers, flush=True)


def measure_plain(on: Server, name: str, load: Loader, plan: Plan) -> dict[str, Any]:
    row = {"case": name, **summary(name, [gets(on, load, plan.seconds) for _ in range(plan.repeat)])}
    show(name, row)
    return row


def measure(on: Server, name: str, traffic: Traffic, plan: Plan) -> dict[str, Any]:
    inference = partial(loaded, on, traffic)
    burn_us = burned_us(on, inference, plan.seconds)
    elsewhere = partial(busy, on, burn_us)
    ours, others = alternate(
        plan.repeat, partial(gets, on, inference, plan.seconds), partial(gets, on, elsewhere, plan.seconds)
    )
    times = ratios([result for result, _ in ours], [result for result, _ in others], "p99_us")
    row = {"case": name, "connections": CONNECTIONS, **summary(name, ours), "busy": summary(name, others)}
    row |= {"burn_us": burn_us, "ratio": median(times), "ratio_max": max(times)}
    show(name, row)
    show(f"  {burn_us:.1f} us and a SET elsewhere", row["busy"])
    return row


def loads() -> Iterator[tuple[str, Callable[[Server], Traffic]]]:
    """The names of the cases, and functions that store what a case needs and return its traffic."""

    def prepared(case: throughput.Case, on: Server) -> Traffic:
        return case.prepare(on).measured

    for case in throughput.cases():
        if case.name in LOADS:
            yield case.name, partial(prepared, case)
    yield "mobilenet-onnx", lambda on: throughput.prepare(on, "mobilenet-onnx", mobilenet("ONNX"))


def storing(megabytes: int, plan: Plan) -> Iterator[dict[str, Any]]:
    large = networks.large(megabytes)
    requests = {"set": encode(("SET", "large", large)), "storing": modelstore("large", Model("ONNX", large))}
    for what, request in requests.items():
        runs = [worst_get_beside(request) for _ in range(plan.repeat)]
        row = {"case": f"beside-{what}-{megabytes}MB", "worst_ms": max(worst for worst, _ in runs)}
        row |= {"median_worst_ms": median(worst for worst, _ in runs), "took_ms": median(took for _, took in runs)}
        print(f"{row['case']:<36} slowest GET {row['worst_ms']:.2f} ms, in {row['took_ms']:.0f} ms", flush=True)
        yield row


def judge(rows: list[dict[str, Any]]) -> Iterator[Goal]:
    for row in rows:
        if "ratio" in row:
            text = f"p99 of GET {row['case'].replace('-', ' ', 1)}, {CONNECTIONS} connections"
            yield Goal(f"{text}, to that beside equal work elsewhere", row["ratio"], MAX_RATIO, at_most=True)
        if row["case"] == f"beside-storing-{MEGABYTES}MB":
            yield Goal(
                f"the slowest GET in ms while an ONNX model of {MEGABYTES} MB is stored",
                row["worst_ms"],
                MAX_MS,
                at_most=True,
            )


def run(plan: Plan) -> Report:
    report = Report()

    def wants(name: str) -> bool:
        return plan.wants(name) and (bool(plan.wanted) or not plan.quick or name in QUICK)

    title = ("p50 us", "p99 us", "p99.9", "max us", "cmds/s")
    print(f"{'a GET':<36}", *(f"{each:>8}" for each in title), f"{'worker':>7} {'loop':>7}", flush=True)
    with fresh_server() as on:
        throughput.send(on, SET.request)
        if wants("beside-nothing"):
            report.rows.append(measure_plain(on, "beside-nothing", lambda: nullcontext(on.pid), plan))
        if wants("beside-set"):
            report.rows.append(measure_plain(on, "beside-set", partial(loaded, on, SET), plan))
    for name, prepare in loads():
        if wants(f"beside-{name}"):
            with fresh_server() as on:
                throughput.send(on, SET.request)
                report.rows.append(measure(on, f"beside-{name}", prepare(on), plan))
    if wants("beside-storing"):
        report.rows += storing(50 if plan.quick else MEGABYTES, plan)
    report.goals += judge(report.rows)
    return report
