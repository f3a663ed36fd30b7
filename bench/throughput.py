"""scripts/bench: how fast commands of the module are beside plain SET and GET, and batches beside single runs.

Each case alternates with its comparison on the same server and the same number of connections, several times, and what
counts is the median of the ratios of neighbours: a machine that is now faster, now slower shifts both alike.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench import models
from bench.harness import (
    GET,
    ROOT,
    SET,
    Traffic,
    build_load,
    bulk,
    execution,
    machine,
    run_load,
    server,
    tensorset,
    watch_others,
)
from server import Server
from wire import encode

CONNECTIONS = (1, 10, 50)
SIZES = {"120B": 120, "4KB": 4 << 10, "1MB": 1 << 20, "4MB": 4 << 20, "16MB": 16 << 20}
MOST_ON_THE_WAY = 256 << 20  # bytes of all connections together; the server holds as much once more
QUICK = ("set", "get", "tensorset-120B", "tensorget-120B", "tensorset-4MB", "linear-onnx", "cnn-onnx", "batched-onnx")
BATCHED = ("ONNX", "TORCH", "TF")
BATCHSIZE = 32


@dataclass(slots=True, frozen=True)
class Pair:
    """One side is measured, the other is what it is compared with."""

    measured: Traffic
    plain: Traffic
    model: models.Model | None = None


@dataclass(slots=True, frozen=True)
class Case:
    name: str
    against: str
    prepare: Callable[[], Pair]
    size: int = 0


@dataclass(slots=True, frozen=True)
class Target:
    """What must be reached: the least share of the comparison's rate."""

    case: str
    connections: tuple[int, ...]
    share: float
    text: str


TARGETS = (
    Target("cnn-onnx", (50,), 0.15, "an mnist-sized CNN in ONNX at 50 connections: at least 15 % of the rate of SET"),
    Target("tensorset-4MB", CONNECTIONS, 1 / 1.5, "TENSORSET of 4 MB: at most 1.5 x the time of SET with 4 MB"),
    *(
        Target(f"batched-{backend.lower()}", connections, share, f"{backend}, a large MLP: {text}")
        for backend in BATCHED
        for connections, share, text in (
            ((50,), 3.0, f"at 50 connections BATCHSIZE {BATCHSIZE} gives at least 3 x the rate"),
            ((1,), 0.97, f"at one connection BATCHSIZE {BATCHSIZE} costs nothing, to what can be measured"),
        )
    ),
)


def set_pair() -> Pair:
    return Pair(SET, SET)


def get_pair() -> Pair:
    return Pair(GET, SET)


