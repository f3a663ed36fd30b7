"""What the archive of a model may hold: checked before it is loaded, and again in its graphs. The loader enters.

Blobs come from clients. Loading already runs some of the code in them (__setstate__, the default values of parameters,
constants of classes), so operators that models may not use are looked for in the text first. The text is read with the
library's own reader: another one could see other members in the same blob. What forward really says is known only
afterwards, in the graphs. Expressions and blocks nested too deep would run the compiler, or a worker, out of stack.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import torch

from .sandbox import MOST_BLOCKS, MOST_NESTING, NESTING, nodes, refuse_chains

# They touch files, or trust indices, sizes and addresses that they are given.
# Traced graphs hold operators of the library's own use, so unlike in scripts these are not refused in general.
NAMES = (
    r"save|from_file|set_|_reshape_alias"
    r"|_unsafe_index\w*|_unsafe_masked_index\w*|_index_put_impl_?|_resize_output_?|_copy_from\w*"
    r"|_?sparse_\w+_tensor\w*|_coalesced_|_sparse_semi_structured\w*|_cslt_\w+|_convert_indices_\w+"
    r"|segment_reduce|_segment_reduce\w*|_rowwise_prune|_sobol_engine_\w+|_embedding_bag\w*|_test_\w+"
    r"|_nested_(?:view|get|from|select|sum|compute|tensor_s)\w*|_jagged_to_padded\w*|_padded_dense_to\w*"
    r"|_?fbgemm_\w+|_?mkldnn_\w+|_?cudnn_\w+|_?miopen_\w+|_thnn_\w+|_flash_attention\w*|_efficient_attention\w*"
    r"|_weight_int[48]pack\w*|_convert_weight\w*|_dyn_quant\w*|_wrapped_\w+"
)
BACKWARD = r"\w+_backward\w*"
NAMESPACES = r"aten|prim|quantized|_quantized|quantization|torchvision|torchaudio|redisai"
# Python, other machines, and what only the library's optimiser may put into a graph.
PRIM = (
    r"(?:Ignored)?PythonOp|rpc_\w+|awaitable\w*|Bail[Oo]ut\w*|FallbackGraph|DifferentiableGraph|\w*Fus(?:ion|ed)\w*"
    r"|TensorExpr\w*|Static\w+|profile\w*|Guard|TypeCheck|RequiresGradCheck|\w*MKLDNN\w*|mkldnn_\w+|AddStatValue"
)
DENIED = re.compile(rf"aten::(?:{NAMES}|{BACKWARD})$|prim::(?:{PRIM})$|(?!(?:{NAMESPACES})::)")

DOT = rb"\.(?:\s|\\|#[^\n]*\n)*"
TEXT_DENIED = re.compile(
    rb"%b(%b)\b|%b(%b)\b|%b(%b)\s*\("
    % (DOT, NAMES.encode(), rb"(?<![\w.])ops" + DOT + rb"prim" + DOT, PRIM.encode(), DOT, BACKWARD.encode())
)
# Where no graph shows what runs; elsewhere modules may be called so.
TEXT_DENIED_STRICTLY = re.compile(rb"%b(%b)\b" % (DOT, BACKWARD.encode()))
# As the library writes them; any other way could hide a name.
OPS = re.compile(rb"(?<![\w.])ops\b(?!\.(?:%b)\.| : )" % NAMESPACES.encode())
GETATTR = re.compile(rb'\bgetattr\b(?!\([\w.()]+, "(?!(?:%b|%b)")[^"\\\n]*"\))' % (NAMES.encode(), BACKWARD.encode()))

MOST_CODE = 64 << 20
MOST_FUNCTIONS = 10_000  # they call one another, and the compiler follows
STRING = re.compile(rb'"(?:[^"\\\n]|\\[^\n])*"')
FLATBUFFER = b"PTMF"


def refuse_code(blob: bytes) -> None:
    """Refuses what loading must not run, and what would overflow even a large stack."""
    if blob[4:8] == FLATBUFFER:  # the library would not take it for a zip file
        raise RuntimeError("the model is no TorchScript archive: it is for the mobile interpreter")
    try:
        reader: Any = torch._C.PyTorchFileReader(io.BytesIO(blob))
    except Exception as error:  # it seeks where a broken archive sends it
        raise RuntimeError(f"the model is no TorchScript archive: {error}") from None
    names = set(reader.get_all_records())
    if "model.json" not in names:  # in archives from before PyTorch 1.4 any member may be code
        # The library finds members whatever the case of their names.
        names = {name for name in names if name.lower().endswith(".py")}
    size = 0
    code: list[bytes] = []
    for name in sorted(names):
        size += reader.get_record_size(name)
        if size > MOST_CODE:
            raise ValueError(f"the model has more than {MOST_CODE} bytes of code")
        code.append(reader.get_record(name))
    text = b"\n".join(code)
    _refuse_text(text)
    for part in code:
        _refuse_nesting(part)
    functions = len(re.findall(rb"\bdef\b", text))
    if functions > MOST_FUNCTIONS:
        raise ValueError(f"the model is too large: it has {functions} functions, more than {MOST_FUNCTIONS}")


def _refuse_text(text: bytes) -> None:
    found = TEXT_DENIED.search(text)
    if found is None and (b"__setstate__" in text or b"Interface" in text):
        found = TEXT_DENIED_STRICTLY.search(text)
    if found is not None:
        name = next(group for group in found.groups() if group).decode()
        namespace = "prim" if found.lastindex == 2 else "aten"
        raise ValueError(f"{namespace}::{name} cannot be used in a model")
    if OPS.search(text) or GETATTR.search(text):
        raise ValueError("the code of the model uses ops or getattr in a way that models cannot")


def _refuse_nesting(code: bytes) -> None:
    """Bounds how deep a statement nests by what it has of operators: traced functions have many statements."""
    code = STRING.sub(b'""', code)
    # The library writes none of these, and they could hide a bracket.
    lines = [code] if re.search(rb"['\\#]|\"\"\s*\"", code) else code.split(b"\n")
    count = depth = 0
    for line in lines:
        count += len(NESTING.findall(line))
        depth += sum(map(line.count, (b"(", b"[", b"{"))) - sum(map(line.count, (b")", b"]", b"}")))
        if count > MOST_NESTING:
            raise ValueError(f"a statement of the model is too large: it has more than {MOST_NESTING} operators")
        if depth == 0:
            count = 0
    indents = [len(indent) for indent in re.findall(rb"^[ \t\f\r]*(?=\w)", code, re.MULTILINE)]
    if max(indents, default=0) > 2 * MOST_BLOCKS or len(re.findall(rb"\belif\b", code)) > MOST_BLOCKS:
        raise ValueError(f"the model is too deep: it nests more than {MOST_BLOCKS} blocks")


def refuse_operators(module: Any) -> None:
    for graph in _graphs(module):
        for node in nodes(graph):
            kind = str(node.kind())
            if DENIED.match(kind):
                raise ValueError(f"{kind} cannot be used in a model")
        refuse_chains(graph)


def _graphs(module: Any) -> Iterator[Any]:
    """What forward calls, and all methods: it may reach them through an interface, which is not inlined."""
    forward = module.forward.inlined_graph
    yield forward
    whole = any(str(node.kind()) == "prim::CallMethod" for node in nodes(forward))
    seen: set[tuple[str, str]] = set()
    for part in module.modules():
        inner = part._c
        name = str(inner._type().qualified_name())
        for method in inner._method_names():
            if (name, method) not in seen:  # many modules share one type
                seen.add((name, method))
                function = inner._get_method(method)
                yield function.inlined_graph if whole else function.graph
