"""Converts arrays to TensorFlow's tensors and back. Workers enter, and TensorFlow's own threads when they free strings.

Owns the table of the strings that TensorFlow still holds.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from redisai.dtypes import DTYPES as ROWS
from redisai.dtypes import STRING as OBJECT
from redisai.protocol import Array

from .c_api import ffi, lib

# NumPy's type by TensorFlow's number, and the reverse.
DTYPES = {row.tf: row.numpy for row in ROWS}
NAMES = {row.tf: row.name for row in ROWS}  # as commands call them
NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
STRING = NUMBERS[OBJECT]
QINT32 = 13
# The names in error texts: NumPy's for types that tensors can have, TensorFlow's for the others.
TYPES = {
    **{8: "complex64", 11: "qint8", 12: "quint8", QINT32: "qint32", 15: "qint16", 16: "quint16", 18: "complex128"},
    **{20: "resource", 21: "variant"},
    **{number: dtype.name for number, dtype in DTYPES.items()},
    STRING: "string",
}

ELEMENT = ffi.sizeof("TF_TString")


def type_name(number: int) -> str:
    return TYPES.get(number) or f"number {number}"


def new_tensor(array: Array, number: int, copy: bool) -> Any:
    """An array as a tensor, which the caller deletes. Unless it is a copy, it shares the array's memory."""
    if number == STRING:
        return _new_strings(array)
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
        copy = True
    shape = array.shape
    data = ffi.from_buffer(array)
    if not copy:  # TensorFlow itself copies what is not aligned to 64 bytes
        return lib.TF_NewTensor(number, shape, len(shape), data, array.nbytes, _keep, ffi.NULL)
    return copied_tensor(number, shape, data, array.nbytes)


def copied_tensor(number: int, shape: tuple[int, ...], data: Any, size: int) -> Any:
    tensor = lib.TF_AllocateTensor(number, shape, len(shape), size)
    memory = lib.TF_TensorData(tensor)
    if size and not memory:
        lib.TF_DeleteTensor(tensor)
        raise MemoryError(f"no memory for {size} bytes; BACKEND_MEMORY_LIMIT sets how much there is")
    ffi.memmove(memory, data, size)
    return tensor


def as_array(tensor: Any, dtype: np.dtype[Any]) -> Array:
    """A tensor of this dtype as an array, copied."""
    shape = tuple([lib.TF_Dim(tensor, index) for index in range(lib.TF_NumDims(tensor))])
    size = lib.TF_TensorByteSize(tensor)
    if not size:
        return np.empty(shape, dtype)
    data = lib.TF_TensorData(tensor)
    if not dtype.hasobject:
        view: Array = np.ndarray(shape, dtype, ffi.buffer(data, size))
        copied: Array = view.copy()
        return copied
    strings = ffi.cast("TF_TString *", data)
    array: Array = np.empty(size // ELEMENT, object)
    for index in range(len(array)):
        string = strings + index
        array[index] = ffi.buffer(lib.TF_StringGetDataPointer(string), lib.TF_StringGetSize(string))[:]
    return array.reshape(shape)


# TensorFlow calls this when it has no more use for memory that we own. It is a function that does nothing.
_keep = ffi.cast("void (*)(void *, size_t, void *)", ffi.addressof(lib, "TF_TensorDefaultAlignment"))

_strings: dict[int, Any] = {}  # by address; a graph may keep a tensor after the run


def _new_strings(array: Array) -> Any:
    free = _free_strings()
    elements = ffi.new("TF_TString[]", array.size or 1)  # zeros are empty strings
    _strings[int(ffi.cast("uintptr_t", elements))] = elements
    for index, item in enumerate(array.ravel().tolist()):
        text = item if isinstance(item, bytes) else item.encode()
        lib.TF_StringCopy(elements + index, text, len(text))
    shape = array.shape
    return lib.TF_NewTensor(STRING, shape, len(shape), elements, array.size * ELEMENT, free, ffi.NULL)


def _free(data: Any, size: int, _: Any) -> None:
    """TensorFlow calls this from any thread."""
    elements = _strings.pop(int(ffi.cast("uintptr_t", data)))
    for index in range(size // ELEMENT):
        lib.TF_StringDealloc(elements + index)


@cache
def _free_strings() -> Any:
    """Made for the first strings. systemd's MemoryDenyWriteExecute forbids it, and models without strings still run."""
    return ffi.callback("void (void *, size_t, void *)", _free)
