"""The part "growth": time and memory of commands, by the number of stored models, stored tensors or waiting requests.

Commands come for any of the stored items at random. Each point alternates with plain Redis that has as many strings or
clients: what both lose with growth is due to the machine (caches, page tables) or to Redis.
"""

from __future__ import annotations

import random
import resource
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from statistics import median

from bench.harness import alternate
from bench.report import Plan, Report
from bench.throughput import output_of, send
from testkit import networks
from testkit.info import number
from testkit.load import SET, Load, Result, Traffic, build_load, bulk, execution, modelstore, tensorset
from testkit.process import rss
from testkit.server import Server, fresh_server
from testkit.waiting import wait_for
from testkit.wire import Word, encode

SIZES = (1, 10, 100, 1_000, 10_000)
TENSORS = (*SIZES, 100_000, 1_000_000)
QUICK = 100  # max items of a quick run
SHORT = 1 / 4  # of plan.seconds: there are many points, and a curve shows which one is off
CONNECTIONS = 10
CHUNK = 100  # commands that are sent together
SAMPLE = 50_000  # random commands: the keys that they touch do not fit into a core's own cache
SHARED = 50  # connections, where requests of the same connection wait for each other
BATCHSIZE = 32
RESERVE = 100  # file descriptors of a process besides those of clients
SLOWEST = 50e-6  # seconds for one of many requests: all must be answered during a measurement
ITEM = "#######"  # in a request: replaced by the number of an item

VALUES = networks.random(1, 4)  # the model's input

Items = range | list[int]
Chunk = tuple[bytes, int]  # requests, and how many these are


# ---- requests for any of many keys -----------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Command:
    name: str
    request: bytes
    answer: bytes = b"+OK\r\n"

    def chunks(self, items: Items) -> Iterator[Chunk]:
        pieces = self.request.split(ITEM.encode())
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            yield b"".join([(b"%07d" % item).join(pieces) for item in chunk]), len(chunk)


STRING = bytes(VALUES.nbytes)
SET_STRING = Command("SET", encode(("SET", ITEM, STRING)))
GET_STRING = Command("GET", encode(("GET", ITEM)), bulk(STRING))


