"""Memory is level over many stores, runs, overwrites and deletes of each type, alone, in DAGs and in batches.

MEMORY_COMMANDS=100000 runs about so many commands in all.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest

from testkit import models, scripts
from testkit.process import rss
from testkit.server import Server, module_path
from testkit.waiting import wait_for, wait_until_alone
from testkit.wire import Error, Wire, Word

COMMANDS = int(os.environ.get("MEMORY_COMMANDS", 10_000))
SEED = int(os.environ.get("SEED", 1))

WARM_UP = 0.3  # the share of the commands after which memory is looked at for the first time
# Of both moments: the same keys, nobody connected, nothing under way. This is for Redis's own tables.
MAX_USED = 24 << 10
# What libraries and allocators keep for themselves comes and goes.
MAX_RSS = 16 << 20

Words = tuple[Word, ...]
DTYPES = {"FLOAT": 4, "DOUBLE": 8, "INT8": 1, "INT16": 2, "INT64": 8, "UINT16": 2, "BOOL": 1}


def tensors(chance: random.Random) -> Iterator[Words]:
    """Of all types and sizes, also those that stay in the string that brought them."""
    while True:
        key, other = (f"t{chance.randrange(10)}" for _ in range(2))
        dtype = chance.choice(list(DTYPES))
        count = chance.choice((1, 3, 100, 5000)) if chance.random() < 0.98 else 150_000
        yield ("AI.TENSORSET", key, dtype, count, "BLOB", bytes(count * DTYPES[dtype]))
        yield ("AI.TENSORGET", key, chance.choice(("META", "BLOB")))
        yield ("AI.TENSORSET", other, "STRING", 3, "VALUES", "one", "", "three" * chance.randrange(50))
        yield ("AI.TENSORSET", key, "FLOAT", 2, 2, "VALUES", 1, 2, 3, "x")  # an error
        yield chance.choice((("COPY", key, other, "REPLACE"), ("DEL", key), ("RENAME", other, key), ("UNLINK", other)))


def models_of(backend: str, chance: random.Random) -> Iterator[Words]:
    sound = models.onnx_linear() if backend == "ONNX" else models.torch_module(models.Identity)
    while True:
        key = f"m{chance.randrange(3)}"
        blob = sound[:-10] if chance.random() < 0.2 else sound
        yield ("AI.MODELSTORE", key, backend, "CPU", "TAG", "t" * chance.randrange(50), "BLOB", blob)
        yield ("AI.MODELEXECUTE", key, "INPUTS", 1, "x4", "OUTPUTS", 1, "out")
        yield ("AI.MODELGET", key, "META", "BLOB")
        yield chance.choice((("AI.MODELDEL", key), ("COPY", key, "m0", "REPLACE"), ("EXISTS", key)))


def onnx_models(chance: random.Random) -> Iterator[Words]:
    return models_of("ONNX", chance)


def torch_models(chance: random.Random) -> Iterator[Words]:
    return models_of("TORCH", chance)


def stored_scripts(chance: random.Random) -> Iterator[Words]:
    source = scripts.function("double", "return tensors[0] * 2")
    while True:
        key = f"s{chance.randrange(3)}"
        yield scripts.store_command(key, "def" if chance.random() < 0.2 else source, ["double"], tag="tag")
        yield ("AI.SCRIPTEXECUTE", key, "double", "INPUTS", 1, "x4", "OUTPUTS", 1, "out")
        yield ("AI.SCRIPTGET", key)
        yield chance.choice((("AI.SCRIPTDEL", key), ("COPY", key, "s0", "REPLACE"), ("EXISTS", key)))


def runs(chance: random.Random) -> Iterator[Words]:
    while True:
        inputs: Words = ("INPUTS", 2, chance.choice(("x", "y")), chance.choice(("x", "y", "x4")))  # x4 does not fit
        out = chance.choice(("out", "out2"))
        yield ("AI.MODELEXECUTE", chance.choice(("add", "both", "batched")), *inputs, "OUTPUTS", 1, out)
        yield ("AI.MODELEXECUTE", "both", *inputs, "OUTPUTS", 2, out, "out3", "TIMEOUT", chance.choice((1, 1000)))
        function = chance.choice(("add", "two", "fails", "number"))
        yield ("AI.SCRIPTEXECUTE", "s", function, *inputs, "ARGS", 1, "a", "OUTPUTS", 1, out)
        yield ("AI.SCRIPTEXECUTE", "redis", "run", "KEYS", 1, "text", "ARGS", 3, "SET", "text", "value")
        yield ("AI.INFO", "add", chance.choice(("FULL", "RESETSTAT")))
        yield ("DEL", out)


def dags(chance: random.Random) -> Iterator[Words]:
    while True:
        model = chance.choice(("add", "batched", "lonely", "other device"))
        function = chance.choice(("add", "add", "fails"))
        words: Words = ("AI.DAGEXECUTE", "LOAD", 2, "x", chance.choice(("y", "y", "x4")), "PERSIST", 1, "out")
        words += ("|>", "AI.TENSORSET", "a", "FLOAT", 1, 2, "VALUES", 1, 2)
        words += ("|>", "AI.MODELEXECUTE", model, "INPUTS", 2, "x", "a", "OUTPUTS", 1, "b")
        words += ("|>", "AI.MODELEXECUTE", "other device", "INPUTS", 2, "x", words[4], "OUTPUTS", 1, "c")
        words += ("|>", "AI.SCRIPTEXECUTE", "s", function, "INPUTS", 2, "b", "c", "OUTPUTS", 1, "out")
        yield (*words, "|>", "AI.TENSORGET", chance.choice(("out", "a", "none")), "VALUES")
        yield ("DEL", "out")


def batches(chance: random.Random) -> Iterator[Words]:
    while True:
        inputs: Words = ("INPUTS", 2, *[chance.choice(("x", "y", "rows"))] * 2)
        timeout: Words = ("TIMEOUT", chance.choice((1, 100))) if chance.random() < 0.3 else ()
        key = chance.choice(("batched", "lonely", "total"))
        if key == "total":
            inputs = ("INPUTS", 1, "flat")
        yield ("AI.MODELEXECUTE", key, *inputs, "OUTPUTS", 1, f"out{chance.randrange(5)}", *timeout)


LONELY = ("BATCHSIZE", 8, "MINBATCHSIZE", 6, "MINBATCHTIMEOUT", 2)


def set_up(wire: Wire) -> None:
    add, both = models.onnx_add(), models.torch_module(models.SumAndProduct)
    for words in (
        ("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2),
        ("AI.TENSORSET", "y", "FLOAT", 1, 2, "VALUES", 3, 4),
        ("AI.TENSORSET", "rows", "FLOAT", 3, 2),
        ("AI.TENSORSET", "flat", "FLOAT", 3),
        ("AI.TENSORSET", "x4", "FLOAT", 3, 4, "BLOB", np.ones(12, np.float32).tobytes()),
        ("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", add),
        ("AI.MODELSTORE", "other device", "ONNX", "CPU:1", "BLOB", add),
        ("AI.MODELSTORE", "batched", "ONNX", "CPU", "BATCHSIZE", 8, "BLOB", add),
        ("AI.MODELSTORE", "both", "TORCH", "CPU", "BATCHSIZE", 8, "BLOB", both),
        ("AI.MODELSTORE", "total", "ONNX", "CPU", "BATCHSIZE", 8, "BLOB", models.onnx_total()),
        ("AI.MODELSTORE", "lonely", "ONNX", "CPU", *LONELY, "BLOB", add),
        scripts.store_command("s", scripts.SOURCE, tuple(scripts.FUNCTIONS)),
        scripts.store_command("redis", scripts.REDIS, ("run",)),
    ):
        assert wire.ask(*words) == b"OK", words[:2]


def work(server: Server, source: Iterator[Words], count: int, clients: int) -> None:
    """Runs so many commands; several clients send theirs all at once."""
    wires = [server.wire() for _ in range(clients)]
    left = count
    while left > 0:
        sent = [0] * clients
        for _ in range(min(left, 20)):
            for place, wire in enumerate(wires):
                wire.send(*next(source))
                sent[place] += 1
        left -= sum(sent)
        for wire, number in zip(wires, sent, strict=True):
            for _ in range(number):
                reply = wire.read()
                assert not isinstance(reply, Error) or reply.startswith("ERR "), reply
    for wire in wires:
        wire.close()


def settled(server: Server) -> tuple[int, int]:
    """used_memory and resident memory when the keys are those of set_up() and nothing is under way."""
    with server.wire() as wire:
        wait_until_alone(wire)
        for key in wire.ask("KEYS", "*"):
            if key not in KEYS:
                wire.ask("DEL", key)
        wire.ask("MEMORY", "PURGE")
        lowest = server.used_memory()

        def is_level() -> bool:
            nonlocal lowest
            # what is compiled is dropped after the command that deletes it
            wire.ask("AI.MODELSTORE", "probe", "ONNX", "CPU", "BLOB", models.onnx_total())
            wire.ask("DEL", "probe")
            before, lowest = lowest, server.used_memory()
            return lowest >= before

        wait_for(is_level, what="what was deleted is dropped")
        return lowest, rss(server.pid)


KEYS = {b"x", b"y", b"rows", b"flat", b"x4", b"add", b"other device", b"batched", b"both", b"total", b"lonely", b"s"}
KEYS |= {b"redis"}

# The share of all commands, and how many clients.
KINDS = {
    tensors: (0.4, 1),
    onnx_models: (0.08, 1),
    torch_models: (0.02, 1),
    stored_scripts: (0.01, 1),
    runs: (0.2, 2),
    dags: (0.14, 5),
    batches: (0.15, 10),
}


@pytest.fixture(scope="module")
def level(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # The slow log keeps words of commands; which ones depends on how busy the machine is.
    arguments, options = ("--slowlog-log-slower-than", "-1"), ("THREADS_PER_QUEUE", "2")
    server = Server(tmp_path_factory.mktemp("level"), arguments, options, module_path()).start()
    with server.wire() as wire:
        set_up(wire)
    yield server
    assert server.stop() == 0, server.log_tail()


@pytest.mark.timeout(100 + COMMANDS // 20)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_memory_is_level(level: Server, kind: object) -> None:
    share, clients = KINDS[kind]  # type: ignore[index]
    source = kind(random.Random(SEED))  # type: ignore[operator]
    count = int(COMMANDS * share)
    work(level, source, int(count * WARM_UP), clients)
    used, resident = settled(level)
    work(level, source, int(count * (1 - WARM_UP)), clients)
    grown: list[int] = []

    def is_level() -> bool:
        after = settled(level)
        grown[:] = [after[0] - used, after[1] - resident]
        return grown[0] < MAX_USED and grown[1] < MAX_RSS

    try:
        wait_for(is_level, 20)
    except AssertionError as error:
        raise AssertionError(f"grown by {grown} bytes (used_memory, resident) over {count} commands") from error
    print(f"{count} commands: used_memory {grown[0]:+}, resident {grown[1]:+} bytes")
