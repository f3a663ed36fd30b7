"""Loads TorchScript models and runs their forward method. Loader and workers enter; no state but sessions."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.jit._recursive import wrap_cpp_module

from redisai.protocol import Array, Definition, Port, Settings

from . import runner
from .aliasing import Aliasing
from .archives import refuse_archive, refuse_depth, refuse_operators
from .guards import guard
from .sandbox import on_large_stack
from .tensors import find_device, flatten, intra_op_threads, prepare_thread, set_threads, to_array, to_tensor

DTYPES = {"BoolType": "BOOL", "IntType": "INT64", "FloatType": "DOUBLE"}
NUMBERS: dict[str, Callable[[Any], bool | int | float]] = {
    "BoolType": bool,
    "IntType": int,
    "FloatType": float,
    "NumberType": lambda number: number,
}


def load(definition: Definition, settings: Settings) -> Session:
    set_threads(settings)
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
    refuse_operators(guard(functions))
    with suppress(AttributeError, RuntimeError):  # a frozen model has no mode to change
        module.eval()
    if not hasattr(module, "forward"):
        raise ValueError("the model has no method forward")
    refuse_depth(module.forward, functions)
    return Session(module, device)


class Session:
    def __init__(self, module: Any, device: torch.device) -> None:
        schema = module.forward.schema
        arguments = schema.arguments[1:]  # without self
        self._numbers: list[tuple[int, str, Callable[[Any], bool | int | float]]] = []
        for index, argument in enumerate(arguments):
            kind = _kind(argument.type)
            if kind in NUMBERS:
                self._numbers.append((index, argument.name, NUMBERS[kind]))
            elif kind != "TensorType" and not argument.has_default_value():
                raise TypeError(
                    f"argument '{argument.name}' of forward is a {argument.type.annotation_str};"
                    " only tensors and numbers can be given"
                )
        optional = any(argument.has_default_value() for argument in arguments)
        self.inputs = None if optional else tuple(argument.name for argument in arguments)
        self.outputs = _unnamed_outputs(schema.returns)
        self.ports = (
            [Port(argument.name, DTYPES.get(_kind(argument.type))) for argument in arguments],
            [Port(name) for name in self.outputs or ()],
        )
        self._forward = module.forward
        self._device = device if device.type != "cpu" else None
        aliasing = Aliasing.of(module)
        self._copies = aliasing.inputs_written
        self._lock = threading.Lock() if aliasing.stateful else None
        self.direct = None
        if not aliasing.stateful:
            counts = [None if names is None else len(names) for names in (self.inputs, self.outputs)]
            self.direct = runner.of_model(module._c, self._copies, device, intra_op_threads(), *counts)

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        prepare_thread()
        device, copies = self._device, self._copies
        arguments = [to_tensor(array, device, copies) for array in inputs]
        for index, name, number in self._numbers:
            if index < len(arguments):
                arguments[index] = _number(arguments[index], name, number)
        if self._lock is None:
            result = self._forward(*arguments)
            if isinstance(result, torch.Tensor):
                return [to_array(0, result)]
            return [to_array(index, tensor) for index, tensor in enumerate(flatten(result))]
        with self._lock:  # held until the outputs are copied: they may share memory with the model's state
            outputs = self._forward(*arguments)
            return [to_array(index, tensor).copy() for index, tensor in enumerate(flatten(outputs))]


def _kind(type_: Any) -> str:
    """TorchScript's name of a type; for an optional type, the name of the type inside."""
    kind = str(type_.kind())
    return str(type_.getElementType().kind()) if kind == "OptionalType" else kind


def _unnamed_outputs(returns: Sequence[Any]) -> tuple[str, ...] | None:
    """An empty name for each tensor that forward returns; None where only a run can tell how many there are."""
    if len(returns) != 1:
        return None
    result = returns[0].type
    types = result.elements() if result.kind() == "TupleType" else [result]
    return ("",) * len(types) if all(type_.kind() == "TensorType" for type_ in types) else None


def _number(tensor: torch.Tensor, name: str, number: Callable[[Any], bool | int | float]) -> bool | int | float:
    if tensor.numel() != 1:
        raise ValueError(f"argument '{name}' of forward is a number: a tensor of one element is needed")
    return number(tensor.item())
