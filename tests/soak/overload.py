"""scripts/overload: thousands of clients want a slow model, with limits on, and one more client runs GET in a loop.

Each client sends a run with its inputs, waits for the answer, and sends the next: after OK at once, after BUSY a while
later, as a client should. It is judged whether each request has an answer, whether memory stays level, and how long a
GET takes meanwhile. On a machine that others use, too, the last is theirs as well: its load is told.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import re
import selectors
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from testkit import models
from testkit.info import module_sections, number
from testkit.load import GET, GET_WARMUP, Load, build_load, run_load
from testkit.server import Server, fresh_server
from testkit.wire import Wire, Word, encode

ROWS = 4096  # of the input of a run: 16 KB
INPUT_BYTES = 4 * ROWS + 8
BACK_OFF = 0.5  # seconds after BUSY, at random from half of it to one and a half
MAX_QUEUED = 256
MAX_QUEUED_BYTES = 4_000_000
PATIENCE = 60.0  # seconds for the answers that are missing at the end
MAX_GET_MS = 3.0
ALONE = 0.5  # seconds that GET runs before
LEVEL = 16_000_000  # bytes that memory may vary


@cache
def slow_model() -> bytes:
    """n INT64, rank 0, and x FLOAT [k] -> y = x, after n rounds of work."""
    ports = [models.value("n", TensorProto.INT64, []), models.value("x", TensorProto.FLOAT, ["k"])]
    matrix = [models.value(name, TensorProto.FLOAT, [64, 64]) for name in ("v", "v_next")]
    go = [models.value(name, TensorProto.BOOL, []) for name in ("go", "go_on")]
    steps = [helper.make_node("MatMul", ["v", "w"], ["v_next"]), helper.make_node("Identity", ["go"], ["go_on"])]
    count = models.value("i", TensorProto.INT64, [])
    body = helper.make_graph(steps, "body", [count, go[0], matrix[0]], [go[1], matrix[1]])
    nodes = [
        helper.make_node("Loop", ["n", "", "w"], ["end"], body=body),
        helper.make_node("ReduceMax", ["end"], ["one"], keepdims=0),
        helper.make_node("Mul", ["x", "one"], ["y"]),
    ]
    weights = [numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")]
    return models.onnx_model(nodes, ports, [models.value("y", TensorProto.FLOAT, ["k"])], weights)


def request() -> bytes:
    put: tuple[Word, ...] = ("AI.TENSORSET", "x", "FLOAT", ROWS, "BLOB", bytes(4 * ROWS))
    run: tuple[Word, ...] = ("AI.MODELEXECUTE", "slow", "INPUTS", 2, "n", "x", "OUTPUTS", 1, "y")
    return encode(("AI.DAGEXECUTE_RO", "LOAD", 1, "n", "|>", *put, "|>", *run))


DONE = b"*2\r\n+OK\r\n+OK\r\n"


@dataclass(slots=True)
class Client:
    socket: socket.socket
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    answer: bytes = b""
    sent_at: float = 0.0  # 0: it waits for nothing


@dataclass(slots=True)
class Figures:
    sent: int = 0
    done: int = 0
    busy: int = 0
    others: list[bytes] = field(default_factory=list)  # other answers: there must be none
    unanswered: int = 0
    slowest: float = 0.0  # seconds for an answer
    queued_runs: list[int] = field(default_factory=list)
    queued_bytes: list[int] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)  # of Redis, bytes
    resident: list[int] = field(default_factory=list)  # of the process
    alone_p99: float = 0.0  # ms, of a GET before the others came
    get_p50: float = 0.0  # ms
    get_p99: float = 0.0
    get_max: float = 0.0


class Crowd:
    """So many clients, in one thread."""

    def __init__(self, server: Server, count: int, figures: Figures) -> None:
        self.figures = figures
        self.request = memoryview(request())
        self.selector = selectors.DefaultSelector()
        self.later: list[tuple[float, int]] = []  # when which client sends again
        self.clients: list[Client] = []
        now = time.monotonic()
        for index in range(count):
            client = Client(socket.create_connection(("127.0.0.1", server.port)))
            client.socket.setblocking(False)
            self.clients.append(client)
            self.selector.register(client.socket, selectors.EVENT_READ, index)
            heapq.heappush(self.later, (now + random.uniform(0, BACK_OFF), index))

    def send(self, index: int) -> None:
        client = self.clients[index]
        client.sent_at = time.monotonic()
        client.unsent, client.answer = self.request, b""
        self.figures.sent += 1
        self.send_more(index)

    def send_more(self, index: int) -> None:
        client = self.clients[index]
        with suppress(BlockingIOError):
            client.unsent = client.unsent[client.socket.send(client.unsent) :]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.unsent else 0)
        if self.selector.get_key(client.socket).events != events:
            self.selector.modify(client.socket, events, index)

    def receive(self, index: int, again: bool) -> None:
        client, figures = self.clients[index], self.figures
        part = client.socket.recv(4096)
        if not part:
            raise RuntimeError("the server has closed a connection")
        client.answer += part
        if not client.answer.endswith(b"\r\n") or (client.answer[:1] == b"*" and len(client.answer) < len(DONE)):
            return
        now = time.monotonic()
        figures.slowest = max(figures.slowest, now - client.sent_at)
        client.sent_at = 0.0
        pause = 0.0
        if client.answer == DONE:
            figures.done += 1
        elif client.answer.startswith(b"-BUSY "):
            figures.busy += 1
            pause = BACK_OFF * random.uniform(0.5, 1.5)
        else:
            figures.others.append(client.answer)
        if again:
            heapq.heappush(self.later, (now + pause, index))

    def step(self, again: bool) -> None:
        while again and self.later and self.later[0][0] <= time.monotonic():
            self.send(heapq.heappop(self.later)[1])
        for key, events in self.selector.select(0.005):
            if events & selectors.EVENT_WRITE:
                self.send_more(key.data)
            if events & selectors.EVENT_READ:
                self.receive(key.data, again)

    def waiting(self) -> int:
        return sum(client.sent_at > 0 for client in self.clients)

    def close(self) -> None:
        for client in self.clients:
            client.socket.close()


def look(wire: Wire, pid: int, figures: Figures) -> None:
    queued = module_sections(wire, "MODULES")["queued"]
    figures.queued_runs.append(int(queued["queued_runs"]))
    figures.queued_bytes.append(int(queued["queued_bytes"]))
    figures.memory.append(number(wire, "used_memory", "memory"))
    status = Path(f"/proc/{pid}/status").read_text()
    figures.resident.append(int(re.search(r"^RssAnon:\s+(\d+)", status, re.MULTILINE)[1]) * 1024)  # type: ignore[index]


def overload(server: Server, connections: int, seconds: float, milliseconds: float, limits: bool = True) -> Figures:
    """milliseconds: of one run."""
    figures = Figures()
    with server.wire() as wire:
        wire.ask_ok("AI.MODELSTORE", "slow", "ONNX", "CPU", "BLOB", slow_model())
        rounds = 2000
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", ROWS)
        wire.ask_ok("AI.TENSORSET", "n", "INT64", "VALUES", rounds)
        run: tuple[Word, ...] = ("AI.MODELEXECUTE", "slow", "INPUTS", 2, "n", "x", "OUTPUTS", 1, "y")
        took = min(wire.timed(*run)[1] for _ in range(5))
        wire.ask_ok("AI.TENSORSET", "n", "INT64", "VALUES", max(1, round(rounds * milliseconds / 1000 / took)))
        if limits:
            wire.ask_ok("AI.CONFIG", "MAX_QUEUED", MAX_QUEUED)
            wire.ask_ok("AI.CONFIG", "MAX_QUEUED_BYTES", MAX_QUEUED_BYTES)
            wire.ask_ok("AI.MODELCONFIG", "slow", "MAXQUEUE", MAX_QUEUED)
        figures.alone_p99 = float(run_load(server, GET, 1, ALONE, GET_WARMUP)["p99_us"]) / 1e3
        crowd = Crowd(server, connections, figures)
        try:
            with Load(server, GET) as load:
                load.start(warmup=GET_WARMUP)
                end, next_look = time.monotonic() + seconds, 0.0
                while (now := time.monotonic()) < end:
                    crowd.step(True)
                    if now > next_look:
                        next_look = now + 0.2
                        look(wire, server.pid, figures)
                result = load.finish(now=True)
            until = time.monotonic() + PATIENCE
            while crowd.waiting() and time.monotonic() < until:
                crowd.step(False)
            figures.unanswered = crowd.waiting()
        finally:
            crowd.close()
    figures.get_p50, figures.get_p99, figures.get_max = (
        float(result[name]) / 1e3 for name in ("p50_us", "p99_us", "max_us")
    )
    return figures


def growth(samples: list[int]) -> int:
    """How much more there is at most in the second half than in the first."""
    middle = len(samples) // 2
    return max(samples[middle:]) - max(samples[:middle], default=samples[0])


def problems(figures: Figures) -> list[str]:
    """What must not be, on any machine."""
    found = []
    if figures.unanswered:
        found.append(f"{figures.unanswered} requests have no answer after {PATIENCE:g} s")
    if figures.others:
        found.append(f"{len(figures.others)} answers are neither OK nor BUSY, the first: {figures.others[0]!r}")
    if figures.sent != figures.done + figures.busy + figures.unanswered + len(figures.others):
        found.append("requests and answers do not add up")
    if not figures.busy:
        found.append("nothing was refused: that is no overload")
    if max(figures.queued_runs) > MAX_QUEUED or max(figures.queued_bytes) > MAX_QUEUED_BYTES:
        found.append(f"{max(figures.queued_runs)} runs and {max(figures.queued_bytes)} bytes waited at once")
    for name, samples in ("memory of Redis", figures.memory), ("memory of the process", figures.resident):
        if growth(samples) > LEVEL:
            found.append(f"{name} grows: {growth(samples) / 1e6:.0f} MB more in the second half")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/overload", description=__doc__.split("\n\n")[0])
    parser.add_argument("--connections", type=int, default=2000, help="clients of the model (default 2000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long they send (default 20)")
    parser.add_argument("--milliseconds", type=float, default=20.0, help="that a run takes (default 20)")
    parser.add_argument("--without-limits", action="store_true", help="set none, to see what happens then")
    parser.add_argument("--isolation", default="", help="process: the model runs in an engine process")
    arguments = parser.parse_args()
    build_load()
    load = os.getloadavg()[0]
    with fresh_server(isolation=arguments.isolation) as server:
        limits = not arguments.without_limits
        figures = overload(server, arguments.connections, arguments.seconds, arguments.milliseconds, limits)
    print(f"{figures.sent} requests of {arguments.connections} clients, {INPUT_BYTES} bytes of inputs each")
    print(f"{figures.done} done, {figures.busy} refused with BUSY, {figures.unanswered} without an answer")
    print(f"the slowest answer came after {figures.slowest:.2f} s")
    print(
        f"at most {max(figures.queued_runs)} runs and {max(figures.queued_bytes) / 1e6:.1f} MB of inputs waited at once"
    )
    for name, samples in ("Redis", figures.memory), ("the process", figures.resident):
        most, more = max(samples) / 1e6, growth(samples) / 1e6
        print(f"memory of {name}: at most {most:.0f} MB, {more:+.1f} MB in the second half")
    print(f"GET: p50 {figures.get_p50:.2f} ms, p99 {figures.get_p99:.2f} ms, at most {figures.get_max:.2f} ms;")
    print(f"GET alone, before: p99 {figures.alone_p99:.2f} ms")
    print(f"load of the machine before: {load:.1f} on {os.cpu_count()} cores")
    found = problems(figures)
    if figures.get_p99 > MAX_GET_MS:
        found.append(f"GET takes more than {MAX_GET_MS:g} ms at the 99th percentile")
    for problem in found:
        print("NO:", problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
