"""The engine's entry point. The thread that started Python enters main() and becomes the loader.

Nothing but the bridge is imported before main(), so that a broken engine is reported in Redis's log as one line.
"""

from __future__ import annotations

from _redisai_bridge import ffi, lib


def main() -> None:
    try:
        import sys

        from .loader import Loader

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
