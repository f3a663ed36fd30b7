"""Converts arrays to tensors and back, for models and scripts. Loader and workers enter.

Owns the library's settings, some of which exist once for each thread.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import Any

import torch

from redisai.dtypes import DTYPES
from redisai.protocol import Array, Settings


def to_tensor(array: Array, device: torch.device | None, copies: bool) -> Any:
    """The array as a tensor on the device. On the CPU (None) it shares the array's memory, unless copies is set."""
    try:
        tensor = torch.from_numpy(array)
    except TypeError:
        tensor = _from_bits(array)
    if device is not None:
        return tensor.to(device)
    return tensor.clone() if copies else tensor


# Types of ml_dtypes. The library has types of the same names, but knows NumPy's own arrays only.
_EXTENSIONS = {dtype.numpy.name: dtype.numpy for dtype in DTYPES if dtype.numpy.isbuiltin == 2}


def _from_bits(array: Array) -> torch.Tensor:
    name = array.dtype.name
    if name not in _EXTENSIONS:
        raise TypeError("TORCH models and scripts take no STRING tensors")
    return torch.from_numpy(array.view(f"i{array.itemsize}")).view(getattr(torch, name))


def to_array(index: int, tensor: torch.Tensor) -> Array:
    try:
        return tensor.numpy(force=True)
    except TypeError:
        name = str(tensor.dtype).removeprefix("torch.")
        if name not in _EXTENSIONS:
            raise TypeError(f"output {index} has type {name}, which tensors cannot have") from None
        bits: Array = tensor.view(getattr(torch, f"int{8 * tensor.itemsize}")).numpy(force=True)
        return bits.view(_EXTENSIONS[name])


def flatten(result: Any) -> Iterator[torch.Tensor]:
    """All tensors of a result, also those within lists and tuples."""
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, (list, tuple)):
        for item in result:
            yield from flatten(item)
    else:
        raise TypeError("Function returned non-tensor values")


class _Thread(threading.local):
    is_set = False


_thread = _Thread()
_intra_op_threads = 1


def prepare_thread() -> None:
    """Called before every run: switches gradients off, since the last model may have changed that (torch.no_grad does),
    and limits the threads of a run."""
    torch._C._set_grad_enabled(False)  # a context manager would cost 2.5 us, this 0.1
    if not _thread.is_set:
        # OpenMP keeps the number for each thread. A thread that has not set it uses every core.
        torch.set_num_threads(_intra_op_threads)
        _thread.is_set = True


def set_threads(settings: Settings) -> None:
    _set_threads(settings.intra_op_threads, settings.inter_op_parallelism)


@functools.cache
def _set_threads(intra: int, inter: int) -> None:
    global _intra_op_threads
    _intra_op_threads = intra
    torch.set_num_threads(intra)
    if inter:
        torch.set_num_interop_threads(inter)


def intra_op_threads() -> int:
    return _intra_op_threads


def find_device(gpu: int | None) -> torch.device:
    if gpu is None:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError("GPU requested but Torch couldn't find CUDA")
    if gpu >= torch.cuda.device_count():
        raise RuntimeError(f"GPU:{gpu} requested but Torch found only {torch.cuda.device_count()}")
    return torch.device("cuda", gpu)
