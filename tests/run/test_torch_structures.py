"""TorchScript models whose forward takes or returns lists, tuples, dicts, strings, numbers or None."""

# TorchScript reads comments about types in the code that it compiles, so they cannot stand there.
# mypy: disable-error-code="no-any-return, no-untyped-call"
# ruff: noqa: UP006, UP035, UP045 - TorchScript knows these spellings in every version

from __future__ import annotations

import io
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from testkit import models, scripts
from testkit.batches import batching
from testkit.dags import OK, ask, check
from testkit.paths import both_paths, check_path
from testkit.server import Server
from testkit.wire import Error, Wire, Word

INPUTS_MISMATCH = Error("ERR Number of keys given as INPUTS here does not match model definition")
OUTPUTS_MISMATCH = Error("ERR Number of keys given as OUTPUTS here does not match model definition")


@pytest.fixture
def stored(wire: Wire) -> Wire:
    """x1 to x9, each of its number and ten times that; a text; the keys of a dict; a number."""
    for i in range(1, 10):
        wire.ask("AI.TENSORSET", f"x{i}", "FLOAT", 2, "VALUES", i, 10 * i)
    wire.ask("AI.TENSORSET", "text", "STRING", 1, "VALUES", "twice")
    wire.ask("AI.TENSORSET", "keys", "STRING", 2, "VALUES", "b", "a")
    wire.ask("AI.TENSORSET", "three", "INT64", 1, "VALUES", 3)
    return wire


def store(wire: Wire, module: type, *options: Word) -> Any:
    return wire.ask("AI.MODELSTORE", "m", "TORCH", "CPU", *options, "BLOB", models.torch_module(module))


def run(wire: Wire, inputs: str, outputs: int = 1) -> Any:
    """The first numbers of all outputs, or the error."""
    keys = inputs.split()
    names = [f"y{i}" for i in range(outputs)]
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", len(keys), *keys, "OUTPUTS", outputs, *names)
    if isinstance(reply, Error):
        return reply
    return [float(wire.ask("AI.TENSORGET", name, "VALUES")[0]) for name in names]


def declared(wire: Wire) -> list[list[bytes]]:
    meta = wire.ask("AI.MODELGET", "m", "META")
    return [meta[11], meta[13]]


def details(wire: Wire) -> list[dict[bytes, Any]]:
    ports = wire.ask("AI.MODELGET", "m", "META", "FULL")[17]
    return [dict(zip(port[::2], port[1::2], strict=True)) for port in ports]


# ---- inputs ----------------------------------------------------------------------------------------------------------


class Lists(nn.Module):
    def forward(self, first: Tensor, xs: List[Tensor], last: Tensor) -> Tensor:
        y = first * 100 - last * 1000
        for x in xs:
            y = y + x
        return y


def test_a_list_gets_what_the_others_leave(stored: Wire) -> None:
    assert store(stored, Lists) == b"OK"
    assert run(stored, "x1 x2") == [-1900]
    assert run(stored, "x1 x2 x3") == [-2898]
    assert run(stored, "x1 x2 x3 x4 x5") == [-4891]
    assert run(stored, "x1") == INPUTS_MISMATCH
    assert [(port[b"name"], port.get(b"type")) for port in details(stored)] == [
        (b"first", None),
        (b"xs", b"List[Tensor]"),
        (b"last", None),
    ]


class Tuples(nn.Module):
    def forward(self, pair: Tuple[Tensor, Tuple[Tensor, int]], x: Tensor) -> Tensor:
        return pair[0] + 100 * pair[1][0] * pair[1][1] + 10000 * x


def test_a_tuple_gets_an_input_for_each_part(stored: Wire) -> None:
    assert store(stored, Tuples) == b"OK"
    assert declared(stored)[0] == [b"pair.0", b"pair.1.0", b"pair.1.1", b"x"]
    assert run(stored, "x1 x2 three x4") == [40601]
    assert run(stored, "x1 x2 three") == INPUTS_MISMATCH
    assert run(stored, "x1 x2 three x4 x5") == INPUTS_MISMATCH


class Dicts(nn.Module):
    def forward(self, named: Dict[str, Tensor], more: List[Tensor]) -> Tensor:
        return named["a"] + 100 * named["b"] + 1000 * len(more)


def test_a_dict_gets_its_keys_and_then_its_tensors(stored: Wire) -> None:
    assert store(stored, Dicts) == b"OK"
    assert run(stored, "keys x1 x2") == [102]
    assert run(stored, "keys x1 x2 x3 x4") == [2102]
    assert run(stored, "keys x1") == INPUTS_MISMATCH
    reply = run(stored, "x1 x2 x3")
    assert "argument 'named' of forward is a Dict[str, Tensor]: a STRING tensor of its keys comes first" in reply


