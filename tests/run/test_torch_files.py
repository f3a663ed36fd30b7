"""TorchScript files as people make them: of a GPU, with odd names, with sparse tensors. What the errors of runs say."""
# TorchScript reads these classes its own way, and takes no comments in them that mypy would need.
# mypy: disable-error-code="no-any-return, no-untyped-call"

from __future__ import annotations

import io
import re
import zipfile

import pytest
import torch
from torch import Tensor, nn

from testkit import models
from testkit.paths import both_paths
from testkit.wire import Error, Wire


def store(wire: Wire, blob: bytes, device: str = "CPU") -> object:
    return wire.ask("AI.MODELSTORE", "m", "TORCH", device, "BLOB", blob)


def run(wire: Wire, *numbers: float, rows: int = 1) -> object:
    """The values that the model makes of a matrix, or the error."""
    wire.ask_ok("AI.TENSORSET", "x", "FLOAT", rows, len(numbers) // rows, "VALUES", *numbers)
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    return [float(value) for value in wire.ask("AI.TENSORGET", "y", "VALUES")] if reply == b"OK" else reply


def edited(blob: bytes, suffix: str, old: bytes, new: bytes) -> bytes:
    """The archive, with a text of its members of this name replaced."""
    out, count = io.BytesIO(), 0
    with zipfile.ZipFile(io.BytesIO(blob)) as before, zipfile.ZipFile(out, "w") as after:
        for name in before.namelist():
            data = before.read(name)
            if name.endswith(suffix):
                count += data.count(old)
                data = data.replace(old, new)
            after.writestr(name, data)
    assert count
    return out.getvalue()


# ---- made on a GPU ---------------------------------------------------------------------------------------------------


class OnCuda(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros([2], device=torch.device("cuda:0")) + x.to("cuda").cuda()
        if x.sum() > 0:
            y = y + torch.ones_like(x, device=torch.device("cuda"))
        return torch.jit.wait(torch.jit.fork(on_second, y))


def on_second(x: Tensor) -> Tensor:
    return x * torch.full([2], 2.0, device=torch.device("cuda:1"))


class FromCpu(nn.Module):
    """Traced, it has a device in its code."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(2, dtype=torch.float32, device=torch.device("cpu"))


@both_paths
def test_devices_in_the_code_are_the_models_own(wire: Wire) -> None:
    assert store(wire, models.torch_module(OnCuda)) == b"OK"
    assert run(wire, 3, 4) == [8, 10]
    assert run(wire, -3, 1) == [-6, 2]
    traced = models.torch_blob(torch.jit.trace(FromCpu(), torch.ones(1, 2)))
    assert store(wire, edited(traced, ".py", b'torch.device("cpu")', b'torch.device("cuda:0")')) == b"OK"
    assert run(wire, 5, 5) == [5, 6]


def test_weights_of_a_gpu(wire: Wire) -> None:
    layer = nn.Linear(2, 1, bias=False)
    nn.init.constant_(layer.weight, 3)
    on_gpu = edited(models.torch_blob(layer), "data.pkl", b"X\3\0\0\0cpu", b"X\6\0\0\0cuda:0")
    assert store(wire, on_gpu) == b"OK"
    assert run(wire, 1, 2) == [9]


# ---- names -----------------------------------------------------------------------------------------------------------


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class OddNames(nn.Module):
    """Its attributes and methods are called as operators that models may not use."""

    def __init__(self) -> None:
        super().__init__()
        self.save = Double()
        self.from_file = nn.Sequential(Double())
        self.set_ = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            raise ValueError("use .save() and .set_ with care")
        return self.run_backward(self.set_(self.from_file(self.save(x))))

    @torch.jit.export
    def run_backward(self, x: Tensor) -> Tensor:
        return x + 1

    @torch.jit.export
    def resize_(self, x: Tensor) -> Tensor:
        return self.run_backward(x)


@both_paths
@pytest.mark.parametrize("traced", [False, True])
def test_names_of_operators(wire: Wire, traced: bool) -> None:
    module = torch.jit.trace(OddNames(), torch.ones(1, 2)) if traced else OddNames()
    assert store(wire, models.torch_blob(module)) == b"OK"
    assert run(wire, 1, 2) == [5, 9]


class Factor:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def times(self, x: Tensor) -> Tensor:
        return x * self.factor


class WithObject(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = Factor(3.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor.times(x)


@both_paths
def test_an_object_that_is_no_module(wire: Wire) -> None:
    assert store(wire, models.torch_module(WithObject)) == b"OK"
    assert run(wire, 1, 2) == [3, 6]


class Refused(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch._unsafe_index(x, [torch.tensor([0])])


def test_a_refused_operator_is_named(wire: Wire) -> None:
    assert store(wire, models.torch_module(Refused)) == "ERR aten::_unsafe_index cannot be used in a model"
    other = edited(models.torch_module(Double), ".py", b"torch.mul(x, 2)", b"ops.c10d.barrier(x)")
    reply = store(wire, other)
    assert reply == "ERR c10d::barrier, an operator of another library (ops), cannot be used in a model in this form"


# A tensor may be called self too. Then these are operators.
SELF = [
    ("def forward(", "def free(self: Tensor) -> Tensor:\n    return (self).set_(self)\n  def forward("),
    ("torch.mul(x, 2)", "[(self).set_(self) for self in [x]][0]"),
    ("return torch.mul(x, 2)", "self = x\n    return self.set_(x)"),
    ("return torch.mul(x, 2)", "self, y = x, x\n    return self.set_(x)"),
]


@pytest.mark.parametrize(("old", "new"), SELF)
def test_self_that_is_no_module(wire: Wire, old: str, new: str) -> None:
    reply = store(wire, edited(models.torch_module(Double), ".py", old.encode(), new.encode()))
    assert reply == "ERR aten::set_ cannot be used in a model"


# ---- sparse tensors --------------------------------------------------------------------------------------------------


class Sparse(nn.Module):
    """x: in which row of a matrix of two columns each column has its 1."""

    def forward(self, x: Tensor) -> Tensor:
        places = torch.stack([x[0].long(), torch.arange(2)])
        matrix = torch.sparse_coo_tensor(places, torch.ones(2), [2, 2])
        places.add_(1000)
        matrix._indices().add_(1000)
        return matrix.to_dense()


@both_paths
def test_sparse_tensors(wire: Wire) -> None:
    """Their indices are checked, and cannot be changed later."""
    assert store(wire, models.torch_module(Sparse)) == b"OK"
    assert run(wire, 1, 0) == [0, 1, 1, 0]
    for wrong in (2, 1000, -1, 2**40):
        reply = run(wire, 0, wrong)
        assert isinstance(reply, Error) and "ind" in reply, reply


# ---- errors of runs --------------------------------------------------------------------------------------------------


class TooLarge(Exception):
    def __init__(self, text: str) -> None:
        self.text = text


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x[0, 0] > 100:
            raise TooLarge("over a hundred")
        if x[0, 0] > 0:
            raise ValueError("the first\nand the second line")
        return nn.functional.linear(x, torch.ones(3, 3))


class Deep(nn.Module):
    """So deep that the traceback has tens of kilobytes."""

    def __init__(self) -> None:
        super().__init__()
        inner: nn.Module = nn.Linear(3, 2)
        for _ in range(60):
            inner = nn.Sequential(inner)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@both_paths
def test_the_reason_comes_first(wire: Wire) -> None:
    assert store(wire, models.torch_module(Raises)) == b"OK"
    place = r"\(line \d+ of test_torch_files\.py, in forward\)"
    assert_matches(run(wire, 1, 2), rf"ERR the first and the second line {place}")
    assert_matches(run(wire, 101, 2), rf"ERR over a hundred {place}")
    assert_matches(run(wire, -1, 2), rf"ERR mat1 and mat2 shapes cannot be multiplied \(1x2 and 3x3\) {place}")


@both_paths
@pytest.mark.parametrize("traced", [False, True])
def test_the_reason_of_an_error_deep_in_a_model(wire: Wire, traced: bool) -> None:
    module = torch.jit.trace(Deep(), torch.ones(1, 3)) if traced else Deep()
    assert store(wire, models.torch_blob(module)) == b"OK"
    reason = r"mat1 and mat2 shapes cannot be multiplied \(1x2 and 3x2\)"
    assert_matches(run(wire, 1, 2), rf"ERR {reason} \(line \d+ of linear\.py, in forward\)")


def assert_matches(reply: object, pattern: str) -> None:
    assert isinstance(reply, Error) and re.fullmatch(pattern, reply), reply
