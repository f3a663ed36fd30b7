"""`redisAI.tensor_to_bytes` and `redisAI.tensor_from_bytes` of scripts. Workers enter; no state.

They are operators in Python, because TorchScript cannot look at a tensor's bytes. Its strings hold any bytes, but the
library decodes them on their way to Python: see redis_calls.py.
"""

from __future__ import annotations

from typing import Any

import torch

SOURCE = """
def tensor_to_bytes(tensor: Tensor) -> str:
    return _tensor_to_bytes(tensor)

def tensor_from_bytes(data: str, dtype: int, shape: List[int]) -> Tensor:
    return _tensor_from_bytes([ord(char) for char in list(data)], dtype, shape)
"""
FUNCTIONS = ("tensor_to_bytes", "tensor_from_bytes")


def _tensor_to_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def _tensor_from_bytes(numbers: list[int], dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    elements = torch.tensor(numbers, dtype=torch.uint8)
    if dtype == torch.bool:
        return elements.ne(0).reshape(shape)
    if len(numbers) % dtype.itemsize:
        raise ValueError(f"redisAI.tensor_from_bytes: {len(numbers)} bytes are no elements of {dtype}")
    return elements.view(dtype).reshape(shape)


_library: Any = torch.library.Library("redisai", "FRAGMENT")  # type: ignore[no-untyped-call]
for _schema, _kernel in (
    ("tensor_to_bytes(Tensor tensor) -> str", _tensor_to_bytes),
    ("tensor_from_bytes(int[] numbers, ScalarType dtype, int[] shape) -> Tensor", _tensor_from_bytes),
):
    _library.define(_schema)
    _library.impl(_schema.partition("(")[0], _kernel, "CompositeExplicitAutograd")

NAMES = {f"_{name}": getattr(torch.ops.redisai, name) for name in FUNCTIONS}
