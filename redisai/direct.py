"""Models that C runs by the C API of their library (src/direct.c). The loader makes them, workers enter run().

A model's entry holds one where its backend tells what is needed (Direct of protocol.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from _redisai_bridge import ffi, lib

from .dtypes import NUMBERS
from .tensors import fail

if TYPE_CHECKING:
    from _redisai_bridge import CData

    from .protocol import Direct

_MOST: int = lib.DIRECT_MAX


class DirectRunner:
    __slots__ = ("_api", "_direct", "_struct")

    def __init__(self, backend: str, direct: Direct) -> None:
        self._direct = direct
        self._api = _functions("OnnxApi" if backend == "ONNX" else "TfApi", direct)
        self._struct = struct = ffi.new("Direct *")
        setattr(struct, "onnx" if backend == "ONNX" else "tf", self._api)
        struct.session = _pointer(direct.session)
        struct.memory = _pointer(direct.memory)
        struct.inputs, struct.outputs = _pointer(direct.inputs), _pointer(direct.outputs)
        struct.ninputs, struct.noutputs = len(direct.dtypes), direct.noutputs
        struct.types = [NUMBERS[dtype] for dtype in direct.dtypes]

    @classmethod
    def of(cls, backend: str, session: object) -> DirectRunner | None:
        """None where Python has to run the model."""
        direct: Direct | None = getattr(session, "direct", None)
        if direct is None or len(direct.dtypes) > _MOST or direct.noutputs > _MOST:
            return None
        return cls(backend, direct)

    def run(self, ops: CData, count: int, until: int) -> int:
        """Runs the first of count begun ops, as bridge_run_direct does. How many are done, with outputs or errors."""
        direct = self._direct
        error = ffi.new("char **")
        options = direct.begin()
        done = lib.bridge_run_direct(self._struct, ops, count, until, _pointer(options), error)
        try:
            text = _take(error) if error[0] else None
            failure: BaseException | None = direct.end(options, done + (text is not None), text)
        except BaseException as other:  # of the op that has failed, if one has: those before it are done
            failure = other
            if not error[0]:
                return done
        if failure is not None:
            fail(ops[done], failure)
            done += 1
        return done


def _take(error: CData) -> str:
    """error stays set, to what must not be looked at."""
    try:
        return str(ffi.string(error[0]).decode(errors="replace"))
    finally:
        lib.bridge_free(error[0])


def _functions(name: str, direct: Direct) -> CData:
    fields = ffi.typeof(name).fields
    functions = {field: ffi.cast(kind.type, direct.functions[field]) for field, kind in fields}
    table: CData = ffi.new(f"{name} *", functions)
    return table


def _pointer(theirs: Any) -> CData:
    """A pointer of another cffi module: they share nothing but addresses."""
    pointer: CData = ffi.NULL if theirs is None else ffi.cast("void *", theirs)
    return pointer
