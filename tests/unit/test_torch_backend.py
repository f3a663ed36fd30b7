"""The TORCH backend without a server."""
# TorchScript reads these classes its own way, and takes no comments in them that mypy would need.
# mypy: disable-error-code="no-any-return, no-untyped-call, empty-body, assignment, operator, return-value"

import io
import os
import pickle
import re
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.loading import load


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
        Optional: (("x", "bias", "scale"), ("",)),
        Table: (("x",), ("x",)),
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


class Cast(torch.nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.dtype)


def test_a_type_that_tensors_cannot_have_is_named() -> None:
    with pytest.raises(TypeError, match="output 0 has type float8_e4m3fn"):
        load("TORCH", blob(Cast(torch.float8_e4m3fn))).run([X])


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


# ---- what models must not reach, or change -----------------------------------------------------------------------


NESTED: dict[str, Callable[[int], str]] = {
    "parentheses": lambda n: "(" * n + "input" + ")" * n,
    "signs": lambda n: "-" * n + "input",
    "sums": lambda n: "input" + " + input" * n,
    "conditions": lambda n: "input if True else " * n + "input",
}


def with_code(expression: str, more: str = "", returns: str = "Tensor") -> bytes:
    """An archive whose forward, in TorchScript as no compiler writes it, is `return expression`."""
    code = f"""class Identity(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
{more}  def forward(self: __torch__.torch.nn.modules.linear.Identity,
    input: Tensor) -> {returns}:
    return {expression}
"""
    original, changed = io.BytesIO(blob(torch.nn.Identity())), io.BytesIO()
    with zipfile.ZipFile(original) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            if not name.endswith("debug_pkl"):
                new.writestr(name, code if name.endswith(".py") else old.read(name))
    return changed.getvalue()


# They return their input, and do not declare it.
HIDDEN = """
type_as(x, torch.zeros([1]))
atleast_1d(x)
alpha_dropout(x, 0.5, False)
feature_dropout(x, 0.5, False)
_unsafe_view(x, [2])
broadcast_tensors([x, x])[0]
meshgrid([x])[0]
contiguous(x)
to(x, 6)
reshape(x, [2])
flatten(x, 0)
expand_as(x, x)
squeeze(atleast_2d(type_as(x, x)))
add(type_as(x, x), 0)
type_as(add(x, 0), x)
""".strip().splitlines()


@pytest.mark.parametrize(
    "write", ["torch.add_(y, 1)", "torch.add(y, 1, out=y)", "torch.fill_(torch.select(y, 0, 0), 7)"]
)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_an_input_never_changes_through_what_hides_that_it_is_one(hidden: str, write: str) -> None:
    names = "|".join(["zeros", *re.findall(r"\w+(?=\()", hidden)])
    y = re.sub(rf"(?<![.\w])({names})\(", r"torch.\1(", hidden)
    for result in ("y", "input"):
        more = f"""  def write(self: __torch__.torch.nn.modules.linear.Identity, x: Tensor) -> Tensor:
    y = {y}
    z = {write}
    return y
"""
        session = load(
            "TORCH",
            with_code("(self).write(input, )" if result == "y" else "torch.cat([input, (self).write(input, )])", more),
        )
        for _ in range(3):
            x = X.copy()
            session.run([x])
            np.testing.assert_array_equal(x, X)


