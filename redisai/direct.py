"""Runs models and scripts without Python, through the C API of their library (src/direct/). Workers enter run().

The loader makes a DirectRunner for each session that offers a Direct (protocol.py). The model's entry holds it.
REDISAI_DIRECT=off in the environment leaves all runs to Python: tests run the same models both ways.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from _redisai_bridge import ffi, lib

from .dtypes import NUMBERS
from .ports import explained, ports_of
from .protocol import one_line
from .tensors import as_array, fail

if TYPE_CHECKING:
    from _redisai_bridge import CData

    from .protocol import Direct, Port

DIRECT_MAX: int = lib.DIRECT_MAX
_ON = os.environ.get("REDISAI_DIRECT") != "off"


class DirectRunner:
    __slots__ = ("_api", "_direct", "_has_failed", "_label", "_ports", "_struct")

    def __init__(self, number: int, backend: str, direct: Direct, label: str, ports: Sequence[Port] = ()) -> None:
        """number is the backend's in C. label is for the log. ports are the inputs."""
        self._label = label
        self._ports = ports
        self._has_failed = False  # written without a lock: two workers at once may both log
        self._direct = direct
        self._api = api_of(backend, direct.function)
        self._struct = struct = ffi.new("Direct *")
        struct.backend = number
        struct.api = _pointer(self._api)
        struct.session = _pointer(direct.session)
        struct.memory = _pointer(direct.memory)
        struct.inputs, struct.outputs = _pointer(direct.inputs), _pointer(direct.outputs)
        dtypes = [None] * DIRECT_MAX if direct.dtypes is None else direct.dtypes
        struct.ninputs = lib.ANY_COUNT if direct.dtypes is None else len(dtypes)
        struct.noutputs = lib.ANY_COUNT if direct.noutputs is None else direct.noutputs
        struct.types = [lib.ANY_NUMBERS if dtype is None else NUMBERS[dtype] for dtype in dtypes]

    @classmethod
    def of(cls, number: int, backend: str, session: Any, label: str) -> DirectRunner | None:
        """The runner of a session; None where Python has to run the model."""
        direct: Direct | None = getattr(session, "direct", None)
        if direct is None or max(len(direct.dtypes or ()), direct.noutputs or 0) > DIRECT_MAX or not _ON:
            return None
        return cls(number, backend, direct, label, ports_of(session)[0])

    def run(self, ops: CData, count: int, until: int) -> int:
        """Runs the first of count begun ops, like bridge_run_direct. Returns how many now have outputs or errors.

        Raises nothing. The first error around a run is logged, and Python runs the ops that are not done."""
        done = 0
        try:
            direct = self._direct
            error = ffi.new("char **")
            options = direct.begin()
            done = lib.bridge_run_direct(self._struct, ops, count, until, _pointer(options), error)
            failure: BaseException | None
            try:
                text = _take(error) if error[0] else None
                failure = direct.end(options, done + (text is not None), text)
            except BaseException as other:
                if not error[0]:
                    raise
                failure = other  # becomes the error of the failed op
            if failure is not None:
                op = ops[done]
                inputs = [as_array(op.inputs[index]) for index in range(op.ninputs)]
                fail(op, explained(failure, self._ports, inputs))
                op.is_direct = 1
                done += 1
        except BaseException as problem:
            self._log(problem)
        return done

    def _log(self, problem: BaseException) -> None:
        if self._has_failed:
            return
        self._has_failed = True
        reason = f"{type(problem).__name__}: {one_line(problem)}"
        text = f"{self._label}: the direct path failed, Python takes over (logged once): {reason}"
        lib.bridge_log(b"warning", text.encode(errors="replace"))


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


def _take(error: CData) -> str:
    """The text of an error, which is freed: error[0] dangles from now on, and may only be compared with NULL."""
    try:
        return str(ffi.string(error[0]).decode(errors="replace"))
    finally:
        lib.bridge_free(error[0])


def _pointer(theirs: Any) -> CData:
    """A pointer that another cffi module made, as one of ours. Modules can only exchange addresses."""
    pointer: CData = ffi.NULL if theirs is None else ffi.cast("void *", theirs)
    return pointer
