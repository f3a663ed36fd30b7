"""A shutdown while the loader opens a library: the library's exit handlers do not run."""

from __future__ import annotations

import threading

import pytest
import redis

from tests.conftest import StartServer

# Registers exit handlers that abort the process, as fast as it can.
BACKEND = """
import ctypes
import time

libc = ctypes.CDLL(None)
abort = ctypes.cast(libc.abort, ctypes.c_void_p)
until = time.monotonic() + 3
while time.monotonic() < until:
    getattr(libc, "__cxa_atexit")(abort, None, None)
"""


def test_handlers_registered_during_the_shutdown_do_not_run(start_server: StartServer) -> None:
    server = start_server()
    (server.folder / "late.py").write_text(BACKEND)

    def load() -> None:
        with server.client() as client, pytest.raises(redis.ConnectionError):
            client.execute_command("AI.CONFIG", "BACKENDSPATH", str(server.folder))
            client.execute_command("AI.CONFIG", "LOADBACKEND", "TORCH", "late")

    thread = threading.Thread(target=load)
    thread.start()
    thread.join(0.5)
    assert server.stop() == 0
    thread.join()
