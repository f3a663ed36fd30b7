"""The part "flows": entries of a stream that a flow runs a tiny model on, what a trigger takes, what other clients pay.

Entries come one in a batch, and 100. Triggers come from one connection, one after another. Writes are compared between
a server without flows, one with FLOWS yes and no flow, and one whose flow watches other keys.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

from bench.bindings import PIPELINE, write, write_us
from bench.harness import alternate, median_of
from bench.report import Goal, Plan, Report
from testkit import networks
from testkit.load import Result, modelstore
from testkit.server import Server, fresh_server
from testkit.waiting import wait_for
from testkit.wire import encode

STREAM, TRIGGER, COST = "flows-stream", "flows-trigger", "flows-cost"
ENTRIES, TRIGGERS, WRITES = 20_000, 2_000, 50_000
QUICK = 50  # times less
BATCHES = (1, 100)
MIN_ENTRIES, MAX_TRIGGER_US = 5_000, 1_000

MODEL = """
import redisAI

async def score(record):
    numbers = [float(n) for n in record["value"]["x"].split()]
    runner = redisAI.createModelRunner("linear")
    redisAI.modelRunnerAddInput(runner, "x", redisAI.createTensorFromValues("FLOAT", [1, 4], numbers))
    redisAI.modelRunnerAddOutput(runner, "y")
    (y,) = await redisAI.modelRunnerRunAsync(runner)
    return redisAI.tensorToFlatList(y)

GB("StreamReader").map(score).register("in:{batch}", batch={batch}, duration=100)
"""
ECHO = 'GB("CommandReader").map(lambda words: words[1]).register(trigger="echo")'
WATCH = 'GB("KeysReader").map(lambda record: record["key"]).register("other:*")'


@contextmanager
def flows_server() -> Iterator[Server]:
    with fresh_server(more=("FLOWS", "yes")) as on:
        with on.wire() as wire:
            wire.socket.sendall(modelstore("linear", networks.linear()))
            if (reply := wire.read()) != b"OK":
                raise RuntimeError(reply)
            for code in (ECHO, *(MODEL.replace("{batch}", str(batch)) for batch in BATCHES)):
                wire.ask_ok("RG.PYEXECUTE", code)
        yield on


def entries(on: Server, batch: int, count: int) -> Result:
    """Entries a second, from the first XADD to the last run."""
    stream = f"in:{batch}"
    with on.wire() as wire:
        start = time.monotonic()
        for _ in range(0, count, PIPELINE):
            wire.socket.sendall(encode(("XADD", stream, "*", "x", "1 2 3 4")) * PIPELINE)
            for _ in range(PIPELINE):
                wire.read()
        wait_for(lambda: wire.ask("XLEN", stream) == 0, 600, "all entries have run")
        return {"requests_per_s": count / (time.monotonic() - start)}


def triggers(on: Server, count: int) -> Result:
    with on.wire() as wire:
        times = sorted(wire.timed("RG.TRIGGER", "echo", i)[1] * 1e6 for i in range(count))
    return {"requests_per_s": 1e6 * count / sum(times), "p50_us": median(times), "p99_us": times[int(0.99 * count)]}


def cost(servers: dict[str, Server], count: int) -> dict[str, float]:
    wires = {name: on.wire() for name, on in servers.items()}
    for wire in wires.values():
        write(wire, "key", count)
    return {f"{name}_us": write_us(wire, "key", count) for name, wire in wires.items()}


def add_streams(report: Report, plan: Plan, on: Server, count: int) -> None:
    for batch in BATCHES:
        entries(on, batch, PIPELINE)
    sides = alternate(plan.repeat, *(partial(entries, on, batch, count) for batch in BATCHES))
    for batch, results in zip(BATCHES, sides, strict=True):
        row = {"case": STREAM, "batch": batch, **median_of(results)}
        print(f"{STREAM}, batch={batch}: {row['requests_per_s']:.0f} entries/s", flush=True)
        report.rows.append(row)
        text = f"entries/s through a flow that runs a tiny model, batch={batch}"
        report.goals.append(Goal(text, row["requests_per_s"], MIN_ENTRIES))


def add_triggers(report: Report, plan: Plan, on: Server, count: int) -> None:
    row = {"case": TRIGGER, **median_of([triggers(on, count) for _ in range(plan.repeat)])}
    print(f"{TRIGGER}: {row['p50_us']:.0f} us, p99 {row['p99_us']:.0f} us", flush=True)
    report.rows.append(row)
    report.goals.append(Goal("RG.TRIGGER at one connection, p50 us", row["p50_us"], MAX_TRIGGER_US, at_most=True))


def add_cost(report: Report, plan: Plan, count: int) -> None:
    with fresh_server() as off, fresh_server(more=("FLOWS", "yes")) as idle, fresh_server(more=("FLOWS", "yes")) as on:
        with on.wire() as wire:
            wire.ask_ok("RG.PYEXECUTE", WATCH)
        servers = {"off": off, "idle": idle, "watched": on}
        rounds = [cost(servers, count) for _ in range(plan.repeat)]
    row = {"case": COST, **{name: median(each[name] for each in rounds) for name in rounds[0]}}
    print(f"{COST}: a write takes {row['off_us']:.2f} us, {row['idle_us']:.2f} with FLOWS yes, "
          f"{row['watched_us']:.2f} beside a flow of other keys", flush=True)  # fmt: skip
    report.rows.append(row)


def run(plan: Plan) -> Report:
    report, less = Report(), QUICK if plan.quick else 1
    with flows_server() as on:
        if plan.wants(STREAM):
            add_streams(report, plan, on, ENTRIES // less)
        if plan.wants(TRIGGER):
            add_triggers(report, plan, on, TRIGGERS // less)
    if plan.wants(COST):
        add_cost(report, plan, WRITES // less)
    return report
