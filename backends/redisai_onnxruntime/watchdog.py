"""Ends runs of ONNX Runtime in Python that take longer than MODEL_EXECUTION_TIMEOUT. Workers enter; it owns one thread.

src/direct/watch.c does the same for runs in C.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from .c_api import api


class Watchdog:
    """A thread that sleeps until the deadline of the oldest run, and ends the runs that have passed theirs.

    Workers enter begin() and end(). While nothing runs, the thread waits for the next begin(). Once woken it sleeps for
    a whole timeout, so at most one run in that time pays for waking it.
    """

    def __init__(self, timeout: int) -> None:
        self.timeout = timeout  # ms
        self.runs = 0  # finished so far
        self._seconds = timeout / 1000
        self._running: dict[Any, float] = {}  # OrtRunOptions, and the deadline of their run
        self._idle = False
        self._wake = threading.Event()
        threading.Thread(target=self._watch, name="onnx-watchdog", daemon=True).start()

    def begin(self, options: Any) -> None:
        # The order matters: this adds the run before it reads _idle, and _watch() sets _idle before it looks for runs.
        # So at least one of the two sees the other.
        self._running[options] = time.monotonic() + self._seconds
        if self._idle:
            self._wake.set()

    def end(self, options: Any) -> bool:
        """Returns whether the watchdog has ended the run."""
        self.runs += 1
        return self._running.pop(options, None) is None

    def _watch(self) -> None:
        while True:
            self._idle = True
            if not self._running:
                self._wake.wait()
            self._idle = False
            self._wake.clear()
            now = time.monotonic()
            wake = now + self._seconds
            for options, deadline in list(self._running.items()):
                if deadline > now:
                    wake = min(wake, deadline)
                elif self._running.pop(options, None) is not None:
                    api.RunOptionsSetTerminate(options)  # affects only runs with these options; harmless after the run
            time.sleep(wake - now)
