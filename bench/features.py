"""The part "features": scores hashes in one DAG, beside clients that fetch them and run the model themselves.

Both sides are processes in Python with redis-py and hiredis (bench/features_client.py): the one sends a DAG, the other
a pipeline, whose replies it gives to ONNX Runtime. They alternate on one server.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from bench.features_client import HASHES, KEYS, MODEL, NAMES, network
from bench.harness import ROOT, alternate, row
from bench.report import Goal, Plan, Report, show, show_titles
from testkit.load import Result
from testkit.server import Server, fresh_server

CASE = "features-linear"
TIMES = {1: 5.0, 20: 3.0}  # by clients: how many times as often as by a pipeline
Client = subprocess.Popen[str]


def line_of(client: Client) -> str:
    assert client.stdout
    if line := client.stdout.readline():
        return line
    raise RuntimeError(f"{client.args!r} ended with {client.wait()}")


@contextmanager
def clients(way: str, on: Server, count: int) -> Iterator[list[Client]]:
    words = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "bench.features_client", way, str(on.port)]
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            client = stack.enter_context(
                subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(client.kill)  # before it is waited for
            started.append(client)
        for client in started:
            line_of(client)
        yield started


def scored(by: list[Client], seconds: float) -> Result:
    """How often all hashes are scored in a second, by all clients at once."""
    for client in by:
        assert client.stdin
        client.stdin.write(f"{seconds}\n")
        client.stdin.flush()
    return {"requests_per_s": sum(int(line_of(client)) for client in by) / seconds}


def fill(on: Server) -> None:
    model = network()
    with on.wire() as wire:
        for key, numbers in zip(KEYS, model.feed, strict=True):
            texts = [f"{number:.6g}" for number in numbers]
            wire.ask("HSET", key, *[word for pair in zip(NAMES, texts, strict=True) for word in pair])
        wire.ask_ok("AI.MODELSTORE", MODEL, "ONNX", "CPU", "BLOB", model.blob)


def run(plan: Plan) -> Report:
    report = Report()
    if not plan.wants(CASE):
        return report
    show_titles()
    counts = [1] if plan.quick else list(TIMES)
    with fresh_server() as on:
        fill(on)
        with clients("dag", on, max(counts)) as ours, clients("pipeline", on, max(counts)) as theirs:
            for count in counts:
                sides = [partial(scored, side[:count], plan.seconds) for side in (ours, theirs)]
                dag, pipeline = alternate(plan.repeat, *sides)
                measured = row(CASE, "pipeline", count, dag, pipeline)
                show(measured)
                report.rows.append(measured)
                text = f"{HASHES} hashes scored by a DAG, clients: {count}; times the rate of redis-py and ONNX Runtime"
                report.goals.append(Goal(text, measured["share"], TIMES[count]))
    return report
