"""Refuses models with forbidden code: before their archive is loaded, and again in their graphs. The loader enters.

Blobs come from clients. Loading already runs some of their code: __setstate__, default values of parameters, constants
of classes. So refuse_archive() first searches the text for forbidden operators, and has pickles.py check the tensors.
It reads the archive with the library's own reader, because another reader could see other members in the same blob.
Only the graphs tell for certain what forward calls, and they exist only after loading: refuse_operators() checks those.
Both limit how deep code nests, because the compiler and the workers would run out of stack.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from .libraries import provide
from .pickles import refuse_tensors
from .sandbox import MAX_BLOCKS, MAX_NESTING, NESTING, nodes, refuse_chains

# These touch files, or do not check the indices, sizes and addresses that they are given. The library's other internal
# operators are allowed, unlike in scripts, because traced graphs use them.
NAMES = (
    r"save|from_file|set_|resize(?:_as)?(?:_sparse)?_?|_reshape_alias"
    r"|_unsafe_index\w*|_unsafe_masked_index\w*|_index_put_impl_?|_resize_output_?|_copy_from\w*"
    r"|_sparse_\w+_tensor\w*|sparse_(?!coo_tensor\b)\w+_tensor\w*|_coalesced_|_sparse_semi_structured\w*|_cslt_\w+|_convert_indices_\w+"
    r"|segment_reduce|_segment_reduce\w*|_rowwise_prune|_sobol_engine_\w+|_embedding_bag\w*|_test_\w+"
    r"|_nested_(?:view|get|from|select|sum|compute|tensor_s)\w*|_jagged_to_padded\w*|_padded_dense_to\w*"
    r"|_?fbgemm_\w+|_?mkldnn_\w+|_?cudnn_\w+|_?miopen_\w+|_thnn_\w+|_flash_attention\w*|_efficient_attention\w*"
    r"|_weight_int[48]pack\w*|_convert_weight\w*|_dyn_quant\w*|_wrapped_\w+"
)
BACKWARD = r"\w+_backward\w*"
NAMESPACES = r"aten|prim|quantized|_quantized|quantization|torchvision(?!\._)|torchaudio|redisai|redisai_checked"
# These run Python, reach other machines, or belong to the library's optimiser alone.
PRIM = (
    r"(?:Ignored)?PythonOp|rpc_\w+|awaitable\w*|Bail[Oo]ut\w*|FallbackGraph|DifferentiableGraph|\w*Fus(?:ion|ed)\w*"
    r"|TensorExpr\w*|Static\w+|profile\w*|Guard|TypeCheck|RequiresGradCheck|\w*MKLDNN\w*|mkldnn_\w+|AddStatValue"
)
DENIED = re.compile(rf"aten::(?:{NAMES}|{BACKWARD})$|prim::(?:{PRIM})$|torchvision::_|(?!(?:{NAMESPACES})::)")

DOT = rb"\.(?:\s|\\|#[^\n]*\n)*"
TEXT_DENIED = re.compile(
    # It looks ahead for the "(" because a name of many "_backward" would be tried at each of them.
    rb"%b(%b)\b|%b(%b)\b|%b(?=\w+\s*\()(%b)\s*\("
    % (DOT, NAMES.encode(), rb"(?<![\w.])ops" + DOT + rb"prim" + DOT, PRIM.encode(), DOT, BACKWARD.encode())
)
# Modules may have such names too. So the text is searched for them only where no graph shows what runs.
TEXT_DENIED_STRICTLY = re.compile(rb"%b(%b)\b" % (DOT, BACKWARD.encode()))
# An attribute or a method of a module is no operator, whatever its name. In the form that the library writes, self is
# always a module; it may be a tensor in other forms.
SELF = re.compile(rb"\bself\b(?!: __torch__\.|\.|\)\.|, \")")
OF_SELF = re.compile(rb"(?<![\w.])(?:self|\(self\))\.\w+")
# Both match ways of writing ops and getattr that could hide a name. The library itself writes neither so. The object of
# a getattr is no other getattr: the name of the outer one would not be looked at.
OPS = re.compile(rb"(?<![\w.])ops\b(?!\.(?:%b)\.| : )" % NAMESPACES.encode())
GETATTR = re.compile(
    rb'\bgetattr\b(?!\((?:(?!getattr\b)[\w.()])+, "(?!(?=\w+")(?:%b|%b)")[^"\\\n]*"\))'
    % (NAMES.encode(), BACKWARD.encode())
)

MAX_CODE_BYTES = 64 << 20
MAX_FUNCTIONS = 10_000  # they call one another, and the compiler recurses
STRING = re.compile(rb'"(?:[^"\\\n]|\\[^\n])*("?)')  # one without an end, too: else each quote in it would begin one
# These could hide something: a quote alone, too. Outside of strings, the library writes none of them.
ODD = re.compile(rb"['\\#]|\"\"\s*\"|(?<!\")\"(?!\")")
# A search holds Python's lock, for which other models' runs may wait. So the text is searched in pieces of about this
# many bytes. A piece ends where nothing that is searched for can go on: behind a line without comment that ends so.
PIECE_BYTES = 1 << 16
MAX_ODD_BYTES = 1 << 13  # of code that could hide something; comments can make a search of it take quadratic time
PIECE_END = re.compile(rb"\n[^#\n]*[)\]]\n")
FLATBUFFER = b"PTMF"


class _Stream(io.RawIOBase):
    """Reads a view in place. A model may be a large part of the machine's memory, and io.BytesIO would copy it."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        if position < 0:
            raise ValueError("a position before the beginning")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        part = self._view[self._position :][: len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def refuse_archive(blob: bytes | memoryview) -> None:
    """Refuses what loading must not read or run."""
    if blob[4:8] == FLATBUFFER:  # the library would read it as this other format
        raise RuntimeError("the model is no TorchScript archive: it is for the mobile interpreter")
    try:
        stream: Any = _Stream(memoryview(blob))
        reader: Any = torch._C.PyTorchFileReader(stream)
    except Exception as error:  # a broken archive makes the reader seek anywhere
        reason = str(error).partition(". This is an internal miniz error")[0]
        raise RuntimeError(f"the model is no TorchScript archive: {reason}") from None
    names = reader.get_all_records()
    if "constants.pkl" not in names:
        raise RuntimeError("the model is no TorchScript archive: it has no constants.pkl")
    if any(name.lower() == "model.json" for name in names):  # the library ignores the case of names
        raise ValueError("the model was saved by a PyTorch before 1.4; load and save it again with a newer one")
    for name in ("constants.pkl", "data.pkl"):
        refuse_tensors(name, reader.get_record, lambda record: _size(reader, record))
    _refuse_code(reader, sorted({name for name in names if name.lower().endswith(".py")}))


def _size(reader: Any, name: str) -> int:
    """Bytes of a record. PyTorch tells them from 2.13 on."""
    size_of = getattr(reader, "get_record_size", None)
    size: int = size_of(name) if size_of else len(reader.get_record(name))
    return size


def _refuse_code(reader: Any, names: list[str]) -> None:
    """Refuses code that loading must not run, or that would overflow even a large stack."""
    size = 0
    code: list[list[bytes]] = []  # the pieces of each record
    for name in names:
        size += _size(reader, name)
        if size > MAX_CODE_BYTES:
            raise ValueError(f"the model has more than {MAX_CODE_BYTES} bytes of code")
        code.append(list(_pieces(reader.get_record(name))))
    pieces = [piece for record in code for piece in record]
    _refuse_text(pieces)
    for record in code:
        _refuse_nesting(record)
    functions = sum(len(re.findall(rb"\bdef\b", piece)) for piece in pieces)
    if functions > MAX_FUNCTIONS:
        raise ValueError(f"the model is too large: it has {functions} functions, more than {MAX_FUNCTIONS}")
    provide(pieces)


def _pieces(text: bytes) -> Iterator[bytes]:
    begin = 0
    while found := PIECE_END.search(text, begin + PIECE_BYTES):
        yield text[begin : found.end()]
        begin = found.end()
    yield text[begin:]


def _first(pattern: re.Pattern[bytes], pieces: Iterable[bytes]) -> re.Match[bytes] | None:
    for piece in pieces:  # map() would keep Python's lock for all of them
        if found := pattern.search(piece):
            return found
    return None


def _without_strings(pieces: Sequence[bytes]) -> list[bytes] | None:
    """None: something may be hidden."""
    bare = [STRING.sub(rb'"\1', piece) for piece in pieces]
    return None if _first(ODD, bare) else bare


def _refuse_text(pieces: Sequence[bytes]) -> None:
    searched = pieces
    bare = _without_strings(pieces)
    if bare is None:
        if sum(map(len, pieces)) > MAX_ODD_BYTES:
            raise ValueError(f"the model's code has another form than PyTorch writes, and over {MAX_ODD_BYTES} bytes")
    else:
        searched = bare if _first(SELF, bare) else [OF_SELF.sub(b"self", piece) for piece in bare]
    found = _first(TEXT_DENIED, searched)
    if found is None and any(b"__setstate__" in piece or b"Interface" in piece for piece in pieces):
        found = _first(TEXT_DENIED_STRICTLY, searched)
    if found is not None:
        name = next(group for group in found.groups() if group).decode()
        namespace = "prim" if found.lastindex == 2 else "aten"
        raise ValueError(f"{namespace}::{name} cannot be used in a model")
    odd = _first(OPS, searched) or _first(GETATTR, pieces)
    if odd is not None:
        operator = re.match(rb"ops\.(\w+)\.(\w+)", odd.string[odd.start() :])
        name = b"%b::%b, an operator of another library (ops)," % operator.groups() if operator else odd[0]
        raise ValueError(f"{name.decode()} cannot be used in a model in this form")


def _refuse_nesting(pieces: Sequence[bytes]) -> None:
    """Limits how deep a statement nests, by counting its operators. Traced functions are long, so it counts for each
    statement, not for each function."""
    bare = _without_strings(pieces)
    # A bracket may be hidden. Then all the code counts as one statement.
    lines = [b"".join(pieces)] if bare is None else [line for piece in bare for line in piece.split(b"\n")]
    count = depth = 0
    for line in lines:
        count += len(NESTING.findall(line))
        depth += sum(map(line.count, (b"(", b"[", b"{"))) - sum(map(line.count, (b")", b"]", b"}")))
        if count > MAX_NESTING:
            raise ValueError(f"a statement of the model is too large: it has more than {MAX_NESTING} operators")
        if depth == 0:
            count = 0
    code = pieces if bare is None else bare
    indents = [len(indent) for piece in code for indent in re.findall(rb"^[ \t\f\r]*(?=\w)", piece, re.MULTILINE)]
    branches = sum(len(re.findall(rb"\belif\b", piece)) for piece in code)
    if max(indents, default=0) > 2 * MAX_BLOCKS or branches > MAX_BLOCKS:
        raise ValueError(f"the model is too deep: it nests more than {MAX_BLOCKS} blocks")


def refuse_operators(kinds: Iterable[str]) -> None:
    for kind in sorted(kinds):
        if DENIED.match(kind):
            raise ValueError(f"{kind} cannot be used in a model")


def refuse_depth(graph: Any, functions: Sequence[Any]) -> None:
    """Checks the inlined graphs that run: that of forward, and those that it calls through an interface."""
    if _refuse_depth(graph):
        for function in functions:
            _refuse_depth(function.inlined_graph)


def _refuse_depth(graph: Any) -> bool:
    """Whether the graph calls through an interface."""
    refuse_chains(graph)
    return "prim::CallMethod" in [node.kind() for node in nodes(graph)]
