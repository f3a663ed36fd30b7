"""Ends runs of ONNX Runtime that take longer than MODEL_EXECUTION_TIMEOUT. Workers enter; it owns one thread."""

from __future__ import annotations

import threading
import time
from typing import Any

from .c_api import api


class Watchdog:
    """Ends runs that take longer than timeout: a thread that sleeps until the oldest run's time is over.

    Workers enter begin() and end(). While nothing runs the thread waits for the next begin(); once woken it sleeps for
    a whole timeout at least, so that at most one run in that time pays for waking it.
    """

    def __init__(self, timeout: int) -> None:
        self.timeout = timeout  # ms
        self.runs = 0  # ended so far
        self.most = 0  # at once
        self._seconds = timeout / 1000
        self._running: dict[Any, float] = {}  # OrtRunOptions, and the time at which their run has to end
        self._resting = False
        self._wake = threading.Event()
        threading.Thread(target=self._watch, name="onnx-watchdog", daemon=True).start()

    def begin(self, options: Any) -> None:
        # First in, then look: _watch() says that it rests before it looks for runs, so one of the two sees the other.
        self._running[options] = time.monotonic() + self._seconds
        if len(self._running) > self.most:
            self.most = len(self._running)
        if self._resting:
            self._wake.set()

    def end(self, options: Any, runs: int = 1) -> bool:
        """runs is how many there were, one after the other. Returns whether the last was ended."""
        self.runs += runs
        return self._running.pop(options, None) is None

    def _watch(self) -> None:
        while True:
            self._resting = True
            if not self._running:
                self._wake.wait()
            self._resting = False
            self._wake.clear()
            now = time.monotonic()
            wake = now + self._seconds
            for options, deadline in list(self._running.items()):
                if deadline > now:
                    wake = min(wake, deadline)
                elif self._running.pop(options, None) is not None:
                    api.RunOptionsSetTerminate(options)  # of these options only: harmless where the run has just ended
            time.sleep(wake - now)
