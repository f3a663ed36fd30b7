"""scripts/soak: many clients at once run a script that runs a model of every library.

Each client sends tensors of its own, one after another, and compares every reply to the last byte. A reply that takes
too long counts as a deadlock. Memory is compared between two moments at which nothing runs (run.py).
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from testkit.server import Server, fresh_server
from testkit.wire import Wire, Word, encode
from tests.soak.chain import LENGTH, SCRIPT, links
from tests.soak.lines import LineModel
from tests.soak.run import WARMUP, WATCHDOG, Growth, work_at_once

CLIENTS = 50


@dataclass(slots=True)
class Result:
    threads_per_queue: int
    seconds: float
    runs: int = 0
    slowest: float = 0.0
    growth: Growth = field(default_factory=Growth)
    faults: list[str] = field(default_factory=list)

    def check(self) -> list[str]:
        """All that went wrong."""
        return self.faults + self.growth.faults()


@dataclass(slots=True)
class Clients:
    """The clients of one server. work() has them all send for so long."""

    on: Server
    chain: tuple[LineModel, ...]
    result: Result
    stop_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, seconds: float) -> None:
        self.stop_at = time.monotonic() + seconds
        work_at_once(partial(self.client, number) for number in range(CLIENTS))

    def client(self, number: int) -> None:
        runs, slowest, fault = 0, 0.0, ""
        keys = ["runs", *[link.backend for link in self.chain]]
        script: tuple[Word, ...] = ("AI.SCRIPTEXECUTE", "script", "chain", "KEYS", len(keys), *keys)
        run = encode((*script, "INPUTS", 1, f"in:{number}", "OUTPUTS", 1, f"out:{number}"))
        run += encode(("AI.TENSORGET", f"out:{number}", "BLOB"))
        random = np.random.default_rng(number)
        try:
            with Wire(self.on.port, timeout=WATCHDOG) as wire:
                while time.monotonic() < self.stop_at and not self.result.faults:
                    tensor = random.integers(-1000, 1000, (1, LENGTH)).astype(np.float32)
                    expected = tensor
                    for link in self.chain:
                        expected = link(expected)
                    request = ("AI.TENSORSET", f"in:{number}", "FLOAT", *tensor.shape, "BLOB", tensor.tobytes())
                    start = time.monotonic()
                    wire.socket.sendall(encode(request) + run)
                    replies = [wire.read() for _ in range(3)]
                    slowest = max(slowest, time.monotonic() - start)
                    if replies != [b"OK", b"OK", expected.tobytes()]:
                        fault = f"client {number}, run {runs}: a wrong reply: {replies[:2]}"
                        break
                    runs += 1
        except TimeoutError:
            fault = f"client {number}, run {runs}: no reply for {WATCHDOG:g} s"
        except Exception as error:
            fault = f"client {number}, run {runs}: {error!r}"
        with self.lock:
            self.result.runs += runs
            self.result.slowest = max(self.result.slowest, slowest)
            self.result.faults += [fault] if fault else []


def soak(threads_per_queue: int, seconds: float) -> Result:
    result = Result(threads_per_queue, seconds)
    chain = links()
    with fresh_server(threads_per_queue) as on:
        with on.wire() as wire:
            for link in chain:
                wire.ask_ok(*link.words(link.backend))
            wire.ask_ok("AI.SCRIPTSTORE", "script", "CPU", "ENTRY_POINTS", 1, "chain", "SOURCE", SCRIPT)
        clients = Clients(on, chain, result)
        for share in WARMUP, 1 - WARMUP:
            clients.work(seconds * share)
            result.growth.measure(on)
        with on.wire() as wire:
            counted = int(wire.ask("GET", "runs") or 0)
        if counted != result.runs and not result.faults:
            result.faults.append(f"{result.runs} runs were answered, but the script counted {counted}")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each setting runs (default 60)")
    parser.add_argument("--threads", default="1,4", help="the settings of THREADS_PER_QUEUE (default 1,4)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when anything went wrong")
    options = parser.parse_args()

    print(f"{CLIENTS} clients, a script of {len(links())} models; memory after the warm-up and at the end")
    print(f"{'workers':>7}{'runs':>9}{'runs/s':>8}{'slowest':>9}  memory and verdict")
    right = True
    for threads in map(int, options.threads.split(",")):
        result = soak(threads, options.seconds)
        faults = result.check()
        right &= not faults
        rate = f"{result.runs / result.seconds:.0f}"
        row = f"{threads:>7}{result.runs:>9}{rate:>8}{f'{result.slowest * 1e3:.0f} ms':>9}"
        print(f"{row}  {result.growth}: {'; '.join(faults[:3]) or 'all right'}", flush=True)
    return int(options.check and not right)


if __name__ == "__main__":
    sys.exit(main())
