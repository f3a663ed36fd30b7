"""Code in an engine process that does its worst, at a run and at a load: the server and its other clients go on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from testkit.dtypes import DTYPES
from testkit.isolation import ADD, ENDED, SET_ASIDE, Pings, bystander, check_add, engine, engine_is_up, store_add
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire

SRC = Path(__file__).resolve().parents[2] / "src"
# Layout of src/isolation/shared.h
PLACES = {"completed": 36, "dying": 40, "running": 72, "submissions": 7992, "completions": 270136, "slots": 532280}
PREAMBLE = f"""
import ctypes, fcntl, mmap, os, random, re, signal, socket, struct, sys, threading, time
import numpy as np

SOCKET, MEMORY, EVENT = 3, 4, 5
COMPLETED, DYING, RUNNING, SUBMISSIONS, COMPLETIONS, SLOTS = {", ".join(map(str, PLACES.values()))}
HEADER = SLOTS + 65536 * 48
STRETCH = HEADER // 4096 * 4096 + 4096 + (64 << 30)

def memory():
    return mmap.mmap(MEMORY, HEADER)

def scribble(start, end, seed):
    with memory() as shared:
        shared[start:end] = random.Random(seed).randbytes(end - start)

def send(kind, payload, size=None):
    header = struct.pack("<qq", len(payload) if size is None else size, kind)
    socket.socket(fileno=os.dup(SOCKET)).sendall(header + payload)

def text(value):
    return struct.pack("<q", len(value)) + value + b"\\0"

def for_ever(function):
    while True:
        function()

def background(function, *args):
    threading.Thread(target=function, args=args, daemon=True).start()
