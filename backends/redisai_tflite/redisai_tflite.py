"""The TFLITE backend: ai-edge-litert, or tflite_runtime where only that is installed. Loader and workers enter.

An interpreter can do one run at a time, so a session owns as many interpreters as it ever had runs at once. They share
the bytes of the model. The variables of a model, which live from run to run, are each interpreter's own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from redisai.dtypes import DTYPES, NUMBERS
from redisai.protocol import MB, Array, Definition, Port, Settings

try:
    import ai_edge_litert as library
    from ai_edge_litert.interpreter import Interpreter
except ModuleNotFoundError:
    if importlib.util.find_spec("tflite_runtime") is None:
        raise
    import tflite_runtime as library
    from tflite_runtime.interpreter import Interpreter

OBJECT = np.dtype(object)


def version() -> str:
    return str(library.__version__)


def load(definition: Definition, settings: Settings) -> Session:
    if definition.gpu is not None:
        raise RuntimeError("GPU requested but TFLITE runs models on CPUs only")
    return Session(bytes(definition.blob), settings)


class Idle(NamedTuple):
    """An interpreter that does not run, and the shapes of its inputs."""

    interpreter: Any
    shapes: list[tuple[int, ...]]


class Session:
    def __init__(self, blob: bytes, settings: Settings) -> None:
        self._blob = blob
        self._threads = settings.intra_op_threads
        self._limit = settings.memory_limit
        first = self._new()
        inputs, outputs = first.get_input_details(), first.get_output_details()
        self.inputs = tuple(str(tensor["name"]) for tensor in inputs)
        self.outputs = tuple(str(tensor["name"]) for tensor in outputs)
        self._dtypes = [OBJECT if tensor["dtype"] is np.bytes_ else np.dtype(tensor["dtype"]) for tensor in inputs]
        self.ports = tuple([_port(tensor) for tensor in tensors] for tensors in (inputs, outputs))
        self._input_numbers = [tensor["index"] for tensor in inputs]
        self._output_numbers = [tensor["index"] for tensor in outputs]
        self._declared = [tensor["shape_signature"].tolist() for tensor in inputs]  # -1 for a dimension of any size
        self._idle: list[Idle] = []
        try:
            self._allocate(first)
            self._idle.append(Idle(first, [tuple(tensor["shape"].tolist()) for tensor in inputs]))
        except RuntimeError as error:
            _refuse_operators(str(error))
            # The library takes dimensions of any size for 1, which may be too small. Then the first run shows more.
            if not any(-1 in shape for shape in self._declared):
                raise

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        for array, dtype, name in zip(inputs, self._dtypes, self.inputs, strict=True):
            if array.dtype != dtype:
                raise TypeError(f"input '{name}' has type {_type(array.dtype)}, expected: {_type(dtype)}")
        inputs = [_fitted(array, declared) for array, declared in zip(inputs, self._declared, strict=True)]
        shapes = [array.shape for array in inputs]
        interpreter = self._with(shapes)
        for number, array in zip(self._input_numbers, inputs, strict=True):
            interpreter.set_tensor(number, array)
        interpreter.invoke()
        outputs = [_output(interpreter, index, number) for index, number in enumerate(self._output_numbers)]
        self._idle.append(Idle(interpreter, shapes))  # not after a failure: its state is unknown
        return outputs

    def _with(self, shapes: list[tuple[int, ...]]) -> Any:
        """An interpreter with these shapes, which is idle no more: resizing another costs more than many a run."""
        for idle in self._idle[::-1]:  # a copy of the list, since other threads change it
            if idle.shapes == shapes:
                with contextlib.suppress(ValueError):
                    self._idle.remove(idle)
                    return idle.interpreter
        for index, (shape, declared) in enumerate(zip(shapes, self._declared, strict=True)):
            if len(shape) != len(declared):
                raise self._misfit(index, shape, "ranks differ")
            # Some models can be resized in the 0th dimension, whatever they declare.
            if not _is(shape[1:], declared[1:]):
                raise self._misfit(index, shape, "only the 0th dimension and those of -1 may differ")
        try:
            return self._resized(self._idle.pop().interpreter, shapes)
        except (IndexError, ValueError):  # none is idle, or an earlier resize has spoilt this one
            return self._resized(self._new(), shapes)

    def _new(self) -> Any:
        try:
            # The library would take an empty blob for no model at all.
            return Interpreter(model_content=self._blob or b"\0", num_threads=self._threads)
        except ValueError as error:
            if "Flatbuffer" not in str(error) and "model identifier" not in str(error):
                raise
            raise ValueError("Failed to load model from buffer") from error

    def _allocate(self, interpreter: Any) -> None:
        interpreter.allocate_tensors()
        size = sum(
            math.prod(tensor["shape"].tolist()) * _itemsize(tensor) for tensor in interpreter.get_tensor_details()
        )
        if size > self._limit * MB:  # nothing has written to this memory so far
            raise MemoryError(
                f"the model's tensors take {-(-size // MB)} MB, more than BACKEND_MEMORY_LIMIT allows, {self._limit} MB"
            )

    def _resized(self, interpreter: Any, shapes: list[tuple[int, ...]]) -> Any:
        try:
            what = "resize input tensors"
            for number, shape in zip(self._input_numbers, shapes, strict=True):
                interpreter.resize_tensor_input(number, shape)
            what = "allocate tensors"
            self._allocate(interpreter)
            return interpreter
        except (RuntimeError, ValueError) as error:
            odd = next((i for i, shape in enumerate(shapes) if not _is(shape, self._declared[i])), 0)
            raise self._misfit(odd, shapes[odd], str(error), what) from error

    def _misfit(
        self, index: int, shape: tuple[int, ...], reason: str, what: str = "resize input tensors"
    ) -> ValueError:
        return ValueError(
            f"Failed to {what}: input '{self.inputs[index]}' has shape {list(shape)}, expected:"
            f" {self._declared[index]}, and the model cannot be resized: {reason}"
        )


def _refuse_operators(error: str) -> None:
    """Refuses a model with operators that the library does not have, if that is the error."""
    custom = re.search(r"unresolved custom op: (\w+)", error)
    flex = re.search(r"\((Flex\w+)\) failed to prepare", error)
    if custom is not None:
        raise RuntimeError(f"{custom[0]}, which the library does not have: convert the model without custom operators")
    if flex is not None:
        raise RuntimeError(
            f"unresolved operator of TensorFlow: {flex[1]}, which the library does not have: convert the model without"
            " SELECT_TF_OPS, or store its frozen graph as TF"
        )


def _fitted(array: Array, declared: list[int]) -> Array:
    """An input of another rank with the same elements, in the declared shape."""
    if array.ndim == len(declared) or declared.count(-1) > 1:
        return array
    with contextlib.suppress(ValueError):
        return array.reshape(declared)
    return array


def _is(shape: Sequence[int], declared: list[int]) -> bool:
    return all(want in (-1, size) for size, want in zip(shape, declared, strict=True))


def _port(tensor: Any) -> Port:
    dtype = NUMBERS.get(OBJECT if tensor["dtype"] is np.bytes_ else np.dtype(tensor["dtype"]))
    name = None if dtype is None else DTYPES[dtype].name
    return Port(str(tensor["name"]), name, tuple(tensor["shape_signature"].tolist()))


def _itemsize(tensor: Any) -> int:
    return 1 if tensor["dtype"] is np.bytes_ else np.dtype(tensor["dtype"]).itemsize


def _output(interpreter: Any, index: int, number: int) -> Array:
    try:
        return np.asarray(interpreter.get_tensor(number))  # the library returns a scalar for rank 0
    except ValueError:  # and fails on an output without elements
        tensor = interpreter.get_output_details()[index]
        if tensor["shape"].all():
            raise
        return np.empty(tensor["shape"], tensor["dtype"])


def _type(dtype: np.dtype[Any]) -> str:
    return "string" if dtype == OBJECT else dtype.name
