"""Limits what scripts can name to TorchScript's language and operators. The loader enters; no state.

Scripts come from clients, who must not read files, start processes or run Python. There are four ways in:
- Names. The compiler asks resolve() for each name that the source does not define, and looks attributes up on what it
  gets. So resolve() never returns a real module, nor a Python function other than the library's tensor functions.
- Default values of parameters. The compiler runs them, so they must not call anything.
- The stack. The compiler recurses into expressions, so sources that would overflow its stack are refused.
- Graphs. The graph of a compiled function must hold allowed operators only (refuse_operators).
"""

from __future__ import annotations

import builtins
import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch.jit._builtins import _find_builtin

# These touch files or settings that other runs share, or do not check the indices and addresses that they are given.
DENIED = re.compile(
    r"aten::(save|from_file|set_grad_enabled|set_|resize(_as)?(_sparse)?_?"
    r"|ctc_loss|native_\w+|sparse_\w+_tensor|segment_reduce|fbgemm_\w+|mkldnn_\w+|cudnn_\w+|miopen_\w+|\w+_backward)$"
)
# The library's internal operators, some of which check no bounds, except those that the compiler itself inserts.
INTERNAL = re.compile("aten::_(?!_|set_item$|unwrap_optional$|list_to_tensor$|infer_size$|tensor_to_list$|cast_)")
# These run Python, start threads or reach other machines.
KINDS_DENIED = re.compile("prim::(PythonOp|IgnoredPythonOp|CallMethod|fork|awaitable|rpc_|CreateObject|SetAttr)")

NUMBERS = ("pi", "e", "inf", "nan")
TYPES = (torch.dtype, torch.layout, torch.memory_format)
FUNCTIONS = ("torch.functional", "torch.nn.functional")  # modules in Python, which the compiler compiles too
HELPERS = re.compile("has_torch_function|handle_torch_function|boolean_dispatch|assert_int_or_pair")

# A call in the parameters: what stands before its parenthesis is neither "=" nor ",", "(" or "[".
CALL = re.compile(r"[^\s=,(\[]\s*\(")

# Everything that can nest expressions in a function. The compiler takes up to 4 KiB of stack for a level.
NESTING = re.compile(rb"[-+*/%~<>=!&|^.(\[{]|\b(?:not|and|or|if|elif|for)\b|['\"]\s*['\"]")
MAX_NESTING = 60_000
STACK_BYTES = MAX_NESTING * 6 * 1024
MAX_BLOCKS = 200
MAX_CHAINED = 5_000  # operators, each on the result of the one before; each takes 0.7 KiB of a worker's stack
# These can make a string span lines. Without them, a line that begins with "def" always begins a function.
SPANNING = re.compile(rb"\'\'\'|\"\"\"|\\[\r\n]")
Result = TypeVar("Result")


class Namespace(ModuleType):
    """A module to the compiler, with the given names only."""

    def __init__(self, name: str, names: Mapping[str, Any]) -> None:
        super().__init__(name)
        super().__setattr__("names", {"__name__": name, **names})

    def __getattribute__(self, name: str) -> Any:
        names: dict[str, Any] = super().__getattribute__("names")
        if name not in names:
            raise AttributeError(f"{names['__name__']} has no {name} for scripts")
        return names[name]


def resolver(namespaces: Mapping[str, Namespace]) -> Callable[[str], Any]:
    """The function that the compiler asks for names. It knows the namespaces, and the exceptions that scripts raise."""

    def resolve(name: str) -> Any:
        if name in namespaces:
            return namespaces[name]
        if name.startswith("("):  # not a name but the source of the parameters; their default values run later
            _refuse_calls(name)
        found = getattr(builtins, name, None)
        return found if isinstance(found, type) and issubclass(found, Exception) else None

    return resolve


def _refuse_calls(parameters: str) -> None:
    inside = parameters[1:]
    if CALL.search(inside) or ("(" in inside and ("#" in inside or "\\" in inside)):
        raise ValueError(f"the default value of a parameter cannot call a function: {parameters.strip()}")


