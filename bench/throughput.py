"""The part "throughput": compares the module's commands with plain SET and GET, and batches with single runs.

Each case alternates with its comparison, several times, on the same server and with the same number of connections.
What counts is the median of the ratios of neighbouring runs: a change in the machine's speed affects both alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from bench.harness import alternate, ratios, row, served
from bench.report import Goal, Plan, Report, show, show_titles
from testkit import networks
from testkit.load import GET, SET, Result, Traffic, bulk, dag, execution, tensorset
from testkit.server import Server, fresh_server
from testkit.wire import Word, encode

CONNECTIONS = (1, 10, 50, 100, 200)
SIZES = {"120B": 120, "4KB": 4 << 10, "1MB": 1 << 20, "16MB": 16 << 20}
BACKENDS = ("TF", "ONNX", "TORCH")
BATCHSIZE = 32
BATCH = ("BATCHSIZE", BATCHSIZE)
DRAWN = ("set", "fraud-")  # how the names of cases begin whose distributions are drawn
DRAWN_AT = 50  # connections
QUICK = (
    "set",
    "tensorset-120B",
    "tensorset-1MB",
    "tensorget-1MB",
    "fraud-tf",
    "fraud-dag-onnx",
    "linear-onnx",
    "cnn-onnx",
    "batched-onnx",
)


@dataclass(slots=True, frozen=True)
class Pair:
    """What is measured, and what it is compared with. The keys that both need are stored already."""

    measured: Traffic
    plain: Traffic
    check: Callable[[], object] | None = None  # raises if the last output is wrong


@dataclass(slots=True, frozen=True)
class Case:
    name: str
    against: str
    prepare: Callable[[Server], Pair]
    connections: tuple[int, ...] = CONNECTIONS
    loop: Callable[[], networks.Network] | None = None  # what a library runs in a loop to do the same: bench/loops.py
    batch: int = 1  # the most requests that run together
    workers: int = 1  # that bench/loops.py starts
    busy: bool = False  # bench/loops.py measures it beside a process that keeps a core busy


@dataclass(slots=True, frozen=True)
class Target:
    """A goal: the minimum share of the comparison's rate."""

    case: str
    connections: int
    share: float
    text: str


def count(connections: int) -> str:
    return "one connection" if connections == 1 else f"{connections} connections"


SHARES = (
    ("linear-onnx", 50, 0.65, "a linear model of 4 floats in ONNX"),
    ("mlp-torch", 50, 0.40, "an MLP 30-64-64-2 in TORCH"),
    ("fraud-tf", 50, 0.22, "the credit-card network in TF"),
    ("fraud-dag-tf", 50, 0.18, "the credit-card network in TF, the DAG"),
    ("cnn-onnx", 50, 0.20, "an mnist-sized CNN in ONNX"),
    ("mlp-torch-batch", 50, 0.55, f"an MLP 30-64-64-2 in TORCH, BATCHSIZE {BATCHSIZE}"),
    ("fraud-tf-batch", 50, 0.42, f"the credit-card network in TF, BATCHSIZE {BATCHSIZE}"),
    ("linear-onnx", 1, 0.65, "a linear model of 4 floats in ONNX"),
    ("fraud-tf", 1, 0.45, "the credit-card network in TF"),
)
TARGETS = (
    *(Target(name, n, share, f"{text}, {count(n)}: share of SET's rate") for name, n, share, text in SHARES),
    *(
        Target(f"batched-{backend.lower()}", connections, share, f"a large MLP in {backend}, {text}")
        for backend in BACKENDS
        for connections, share, text in (
            (50, 3.0, f"50 connections: rate with BATCHSIZE {BATCHSIZE} to rate without"),
            (1, 0.97, f"one connection, where nothing can be batched: rate with BATCHSIZE {BATCHSIZE} to rate without"),
        )
    ),
)
LARGE = ("1MB", "16MB")
MAX_TIME = 1.1  # relative to SET and GET of as many bytes


def send(on: Server, *requests: bytes) -> None:
    with on.wire() as wire:
        for request in requests:
            wire.socket.sendall(request)
            if (reply := wire.read()) != b"OK":
                raise RuntimeError(reply)


