"""The TFLITE backend: ai-edge-litert, or tflite_runtime where only that is installed. Loader and workers enter.

An interpreter can do one run at a time, so a session owns as many interpreters as it ever had runs at once. They share
the bytes of the model. The variables of a model, which live from run to run, are each interpreter's own.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from redisai.protocol import Array, Definition, Settings

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
    return Session(bytes(definition.blob), settings.intra_op_threads)


class Idle(NamedTuple):
    """An interpreter that does not run, and the shapes of its inputs."""

    interpreter: Any
    shapes: list[tuple[int, ...]]


class Session:
    def __init__(self, blob: bytes, threads: int) -> None:
        self._blob = blob
        self._threads = threads
        first = self._new()
        inputs, outputs = first.interpreter.get_input_details(), first.interpreter.get_output_details()
        self.inputs = tuple(str(tensor["name"]) for tensor in inputs)
        self.outputs = tuple(str(tensor["name"]) for tensor in outputs)
        self._dtypes = [OBJECT if tensor["dtype"] is np.bytes_ else np.dtype(tensor["dtype"]) for tensor in inputs]
        self._input_numbers = [tensor["index"] for tensor in inputs]
        self._output_numbers = [tensor["index"] for tensor in outputs]
        self._declared = [tensor["shape_signature"].tolist() for tensor in inputs]  # -1 for a dimension of any size
        self._idle = [first]

    def run(self, inputs: Sequence[Array]) -> Sequence[Array | None]:
        for array, dtype, name in zip(inputs, self._dtypes, self.inputs, strict=True):
            if array.dtype != dtype:
                raise TypeError(f"input '{name}' has type {_type(array.dtype)}, expected: {_type(dtype)}")
        shapes = [array.shape for array in inputs]
        try:
            interpreter = self._resized(self._pop_idle(shapes), shapes)
        except (IndexError, ValueError):  # none is idle, or an earlier resize has spoilt this one
            interpreter = self._resized(self._new(), shapes)
        for number, array in zip(self._input_numbers, inputs, strict=True):
            interpreter.set_tensor(number, array)
        interpreter.invoke()
        outputs = [_output(interpreter, index, number) for index, number in enumerate(self._output_numbers)]
        self._idle.append(Idle(interpreter, shapes))  # not after a failure: its state is unknown
        return outputs

    def _pop_idle(self, shapes: list[tuple[int, ...]]) -> Idle:
        """An idle interpreter, with these shapes if possible: resizing another costs more than many a run."""
        for idle in self._idle[::-1]:  # a copy of the list, since other threads change it
            if idle.shapes == shapes:
                with contextlib.suppress(ValueError):
                    self._idle.remove(idle)
                    return idle
        return self._idle.pop()

    def _new(self) -> Idle:
        # The library would take an empty blob for no model at all.
        interpreter = Interpreter(model_content=self._blob or b"\0", num_threads=self._threads)
        interpreter.allocate_tensors()
        return Idle(interpreter, [tuple(tensor["shape"].tolist()) for tensor in interpreter.get_input_details()])

    def _resized(self, idle: Idle, shapes: list[tuple[int, ...]]) -> Any:
        interpreter = idle.interpreter
        wrong = [index for index in range(len(shapes)) if shapes[index] != idle.shapes[index]]
        if not wrong:
            return interpreter
        reason = "ranks differ"
        if all(len(shapes[index]) == len(idle.shapes[index]) for index in wrong):
            try:
                for index in wrong:
                    interpreter.resize_tensor_input(self._input_numbers[index], shapes[index])
                interpreter.allocate_tensors()
                return interpreter
            except (RuntimeError, ValueError) as error:
                reason = str(error)
        odd = next((index for index in wrong if not _fits(shapes[index], self._declared[index])), wrong[0])
        raise ValueError(
            f"input '{self.inputs[odd]}' has shape {list(shapes[odd])}, expected: {self._declared[odd]},"
            f" and the model cannot be resized: {reason}"
        )


def _fits(shape: tuple[int, ...], declared: list[int]) -> bool:
    return len(shape) == len(declared) and all(want in (-1, size) for size, want in zip(shape, declared, strict=True))


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
