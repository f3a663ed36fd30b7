"""Converts tensors of C to NumPy arrays and back. Workers enter; no state.

An input shares memory with the stored tensor, which lives until its op is finished. A large tensor is copied, because
its memory is not aligned as libraries want it (TENSOR_LARGE in src/values/tensor.h). C copies each output. For a batch,
inputs are gathered into one array and outputs are scattered among the ops; C does that too, except for strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from _redisai_bridge import ffi, lib

from .dtypes import DTYPES, NUMBERS, STRING
from .protocol import one_line

if TYPE_CHECKING:
    from _redisai_bridge import CData, Op, Tensor

    from .protocol import Array

_ARRAY_TYPES = tuple(dtype.numpy for dtype in DTYPES)  # by number
_STRING = NUMBERS[STRING]

_unpack, _buffer, _from_buffer, _array = ffi.unpack, ffi.buffer, ffi.from_buffer, np.ndarray
_set_output, _gather, _scatter = lib.bridge_set_output, lib.bridge_gather, lib.bridge_scatter


def as_array(tensor: Tensor) -> Array:
    """A tensor as an array. A view takes 0.5 us."""
    ndim = tensor.ndim
    shape = _unpack(tensor.shape, ndim) if ndim else ()
    number = tensor.dtype
    if number == _STRING:
        return _strings(tensor).reshape(shape)
    view: Array = _array(shape, _ARRAY_TYPES[number], _buffer(tensor.data, tensor.size))
    return _aligned_copy(view) if tensor.owner else view


def _aligned_copy(view: Array) -> Array:
    """A copy at a multiple of 64 bytes. TensorFlow would copy any other array once more."""
    copy = _aligned(view.shape, view.dtype, view.nbytes)
    copy[...] = view
    return copy


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> Array:
    memory = np.empty(size + 64, np.uint8)
    address = int(ffi.cast("uintptr_t", _from_buffer(memory)))
    array: Array = _array(shape, dtype, memory, -address % 64)
    return array


def _strings(tensor: Tensor) -> Array:
    """Elements of any bytes: a NUL follows each, and may be inside."""
    length = tensor.length
    data = _buffer(tensor.data, tensor.size)
    starts = [*_unpack(tensor.offsets, length), tensor.size] if length else [0]
    array = np.empty(length, object)
    array[:] = [data[start : end - 1] for start, end in pairwise(starts)]
    return array


def gather(c_ops: CData, ops: Sequence[Op], index: int, rows: int) -> Array | None:
    """One input of a batch with this many rows; None where the ops do not fit together. c_ops: ops as a C array."""
    tensor = ops[0].inputs[index]
    number = tensor.dtype
    if number == _STRING:
        return _gather_strings(ops, index)
    shape = _unpack(tensor.shape, tensor.ndim)
    size = tensor.size // shape[0] * rows
    inputs = _aligned((rows, *shape[1:]), _ARRAY_TYPES[number], size)
    return inputs if _gather(c_ops, len(ops), index, _from_buffer(inputs), size) == 0 else None


def _gather_strings(ops: Sequence[Op], index: int) -> Array | None:
    first = ops[0]
    id, ninputs = first.id, first.ninputs
    if any(op.id != id or op.ninputs != ninputs for op in ops):
        return None
    arrays = [as_array(op.inputs[index]) for op in ops]
    shape = arrays[0].shape[1:]
    if any(array.dtype != object or array.shape[1:] != shape for array in arrays):
        return None
    return np.concatenate(arrays)


def scatter(c_ops: CData, ops: Sequence[Op], index: int, output: Array, name: str) -> None:
    """Gives each op its rows of one output of a batch. The 0th dimension must be the sum of the ops' rows."""
    number = NUMBERS.get(output.dtype, _STRING)
    if number != _STRING and output.flags.c_contiguous:
        shape = output.shape
        _scatter(c_ops, len(ops), index, number, len(shape), shape, _from_buffer(output), output.nbytes)
        return
    start = 0
    for op in ops:
        stop = start + op.rows
        try:
            set_output(op, index, output[start:stop], name)
        except BaseException as error:
            fail(op, error)
        start = stop


def fail(op: Op, error: BaseException) -> None:
    lib.bridge_fail(op, one_line(error).encode(errors="replace"))


def set_output(op: Op, index: int, array: Array, name: str) -> bool:
    """Gives one output to C, in 0.6 us plus the copy. False: C refused it, and has failed the op."""
    shape = array.shape
    number = NUMBERS.get(array.dtype, _STRING)
    offsets = ffi.NULL
    if number == _STRING:
        array, starts = _join(index, array, name)
        offsets = ffi.cast("uint64_t *", _from_buffer(starts))
    elif not array.flags.c_contiguous:
        # A model may expand one element to any size. C would refuse the result, but only after the copy below.
        if array.nbytes > lib.bridge_max_tensor_bytes():
            raise MemoryError(f"output {index} of {array.nbytes} bytes exceeds the limit for one tensor")
        array = np.ascontiguousarray(array)
    return _set_output(op, index, number, len(shape), shape, _from_buffer(array), array.nbytes, offsets) == 0


def _join(index: int, array: Array, name: str) -> tuple[Array, Array]:
    """The elements of an array of strings as C holds them, each followed by a NUL, and where each starts."""
    label = f"output '{name}'" if name else f"output {index}"
    items: list[Any] = array.ravel().tolist() if array.dtype.kind in "OSU" else [None]
    if not all(isinstance(item, (bytes, str)) for item in items):
        raise TypeError(f"{label} has type {array.dtype}, which tensors cannot have")
    elements = [item if isinstance(item, bytes) else item.encode() for item in items]
    starts = np.fromiter(accumulate((len(element) + 1 for element in elements), initial=0), np.uint64)
    return np.frombuffer(b"".join(element + b"\0" for element in elements), np.uint8), starts
