"""The ONNX backend: ONNX Runtime's C API. Loader and workers enter; a session may run several times at once.

environment.py owns what sessions share, and applies BACKEND_MEMORY_LIMIT. watchdog.py ends runs that take longer than
MODEL_EXECUTION_TIMEOUT. This file owns the figures for INFO MODULES.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from redisai.protocol import Array, Definition, Direct, Settings

from .c_api import allocator, api, cpu_memory, ffi, functions, made, version
from .custom_ops import new_session_with_custom_ops
from .environment import MB, is_overdrawn, new_session, shrink_arena
from .external_data import refuse_external_data
from .values import DTYPES, NUMBERS, STRING, as_array, new_value, type_name
from .watchdog import Watchdog
from .weights import divide

__all__ = ["Session", "figures", "load", "version"]

EXCEEDED = "Onnxruntime memory limit exceeded, memory allocation failed."
PARALLEL = 1  # of ExecutionMode
TENSOR = 1  # of ONNXType
NO_NAME = "Unexpected input data type"  # an error that does not name the input
NO_CUDA = "GPU requested but ONNX couldn't find CUDA"


def load(definition: Definition, settings: Settings) -> Session:
    if not settings.allow_file_ops:
        refuse_external_data(definition.blob)
    if _blob_bytes.total + len(definition.blob) > settings.memory_limit * MB:
        raise _too_large(settings)
    session = _compile(definition, settings)
    if is_overdrawn(session):
        shrink_arena(settings)
        if is_overdrawn(session):
            raise _too_large(settings)
    loaded = Session(session, settings)
    _blob_bytes.count(loaded, len(definition.blob))
    return loaded


def _compile(definition: Definition, settings: Settings) -> Any:
    """Whatever the library refuses without its weights, it gets once more as a whole: its errors are about that."""
    model, weights = divide(definition.blob)
    if weights:
        with suppress(RuntimeError):
            return new_session(model, _options(definition, settings), settings, weights)
    return new_session_with_custom_ops(definition.blob, _options(definition, settings), settings)


def _options(definition: Definition, settings: Settings) -> Any:
    options = made(api.CreateSessionOptions, release=api.ReleaseSessionOptions)
    if settings.allow_file_ops:
        _configure(options, "session.model_external_initializers_file_folder_path", os.getcwd())
    if settings.inter_op_parallelism > 1:
        api.SetSessionExecutionMode(options, PARALLEL)
    # The library knows a second format, which refuse_external_data() cannot read.
    _configure(options, "session.load_model_format", "ONNX")
    # The arena counts these too, but frees them with the session.
    _configure(options, "session.use_device_allocator_for_initializers", "1")
    if definition.gpu is not None:
        _use_cuda(options, definition.gpu)
    return options


def _too_large(settings: Settings) -> MemoryError:
    error = MemoryError(f"Exception during initialization: {EXCEEDED}")  # as deployed servers say it
    limit = settings.memory_limit
    error.__cause__ = MemoryError(f"the ONNX models take more memory than BACKEND_MEMORY_LIMIT allows, {limit} MB")
    return error


def _configure(options: Any, key: str, value: str) -> None:
    api.AddSessionConfigEntry(options, key.encode(), os.fsencode(value))


def _use_cuda(options: Any, device: int) -> None:
    if "CUDAExecutionProvider" not in _providers():
        raise RuntimeError(NO_CUDA)
    cuda = made(api.CreateCUDAProviderOptions, release=api.ReleaseCUDAProviderOptions)
    key, value = ffi.new("char[]", b"device_id"), ffi.new("char[]", str(device).encode())
    api.UpdateCUDAProviderOptions(cuda, [key], [value], 1)
    try:
        api.SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda)
    except RuntimeError as error:
        raise RuntimeError(f"{NO_CUDA}: {error}") from error


def _providers() -> list[str]:
    names, count = ffi.new("char ***"), ffi.new("int *")
    api.GetAvailableProviders(names, count)
    try:
        return [ffi.string(names[0][index]).decode() for index in range(count[0])]
    finally:
        api.ReleaseAvailableProviders(names[0], count[0])


def figures() -> tuple[int, int]:
    """Bytes of the loaded models, and runs so far.

    The library's C API says nothing about its allocators, so we count bytes of blobs ourselves.
    """
    return _blob_bytes.total, sum(watchdog.runs for watchdog in list(_watchdogs.values()))


class BlobBytes:
    """Counts the bytes of the loaded models, from loading until the last reference to the session goes."""

    def __init__(self) -> None:
        self.total = 0

    def count(self, session: Session, size: int) -> None:
        self.add(size)
        weakref.finalize(session, self.add, -size)

    def add(self, size: int) -> None:
        self.total += size


_blob_bytes = BlobBytes()
_watchdogs: dict[int, Watchdog] = {}  # by timeout: one in a server, several in tests


class RunHooks:
    """Called before and after one or more runs of a session in a row."""

    def __init__(self, settings: Settings) -> None:
        timeout = settings.model_execution_timeout
        self._watchdog = _watchdogs.get(timeout) or _watchdogs.setdefault(timeout, Watchdog(timeout))
        self._settings = settings

    def begin(self) -> Any:
        """Returns the options for the runs."""
        options = made(api.CreateRunOptions, release=api.ReleaseRunOptions)
        self._watchdog.begin(options)
        return options

    def end(self, options: Any, runs: int = 1, error: str | None = None) -> Exception | None:
        """error: the library's text, if the last run failed. Returns the exception to raise, or None: run it again."""
        was_ended = self._watchdog.end(options, runs)
        if error is None:
            return None
        if "Available memory" in error:
            shrink_arena(self._settings)
            return None
        if was_ended:
            error += f" (the run took more than MODEL_EXECUTION_TIMEOUT, {self._watchdog.timeout} ms)"
        return RuntimeError(error)


