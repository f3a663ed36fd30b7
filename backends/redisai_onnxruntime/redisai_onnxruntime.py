"""The ONNX backend: ONNX Runtime's Python package. Loader and workers enter; a session may run several times at once.

Owns the arena that BACKEND_MEMORY_LIMIT bounds; watchdog.py ends runs after MODEL_EXECUTION_TIMEOUT.
"""

from __future__ import annotations

import functools
import os
import re
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from redisai.protocol import Array, Definition, Settings

from .external_data import refuse_external_data
from .watchdog import Watchdog

# Errors are answered to the client who caused them; the log of Redis need not hold them a second time.
FATAL = 4
ort.set_default_logger_severity(FATAL)

NUMBERS = ("float", "double", "int8", "int16", "int32", "int64", "uint8", "uint16")
TYPES = {f"tensor({name})" for name in (*NUMBERS, "bool", "string")}


def version() -> str:
    return str(ort.__version__)


def load(definition: Definition, settings: Settings) -> Session:
    options = ort.SessionOptions()
    if settings.allow_file_ops:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.getcwd())
    else:
        refuse_external_data(definition.blob)
    options.log_severity_level = FATAL
    options.intra_op_num_threads = settings.intra_op_threads
    options.inter_op_num_threads = settings.inter_op_parallelism or 1
    if settings.inter_op_parallelism > 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    # Threads that spin while they wait for work take the cores of Redis and of other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # The other format is not what refuse_external_data() reads.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if settings.backend_memory_limit:
        _bound_memory(settings.backend_memory_limit)
        options.add_session_config_entry("session.use_env_allocators", "1")
    gpu = definition.gpu
    providers: list[Any] = ["CPUExecutionProvider"]
    if gpu is not None:
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise RuntimeError("GPU requested but ONNX couldn't find CUDA")
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": gpu}))
    try:
        session = ort.InferenceSession(definition.blob, options, providers=providers)
    except Exception as error:
        raise RuntimeError(_message(error)) from error
    if gpu is not None and "CUDAExecutionProvider" not in session.get_providers():
        raise RuntimeError("GPU requested but ONNX couldn't find CUDA")
    loaded = Session(session, settings)
    _held.count(loaded, len(definition.blob))
    return loaded


def figures() -> tuple[int, int, int]:
    """Bytes of the models held, runs started, and how many of these went on at once at most.

    The library's Python package tells nothing of its allocators, so these are what we know ourselves.
    """
    watchdogs = list(_watchdogs.values())
    return _held.size, sum(dog.runs for dog in watchdogs), max((dog.most for dog in watchdogs), default=0)


class Held:
    """Bytes of the models that sessions hold: counted when loaded, and off when the last reference goes."""

    def __init__(self) -> None:
        self.size = 0

    def count(self, session: Session, size: int) -> None:
        self.add(size)
        weakref.finalize(session, self.add, -size)

    def add(self, size: int) -> None:
        self.size += size


_held = Held()
_watchdogs: dict[int, Watchdog] = {}  # by timeout: one in a server, several in tests


class Session:
    def __init__(self, session: ort.InferenceSession, settings: Settings) -> None:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        self.inputs = tuple(node.name for node in inputs)
        self.outputs = tuple(node.name for node in outputs)
        self._names = list(self.outputs)
        self._strings = [index for index, node in enumerate(inputs) if node.type == "tensor(string)"]
        self._tensors_only = all(node.type.startswith("tensor(") for node in outputs)
        # The library hands some of these out as other types, and fails on others only after the run.
        self._refused = next((n for n in outputs if n.type.startswith("tensor(") and n.type not in TYPES), None)
        self._limited = bool(settings.backend_memory_limit)
        timeout = settings.model_execution_timeout
        self._watchdog = _watchdogs.get(timeout) or _watchdogs.setdefault(timeout, Watchdog(timeout))
        # The library's inner session takes 0.7 us less for a call; it is an attribute the library does not document.
        self._run = getattr(session, "_sess", session).run

    def run(self, inputs: Sequence[Array]) -> Sequence[Array | None]:
        if self._refused is not None:
            raise TypeError(f"output '{self._refused.name}' has type {self._refused.type}, which tensors cannot have")
        feed = dict(zip(self.inputs, inputs, strict=True))
        for index in self._strings:
            feed[self.inputs[index]] = _as_text(inputs[index])
        try:
            outputs = self._watched(feed)
        except RuntimeError as error:
            if not (self._limited and "Available memory" in str(error)):
                raise
            # The arena keeps what earlier runs freed in blocks of their sizes: make it hand those back, try once more.
            _shrink_arena()
            outputs = self._watched(feed)
        if self._tensors_only:
            return outputs
        return [output if isinstance(output, np.ndarray) else None for output in outputs]

    def _watched(self, feed: dict[str, Array]) -> list[Any]:
        watchdog = self._watchdog
        options = ort.RunOptions()
        watchdog.begin(options)
        try:
            return self._run(self._names, feed, options)  # type: ignore[no-any-return]
        except Exception as error:
            text = _message(error)
            if options.terminate:
                text += f" (the run took more than MODEL_EXECUTION_TIMEOUT, {watchdog.timeout} ms)"
            raise RuntimeError(text) from error
        finally:
            watchdog.end(options)


def _as_text(array: Array) -> Array:
    """ONNX strings are Unicode, and the library takes bytes for something to print."""
    if array.dtype != object:
        return array
    text = np.empty(array.size, object)
    text[:] = [item.decode() for item in array.ravel().tolist()]
    return text.reshape(array.shape)


def _message(error: Exception) -> str:
    """The library's text without the error code that its Python package puts before it."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))


@functools.cache
def _bound_memory(limit: int) -> None:
    """Makes the one arena that all sessions of this process allocate from, of limit MB at most."""
    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(where, ort.OrtArenaCfg(limit << 20, 1, -1, -1))  # 1: grow by what is asked for


# A model of one Identity node on a float, IR version 8, opset 13: the library shrinks an arena only after a run.
IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


@functools.cache
def _identity() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    return ort.InferenceSession(IDENTITY, options, providers=["CPUExecutionProvider"])


def _shrink_arena() -> None:
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    _identity().run(None, {"x": np.zeros(1, np.float32)}, options)