class HiddenWeight(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.total.type_as(x)
        total += 1
        return x + total


class Statistics(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.type_as(torch.ones(1))
        y = x.unsqueeze(0).repeat(3, 1) + torch.arange(3).unsqueeze(1)
        return torch.nn.functional.batch_norm(y, mean, torch.ones(2), training=True)


def test_a_weight_written_through_what_hides_it_makes_a_model_stateful() -> None:
    session: Any = load("TORCH", blob(HiddenWeight()))
    assert session._copies and session._lock is not None


def test_statistics_are_written_to() -> None:
    session = load("TORCH", blob(Statistics()))
    for _ in range(3):
        x = X.copy()
        session.run([x])
        np.testing.assert_array_equal(x, X)


class Residual(torch.nn.Module):
    """As image classifiers are made."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(2, 2, 3, padding=1)
        self.norm = torch.nn.BatchNorm1d(2)
        self.relu = torch.nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.norm(self.conv(x)))
        y = self.norm(self.conv(y))
        y += x
        y[:, 0] *= 2
        return self.relu(y)


@pytest.mark.parametrize("how", [torch.jit.script, lambda module: torch.jit.trace(module, torch.ones(1, 2, 4))])
def test_inputs_are_shared_where_writes_are_to_new_memory(how: Any) -> None:
    session: Any = load("TORCH", saved(how(Residual().eval())))
    assert not session._copies and session._lock is None


class DivideAndProject(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x /= 255
        return self.linear(x)


def test_a_model_that_writes_to_its_input_only_is_not_stateful() -> None:
    session: Any = load("TORCH", blob(DivideAndProject()))
    assert session._copies and session._lock is None


def test_branches_that_a_transformer_does_not_take() -> None:
    session: Any = load("TORCH", blob(torch.nn.TransformerEncoderLayer(4, 2)))
    assert not session._copies and session._lock is None


FORBIDDEN = {
    "torch.from_file('trap', True, 10)": "aten::from_file",
    "torch.from_file(\"trap\", True, 10)": "aten::from_file",
    "ops.aten.from_file(\"trap\", True, 10)": "aten::from_file",
    "torch.save(input, \"trap\")": "aten::save",
    "(input).save(\"trap\")": "aten::save",
    "(input .\n save)(\"trap\")": "aten::save",
    "(input . # here\n save)(\"trap\")": "aten::save",
    "torch._reshape_alias(input, [100000], [1])": "aten::_reshape_alias",
    "ops.aten._reshape_alias(input, [100000], [1])": "aten::_reshape_alias",
    "torch._unsafe_index(input, [input])": "aten::_unsafe_index",
    "torch.set_(input, input, 0, [100], [1])": "aten::set_",
    "torch._sparse_coo_tensor_unsafe(input, input, [1])": "aten::_sparse_coo_tensor_unsafe",
    "torch.embedding_dense_backward(input, input, 1, 1, False)": "aten::embedding_dense_backward",
    "torch.segment_reduce(input, \"sum\", lengths=input, unsafe=True)": "aten::segment_reduce",
    "ops.inductor._reinterpret_tensor(input, [100], [1], 0)": "ops",
    "(ops).inductor._reinterpret_tensor(input, [100], [1], 0)": "ops",
    "ops.c10d.barrier(input)": "ops",
    "ops.prim.rpc_sync(\"a\", \"b\")": "prim::rpc_sync",
    "getattr(input, \"sa\" \"ve\")(\"trap\")": "getattr",
    "getattr(input, \"\\163ave\")(\"trap\")": "getattr",
    "getattr(input, \"save\")(\"trap\")": "getattr",
}  # fmt: skip


@pytest.mark.parametrize("expression", FORBIDDEN)
def test_models_may_not_use(expression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    self = "self: __torch__.torch.nn.modules.linear.Identity"
    for attack in (
        with_code(expression),
        with_code(expression, returns="NoneType"),
        with_code("input", f"  def other({self}, input: Tensor) -> Tensor:\n    return {expression}\n"),
        with_code("input", f"  def other({self}, input: Tensor, x: Tensor={expression}) -> Tensor:\n    return x\n"),
        with_code("input", f"  x : Final[Tensor] = {expression}\n"),
        with_code(
            "input",
            f"  def __getstate__({self}) -> Tensor:\n    return torch.zeros([1])\n"
            f"  def __setstate__({self}, input: Tensor) -> NoneType:\n    x = {expression}\n    return None\n",
        ),
    ):
        with pytest.raises(ValueError, match=f"{FORBIDDEN[expression]}.* cannot"):
            load("TORCH", attack)
    assert not list(tmp_path.iterdir())


class FromFile(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return torch.from_file("trap", False, 1)
        return x


class ViaInterface(torch.nn.Module):
    step: Step

    def __init__(self) -> None:
        super().__init__()
        self.step = FromFile()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.step.forward(x)


def from_file(x: torch.Tensor) -> torch.Tensor:
    return torch.from_file("trap", False, 1)


class ViaFork(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(from_file, x))


@pytest.mark.parametrize("module", [FromFile, ViaInterface, ViaFork])
@pytest.mark.parametrize("text_is_checked", [True, False])
def test_graphs_are_looked_through_as_the_text_is(
    module: type[torch.nn.Module], text_is_checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = blob(module())
    if not text_is_checked:
        names = type(load("TORCH", blob(Relu()))).__init__.__globals__
        monkeypatch.setitem(names, "refuse_archive", lambda blob: None)
    with pytest.raises(ValueError, match="^aten::from_file cannot be used in a model$"):
        load("TORCH", model)


class Names(torch.nn.Module):
    """Harmless, though its names are those of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.save = [1, 2]
        self.ops = torch.nn.Linear(2, 2)
        self.lstm_backward = torch.nn.Linear(2, 2)
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.layers(self.lstm_backward(self.ops(x)))


@pytest.mark.parametrize("how", [torch.jit.script, lambda module: torch.jit.trace(module, torch.ones(2))])
def test_names_that_look_like_operators(how: Any) -> None:
    load("TORCH", saved(how(Names().eval()))).run([X])


class GradientsOn(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.set_grad_enabled(True)
        return x


class Gradients(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([torch.is_grad_enabled()])


def test_gradients_that_a_model_left_on_are_off_in_the_next_run() -> None:
    load("TORCH", blob(GradientsOn())).run([X])
    (y,) = load("TORCH", blob(Gradients())).run([X])
    assert y is not None and not y[0]


def test_a_getattr_of_a_getattr_hides_no_name() -> None:
    """Loading runs __setstate__, and no graph shows what that calls."""
    code = '  def __setstate__(self, t: Tensor) -> None:\n    y = getattr(getattr(self, "t"), "resize_")([1000])\n'
    with pytest.raises(ValueError, match="getattr cannot be used"):
        load("TORCH", with_code("input", code))


HOSTILE = {
    "quotes": '"' + '\\"' * 20_000,
    "name": "input.x" + "_backward" * 5_000,
    "getattr": 'getattr(input, "x' + "_backward" * 5_000 + ' ")',
    "nested": "getattr(" * 6_000 + 'input, "x")',
    "comments": "input." + "#.\n" * 15_000 + "  x",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_text_takes_long_to_search(kind: str) -> None:
    """The search keeps Python's lock. With twice the text it may take twice as long, not four times."""
    begin = time.process_time()
    with pytest.raises((ValueError, RuntimeError)):
        load("TORCH", with_code(HOSTILE[kind]))
    assert time.process_time() - begin < 0.5


@pytest.mark.parametrize("kind", NESTED)
def test_deep_archives_do_not_crash(kind: str) -> None:
    for depth in (100, 10_000, 100_000):
        try:
            load("TORCH", with_code(NESTED[kind](depth)))
        except Exception as error:
            assert depth > 100, error


def test_a_statement_over_many_lines_is_one() -> None:
    with pytest.raises(ValueError, match="a statement of the model is too large"):
        load("TORCH", with_code("(-\n" * 100_000 + "input" + ")" * 100_000))
    with pytest.raises(ValueError, match="a statement of the model is too large"):
        load("TORCH", with_code('f(")", \n' + "(-\n" * 100_000 + "input" + ")" * 100_001))


def test_deep_blocks() -> None:
    lines = "".join("  " * depth + "if True:\n" for depth in range(2, 2000)) + "  " * 2000 + "pass\n"
    with pytest.raises(ValueError, match="nests more than 200 blocks"):
        load("TORCH", with_code("input", f"  def other(self, x: Tensor) -> Tensor:\n{lines}    return x\n"))


class Long(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(10_000):
            x = x * x
        return x


def test_long_traces_are_not_deep() -> None:
    """As many operators as in the largest networks, more than a function of a script can have."""
    np.testing.assert_array_equal(load("TORCH", saved(torch.jit.trace(Long(), torch.ones(2)))).run([X / X])[0], X / X)


def test_an_archive_for_the_mobile_interpreter_is_refused() -> None:
    whole = blob(Relu())
    with pytest.raises(RuntimeError, match="no TorchScript archive"):
        load("TORCH", whole[:4] + b"PTMF" + whole[8:])


def test_a_bomb_is_refused() -> None:
    original, changed = io.BytesIO(blob(Relu())), io.BytesIO()
    with zipfile.ZipFile(original) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) + b"\n" * (100 << 20) * name.endswith(".py"))
    assert len(changed.getvalue()) < 2 << 20
    with pytest.raises(ValueError, match="bytes of code"):
        load("TORCH", changed.getvalue())


def test_older_versions_of_pytorch_do_not_tell_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    open_archive: Any = torch._C.PyTorchFileReader

    class Reader:
        def __init__(self, file: io.BytesIO) -> None:
            reader = open_archive(file)
            self.get_all_records, self.get_record = reader.get_all_records, reader.get_record

    monkeypatch.setattr(torch._C, "PyTorchFileReader", Reader)
    load("TORCH", with_code("input"))
    with pytest.raises(ValueError, match="bytes of code"):
        load("TORCH", with_code("input", "#" * (65 << 20)))
