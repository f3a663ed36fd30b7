"""The loader: imports backends, compiles models and scripts, drops deleted ones, in the order in which C asks for it.

One thread, Python's main thread. It owns the registry of backends and the record of failures. It alone changes the
table of entries that the workers read. Whatever goes wrong becomes the job's error.

A library that compiles for longer than MODEL_LOAD_TIMEOUT leaves the rest to another thread. So Loader._turn is held
for all of a job but the library's part. (In an engine process, the server ends the process instead.) Loader._reporting
may be taken under it, and is a leaf.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, cast

from _redisai_bridge import ffi, lib

from .backends import KINDS, BackendError, Registry
from .protocol import Backend, Definition, ScriptBackend, ScriptDefinition, Session, Settings, one_line

if TYPE_CHECKING:
    from _redisai_bridge import CData, CNames, Job, Model, Runnable, Script

    from .batcher import Limits
    from .direct import DirectRunner
    from .execution import Batching, Entry
    from .worker import WorkerPool

MAX_TIMEOUT_MS = 10**12  # 30 years, for MINBATCHTIMEOUT: added to the clock in ns it still fits into 64 bits


MAX_RELIEFS = 16  # threads that a library may keep for ever; then others wait


@dataclass(frozen=True, slots=True)
class Failure:
    message: str
    generation: int  # of the registry; once another backend is imported the outcome may differ


class Loader:
    def __init__(self) -> None:
        self._settings = Settings(tuple(options()), onnx_custom_ops())
        self._registry = Registry(backends_path, _loaded)
        self._entries: dict[int, Entry] = {}
        self._failures: dict[int, Failure] = {}
        self._pools: dict[str, WorkerPool] = {}  # by device
        self._turn = threading.Lock()
        self._thread = threading.current_thread()  # who takes the next job
        self._reliefs = 0
        self._reporting = threading.Lock()

    def run(self) -> None:
        with contextlib.suppress(ImportError):
            import numpy  # noqa: F401 - takes 60 ms, which the first job is spared; where it is missing, jobs report it
        self._work()
        threading.Event().wait()  # another thread has taken over, but Python's main thread must not end

    def _work(self) -> None:
        while self._thread is threading.current_thread():
            job = lib.bridge_next_job()
            with self._turn:
                try:
                    self._do(job)
                    error = ffi.NULL
                except BaseException as failure:
                    error = one_line(failure).encode(errors="replace")
                with contextlib.suppress(BaseException):  # of a backend's figures(): the next job must still be done
                    self._report()
            lib.bridge_finish_job(job, error)

    @contextlib.contextmanager
    def _library_compiles(self) -> Iterator[None]:
        """If this takes too long, another thread goes on with the next jobs."""
        limit = self._settings.model_load_timeout
        if not limit or self._settings.isolation:
            yield
            return
        timer = threading.Timer(limit / 1000, self._relieve, [threading.current_thread()])
        timer.daemon = True
        self._turn.release()
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._turn.acquire()

    def _relieve(self, thread: threading.Thread) -> None:
        """On the timer's thread."""
        if self._thread is not thread or self._reliefs == MAX_RELIEFS:
            return
        self._reliefs += 1
        self._thread = threading.Thread(target=self._work, name=f"loader-{self._reliefs}", daemon=True)
        text = "a model or script takes longer to compile than MODEL_LOAD_TIMEOUT; others no longer wait for it"
        lib.bridge_log(b"warning", text.encode())
        self._thread.start()

    def _do(self, job: Job) -> None:
        if job.kind == lib.JOB_LOAD:
            self._load(job.runnable, bool(job.is_store))
        elif job.kind == lib.JOB_DROP:
            self._drop(job.runnable.id)
        elif job.kind == lib.JOB_LIMITS:
            self._change_limits(ffi.cast("Model *", job.runnable))
        elif job.kind == lib.JOB_IMPORT:
            path = _text(job.path) if job.path else ""
            self._registry.load(job.backend, backends_path() / path if path else None)

    def _drop(self, id: int) -> None:
        from .execution import ModelEntry

        entry = self._entries.pop(id, None)
        if isinstance(entry, ModelEntry) and entry.batching is not None:
            entry.batching.forget()
        self._failures.pop(id, None)
        for pool in self._pools.values():
            pool.drops += 1

    def _load(self, runnable: Runnable, is_store: bool) -> None:
        """Compiles a model or script that is not compiled yet. After a failure it tries again only once another backend
        has been imported. is_store: it also fails where a warm-up fails."""
        id = runnable.id
        if id in self._entries:
            return
        known = self._failures.get(id)
        if known is not None and known.generation == self._registry.generation:
            raise RuntimeError(known.message)
        try:
            if runnable.kind == lib.KIND_SCRIPT:
                self._compile_script(runnable)
            else:
                self._compile_model(runnable, is_store)
        except BaseException as failure:
            cause = failure.__cause__
            if cause is not None and str(cause) not in str(failure):  # what the client is not told
                lib.bridge_log(b"notice", one_line(cause).encode(errors="replace"))
            if isinstance(failure, (BackendError, MemoryError, ModuleNotFoundError)):  # the next run tries again
                raise
            self._entries.pop(id, None)
            self._failures[id] = Failure(one_line(failure), self._registry.generation)
            raise
        self._failures.pop(id, None)

    def _compile_model(self, runnable: Runnable, is_store: bool) -> None:
        from .direct import DirectRunner
        from .execution import ModelEntry
        from .ports import least_inputs, ports_of, texts_of

        model: Model = ffi.cast("Model *", runnable)
        backend = self._registry.get(runnable.backend)
        pieces = ffi.unpack(model.pieces, model.npieces) if model.npieces else []
        definition = Definition(
            KINDS[runnable.backend].name,
            _device(runnable),
            _joined([ffi.buffer(piece.data, piece.size) for piece in pieces if piece.size]),
            _names(model.inputs),
            _names(model.outputs),
        )
        with self._library_compiles():
            session = _loaded_session(backend, definition, self._settings)
            if model.warmups.count:
                _warm_up(model, session, is_store)
        pool = self._open_pool(definition.device)
        direct = DirectRunner.of(runnable.backend, definition.backend, session)
        batching = _batching(model, session, direct, pool) if _limits(model).batchsize != 1 else None
        self._entries[runnable.id] = ModelEntry(session, batching, direct)
        lists = [_c_texts(list(session.inputs or ())), _c_texts(list(session.outputs or ()))]
        lists += [_c_texts(texts_of(ports)) for ports in ports_of(session)]
        most = -1 if session.inputs is None else len(session.inputs)
        noutputs = -1 if session.outputs is None else len(session.outputs)
        facts = least_inputs(session), most, noutputs, getattr(session, "is_stateful", False)
        declared = [(len(texts), names) for texts, names in lists]
        lib.bridge_ready(runnable, pool.queue, ffi.new("Declared *", [*declared, *facts]), _struct(direct))

    def _change_limits(self, model: Model) -> None:
        """A model that is compiled later gets its limits then."""
        from .execution import ModelEntry

        id = model.base.id
        entry = self._entries.get(id)
        if not isinstance(entry, ModelEntry):
            return
        pool = self._pools[_device(model.base)]
        if entry.batching is not None:
            entry.batching.change(_limits(model))
        elif _limits(model).batchsize != 1:
            batching = _batching(model, entry.session, entry.direct, pool)
            self._entries[id] = ModelEntry(entry.session, batching, entry.direct)

    def _compile_script(self, runnable: Runnable) -> None:
        from .direct import DirectRunner
        from .scripts import OpRedis, ScriptEntry

        script: Script = ffi.cast("Script *", runnable)
        kind = KINDS[runnable.backend].name
        backend = self._registry.get(runnable.backend)
        if not hasattr(backend, "load_script"):
            raise RuntimeError(f"the {kind} backend cannot run scripts")
        definition = ScriptDefinition(_device(runnable), ffi.string(script.source), _names(script.entry_points))
        with self._library_compiles():
            redis_of = functools.partial(OpRedis.at, self._entries)
            session = cast(ScriptBackend, backend).load_script(definition, self._settings, redis_of)
        direct = DirectRunner.of(runnable.backend, kind, session)
        self._entries[runnable.id] = ScriptEntry(session, self._entries, direct)
        lib.bridge_ready(runnable, self._open_pool(definition.device).queue, ffi.NULL, _struct(direct))

    def _open_pool(self, device: str) -> WorkerPool:
        from .worker import WorkerPool

        queue = lib.bridge_open_queue(device.encode())
        if not queue:
            raise RuntimeError("too many device queues (64)")
        pool = self._pools.get(device)
        if pool is None:
            pool = WorkerPool(queue, device, self._settings.threads_per_queue, self._entries, self._report)
            self._pools[device] = pool
        pool.start()
        return pool

    def _report(self) -> None:
        """Gives C the figures for INFO MODULES. Workers enter too, every REPORT_INTERVAL_NS."""
        with self._reporting:  # else older figures may come last
            figures = self._registry.onnx_figures()
            if figures is not None:
                lib.bridge_onnx_figures(*figures)