class Session:
    def __init__(self, session: Any, settings: Settings) -> None:
        self._session = session
        inputs = _nodes(session, api.SessionGetInputCount, api.SessionGetInputName, api.SessionGetInputTypeInfo)
        outputs = _nodes(session, api.SessionGetOutputCount, api.SessionGetOutputName, api.SessionGetOutputTypeInfo)
        self.inputs = tuple(name for name, _ in inputs)
        if len(set(self.inputs)) < len(inputs):  # the C API cuts a name at its first NUL
            raise ValueError("two inputs of the model have one name")
        self.outputs = tuple(name for name, _ in outputs)
        self._texts = [ffi.new("char[]", name.encode()) for name in self.inputs + self.outputs]
        self._input_names = ffi.new("const char *[]", self._texts[: len(inputs)])
        self._output_names = ffi.new("const char *[]", self._texts[len(inputs) :])
        self._types = [kind for _, kind in inputs]
        # Outputs of types that tensors cannot have. Refused before the run: the library would fail only after the run.
        self._refused = next(((n, kind) for n, kind in outputs if kind is not None and kind not in DTYPES), None)
        self._hooks = RunHooks(settings)
        self.direct = None
        if all(kind in DTYPES and kind != STRING for _, kind in (*inputs, *outputs)):
            self.direct = Direct(
                functions.__getitem__,
                session,
                cpu_memory,
                self._input_names,
                self._output_names,
                [DTYPES[kind] for _, kind in inputs if kind is not None],
                len(outputs),
                self._hooks.begin,
                self._hooks.end,
            )

    def run(self, inputs: Sequence[Array]) -> Sequence[Array | None]:
        if self._refused is not None:
            name, kind = self._refused
            raise TypeError(f"output '{name}' has type {type_name(kind)}, which tensors cannot have")
        arrays = [np.ascontiguousarray(array) if array.ndim else array for array in inputs]
        results = ffi.new("void *[]", len(self.outputs))
        values: list[Any] = []
        try:
            for array in arrays:
                values.append(new_value(array))
            self._run(values, results)
        except RuntimeError as error:
            raise RuntimeError(str(error) + self._odd_input(arrays) * str(error).startswith(NO_NAME)) from None
        finally:
            for value in values:
                api.ReleaseValue(value)
        held = [ffi.gc(result, api.ReleaseValue) if result else None for result in results]
        return [None if value is None else as_array(value, arrays) for value in held]

    def _odd_input(self, arrays: Sequence[Array]) -> str:
        """Which input has another type than the model declares: the library's text does not say that."""
        pairs = zip(self.inputs, self._types, arrays, strict=True)
        odd = next((name for name, kind, array in pairs if kind != NUMBERS.get(array.dtype)), None)
        return "" if odd is None else f" (input '{odd}')"

    def _run(self, values: list[Any], results: Any) -> None:
        inputs = (self._input_names, values, len(values))
        outputs = (self._output_names, len(results), results)
        for _ in range(2):
            options = self._hooks.begin()
            error: str | None = None
            try:
                api.Run(self._session, options, *inputs, *outputs)
            except RuntimeError as failure:
                error = str(failure)
            finally:
                outcome = self._hooks.end(options, 1, error)
            if error is None:
                return
            if outcome is not None:
                raise outcome
        raise RuntimeError(f"{error}; {EXCEEDED} BACKEND_MEMORY_LIMIT sets how much there is")


def _nodes(session: Any, get_count: Any, get_name: Any, get_type: Any) -> list[tuple[str, int | None]]:
    """Name and element type of each input or output. The type is None for what is not a tensor."""
    count = ffi.new("size_t *")
    get_count(session, count)
    nodes = []
    for index in range(count[0]):
        name = ffi.new("char **")
        get_name(session, index, allocator, name)
        data = ffi.string(name[0])
        api.AllocatorFree(allocator, name[0])
        text = data.decode()
        info = made(get_type, session, index, release=api.ReleaseTypeInfo)
        nodes.append((text, _element_type(info)))
    return nodes


def _element_type(info: Any) -> int | None:
    number, tensor = ffi.new("int *"), ffi.new("const void **")
    api.GetOnnxTypeFromTypeInfo(info, number)
    if number[0] != TENSOR:
        return None
    api.CastTypeInfoToTensorInfo(info, tensor)
    api.GetTensorElementType(tensor[0], number)
    return int(number[0])
