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
NAMES = {row.onnx: row.name for row in ROWS}  # as commands call them
NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
STRING = NUMBERS[OBJECT]
# The library's number of each element type, and its name in error texts.
TYPES = {
    **{1: "float", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool"},
    **{10: "float16", 11: "double", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16"},
    **{17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4"},
}

# The library's numbers of what a value may be.
TENSOR, SEQUENCE = 1, 2
KINDS = {0: "empty", SEQUENCE: "a sequence", 3: "a map", 4: "opaque", 5: "a sparse tensor", 6: "optional"}
DROP = "leave it out of the outputs or make it a tensor"
NO_ZIPMAP = "scikit-learn's classifiers need options={'zipmap': False} for skl2onnx, others zipmap=False"


def type_name(number: int) -> str:
    return f"tensor({TYPES.get(number, f'number {number}')})"


def no_tensor(name: str, what: str, way_out: str) -> TypeError:
    return TypeError(f"output '{name}' is {what}, which no tensor can hold; {way_out}, and export the model again")


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


def as_array(name: str, kind: int, value: Any, inputs: Any) -> Array:
    """An output as an array on its memory, which it keeps alive. kind is the declared type of its elements.

    It keeps the inputs alive too, because a model may return an input's memory as its output. The tensors of a sequence
    are copied into one."""
    number = ffi.new("int *")
    if value:
        api.HasValue(value, number)
    if number[0]:
        api.GetValueType(value, number)
    if number[0] == SEQUENCE:
        return _stacked(name, kind, value)
    if number[0] != TENSOR:
        raise no_tensor(name, KINDS.get(number[0], "of a type without name"), DROP)
    number, shape, length = _describe(value)
    dtype = DTYPES.get(number)
    if dtype is None:
        raise TypeError(f"output '{name}' has type {type_name(number)}, which tensors cannot have")
    if number == STRING:
        return _strings(value, length).reshape(shape)
    size = length * dtype.itemsize
    if not size:
        return np.empty(shape, dtype)
    # The array refers to the buffer, the buffer to this owner, and the owner to the value and the inputs.
    owner = ffi.gc(ffi.cast("char *", made(api.GetTensorMutableData, value)), lambda _, held=(value, inputs): None)
    array: Array = np.ndarray(shape, dtype, ffi.buffer(owner, size))
    return array


def _stacked(name: str, kind: int, sequence: Any) -> Array:
    count = ffi.new("size_t *")
    api.GetValueCount(sequence, count)
    arrays: list[Array] = []
    for index in range(count[0]):
        part = as_array(name, kind, made(api.GetValue, sequence, index, allocator, release=api.ReleaseValue), None)
        if arrays and (part.dtype, part.shape) != (arrays[0].dtype, arrays[0].shape):
            shapes = f"{list(arrays[0].shape)} and {list(part.shape)}"
            raise no_tensor(name, f"a sequence of tensors of different shapes, {shapes}", "pad or concatenate them")
        arrays.append(part)
    if not arrays and kind not in DTYPES:
        raise no_tensor(name, "an empty sequence of an unknown type", DROP)
    stacked: Array = np.stack(arrays) if arrays else np.empty(0, DTYPES[kind])
    return stacked


def _describe(value: Any) -> tuple[int, tuple[int, ...], int]:
    """Element type, shape and number of elements."""
    info = made(api.GetTensorTypeAndShape, value)
    try:
        length = ffi.new("size_t *")
        api.GetTensorShapeElementCount(info, length)
        return *described(info), length[0]
    finally:
        api.ReleaseTensorTypeAndShapeInfo(info)


def described(info: Any) -> tuple[int, tuple[int, ...]]:
    """Element type and shape."""
    number, size = ffi.new("int *"), ffi.new("size_t *")
    api.GetTensorElementType(info, number)
    api.GetDimensionsCount(info, size)
    shape = ffi.new("int64_t[]", size[0])
    api.GetDimensions(info, shape, size[0])
    return number[0], tuple(shape)


def _new_strings(array: Array) -> Any:
    """Elements of any bytes: an operator that needs UTF-8 says so itself."""
    shape = array.shape
    value = made(api.CreateTensorAsOrtValue, allocator, shape, len(shape), STRING)
    where = ffi.new("char **")
    try:
        for index, item in enumerate(array.ravel().tolist()):
            data = item if isinstance(item, bytes) else item.encode()
            api.GetResizedStringTensorElementBuffer(value, index, len(data), where)
            ffi.memmove(where[0], data, len(data))
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
