"""The part "aibench": the two cases of AIBench, the benchmark that was published with RedisAI.

The credit-card check ("aibench-...") is a network in TF whose transaction comes with the request. Its reference data
lie in Redis: as a tensor that the DAG loads, or as a string that a service gets (bench/rivals_check.py). It is measured
with and without reference data, as AI.DAGEXECUTE beside AI.DAGRUN, and beside services.

The images ("vision-...") go through MobileNetV1: in batches that one client sends, and one by one from as many clients
as a batch has images, or twice as many. Each is compared with the library in a loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np

from bench import images, rivals
from bench.harness import alternate, median_of, ratios, row, served
from bench.library_loop import Library, library
from bench.mobilenet import SIDE, mobilenet
from bench.report import Goal, Plan, Report, show, show_titles
from bench.throughput import dag_pair
from testkit import networks
from testkit.load import Result, build_load
from testkit.networks import Network
from testkit.server import Server, fresh_server

OURS = "aibench-dagexecute"
WITHOUT = "-no-reference"
COMMANDS = ("AI.DAGEXECUTE", "AI.DAGRUN")
CONNECTIONS = (1, 4, 16, 64)  # of ours
BESIDE = (1, 8, 64)  # of services; without reference data only the last
RIVALS = (*rivals.RIVALS, *rivals.MORE)
BACKEND = "TF"
BACKENDS = {"torchserve": "TORCH"}  # it serves no other
TIMES = {"flask": 9.0, "torchserve": 4.0}  # what was published
VISION = ("TF", "TFLITE")
SIZES = (1, 4, 8, 16, 32)  # of the batches of one client
BATCHES = (8, 32)  # that the server makes
QUICK = (OURS, "aibench-flask")


def chosen(plan: Plan, name: str) -> bool:
    return plan.wants(name) and bool(plan.wanted or not plan.quick or name in QUICK)


def short(measured: Result) -> Result:
    """Without what neither table nor picture needs: there are many rows."""
    return {
        name: short(value) if isinstance(value, dict) else value
        for name, value in measured.items()
        if name not in ("p999_us", "max_us", "share_min", "share_max")
    }


# ---- the credit-card check ----


def beside_dagrun(plan: Plan, reference: bool) -> Iterator[Result]:
    with fresh_server() as on:
        ours = [dag_pair("fraud", BACKEND, (), on, reference, command).measured for command in COMMANDS]
        for connections in CONNECTIONS[-1:] if plan.quick else CONNECTIONS:
            execute, run = alternate(plan.repeat, *(served(on, each, connections, plan.seconds) for each in ours))
            yield row(OURS + ("" if reference else WITHOUT), COMMANDS[1], connections, execute, run)


def beside_rival(plan: Plan, rival: rivals.Rival, reference: bool) -> Iterator[Result]:
    model = networks.fraud(BACKENDS.get(rival.name, BACKEND), reference)
    case = f"aibench-{rival.name}" + ("" if reference else WITHOUT)
    with fresh_server() as on:
        ours = dag_pair("fraud", model.backend, (), on, reference).measured
        if reference:
            rivals.store_reference(on, model)
        of = rivals.Contest(case, on, ours, model, reference)
        yield from rivals.beside_service(plan, rival, of, BESIDE if reference else BESIDE[-1:])


def check_rows(plan: Plan, report: Report) -> Iterator[Result]:
    for reference in (True, False):
        if chosen(plan, OURS + ("" if reference else WITHOUT)) and (reference or not plan.quick):
            yield from beside_dagrun(plan, reference)
    for rival in RIVALS:
        if not chosen(plan, f"aibench-{rival.name}"):
            continue
        if missing := rival.missing():
            report.skipped.append(f"{rival.title}: {missing}")
            continue
        try:
            for reference in (True,) if plan.quick else (True, False):
                yield from beside_rival(plan, rival, reference)
        except (RuntimeError, AssertionError, OSError) as error:  # the others are still measured
            report.skipped.append(f"{rival.title}: {error}")


def judge(measured: Result) -> Iterator[Goal]:
    name = measured["case"].removeprefix("aibench-")
    if name in TIMES and measured["connections"] == BESIDE[-1]:
        text = f"the credit-card check of AIBench, {BESIDE[-1]} connections, beside {measured['against']}: "
        yield Goal(f"{text}times its throughput", measured["share"], TIMES[name])


# ---- images ----


def from_one_client(on: Server, direct: Library, name: str, model: Network, batch: int, plan: Plan) -> Iterator[Result]:
    """One client that sends as many images with each request as a batch has."""
    feeds = tuple((feed, np.repeat(values, batch, 0)) for feed, values in model.feeds)
    many = replace(model, feeds=feeds, output=np.repeat(model.output, batch, 0))
    images.store(on, name, many)
    ours, loop = alternate(
        plan.repeat,
        partial(images.served, on, name, many, 1, 1, plan.seconds),
        partial(direct.result, batch, plan.seconds),
    )
    shares = [batch * share for share in ratios(ours, loop)]
    yield {
        "case": name,
        "batch": batch,
        "threads": 1,
        "connections": 1,
        **{key: median(result[key] for result in ours) for key in ours[0]},
        "library_per_s": median_of(loop)["requests_per_s"],
        "share": median(shares),
        "share_min": min(shares),
        "share_max": max(shares),
    }


def image_rows(plan: Plan, name: str, model: Network) -> Iterator[Result]:
    with images.server(1) as on, library(model) as direct:
        for batch in SIZES[:1] if plan.quick else SIZES:
            for measured in from_one_client(on, direct, name, model, batch, plan):
                yield measured | {"images_per_s": batch * measured["requests_per_s"]}
        for batch in () if plan.quick else BATCHES:
            for measured in images.measure(on, direct, name, model, batch, 1, plan.seconds, plan.repeat):
                yield measured | {"images_per_s": measured["requests_per_s"]}


def run(plan: Plan) -> Report:
    build_load()
    report = Report()
    show_titles()
    for measured in check_rows(plan, report):
        show(measured)
        report.rows.append(short(measured))
        report.goals += judge(measured)
    for backend in VISION:
        name = f"vision-{backend.lower()}"
        if not chosen(plan, name):
            continue
        try:
            model = mobilenet(backend, SIDE, version=1)
        except ImportError as error:
            report.skipped.append(f"{name}: {error}; pip install -c constraints.txt '.[bench]' brings it")
            continue
        for measured in image_rows(plan, name, model):
            print(images.line(measured | {"requests_per_s": measured["images_per_s"]}), flush=True)
            report.rows.append(short(measured))
    return report