class Pipe:
    """A connection with up to two chunks in flight. Every reply is compared."""

    def __init__(self, on: Server, answer: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", on.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.size = len(answer)
        self.wanted = answer * (2 * CHUNK + 1)
        self.owed = self.received = 0  # bytes

    def send(self, source: Iterator[Chunk]) -> None:
        while self.owed <= CHUNK * self.size and (chunk := next(source, None)):
            self.socket.sendall(chunk[0])
            self.owed += chunk[1] * self.size

    def receive(self) -> None:
        try:
            data = self.socket.recv(2 * CHUNK * self.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        begin = self.received % self.size
        if not data or data != self.wanted[begin : begin + len(data)]:
            raise RuntimeError(f"a wrong reply, or none: {data[:200]!r}")
        self.received += len(data)
        self.owed -= len(data)


class Pipes:
    """Connections that share one source of requests. Python is fast enough, since it polls only every 0.3 ms."""

    def __init__(self, on: Server, answer: bytes, source: Iterator[Chunk]) -> None:
        self.pipes = [Pipe(on, answer) for _ in range(CONNECTIONS)]
        self.size = len(answer)
        self.source = source

    def __enter__(self) -> Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self.pipes:
            pipe.socket.close()

    def poll(self) -> bool:
        """Sends and receives once. Returns whether there was something to send or to wait for."""
        for pipe in self.pipes:
            pipe.send(self.source)
        if not any(pipe.owed for pipe in self.pipes):
            return False
        time.sleep(0.0003)
        for pipe in self.pipes:
            pipe.receive()
        return True

    def count(self, seconds: float) -> int:
        """Replies within `seconds`."""
        end = time.perf_counter() + seconds
        before = sum(pipe.received for pipe in self.pipes)
        while time.perf_counter() < end:
            self.poll()
        return (sum(pipe.received for pipe in self.pipes) - before) // self.size


def send_for_each(on: Server, command: Command, items: Items) -> float:
    """Sends the command once for each item. Returns the microseconds for one."""
    start = time.perf_counter()
    with Pipes(on, command.answer, command.chunks(items)) as pipes:
        while pipes.poll():
            pass
    return (time.perf_counter() - start) / len(items) * 1e6


def send_for_any(on: Server, command: Command, items: int, seconds: float) -> float:
    """Sends the command for random items. Returns the microseconds for one."""
    sample = random.Random(42).choices(range(items), k=SAMPLE)
    with Pipes(on, command.answer, cycle(list(command.chunks(sample)))) as pipes:
        pipes.count(seconds / 4)
        start = time.perf_counter()
        count = pipes.count(seconds)
        took = time.perf_counter() - start
        pipes.source = iter(())
        while pipes.poll():
            pass
    return took / count * 1e6


# ---- one point of a curve --------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True, order=True)
class Memory:
    """Bytes as Redis counts them, which is all that it stores; and of the whole process with libraries and Python."""

    used: int
    resident: int

    @classmethod
    def of(cls, on: Server, clients: int = 0) -> Memory:
        with on.wire() as wire:  # the server needs a moment to drop closed ones
            wait_for(lambda: number(wire, "connected_clients", "clients") == clients + 1)
        return cls(on.used_memory(), rss(on.pid))

    def since(self, before: Memory, items: int) -> dict[str, float]:
        """Growth for each item."""
        used, resident = self.used - before.used, self.resident - before.resident
        return {"memory_bytes": round(used / items, 1), "resident_bytes": round(resident / items, 1)}


def both(repeat: int, ours: Callable[[], float], plain: Callable[[], float]) -> tuple[Result, Result]:
    """Microseconds of both, measured alternately."""
    first, second = (
        {"us": median(times), "us_min": min(times), "us_max": max(times)} for times in alternate(repeat, ours, plain)
    )
    return first, second


def show(row: Result) -> Result:
    plain = row["plain"]
    text = f"{row['case']:<24}{row['items']:>9}  {row['command']:<16}{row['us']:>8.2f} us {row['memory_bytes']:>9.0f} B"
    text += f"  {row['resident_bytes']:>9.0f} B resident  {plain['command']:<4}{plain['us']:>8.2f} us"
    print(text + f" {plain['memory_bytes']:>9.0f} B", flush=True)
    return row


# ---- stored models, stored tensors -----------------------------------------------------------------------------------


def execute(model: str, tensor: str) -> Command:
    words = "AI.MODELEXECUTE", model, "INPUTS", 1, tensor, "OUTPUTS", 1, "m:out"
    return Command(words[0], encode(words))


def grow_stored(
    plan: Plan, sizes: tuple[int, ...], store: Command, measured: list[tuple[Command, Command]]
) -> Iterator[Result]:
    """`measured` has pairs: a command, and the one that is sent to plain Redis."""
    model = networks.linear("n")
    seconds = plan.seconds * SHORT
    with fresh_server() as on, fresh_server() as other:
        needed = modelstore("m", model), tensorset("x", VALUES)
        send(on, *needed)
        # The first commands load a library and allocate statistics and client buffers: that is not measured.
        for number, (command, plain) in enumerate([(store, SET_STRING), *measured]):
            times = CHUNK * CONNECTIONS if number else 1
            send_for_each(on, command, [0] * times)
            send_for_each(other, plain, [0] * times)
        send(on, encode(("FLUSHALL",)), *needed, execute("m", "x").request)
        send(other, encode(("FLUSHALL",)))
        before, before_strings = Memory.of(on), Memory.of(other)
        there = 0
        for items in sizes:
            new, there = range(there, items), items
            store_us, store_string_us = send_for_each(on, store, new), send_for_each(other, SET_STRING, new)
            send_for_each(on, measured[-1][0], new)  # a library allocates more at the first run of a model
            memory, strings = Memory.of(on).since(before, items), Memory.of(other).since(before_strings, items)
            for command, plain in measured:
                ours, others = both(
                    plan.repeat,
                    partial(send_for_any, on, command, items, seconds),
                    partial(send_for_any, other, plain, items, seconds),
                )
                output_of(on, "m", model)
                row = {"command": command.name, "items": items, **ours, "store_us": store_us, **memory}
                yield {**row, "plain": {"command": plain.name, **others, "store_us": store_string_us, **strings}}


def grow_models(plan: Plan, sizes: tuple[int, ...]) -> Iterator[Result]:
    model = networks.linear("n")
    store = Command("AI.MODELSTORE", modelstore(ITEM, model))
    yield from grow_stored(plan, sizes, store, [(execute(ITEM, "x"), GET_STRING)])


def grow_tensors(plan: Plan, sizes: tuple[int, ...]) -> Iterator[Result]:
    store = Command("AI.TENSORSET", tensorset(ITEM, VALUES))
    read = Command("AI.TENSORGET", encode(("AI.TENSORGET", ITEM, "BLOB")), bulk(VALUES.tobytes()))
    pairs = [(store, SET_STRING), (read, GET_STRING), (execute("m", ITEM), GET_STRING)]
    yield from grow_stored(plan, sizes, store, pairs)


# ---- waiting requests ------------------------------------------------------------------------------------------------


def under_load(on: Server, traffic: Traffic, items: int, connections: int, seconds: float, seen: list[Memory]) -> float:
    """Microseconds from one reply to the next. Appends the server's memory under load to `seen`."""
    seconds = max(seconds, items * SLOWEST)
    with Load(on, traffic, connections, pipeline=items // connections) as load:
        load.start(warmup=seconds / 2)
        time.sleep(seconds / 2)
        seen.append(Memory.of(on, connections))
        time.sleep(seconds / 2)
        result = load.finish(now=True)
    return 1e6 / float(result["requests_per_s"])


def grow_waiting(plan: Plan, sizes: tuple[int, ...], max_connections: int, *options: Word) -> Iterator[Result]:
    """Keeps `items` requests in flight, on a connection each up to `max_connections`."""
    clients = encode(("CONFIG", "SET", "maxclients", sizes[-1] + RESERVE // 2))
    seconds = plan.seconds * SHORT
    with fresh_server() as on, fresh_server() as other:
        send(on, clients)
        send(other, clients)
        model = networks.linear("n")
        traffic = execution("m", model, *options)
        under_load(on, traffic, 1, 1, seconds, [])
        before, before_plain = Memory.of(on), Memory.of(other)
        for items in sizes:
            connections = min(items, max_connections)
            seen: tuple[list[Memory], list[Memory]] = ([], [])
            ours, plain = both(
                plan.repeat,
                partial(under_load, on, traffic, items, connections, seconds, seen[0]),
                partial(under_load, other, SET, items, connections, seconds, seen[1]),
            )
            output_of(on, "m", model)
            memory, plain_memory = max(seen[0]).since(before, items), max(seen[1]).since(before_plain, items)
            row = {"command": "AI.MODELEXECUTE", "items": items, "connections": connections, **ours, **memory}
            yield {**row, "plain": {"command": "SET", **plain, **plain_memory}}


# ---- the part --------------------------------------------------------------------------------------------------------

Grow = Callable[[Plan, tuple[int, ...]], Iterator[Result]]


def cases() -> Iterator[tuple[str, tuple[int, ...], Grow]]:
    yield "growth-models", SIZES, grow_models
    yield "growth-tensors", TENSORS, grow_tensors
    yield "growth-waiting", SIZES, lambda plan, sizes: grow_waiting(plan, sizes, SIZES[-1])
    yield (
        "growth-waiting-batch",
        SIZES,
        lambda plan, sizes: grow_waiting(plan, sizes, SIZES[-1], "BATCHSIZE", BATCHSIZE),
    )
    yield "growth-pipelined", SIZES, lambda plan, sizes: grow_waiting(plan, sizes, SHARED)


def allow_clients(wanted: int) -> int:
    """Raises the limit of file descriptors, which our servers and loads have, too. Returns the max clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted + RESERVE
    allowed = files if hard == resource.RLIM_INFINITY else min(files, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(soft, allowed) - RESERVE


def run(plan: Plan) -> Report:
    build_load()
    report = Report()
    clients = allow_clients(SIZES[-1])
    for case, sizes, grow in cases():
        if not plan.wants(case):
            continue
        if plan.quick:
            sizes = tuple(items for items in sizes if items <= QUICK)
        if "waiting" in case and sizes[-1] > clients:
            sizes = tuple(items for items in sizes if items <= clients)
            report.skipped.append(f"{case}: no more than {sizes[-1]} clients, as ulimit -n is {clients + RESERVE} here")
        report.rows += [show({"case": case, **row}) for row in grow(plan, sizes)]
    return report
