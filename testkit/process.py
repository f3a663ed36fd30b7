"""What the kernel tells of processes: their memory, the CPU time of their threads, and that of all other processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def rss(pid: int | str) -> int:
    """Bytes of memory that the process holds, its libraries included."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def thread_ns(pid: int) -> dict[int, int]:
    """Nanoseconds of CPU time that each thread has used, by its number; the main thread's is the pid."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {int(task.name): int((task / "schedstat").read_text().split()[0]) for task in tasks}


def others_seconds() -> float:
    """CPU time of all processes except this one and its children that have ended."""
    fields = Path("/proc/stat").read_text().split(maxsplit=9)
    user, nice, system, steal = (int(fields[i]) / os.sysconf("SC_CLK_TCK") for i in (1, 2, 3, 8))
    return user + nice + system + steal - sum(os.times()[:4])


def watch_others() -> Callable[[], float]:
    """Returns a function that returns the cores that others took since now. Our children must have ended by then."""
    before, start = others_seconds(), time.monotonic()
    return lambda: max(0.0, (others_seconds() - before) / (time.monotonic() - start))
