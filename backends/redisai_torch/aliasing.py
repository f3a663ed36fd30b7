"""Finds out what a TorchScript model or function writes to. The loader enters; no state.

Inputs share memory with stored tensors, which must not change. So a model or function that writes to its inputs gets
copies of them. Several workers may run one model at once. So a model that changes its own state has one run at a time.

The library's alias analysis relies on what operators declare. Some return their input without declaring that: type_as,
atleast_1d, dropout in eval mode. So _written() follows each written value back to memory that is certainly new. If
there is none, the value where the path ends counts as written.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from .sandbox import nodes

# Operators that always return new memory.
FRESH = re.compile(
    r"aten::(exp|relu|sigmoid|tanh|gelu|silu|clone|cat|stack|linear|addmm|mm|bmm|_convolution|conv[123]d"
    r"|conv_transpose[123]d|batch_norm|layer_norm|zeros_like|ones_like|(?:new_)?empty\w*)$"
    r"|quantized::(linear|linear_relu|linear_dynamic|linear_relu_dynamic|conv[123]d|conv[123]d_relu)$"
)
# These do too if the alias analysis sees a write to the result. If it sees none, the library optimises x + 0 to x.
ARITHMETIC = re.compile(r"aten::(add|sub|rsub|mul|div)$")
# These write to their statistics, the fourth and fifth argument, without declaring that. They do not write if the
# sixth argument, training, is false.
NORMS = re.compile(r"aten::(batch_norm|instance_norm|native_batch_norm|_batch_norm_impl_index)$")
# An operator whose arguments are tensors and values of these types returns new memory or that of one of the tensors.
PLAIN = {"IntType", "FloatType", "BoolType", "NumberType", "ComplexType", "StringType", "NoneType", "DeviceObjType"}
# Calls whose inside the graph does not show.
OPAQUE = (
    *("prim::CallMethod", "prim::CallFunction", "prim::PythonOp", "prim::fork", "aten::fork"),
    *("redisai::tensor_to_bytes", "redisai::tensor_from_bytes"),  # are in Python (byte_strings.py)
)


class Aliasing(NamedTuple):
    inputs_written: bool
    stateful: bool

    @staticmethod
    def of(module: Any, graph: Any) -> Aliasing:
        """Uses the library's alias analysis, which follows views, lists, branches, sub-modules and out=.

        graph: forward's inlined graph, which this changes.
        """
        # First: simplifying relies on the declarations too, and may leave out what seems to do nothing.
        given = {value.debugName() for value in list(graph.inputs())[1:] if value.type().kind() == "TensorType"}
        written = _written(graph)
        modules = _simplify(graph, module)
        aliases = graph.alias_db()
        kept = [node.output() for kind in ("prim::GetAttr", "prim::Constant") for node in graph.findAllNodes(kind)]
        stateful = any(graph.findAllNodes(kind) for kind in ("prim::SetAttr", *OPAQUE)) or any(
            aliases.has_writers(value) for value in kept if value.debugName() not in modules
        )
        stateful = stateful or not written <= given
        # A stateful model may also keep an input, whose memory belongs to the stored tensor.
        return Aliasing(stateful or bool(written) or any(map(aliases.has_writers, graph.inputs())), stateful)


def _simplify(graph: Any, module: Any) -> Container[str]:
    """Makes constants of the module's attributes, and leaves out branches that are not taken then. In eval mode a batch
    normalisation is not stateful, but its code has a branch for training. Returns the names of the modules."""
    objects = {next(iter(graph.inputs())).debugName(): module._c}
    for node in [node for node in nodes(graph) if node.kind() == "prim::GetAttr"]:
        owner = objects.get(node.input().debugName())
        if owner is None:
            continue
        try:
            value = owner.getattr(node.s("name"))
        except RuntimeError:  # Python has no class for an object that is no module
            continue
        if isinstance(value, torch._C.ScriptModule):
            objects[node.output().debugName()] = value
        elif value is None or isinstance(value, (torch.Tensor, bool, int, float, str)):
            with graph.insert_point_guard(node), suppress(RuntimeError):  # some tensors cannot be constants
                constant = graph.insertConstant(value.detach() if isinstance(value, torch.Tensor) else value)
                node.output().replaceAllUsesWith(constant)
                node.destroy()
    library: Any = torch._C
    with suppress(RuntimeError):  # some tuples must stay; the analysis knows less of what is in them
        library._jit_pass_lower_all_tuples(graph)
    library._jit_pass_constant_propagation_immutable_types(graph)
    return objects


def writes_to_inputs(graph: Any, assume: Mapping[str, str]) -> bool:
    """Whether a function writes to tensors that it is given, directly or in lists. Changes graph, its inlined graph.

    assume: operators that seem to write though they do not, each with the operator to analyse in its place.
    """
    if any(graph.findAllNodes(kind) for kind in OPAQUE) or _written(graph):
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
    for value in lists:  # the analysis knows the tensors of a list only where they are taken out
        taken = graph.create("aten::__getitem__", [value, zero], 1)
        taken.insertAfter(zero.node())
        taken.output().setType(value.type().getElementType())
        values.append(taken.output())
    aliases = graph.alias_db()
    return any(aliases.has_writers(value) for value in values if value.type().kind() in ("TensorType", "OptionalType"))


def _written(graph: Any) -> set[str]:
    """Names of the values whose memory may be written through another value: inputs, attributes, unclear ones.

    Leaves out values that are written to directly: the alias analysis always sees those writes.
    """
    found: set[str] = set()
    seen: set[str] = set()
    inputs = {value.debugName() for value in graph.inputs()}
    targets = (value for node in nodes(graph) for value in _targets(node))
    waiting = [value for value in targets if value.debugName() not in inputs and not _is_seen(value)]
    while waiting:
        value = waiting.pop()
        if value.debugName() not in seen:
            seen.add(value.debugName())
            sources = _sources(value)
            if sources is None:
                found.add(value.debugName())
            else:
                waiting.extend(sources)
    return found


def _is_seen(value: Any) -> bool:
    """Whether the alias analysis sees everything that a write to this value changes."""
    kind = str(value.node().kind())
    is_new = ARITHMETIC.match(kind) is not None and value.type().kind() == "TensorType"
    return is_new or kind in ("prim::GetAttr", "prim::Constant")


def _targets(node: Any) -> Iterator[Any]:
    """The tensors that a node writes to."""
    kind = str(node.kind())
    inputs = list(node.inputs())
    if NORMS.match(kind):
        training = inputs[5].node()
        if training.kind() != "prim::Constant" or inputs[5].toIValue():
            yield from inputs[3:5]
    schema = str(node.schema())
    if "!" in schema:
        yield from (inputs[index] for index in _written_arguments(schema))
    elif kind.endswith("_") and not kind.endswith("__"):  # not declared, but the name tells
        yield from (value for value in inputs if "Tensor" in str(value.type()))


@functools.cache
def _written_arguments(text: str) -> tuple[int, ...]:
    arguments = torch._C.parse_schema(text).arguments
    return tuple(
        index
        for index, argument in enumerate(arguments)
        # only tensors: append writes to the list, not to what is in it
        if argument.alias_info is not None and argument.alias_info.is_write and "Tensor" in str(argument.type)
    )


def _sources(value: Any) -> list[Any] | None:
    """The values whose memory this one may share; empty where its memory is new, None where that is unknown."""
    node = value.node()
    kind = str(node.kind())
    if FRESH.match(kind) and value.type().kind() == "TensorType":
        return []
    if kind == "prim::If":
        index = [output.debugName() for output in node.outputs()].index(value.debugName())
        return [list(block.outputs())[index] for block in node.blocks()]
    if kind in ("prim::unchecked_cast", "prim::unchecked_unwrap_optional"):
        return list(node.inputs())
    if value.type().kind() == "NoneType":
        return []
    if value.type().kind() != "TensorType" or not (kind.startswith("aten::") or kind == "prim::NumToTensor"):
        return None
    if "!" in str(node.schema()):  # it returns what it writes to
        return list(_targets(node))
    tensors = [inner for inner in node.inputs() if inner.type().kind() in ("TensorType", "OptionalType")]
    others = [inner for inner in node.inputs() if inner.type().kind() not in ("TensorType", "OptionalType")]
    return tensors if all(_is_plain(inner.type()) for inner in others) else [*tensors, *others]


def _is_plain(type_: Any) -> bool:
    return type_.kind() in PLAIN or (type_.kind() == "ListType" and _is_plain(type_.getElementType()))
