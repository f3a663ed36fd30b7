"""TorchScript scripts: compiles their source, checks entry points, calls functions. Loader and workers enter.

A function with the signature of an entry point gets tensors, keys and arguments. Scripts stored without entry points
may have other functions. These get the inputs in order; a parameter that is a list of tensors gets all that are left.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from redisai.protocol import Array, Call, Redis, ScriptDefinition, Settings

from . import redis_calls, runner
from .aliasing import OPAQUE, writes_to_inputs
from .errors import explain
from .guards import guard, guard_library
from .redis_calls import CALL, RUN_MODEL, RUN_MODEL_PURE, current
from .sandbox import on_large_stack, refuse_nesting, refuse_operators, resolver, torch_namespace
from .tensors import find_device, flatten, intra_op_threads, prepare_thread, set_threads, to_array, to_tensor

ENTRY_POINT = ["List[Tensor]", "List[str]", "List[str]"]
SIGNATURE = "(tensors: List[Tensor], keys: List[str], args: List[str])"


def load_script(definition: ScriptDefinition, settings: Settings, redis_of: Callable[[int], Redis]) -> ScriptSession:
    redis_calls.redis_of = redis_of
    set_threads(settings)
    runner.limit_memory(settings.memory_limit)
    device = find_device(definition.gpu)
    refuse_nesting(definition.source)
    unit, functions = on_large_stack(lambda: _compile(definition.source, device))
    for name in definition.entry_points:
        if name not in functions:
            raise ValueError(f"Function {name} does not exist in the given script.")
        functions[name].check_entry_point()
    if definition.entry_points:
        functions = {name: functions[name] for name in definition.entry_points}
    return ScriptSession(functions, unit, device)


def _compile(source: bytes, device: torch.device) -> tuple[Any, dict[str, Function]]:
    unit: Any = torch.jit.CompilationUnit()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The compiler needs a line break at the end, which clients forget.
        unit.define(source + b"\n", resolver({"torch": torch_namespace(), **redis_calls.namespaces()}))
    functions = unit.get_functions()
    guard_library()
    guard(functions)
    return unit, {function.name: Function(function, device) for function in functions}


class ScriptSession:
    def __init__(self, functions: dict[str, Function], unit: Any, device: torch.device) -> None:
        self._functions = functions
        direct = {
            name: (function.copies, function.has_effects) for name, function in functions.items() if function.is_direct
        }
        self.direct = runner.of_script(unit, direct, device, intra_op_threads())

    def run(self, call: Call) -> Sequence[Array]:
        function = self._functions.get(call.function)
        if function is None:
            raise ValueError(f"Function does not exist: {call.function}")
        prepare_thread()
        has_run = function.has_effects and runner.has_outcome(call.redis.op)
        arguments = () if has_run else function.arguments(call)
        current.redis = call.redis
        try:
            result = runner.take_outcome() if has_run else function.run(*arguments)
        except Exception as error:
            raise RuntimeError(current.error or explain(error, redis_calls.FUNCTIONS)) from None
        finally:
            current.redis = None
            current.error = ""
        if not call.noutputs:
            return []
        outputs = [] if result is None else list(flatten(result))
        if len(outputs) != call.noutputs:
            raise ValueError(f"Function returned unexpected number of outputs - {call.function}")
        return [to_array(index, tensor) for index, tensor in enumerate(outputs)]


class Function:
    def __init__(self, function: Any, device: torch.device) -> None:
        refuse_operators(function.graph, function.inlined_graph)
        self.run = function
        self._name = str(function.name)
        self._device = device if device.type != "cpu" else None
        self.copies = writes_to_inputs(function.inlined_graph, {RUN_MODEL: RUN_MODEL_PURE})
        arguments = function.schema.arguments
        self._types = [str(argument.type.annotation_str) for argument in arguments]
        self._optional = [argument.has_default_value() for argument in arguments]
        self._is_entry_point = self._types == ENTRY_POINT
        graph = function.inlined_graph
        self.has_effects = any(graph.findAllNodes(kind) for kind in (CALL, RUN_MODEL))  # it must not run twice
        self.is_direct = not any(graph.findAllNodes(kind) for kind in OPAQUE)

    def check_entry_point(self) -> None:
        if len(self._types) != 3:
            raise ValueError(f"Wrong number of inputs in function {self._name}. Expected 3 but was {len(self._types)}")
        if not self._is_entry_point:
            raise ValueError(
                f"Wrong inputs type in function {self._name}."
                f" Expected signature similar to: def {self._name}{SIGNATURE}"
            )

    def arguments(self, call: Call) -> Sequence[Any]:
        tensors = [to_tensor(array, self._device, self.copies) for array in call.inputs]
        return (tensors, call.keys, call.args) if self._is_entry_point else self._mapped(tensors)

    def _mapped(self, tensors: list[Any]) -> list[Any]:
        """The inputs by the function's parameters. Optional parameters at the end may get none."""
        arguments: list[Any] = []
        used = 0
        for type_, optional in zip(self._types, self._optional, strict=True):
            if type_ == "List[Tensor]":
                arguments.append(tensors[used:])
                used = len(tensors)
            elif type_ in ("Tensor", "Optional[Tensor]") and used < len(tensors):
                arguments.append(tensors[used])
                used += 1
            elif optional:
                break
            else:
                raise ValueError(f"Wrong number of inputs provided to function: {self._name}")
        if used < len(tensors):
            parameters, given = ", ".join(self._types), len(tensors)
            raise ValueError(
                f"Wrong number of inputs provided to function: {self._name}({parameters}) was given {given}"
            )
        return arguments
