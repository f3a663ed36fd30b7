"""The ONNX backend: ONNX Runtime's C API. Loader and workers enter; a session may run several times at once.

environment.py owns what sessions share, and applies BACKEND_MEMORY_LIMIT. watchdog.py ends runs that take longer than
MODEL_EXECUTION_TIMEOUT. This file owns the figures for INFO MODULES.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from redisai.protobuf import Piece
from redisai.protocol import MB, Array, Definition, Direct, Port, Settings

from .c_api import allocator, api, cpu_memory, ffi, functions, made, version
from .custom_ops import new_session_with_custom_ops
from .environment import is_overdrawn, new_session, shrink_arena
from .external_data import refuse_external_data
from .scalars import scalar_names
from .values import (
    DROP,
    DTYPES,
    KINDS,
    NAMES,
    NO_ZIPMAP,
    SEQUENCE,
    STRING,
    TENSOR,
    as_array,
    described,
    new_value,
    no_tensor,
    type_name,
)
from .watchdog import Watchdog
from .weights import divide
from .zipmaps import Classes, without_zipmaps

__all__ = ["Session", "figures", "load", "version"]

EXCEEDED = "Onnxruntime memory limit exceeded, memory allocation failed."
PARALLEL = 1  # of ExecutionMode
OPTIONAL = 6  # of ONNXType
NO_CUDA = "GPU requested but ONNX couldn't find CUDA"


def load(definition: Definition, settings: Settings) -> Session:
    if not settings.allow_file_ops:
        refuse_external_data(definition.blob)
    if _blob_bytes.total + len(definition.blob) > settings.memory_limit * MB:
        raise _too_large(settings)
    session, blob, classes = _compile(definition, settings)
    if is_overdrawn(session):
        shrink_arena(settings)
        if is_overdrawn(session):
            raise _too_large(settings)
    loaded = Session(session, settings, blob, classes)
    _blob_bytes.count(loaded, len(definition.blob))
    return loaded


def _compile(definition: Definition, settings: Settings) -> tuple[Any, Piece, Classes]:
    """The session, what the library was given, and classes of outputs. Whatever the library refuses without weights or
    ZipMaps, it gets once more as a whole: its errors are about that."""
    blob, classes = without_zipmaps(definition.blob)
    model, weights = divide(blob)
    if weights:
        with suppress(RuntimeError):
            return new_session(model, _options(definition, settings), settings, weights), blob, classes
    if classes:
        with suppress(RuntimeError):
            return new_session_with_custom_ops(blob, _options(definition, settings), settings), blob, classes
    whole = definition.blob
    return new_session_with_custom_ops(whole, _options(definition, settings), settings), whole, {}


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
    """Bytes of the loaded models, and how often memory was asked of the library: stores, deletions, runs in Python.

    The library tells of its allocator from 1.23 on only, and in a text that takes as long as a run of a small model. So
    we count bytes of blobs, and our own calls.
    """
    return _blob_bytes.total, _blob_bytes.changes + sum(watchdog.runs for watchdog in list(_watchdogs.values()))


class BlobBytes:
    """Counts the bytes of the loaded models, from loading until the last reference to the session goes."""

    def __init__(self) -> None:
        self.total = 0
        self.changes = 0

    def count(self, session: Session, size: int) -> None:
        self.add(size)
        weakref.finalize(session, self.add, -size)

    def add(self, size: int) -> None:
        self.total += size
        self.changes += 1


_blob_bytes = BlobBytes()
_watchdogs: dict[int, Watchdog] = {}  # by timeout: one in a server, several in tests


class RunHooks:
    """Called before and after a run of a session in Python."""

    def __init__(self, settings: Settings) -> None:
        timeout = settings.model_execution_timeout
        self._watchdog = _watchdogs.get(timeout) or _watchdogs.setdefault(timeout, Watchdog(timeout))
        self._settings = settings

    def begin(self) -> Any:
        """Returns the options for the run."""
        options = made(api.CreateRunOptions, release=api.ReleaseRunOptions)
        self._watchdog.begin(options)
        return options

    def end(self, options: Any, error: str | None) -> Exception | None:
        """error: the library's text, if the run failed. Returns the exception to raise, or None: run it again."""
        if self._watchdog.end(options) and error is not None:
            error += f" (the run took more than MODEL_EXECUTION_TIMEOUT, {self._watchdog.timeout} ms)"
        return None if error is None else self.explain(error)

    def explain(self, error: str) -> Exception | None:
        """The exception for a run that has failed, also in C; None: run it again."""
        if "Available memory" not in error:
            return RuntimeError(error)
        shrink_arena(self._settings)
        return None


