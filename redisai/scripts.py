"""Executes scripts, and lets them call Redis and run models. Workers enter; no state.

A script's call of Redis is performed by the main thread while its worker waits. A model that a script executes runs on
the same worker, without a queue, so scripts never wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, NoReturn

from _redisai_bridge import ffi, lib

from .execution import ModelEntry
from .protocol import Call, refusal
from .tensors import as_array, set_output

if TYPE_CHECKING:
    from _redisai_bridge import CBytes, CReply, Op

    from .direct import DirectRunner
    from .execution import Entry
    from .protocol import Array, Reply, ScriptSession


class ScriptEntry:
    """A compiled script in the loader's table."""

    __slots__ = ("_entries", "_run", "direct", "duration")

    def __init__(self, session: ScriptSession, entries: Mapping[int, Entry], direct: DirectRunner | None) -> None:
        self._run = session.run
        self.direct = direct
        self._entries = entries
        self.duration = 0

    def execute(self, op: Op) -> bool:
        begin = perf_counter_ns()
        try:
            tensors = op.inputs
            call = Call(
                ffi.string(op.function).decode(errors="replace"),
                [as_array(tensors[index]) for index in range(op.ninputs)],
                _words(op.keys, op.nkeys),
                _words(op.args, op.nargs),
                op.noutputs,
                OpRedis(op, self._entries),
            )
            outputs = self._run(call)
            return all(set_output(op, index, array, "") for index, array in enumerate(outputs))
        finally:
            self.duration = duration = perf_counter_ns() - begin
            op.duration = max(op.duration, duration // 1000)  # C may have run it before


def _words(words: CBytes, count: int) -> list[bytes]:
    return [ffi.unpack(word.data, word.size) for word in ffi.unpack(words, count)] if count else []


class OpRedis:
    """What a script gets as protocol.Redis while one op executes it."""

    __slots__ = ("_entries", "_op")

    def __init__(self, op: Op, entries: Mapping[int, Entry]) -> None:
        self._op = op
        self._entries = entries

    @classmethod
    def at(cls, entries: Mapping[int, Entry], address: int) -> OpRedis:
        return cls(ffi.cast("Op *", address), entries)

    @property
    def op(self) -> int:
        return int(ffi.cast("uintptr_t", self._op))

    def call(self, words: Sequence[bytes]) -> Reply:
        buffers = [(ffi.from_buffer(word), len(word)) for word in words]
        reply = lib.bridge_call(self._op, ffi.new("Bytes[]", buffers), len(buffers))
        try:
            return _value(reply)
        finally:
            lib.bridge_free_reply(reply)

    def run_model(self, key: bytes, inputs: Sequence[Array], noutputs: int, failure: str = "") -> Sequence[Array]:
        error = ffi.new("char **")
        name = ffi.new("Bytes *", (ffi.from_buffer(key), len(key)))
        model = lib.bridge_hold_model(self._op, name[0], error)
        if not model:
            text = ffi.string(error[0]).decode(errors="replace")
            lib.bridge_free(error[0])
            _refuse(text)
        duration, samples, failed = -1, 0, 1
        try:
            entry = self._entries.get(model.base.id)
            if not isinstance(entry, ModelEntry):
                _refuse("the model is not loaded")
            if not entry.least <= len(inputs) <= entry.most:
                counts = f"{entry.least}" if entry.least == entry.most else f"{entry.least} to {entry.most}"
                _refuse(f"the model takes {counts} inputs, {len(inputs)} were given")
            begin = perf_counter_ns()
            try:
                known = entry.direct.explain(failure, inputs) if failure and entry.direct is not None else None
                if known is not None:
                    raise known
                outputs = entry.run(inputs)
            finally:
                entry.duration = nanoseconds = perf_counter_ns() - begin
                duration = nanoseconds // 1000
            if len(outputs) != noutputs:
                _refuse(f"the model has {len(outputs)} outputs, {noutputs} were asked for")
            if noutputs:
                samples = outputs[0].shape[0] if outputs[0].ndim else 1
            failed = 0
            return outputs
        finally:
            lib.bridge_release_model(model, duration, samples, failed, 0)


def _value(reply: CReply) -> Reply:
    kind = reply.type
    if kind == lib.REPLY_STRING:
        text: bytes = ffi.unpack(reply.text, reply.size) if reply.size else b""
        return text
    if kind == lib.REPLY_INTEGER:
        return reply.integer
    if kind == lib.REPLY_ARRAY:
        return [_value(item) for item in ffi.unpack(reply.items, reply.count)] if reply.count else []
    if kind == lib.REPLY_ERROR:
        raise refusal(ffi.unpack(reply.text, reply.size) if reply.size else b"")
    return None


def _refuse(reason: str) -> NoReturn:
    raise RuntimeError(f"redisAI.model_execute: {reason}")
