"""The engine's entry point. The thread that started Python enters main() and becomes the loader.

Nothing but the bridge is imported before main(), so that a broken engine is reported in Redis's log as one line.
"""

from __future__ import annotations

from _redisai_bridge import ffi, lib

# Of the machine's memory.
MAX_MEMORY = 4


def limit_memory() -> None:
    """Makes allocations fail that no memory can serve. Where memory is overcommitted, as Redis asks for, they would
    succeed, and the kernel would end the process when a library fills what it got. What is mapped already (a
    sanitizer's shadow memory) does not count."""
    import os
    import resource

    page = os.sysconf("SC_PAGE_SIZE")
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[5]) * page
    limit = mapped + MAX_MEMORY * os.sysconf("SC_PHYS_PAGES") * page
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY or soft > limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def main() -> None:
    try:
        import sys

        from .loader import Loader

        limit_memory()
        # While another thread computes in Python, a worker that leaves a C call waits this long for the GIL. The
        # loader does that while it imports a library. With Python's default, 5 ms several times a run, models stall.
        sys.setswitchinterval(0.0002)
        loader = Loader()
    except BaseException as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        lib.bridge_engine_started(text.encode(errors="replace"))
        return
    lib.bridge_engine_started(ffi.NULL)
    loader.run()
