"""Replaces TorchScript's divisions of integers, which check nothing. The loader enters; workers run the operators.

`a % 0`, or the smallest integer `// -1`, ends the process by a signal (SIGFPE), and a client's arguments may be the
operands. So our own operators take their place, which raise the exceptions of Python. Each costs 5 us.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

LIBRARY = "redisai_integers"
# The library computes 64-bit numbers.
SPAN = 1 << 64
HALF = 1 << 63


def _wrapped(number: int) -> int:
    return (number + HALF) % SPAN - HALF


def _define() -> torch.library.Library:
    library = torch.library.Library(LIBRARY, "DEF")  # type: ignore[no-untyped-call]
    operators: dict[str, Callable[[int, int], object]] = {
        "floordiv(int a, int b) -> int": lambda a, b: _wrapped(a // b),
        "remainder(int a, int b) -> int": lambda a, b: a % b,
        "divmod(int a, int b) -> (int, int)": lambda a, b: (_wrapped(a // b), a % b),
    }
    for schema, function in operators.items():
        library.define(schema)  # type: ignore[no-untyped-call]
        library.impl(schema.partition("(")[0], function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    return library


_library = _define()  # lives as long as its operators


def replace_divisions(graph: Any) -> None:
    """Works on a function's own graph, before the function runs for the first time."""
    for name in ("floordiv", "remainder", "divmod"):
        for node in graph.findAllNodes(f"aten::{name}"):
            operands = list(node.inputs())
            if any(str(operand.type()) != "int" for operand in operands):
                continue
            checked = graph.create(f"{LIBRARY}::{name}", operands, node.outputsSize())
            checked.insertBefore(node)
            for old, new in zip(node.outputs(), checked.outputs(), strict=True):
                new.setType(old.type())
                old.replaceAllUsesWith(new)
            node.destroy()