def options() -> Iterator[tuple[str, int]]:
    """The load-time options: name in lower case, and value."""
    for index in count():
        option = lib.bridge_option(index)
        if not option:
            return
        yield _text(option.name), option.value


def _loaded_session(backend: Backend, definition: Definition, settings: Settings) -> Session:
    try:
        return backend.load(definition, settings)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:
        from .foreign import explained

        text = explained(error, definition.backend, definition.blob)
        if text is None:
            raise
        raise RuntimeError(text) from error.__cause__


def _warm_up(model: Model, session: Session, is_store: bool) -> None:
    """A model that is stored already serves also where this fails."""
    from .warmup import warm_up

    try:
        level, text = b"notice", warm_up(session, _names(model.warmups))
    except RuntimeError as failure:
        if is_store:
            raise
        level, text = b"warning", f"is not warm: {one_line(failure)}"
    lib.bridge_log(level, f"{_label(model)} {text}".encode(errors="replace"))


def _limits(model: Model) -> Limits:
    from .batcher import Limits

    limits = model.limits
    if limits.batchsize == lib.AUTO_BATCHSIZE:
        return Limits(limits.batchsize)
    if limits.batchsize <= 1:
        return Limits(1)
    timeout = min(limits.minbatchtimeout, MAX_TIMEOUT_MS) * 1_000_000 + limits.minbatchtimeout_us * 1000
    return Limits(limits.batchsize, min(limits.minbatchsize, limits.batchsize), timeout)


