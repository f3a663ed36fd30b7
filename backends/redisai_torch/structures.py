"""Maps the tensors of a run to the parameters of a model's forward, and what forward returns to tensors.

Types and graph of forward decide all of it when the model is loaded. The loader makes Parameters and reads names;
workers enter Parameters.arguments() and flatten_result(); no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import torch

from redisai.protocol import Array, Port

from .tensors import to_tensor

NUMBERS: dict[str, Callable[[Any], bool | int | float]] = {
    "BoolType": bool,
    "IntType": int,
    "FloatType": float,
    "NumberType": lambda number: number,
}
DTYPES = {"BoolType": "BOOL", "IntType": "INT64", "FloatType": "DOUBLE", "StringType": "STRING"}
PLAIN = {"TensorType", *NUMBERS}
MISMATCH = "Number of keys given as INPUTS here does not match model definition"


# ---- inputs ----------------------------------------------------------------------------------------------------------


class Feed:
    """The inputs of one run, taken one after another."""

    __slots__ = ("_copies", "_device", "arrays", "at")

    def __init__(self, arrays: Sequence[Array], device: torch.device | None, copies: bool) -> None:
        self.arrays = arrays
        self.at = 0
        self._device = device
        self._copies = copies

    def array(self) -> Array:
        if self.at == len(self.arrays):
            raise ValueError(MISMATCH)
        self.at += 1
        return self.arrays[self.at - 1]

    def tensor(self) -> Any:
        return to_tensor(self.array(), self._device, self._copies)


Take: TypeAlias = Callable[[Feed, int], Any]  # the number: how many inputs a list gets


class Parameter(NamedTuple):
    name: str
    ports: list[Port]  # the inputs that it takes; those of a list or dict as one
    take: Take
    varies: bool  # only the run tells how many it takes
    may_miss: bool
    default: Any


# Of the type of an argument or result, each counted as often as it occurs. A few lines can nest types so that there are
# more of them than memory has room for.
MAX_PARTS = 4096


class TooManyPartsError(Exception):
    pass


def _count(parts: Iterator[int]) -> None:
    if next(parts, None) is None:
        raise TooManyPartsError


class Parameters:
    """The parameters of forward, without self."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        """Raises TypeError for one that no inputs can make."""
        self._all = [_parameter(argument) for argument in arguments]
        lists = [index for index, argument in enumerate(arguments) if inner_kind(argument.type) == "ListType"]
        for parameter in self._all[lists[0] + 1 :] if lists else ():
            if parameter.varies:
                raise TypeError(
                    f"argument '{parameter.name}' of forward takes any number of inputs, and so does a list before it"
                )
        self.varies = any(parameter.varies for parameter in self._all)
        self.is_plain = all(inner_kind(argument.type) in PLAIN for argument in arguments)
        self.has_none = any(parameter.may_miss and parameter.default is None for parameter in self._all)
        self.ports: list[Port] = []
        optional = True
        for parameter in reversed(self._all):
            optional = optional and parameter.may_miss
            self.ports[:0] = [replace(port, optional=optional) for port in parameter.ports]

    def arguments(self, feed: Feed) -> list[Any]:
        found = []
        after = sum(len(parameter.ports) for parameter in self._all if not parameter.may_miss)
        for parameter in self._all:
            after -= 0 if parameter.may_miss else len(parameter.ports)
            left = len(feed.arrays) - feed.at
            missing = parameter.may_miss and left == 0
            found.append(parameter.default if missing else parameter.take(feed, left - after))
        if feed.at < len(feed.arrays):
            raise ValueError(MISMATCH)
        return found


def _parameter(argument: Any) -> Parameter:
    type_ = argument.type
    has_default = argument.has_default_value()
    may_miss = has_default or type_.kind() == "OptionalType"
    try:
        inner = type_.getElementType() if type_.kind() == "OptionalType" else type_
        ports, take, varies = _taken(inner, argument.name, iter(range(MAX_PARTS)))
    except (TypeError, TooManyPartsError):
        if not has_default:
            raise TypeError(
                f"argument '{argument.name}' of forward is a {type_.annotation_str}; only tensors, numbers, strings,"
                " tuples of them, List[Tensor] and Dict[str, Tensor] can be given"
            ) from None
        ports, take, varies = [], lambda *_: argument.default_value, False
    return Parameter(argument.name, ports, take, varies, may_miss, argument.default_value if has_default else None)


def inner_kind(type_: Any) -> str:
    """TorchScript's name of a type; for an optional type, the name of the type inside."""
    kind = str(type_.kind())
    return str(type_.getElementType().kind()) if kind == "OptionalType" else kind


def _taken(type_: Any, name: str, parts: Iterator[int]) -> tuple[list[Port], Take, bool]:
    """The inputs of a value of this type, what makes it of them, and whether their number varies."""
    _count(parts)
    kind, text = str(type_.kind()), str(type_.annotation_str)
    port = Port(name, DTYPES.get(kind), type="" if kind == "TensorType" else text)
    if kind == "TensorType":
        return [port], lambda feed, _: feed.tensor(), False
    if kind in NUMBERS:
        return [port], lambda feed, _: as_number(feed.tensor(), name, NUMBERS[kind]), False
    if kind == "StringType":
        return [port], lambda feed, _: _text(feed.array(), name), False
    if kind == "TupleType":
        taken = [_taken(inner, f"{name}.{index}", parts) for index, inner in enumerate(type_.elements())]
        if not any(varies for _, _, varies in taken):
            takes = [take for _, take, _ in taken]
            return [port for ports, _, _ in taken for port in ports], lambda feed, _: _tuple(feed, takes), False
    if text == "List[Tensor]":
        return [port], lambda feed, count: [feed.tensor() for _ in range(count)], True
    if text == "Dict[str, Tensor]":
        return [replace(port, dtype="STRING")], lambda feed, _: _dict(feed, name), True
    raise TypeError


