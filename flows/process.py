"""The entry of the flow process. The server starts it with a socket as file descriptor 3.

The main thread takes messages of the server and hands them on: it must never run users' code, nor wait for it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path

PIPE = 3
SWITCH_SECONDS = 0.0005  # a flow that computes for ever holds up each step of others for so long
STACK_BYTES = 4 << 20
_PR_SET_PDEATHSIG = 1


def watch_server() -> None:
    """Ends the process with the server, and where a flow has closed the socket to it."""
    waiter, inode = select.poll(), os.fstat(PIPE).st_ino
    waiter.register(PIPE, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    while not (found := waiter.poll(1_000)):
        try:
            if os.fstat(PIPE).st_ino != inode:
                os._exit(1)
        except OSError:
            os._exit(1)
    os._exit(1 if found[0][1] & select.POLLNVAL else 0)


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_SECONDS)
    threading.stack_size(STACK_BYTES)
    # -I leaves the script's folder out. It does not stay: users' code shall not find the packages of the module.
    above = str(Path(__file__).resolve().parent.parent)
    sys.path.insert(0, above)
    try:
        from flows import gears, requirements
        from flows.commands import Commands
        from flows.connections import CommandError, ConnectionLost, close_all, read_settings
        from flows.executions import Runtime
        from flows.replies import describe, error_token
        from flows.server import Control, Server
        from flows.sessions import Sessions
    except ModuleNotFoundError as error:
        sys.exit(f"FLOWS yes needs the module's extra flows: {error}; {sys.executable} -m pip install {error.name}")

    sys.path.remove(above)
    settings = read_settings(socket.socket(fileno=PIPE))
    threading.Thread(target=watch_server, daemon=True).start()
    limit = int(settings.get("memory_limit") or 0)
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    os.register_at_fork(after_in_child=close_all)
    control = Control(settings)
    log = gears.Log(control)
    server = Server(settings)
    runtime = Runtime(server, settings.get("node_id") or "0" * 40, log.write)
    make_globals = gears.install(runtime, control, log)
    sessions = Sessions(runtime, control, requirements.Requirements(Path(settings.get("dir"))), make_globals)
    commands = Commands(sessions, control, settings)
    sessions.replay(rest=int(settings.get("rest_ms") or 0) / 1_000)
    while True:
        try:
            messages = control.messages()
        except (ConnectionLost, CommandError):
            time.sleep(0.1)
            continue
        for kind, *rest in messages:
            try:
                if kind == b"command":
                    commands.run(rest[0], rest[1], rest[2], rest[3:])
                elif kind == b"stream":
                    sessions.note_stream(rest[0], rest[1])
                elif kind == b"missed":
                    sessions.find_streams()
                elif kind == b"event":
                    sessions.note_event(rest[0], rest[1].decode("utf-8", "replace"), rest[2])
                elif kind == b"hook":
                    commands.hook(rest[0], rest[1], rest[2], rest[3:])
            except Exception as error:
                log.write(f"a message {kind!r} failed: {describe(error)}", "warning")
                if kind in (b"command", b"hook"):
                    commands.answer(rest[0])([error_token(describe(error))])


if __name__ == "__main__":
    main()
