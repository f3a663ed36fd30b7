"""Batching under load, with every combination of its options: each client gets its own rows, and the counts add up.

50 connections ask models of all backends for 1 to 8 rows of several shapes, half of them by way of DAGs. From what the
models tell of their batches it is known which runs there were, and AI.INFO has to agree.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from testkit.batches import Floats, batching, store, witness
from testkit.info import full_ai_info
from testkit.server import Server
from testkit.wire import Wire, Word, encode
from tests.conftest import StartServer

SEED = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
REQUESTS = 10_000
CONNECTIONS = 50
MAX_ROWS = 8
STALLED = 0.05  # s without any reply
BACKENDS = ("ONNX", "TORCH", "TF", "TFLITE")
FIRST_RUNS = 32  # requests of a model that may run in smaller batches, before it has shown that it can be batched

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Shape = tuple[int, ...]
BatchKey = tuple[str, Shape]
SHAPES: dict[str, list[Shape]] = {
    "ONNX": [(2,), (5,)],
    "TORCH": [(2,), (5,), (3, 2)],
    "TF": [(2,), (3, 2)],
    "TFLITE": [(2,), (5,)],
}


@dataclass(slots=True, frozen=True)
class Options:
    size: int = 0
    min_size: int = 0
    ms: int = 0

    def check(self, rows: int, batch: int) -> None:
        """Whether a request of so many rows may have been in a batch of so many."""
        right = batch == rows if self.size <= rows else rows <= batch <= self.size
        assert right, (self, rows, batch)

    def smallest(self) -> int:
        """The rows of the smallest batch: where the next request does not fit it may be less than MINBATCHSIZE."""
        return 1 if self.ms else min(self.min_size, self.size - MAX_ROWS + 1)


OPTIONS = {
    "none": Options(),
    "BATCHSIZE": Options(32),
    "BATCHSIZE that many requests exceed": Options(5),
    "BATCHSIZE and MINBATCHSIZE": Options(32, 16),
    "BATCHSIZE and MINBATCHSIZE, which are the same": Options(12, 12),
    "all three": Options(32, 24, 4),
}


@dataclass(slots=True)
class Load:
    port: int
    options: Options
    left: int = REQUESTS
    answered: int = 0
    waiting: Counter[BatchKey] = field(default_factory=Counter)  # rows of requests on their way
    calls: Counter[str] = field(default_factory=Counter)
    rows: dict[str, Counter[int]] = field(default_factory=lambda: {backend: Counter() for backend in BACKENDS})
    early: Counter[str] = field(default_factory=Counter)  # requests in batches that should have waited for more

    async def client(self, number: int) -> None:
        chance = random.Random(f"{SEED} {number}")
        connection = await asyncio.open_connection("127.0.0.1", self.port)
        while self.left > 0:
            self.left -= 1
            backend = chance.choice(BACKENDS)
            key = backend, chance.choice(SHAPES[backend])
            x = np.arange(MAX_ROWS * math.prod(key[1]), dtype=np.float32) + chance.randrange(1 << 20)
            await self.ask(connection, number, key, x, chance.randint(1, MAX_ROWS), chance.random() < 0.5)
        connection[1].close()

    async def ask(self, connection: Connection, number: int, key: BatchKey, x: Floats, rows: int, dag: bool) -> None:
        backend, shape = key
        x = x[: rows * math.prod(shape)]
        self.waiting[key] += rows
        connection[1].write(request(number, key, rows, x.tobytes(), dag))
        y = (x * 3 + 1).tobytes()
        known = (b"*4\r\n" if dag else b"") + b"+OK\r\n+OK\r\n$%d\r\n%s\r\n$%d\r\n" % (len(y), y, rows * 8)
        told = await receive(connection[0], known, rows * 8)
        self.answered += 1
        self.waiting[key] -= rows
        assert told == told[:8] * rows, "all rows were in the same batch"
        batch = int(struct.unpack("<f", told[:4])[0])
        self.options.check(rows, batch)
        self.calls[backend] += 1
        self.rows[backend][batch] += rows
        self.early[backend] += batch < self.options.smallest()

    async def keep_going(self, tasks: list[asyncio.Task[None]]) -> None:
        """Without MINBATCHTIMEOUT the last requests with a batch key wait for others: sends the missing rows."""
        number = CONNECTIONS
        while any(not task.done() for task in tasks):
            before = self.answered
            done, _ = await asyncio.wait(tasks, timeout=STALLED, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            if before == self.answered and self.options.min_size:
                for key, rows in list(self.waiting.items()):
                    if 0 < rows < self.options.min_size:
                        tasks.append(asyncio.create_task(self.fill(number, key, self.options.min_size - rows)))
                        number += 1

    async def fill(self, number: int, key: BatchKey, rows: int) -> None:
        connection = await asyncio.open_connection("127.0.0.1", self.port)
        await self.ask(connection, number, key, np.ones(rows * math.prod(key[1]), np.float32), rows, False)
        connection[1].close()

    async def run(self) -> None:
        await self.keep_going([asyncio.create_task(self.client(number)) for number in range(CONNECTIONS)])


def request(number: int, key: BatchKey, rows: int, data: bytes, dag: bool) -> bytes:
    backend, shape = key
    put: tuple[Word, ...] = ("AI.TENSORSET", f"x{number}", "FLOAT", rows, *shape, "BLOB", data)
    x, y, told = f"x{number}", f"y{number}", f"b{number}"
    run: tuple[Word, ...] = ("AI.MODELEXECUTE", backend, "INPUTS", 1, x, "OUTPUTS", 2, y, told)
    gets: list[tuple[Word, ...]] = [("AI.TENSORGET", y, "BLOB"), ("AI.TENSORGET", told, "BLOB")]
    commands = [put, run, *gets]
    if not dag:
        return b"".join(map(encode, commands))
    return encode(("AI.DAGEXECUTE", "ROUTING", x, *(word for command in commands for word in ("|>", *command))))


async def receive(reader: asyncio.StreamReader, known: bytes, size: int) -> bytes:
    """The replies: what is known of them, and so many bytes, which are returned."""
    received = b""
    while len(received) < len(known) + size + 2:
        data = await reader.read(65536)
        assert data, "closed by the server"
        received += data
        if received[: len(known)] != known[: len(received)]:
            raise AssertionError(f"wanted: {known[:300]!r} received: {received[:300]!r}")
    assert len(received) == len(known) + size + 2
    return received[len(known) : -2]


def check_counts(wire: Wire, load: Load) -> None:
    for backend in BACKENDS:
        found = full_ai_info(wire, backend)
        rows, calls = load.rows[backend], load.calls[backend]
        assert all(count % size == 0 for size, count in rows.items()), "every batch was seen whole"
        executions = sum(count // size for size, count in rows.items())
        assert (found["calls"], found["samples"], found["errors"]) == (calls, rows.total(), 0)
        assert found["executions"] == executions
        if load.options.size > MAX_ROWS:
            assert executions < calls, "there were batches"
        assert load.early[backend] <= FIRST_RUNS
    assert sum(load.calls.values()) >= REQUESTS


def flood(server: Server, wire: Wire, options: Options) -> None:
    print(f"SEED={SEED}")
    for backend in BACKENDS:
        store(wire, backend, witness(backend), *batching(options.size, options.min_size, options.ms))
    load = Load(server.port, options)
    asyncio.run(load.run())
    check_counts(wire, load)
    assert wire.ask("PING") == b"PONG"


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_each_client_gets_its_own_rows(server: Server, wire: Wire, options: Options) -> None:
    flood(server, wire, options)


@pytest.fixture
def two_workers(start_server: StartServer) -> Iterator[Server]:
    yield start_server(options=["THREADS_PER_QUEUE", 2])


@pytest.mark.parametrize("name", ["BATCHSIZE", "all three"])
def test_with_two_workers(two_workers: Server, name: str) -> None:
    with two_workers.wire() as wire:
        flood(two_workers, wire, OPTIONS[name])