def _batching(model: Model, session: Session, direct: DirectRunner | None, pool: WorkerPool) -> Batching:
    from .execution import Batching

    return Batching(ffi.cast("Runnable *", model), session, direct, _limits(model), _label(model), pool.change_limits)


def _label(model: Model) -> str:
    base = model.base
    kind = KINDS[base.backend].name
    tag = ffi.unpack(base.tag, base.tag_size).decode(errors="replace") if base.tag_size else ""
    return f"{kind} model {tag!r}" if tag else f"{kind} model"


@functools.cache  # an engine process leaves the folder for which relative paths hold
def onnx_custom_ops() -> tuple[str, ...]:
    paths = lib.bridge_onnx_custom_ops()
    return tuple(os.path.abspath(path) for path in _text(paths).split(":") if path) if paths else ()


def _struct(direct: DirectRunner | None) -> CData:
    struct: CData = ffi.NULL if direct is None else direct.struct
    return struct


def _device(runnable: Runnable) -> str:
    name = ffi.new("char[]", lib.QUEUE_NAME)
    lib.bridge_queue_name(runnable.device, name)
    return _text(name)


def _joined(pieces: list[memoryview]) -> bytes | memoryview:
    """A single piece is not copied: it may be a large part of the machine's memory."""
    return memoryview(pieces[0]).toreadonly() if len(pieces) == 1 else b"".join(pieces)


def _text(text: object) -> str:
    return os.fsdecode(ffi.string(text))


def _names(names: CNames) -> tuple[str, ...]:
    return tuple(ffi.string(names.names[index]).decode(errors="replace") for index in range(names.count))


def _c_texts(texts: list[str]) -> tuple[list[CData], CData]:
    """Texts, and the array of them, for C, which copies them."""
    c_texts = [ffi.new("char[]", text.encode()) for text in texts]
    return c_texts, ffi.new("char *[]", c_texts)


def backends_path() -> Path:
    path = lib.bridge_backends_path()
    try:
        return Path(_text(path))
    finally:
        lib.bridge_free(path)


def _loaded(number: int, version: str, advice: str) -> None:
    lib.bridge_backend_loaded(number, version.encode(), advice.encode(errors="replace"))
    lib.bridge_log(b"notice", f"{KINDS[number].name} backend {version} loaded".encode())
    if advice:
        lib.bridge_log(b"warning", f"{KINDS[number].name}: {advice}".encode(errors="replace"))
