"""C tensors as NumPy arrays, and back. Workers enter; nothing here has state.

An input shares memory with the stored tensor, which lives until its op is finished. A large tensor is copied, as its
memory is not aligned the way libraries want it (TENSOR_LARGE in src/tensor.h). An output is copied by C. The inputs of
a batch are gathered into one array, and its outputs are scattered, by C too where they are numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """A tensor as an array: 0.5 us for a view."""
    ndim = tensor.ndim
    shape = _unpack(tensor.shape, ndim) if ndim else ()
    number = tensor.dtype
    if number == _STRING:
        return _strings(tensor).reshape(shape)
    view: Array = _array(shape, _ARRAY_TYPES[number], _buffer(tensor.data, tensor.size))
    return _aligned_copy(view) if tensor.owner else view


def _aligned_copy(view: Array) -> Array:
    """A copy at a multiple of 64 bytes: TensorFlow copies everything else once more."""
    copy = _aligned(view.shape, view.dtype, view.nbytes)
    copy[...] = view
    return copy


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> Array:
    memory = np.empty(size + 64, np.uint8)
    address = int(ffi.cast("uintptr_t", _from_buffer(memory)))
    array: Array = _array(shape, dtype, memory, -address % 64)
    return array


def _strings(tensor: Tensor) -> Array:
    data = bytes(_buffer(tensor.data, tensor.size)) if tensor.size else b""
    array = np.empty(tensor.length, object)
    for index in range(tensor.length):
        start = tensor.offsets[index]
        array[index] = data[start : data.index(b"\0", start)]
    return array


def gather(array: CData, ops: Sequence[Op], index: int, rows: int) -> Array | None:
    """One input of a batch of so many rows; array holds the ops for C. None where they do not fit together."""
    tensor = ops[0].inputs[index]
    number = tensor.dtype
    if number == _STRING:
        return _gather_strings(ops, index)
    shape = _unpack(tensor.shape, tensor.ndim)
    size = tensor.size // shape[0] * rows
    inputs = _aligned((rows, *shape[1:]), _ARRAY_TYPES[number], size)
    return inputs if _gather(array, len(ops), index, _from_buffer(inputs), size) == 0 else None


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


def scatter(array: CData, ops: Sequence[Op], index: int, output: Array, name: str) -> None:
    """Hands one output of a batch to its ops, each its rows. The 0th dimension must be the sum of theirs."""
    number = NUMBERS.get(output.dtype, _STRING)
    if number != _STRING and output.flags.c_contiguous:
        shape = output.shape
        _scatter(array, len(ops), index, number, len(shape), shape, _from_buffer(output), output.nbytes)
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
    """Hands one output to C: 0.6 us and the copy. False where C refused it, and has failed the op."""
    shape = array.shape
    number = NUMBERS.get(array.dtype, _STRING)
    if number == _STRING:
        array = _join(index, array, name)
    elif not array.flags.c_contiguous:
        # A model may expand one element to any size; C refuses what is too large, but must not have to see it.
        if array.nbytes > lib.bridge_max_tensor_bytes():
            raise MemoryError(f"output {index} of {array.nbytes} bytes exceeds the limit for one tensor")
        array = np.ascontiguousarray(array)
    return _set_output(op, index, number, len(shape), shape, _from_buffer(array), array.nbytes) == 0


def _join(index: int, array: Array, name: str) -> Array:
    """The elements of an array of strings as C holds them, each ended by a NUL."""
    label = f"output '{name}'" if name else f"output {index}"
    items: list[Any] = array.ravel().tolist() if array.dtype.kind in "OSU" else [None]
    if not all(isinstance(item, (bytes, str)) for item in items):
        raise TypeError(f"{label} has type {array.dtype}, which tensors cannot have")
    elements = [item if isinstance(item, bytes) else item.encode() for item in items]
    if any(b"\0" in element for element in elements):
        raise ValueError(f"{label} has a string that contains a null character")
    return np.frombuffer(b"".join(element + b"\0" for element in elements), np.uint8)
