"""The dtypes of tensors: the table of src/values/dtype.c as Python reads it. Constant; any thread.

Backends may import this. NumPy's type of a dtype follows from its row, so that a new row needs no code here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from _redisai_bridge import ffi, lib


class Dtype(NamedTuple):
    name: str  # as commands call it
    onnx: int  # the library's number of it
    tf: int
    numpy: np.dtype[Any]


_NUMPY_KINDS = {lib.CODE_INT: "i", lib.CODE_UINT: "u", lib.CODE_FLOAT: "f"}


def _numpy(name: str, code: int, bits: int) -> np.dtype[Any]:
    if code == lib.CODE_BOOL:
        return np.dtype(bool)
    if code == lib.CODE_STRING:
        return np.dtype(object)
    if code in _NUMPY_KINDS:
        return np.dtype(f"{_NUMPY_KINDS[code]}{bits // 8}")
    kind: type = getattr(ml_dtypes, name.lower())
    return np.dtype(kind)


def _dtypes() -> Iterator[Dtype]:
    for number in count():
        row = lib.bridge_dtype(number)
        if not row:
            return
        name = ffi.string(row.name).decode()
        yield Dtype(name, row.onnx, row.tf, _numpy(name, row.code, row.bits))


DTYPES = tuple(_dtypes())  # by number
STRING = np.dtype(object)  # holds bytes
NUMBERS = {dtype.numpy: number for number, dtype in enumerate(DTYPES)}
