"""Adds to graphs what the library does not check or clear. The loader enters; workers run the operators.

- `a % 0`, or the smallest integer `// -1`, ends the process on x86, unless src/engine/divisions.c prevents that. Our
  operators raise the exceptions of Python instead. Each costs 5 us. Constant divisors need none.
- A dtype, layout or memory format is a number, and others than the library knows crash it.
- Some operators return memory that has been used before. It may hold others' tensors, so it is cleared.
- embedding_bag() reads at negative offsets.
- Operators of torchvision read the image that a box names, whether or not there is one.
- A sparse tensor's indices may change once they are checked, if others share their memory.

Models that were traced on a GPU create tensors there. These go to the model's own device.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

LIBRARY = "redisai_checked"
# The library computes 64-bit numbers.
SPAN = 1 << 64
HALF = 1 << 63
DIVISIONS = ("floordiv", "remainder", "divmod")
UNCLEARED = re.compile(r"aten::_?(?:new_)?empty_?\w*$")
# How many there are. Later dtypes have no arithmetic.
COUNTS = {"ScalarType": 30, "MemoryFormat": 4, "Layout": 8}
NAMES = {"dtype": "ScalarType", "memory_format": "MemoryFormat", "layout": "Layout"}


def _wrapped(number: int) -> int:
    return (number + HALF) % SPAN - HALF


def _checked(number: int | None, what: str) -> int | None:
    if number is not None and not 0 <= number < COUNTS[what]:
        raise ValueError(f"{number} is no {what}")
    return number


def _boxes(boxes: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """A copy of boxes, if each one's first number is that of an image."""
    if not ((boxes[:, 0] >= 0) & (boxes[:, 0] < images.shape[0])).all():
        raise ValueError(f"a box is of an image that is not there: there are {images.shape[0]}")
    return boxes.clone()


