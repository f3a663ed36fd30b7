"""A server that is killed in the middle of a stream: each entry is run at least once, and none out of order."""

from __future__ import annotations

import itertools
from pathlib import Path

from testkit.isolation import Pings
from testkit.server import Server, module_path
from testkit.waiting import wait_for
from testkit.wire import Wire, encode

ENTRIES, KILLS, PIPELINE = 100_000, 3, 1000
FLOW = """
GB("StreamReader").foreach(lambda record: execute("RPUSH", "done", record["value"]["n"])).register("in", batch=100)
"""


def fill(wire: Wire) -> None:
    for first in range(0, ENTRIES, PIPELINE):
        wire.socket.sendall(b"".join(encode(("XADD", "in", "*", "n", first + i)) for i in range(PIPELINE)))
        for _ in range(PIPELINE):
            wire.read()


def run_until(server: Server, count: int) -> None:
    with server.wire() as wire:
        wait_for(lambda: wire.ask("LLEN", "done") >= count, 120, f"{count} entries are run")


def test_killed_in_the_middle(tmp_path: Path) -> None:
    server = Server(tmp_path, ["--appendonly", "yes"], ["FLOWS", "yes"], module_path()).start()
    with server.wire() as wire:
        wire.ask_ok("RG.PYEXECUTE", FLOW)
        fill(wire)
    for kill in range(1, KILLS + 1):
        run_until(server, kill * ENTRIES // (KILLS + 1))
        server.kill()
        server.start()
    pings = Pings(server, tmp_path / "pings")
    with server.wire() as wire:
        with pings.quick():
            wait_for(lambda: wire.ask("XLEN", "in") == 0, 120, "all entries are run")
        done = [int(n) for n in wire.ask("LRANGE", "done", 0, -1)]
    pings.stop()
    assert sorted(set(done)) == list(range(ENTRIES))
    steps_back = [(a, b) for a, b in itertools.pairwise(done) if b != a + 1]
    assert len(steps_back) <= KILLS and all(b <= a for a, b in steps_back), steps_back
    print(f"{len(done) - ENTRIES} entries ran twice")
    assert server.stop() == 0