def tensorset_pair(size: int) -> Pair:
    values = models.random(size // 4)
    return Pair(Traffic(tensorset("t", values)), Traffic(encode(("SET", "s", values.tobytes()))))


def tensorget_pair(size: int) -> Pair:
    values, pair = models.random(size // 4), tensorset_pair(size)
    answer = bulk(values.tobytes())
    ours = Traffic(encode(("AI.TENSORGET", "t", "BLOB")), answer, pair.measured.request)
    return Pair(ours, Traffic(encode(("GET", "s")), answer, pair.plain.request))


def run_pair(name: str, build: Callable[[], models.Model]) -> Pair:
    model = build()
    return Pair(execution(name, model), SET, model)


def batched_pair(name: str, backend: str) -> Pair:
    """A model stored with BATCHSIZE, and the same without."""
    model = models.perceptron(backend)
    batched = execution(name, model, "BATCHSIZE", BATCHSIZE)
    return Pair(batched, execution(f"{name}-not", model), model)


def cases() -> Iterator[Case]:
    yield Case("set", "SET", set_pair)  # against itself: how far the machine can be trusted
    yield Case("get", "SET", get_pair)
    for label, size in SIZES.items():
        yield Case(f"tensorset-{label}", f"SET {label}", partial(tensorset_pair, size), size)
        yield Case(f"tensorget-{label}", f"GET {label}", partial(tensorget_pair, size), size)
    for name, build in ("linear-onnx", models.linear), ("cnn-onnx", models.cnn), ("mlp-torch", models.mlp):
        yield Case(name, "SET", partial(run_pair, name, build))
    for backend in BATCHED:
        name = f"batched-{backend.lower()}"
        yield Case(name, "unbatched", partial(batched_pair, name, backend))


def check_output(on: Server, name: str, model: models.Model) -> None:
    """A fast wrong answer is worth nothing."""
    with on.wire() as wire:
        blob: bytes = wire.ask("AI.TENSORGET", f"{name}:out", "BLOB")
    output = np.frombuffer(blob, np.float32).reshape(model.output.shape)
    if not np.allclose(output, model.output, rtol=1e-4, atol=1e-5):
        sys.exit(f"{name}: the output is not what the library makes of the same input")


def measure(on: Server, case: Case, pair: Pair, connections: int, seconds: float, repeat: int) -> dict[str, Any]:
    measured: list[dict[str, Any]] = []
    plain: list[dict[str, Any]] = []
    for i in range(repeat):
        for results, traffic in ((plain, pair.plain), (measured, pair.measured))[:: 1 if i % 2 == 0 else -1]:
            results.append(run_load(on, traffic, connections, seconds, min(0.3, seconds / 2)))
    if pair.model:
        check_output(on, case.name, pair.model)
    shares = [a["requests_per_s"] / b["requests_per_s"] for a, b in zip(measured, plain, strict=True)]
    numbers = ("requests_per_s", "p50_us", "p99_us", "p999_us", "max_us")
    return {
        "case": case.name,
        "against": case.against,
        "connections": connections,
        **{number: median(result[number] for result in measured) for number in numbers},
        "plain": {number: median(result[number] for result in plain) for number in numbers},
        "share": median(shares),
        "share_least": min(shares),
        "share_most": max(shares),
    }


COLUMNS = (
    ("case", "<15"),
    ("conns", ">5"),
    ("req/s", ">7"),
    ("p50 us", ">8"),
    ("p99 us", ">8"),
    ("max us", ">8"),
    ("against", "<9"),
    ("req/s", ">7"),
    ("p50 us", ">8"),
    ("p99 us", ">8"),
    ("share", ">6"),
    ("from-to", ">11"),
)


def line(cells: Iterable[str]) -> str:
    return "  ".join(f"{cell:{layout}}" for cell, (_, layout) in zip(cells, COLUMNS, strict=True))


def row(result: dict[str, Any]) -> str:
    plain = result["plain"]
    cells = [result["case"], str(result["connections"])]
    cells += [f"{result[name]:.0f}" for name in ("requests_per_s", "p50_us", "p99_us", "max_us")]
    cells += [result["against"], *(f"{plain[name]:.0f}" for name in ("requests_per_s", "p50_us", "p99_us"))]
    cells += [f"{result['share']:.3f}", f"{result['share_least']:.2f}-{result['share_most']:.2f}"]
    return line(cells)


def judge(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    verdicts = []
    for target in TARGETS:
        shares = [r["share"] for r in results if r["case"] == target.case and r["connections"] in target.connections]
        if shares:
            verdicts.append({"text": target.text, "share": min(shares), "least": target.share})
            word = "reached" if min(shares) >= target.share else "MISSED"
            print(f"{word}: {target.text}; here {min(shares):.3f} of the rate, {1 / min(shares):.2f} x the time")
        else:
            print(f"not measured: {target.text}")
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few cases, once, for a look or a test")
    parser.add_argument("--cases", help="comma-separated names, or beginnings of names, of the cases to run")
    parser.add_argument("--seconds", type=float, help="how long each measurement takes")
    parser.add_argument("--repeat", type=int, help="how often each pair is measured (default 5)")
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results.json", help="where figures are written")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed or none was measured")
    options = parser.parse_args()
    seconds = options.seconds or (0.2 if options.quick else 1.0)
    repeat = options.repeat or (1 if options.quick else 5)
    wanted = tuple(options.cases.split(",")) if options.cases else QUICK if options.quick else ("",)
    chosen = [case for case in cases() if case.name.startswith(wanted)]
    if not chosen:
        sys.exit(f"no such case; there are {', '.join(case.name for case in cases())}")

    build_load()
    results = []
    others = watch_others()
    with server() as on:
        print(line(title for title, _ in COLUMNS), flush=True)
        for case in chosen:
            pair = case.prepare()
            for connections in CONNECTIONS:
                if connections * case.size <= MOST_ON_THE_WAY:
                    results.append(measure(on, case, pair, connections, seconds, repeat))
                    print(row(results[-1]), flush=True)
        about = machine(on)
    about["cores_taken_by_others"] = round(others(), 2)
    print(f"\n{about['cpu']}, {about['cores']} cores, of which other processes took {about['cores_taken_by_others']}")
    targets = judge(results)
    figures = {"machine": about, "seconds": seconds, "repeat": repeat, "results": results, "targets": targets}
    options.json.write_text(json.dumps(figures, indent=1) + "\n")
    missed = not targets or any(target["share"] < target["least"] for target in targets)
    return int(options.check and missed)


if __name__ == "__main__":
    sys.exit(main())