def _define() -> torch.library.Library:
    library = torch.library.Library(LIBRARY, "DEF")  # type: ignore[no-untyped-call]
    operators: dict[str, Callable[..., object]] = {
        "floordiv(int a, int b) -> int": lambda a, b: _wrapped(a // b),
        "remainder(int a, int b) -> int": lambda a, b: a % b,
        "divmod(int a, int b) -> (int, int)": lambda a, b: (_wrapped(a // b), a % b),
        "number(int? number, str what) -> int?": _checked,
        "boxes(Tensor boxes, Tensor images) -> Tensor": _boxes,
    }
    for schema, function in operators.items():
        library.define(schema)  # type: ignore[no-untyped-call]
        library.impl(schema.partition("(")[0], function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    return library


_library = _define()  # lives as long as its operators


# Without this, the library believes the indices of a sparse tensor.
torch.sparse.check_sparse_tensor_invariants.enable()  # type: ignore[no-untyped-call]
BOXES = re.compile(r"torchvision::(ps_)?roi_(align|pool)$")
INDICES = re.compile(r"aten::(_?indices|c?(?:row|col)_indices)$")


def guard(functions: Iterable[Any], device: torch.device | None = None) -> set[str]:
    """Works on the functions' own graphs, before any is run or inlined for the first time: the library keeps copies.
    Returns the kinds of all nodes. device: where GPUs that the functions name are replaced by this."""
    kinds: set[str] = set()
    for function in functions:
        _guard(function.graph, kinds, device)
    return kinds


@functools.cache
def _library_functions() -> set[str]:
    return set()


def guard_library() -> None:
    """The library's functions in Python that scripts call. It compiles each once."""
    done = _library_functions()
    unit: Any = torch.jit._state._python_cu
    functions = {function.qualified_name: function for function in unit.get_functions()}
    new = {name for name in functions.keys() - done if name.startswith("__torch__.torch.")}
    guard(functions[name] for name in new)
    done.update(new)


def _guard(graph: Any, kinds: set[str], device: torch.device | None) -> None:
    for node in list(_nodes(graph)):
        kind = str(node.kind())
        kinds.add(kind)
        if node.hasAttribute("Subgraph"):  # a forked graph
            _guard(node.g("Subgraph"), kinds, device)
        if kind[6:] in DIVISIONS:
            _check_division(graph, node, kind[6:])
        elif kind in _numbered():
            _check_numbers(graph, node)
        if kind == "aten::embedding_bag":
            _check_offsets(graph, node)
        elif UNCLEARED.match(kind):
            graph.create("aten::zero_", [node.output()], 1).insertAfter(node)
        elif BOXES.match(kind):
            checked = graph.create(f"{LIBRARY}::boxes", [node.inputsAt(1), node.inputsAt(0)], 1)
            checked.insertBefore(node)
            node.replaceInput(1, checked.output())
        elif kind == "aten::sparse_coo_tensor" and str(node.inputsAt(0).type()) == "Tensor":
            _copy_input(graph, node)
        elif INDICES.match(kind):
            _copy_output(graph, node)
        if device is not None:
            _move(graph, node, kind, device)


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _check_division(graph: Any, node: Any, name: str) -> None:
    operands = list(node.inputs())
    if any(str(operand.type()) != "int" for operand in operands) or _constant(operands[1]) not in (None, 0, -1):
        return
    checked = graph.create(f"{LIBRARY}::{name}", operands, node.outputsSize())
    checked.insertBefore(node)
    for old, new in zip(node.outputs(), checked.outputs(), strict=True):
        new.setType(old.type())
        old.replaceAllUsesWith(new)
    node.destroy()


def _constant(value: Any) -> Any:
    return value.toIValue() if value.node().kind() == "prim::Constant" else None


@functools.cache
def _numbered() -> frozenset[str]:
    """The operators that take such numbers."""
    schemas = torch._C._jit_get_all_schemas()
    return frozenset(schema.name for schema in schemas if any(map(_what, schema.arguments)))


def _what(argument: Any) -> str | None:
    if argument.name in NAMES:
        return NAMES[argument.name]
    return next((what for what in COUNTS if what in str(argument.real_type)), None)


@functools.cache
def _numbers(schema: str) -> list[tuple[int, str]]:
    arguments = torch._C.parse_schema(schema).arguments
    return [(index, what) for index, argument in enumerate(arguments) if (what := _what(argument))]


def _check_numbers(graph: Any, node: Any) -> None:
    for index, what in _numbers(str(node.schema())):
        value = node.inputsAt(index)
        kind = str(value.node().kind())
        if kind == "prim::Constant":
            number = value.toIValue()
            if isinstance(number, int):
                _checked(number, what)
        elif "int" in str(value.type()) and kind not in ("prim::dtype", "prim::layout"):
            with graph.insert_point_guard(node):
                name = graph.insertConstant(what)
            checked = graph.create(f"{LIBRARY}::number", [value, name], 1)
            checked.insertBefore(node)
            checked.output().setType(value.type())
            node.replaceInput(index, checked.output())


def _check_offsets(graph: Any, node: Any) -> None:
    """Makes offsets ascend, as those of sound callers do. The library checks the first and the last."""
    with graph.insert_point_guard(node):
        zero = graph.insertConstant(0)
    ascending = graph.create("aten::cummax", [node.inputsAt(2), zero], 2)
    ascending.insertBefore(node)
    node.replaceInput(2, next(iter(ascending.outputs())))


def _copy_input(graph: Any, node: Any) -> None:
    """Gives the node a copy of its first input."""
    with graph.insert_point_guard(node):
        none = graph.insertConstant(None)
    copy = graph.create("aten::clone", [node.inputsAt(0), none], 1)
    copy.insertBefore(node)
    node.replaceInput(0, copy.output())


def _copy_output(graph: Any, node: Any) -> None:
    """Gives a copy of the node's output to those who use it."""
    with graph.insert_point_guard(node):
        none = graph.insertConstant(None)
    copy = graph.create("aten::clone", [node.output(), none], 1)
    copy.insertAfter(node)
    node.output().replaceAllUsesAfterNodeWith(copy, copy.output())


def _move(graph: Any, node: Any, kind: str, device: torch.device) -> None:
    if kind == "prim::Constant" and str(node.output().type()) == "Device" and node.s("value").startswith("cuda"):
        node.s_("value", str(device))
    elif kind == "aten::cuda":
        with graph.insert_point_guard(node):
            constants = [graph.insertConstant(value) for value in (device, None, False, False)]
        moved = graph.create("aten::to", [node.inputsAt(0), *constants], 1)
        moved.insertBefore(node)
        node.output().replaceAllUsesWith(moved.output())
        node.destroy()
