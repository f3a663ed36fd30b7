"""The TORCH backend without a server."""
# TorchScript reads these classes its own way, and takes no comments in them that mypy would need.
# mypy: disable-error-code="no-any-return, no-untyped-call, empty-body, assignment, operator, return-value"

import io
import os
import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch

from loading import load


def blob(module: torch.nn.Module) -> bytes:
    return saved(torch.jit.script(module))


def saved(module: Any) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    return buffer.getvalue()


X = np.array([1, 2], np.float32)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # all of TorchScript is deprecated


class Relu(torch.nn.Module):
    """Writes in place, but to what is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        self.norm = torch.nn.BatchNorm1d(2)
        self.relu = torch.nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.norm(self.linear(x)))


class Divide(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x /= 255
        return x


class View(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            x.view(-1)[0] = 9
        return x


class Out(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.add(x, x, out=x)


class Within(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.view = View()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.view(x.t())


def twice(x: torch.Tensor) -> torch.Tensor:
    return x.mul_(2)


class Fork(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(twice, x))


class InList(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tensors = [x, x + 1]
        tensors[0] += 1
        return tensors[1]


@torch.jit.interface
class Step(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pass


class Adder(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1)


class Interface(torch.nn.Module):
    step: Step

    def __init__(self) -> None:
        super().__init__()
        self.step = Adder()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.step.forward(x)


class Counter(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total.add_(1)
        return self.total


class Keeper(torch.nn.Module):
    """Keeps its input, and answers the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.last
        self.last = x
        return before


@pytest.mark.parametrize("module", [Divide, View, Out, Within, Fork, InList, Interface])
def test_an_input_never_changes(module: type[torch.nn.Module]) -> None:
    session = load("TORCH", blob(module()))
    for _ in range(3):  # the library optimises after the first runs
        x = X.copy()
        x.flags.writeable = True
        (y,) = session.run([x])
        np.testing.assert_array_equal(x, X)
        expected = torch.jit.script(module())(torch.from_numpy(X.copy()))
        np.testing.assert_array_equal(y, expected)


def test_traced_models_are_looked_through_too() -> None:
    session = load("TORCH", saved(torch.jit.trace(Divide(), torch.ones(2), check_trace=False)))
    x = X.copy()
    session.run([x])
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("module", [Relu, torch.nn.Identity])
def test_inputs_are_shared_where_nothing_writes_to_them(module: type[torch.nn.Module]) -> None:
    session: Any = load("TORCH", blob(module()))
    assert not session._copies and session._lock is None


def test_a_model_that_keeps_its_input_keeps_a_copy() -> None:
    session = load("TORCH", blob(Keeper()))
    x = X.copy()
    session.run([x])
    x[:] = 0
    np.testing.assert_array_equal(session.run([x])[0], X)


def test_a_stateful_model_runs_once_at_a_time() -> None:
    session = load("TORCH", blob(Counter()))
    seen: list[float] = []

    def run() -> None:
        for _ in range(200):
            (y,) = session.run([X])
            assert y is not None
            seen.extend({float(number) for number in y})

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(seen) == list(range(1, 801))


