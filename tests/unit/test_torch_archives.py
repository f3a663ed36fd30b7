"""TorchScript archives whose tensors reach beyond their data are refused before the library reads them."""
# mypy: disable-error-code="no-any-return, no-untyped-call, return-value"

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.unit.loading import load
from tests.unit.test_torch_backend import blob, saved

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
HOSTILE = "the archive is damaged or hostile"
# Each number occurs once in the archive.
OFFSET, SIZE, STRIDE, ELEMENTS = 65_539, 70_001, 66_666, 268_872
TENSOR = torch.arange(ELEMENTS).to(torch.uint8).as_strided([3, SIZE], [STRIDE, 1], OFFSET)


class Add(torch.nn.Module):
    def __init__(self, tensor: torch.Tensor = TENSOR) -> None:
        super().__init__()
        self.register_buffer("tensor", tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tensor


def as_attribute(tensor: torch.Tensor) -> bytes:
    return blob(Add(tensor))


def as_constant(tensor: torch.Tensor) -> bytes:
    return saved(torch.jit.freeze(torch.jit.script(Add(tensor).eval())))


def changed(archive: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        assert any(member.endswith(name) for member in old.namelist())
        for member in old.namelist():
            data = old.read(member)
            new.writestr(member, change(data) if member.endswith(name) else data)
    return out.getvalue()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def with_number(archive: bytes, name: str, old: int, new: int) -> bytes:
    def change(data: bytes) -> bytes:
        assert data.count(number(old)) == 1
        return data.replace(number(old), number(new))

    return changed(archive, name, change)


@pytest.mark.parametrize(
    ("make", "pickle", "record"),
    [(as_attribute, "/data.pkl", "data/0"), (as_constant, "/constants.pkl", "constants/0")],
)
def test_tensors_lie_within_their_data(make: Callable[[torch.Tensor], bytes], pickle: str, record: str) -> None:
    archive = make(TENSOR)
    np.testing.assert_array_equal(load("TORCH", archive).run([np.ones(1)])[0], TENSOR)
    for old, new in ((OFFSET, OFFSET + 1), (SIZE, SIZE + 1), (STRIDE, STRIDE + 1), (ELEMENTS, ELEMENTS - 1)):
        with pytest.raises(ValueError, match=rf"reaches beyond the \d+ elements of {record}: {HOSTILE}"):
            load("TORCH", with_number(archive, pickle, old, new))
    for old in (OFFSET, SIZE, STRIDE):
        with pytest.raises(ValueError, match=HOSTILE):
            load("TORCH", with_number(archive, pickle, old, -1))
    for count in (ELEMENTS + 1, -1):
        with pytest.raises(ValueError, match=f"{record} has .* bytes, not {count} elements of 1: {HOSTILE}"):
            load("TORCH", with_number(archive, pickle, ELEMENTS, count))
    with pytest.raises(ValueError, match=f"{record} has {ELEMENTS - 1} bytes"):
        load("TORCH", changed(archive, record, lambda data: data[:-1]))


def test_a_tensor_of_another_type_needs_more_bytes() -> None:
    archive = changed(as_attribute(TENSOR), "/data.pkl", lambda data: data.replace(b"ByteStorage", b"LongStorage"))
    with pytest.raises(ValueError, match=f"data/0 has {ELEMENTS} bytes, not {ELEMENTS} elements of 8: {HOSTILE}"):
        load("TORCH", archive)


def per_channel(channels: int) -> torch.Tensor:
    ones = torch.ones(channels)
    return torch.quantize_per_channel(torch.ones(channels, 2), ones, torch.zeros(channels), 0, torch.qint8)


def per_tensor(size: int) -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(size, 2), 1.0, 0, torch.quint8)


@pytest.mark.parametrize("quantised", [per_tensor, per_channel])
def test_quantised_tensors(quantised: Callable[[int], torch.Tensor]) -> None:
    tensor = quantised(SIZE)
    archive = as_attribute(tensor)
    np.testing.assert_array_equal(torch.jit.load(io.BytesIO(archive)).tensor.dequantize(), tensor.dequantize())
    load("TORCH", archive)
    with pytest.raises(ValueError, match=HOSTILE):
        load("TORCH", with_number_everywhere(archive, SIZE, SIZE + 1))


def with_number_everywhere(archive: bytes, old: int, new: int) -> bytes:
    return changed(archive, "/data.pkl", lambda data: data.replace(number(old), number(new)))


def test_a_quantised_tensor_has_a_scale_for_each_channel() -> None:
    def fewer_channels(data: bytes) -> bytes:
        head, size, tail = data.partition(number(SIZE))  # of the tensor; those of its scales follow
        return head + number(SIZE - 1) + tail if size else data

    archive = as_attribute(per_channel(SIZE))
    with pytest.raises(ValueError, match=f"has scales for another shape: {HOSTILE}"):
        load("TORCH", changed(archive, "/data.pkl", fewer_channels))


@pytest.mark.parametrize("sparse", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
def test_sparse_tensors_are_refused(sparse: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="_rebuild_sparse_tensor, which models cannot have"):
        load("TORCH", as_attribute(sparse(torch.eye(3))))


@pytest.mark.parametrize("name", ["/data.pkl", "/constants.pkl"])
@pytest.mark.parametrize(
    "pickle",
    [
        b"\x80\x02}r\xff\xff\xff\xff.",  # a memo of 4 billion objects
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)\x81((K\x00K\x00ttb.",
        b"\x80\x02(X\x07\x00\x00\x00storageK\x06X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",  # the number of a type
        b"\x80\x02)" + b"\x85" * 100_000 + b".",
        b"\x80\x02cos\nsystem\n)R.",
        b"\x80\x02}",
        b"",
    ],
)
def test_pickles_that_no_library_writes(name: str, pickle: bytes) -> None:
    with pytest.raises((ValueError, RuntimeError), match=f"{name[1:]}|is damaged or hostile"):
        load("TORCH", changed(as_attribute(TENSOR), name, lambda data: pickle))


@pytest.mark.parametrize("name", ["model.json", "Model.JSON"])
def test_archives_of_old_versions_are_refused(name: str) -> None:
    out = io.BytesIO(as_attribute(TENSOR))
    with zipfile.ZipFile(out) as archive:
        folder = archive.namelist()[0].partition("/")[0]
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(f"{folder}/{name}", "{}")
    with pytest.raises(ValueError, match="the model was saved by a PyTorch before 1.4"):
        load("TORCH", out.getvalue())
