"""C tensors as NumPy arrays, and back. Workers enter; nothing here has state.

An input shares memory with the stored tensor, which lives until its run is given back. A large tensor is copied, as its
memory is not aligned the way libraries want it (TENSOR_LARGE in src/tensor.h). An output is copied by C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from _redisai_bridge import ffi, lib

if TYPE_CHECKING:
    from _redisai_bridge import Run, Tensor

    from .protocol import Array

# In the order of the DTYPE_... numbers of bridge.h; STRING, the last, has no NumPy type of its own.
_DTYPES = tuple(np.dtype(char) for char in "fdbhilBH?")
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}
_STRING = len(_DTYPES)

_unpack, _buffer, _from_buffer, _array = ffi.unpack, ffi.buffer, ffi.from_buffer, np.ndarray
_set_output = lib.bridge_set_output


def as_array(tensor: Tensor) -> Array:
    """A tensor as an array: 0.5 us for a view."""
    ndim = tensor.ndim
    shape = _unpack(tensor.shape, ndim) if ndim else ()
    code = tensor.dtype
    if code == _STRING:
        return _strings(tensor).reshape(shape)
    view: Array = _array(shape, _DTYPES[code], _buffer(tensor.data, tensor.size))
    return _aligned_copy(view) if tensor.owner else view


def _aligned_copy(view: Array) -> Array:
    """A copy at a multiple of 64 bytes: TensorFlow copies everything else once more."""
    memory = np.empty(view.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy: Array = memory[start : start + view.nbytes].view(view.dtype).reshape(view.shape)
    copy[...] = view
    return copy


def _strings(tensor: Tensor) -> Array:
    data = bytes(_buffer(tensor.data, tensor.size)) if tensor.size else b""
    array = np.empty(tensor.length, object)
    for index in range(tensor.length):
        start = tensor.offsets[index]
        array[index] = data[start : data.index(b"\0", start)]
    return array


def set_output(run: Run, index: int, array: Array, name: str) -> bool:
    """Hands one output to C: 0.6 us and the copy. False where C refused it, and has failed the run."""
    shape = array.shape
    code = _CODES.get(array.dtype)
    if code is None:
        code = _STRING
        array = _join(index, array, name)
    elif not array.flags.c_contiguous:
        # A model may expand one element to any size; C refuses what is too large, but must not have to see it.
        if array.nbytes > lib.bridge_max_tensor_bytes():
            raise MemoryError(f"output {index} of {array.nbytes} bytes exceeds the limit for one tensor")
        array = np.ascontiguousarray(array)
    return _set_output(run, index, code, len(shape), shape, _from_buffer(array), array.nbytes) == 0


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