class Texts(nn.Module):
    def forward(self, x: Tensor, how: str, power: int = 1) -> Tensor:
        return (x * 2 if how == "twice" else -x) ** power


def test_a_string(stored: Wire) -> None:
    assert store(stored, Texts) == b"OK"
    stored.ask("AI.TENSORSET", "other", "STRING", 1, "VALUES", "é")
    assert run(stored, "x2 text") == [4]
    assert run(stored, "x2 other") == [-2]
    assert run(stored, "x2 text three") == [64]
    assert "argument 'how' of forward is a str: a STRING tensor of one element is needed" in run(stored, "x2 keys")
    assert "argument 'how' of forward is a str" in run(stored, "x2 x1")
    assert run(stored, "x2") == INPUTS_MISMATCH


class Optionals(nn.Module):
    def forward(self, x: Tensor, mask: Optional[Tensor], bias: Optional[Tensor] = None, scale: float = 2.0) -> Tensor:
        y = x * scale
        if mask is not None:
            y = y + 100 * mask
        return y if bias is None else y + 1000 * bias


@both_paths
def test_optional_inputs_may_be_left_out(server: Server, stored: Wire) -> None:
    assert store(stored, Optionals) == b"OK"
    assert declared(stored)[0] == [b"x", b"mask", b"bias", b"scale"]
    assert [port.get(b"optional", 0) for port in details(stored)] == [0, 1, 1, 1]
    assert run(stored, "x1") == [2]
    assert run(stored, "x1 x2") == [202]
    assert run(stored, "x1 x2 x3") == [3202]
    assert run(stored, "x1 x2 x3 three") == [3203]
    assert run(stored, "x1 x2 x3 three x5") == INPUTS_MISMATCH


class InPlace(nn.Module):
    def forward(self, xs: List[Tensor], pair: Tuple[Tensor, Tensor]) -> Tensor:
        pair[0].add_(1)
        xs[0].add_(1)
        xs.append(pair[1])
        return xs[0] + pair[0]


def test_inputs_in_containers_are_never_changed(stored: Wire) -> None:
    assert store(stored, InPlace) == b"OK"
    for _ in range(2):
        assert run(stored, "x1 x2 x3") == [5]
    assert [stored.ask("AI.TENSORGET", key, "VALUES")[0] for key in ("x1", "x2", "x3")] == [b"1", b"2", b"3"]


class Numbered(nn.Module):
    def forward(self, named: Dict[int, Tensor]) -> Tensor:
        return named[0]


class Nested(nn.Module):
    def forward(self, xs: List[List[Tensor]]) -> Tensor:
        return xs[0][0]


class TwoLists(nn.Module):
    def forward(self, xs: List[Tensor], ys: List[Tensor]) -> Tensor:
        return xs[0] + ys[0]


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (
            Numbered,
            "argument 'named' of forward is a Dict[int, Tensor]; only tensors, numbers, strings, tuples of them,",
        ),
        (Nested, "argument 'xs' of forward is a List[List[Tensor]]; only tensors"),
        (TwoLists, "argument 'ys' of forward takes any number of inputs, and so does a list before it"),
    ],
)
def test_what_no_inputs_can_make_is_not_stored(wire: Wire, module: type, reason: str) -> None:
    reply = store(wire, module)
    assert isinstance(reply, Error) and reason in reply
    assert wire.ask("EXISTS", "m") == 0


# ---- outputs ---------------------------------------------------------------------------------------------------------


class Loss(NamedTuple):
    loss: Tensor
    logits: Tuple[Tensor, Dict[str, Tensor]]


class Named(nn.Module):
    def forward(self, x: Tensor) -> Loss:
        return Loss(x, (x + 1, {"last": x + 2, "first": x + 3}))


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        return {"z": x, "a": x * 2}


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        return self.inner(x)


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> Tuple[int, Dict[str, float], None, bool, Tensor]:
        return x.size(0), {"mean": 0.1}, None, True, x


class Grown(nn.Module):
    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        found = {"z": x}
        found["b"] = x + 1
        found["a"] = x + 2
        return found


class Boxes(nn.Module):
    def forward(self, xs: List[Tensor]) -> List[Dict[str, Tensor]]:
        return [{"boxes": x, "scores": x * 2} for x in xs]