def check(name: str, model: networks.Network, blob: bytes, rows: int = 1) -> None:
    """Raises if the output is not the library's: a fast wrong answer is worth nothing."""
    output = np.frombuffer(blob, np.float32).reshape(rows, *model.output.shape[1:])
    if not np.allclose(output, model.output, rtol=1e-4, atol=1e-5):
        raise RuntimeError(f"{name}: the output is not what the library makes of the same input")


def output_of(on: Server, name: str, model: networks.Network, rows: int = 1) -> bytes:
    with on.wire() as wire:
        blob: bytes = wire.ask("AI.TENSORGET", f"{name}:out", "BLOB")
    check(name, model, blob, rows)
    return blob


def prepare(on: Server, name: str, model: networks.Network, *options: Word) -> Traffic:
    """Stores the model and runs it a few times, since the first runs are slow. Returns the request that runs it."""
    traffic = execution(name, model, *options)
    with on.wire() as wire:
        wire.socket.sendall(traffic.setup)
        for _ in range(1 + len(model.feeds)):
            if (reply := wire.read()) != b"OK":
                raise RuntimeError(reply)
    send(on, *[traffic.request] * 5)
    output_of(on, name, model)
    return Traffic(traffic.request)


def is_alike_in_batches(on: Server, name: str, model: networks.Network, alone: bytes) -> bool:
    """Whether every batch gives each request the same bytes as alone. Some libraries' sums differ in the last bit."""
    alike = True
    for rows in range(2, BATCHSIZE + 1):
        send(on, *(tensorset(f"{name}:{feed}", np.repeat(value, rows, 0)) for feed, value in model.feeds))
        send(on, execution(name, model).request)
        alike &= output_of(on, name, model, rows) == alone * rows
    send(on, *(tensorset(f"{name}:{feed}", value) for feed, value in model.feeds))
    return alike


# ---- cases -----------------------------------------------------------------------------------------------------------


def plain_pair(measured: Traffic, on: Server) -> Pair:
    send(on, SET.request)
    return Pair(measured, SET)


