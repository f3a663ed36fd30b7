"""Finds out what a TorchScript model or function writes to. The loader enters; no state.

Inputs share memory with stored tensors, which never change, and several workers run one model at once. So what writes
to its inputs gets copies of them, and a model that changes what it keeps runs once at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

# Calls that the graph does not show the inside of.
OPAQUE = ("prim::CallMethod", "prim::CallFunction", "prim::PythonOp", "prim::fork", "aten::fork")


class Aliasing(NamedTuple):
    inputs_written: bool
    stateful: bool

    @staticmethod
    def of(module: Any) -> Aliasing:
        """Asks the library's own alias analysis, which sees through views, lists, branches, sub-modules and out=."""
        try:
            # Without this a batch normalisation looks stateful, though in eval mode it is not.
            graph: Any = torch.jit.freeze(module, optimize_numerics=False).inlined_graph
        except Exception:  # some models cannot be frozen, or are frozen already
            graph = module.inlined_graph
        aliases = graph.alias_db()
        itself, *inputs = graph.inputs()
        kept = [node.output() for kind in ("prim::GetAttr", "prim::Constant") for node in graph.findAllNodes(kind)]
        stateful = (
            any(graph.findAllNodes(kind) for kind in ("prim::SetAttr", *OPAQUE))
            or aliases.has_writers(itself)
            or any(aliases.has_writers(value) for value in kept)
        )
        # A stateful model may also keep an input, whose memory is not ours to keep.
        return Aliasing(stateful or any(aliases.has_writers(value) for value in inputs), stateful)


def writes_to_inputs(graph: Any, assume: Mapping[str, str]) -> bool:
    """Whether a function writes to the tensors it is given, also to those in lists. The graph is inlined, and changed.

    assume: operators whose schemas tell the library less than we know, and what to take them for.
    """
    if any(graph.findAllNodes(kind) for kind in OPAQUE):
        return True
    for kind, better in assume.items():
        for node in graph.findAllNodes(kind):
            replacement = graph.create(better, list(node.inputs()), node.outputsSize())
            replacement.insertBefore(node)
            for output, new in zip(node.outputs(), replacement.outputs(), strict=True):
                new.setType(output.type())
            node.replaceAllUsesWith(replacement)
            node.destroy()
    values = list(graph.inputs())
    first = next(iter(graph.nodes()), None)
    if first is None:
        return False
    with graph.insert_point_guard(first):
        zero = graph.insertConstant(0)
    lists = [value for value in values if value.type().kind() == "ListType"]
    for value in lists:  # analysis knows a list's tensors only where they are taken out
        taken = graph.create("aten::__getitem__", [value, zero], 1)
        taken.insertAfter(zero.node())
        taken.output().setType(value.type().getElementType())
        values.append(taken.output())
    aliases = graph.alias_db()
    return any(aliases.has_writers(value) for value in values if value.type().kind() in ("TensorType", "OptionalType"))
