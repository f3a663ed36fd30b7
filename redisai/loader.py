"""The loader: imports backends, compiles models, forgets deleted ones, in the order in which C asks for it.

One thread, Python's main thread. It owns the registry of backends and the failures, and alone changes the table of
sessions that the workers read. Whatever goes wrong becomes the job's error.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from _redisai_bridge import ffi, lib

from .backends import KINDS, Registry
from .protocol import Definition, Settings, one_line

if TYPE_CHECKING:
    from _redisai_bridge import CNames, Job, Model, Queue

    from .worker import Entry


@dataclass(frozen=True, slots=True)
class Failure:
    message: str
    generation: int  # of the registry: a backend imported since may change the outcome


class Loader:
    def __init__(self) -> None:
        options = lib.bridge_options()
        self._settings = Settings(
            options.threads_per_queue,
            options.intra_op_parallelism,
            options.inter_op_parallelism,
            options.model_execution_timeout,
            options.backend_memory_limit,
        )
        self._registry = Registry(_backends_path, _loaded)
        self._sessions: dict[int, Entry] = {}
        self._failures: dict[int, Failure] = {}

    def run(self) -> None:
        with contextlib.suppress(ImportError):
            import numpy  # noqa: F401 - 60 ms that the first job need not wait for; without it, jobs fail and say so
        while True:
            job = lib.bridge_next_job()
            try:
                self._do(job)
                error = ffi.NULL
            except BaseException as failure:
                error = one_line(failure).encode(errors="replace")
            self._report()
            lib.bridge_finish_job(job, error)

    def _do(self, job: Job) -> None:
        if job.kind == lib.JOB_LOAD:
            self._load(job.model)
        elif job.kind == lib.JOB_DROP:
            self._sessions.pop(job.model.id, None)
            self._failures.pop(job.model.id, None)
        elif job.kind == lib.JOB_FORWARD:
            model = job.run.model
            if model.id not in self._sessions:
                known = self._failures.get(model.id)
                if known is not None and known.generation == self._registry.generation:
                    raise RuntimeError(known.message)
                self._load(model)
        elif job.kind == lib.JOB_IMPORT:
            self._registry.load(job.backend, Path(_text(job.path)) if job.path else None)

    def _load(self, model: Model) -> None:
        try:
            self._compile(model)
        except BaseException as failure:
            self._sessions.pop(model.id, None)
            self._failures[model.id] = Failure(one_line(failure), self._registry.generation)
            raise
        self._failures.pop(model.id, None)

    def _compile(self, model: Model) -> None:
        from .worker import Entry

        backend = self._registry.get(model.backend)
        pieces = ffi.unpack(model.pieces, model.npieces) if model.npieces else []
        definition = Definition(
            KINDS[model.backend].name,
            _text(model.device).upper(),
            b"".join(ffi.buffer(piece.data, piece.size) for piece in pieces if piece.size),
            _names(model.inputs),
            _names(model.outputs),
        )
        session = backend.load(definition, self._settings)
        self._sessions[model.id] = Entry(session)
        queue = self._open_queue(definition.device)
        inputs, outputs = _c_names(session.inputs), _c_names(session.outputs)
        lib.bridge_model_ready(model, queue, len(inputs), inputs, len(outputs), outputs)

    def _open_queue(self, device: str) -> Queue:
        from .worker import start_worker

        is_new = ffi.new("int *")
        queue = lib.bridge_open_queue(device.encode(), is_new)
        if not queue:
            raise RuntimeError("too many device queues (64)")
        if is_new[0]:
            for index in range(self._settings.threads_per_queue):
                start_worker(queue, device, index, self._sessions, self._report)
        return queue

    def _report(self) -> None:
        """Tells C the figures for INFO MODULES. Workers enter too, now and then."""
        figures = self._registry.onnx_figures()
        if figures is not None:
            lib.bridge_onnx_figures(*figures)


def _text(text: object) -> str:
    return os.fsdecode(ffi.string(text))


def _names(names: CNames) -> tuple[str, ...]:
    return tuple(_text(names.names[index]) for index in range(names.count))


def _c_names(names: tuple[str, ...] | None) -> list[object]:
    """Names as an argument for C, which copies them: none where the model does not tell."""
    return [ffi.new("char[]", name.encode()) for name in names or ()]


def _backends_path() -> Path:
    path = lib.bridge_backends_path()
    try:
        return Path(_text(path))
    finally:
        lib.bridge_free(path)


def _loaded(number: int, version: str) -> None:
    lib.bridge_backend_loaded(number, version.encode())
    lib.bridge_log(b"notice", f"{KINDS[number].name} backend {version} loaded".encode())