def refuse_nesting(source: bytes) -> None:
    functions = [source] if SPANNING.search(source) else re.split(rb"\ndef\b", source)
    if max(len(NESTING.findall(function)) for function in functions) > MAX_NESTING:
        raise ValueError(f"a function of the script is too large: it has more than {MAX_NESTING} operators")


def on_large_stack(compile: Callable[[], Result]) -> Result:
    """Runs compile() in a thread whose stack is large enough for MAX_NESTING."""
    results: list[Result | BaseException] = []

    def run() -> None:
        try:
            results.append(compile())
        except BaseException as error:
            results.append(error)

    before = threading.stack_size(STACK_BYTES)
    try:
        thread = threading.Thread(target=run, name="compiler")
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    result = results.pop()
    if isinstance(result, BaseException):
        raise result
    return result


def refuse_operators(graph: Any, inlined: Any) -> None:
    """graph has the function's own operators; inlined also has those of the functions that it calls."""
    for node in nodes(inlined):
        kind = str(node.kind())
        if DENIED.match(kind) or KINDS_DENIED.match(kind):
            raise ValueError(f"{kind} cannot be used in a script")
    refuse_chains(inlined)
    for node in nodes(graph):
        kind = str(node.kind())
        if INTERNAL.match(kind):
            raise ValueError(f"{kind} cannot be used in a script")


def refuse_chains(block: Any) -> None:
    """Refuses long chains of values that are used once: the interpreter's compiler recurses into them, in workers."""
    depths: dict[str, int] = {}
    for node in block.nodes():
        depth = 1 + max((depths.get(value.debugName(), 0) for value in node.inputs()), default=0)
        if depth > MAX_CHAINED:
            raise ValueError(f"too deep: more than {MAX_CHAINED} operators in an expression")
        if node.outputsSize() == 1 and len(node.output().uses()) == 1:
            depths[node.output().debugName()] = depth
        for inner in node.blocks():
            refuse_chains(inner)


def nodes(block: Any, depth: int = 0) -> Iterator[Any]:
    """All nodes, inner blocks included. Limits their depth, because workers have stacks of the usual size."""
    if depth > MAX_BLOCKS:
        raise ValueError(f"too deep: more than {MAX_BLOCKS} blocks are nested")
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from nodes(inner, depth + 1)
        if node.hasAttribute("Subgraph"):  # a forked graph, which is not inlined with the rest
            forked = node.g("Subgraph").copy()
            torch._C._jit_pass_inline(forked)
            yield from nodes(forked, depth + 1)


@functools.cache
def torch_namespace() -> Namespace:
    operators = {name: getattr(torch.ops.aten, name.removeprefix("aten::")) for name in _operators()}
    functional = Namespace("torch.nn.functional", _functions(torch.nn.functional))
    return Namespace(
        "torch",
        {
            **{name.removeprefix("aten::"): operator for name, operator in operators.items()},
            **_functions(torch),
            "nn": Namespace("torch.nn", {"functional": functional}),
            "fft": Namespace("torch.fft", _functions(torch.fft)),
            "linalg": Namespace("torch.linalg", _functions(torch.linalg)),
            "special": Namespace("torch.special", _functions(torch.special)),
        },
    )


@functools.cache
def _operators() -> frozenset[str]:
    names = {schema.name for schema in torch._C._jit_get_all_schemas()}
    return frozenset(name for name in names if re.match("aten::[A-Za-z]", name) and not DENIED.match(name))


def _functions(module: ModuleType) -> dict[str, Any]:
    """The operators, tensor functions, types and numbers of one of the library's modules."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not HELPERS.match(name)
        and (isinstance(value, TYPES) or name in NUMBERS or _is_operator(value) or _is_function(value))
    }


def _is_operator(value: Any) -> bool:
    return not isinstance(value, ModuleType) and callable(value) and _find_builtin(value) in _operators()  # type: ignore[no-untyped-call]


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type) and getattr(value, "__module__", None) in FUNCTIONS
