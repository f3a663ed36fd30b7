"""Loads TorchScript models and runs their forward method. Loader and workers enter; no state but sessions."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.jit._recursive import wrap_cpp_module

from redisai.protocol import Array, Definition, Port, Settings

from . import runner
from .aliasing import Aliasing
from .archives import refuse_archive, refuse_depth, refuse_operators
from .errors import explain
from .guards import guard
from .sandbox import on_large_stack
from .structures import (
    NUMBERS,
    Feed,
    Parameters,
    as_number,
    flatten_result,
    inner_kind,
    output_names,
    returns_tensors,
)
from .tensors import find_device, intra_op_threads, prepare_thread, set_threads, to_array, to_tensor


def load(definition: Definition, settings: Settings) -> Session:
    set_threads(settings)
    runner.limit_memory(settings.memory_limit)
    device = find_device(definition.gpu)
    blob = definition.blob
    refuse_archive(blob)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return on_large_stack(lambda: _load(blob, device))


def _load(blob: bytes | memoryview, device: torch.device) -> Session:
    # Unlike pickle, this runs no Python code of the blob. It does run TorchScript, which refuse_archive() has checked.
    # torch.jit.load() does the same, but keeps the unit, which has all functions and methods.
    unit: Any = torch._C.CompilationUnit()
    module: Any = wrap_cpp_module(runner.load(unit, blob, device))  # type: ignore[no-untyped-call]
    functions = unit.get_functions()
    refuse_operators(guard(functions, device))
    with suppress(AttributeError, RuntimeError):  # a frozen model has no mode to change
        module.eval()
    if not hasattr(module, "forward"):
        raise ValueError("the model has no method forward")
    graph = runner.inlined_graph(module)
    refuse_depth(graph, functions)
    return Session(module, graph, device)


class Session:
    def __init__(self, module: Any, graph: Any, device: torch.device) -> None:
        """graph: forward's inlined graph, which this changes."""
        schema = module.forward.schema
        arguments = schema.arguments[1:]  # without self
        self._parameters = parameters = Parameters(arguments)
        self._is_fast = parameters.is_plain and not parameters.has_none
        self._numbers = [
            (index, argument.name, NUMBERS[kind])
            for index, argument in enumerate(arguments)
            if (kind := inner_kind(argument.type)) in NUMBERS
        ]
        self.inputs = None if parameters.varies else tuple(port.name for port in parameters.ports)
        self.outputs = output_names(schema.returns, graph)
        self.ports = (parameters.ports, [Port(name) for name in self.outputs or ()])
        self._forward = module.forward
        self._device = device if device.type != "cpu" else None
        aliasing = Aliasing.of(module, graph)
        self._copies = aliasing.inputs_written or not parameters.is_plain  # the analysis does not look into containers
        self.is_stateful = aliasing.stateful
        self._lock = threading.Lock() if aliasing.stateful else None
        self.direct = None
        if not aliasing.stateful and parameters.is_plain and returns_tensors(schema.returns[0].type):
            ninputs = None if any(port.optional for port in parameters.ports) else len(parameters.ports)
            noutputs = None if self.outputs is None else len(self.outputs)
            self.direct = runner.of_model(module._c, self._copies, device, intra_op_threads(), ninputs, noutputs)

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        prepare_thread()
        arguments = self._arguments(inputs)
        if self._lock is None:
            result = self._call(arguments)
            if isinstance(result, torch.Tensor):
                return [to_array(0, result)]
            return [to_array(index, tensor) for index, tensor in enumerate(flatten_result(result))]
        with self._lock:  # held until the outputs are copied: they may share memory with the model's state
            outputs = self._call(arguments)
            return [to_array(index, tensor).copy() for index, tensor in enumerate(flatten_result(outputs))]

    def _call(self, arguments: Sequence[Any]) -> Any:
        try:
            return self._forward(*arguments)
        except Exception as error:
            raise RuntimeError(explain(error)) from None

    def _arguments(self, inputs: Sequence[Array]) -> list[Any]:
        device, copies = self._device, self._copies
        if not self._is_fast:
            return self._parameters.arguments(Feed(inputs, device, copies))
        arguments = [to_tensor(array, device, copies) for array in inputs]
        for index, name, number in self._numbers:
            if index < len(arguments):
                arguments[index] = as_number(arguments[index], name, number)
        return arguments
