"""Runs of scripts, and what scripts may ask of Redis. Workers enter; nothing here has state of its own.

A script calls Redis from the worker that runs it, in the middle of its run: the bridge takes the Redis lock. A model
that it executes is run right there too, not through a queue, so that scripts never wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, NoReturn

from _redisai_bridge import ffi, lib

from .protocol import Call
from .tensors import as_array, set_output

if TYPE_CHECKING:
    from _redisai_bridge import CBytes, CReply, Run

    from .protocol import Array, Reply, ScriptSession
    from .worker import Entry


class ScriptEntry:
    """A script in the table of sessions."""

    __slots__ = ("duration", "run")

    def __init__(self, session: ScriptSession) -> None:
        self.run = session.run
        self.duration = 0  # ns, of its latest run


def run_script(run: Run, entry: ScriptEntry, sessions: Mapping[int, Entry | ScriptEntry]) -> None:
    tensors = run.inputs
    call = Call(
        ffi.string(run.function).decode(errors="replace"),
        [as_array(tensors[index]) for index in range(run.ninputs)],
        _words(run.keys, run.nkeys),
        _words(run.args, run.nargs),
        run.variadic if run.variadic >= 0 else None,
        run.noutputs,
        RunRedis(run, sessions),
    )
    begin = perf_counter_ns()
    try:
        outputs = entry.run(call)
    finally:
        entry.duration = duration = perf_counter_ns() - begin
        run.duration = duration // 1000
    for index, array in enumerate(outputs):
        if not set_output(run, index, array, ""):
            return


def _words(words: CBytes, count: int) -> list[bytes]:
    return [ffi.unpack(word.data, word.size) for word in ffi.unpack(words, count)] if count else []


class RunRedis:
    """Redis as one run of a script sees it (Redis of protocol.py)."""

    __slots__ = ("_run", "_sessions")

    def __init__(self, run: Run, sessions: Mapping[int, Entry | ScriptEntry]) -> None:
        self._run = run
        self._sessions = sessions

    def call(self, words: Sequence[bytes]) -> Reply:
        buffers = [(ffi.from_buffer(word), len(word)) for word in words]
        reply = lib.bridge_call(self._run, ffi.new("Bytes[]", buffers), len(buffers))
        try:
            return _value(reply)
        finally:
            lib.bridge_free_reply(reply)

    def run_model(self, key: bytes, inputs: Sequence[Array], noutputs: int) -> Sequence[Array | None]:
        error = ffi.new("char **")
        name = ffi.new("Bytes *", (ffi.from_buffer(key), len(key)))
        model = lib.bridge_hold_model(self._run, name[0], error)
        if not model:
            text = ffi.string(error[0]).decode(errors="replace")
            lib.bridge_free(error[0])
            _refuse(text)
        duration, samples, failed = -1, 0, 1
        try:
            entry = self._sessions.get(model.base.id)
            if entry is None or isinstance(entry, ScriptEntry):
                _refuse("the model is not loaded")
            if entry.ninputs not in (-1, len(inputs)):
                _refuse(f"the model takes {entry.ninputs} inputs, {len(inputs)} were given")
            begin = perf_counter_ns()
            try:
                outputs = entry.run(inputs)
            finally:
                entry.duration = nanoseconds = perf_counter_ns() - begin
                duration = nanoseconds // 1000
            if len(outputs) != noutputs:
                _refuse(f"the model has {len(outputs)} outputs, {noutputs} were asked for")
            first = outputs[0] if noutputs else None
            if first is not None:
                samples = first.shape[0] if first.ndim else 1
            failed = 0
            return outputs
        finally:
            lib.bridge_release_model(model, duration, samples, failed)


def _value(reply: CReply) -> Reply:
    kind = reply.type
    if kind == lib.REPLY_STRING:
        text: bytes = ffi.unpack(reply.text, reply.size) if reply.size else b""
        return text
    if kind == lib.REPLY_INTEGER:
        return reply.integer
    if kind == lib.REPLY_DOUBLE:
        return reply.real
    if kind == lib.REPLY_ARRAY:
        return [_value(item) for item in ffi.unpack(reply.items, reply.count)] if reply.count else []
    if kind == lib.REPLY_ERROR:
        text = ffi.unpack(reply.text, reply.size) if reply.size else b""
        message = text.decode(errors="replace").removeprefix("ERR ")
        raise RuntimeError(f"Redis command returned an error: {message}")
    return None


def _refuse(reason: str) -> NoReturn:
    raise RuntimeError(f"redisAI.model_execute: {reason}")
