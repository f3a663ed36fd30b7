"""Random DAGs, the words that send them, and what a plain interpreter makes of them.

All tensors are FLOAT of rank 2 with whole numbers, small enough to be exact. A DAG with a failing op leaves something
open: ops that neither lead to the failure nor follow from it may have run or not. All else is determined, and
DagMeaning.check() knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from testkit import models, scripts
from testkit.wire import Error, Wire, Word

Array = NDArray[np.float32]


class Failure(Exception):
    """The op fails, whatever the library says about it."""


@dataclass(slots=True, frozen=True, eq=False)
class Runnable:
    """A model, or a function of a script: how it is stored and called, and the same in Python."""

    key: str
    store: tuple[Word, ...]
    function: str  # of a script; "" for models
    inputs: tuple[int, int]  # from, to
    outputs: int
    meaning: Callable[[Sequence[Array]], list[Array]]

    def call(self, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[Word, ...]:
        called = ("AI.SCRIPTEXECUTE", self.key, self.function) if self.function else ("AI.MODELEXECUTE", self.key)
        return (*called, "INPUTS", len(inputs), *inputs, "OUTPUTS", len(outputs), *outputs)


def same_shapes(meaning: Callable[..., list[Array]]) -> Callable[[Sequence[Array]], list[Array]]:
    """Tensors of different shapes are a failure, unless they broadcast."""

    def checked(arrays: Sequence[Array]) -> list[Array]:
        try:
            return meaning(*arrays)
        except ValueError as error:
            raise Failure(str(error)) from error

    return checked


def two_columns(a: Array, b: Array) -> list[Array]:
    if a.shape[1] != 2 or b.shape[1] != 2:
        raise Failure("the model takes two columns")
    return [a + b]


def positive(x: Array) -> list[Array]:
    if x[0, 0] < 0:
        raise Failure("negative")
    return [x + 1, x - 5]


class SumAndDifference(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a + b, a - b


SCRIPT = {
    "total": "total = tensors[0]\n    for x in tensors[1:]:\n        total = total + x\n    return total",
    "joined": "return torch.cat(tensors)",
    "positive": 'assert bool(tensors[0][0, 0] >= 0), "negative"\n    return tensors[0] + 1, tensors[0] - 5',
}


def runnables(devices: Sequence[str], prefix: str = "") -> list[Runnable]:
    """Models of two libraries, batched in three ways and not at all, and a script, on each of the devices."""
    source = "".join(scripts.function(name, body) for name, body in SCRIPT.items())
    batch: tuple[Word, ...] = ("BATCHSIZE", 8)
    wait: tuple[Word, ...] = (*batch, "MINBATCHSIZE", 4, "MINBATCHTIMEOUT", 2)
    line, add, two = models.onnx_line(2, -3), models.onnx_add(), models.torch_module(SumAndDifference)
    kinds: list[tuple[str, str, tuple[Word, ...], bytes, int, int, Callable[..., list[Array]]]] = [
        ("line", "ONNX", (), line, 1, 1, lambda x: [2 * x - 3]),
        ("line-batched", "ONNX", batch, line, 1, 1, lambda x: [2 * x - 3]),
        ("add-waiting", "ONNX", wait, add, 2, 1, two_columns),
        ("two", "TORCH", (), two, 2, 2, lambda a, b: [a + b, a - b]),
        ("two-batched", "TORCH", batch, two, 2, 2, lambda a, b: [a + b, a - b]),
    ]
    functions: list[tuple[str, int, int, Callable[..., list[Array]]]] = [
        ("total", 3, 1, lambda *x: [sum(x[1:], x[0])]),
        ("joined", 2, 1, lambda *x: [np.concatenate(x)]),
        ("positive", 1, 2, positive),
    ]
    found = []
    for device in devices:
        for name, backend, options, blob, inputs, outputs, meaning in kinds:
            key = f"{prefix}{name}@{device}"
            store = ("AI.MODELSTORE", key, backend, device, *options, "BLOB", blob)
            found.append(Runnable(key, store, "", (inputs, inputs), outputs, same_shapes(meaning)))
        for name, inputs, outputs, meaning in functions:
            key = f"{prefix}script@{device}"
            store = scripts.store_command(key, source, tuple(SCRIPT), device)
            found.append(Runnable(key, store, name, (1, inputs), outputs, same_shapes(meaning)))
    return found


def store_all(wire: Wire, all_of: Sequence[Runnable]) -> None:
    for store in {runnable.key: runnable.store for runnable in all_of}.values():
        reply = wire.ask(*store)
        assert reply == b"OK", reply


# ---- DAGs ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Set:
    name: str
    value: Array
    by: str  # BLOB, VALUES

    def words(self) -> tuple[Word, ...]:
        data: list[Word] = [self.value.tobytes()] if self.by == "BLOB" else self.value.ravel().tolist()
        return ("AI.TENSORSET", self.name, "FLOAT", *self.value.shape, self.by, *data)


@dataclass(slots=True, frozen=True)
class Get:
    name: str
    formats: tuple[str, ...]

    def words(self) -> tuple[Word, ...]:
        return ("AI.TENSORGET", self.name, *self.formats)

    def answers(self, value: Array, protocol: int) -> Any:
        whole = "META" in self.formats or not self.formats
        numbers = [float(x) if protocol == 3 else b"%.17g" % x for x in value.ravel()]
        data: Any = numbers if "VALUES" in self.formats else value.tobytes()
        if not whole:
            return data
        meta = [b"dtype", b"FLOAT", b"shape", list(value.shape)]
        if self.formats == ("META",):
            return meta
        return [*meta, b"values" if "VALUES" in self.formats else b"blob", data]


@dataclass(slots=True, frozen=True)
class Run:
    runnable: Runnable
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def words(self) -> tuple[Word, ...]:
        return self.runnable.call(self.inputs, self.outputs)


FORMATS = ((), ("META",), ("BLOB",), ("VALUES",), ("META", "BLOB"), ("META", "VALUES"))


@dataclass(slots=True)
class Dag:
    commands: list[Set | Get | Run]
    loads: tuple[str, ...] = ()
    persists: tuple[str, ...] = ()
    timeout: int = 0

    def words(self) -> tuple[Word, ...]:
        words: list[Word] = ["AI.DAGEXECUTE", "ROUTING", "here"]
        words += ["LOAD", len(self.loads), *self.loads] if self.loads else []
        words += ["PERSIST", len(self.persists), *self.persists] if self.persists else []
        words += ["TIMEOUT", self.timeout] if self.timeout else []
        for command in self.commands:
            words += ["|>", *command.words()]
        return tuple(words)


def random_value(random: Random, columns: int) -> Array:
    rows = random.randint(1, 3)
    return np.array([[random.randint(-9, 9) for _ in range(columns)] for _ in range(rows)], np.float32)


def random_dag(
    random: Random,
    among: Sequence[Runnable],
    keys: Sequence[str],
    names: Sequence[str],
    max_ops: int = 12,
    faults: bool = True,
) -> Dag:
    """keys: those that hold tensors, to be loaded; names: for local tensors, some of which are stored in the end.

    faults: a name may be missing, and shapes may not fit. Without, only what a script finds in its tensors may fail.
    """
    loads = tuple(key for key in keys if random.randrange(2))
    dag = Dag([], loads)
    known = list(loads)

    def some_name() -> str:
        missing = not known or (faults and random.randrange(60) == 0)
        return random.choice(names) if missing else random.choice(known)

    for _ in range(random.randint(1, max_ops)):
        kind = random.randrange(10) if known or (faults and random.randrange(30) == 0) else 0
        if kind < 2:
            columns = 3 if faults and random.randrange(12) == 0 else 2
            by = random.choice(("BLOB", "VALUES"))
            name = random.choice(names)
            dag.commands.append(Set(name, random_value(random, columns), by))
            known.append(name)
        elif kind < 4:
            dag.commands.append(Get(some_name(), random.choice(FORMATS)))
        else:
            runnable = random.choice(among)
            count = random.randint(*runnable.inputs)
            inputs = tuple(some_name() for _ in range(count))
            outputs = tuple(random.sample(names, runnable.outputs))
            dag.commands.append(Run(runnable, inputs, outputs))
            known += outputs
    if random.randrange(2):
        made = sorted({name for name in known if name in names})
        if made:
            dag.persists = tuple(random.sample(made, random.randint(1, min(2, len(made)))))
        if faults and random.randrange(40) == 0:
            dag.persists += ("nowhere",)
    return dag


# ---- what they mean --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tensor:
    value: Array | None  # None: made by an op that does not run
    maker: int  # command; -1: loaded
    needs: frozenset[int]  # all run commands that it comes from


@dataclass(slots=True)
class DagMeaning:
    """What a DAG does when nothing else happens. refused: the whole command's error."""

    dag: Dag
    refused: str = ""
    raises: set[int] = field(default_factory=set)  # run commands that fail by themselves
    needs: dict[int, frozenset[int]] = field(default_factory=dict)  # by run command: run commands it comes after
    gets: dict[int, Tensor] = field(default_factory=dict)
    stored: dict[str, Array] = field(default_factory=dict)

    def check(self, reply: Any, protocol: int = 2) -> str:
        """What is wrong with the reply, or an empty text."""
        if self.refused:
            return "" if reply == Error(self.refused) else f"not {self.refused!r}"
        if not isinstance(reply, list) or len(reply) != len(self.dag.commands):
            return f"not an array of {len(self.dag.commands)}"
        failed = [isinstance(entry, Error) for entry in reply]
        if any(failed) != bool(self.raises):
            return "a failure is missing" if self.raises else "a failure out of nothing"
        first = failed.index(True) if any(failed) else len(reply)
        leading = frozenset.intersection(*(self.needs[index] for index in self.raises)) if self.raises else frozenset()
        ran: set[int] = set()
        for index, (command, entry) in enumerate(zip(self.dag.commands, reply, strict=True)):
            fault = ""
            if isinstance(command, Run):
                fault = self.check_run(index, entry, ran, first < len(reply), index in leading)
            elif isinstance(command, Set):
                fault = "" if entry == (b"OK" if index < first else b"NA") else "a TENSORSET"
            elif index > first or not self.gets[index].needs <= ran:
                fault = "" if entry == b"NA" else "not NA"
            else:
                value = self.gets[index].value
                assert value is not None
                if entry != command.answers(value, protocol):
                    fault = f"not {command.answers(value, protocol)}"
            if fault:
                return f"entry {index}: {fault}"
        return ""

    def check_run(self, index: int, entry: Any, ran: set[int], fails: bool, leads: bool) -> str:
        if not self.needs[index] <= ran:
            return "" if entry == b"NA" else "it ran without its inputs"
        if isinstance(entry, Error):
            return "" if index in self.raises and entry.startswith("ERR ") else "it should not fail"
        if entry == b"OK":
            ran.add(index)
            return "it should fail" if index in self.raises else ""
        if entry == b"NA" and fails and not leads:
            return ""
        return "it should have run" if entry == b"NA" else "not a reply of an op"