"""

ENDS = {
    "abort": "os.abort()",
    "exit": "os._exit(3)",
    "exit 0": "os._exit(0)",
    "a null pointer": "ctypes.string_at(0)",
    "a wild write": "ctypes.memset(0x7000000000, 1, 8)",
    "a jump to nowhere": "ctypes.CFUNCTYPE(None)(8)()",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL); time.sleep(0.9)",
    "SIGSEGV": "os.kill(os.getpid(), signal.SIGSEGV); time.sleep(0.9)",
    "SIGBUS": "os.kill(os.getpid(), signal.SIGBUS); time.sleep(0.9)",
    "SIGFPE": "os.kill(os.getpid(), signal.SIGFPE); time.sleep(0.9)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.9)",
    "SIGSTOP": "os.kill(os.getpid(), signal.SIGSTOP); time.sleep(0.9)",
    "its parent": "os.kill(os.getppid(), signal.SIGKILL); time.sleep(0.9)",
    "all of its group": "os.killpg(0, signal.SIGKILL)",
    "deep recursion in C": (
        "sys.setrecursionlimit(10**9)\n    kind = ctypes.CFUNCTYPE(None)\n    back = kind(lambda: back())\n    back()"
    ),
    "a deep repr": "x = []\n    for _ in range(10**6): x = [x]\n    sys.setrecursionlimit(10**9); repr(x)",
    "a socket that is shut": "socket.socket(fileno=SOCKET).shutdown(socket.SHUT_RDWR); time.sleep(0.9)",
    "a child that goes on": "os.fork() or time.sleep(10**6); os.abort()",
    "a child with a group of its own": (
        "if os.fork() == 0:\n        os.setsid()\n        time.sleep(20)\n        os._exit(0)\n    os.abort()"
    ),
}
HANGS = {
    "a busy loop": "for_ever(lambda: None)",
    "a wait": "time.sleep(10**6)",
    "the lock of Python": "ctypes.PyDLL(None).sleep(10**6)",
    "a regular expression": "re.match('(a+)+$', 'a' * 60 + 'b')",
    "ignored signals": "[signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)), time.sleep(10**6)]",
    "a parent that is stopped": "os.kill(os.getppid(), signal.SIGSTOP); time.sleep(10**6)",
    "a deadlock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
}
RAISED = {
    "SystemExit": "sys.exit(3)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
    "BaseException": "raise BaseException('all is lost')",
    "MemoryError": "bytes(10**14)",
    "lines": r"raise ValueError('first\r\n+OK\r\n')",
    "a long text": "raise ValueError('x' * 10**7)",
    "surrogates": r"raise ValueError('\udcff\0')",
}
# What the server reads. Not all of them end the process or the run.
LIES = {
    "no descriptors": "os.closerange(0, 1000)",
    "no socket": "os.close(SOCKET)",
    "deep recursion": "sys.setrecursionlimit(10**9); f = lambda: f() + 1; f()",
    "bytes into the socket": "os.write(SOCKET, random.Random(1).randbytes(4096))",
    "zeros into the socket": "os.write(SOCKET, bytes(4096))",
    "a message that is too large": "send(11, b'', 2**40)",
    "a message of negative size": "send(11, b'', -1)",
    "half a message": "send(11, b'x', 1000)",
    "unknown kinds": "[send(kind, b'x' * 100) for kind in (11, 99, -1, 2**62)]",
    "messages of the server": "[send(kind, b'x' * 100) for kind in range(5)]",
    "READY again": "send(6, text(b''))",
    "READY with an error": "send(6, text(b'it failed\\r\\n+OK\\r\\n'))",
    "DONE without a job": "[send(7, bytes(8)) for _ in range(100)]",
    "a call of nobody": "send(8, struct.pack('<qqqq', 1, 0, 8, 1) + text(b'PING'))",
    "a call for a slot beyond": "send(8, struct.pack('<qqqq', 1, 2**40, 8, 1) + text(b'PING'))",
    "calls of this op": (
        "[send(8, struct.pack('<qqqq', i, slot, struct.unpack_from('<i', memory(), SLOTS + 48 * slot)[0] & ~7, 1)"
        " + text(b'FLUSHALL')) for i in range(100) for slot in range(8)]"
    ),
    "a call with too many words": (
        "[send(8, struct.pack('<qqqq', 1, s, struct.unpack_from('<i', memory(), SLOTS + 48 * s)[0] & ~7, 2**60))"
        " for s in range(8)]"
    ),
    "a model of nobody": "send(9, struct.pack('<qqq', 1, 0, 8) + text(b'add'))",
    "RELEASE without HOLD": "[send(10, struct.pack('<qqqqq', i, -1, 2**62, 7, 1)) for i in range(100)]",
    "odd lines for the log": "send(11, text(b'warning') + text(b'%s%n\\r\\n' * 100))",
    "a log without end": "background(for_ever, lambda: send(11, text(b'notice') + text(b'again ' * 100)))",
    "events without end": "background(for_ever, lambda: os.write(EVENT, struct.pack('<Q', 1)))",
    "the greatest event": "os.set_blocking(EVENT, True); background(os.write, EVENT, struct.pack('<Q', 2**64 - 2))",
    "stolen events": "os.set_blocking(EVENT, True); background(for_ever, lambda: os.read(EVENT, 8))",
    "memory that is shorter": "os.ftruncate(MEMORY, 0)",
    "memory that is a page": "os.ftruncate(MEMORY, 4096)",
    "memory that is longer": "os.ftruncate(MEMORY, 2**40)",
    "completions ahead": "struct.pack_into('<I', memory(), COMPLETED, 2**31)",
    "completions without end": (
        "shared = memory()\n    background(for_ever, lambda: struct.pack_into('<I', shared, COMPLETED, "
        "random.getrandbits(32)))"
    ),
    "all slots complete": (
        "shared = memory()\n"
        "    for i in range(65536): struct.pack_into('<I', shared, COMPLETIONS + 4 * i, i)\n"
        "    struct.pack_into('<I', shared, COMPLETED, struct.unpack_from('<I', shared, COMPLETED)[0] + 65535)"
    ),
    "a skipped op": (
        "shared, before = memory(), struct.unpack_from('<I', memory(), COMPLETED)[0]\n"
        "    mmap.mmap(MEMORY, STRETCH + (1 << 30))[STRETCH + (1 << 29):STRETCH + (1 << 29) + 8] = bytes(8)\n"
        "    for slot in range(8):\n"
        "        word, acked = struct.unpack_from('<ii', shared, SLOTS + 48 * slot)\n"
        "        if word & 7 != 2 or word & ~7 == acked: continue\n"
        "        struct.pack_into('<i', shared, SLOTS + 48 * slot, word + 3)\n"
        "        struct.pack_into('<QQ', shared, SLOTS + 48 * slot + 32, 1 << 29, 8)\n"
        "        struct.pack_into('<I', shared, COMPLETIONS + before % 65536 * 4, slot)\n"
        "        before += 1\n"
        "    struct.pack_into('<I', shared, COMPLETED, before)\n"
        "    os.write(EVENT, struct.pack('<Q', 1)); time.sleep(0.2)"
    ),
    "others' deaths": "struct.pack_into('<Q', memory(), DYING, 1); os._exit(1)",
    "all that runs": "scribble(RUNNING, SUBMISSIONS, 1)",
}
STRING = list(DTYPES).index("STRING")
# A result that is nearly right, for each slot: word by word something else.
RESULTS = {
    f"{name} of {number}": (
        "shared = mmap.mmap(MEMORY, STRETCH + (1 << 30))\n"
        "    at = STRETCH + (1 << 29)\n"
        "    begun = time.monotonic_ns()\n"
        f"    words = [1, begun, 5, 0, 0, 0, 0, 0, 1, {STRING if 'string' in name else 0}, 1, 2, 1 << 29, 8, 1 << 29]\n"
        f"    words[{position}] = {number}\n"
        "    head = struct.pack('<7q', *words[:7]) + text(b'')[:0]\n"
        "    result = struct.pack('<8q', *words[:3], 0, 0, *words[3:6]) + struct.pack('<q', words[6]) + b'\\0' "
        "+ struct.pack('<7q', *words[8:15])\n"
        "    shared[at:at + len(result)] = result\n"
        "    for slot in range(8):\n"
        "        struct.pack_into('<QQ', shared, SLOTS + 48 * slot + 32, 1 << 29, len(result))\n"
        "    before = struct.unpack_from('<I', shared, COMPLETED)[0]\n"
        "    for i in range(8): struct.pack_into('<I', shared, COMPLETIONS + (before + i) % 65536 * 4, i)\n"
        "    struct.pack_into('<I', shared, COMPLETED, before + 8)\n"
        "    os.write(EVENT, struct.pack('<Q', 1)); time.sleep(0.2)"
    )
    for name, position, number in (
        ("skipped", 0, 0),
        ("begun", 1, -(2**63)),
        ("duration", 2, 2**63 - 1),
        ("duration", 2, -(2**63)),
        ("failed", 5, 1),
        ("error size", 6, 2**62),
        ("is a tensor", 8, 0),
        ("dtype", 9, 2**31),
        ("dtype", 9, 11),
        ("dimensions", 10, -1),
        ("dimensions", 10, 64),
        ("size", 11, 2**62),
        ("size", 11, -1),
        ("offset", 12, 2**63 - 1),
        ("offset", 12, 2**36 - 4),
        ("bytes", 13, 2**35),
        ("bytes", 13, -8),
        ("dtype of strings", 9, STRING),
        ("size of strings", 11, 2**36),
        ("size of strings", 11, 2**61),
        ("bytes of strings", 13, 2**35),
        ("bytes of strings", 13, 0),
        ("offsets of strings", 14, 2**63 - 1),
        ("offsets of strings", 14, 2**36 - 4),
        ("offsets of strings", 14, -8),
    )
}
SCRIBBLES = {
    f"{what} {seed}": f"scribble({start}, {end}, {seed})"
    for seed in range(4)
    for what, start, end in (
        ("the counters", "0", "DYING"),
        ("all words", "0", "HEADER"),
        ("completions", "COMPLETIONS", "SLOTS"),
        ("completed, and completions", "COMPLETED", "SLOTS"),
        ("slots", "SLOTS", "HEADER"),
        ("ten slots", "SLOTS", "SLOTS + 480"),
    )
}


def at_run(body: str) -> bytes:
    return f"{PREAMBLE}\ndef run(inputs):\n    {body}\n    return [inputs[0] + inputs[0]]\n".encode()


def at_load(body: str) -> bytes:
    return (
        f"{PREAMBLE}\ndef harm():\n    {body}\nharm()\ndef run(inputs):\n    return [inputs[0] + inputs[0]]\n".encode()
    )


@pytest.fixture(scope="module", autouse=True)
def stored(python_models: Server) -> None:
    with python_models.wire() as wire:
        store_add(wire, blob=ADD)
        wire.ask_ok("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
        wire.ask_ok("SET", "kept", "1")


def cause(server: Server, pings: Pings, blob: bytes, runs: int = 1, lies: bool = False) -> list[object]:
    """The replies to the store and the runs of this model. Nobody else is disturbed, and the device works again."""
    replies = []
    with server.wire() as wire, pings.quick():
        with bystander(server, lies=lies):
            replies.append(wire.ask("AI.MODELSTORE", "bad", "ONNX", "CPU", "BLOB", blob))
            for _ in range(runs if replies[0] == b"OK" else 0):
                replies.append(wire.ask("AI.MODELEXECUTE", "bad", "INPUTS", 1, "x", "OUTPUTS", 1, "y"))
            check_add(wire)
        check_add(wire)
        assert wire.ask("GET", "kept") == b"1"
        assert wire.ask("AI.TENSORGET", "x", "VALUES") == [b"1", b"2"]
        wire.ask("AI.INFO", "add", "RESETSTAT")
        wire.ask("DEL", "bad", "y")
    return replies


def test_lies_are_told_at_the_right_places(tmp_path: Path) -> None:
    """Else they would prove nothing."""
    checks = [f'_Static_assert(offsetof(Shared, {name}) == {place}, "");' for name, place in PLACES.items()]
    checks.append('_Static_assert(offsetof(Slot, result) == 32 && sizeof(Slot) == 48, "");')
    (tmp_path / "places.c").write_text("\n".join(["#include <stddef.h>", '#include "isolation/shared.h"', *checks]))
    command = ["cc", "-fsyntax-only", "-I", str(SRC), str(tmp_path / "places.c")]
    compiled = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert compiled.returncode == 0, compiled.stderr


@pytest.mark.parametrize("what", ENDS)
def test_ends_at_a_run(python_models: Server, pings: Pings, what: str) -> None:
    stored, first, *later = cause(python_models, pings, at_run(ENDS[what]), 4)
    assert stored == b"OK"
    assert re.fullmatch("ERR the process that ran 'bad' ended: .+; CPU starts anew", str(first)), first
    for reply in later:
        assert re.fullmatch(f"{ENDED}|{SET_ASIDE}", str(reply)), reply


@pytest.mark.parametrize("what", ENDS)
def test_ends_at_a_load(python_models: Server, pings: Pings, what: str) -> None:
    reply, *_ = cause(python_models, pings, at_load(ENDS[what]))
    assert re.fullmatch("ERR the process that compiled 'bad' ended: .+; CPU starts anew", str(reply)), reply


@pytest.mark.parametrize("what", HANGS)
def test_hangs_at_a_run(python_models: Server, pings: Pings, what: str) -> None:
    stored, reply = cause(python_models, pings, at_run(HANGS[what]))
    late = "ERR a run of 'bad' took more than MODEL_EXECUTION_TIMEOUT, 1000 ms"
    assert stored == b"OK"
    assert reply == late or (what == "a parent that is stopped" and isinstance(reply, Error)), reply


@pytest.mark.parametrize("what", ["a busy loop", "the lock of Python", "ignored signals"])  # each takes 10 s
def test_hangs_at_a_load(python_models: Server, pings: Pings, what: str) -> None:
    (reply,) = cause(python_models, pings, at_load(HANGS[what]))
    late = "ERR the process that compiled 'bad' ended: to compile 'bad' took more than MODEL_LOAD_TIMEOUT, 10000 ms; "
    assert reply == late + "CPU starts anew"


@pytest.mark.parametrize("blob", [at_run, at_load])
@pytest.mark.parametrize("what", RAISED)
def test_exceptions(python_models: Server, pings: Pings, what: str, blob: object) -> None:
    assert callable(blob)
    *_, reply = cause(python_models, pings, blob(RAISED[what]))
    assert isinstance(reply, Error) and "\r" not in reply and "\n" not in reply and len(reply) < 5000


@pytest.mark.parametrize("then", ["", "os.abort()"], ids=["", "then abort"])
@pytest.mark.parametrize("what", [*LIES, *RESULTS, *SCRIBBLES])
def test_lies(python_models: Server, pings: Pings, what: str, then: str) -> None:
    """Whatever the reply is, it is one, and an error says why."""
    body = {**LIES, **RESULTS, **SCRIBBLES}[what]
    for reply in cause(python_models, pings, at_run(f"{body}\n    {then}"), lies=True):
        assert reply == b"OK" or (isinstance(reply, Error) and reply.startswith("ERR ")), reply


@pytest.mark.parametrize("what", [*LIES, *list(SCRIBBLES)[:6]])
def test_lies_at_a_load(python_models: Server, pings: Pings, what: str) -> None:
    for reply in cause(python_models, pings, at_load({**LIES, **SCRIBBLES}[what]), lies=True):
        assert reply == b"OK" or (isinstance(reply, Error) and reply.startswith("ERR ")), reply


def test_a_run_that_nobody_asked_to_skip(python_models: Server, pings: Pings) -> None:
    """It has no outputs, so it cannot answer OK."""
    with python_models.wire() as wire:
        check_add(wire)
    stored, reply = cause(python_models, pings, at_run(LIES["a skipped op"]), lies=True)
    assert stored == b"OK" and isinstance(reply, Error) and "no sense" in reply


def test_no_command_of_a_model(python_models: Server) -> None:
    """A process cannot have commands run for a model, who has no user: only scripts call Redis."""
    with python_models.wire() as wire:
        check_written(wire, at_run(LIES["calls of this op"].replace("FLUSHALL", "FLUSHDB")))


def check_written(wire: Wire, blob: bytes) -> None:
    wire.ask_ok("AI.MODELSTORE", "bad", "ONNX", "CPU", "BLOB", blob)
    wire.ask("AI.MODELEXECUTE", "bad", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    check_add(wire)
    assert wire.ask("GET", "kept") == b"1"
    wire.ask("DEL", "bad", "y")


def test_a_log_has_an_end(python_models: Server, pings: Pings) -> None:
    with python_models.wire() as wire:  # the process of the last test may have written all its lines
        before = engine(wire).pid
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: engine_is_up(wire).pid != before)
        check_add(wire)  # it is compiled: else the loader's words would come between those of the run
    body = "[send(11, text(b'notice') + text(b'line %d' % number)) for number in range(1000)]; os._exit(0)"
    cause(python_models, pings, at_run(body), lies=True)  # what it sends may come between two words of its loader
    lines = re.findall(r"<ai> line (\d+)(.*)", python_models.log())
    assert 50 < len(lines) <= 100 and lines[-1][1] == " (more lines of this engine process are left out for an hour)"