def tensorset_pair(size: int, on: Server) -> Pair:
    values = networks.random(size // 4)
    return Pair(Traffic(tensorset("t", values)), Traffic(encode(("SET", "s", values.tobytes()))))


def tensorget_pair(size: int, on: Server) -> Pair:
    values, pair = networks.random(size // 4), tensorset_pair(size, on)
    send(on, pair.measured.request, pair.plain.request)
    answer = bulk(values.tobytes())
    return Pair(Traffic(encode(("AI.TENSORGET", "t", "BLOB")), answer), Traffic(encode(("GET", "s")), answer))


def run_pair(name: str, build: Callable[[], networks.Network], options: tuple[Word, ...], on: Server) -> Pair:
    model = build()
    traffic = prepare(on, name, model, *options)
    return Pair(traffic, SET, partial(output_of, on, name, model))


def dag_pair(
    name: str,
    backend: str,
    options: tuple[Word, ...],
    on: Server,
    reference: bool = True,
    command: str = "AI.DAGEXECUTE",
) -> Pair:
    model = networks.fraud(backend, reference)
    prepare(on, name, model, *options)
    alone = output_of(on, name, model)
    output = np.frombuffer(alone, np.float32).reshape(model.output.shape)
    traffic = replace(dag(name, replace(model, output=output), command=command), setup=b"")
    if options and not is_alike_in_batches(on, name, model, alone):
        traffic = replace(traffic, answer=b"")  # errors are still seen

    def check_reply() -> None:
        with on.wire() as wire:
            wire.socket.sendall(traffic.request)
            check(name, model, wire.read()[-1])

    return Pair(traffic, SET, check_reply)


def batched_pair(name: str, backend: str, on: Server) -> Pair:
    """A model stored with BATCHSIZE, and the same model without."""
    model = networks.perceptron(backend)
    plain = prepare(on, f"{name}-not", model)
    return Pair(prepare(on, name, model, *BATCH), plain, partial(output_of, on, name, model))


def runs() -> Iterator[tuple[str, Callable[[], networks.Network], tuple[Word, ...]]]:
    """The models that run one by one and in batches: name, builder, options of AI.MODELSTORE."""
    yield "linear-onnx", networks.linear, ()
    yield "linear-onnx-batch", partial(networks.linear, "n"), BATCH
    yield "cnn-onnx", networks.cnn, ()
    yield "cnn-onnx-batch", partial(networks.cnn, "n"), BATCH
    for name, build in ("mlp", networks.mlp), ("fraud", networks.fraud):
        for backend in BACKENDS:
            yield f"{name}-{backend.lower()}", partial(build, backend), ()
            yield f"{name}-{backend.lower()}-batch", partial(build, backend), BATCH


def cases() -> Iterator[Case]:
    yield Case("set", "SET", partial(plain_pair, SET))  # against itself: shows the noise of the machine
    yield Case("get", "SET", partial(plain_pair, Traffic(GET.request, GET.answer)))
    for label, size in SIZES.items():
        few = (1, 10, 50) if size < 1 << 20 else (1, 10)
        yield Case(f"tensorset-{label}", f"SET {label}", partial(tensorset_pair, size), few)
        yield Case(f"tensorget-{label}", f"GET {label}", partial(tensorget_pair, size), few)
    for name, build, options in runs():
        batch = BATCHSIZE if options else 1
        yield Case(name, "SET", partial(run_pair, name, build, options), loop=build, batch=batch)
    for backend in BACKENDS:
        name = f"fraud-dag-{backend.lower()}"
        yield Case(name, "SET", partial(dag_pair, name, backend, ()))
        yield Case(f"{name}-batch", "SET", partial(dag_pair, f"{name}-batch", backend, BATCH), (50, 200))
    for backend in BACKENDS:
        name = f"batched-{backend.lower()}"
        yield Case(name, "unbatched", partial(batched_pair, name, backend), (1, 50))


def chosen(plan: Plan, of: Iterable[Case], quick: Sequence[str]) -> list[Case]:
    return [case for case in of if plan.wants(case.name) and (plan.wanted or not plan.quick or case.name in quick)]


# ---- measuring -------------------------------------------------------------------------------------------------------


def is_drawn(case: Case, connections: int) -> bool:
    """Whether bench/pictures.py draws the distribution of its latencies."""
    return connections == DRAWN_AT and case.name.startswith(DRAWN)


def measure(on: Server, case: Case, pair: Pair, connections: int, seconds: float, repeat: int) -> Result:
    much = connections, seconds
    ours, plain = alternate(repeat, served(on, pair.measured, *much), served(on, pair.plain, *much))
    if pair.check:
        pair.check()
    shares = ratios(ours, plain)
    measured = row(case.name, case.against, connections, ours, plain, is_drawn(case, connections))
    return measured | {"share_min": min(shares), "share_max": max(shares)}


def judge(rows: list[Result]) -> Iterator[Goal]:
    shares = {(row["case"], row["connections"]): float(row["share"]) for row in rows}
    for target in TARGETS:
        if (share := shares.get((target.case, target.connections))) is not None:
            yield Goal(target.text, share, target.share)
    for (name, connections), share in shares.items():
        command, _, size = name.partition("-")
        if size in LARGE and command in ("tensorset", "tensorget"):
            what = f"{command.upper()} of {size}, {count(connections)}"
            yield Goal(f"{what}: time to that of {command[-3:].upper()}", 1 / share, MAX_TIME, at_most=True)


def run(plan: Plan) -> Report:
    report, wanted = Report(), chosen(plan, cases(), QUICK)
    if not wanted:
        return report
    aims = {(target.case, target.connections) for target in TARGETS}
    with fresh_server() as on:
        show_titles()
        for case in wanted:
            pair = case.prepare(on)
            for connections in case.connections:
                if plan.quick and connections not in (1, 50):
                    continue
                # Points without a goal are measured for a shorter time.
                judged = (case.name, connections) in aims
                seconds = plan.seconds if judged or case.name.endswith(LARGE) else max(plan.seconds / 5, 0.05)
                repeat = plan.repeat
                if judged and connections == 1:  # the core that the worker stays on matters: many short runs
                    seconds, repeat = seconds / 3, repeat * 3
                report.rows.append(measure(on, case, pair, connections, seconds, repeat))
                show(report.rows[-1])
    report.goals += judge(report.rows)
    return report