@both_paths
@pytest.mark.parametrize(
    ("module", "names", "numbers"),
    [
        (Named, [b"loss", b"logits", b"logits.last", b"logits.first"], [2, 3, 4, 5]),
        (Table, [b"z", b"a"], [2, 4]),
        (Mixed, [b"", b"mean", b"", b""], [2, 0.1, 1, 2]),
        (Grown, [], [2, 3, 4]),
        (Boxes, [], [2, 4]),
    ],
)
def test_outputs_come_in_order(
    server: Server, stored: Wire, module: type, names: list[bytes], numbers: list[float]
) -> None:
    assert store(stored, module) == b"OK"
    assert declared(stored)[1] == names
    assert run(stored, "x2", len(numbers)) == numbers
    assert run(stored, "x2", len(numbers) + 1) == OUTPUTS_MISMATCH
    assert stored.ask("AI.INFO", "m")[-1] == (0 if names else 1), "it is refused at once if the names are known"
    if module is Mixed:
        dtypes = [stored.ask("AI.TENSORGET", f"y{i}", "META") for i in range(4)]
        assert [(meta[1], meta[3]) for meta in dtypes] == [
            (b"INT64", []),
            (b"DOUBLE", []),
            (b"BOOL", []),
            (b"FLOAT", [2]),
        ]


class Perhaps(nn.Module):
    def forward(self, x: Tensor, y: Optional[Tensor] = None) -> Tuple[Tensor, Optional[Tensor]]:
        return x, y


def test_none_gives_no_output(stored: Wire) -> None:
    assert store(stored, Perhaps) == b"OK"
    assert run(stored, "x1") == [1]
    assert run(stored, "x1", 2) == OUTPUTS_MISMATCH
    assert run(stored, "x1 x2", 2) == [1, 2]
    assert stored.ask("EXISTS", "y1") == 1


class Text(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, List[str]]:
        return x, ["a"]


def test_what_no_tensor_can_hold_is_not_stored(wire: Wire) -> None:
    assert store(wire, Text) == Error(
        "ERR forward returns a Tuple[Tensor, List[str]]; only tensors, numbers, None, and lists, tuples and dicts of"
        " them can be outputs"
    )
    assert wire.ask("EXISTS", "m") == 0


class Traced(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return {"last_hidden_state": x * 2, "pooler_output": x.sum()}


@both_paths
def test_a_traced_model_that_returns_a_dict(server: Server, stored: Wire) -> None:
    """As transformers are traced."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(Traced(), torch.ones(2), strict=False), buffer)
    assert stored.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", buffer.getvalue()) == b"OK"
    assert declared(stored)[1] == [b"last_hidden_state", b"pooler_output"]
    assert run(stored, "x2", 2) == [4, 22]
    check_path(server, python=1)


def test_more_outputs_than_memory_has_room_for(wire: Wire) -> None:
    """2 to the power of 40, by a dict of dicts of dicts."""
    lines = ["d0 = {'a': x, 'b': x}", *[f"d{n + 1} = {{'a': d{n}, 'b': d{n}}}" for n in range(39)], "return d39"]
    module: Any = type("Nested", (torch.jit.ScriptModule,), {})()
    module.define("def forward(self, x):\n    " + "\n    ".join(lines) + "\n")
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    reply = wire.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", buffer.getvalue())
    assert reply == Error("ERR forward returns more than 4096 values: return fewer, or stack them")


# ---- elsewhere -------------------------------------------------------------------------------------------------------


def test_in_dags_scripts_and_batches(stored: Wire) -> None:
    scripts.store_models(stored)
    assert store(stored, Table, *batching(8)) == b"OK"
    op = "AI.MODELEXECUTE m INPUTS 1 x2 OUTPUTS 2 z a"
    check(ask(stored, f"AI.DAGEXECUTE LOAD 1 x2 |> {op} |> AI.TENSORGET a VALUES"), [OK, [b"4", b"40"]])
    assert stored.ask(*scripts.execute("s", "counted", ["m"], ["x3"], [2], ["y", "z"])) == b"OK"
    assert stored.ask("AI.TENSORGET", "z", "VALUES") == [b"6", b"60"]


def test_dicts_are_divided_in_batches(server: Server, wire: Wire) -> None:
    assert store(wire, Table, *batching(8, 6)) == b"OK"
    others = [server.wire() for _ in range(3)]
    for _ in range(3):
        for rows, other in enumerate(others, 1):
            other.ask("AI.TENSORSET", f"x{rows}", "FLOAT", rows, 1, "VALUES", *[rows] * rows)
            other.send("AI.MODELEXECUTE", "m", "INPUTS", 1, f"x{rows}", "OUTPUTS", 2, f"z{rows}", f"a{rows}")
        for rows, other in enumerate(others, 1):
            assert other.read() == b"OK"
            _, _, _, shape, _, data = other.ask("AI.TENSORGET", f"a{rows}")
            assert shape == [rows, 1] and np.frombuffer(data, np.float32).tolist() == [2 * rows] * rows
    for other in others:
        other.close()
