"""Has C run models and scripts without Python, through the C API of their library (src/direct/).

The loader makes a DirectRunner for each session that offers a Direct (protocol.py). The model's entry holds it. Workers
enter its methods.
REDISAI_DIRECT=off in the environment leaves all runs to Python: tests run the same models both ways.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from _redisai_bridge import ffi, lib

from .dtypes import NUMBERS
from .ports import explained, ports_of
from .tensors import as_array, fail

if TYPE_CHECKING:
    from _redisai_bridge import CData, Op

    from .protocol import Array, Direct, Port

DIRECT_MAX: int = lib.DIRECT_MAX
_ON = os.environ.get("REDISAI_DIRECT") != "off"


class DirectRunner:
    __slots__ = ("_api", "_direct", "_ports", "struct")

    def __init__(self, number: int, backend: str, direct: Direct, ports: Sequence[Port] = ()) -> None:
        """number is the backend's in C. ports are the inputs."""
        self._ports = ports
        self._direct = direct
        self._api = api_of(backend, direct.function)
        self.struct = struct = ffi.new("Direct *")
        struct.backend = number
        struct.api = _pointer(self._api)
        struct.session = _pointer(direct.session)
        struct.memory = _pointer(direct.memory)
        struct.inputs, struct.outputs = _pointer(direct.inputs), _pointer(direct.outputs)
        dtypes = [None] * DIRECT_MAX if direct.dtypes is None else direct.dtypes
        struct.ninputs = lib.ANY_COUNT if direct.dtypes is None else len(dtypes)
        struct.noutputs = lib.ANY_COUNT if direct.noutputs is None else direct.noutputs
        struct.types = [lib.ANY_NUMBERS if dtype is None else NUMBERS[dtype] for dtype in dtypes]
        struct.rows = lib.ANY_ROWS

    @classmethod
    def of(cls, number: int, backend: str, session: Any) -> DirectRunner | None:
        """The runner of a session; None where Python has to run the model."""
        direct: Direct | None = getattr(session, "direct", None)
        if direct is None or max(len(direct.dtypes or ()), direct.noutputs or 0) > DIRECT_MAX or not _ON:
            return None
        return cls(number, backend, direct, ports_of(session)[0])

    def limit_to(self, rows: int) -> None:
        """C runs only ops with so many rows from now on, or with any (ANY_ROWS)."""
        self.struct.rows = rows

    def settle(self, op: Op, error: CData) -> bool:
        """Gives an op that has failed in C its error. Returns False where Python must run it."""
        failure = self._failure(op, error)
        if failure is None:
            return False
        fail(op, failure)
        op.is_direct = 1
        return True

    def run_batch(self, c_ops: CData, ops: Sequence[Op]) -> int:
        """Runs begun ops as one batch in C, and returns what bridge_run_batch says. Raises where it has failed."""
        error = ffi.new("char **")
        if ran := lib.bridge_run_batch(c_ops, len(ops), error):
            return ran
        if error[0]:
            failure = self._failure(ops[0], error[0])
            lib.bridge_free(error[0])
            if failure is not None:
                raise failure
        return 0

    def _failure(self, op: Op, error: CData) -> BaseException | None:
        inputs = [as_array(op.inputs[index]) for index in range(op.ninputs)]
        return self.explain(ffi.string(error).decode(errors="replace"), inputs)

    def explain(self, error: str, inputs: Sequence[Array]) -> BaseException | None:
        """The error of a run that has failed in C with this text; None: Python must run it."""
        failure = self._direct.explain(error)
        return None if failure is None else explained(failure, self._ports, inputs)


def api_of(backend: str, function: Callable[[str], Any]) -> CData:
    """A library's functions for C: the struct of bridge.h that is named after the backend, OnnxApi for ONNX.

    function gives each by its name, with the type that the backend declares, which must be that of bridge.h."""
    name = f"{backend.capitalize()}Api"
    table: CData = ffi.new(f"{name} *")
    for field, member in ffi.typeof(name).fields:
        given = function(field)
        here, there = _declaration(member.type), _declaration(ffi.typeof(given))
        if here != there:
            raise TypeError(f"{field} is declared as {there} by the {backend} backend, as {here} by bridge.h")
        setattr(table, field, ffi.cast(member.type, given))
    return table


def _declaration(kind: Any) -> str:
    """A C type as text: a pointer to a struct as void *, and without const, which cffi does not keep."""
    if kind.kind == "function":
        arguments = [*map(_declaration, kind.args), *(["..."] if kind.ellipsis else [])]
        return f"{_declaration(kind.result)} (*)({', '.join(arguments)})"
    if kind.kind == "pointer":
        return "void *" if kind.item.kind == "struct" else f"{_declaration(kind.item)} *"
    return str(kind.cname)


def _pointer(theirs: Any) -> CData:
    """A pointer that another cffi module made, as one of ours. Modules can only exchange addresses."""
    pointer: CData = ffi.NULL if theirs is None else ffi.cast("void *", theirs)
    return pointer
