"""The part "rivals": compares the credit-card network as a DAG with services that one would deploy instead.

Such a service is written in Python, reads the reference data of a card from Redis and runs the network with the same
library: bench/rivals_fastapi.py, bench/rivals_litserve.py. The library called in a loop is the third comparison: no
service with one worker can be faster. Each alternates with ours; every answer is compared.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from statistics import median

from bench.harness import ROOT, alternate, ratios, row, served
from bench.library_loop import library
from bench.report import Goal, Plan, Report, show, show_titles
from bench.throughput import dag_pair
from testkit import networks
from testkit.load import Result, Traffic, build_load, run_load
from testkit.server import Server, free_port, fresh_server
from testkit.waiting import wait_for

CONNECTIONS = (1, 10, 50)
JUDGED = 50
TIMES, P50_RATIO = 5.0, 1 / 3
START_SECONDS, STOP_SECONDS = 60.0, 10.0
LOOP = "rival-loop"


@dataclass(slots=True, frozen=True)
class Rival:
    """A service: python -m bench.rivals_<name> PORT PORT-OF-REDIS."""

    name: str
    title: str
    packages: tuple[str, ...]

    def missing(self) -> list[str]:
        return [package for package in self.packages if not find_spec(package)]


SERVICE = ("fastapi", "uvicorn", "uvloop", "httptools", "redis", "hiredis", "onnxruntime")
RIVALS = (Rival("fastapi", "FastAPI", SERVICE), Rival("litserve", "LitServe", ("litserve", *SERVICE)))


@dataclass(slots=True, frozen=True)
class Service:
    port: int


# ---- the services ----------------------------------------------------------------------------------------------------


def listens(process: subprocess.Popen[bytes], port: int) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serve(rival: Rival, redis: Server) -> Iterator[Service]:
    """Starts a service in a process group of its own, since it may start processes. It also ends if we are killed."""
    port = free_port()
    words = ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", f"bench.rivals_{rival.name}"]
    words += [str(port), str(redis.port)]
    process = subprocess.Popen(words, cwd=ROOT, start_new_session=True)
    try:
        wait_for(partial(listens, process, port), START_SECONDS, f"{rival.title} listens")
        yield Service(port)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):  # processes that it started may outlive it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def post(body: bytes, answer: bytes) -> Traffic:
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    return Traffic(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, answer, http=True)


# ---- measuring -------------------------------------------------------------------------------------------------------


def beside_service(plan: Plan, rival: Rival, on: Server, ours: Traffic, theirs: Traffic) -> Iterator[Result]:
    with serve(rival, on) as service:
        run_load(service, theirs, JUDGED, 0.2, 0.2)  # the first requests open connections to Redis
        for connections in (JUDGED,) if plan.quick else CONNECTIONS:
            much = connections, plan.seconds
            sides = alternate(plan.repeat, served(on, ours, *much), served(service, theirs, *much))
            measured = row(f"rival-{rival.name}", rival.title, connections, sides[0], sides[1])
            yield measured | {"p50_share": median(ratios(sides[0], sides[1], "p50_us"))}


def beside_loop(plan: Plan, on: Server, ours: Traffic) -> Result:
    """Compares rates only: a loop has no waiting clients, so no latencies."""
    with library(networks.fraud("ONNX")) as loop:
        looped = partial(loop.result, 1, plan.seconds)
        sides = alternate(plan.repeat, served(on, ours, JUDGED, plan.seconds), looped)
    return row(LOOP, "a loop", JUDGED, sides[0], sides[1])


def judge(measured: Result) -> Iterator[Goal]:
    if measured["connections"] == JUDGED and "p50_share" in measured:
        text = f"the credit-card case as a DAG, {JUDGED} connections, beside {measured['against']}: "
        yield Goal(f"{text}times its throughput", measured["share"], TIMES)
        yield Goal(f"{text}share of its p50", measured["p50_share"], P50_RATIO, at_most=True)


def rows(plan: Plan, report: Report) -> Iterator[Result]:
    wanted = [rival for rival in RIVALS if plan.wants(f"rival-{rival.name}")]
    if not wanted and not plan.wants(LOOP):
        return
    transaction, reference = (values for _, values in networks.fraud("ONNX").feeds)
    with fresh_server() as on:
        ours = dag_pair("fraud", "ONNX", (), on).measured
        with on.wire() as wire:
            wire.ask("SET", "reference", reference.tobytes())
            output = wire.ask("AI.TENSORGET", "fraud:out", "BLOB")
        theirs = post(transaction.tobytes(), output)
        for rival in wanted:
            if missing := rival.missing():
                report.skipped.append(f"{rival.title}: .venv/bin/pip install {' '.join(missing)}")
                continue
            yield from beside_service(plan, rival, on, ours, theirs)
        if plan.wants(LOOP):
            yield beside_loop(plan, on, ours)


def run(plan: Plan) -> Report:
    build_load()
    report = Report()
    show_titles()
    for measured in rows(plan, report):
        show(measured)
        report.rows.append(measured)
        report.goals += judge(measured)
    return report