class Session:
    def __init__(self, session: Any, settings: Settings, blob: Piece, classes: Classes) -> None:
        self._session = session
        given = _nodes(session, "Input")
        needed = [node for node in given if node.kind != OPTIONAL]
        # What may be left out comes last: a run has the first so many.
        optional = [node for node in given if node.kind == OPTIONAL] + _nodes(session, "OverridableInitializer")
        inputs = needed + optional
        outputs = _nodes(session, "Output")
        self.inputs = tuple(node.name for node in inputs)
        if len(set(self.inputs)) < len(inputs):  # the C API cuts a name at its first NUL
            raise ValueError("two inputs of the model have one name")
        self.outputs = tuple(node.name for node in outputs)
        self._outputs = outputs
        self._texts = [ffi.new("char[]", name.encode()) for name in self.inputs + self.outputs]
        self._input_names = ffi.new("const char *[]", self._texts[: len(inputs)])
        self._output_names = ffi.new("const char *[]", self._texts[len(inputs) :])
        scalars = scalar_names(blob) if any(node.shape == () for node in (*inputs, *outputs)) else set()
        ports = [[node.port(scalars, classes) for node in nodes] for nodes in (needed, optional, outputs)]
        self.ports = ([*ports[0], *[replace(port, optional=True) for port in ports[1]]], ports[2])
        self._hooks = RunHooks(settings)
        self.direct = None
        if all(node.kind == TENSOR and node.dtype in DTYPES and node.dtype != STRING for node in (*needed, *outputs)):
            self.direct = Direct(
                functions.__getitem__,
                session,
                cpu_memory,
                self._input_names,
                self._output_names,
                [DTYPES[node.dtype] for node in needed],
                len(outputs),
                self._hooks.explain,
            )

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        for output in self._outputs:  # before the run: afterwards it would have been in vain
            output.refuse()
        arrays = [np.ascontiguousarray(array) if array.ndim else array for array in inputs]
        results = ffi.new("void *[]", len(self.outputs))
        values: list[Any] = []
        try:
            for array in arrays:
                values.append(new_value(array))
            self._run(values, results)
        finally:
            for value in values:
                api.ReleaseValue(value)
        held = [ffi.gc(result, api.ReleaseValue) for result in results]
        return [as_array(node.name, node.dtype, value, arrays) for node, value in zip(self._outputs, held, strict=True)]

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
                outcome = self._hooks.end(options, error)
            if error is None:
                return
            if outcome is not None:
                raise outcome
        raise RuntimeError(f"{error}; {EXCEEDED} BACKEND_MEMORY_LIMIT sets how much there is")


class Node(NamedTuple):
    """An input or output as the model declares it."""

    name: str
    kind: int  # of ONNXType
    dtype: int  # the library's number of the elements' type; 0: they have none
    shape: tuple[int, ...]  # of a tensor; () also where the model does not say

    def port(self, scalars: set[str], classes: Classes) -> Port:
        labels = classes.get(self.name, ())
        shape: tuple[int, ...] | None = self.shape
        if self.kind != TENSOR or not (shape or self.name in scalars):
            shape = (-1, len(labels)) if labels else None
        return Port(self.name, NAMES.get(self.dtype), shape, labels)

    def refuse(self) -> None:
        """Raises if it is an output that cannot become a tensor."""
        if self.kind in (TENSOR, SEQUENCE) and self.dtype:
            if self.dtype not in DTYPES:
                raise TypeError(f"output '{self.name}' has type {type_name(self.dtype)}, which tensors cannot have")
        elif self.kind == SEQUENCE:
            raise no_tensor(self.name, "a sequence of maps", NO_ZIPMAP)
        elif self.kind != OPTIONAL:  # which may have a value
            raise no_tensor(self.name, KINDS.get(self.kind, "of a type without name"), DROP)


def _nodes(session: Any, what: str) -> list[Node]:
    get_count, get_name, get_type = [getattr(api, f"SessionGet{what}{part}") for part in ("Count", "Name", "TypeInfo")]
    count = ffi.new("size_t *")
    get_count(session, count)
    nodes = []
    for index in range(count[0]):
        name = ffi.new("char **")
        get_name(session, index, allocator, name)
        data = ffi.string(name[0])
        api.AllocatorFree(allocator, name[0])
        info = made(get_type, session, index, release=api.ReleaseTypeInfo)
        nodes.append(Node(data.decode(), *_type(info)))
    return nodes


def _type(info: Any) -> tuple[int, int, tuple[int, ...]]:
    """What it is, the type of its elements, its shape."""
    number, inner = ffi.new("int *"), ffi.new("const void **")
    api.GetOnnxTypeFromTypeInfo(info, number)
    kind = int(number[0])
    if kind == SEQUENCE:
        api.CastTypeInfoToSequenceTypeInfo(info, inner)
        of_kind, dtype, _ = _type(made(api.GetSequenceElementType, inner[0], release=api.ReleaseTypeInfo))
        return kind, dtype if of_kind == TENSOR else 0, ()
    if kind != TENSOR:
        return kind, 0, ()
    api.CastTypeInfoToTensorInfo(info, inner)
    return kind, *described(inner[0])