class Two(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + y, x.sum()


class Many(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x, x + 1, x + 2]


class Nested(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return x, [x + 1, x + 2]


class Table(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": x}


class Numbers(torch.nn.Module):
    def forward(self, x: torch.Tensor, rate: int, scale: float, negative: bool) -> torch.Tensor:
        y = x * rate * scale
        return -y if negative else y


class Optional(torch.nn.Module):
    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None, scale: float = 2.0) -> torch.Tensor:
        return x * scale if bias is None else x * scale + bias


class Lists(torch.nn.Module):
    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        return x[0]


def test_declared_inputs_and_outputs() -> None:
    declared = {
        module: (session.inputs, session.outputs)
        for module in (Two, Many, Nested, Numbers, Optional, Table)
        for session in [load("TORCH", blob(module()))]
    }
    assert declared == {
        Two: (("x", "y"), ("", "")),
        Many: (("x",), None),
        Nested: (("x",), None),
        Numbers: (("x", "rate", "scale", "negative"), ("",)),
        Optional: (None, ("",)),
        Table: (("x",), None),
    }


def test_tuples_and_rank_0() -> None:
    total, rank_0 = load("TORCH", blob(Two())).run([X, X])
    assert rank_0 is not None and rank_0.shape == () and rank_0 == 3
    np.testing.assert_array_equal(total, X * 2)


@pytest.mark.parametrize("module", [Many, Nested])
def test_lists_are_flattened(module: type[torch.nn.Module]) -> None:
    outputs = load("TORCH", blob(module())).run([X])
    np.testing.assert_array_equal(outputs, [X, X + 1, X + 2])


def test_numbers_come_as_tensors_of_one_element() -> None:
    session = load("TORCH", blob(Numbers()))
    for shape in ((), (1,), (1, 1)):
        numbers = [np.full(shape, 3), np.full(shape, 0.5), np.full(shape, True)]
        np.testing.assert_array_equal(session.run([X, *numbers])[0], X * -1.5)
    with pytest.raises(ValueError, match="argument 'rate' of forward is a number"):
        session.run([X, np.ones(2), np.ones(1), np.ones(1)])


def test_arguments_with_defaults_may_be_left_out() -> None:
    session = load("TORCH", blob(Optional()))
    np.testing.assert_array_equal(session.run([X])[0], X * 2)
    np.testing.assert_array_equal(session.run([X, X])[0], X * 3)
    np.testing.assert_array_equal(session.run([X, X, np.array(4)])[0], X * 5)


def test_an_argument_that_is_no_tensor_is_named() -> None:
    with pytest.raises(TypeError, match=r"argument 'x' of forward is a List\[Tensor\]"):
        load("TORCH", blob(Lists()))


def test_outputs_that_are_no_tensors() -> None:
    with pytest.raises(TypeError, match="^Function returned non-tensor values$"):
        load("TORCH", blob(Table())).run([X])


class Cast(torch.nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.dtype)


def test_a_type_that_numpy_lacks_is_named() -> None:
    with pytest.raises(TypeError, match="output 0 has type bfloat16"):
        load("TORCH", blob(Cast(torch.bfloat16))).run([X])


@pytest.mark.parametrize("dtype", "float32 float64 int8 int16 int32 int64 uint8 bool".split())  # noqa: SIM905
def test_types(dtype: str) -> None:
    x = np.array([[0, 1]]).astype(dtype)
    (y,) = load("TORCH", blob(torch.nn.Identity())).run([x])
    assert y is not None and y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)


def test_strings_are_refused() -> None:
    with pytest.raises(TypeError, match="no STRING tensors"):
        load("TORCH", blob(torch.nn.Identity())).run([np.array([b"a"], object)])


class Columns(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.t(), x[:0]


def test_views_and_empty_tensors() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    columns, nothing = load("TORCH", blob(Columns())).run([x])
    assert nothing is not None and nothing.shape == (0, 3)
    np.testing.assert_array_equal(columns, x.T)


class Weight(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight


def test_a_parameter_can_be_an_output() -> None:
    np.testing.assert_array_equal(load("TORCH", blob(Weight())).run([X])[0], [1, 1])


def test_eval_mode() -> None:
    np.testing.assert_array_equal(load("TORCH", blob(torch.nn.Dropout(0.99))).run([X])[0], X)


def test_frozen_models() -> None:
    session = load("TORCH", saved(torch.jit.freeze(torch.jit.script(Divide().eval()))))
    np.testing.assert_array_equal(session.run([X.copy()])[0], X / 255)


def test_functions() -> None:
    session = load("TORCH", saved(torch.jit.script(twice)))
    x = X.copy()
    np.testing.assert_array_equal(session.run([x])[0], X * 2)
    np.testing.assert_array_equal(x, X)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def test_blobs_that_are_no_torchscript(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = blob(Relu())
    state = io.BytesIO()
    torch.save({"trap": Trap()}, state)
    for broken in (b"", b"x", os.urandom(1000), whole[:200], whole[:-200], pickle.dumps(Trap()), state.getvalue()):
        with pytest.raises(RuntimeError):
            load("TORCH", broken)
    assert not list(tmp_path.iterdir())


def test_gpu_without_cuda() -> None:
    if torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="GPU:99 requested but Torch found only"):
            load("TORCH", blob(Relu()), device="GPU:99")
    else:
        with pytest.raises(RuntimeError, match="^GPU requested but Torch couldn't find CUDA$"):
            load("TORCH", blob(Relu()), device="GPU")