def _tuple(feed: Feed, takes: Sequence[Take]) -> tuple[Any, ...]:
    return tuple([take(feed, 0) for take in takes])


def _dict(feed: Feed, name: str) -> dict[bytes, Any]:
    keys = feed.array()
    if keys.dtype != object:
        raise TypeError(f"argument '{name}' of forward is a Dict[str, Tensor]: a STRING tensor of its keys comes first")
    return {key: feed.tensor() for key in keys.ravel().tolist()}  # the library takes bytes for its str


def _text(array: Array, name: str) -> bytes:
    if array.dtype != object or array.size != 1:
        raise TypeError(f"argument '{name}' of forward is a str: a STRING tensor of one element is needed")
    text: bytes = array.item()
    return text


def as_number(tensor: Any, name: str, number: Callable[[Any], bool | int | float]) -> bool | int | float:
    if tensor.numel() != 1:
        raise ValueError(f"argument '{name}' of forward is a number: a tensor of one element is needed")
    return number(tensor.item())


# ---- outputs ---------------------------------------------------------------------------------------------------------

# What may use a dict without changing it.
READERS = {"prim::Return", "prim::TupleConstruct", "prim::ListConstruct", "prim::DictConstruct"}
RETURNABLE = {"TensorType", *NUMBERS, "NoneType", "AnyType"}
CONTAINERS = {"OptionalType", "TupleType", "ListType", "DictType", "UnionType"}


def output_names(returns: Sequence[Any], graph: Any) -> tuple[str, ...] | None:
    """A name for each output: the keys and fields that lead to it. None where only a run tells how many there are.

    graph: forward's inlined graph.
    Raises TypeError if forward returns what no tensors can hold."""
    (result,) = returns
    try:
        if not _is_returnable(result.type, iter(range(MAX_PARTS))):
            raise TypeError(
                f"forward returns a {result.type.annotation_str}; only tensors, numbers, None, and lists, tuples and"
                " dicts of them can be outputs"
            )
        names = _names(result.type, next(iter(graph.outputs())), "", iter(range(MAX_PARTS)))
    except TooManyPartsError:
        raise TypeError(f"forward returns more than {MAX_PARTS} values: return fewer, or stack them") from None
    return None if names is None else tuple(names)


def _is_returnable(type_: Any, parts: Iterator[int]) -> bool:
    _count(parts)
    kind = str(type_.kind())
    if kind == "DictType":
        return _is_returnable(type_.getValueType(), parts)
    inner = type_.containedTypes() if kind in CONTAINERS else []
    return kind in RETURNABLE or (kind in CONTAINERS and all(_is_returnable(each, parts) for each in inner))


def returns_tensors(type_: Any) -> bool:
    """Whether it returns nothing but tensors, also in lists and tuples."""
    kind = str(type_.kind())
    return kind == "TensorType" or (
        kind in ("TupleType", "ListType") and all(map(returns_tensors, type_.containedTypes()))
    )


def _names(type_: Any, value: Any, path: str, budget: Iterator[int]) -> list[str] | None:
    """value: where the graph makes it; None where that is not known."""
    _count(budget)
    kind = str(type_.kind())
    node = None if value is None else value.node()
    if kind in ("TensorType", *NUMBERS):
        return [path]
    if kind == "NoneType":
        return []
    if kind == "TupleType":
        types = type_.elements()
        made = (
            list(node.inputs()) if node is not None and node.kind() == "prim::TupleConstruct" else [None] * len(types)
        )
        parts = zip(types, made, _fields(type_), strict=False)
        return _joined([_names(inner, part, _under(path, field), budget) for inner, part, field in parts])
    if kind == "DictType" and node is not None and node.kind() == "prim::DictConstruct":
        keys, values = list(node.inputs())[::2], list(node.inputs())[1::2]
        if all(key.node().kind() == "prim::Constant" for key in keys) and _is_final(value):
            items = dict(zip([str(key.toIValue()) for key in keys], values, strict=True))
            inner = type_.getValueType()
            return _joined([_names(inner, item, _under(path, key), budget) for key, item in items.items()])
    return None


def _joined(parts: list[list[str] | None]) -> list[str] | None:
    return None if None in parts else [name for part in parts for name in part or ()]


def _under(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _is_final(value: Any) -> bool:
    """Whether nothing adds to a dict, or takes from it, once it is made."""
    return all(use.user.kind() in READERS for use in value.uses())


def _fields(type_: Any) -> list[str]:
    """The names of a NamedTuple's fields; empty ones for a tuple."""
    names, depth, start = [], 0, 0
    text = str(type_.str())
    if not text.startswith("NamedTuple("):
        return [""] * len(type_.elements())
    for at, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if depth == 1 and character in "(,":
            start = at + 1
        elif depth == 1 and text.startswith(" : ", at):
            names.append(text[start:at].strip())
    return names


def flatten_result(result: Any) -> Iterator[torch.Tensor]:
    """The tensors of a result in the order of its lists, tuples and dicts. A number becomes one; None gives none."""
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, (bool, int, float)):
        yield torch.tensor(result, dtype=torch.float64 if isinstance(result, float) else None)
    elif isinstance(result, (list, tuple)):
        for item in result:
            yield from flatten_result(item)
    elif isinstance(result, dict):
        for item in result.values():
            yield from flatten_result(item)
    elif result is not None:
        raise TypeError("Function returned non-tensor values")
