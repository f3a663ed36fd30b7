"""Models that tell in which batch a request was run, and requests that read it.

A witness makes y = 3 x + 1, and two numbers for every row: how many rows its whole batch had, and the sum of their
elements. Where requests consist of 0 and one power of two each, that tells which of them were in a batch.
"""

# TorchScript reads comments about types in the code that it compiles, so they cannot stand there.
# mypy: disable-error-code="no-any-return, no-untyped-call"

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from testkit import models, scripts, tf_models
from testkit.info import full_ai_info
from testkit.server import Server
from testkit.values import Model
from testkit.waiting import wait_for
from testkit.wire import Simple, Wire, Word

Floats = npt.NDArray[np.float32]
ATTEMPTS = 4


class TorchWitness(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = x.size(0)
        told = torch.stack([torch.full([1], float(rows)), x.sum().float().reshape(1)], 1)
        return x * 3 + 1, told.expand(rows, 2)


def onnx_witness() -> bytes:
    nodes = [
        helper.make_node("Mul", ["x", "three"], ["product"]),
        helper.make_node("Add", ["product", "one"], ["y"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["x"], ["scalar"], keepdims=0),
        helper.make_node("Unsqueeze", ["scalar", "first"], ["total"]),
        helper.make_node("Concat", ["count", "total"], ["told"], axis=0),
        helper.make_node("Concat", ["rows", "two"], ["size"], axis=0),
        helper.make_node("Expand", ["told", "size"], ["batch"]),
    ]
    constants = {"three": np.float32(3), "one": np.float32(1), "first": np.array([0]), "two": np.array([2])}
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    outputs = [models.value("y", TensorProto.FLOAT, ["n", "k"]), models.value("batch", TensorProto.FLOAT, ["n", 2])]
    return models.onnx_model(nodes, [models.value("x", TensorProto.FLOAT, ["n", "k"])], outputs, weights)


def tf_witness(x: Any) -> tuple[Any, Any]:
    tf = tf_models.tensorflow()
    rows = tf.shape(x)[0]
    told = tf.stack([tf.cast(rows, tf.float32), tf.reduce_sum(x)])
    return tf.add(x * 3, 1, name="y"), tf.add(tf.zeros(tf.stack([rows, 2])), told, name="batch")


@cache
def witness(backend: str) -> Model:
    if backend == "ONNX":
        return Model("ONNX", onnx_witness())
    if backend == "TORCH":
        return Model("TORCH", models.torch_module(TorchWitness))
    if backend == "TF":
        blob = tf_models.graph(lambda tf: tf_witness(tf_models.placeholder()))
        return Model("TF", blob, inputs=("x",), outputs=("y", "batch"))
    return Model("TFLITE", tf_models.tflite(tf_witness, tf_models.spec([None, None])))


class TorchStrict(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (torch.arange(100) * 2.0)[x.long()]


@cache
def strict(backend: str) -> Model:
    """y = 2 x for whole numbers from 0 to 99; anything else is an error of the library."""
    if backend == "TORCH":
        return Model("TORCH", models.torch_module(TorchStrict))
    table = np.arange(100, dtype=np.float32) * 2
    if backend == "ONNX":
        nodes = [
            helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["y"]),
        ]
        ends = [models.value(name, TensorProto.FLOAT, ["n", "k"]) for name in "xy"]
        return Model("ONNX", models.onnx_model(nodes, ends[:1], ends[1:], [numpy_helper.from_array(table, "table")]))
    blob = tf_models.graph(lambda tf: tf.gather(table, tf.cast(tf_models.placeholder(), "int32"), name="y"))
    return Model("TF", blob, inputs=("x",), outputs=("y",))


def batching(size: int = 0, min_size: int = 0, ms: int = 0) -> list[Word]:
    words: list[Word] = []
    for name, value in ("BATCHSIZE", size), ("MINBATCHSIZE", min_size), ("MINBATCHTIMEOUT", ms):
        words += [name, value] if value else []
    return words


def store(wire: Wire, key: str, model: Model, *options: Word, device: str = "CPU") -> None:
    assert wire.ask(*replace(model, device=device).words(key, *options)) == b"OK"


def store_witness(
    wire: Wire,
    key: str = "m",
    size: int = 0,
    min_size: int = 0,
    ms: int = 0,
    backend: str = "ONNX",
    device: str = "CPU",
) -> None:
    """Stores a witness, and shows the server that it can be batched: until it knows, runs are done one by one."""
    store(wire, key, witness(backend), *batching(size, min_size, ms), device=device)
    if size > 1:
        prove(wire, key, min(min_size, size))


def prove(wire: Wire, key: str, min_size: int) -> None:
    """Runs come at once, of as many rows as are waited for: one is done alone, the others, or the next, as a batch."""
    rows = [1, 1, min_size - 2] if min_size > 2 else [1] * (min_size or 3)
    # If new limits reach the workers between two of the runs, the later ones are too few for the minimum.
    words: list[Word] = ["AI.DAGEXECUTE", "ROUTING", key, "TIMEOUT", 2000]
    for i, count in enumerate(rows):
        words += ["|>", "AI.TENSORSET", f"x{i}", "FLOAT", count, 1]
        words += ["|>", "AI.MODELEXECUTE", key, "INPUTS", 1, f"x{i}", "OUTPUTS", 2, f"y{i}", f"b{i}"]

    def proven() -> bool:
        reply = wire.ask(*words)
        if reply == b"TIMEDOUT":
            return False
        assert reply == [b"OK"] * (2 * len(rows))
        found = full_ai_info(wire, key)
        return bool(found["executions"] < found["calls"])

    wait_for(proven, what="a batch")
    assert wire.ask("AI.INFO", key, "RESETSTAT") == b"OK"


@dataclass(slots=True, frozen=True)
class Batch:
    """The batch a request was in: all its rows, and the numbers of its requests."""

    rows: int
    members: frozenset[int]


def batch(rows: int, *members: int) -> Batch:
    return Batch(rows, frozenset(members))


def read_batch(told: bytes) -> Batch:
    rows, total = np.frombuffer(told, np.float32)[:2]
    return Batch(int(rows), frozenset(i for i in range(24) if int(total) >> i & 1))


class Request:
    """A run of a witness on a connection of its own. number, 0 to 23, is for Batch.members."""

    def __init__(self, wire: Wire, number: int, rows: int, key: str, width: int, dag: bool) -> None:
        self.x = np.zeros((rows, width), np.float32)
        self.x[0, 0] = 1 << number
        self.wire = wire
        self.outputs = y, b = f"{key}:y{number}", f"{key}:b{number}"
        x = f"{key}:x{number}"
        put: tuple[Word, ...] = ("AI.TENSORSET", x, "FLOAT", rows, width, "BLOB", self.x.tobytes())
        run: tuple[Word, ...] = ("AI.MODELEXECUTE", key, "INPUTS", 1, x, "OUTPUTS", 2, y, b)
        if dag:
            gets: tuple[Word, ...] = ("|>", "AI.TENSORGET", y, "BLOB", "|>", "AI.TENSORGET", b, "BLOB")
            self.begin: tuple[Word, ...] = ("AI.DAGEXECUTE", "ROUTING", x)
            self.rest: tuple[Word, ...] = ("|>", *put, "|>", *run, *gets)
        else:
            self.begin, self.rest = run, ()
            assert self.wire.ask(*put) == b"OK"

    def send(self, timeout: int | None = None) -> None:
        limit: tuple[Word, ...] = () if timeout is None else ("TIMEOUT", timeout)
        self.wire.send(*self.begin, *limit, *self.rest)

    def result(self) -> Batch:
        """The batch it was in. That it got its own rows is checked."""
        reply = self.wire.read()
        if self.rest:
            assert isinstance(reply, list) and reply[:2] == [b"OK", b"OK"], reply
            y, told = reply[2:]
        else:
            assert (type(reply), reply) == (Simple, b"OK")
            y, told = (self.wire.ask("AI.TENSORGET", name, "BLOB") for name in self.outputs)
        assert y == (self.x * 3 + 1).tobytes()
        assert told == told[:8] * len(self.x), "all rows were in the same batch"
        return read_batch(told)

    def ask(self) -> Batch:
        self.send()
        return self.result()

    def timed(self) -> tuple[Batch, float]:
        start = time.monotonic()
        self.send()
        result = self.result()
        return result, time.monotonic() - start


class Clients:
    """Makes requests, and closes their connections in the end."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.wires: list[Wire] = []

    def wire(self) -> Wire:
        self.wires.append(self.server.wire())
        return self.wires[-1]

    def one(self, number: int, rows: int = 1, *, key: str = "m", width: int = 1, dag: bool = False) -> Request:
        return Request(self.wire(), number, rows, key, width, dag)

    def each(self, *rows: int, key: str = "m", dag: bool = False) -> list[Request]:
        return [self.one(number, count, key=key, dag=dag) for number, count in enumerate(rows)]

    def wait_blocked(self, count: int) -> None:
        wait_for(lambda: self.server.blocked_clients() == count, what=f"{count} clients wait")

    def queue(self, *requests: Request, timeout: int | None = None) -> None:
        """Sends requests that will wait, one after another, so that their order is known."""
        for count, request in enumerate(requests, self.server.blocked_clients() + 1):
            request.send(timeout)
            self.wait_blocked(count)

    @contextmanager
    def busy_worker(self) -> Iterator[None]:
        """Until the end of the block, the one worker of the CPU runs a script. Its client is blocked."""
        wire = self.wire()
        scripts.store_redis(wire, "gone_on", key="busy")
        keys = ["busy:started", "busy:go", "busy:done"]
        wire.ask("DEL", *keys)
        busy = self.wire()
        busy.send(*scripts.execute("busy", "gone_on", keys))
        wait_for(lambda: wire.ask("EXISTS", keys[0]), what="the script runs")
        try:
            yield
        finally:
            wire.ask_ok("SET", keys[1], "x")
        assert busy.read() == b"OK"

    def run_other_model(self, device: str = "CPU") -> None:
        """When this returns the worker has looked at all requests that came before."""
        wire = self.wire()
        assert wire.ask("AI.MODELSTORE", "other", "ONNX", device, "BLOB", models.onnx_add()) == b"OK"
        assert wire.ask("AI.TENSORSET", "t", "FLOAT", 1, 2) == b"OK"
        for _ in range(3):
            assert wire.ask("AI.MODELEXECUTE", "other", "INPUTS", 2, "t", "t", "OUTPUTS", 1, "t2") == b"OK"

    def close(self) -> None:
        while self.wires:
            self.wires.pop().close()
        self.wait_blocked(0)


def check_exact(measure: Callable[[], Iterable[float]], quarter: float = 0.002, half: float = 0.010) -> None:
    """measure() tells by how many seconds replies came late. None may be early. A machine that others use, too, is late
    by itself: it is enough that at one of some attempts every fourth reply is exact, and every other nearly so."""
    for _ in range(ATTEMPTS):
        late = sorted(measure())
        print("ms late:", [round(seconds * 1000, 2) for seconds in late])
        assert late[0] >= -0.0005
        if late[len(late) // 4] < quarter and late[len(late) // 2] < half:
            return
    raise AssertionError(f"late at {ATTEMPTS} attempts, at the last by {late} s")
