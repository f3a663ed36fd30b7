"""Ends engine processes (ISOLATION process) while clients work, as crashing models would.

A run that it ends answers one of ENDED. What it has set aside by that, it releases again.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from random import Random

from testkit.engines import engine_pids
from testkit.server import Server
from testkit.wire import Error, Wire

ENDED = re.compile(
    r"ERR (the process that (ran|compiled) '.*' ended: SIG[A-Z]+; [A-Z:0-9]+ starts anew"
    r"|'.*' is set aside: 3 engine processes have ended under it\. Release it with .*)$"
)
SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGSTOP)
RELEASE_EVERY = 2  # kills


def is_ended(reply: object) -> bool:
    return isinstance(reply, Error) and bool(ENDED.match(reply))


def release_all(wire: Wire) -> None:
    for scan in ("AI._MODELSCAN", "AI._SCRIPTSCAN"):
        found = wire.ask(scan)
        for key, _ in [] if isinstance(found, Error) else found:  # the server may be loading
            wire.ask("AI.INFO", key, "RESETSTAT")


class Killer:
    def __init__(self, servers: Callable[[], Sequence[Server]], seed: int, every: float) -> None:
        self.killed = 0
        self._servers = servers
        self._random = Random(f"{seed}/killer")
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        while not self._stop.wait(self._every):
            with suppress(OSError, ProcessLookupError):  # the server may be down, the process may have ended
                self._kill(self._random.choice(self._servers()))

    def _kill(self, server: Server) -> None:
        with server.wire() as wire:
            pids = [pid for pid in engine_pids(wire).values() if pid]
            if pids:
                os.kill(self._random.choice(pids), self._random.choice(SIGNALS))
                self.killed += 1
            if self.killed % RELEASE_EVERY == 0:
                release_all(wire)


@contextmanager
def killing(servers: Callable[[], Sequence[Server]], seed: int, every: float) -> Iterator[Killer]:
    """every: seconds; 0: it kills nothing."""
    killer = Killer(servers, seed, every)
    if every:
        killer._thread.start()
    try:
        yield killer
    finally:
        killer._stop.set()
        if every:
            killer._thread.join()