def meaning_of(dag: Dag, keyspace: Mapping[str, Array]) -> DagMeaning:
    meaning = DagMeaning(dag)
    tensors: dict[str, Tensor] = {}
    for key in dag.loads:
        if key not in keyspace:
            return DagMeaning(dag, "ERR tensor key is empty or in a different shard")
        tensors[key] = Tensor(keyspace[key], -1, frozenset())
    for index, command in enumerate(dag.commands):
        if isinstance(command, Set):
            tensors[command.name] = Tensor(command.value, index, frozenset())
            continue
        names = command.inputs if isinstance(command, Run) else (command.name,)
        if any(name not in tensors for name in names):
            return DagMeaning(dag, "ERR INPUT key cannot be found in DAG")
        inputs = [tensors[name] for name in names]
        if isinstance(command, Get):
            meaning.gets[index] = inputs[0]
        else:
            for name, tensor in zip(command.outputs, interpret(meaning, index, command, inputs), strict=True):
                tensors[name] = tensor
    if any(name not in tensors for name in dag.persists):
        return DagMeaning(dag, "ERR PERSIST key cannot be found in DAG")
    if not meaning.raises:
        for name in dag.persists:
            value = tensors[name].value
            assert value is not None
            meaning.stored[name] = value
    return meaning


def interpret(meaning: DagMeaning, index: int, command: Run, inputs: Sequence[Tensor]) -> list[Tensor]:
    needs = frozenset[int]().union(*(tensor.needs for tensor in inputs))
    meaning.needs[index] = needs
    arrays = [tensor.value for tensor in inputs if tensor.value is not None]
    outputs: Sequence[Array | None] = [None] * len(command.outputs)
    if len(arrays) == len(inputs):
        try:
            outputs = command.runnable.meaning(arrays)
        except Failure:
            meaning.raises.add(index)
    return [Tensor(value, index, needs | {index}) for value in outputs]
