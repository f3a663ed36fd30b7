"""The part "images": compares MobileNetV2 on the server, alone and in batches, with the library itself.

Each request is TENSORSET, MODELEXECUTE and TENSORGET sent together: 602 KB there and 4 KB back. Each connection has
keys of its own. The server has one worker; the library runs with as many threads in a Python loop in another process,
which alternates with the server. The replies of a batch come together, so a rate is measured from the end of one batch
to the end of another. That needs the time of each reply, which the client below records; it also checks every reply.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.harness import alternate, median_of, ratios
from bench.library_loop import Library, library
from bench.mobilenet import BACKENDS, mobilenet
from bench.report import Goal, Plan, Report
from testkit.load import modelstore, tensorset
from testkit.networks import Network
from testkit.server import Server, module_path
from testkit.wire import encode

BATCHES = (1, 8, 16, 32)
QUICK = (8,)
SHARE = 0.95
MIN_BATCHES = 4  # in one measured rate
THREADS = 2  # of the library and of a run on the server, in the cases with more than one
TOLERANCE = 1e-4


@dataclass(slots=True)
class Connection:
    socket: socket.socket
    request: bytes
    reply: bytearray = field(default_factory=bytearray)
    sent: float = 0.0

    def send(self) -> None:
        self.reply.clear()
        self.sent = time.perf_counter()
        self.socket.sendall(self.request)  # does not block for long: the server reads at once


class Clients:
    """`count` connections, each of which sends its next request once the last one is answered."""

    def __init__(self, on: Server, name: str, model: Network, count: int) -> None:
        self.before = b"+OK\r\n+OK\r\n$%d\r\n" % model.output.nbytes
        self.size = len(self.before) + model.output.nbytes + 2
        self.output = model.output.ravel()
        self.selector = selectors.DefaultSelector()
        for number in range(count):
            x, y = f"{name}:{number}:x", f"{name}:{number}:y"
            request = tensorset(x, model.feed)
            request += encode(("AI.MODELEXECUTE", name, "INPUTS", 1, x, "OUTPUTS", 1, y))
            request += encode(("AI.TENSORGET", y, "BLOB"))
            link = socket.create_connection(("127.0.0.1", on.port), timeout=60)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.selector.register(link, selectors.EVENT_READ, Connection(link, request))
        self.connections: list[Connection] = [key.data for key in self.selector.get_map().values()]

    def run(self, batch: int, seconds: float) -> tuple[float, list[float]]:
        """Returns the replies per second, and the latencies in seconds."""
        ends: list[float] = []
        latencies: list[float] = []
        for connection in self.connections:
            connection.send()
        warm = len(self.connections)
        start, left = float("inf"), len(self.connections)
        while left:
            for key, _ in self.selector.select(60) or self._give_up():
                connection = key.data
                connection.reply += connection.socket.recv(1 << 16) or self._give_up()
                if len(connection.reply) < self.size:
                    continue
                now = time.perf_counter()
                ends.append(now)
                latencies.append(now - connection.sent)
                self._check(connection.reply)
                if len(ends) == warm:
                    start = now
                if now < start + seconds or len(ends) <= warm + MIN_BATCHES * batch:
                    connection.send()
                else:
                    left -= 1
        # Without the last replies: fewer and fewer requests are in flight then.
        ends = ends[warm - 1 : len(ends) - len(self.connections) + 1]
        whole = (len(ends) - 1) // batch * batch
        return whole / (ends[whole] - ends[0]), latencies[warm : len(latencies) - len(self.connections)]

    def _check(self, reply: bytearray) -> None:
        begin = len(self.before)
        output = np.frombuffer(reply[begin:-2], np.float32)
        if not reply.startswith(self.before) or not np.allclose(output, self.output, TOLERANCE, TOLERANCE):
            raise RuntimeError(f"a wrong reply: {bytes(reply[:200])!r}")

    def _give_up(self) -> Any:
        raise RuntimeError("the server does not answer")

    def close(self) -> None:
        for connection in self.connections:
            connection.socket.close()
        self.selector.close()


@contextmanager
def server(threads: int) -> Iterator[Server]:
    """A server with one worker, which runs a model with `threads` threads."""
    with TemporaryDirectory() as folder:
        options = ("THREADS_PER_QUEUE", 1, "INTRA_OP_PARALLELISM", threads)
        started = Server(Path(folder), options=options, module=module_path())
        try:
            yield started.start()
        finally:
            started.stop()


def served(on: Server, name: str, model: Network, connections: int, batch: int, seconds: float) -> dict[str, float]:
    clients = Clients(on, name, model, connections)
    try:
        with on.wire() as wire:
            wire.ask("AI.INFO", name, "RESETSTAT")
            rate, latencies = clients.run(batch, seconds)
            reply = wire.ask("AI.INFO", name, "FULL")
    finally:
        clients.close()
    info = dict(zip(reply[::2], reply[1::2], strict=True))
    p50, p99 = (np.percentile(latencies, (50, 99)) * 1e6).tolist()
    return {"requests_per_s": rate, "p50_us": p50, "p99_us": p99, "average_batch": float(info[b"average_batch"])}


def store(on: Server, name: str, model: Network, batch: int = 1) -> None:
    with on.wire() as wire:
        options = ("BATCHSIZE", batch) if batch > 1 else ()
        wire.socket.sendall(modelstore(name, model, *options))
        if (reply := wire.read()) != b"OK":
            raise RuntimeError(reply)


def measure(
    on: Server, direct: Library, name: str, model: Network, batch: int, threads: int, seconds: float, repeat: int
) -> Iterator[dict[str, Any]]:
    """Yields a row for as many connections as a batch has requests, and one for twice as many."""
    store(on, name, model, batch)
    counts = (batch, 2 * batch)
    sides = [partial(served, on, name, model, count, batch, seconds) for count in counts]
    *results, loop = alternate(repeat, *sides, partial(direct.result, batch, seconds))
    for count, ours in zip(counts, results, strict=True):
        shares = ratios(ours, loop)
        yield {
            "case": name,
            "batch": batch,
            "threads": threads,
            "connections": count,
            **{key: median(result[key] for result in ours) for key in ours[0]},
            "library_per_s": median_of(loop)["requests_per_s"],
            "share": median(shares),
            "share_min": min(shares),
            "share_max": max(shares),
        }


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['case']:<18}  batch {row['batch']:>2}  threads {row['threads']}  conns {row['connections']:>2}"
        f"  {row['requests_per_s']:>6.1f}/s  p50 {row['p50_us'] / 1e3:>6.1f} ms  p99 {row['p99_us'] / 1e3:>6.1f} ms"
        f"  average batch {row['average_batch']:>4.1f}  library {row['library_per_s']:>6.1f}/s"
        f"  share {row['share']:.3f} ({row['share_min']:.3f}-{row['share_max']:.3f})"
    )


def run(plan: Plan) -> Report:
    report = Report()
    for backend in BACKENDS:
        name = f"mobilenet-{backend.lower()}"
        if not plan.wants(name) or (plan.quick and not plan.wanted and backend != BACKENDS[0]):
            continue
        try:
            model = mobilenet(backend)
        except ImportError as error:
            report.skipped.append(f"{name}: {error}; pip install -c constraints.txt '.[bench]' brings it")
            continue
        for threads in (1,) if plan.quick else (1, THREADS):
            # With two threads on two cores, the server's main thread has no core of its own: one size is enough.
            batches = QUICK if plan.quick or threads > 1 else BATCHES
            with server(threads) as on, library(model, threads) as direct:
                for batch in batches:
                    rows = list(measure(on, direct, name, model, batch, threads, plan.seconds, plan.repeat))
                    for row in rows:
                        print(line(row), flush=True)
                    report.rows += rows
                    if batch > 1 and threads == 1:
                        text = f"{backend}, MobileNetV2 in batches of {batch}: share of the library's own rate"
                        report.goals.append(Goal(text, max(row["share"] for row in rows), SHARE))
    return report
