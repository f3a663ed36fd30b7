"""Finds out what a TorchScript model writes to. The loader enters; no state.

A model's inputs share memory with stored tensors, which never change, and several workers run one model at once. So a
model that writes to its inputs gets copies of them, and one that changes what it keeps runs once at a time.
"""

from __future__ import annotations

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
