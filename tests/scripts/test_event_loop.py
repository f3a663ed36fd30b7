"""No client waits for another's script: GET is answered at once while one compiles and while one runs.

Bounded as in test_event_loop.py: these fail where the event loop is held up, and only there.
"""

from __future__ import annotations

import threading
import time

import pytest

from testkit import scripts
from testkit.scripts import execute, function, store_command, store_redis
from testkit.server import Server
from testkit.wire import Wire

WORST = 0.1
ATTEMPTS = 3  # a machine that is busy elsewhere can hold GET up once, a loop that is blocked does every time
LINES = 8000


def worst_get(server: Server, over: threading.Event) -> float:
    worst = 0.0
    with server.wire() as wire:
        while not over.is_set():
            worst = max(worst, wire.timed("GET", "k")[1])
    return worst


def beside(server: Server, *commands: tuple[object, ...]) -> tuple[float, float]:
    """Seconds of the slowest GET while these are answered, one after another, and how many that took."""
    over, measured = threading.Event(), [0.0]

    def measure() -> None:
        measured[0] = worst_get(server, over)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        with server.wire() as wire:
            start = time.monotonic()
            for words in commands:
                assert wire.ask(*words) == b"OK"  # type: ignore[arg-type]
            took = time.monotonic() - start
    finally:
        over.set()
        thread.join()
    return measured[0], took


def check_worst(server: Server, *commands: tuple[object, ...]) -> None:
    found = []
    for _ in range(ATTEMPTS):
        worst, took = beside(server, *commands)
        assert took > 2 * WORST, f"over after {took} s: too soon to tell whether anyone waited"
        if worst < WORST:
            return
        found.append(worst)
    pytest.fail(f"GET waited up to {found} s")


def large_script() -> str:
    """Thousands of lines in many functions, none of which takes longer than its fellows."""
    body = "\n    ".join(["x = tensors[0]", *("x = x * 2 + torch.relu(x - 1)" for _ in range(20)), "return x"])
    return "\n".join(function(f"f{number}", body) for number in range(LINES // 22))


def test_a_large_script_compiles(server: Server, wire: Wire) -> None:
    wire.ask("SET", "k", "x")
    check_worst(server, store_command("s", large_script(), ["f0", "f1"]))


def test_scripts_call_redis_all_the_time(server: Server, wire: Wire) -> None:
    store_redis(wire, "increment")
    check_worst(server, *[execute("s", "increment", ["counter"], (), [25000])] * 4)
    assert int(wire.ask("GET", "counter")) % 100_000 == 0


def test_a_script_computes(server: Server, wire: Wire) -> None:
    """In TorchScript alone, in steps so short that the lock between them matters."""
    body = "x = torch.eye(8)\n    for i in range(int(args[0])):\n        x = torch.relu(x + 1)\n    return x"
    scripts.store(wire, "s", function("f", body), ["f"])
    check_worst(server, *[execute("s", "f", (), (), [60_000], ["y"])] * 3)
