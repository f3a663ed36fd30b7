"""The table of dtypes as Python reads it, and arrays of types that NumPy has from ml_dtypes."""
# mypy: disable-error-code="no-any-return, no-untyped-call"

import io
from typing import Any

import numpy as np
import pytest
import torch

from redisai.dtypes import DTYPES as ROWS
from redisai.dtypes import NUMBERS
from testkit.dtypes import DTYPES
from tests.unit.loading import load

OLD = ("FLOAT", "DOUBLE", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "BOOL", "STRING")
EXTENSIONS = [dtype for dtype in DTYPES.values() if dtype.numpy.isbuiltin == 2]


def test_the_table() -> None:
    assert {row.name: (row.onnx, row.numpy) for row in ROWS} == {
        name: (dtype.onnx, dtype.numpy) for name, dtype in DTYPES.items()
    }
    assert tuple(row.name for row in ROWS)[: len(OLD)] == OLD, "DEBUG DIGEST counts on the numbers"
    assert [NUMBERS[row.numpy] for row in ROWS] == list(range(len(ROWS)))
    for numbers in ([row.onnx for row in ROWS], [row.tf for row in ROWS]):
        assert len(set(numbers)) == len(ROWS)


def test_tensorflow_has_these_numbers() -> None:
    types = pytest.importorskip("tensorflow").dtypes
    assert [types.as_dtype(DTYPES[row.name].tf).as_datatype_enum for row in ROWS] == [row.tf for row in ROWS]


class Same(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Turned(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.t()


class Trained(torch.nn.Module):
    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, dtype=kind))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight


class Sparse(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to_sparse()


def run(module: torch.nn.Module, array: Any) -> Any:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    (output,) = load("TORCH", buffer.getvalue()).run([array])
    return output


@pytest.mark.parametrize("dtype", EXTENSIONS)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3,), (2, 1, 3)])
def test_torch_takes_and_gives_any_shape(dtype: Any, shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype.numpy)
    output = run(Same(), array)
    assert output.dtype == dtype.numpy and output.shape == shape
    np.testing.assert_array_equal(output.astype(float), array.astype(float))


@pytest.mark.parametrize("dtype", EXTENSIONS)
def test_torch_gives_what_is_not_contiguous(dtype: Any) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype.numpy)
    np.testing.assert_array_equal(run(Turned(), array).astype(float), array.T.astype(float))


@pytest.mark.parametrize("dtype", EXTENSIONS)
def test_torch_gives_weights(dtype: Any) -> None:
    output = run(Trained(getattr(torch, dtype.tf)), np.ones(2, dtype.numpy))
    assert output.dtype == dtype.numpy and output.astype(float).tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [DTYPES["FLOAT"], *EXTENSIONS])
def test_torch_gives_no_sparse_tensors(dtype: Any) -> None:
    with pytest.raises((TypeError, RuntimeError)):
        run(Sparse(), np.ones(2, dtype.numpy))


def test_torch_takes_no_strings() -> None:
    with pytest.raises(TypeError, match="^TORCH models and scripts take no STRING tensors$"):
        run(Same(), np.array([b"a"], object))
