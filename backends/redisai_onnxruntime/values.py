"""Converts arrays to ONNX Runtime's values and back. Workers enter; no state."""

from __future__ import annotations

from typing import Any

import numpy as np

from redisai.dtypes import DTYPES as ROWS
from redisai.dtypes import STRING as OBJECT
from redisai.protocol import Array

from .c_api import allocator, api, cpu_memory, ffi, made

# NumPy's type by the library's number, and the reverse.
DTYPES = {row.onnx: row.numpy for row in ROWS}
NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
STRING = NUMBERS[OBJECT]
# The library's number of each element type, and its name in error texts.
TYPES = {
    **{1: "float", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool"},
    **{10: "float16", 11: "double", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16"},
    **{17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4"},
}


def type_name(number: int) -> str:
    return f"tensor({TYPES.get(number, f'number {number}')})"


def new_value(array: Array) -> Any:
    """An array as a value, which the caller releases. It shares the array's memory, except for strings."""
    number = NUMBERS.get(array.dtype)
    if number is None:
        raise TypeError(f"an input has type {array.dtype}, which tensors cannot have")
    if number == STRING:
        return _new_strings(array)
    shape = array.shape
    return made(
        api.CreateTensorWithDataAsOrtValue,
        *(cpu_memory, ffi.from_buffer(array), array.nbytes, shape, len(shape), number),
    )


def as_array(value: Any, inputs: Any) -> Array | None:
    """A value as an array on its memory; None where it is not a tensor. The array keeps the value alive.

    It keeps the inputs alive too, because a model may return an input's memory as its output."""
    flag = ffi.new("int *")
    api.HasValue(value, flag)
    if flag[0]:
        api.IsTensor(value, flag)
    if not flag[0]:
        return None
    number, shape, length = _describe(value)
    dtype = DTYPES.get(number)
    if dtype is None:
        raise TypeError(f"an output has type {type_name(number)}, which tensors cannot have")
    if number == STRING:
        return _strings(value, length).reshape(shape)
    size = length * dtype.itemsize
    if not size:
        return np.empty(shape, dtype)
    # The array refers to the buffer, the buffer to this owner, and the owner to the value and the inputs.
    owner = ffi.gc(ffi.cast("char *", made(api.GetTensorMutableData, value)), lambda _, held=(value, inputs): None)
    array: Array = np.ndarray(shape, dtype, ffi.buffer(owner, size))
    return array


def _describe(value: Any) -> tuple[int, tuple[int, ...], int]:
    """Element type, shape and number of elements."""
    info = made(api.GetTensorTypeAndShape, value)
    try:
        number, size = ffi.new("int *"), ffi.new("size_t *")
        api.GetTensorElementType(info, number)
        api.GetDimensionsCount(info, size)
        ndim = size[0]
        shape = ffi.new("int64_t[]", ndim)
        api.GetDimensions(info, shape, ndim)
        api.GetTensorShapeElementCount(info, size)
        return number[0], tuple(shape), size[0]
    finally:
        api.ReleaseTensorTypeAndShapeInfo(info)


def _new_strings(array: Array) -> Any:
    """Refuses strings that are not UTF-8, as ONNX strings have to be."""
    items = [item if isinstance(item, bytes) else item.encode() for item in array.ravel().tolist()]
    for item in items:
        item.decode()
    shape = array.shape
    value = made(api.CreateTensorAsOrtValue, allocator, shape, len(shape), STRING)
    try:
        texts = [ffi.new("char[]", item) for item in items]
        api.FillStringTensor(value, texts, len(texts))
    except BaseException:
        api.ReleaseValue(value)
        raise
    return value


def _strings(value: Any, length: int) -> Array:
    size = ffi.new("size_t *")
    api.GetStringTensorDataLength(value, size)
    text, offsets = ffi.new("char[]", size[0] + 1), ffi.new("size_t[]", length + 1)
    api.GetStringTensorContent(value, text, size[0], offsets, length)
    offsets[length] = size[0]
    data = bytes(ffi.buffer(text, size[0]))
    array = np.empty(length, object)
    for index in range(length):
        array[index] = data[offsets[index] : offsets[index + 1]]
    return array
