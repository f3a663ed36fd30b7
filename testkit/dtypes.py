"""The dtypes as the tests know them: one row each. They are written down here and not read from the module, so that a
mistake in its table is found.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np


class Dtype(NamedTuple):
    code: int  # DLPack's type code and bits, as saved in RDB files
    bits: int
    numpy: np.dtype[Any]
    onnx: int  # ONNX's number
    tf: str  # TensorFlow's name


DTYPES = {
    "FLOAT": Dtype(2, 32, np.dtype("<f4"), 1, "float32"),
    "DOUBLE": Dtype(2, 64, np.dtype("<f8"), 11, "float64"),
    "INT8": Dtype(0, 8, np.dtype("i1"), 3, "int8"),
    "INT16": Dtype(0, 16, np.dtype("<i2"), 5, "int16"),
    "INT32": Dtype(0, 32, np.dtype("<i4"), 6, "int32"),
    "INT64": Dtype(0, 64, np.dtype("<i8"), 7, "int64"),
    "UINT8": Dtype(1, 8, np.dtype("u1"), 2, "uint8"),
    "UINT16": Dtype(1, 16, np.dtype("<u2"), 4, "uint16"),
    "BOOL": Dtype(6, 8, np.dtype(bool), 9, "bool"),
    "STRING": Dtype(7, 8, np.dtype(object), 8, "string"),
    "FLOAT16": Dtype(2, 16, np.dtype("<f2"), 10, "float16"),
    "BFLOAT16": Dtype(4, 16, np.dtype(ml_dtypes.bfloat16), 16, "bfloat16"),
    "UINT32": Dtype(1, 32, np.dtype("<u4"), 12, "uint32"),
    "UINT64": Dtype(1, 64, np.dtype("<u8"), 13, "uint64"),
}
NUMBERS = tuple(name for name in DTYPES if name not in ("BOOL", "STRING"))
REALS = tuple(name for name, dtype in DTYPES.items() if dtype.code in (2, 4))
INTEGERS = tuple(name for name, dtype in DTYPES.items() if dtype.code in (0, 1))


def limits(name: str) -> tuple[int, int]:
    """The smallest and the largest integer that VALUES takes."""
    code, bits, *_ = DTYPES[name]
    return (0, 2**bits - 1) if code == 1 else (-(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1)
