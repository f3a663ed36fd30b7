"""scripts/soak: many clients at once run a script that runs a model of every library.

Each client sends tensors of its own, one after another, and compares every reply to the last byte. A reply that takes
longer than WATCHDOG seconds counts as a deadlock. Memory is compared between two moments at which nothing runs: after a
warm-up, when every library has made what it keeps, and at the end.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from testkit.process import rss
from testkit.server import Server, fresh_server
from testkit.waiting import wait_until_alone
from testkit.wire import Wire, Word, encode
from tests.soak.chain import LENGTH, SCRIPT, links
from tests.soak.lines import LineModel

CLIENTS = 50
WATCHDOG = 10.0
WARMUP = 0.2  # share of the time
# A leak of one tensor in every tenth run passes this in a minute; what allocators keep for themselves does not.
MOST_RSS_GROWTH = 16 << 20
# The same keys hold values of the same size at both moments, and nobody is connected: this is for Redis's own tables.
MOST_MEMORY_GROWTH = 256 << 10


@dataclass(slots=True)
class Result:
    threads_per_queue: int
    seconds: float
    runs: int = 0
    slowest: float = 0.0
    rss: list[int] = field(default_factory=list)  # after the warm-up, and at the end
    memory: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def check(self) -> list[str]:
        """All that went wrong."""
        faults = list(self.faults)
        for name, (before, after), most in (
            ("RSS", self.rss, MOST_RSS_GROWTH),
            ("used_memory", self.memory, MOST_MEMORY_GROWTH),
        ):
            if after - before > most:
                faults.append(f"{name} grew by {after - before} bytes, more than {most}")
        return faults


@dataclass(slots=True)
class Clients:
    """The clients of one server; work() lets them all go to it for so long."""

    on: Server
    chain: tuple[LineModel, ...]
    result: Result
    stop_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, seconds: float) -> None:
        self.stop_at = time.monotonic() + seconds
        threads = [threading.Thread(target=self.client, args=(number,), daemon=True) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

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


def ask(wire: Wire, *words: Word) -> None:
    reply = wire.ask(*words)
    if reply != b"OK":
        raise RuntimeError(f"{words[:2]}: {reply}")


def soak(threads_per_queue: int, seconds: float) -> Result:
    result = Result(threads_per_queue, seconds)
    chain = links()
    with fresh_server(threads_per_queue) as on:
        with on.wire() as wire:
            for link in chain:
                ask(wire, *link.words(link.backend))
            ask(wire, "AI.SCRIPTSTORE", "script", "CPU", "ENTRY_POINTS", 1, "chain", "SOURCE", SCRIPT)
        clients = Clients(on, chain, result)
        for share in WARMUP, 1 - WARMUP:
            clients.work(seconds * share)
            with on.wire() as wire:
                wait_until_alone(wire)
            result.rss.append(rss(on.pid))
            result.memory.append(on.used_memory())
        with on.wire() as wire:
            counted = int(wire.ask("GET", "runs"))
        if counted != result.runs and not result.faults:
            result.faults.append(f"{result.runs} runs were answered, but the script counted {counted}")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each setting runs (default 60)")
    parser.add_argument("--threads", default="1,4", help="the settings of THREADS_PER_QUEUE (default 1,4)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when anything went wrong")
    options = parser.parse_args()

    print(f"{CLIENTS} clients, a script of {len(links())} models; memory in MB, after the warm-up and at the end")
    print(f"{'workers':>7}{'runs':>9}{'runs/s':>8}{'slowest':>9}{'RSS':>17}{'used_memory':>17}  verdict")
    right = True
    for threads in map(int, options.threads.split(",")):
        result = soak(threads, options.seconds)
        faults = result.check()
        right &= not faults
        rate = f"{result.runs / result.seconds:.0f}"
        memory = [f"{before / 1e6:.1f} -> {after / 1e6:.1f}" for before, after in (result.rss, result.memory)]
        row = (
            f"{threads:>7}{result.runs:>9}{rate:>8}{f'{result.slowest * 1e3:.0f} ms':>9}{memory[0]:>17}{memory[1]:>17}"
        )
        print(f"{row}  {'; '.join(faults[:3]) or 'all right'}", flush=True)
    return int(options.check and not right)


if __name__ == "__main__":
    sys.exit(main())
