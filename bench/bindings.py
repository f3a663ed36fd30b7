"""The part "bindings": documents that a binding embeds as they are written, beside the library in its best batches.

The encoder is small: one layer of attention over 32 tokens of 128 numbers. The library's loop runs it in batches of
several sizes, and the best counts. For GETs beside it, the same work is done elsewhere: the loop runs in a process of
its own, and a client writes the documents and their vectors at the same rate.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

import numpy as np
from onnx import TensorProto, helper

from bench.harness import alternate, median_of, ratios
from bench.library_loop import Library, library
from bench.report import Goal, Plan, Report
from testkit import networks
from testkit.info import info
from testkit.load import GET, Result, modelstore, run_load
from testkit.networks import Network
from testkit.server import Server, fresh_server
from testkit.waiting import wait_for
from testkit.wire import Wire, encode

CASE, COST = "bindings-encoder", "bindings-cost"
WRITES, OTHERS = 50_000, 100
MAX_BOUND_US, MAX_OTHERS_US = 2.0, 0.1
DOCUMENTS, QUICK = 100_000, 500
TOKENS, WIDTH, WORDS = 32, 128, 1000
BATCHES = (1, 8, 32, 128)
SHARE, MAX_RATIO = 0.9, 1.1
PIPELINE = 100


def encoder() -> Network:
    """x FLOAT [n, TOKENS], numbers of words -> y FLOAT [n, WIDTH]."""
    weights = {"words": networks.random(WORDS, WIDTH), "down": networks.random(4 * WIDTH, WIDTH, scale=0.05)}
    sizes = {"up": 4 * WIDTH, "q": WIDTH, "k": WIDTH, "v": WIDTH}
    weights |= {name: networks.random(WIDTH, size, scale=0.05) for name, size in sizes.items()}
    node = helper.make_node
    nodes = [
        node("Cast", ["x"], ["ids"], to=TensorProto.INT64),
        node("Gather", ["words", "ids"], ["h"]),
        *(node("MatMul", ["h", name], [f"h{name}"]) for name in "qkv"),
        node("Transpose", ["hk"], ["turned"], perm=[0, 2, 1]),
        node("MatMul", ["hq", "turned"], ["scores"]),
        node("Softmax", ["scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "hv"], ["mixed"]),
        node("Add", ["h", "mixed"], ["h2"]),
        node("MatMul", ["h2", "up"], ["wide"]),
        node("Relu", ["wide"], ["positive"]),
        node("MatMul", ["positive", "down"], ["narrow"]),
        node("Add", ["h2", "narrow"], ["h3"]),
        node("ReduceMean", ["h3"], ["y"], axes=[1], keepdims=0),
    ]
    return networks.onnx_model(nodes, weights, "n", np.arange(TOKENS, dtype=np.float32)[None])


def pending(wire: Wire) -> int:
    reply = wire.ask("AI.BINDINFO", "b")
    return int(dict(zip(reply[::2], reply[1::2], strict=True))[b"pending"])


def documents(first: int, count: int) -> Iterator[bytes]:
    """Commands that write them, PIPELINE at a time."""
    words = np.random.default_rng(first).integers(0, WORDS, (count, TOKENS)).astype("<f4")
    commands = [encode(("HSET", f"doc:{first + i}", "words", row.tobytes())) for i, row in enumerate(words)]
    for i in range(0, count, PIPELINE):
        yield b"".join(commands[i : i + PIPELINE])


def embedded(on: Server, count: int) -> Result:
    """Documents a second, from the first write to the last vector."""
    with on.wire() as wire:
        commands = list(documents(0, count))
        start = time.monotonic()
        for command in commands:
            wire.socket.sendall(command)
            for _ in range(command.count(b"HSET")):
                wire.read()
        wait_for(lambda: pending(wire) == 0, 600, "all documents have vectors")
        return {"requests_per_s": count / (time.monotonic() - start)}


def best(loop: Library, seconds: float) -> Result:
    return {"requests_per_s": max(loop.rate(batch, seconds / len(BATCHES)) for batch in BATCHES)}


@contextmanager
def written(on: Server, key: str, rate: float, vectors: int) -> Iterator[None]:
    """A client that writes documents at this rate; and, where they are not bound, vectors of so many bytes."""
    stopped = threading.Event()

    def write() -> None:
        with on.wire() as wire:
            start, done, size = time.monotonic(), 0, max(1, int(rate / 200))
            while not stopped.wait(max(0.0, start + done / rate - time.monotonic())):
                for i in range(size):
                    wire.send("HSET", f"{key}:{(done + i) % 10000}", "words", bytes(4 * TOKENS))
                    if vectors:
                        wire.send("HSET", f"{key}:{(done + i) % 10000}", "vector", bytes(vectors))
                for _ in range(size * (2 if vectors else 1)):
                    wire.read()
                done += size

    thread = threading.Thread(target=write)
    thread.start()
    yield
    stopped.set()
    thread.join()


def gets_beside(on: Server, rate: float, seconds: float) -> Result:
    with written(on, "doc", 0.9 * rate, 0):
        return run_load(on, GET, 1, seconds, 0.3)


def gets_elsewhere(on: Server, loop: Library, rate: float, seconds: float) -> Result:
    busy = threading.Thread(target=loop.rate, args=(32, seconds + 0.6))
    busy.start()
    with written(on, "other", 0.9 * rate, 4 * WIDTH):
        result = run_load(on, GET, 1, seconds, 0.3)
    busy.join()
    return result


def write(wire: Wire, prefix: str, count: int) -> None:
    for first in range(0, count, PIPELINE):
        wire.socket.sendall(b"".join(encode(("HSET", f"{prefix}:{first + i}", "x", 1)) for i in range(PIPELINE)))
        for _ in range(PIPELINE):
            wire.read()


def write_us(wire: Wire, prefix: str, count: int) -> float:
    """What the server takes for one HSET of a key that is there."""
    wire.ask_ok("CONFIG", "RESETSTAT")
    write(wire, prefix, count)
    return float(info(wire, "commandstats")["cmdstat_hset"].split("usec_per_call=")[1].split(",")[0])


def measure_cost(bare: Server, on: Server, plan: Plan) -> Result:
    """Writes on a server that never had a binding; beside OTHERS bindings, of which none matches; and of bound keys,
    which wait for a model: so no run of them is measured."""
    count = WRITES // 50 if plan.quick else WRITES
    figures: dict[str, list[float]] = {"plain_us": [], "others_us": [], "bound_us": []}
    with on.wire() as wire, bare.wire() as plain:
        write(wire, "key", count)
        write(plain, "key", count)
        line = "FIELDS 1 x MODEL cost SET 1 y"
        for _ in range(plan.repeat):
            figures["plain_us"].append(write_us(plain, "key", count))
            wire.socket.sendall(modelstore("cost", encoder()))
            wire.read()
            for i in range(OTHERS):
                wire.ask_ok("AI.BIND", f"other{i}", *f"ON HASH PREFIX 1 key{i} {line}".split())
            figures["others_us"].append(write_us(wire, "key", count))
            wire.ask_ok("AI.BIND", "b", *f"ON HASH PREFIX 1 key: {line}".split())
            wire.ask_ok("AI.MODELDEL", "cost")
            figures["bound_us"].append(write_us(wire, "key", count))
            for name in wire.ask("AI.BINDLIST"):
                wire.ask_ok("AI.UNBIND", name)
    return {"case": COST, **{name: median(values) for name, values in figures.items()}}


def add_cost(report: Report, plan: Plan) -> None:
    with fresh_server() as bare, fresh_server(more=("BINDINGS", "yes")) as on:
        row = measure_cost(bare, on, plan)
    bound, others = row["bound_us"] - row["plain_us"], row["others_us"] - row["plain_us"]
    print(f"{COST}: a write takes {row['plain_us']:.2f} us, {others:.2f} us more beside {OTHERS} bindings of other "
          f"keys, {bound:.2f} us more where it is bound", flush=True)  # fmt: skip
    report.rows.append(row)
    report.goals.append(Goal("a write of a bound key, us more", bound, MAX_BOUND_US, at_most=True))
    text = f"a write beside {OTHERS} bindings of other keys, us more"
    report.goals.append(Goal(text, others, MAX_OTHERS_US, at_most=True))


def run(plan: Plan) -> Report:
    report = Report()
    if plan.wants(COST):
        add_cost(report, plan)
    if not plan.wants(CASE):
        return report
    model, count = encoder(), QUICK if plan.quick else DOCUMENTS // plan.repeat
    with fresh_server(more=("BINDINGS", "yes")) as on, library(model) as loop:
        with on.wire() as wire:
            wire.socket.sendall(modelstore("encoder", model))
            if (reply := wire.read()) != b"OK":
                raise RuntimeError(reply)
            line = f"b ON HASH PREFIX 1 doc: FIELDS 1 words AS FLOAT {TOKENS} MODEL encoder SET 1 vector"
            wire.ask_ok("AI.BIND", *line.split())
        embedded(on, PIPELINE)
        ours, theirs = alternate(plan.repeat, partial(embedded, on, count), partial(best, loop, plan.seconds))
        row = {"case": CASE, **median_of(ours), "library": median_of(theirs), "share": median(ratios(ours, theirs))}
        rate = row["requests_per_s"]
        beside, elsewhere = alternate(
            plan.repeat,
            partial(gets_beside, on, rate, plan.seconds),
            partial(gets_elsewhere, on, loop, rate, plan.seconds),
        )
        row |= {"get": median_of(beside), "get_elsewhere": median_of(elsewhere)}
        row["ratio"] = median(ratios(beside, elsewhere, "p99_us"))
    print(f"{CASE}: {rate:.0f} documents/s, {row['share']:.2f} of the library's; GET p99 {row['get']['p99_us']:.0f} us,"
          f" {row['ratio']:.2f} of that beside equal work elsewhere", flush=True)  # fmt: skip
    report.rows.append(row)
    report.goals.append(Goal("documents embedded by a binding; times the library's best batches", row["share"], SHARE))
    text = "GET p99 beside a binding's runs, to that beside equal work elsewhere"
    report.goals.append(Goal(text, row["ratio"], MAX_RATIO, at_most=True))
    return report
