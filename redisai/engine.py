"""The engine's front door: the thread that started Python enters main() and becomes the loader.

Nothing but the bridge is imported before main(), so that whatever is wrong here reaches the log of Redis as one line.
"""

from __future__ import annotations

from _redisai_bridge import ffi, lib


def main() -> None:
    try:
        import sys

        from .loader import Loader

        # A worker that comes out of a C call waits for the GIL this long, where another thread computes in Python:
        # the loader, while it imports a library. 5 ms, Python's default, several times a run would stall models.
        sys.setswitchinterval(0.0002)
        loader = Loader()
    except BaseException as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        lib.bridge_engine_started(text.encode(errors="replace"))
        return
    lib.bridge_engine_started(ffi.NULL)
    loader.run()
