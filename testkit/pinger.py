"""Sends PING to a server and prints the seconds that each answer took: a process of its own, for nothing that a test
does may delay it. `python -m testkit.pinger <port> <pid of the server>` until it is ended.

The time in which the server's main thread or this process could run and had no core is not the server's fault, and is
taken off."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from testkit.wire import Wire

PAUSE = 0.004


def main() -> None:
    port, server = map(int, sys.argv[1:])
    schedules = [Path(f"/proc/{server}/task/{server}/schedstat"), Path("/proc/self/schedstat")]

    def waited() -> float:
        """Seconds that both have waited for a core so far."""
        return sum(int(schedule.read_text().split()[1]) for schedule in schedules) / 1e9

    wire = Wire(port, timeout=120)
    while True:
        before = waited()
        taken = wire.timed("PING")[1]
        print(f"{max(taken - (waited() - before), 0):.6f}", flush=True)
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
