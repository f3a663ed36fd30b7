"""What the long runs share: clients that work at once, and memory compared between two moments of rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from testkit.process import rss
from testkit.server import Server, settled_memory
from testkit.waiting import wait_until_alone

WATCHDOG = 60.0  # seconds without a reply, after which it counts as a deadlock; a library may be imported meanwhile
WARMUP = 0.2  # share of the time, in which every library makes what it keeps
# A leak of one tensor in every tenth run passes this in a minute; what allocators keep for themselves does not.
MAX_RSS_GROWTH = 16 << 20
# The same keys hold values of the same size at both moments, and nobody is connected: this is for Redis's own tables.
MAX_MEMORY_GROWTH = 256 << 10


@dataclass(slots=True)
class Growth:
    """Memory after the warm-up and at the end."""

    rss: list[int] = field(default_factory=list)
    used: list[int] = field(default_factory=list)  # used_memory

    def measure(self, on: Server) -> None:
        with on.wire() as wire:
            wait_until_alone(wire)
        self.rss.append(rss(on.pid))
        self.used.append(settled_memory(on))

    def faults(self) -> list[str]:
        measured = ("RSS", self.rss, MAX_RSS_GROWTH), ("used_memory", self.used, MAX_MEMORY_GROWTH)
        return [
            f"{name} grew by {values[-1] - values[0]} bytes, more than {limit}"
            for name, values, limit in measured
            if len(values) == 2 and values[-1] - values[0] > limit
        ]

    def __str__(self) -> str:
        rss, used = (" -> ".join(f"{value / 1e6:.1f}" for value in values) for values in (self.rss, self.used))
        return f"RSS {rss} MB, used_memory {used} MB"


def work_at_once(clients: Iterable[Callable[[], None]]) -> None:
    """Each on a thread of its own, until all have returned."""
    threads = [threading.Thread(target=client, daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
