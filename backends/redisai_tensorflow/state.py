"""Finds variables and tables that nothing fills, and what fills tables. The loader enters; no state.

Nothing gives the variables of a stored graph their values, unless the outputs themselves need an assignment. A client
should learn that before the first run. A graph that leaves in doubt whether a variable is read passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from redisai.protobuf import fields, messages

INIT = "init_all_tables"  # the name that TensorFlow gives to the operation that fills all tables
FREEZE = "freeze the graph first, with convert_variables_to_constants_v2() of TensorFlow"
VARIABLES = {"Variable", "VariableV2", "VarHandleOp"}
TABLES = {"HashTable", "HashTableV2"}
FILLING = re.compile(r"InitializeTable|LookupTableImport")
# They may give a value, or may keep a read from being done.
UNCLEAR = re.compile(
    r"\w*(Assign|Scatter|Insert|Switch|Enter|IsInitialized|IsVariableInitialized)|(Stateless)?(If|While|Case)$|PyFunc"
)
CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
RESOURCE = 20  # of DataType
# Fields of the messages of a GraphDef.
GRAPH_NODE, GRAPH_LIBRARY, LIBRARY_FUNCTION, FUNCTION_SIGNATURE, FUNCTION_NODE, SIGNATURE_NAME = 1, 2, 1, 1, 3, 1
NAME, OPERATION, INPUT, ATTRIBUTE = 1, 2, 3, 5
KEY, VALUE, TYPE, FUNCTION = 1, 2, 6, 10


@dataclass(slots=True)
class Node:
    name: str = ""
    operation: str = ""
    inputs: list[str] = field(default_factory=list)  # names of nodes
    functions: list[str] = field(default_factory=list)  # that it calls
    type: int = 0  # of a placeholder


def fillers(blob: bytes | memoryview, operations: set[str], inputs: Iterable[str], outputs: Iterable[str]) -> list[str]:
    """The nodes to run before the first run, since they fill tables that the outputs need. Refuses a graph that needs
    variables or tables that nothing fills. operations: those of the graph."""
    if operations.isdisjoint(VARIABLES | TABLES) and not _has_resources(operations):
        return []
    nodes, functions = _read(memoryview(blob))
    needed = _ancestors(nodes, outputs, {name.partition(":")[0] for name in inputs})
    consumers: dict[str, list[Node]] = {}
    for node in needed:
        for name in node.inputs:
            consumers.setdefault(name, []).append(node)
    reads: dict[str, list[bool]] = {}  # by consumer: it is costly to look into the functions that it calls
    for node in needed:
        if node.operation in VARIABLES and _is_read(consumers.get(node.name, ()), functions, reads):
            raise ValueError(f"node '{node.name}' of the graph is a variable without a value: {FREEZE}")
        if node.operation == "Placeholder" and node.type == RESOURCE:
            raise ValueError(f"node '{node.name}' of the graph takes a variable or table from outside: {FREEZE}")
    tables = {node.name for node in needed if node.operation in TABLES}
    filling = [
        node for node in nodes.values() if FILLING.match(node.operation) and tables.intersection(node.inputs[:1])
    ]
    empty = tables.difference(*(node.inputs[:1] for node in filling))
    for name in sorted(empty):
        if any(node.operation.startswith("LookupTable") for node in consumers.get(name, ())):
            raise ValueError(
                f"node '{name}' of the graph is a table that nothing fills: keep the node {INIT} when you freeze the"
                " graph"
            )
    if not filling:
        return []
    return [INIT] if INIT in nodes else [node.name for node in filling]


def _has_resources(operations: set[str]) -> bool:
    return not operations.isdisjoint({"ReadVariableOp", "ResourceGather", "LookupTableFindV2"})


def _is_read(consumers: Iterable[Node], functions: dict[str, list[Node]], known: dict[str, list[bool]]) -> bool:
    """Whether a variable that these nodes use is read for certain, and gets no value from any of them."""
    unclear: list[bool] = []
    for node in consumers:
        if node.name not in known:
            inside = [UNCLEAR.match(inner.operation) is not None for inner in _inside(node, functions)]
            known[node.name] = [any(inside)] if inside else []
        unclear += known[node.name]
    return bool(unclear) and not any(unclear)


def _inside(node: Node, functions: dict[str, list[Node]]) -> list[Node]:
    """The node, or all nodes of the functions that it calls."""
    if node.operation not in CALLS:
        return [node]
    found: list[Node] = []
    seen: set[str] = set()
    todo = list(node.functions)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            found += functions.get(name, [])
            todo += [called for inner in functions.get(name, []) for called in inner.functions]
    return found


def _ancestors(nodes: dict[str, Node], outputs: Iterable[str], fed: set[str]) -> list[Node]:
    found: dict[str, Node] = {}
    todo = [name.partition(":")[0] for name in outputs]
    while todo:
        name = todo.pop()
        if name in nodes and name not in found and name not in fed:
            found[name] = nodes[name]
            todo += nodes[name].inputs
    return list(found.values())


def _read(graph: memoryview) -> tuple[dict[str, Node], dict[str, list[Node]]]:
    nodes = {node.name: node for node in map(_node, messages(graph, GRAPH_NODE))}
    functions = {}
    for library in messages(graph, GRAPH_LIBRARY):
        for function in messages(library, LIBRARY_FUNCTION):
            signature = next(messages(function, FUNCTION_SIGNATURE), memoryview(b""))
            name = next(_texts(signature, SIGNATURE_NAME), "")
            functions[name] = [_node(node) for node in messages(function, FUNCTION_NODE)]
    return nodes, functions


def _node(message: memoryview) -> Node:
    node = Node()
    for number, value in fields(message):
        if not isinstance(value, memoryview):
            continue
        if number == NAME:
            node.name = _text(value)
        elif number == OPERATION:
            node.operation = _text(value)
        elif number == INPUT:
            node.inputs.append(_text(value).lstrip("^").partition(":")[0])
        elif number == ATTRIBUTE:
            for attribute in messages(value, VALUE):
                for function in messages(attribute, FUNCTION):
                    node.functions += _texts(function, NAME)
                if next(_texts(value, KEY), "") == "dtype":
                    node.type = next((kind for n, kind in fields(attribute) if n == TYPE and isinstance(kind, int)), 0)
    return node


def _texts(message: memoryview, number: int) -> Iterator[str]:
    return map(_text, messages(message, number))


def _text(value: memoryview) -> str:
    return bytes(value).decode(errors="replace")
