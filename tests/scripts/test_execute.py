"""AI.SCRIPTEXECUTE and AI.SCRIPTRUN: sections in any order, results of every form, both calling conventions."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from testkit import scripts
from testkit.paths import both_paths
from testkit.scripts import execute, function, store, store_old, store_plain, values
from testkit.wire import Error, Simple, Wire, Word

pytestmark = both_paths


@pytest.fixture
def stored(wire: Wire) -> Wire:
    store_plain(wire)
    store_old(wire)
    wire.ask("AI.TENSORSET", "a", "FLOAT", 2, "VALUES", 1, 2)
    wire.ask("AI.TENSORSET", "b", "FLOAT", 2, "VALUES", 30, 40)
    return wire


SECTIONS = ("KEYS 2 k l", "INPUTS 2 a b", "ARGS 3 x y z", "OUTPUTS 1 y")


@pytest.mark.parametrize("sections", [order for order in permutations(SECTIONS) if order[0][0] in "KI"], ids=" ".join)
def test_sections_in_any_order(stored: Wire, sections: tuple[str, ...]) -> None:
    """KEYS or INPUTS first, TIMEOUT last."""
    line = " ".join(["AI.SCRIPTEXECUTE s count", *sections])
    for each in (line, f"{line} TIMEOUT 10000", line.replace("SCRIPTEXECUTE s count", "scriptexecute s count").lower()):
        stored.ask("DEL", "y")
        reply = stored.ask(*each.split())
        assert (type(reply), reply) == (Simple, b"OK"), each
        assert values(stored, "y") == [2, 2, 3]


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("INPUTS 1 a OUTPUTS 1 y", [1, 0, 0]),
        ("KEYS 1 k OUTPUTS 1 y", [0, 1, 0]),
        ("KEYS 1 k ARGS 2 a b OUTPUTS 1 y", [0, 1, 2]),
        ("INPUTS 3 a a a OUTPUTS 1 y", [3, 0, 0]),
        ("KEYS 3 a a a INPUTS 1 a OUTPUTS 1 y", [1, 3, 0]),
        ("KEYS 2 INPUTS ARGS INPUTS 1 a ARGS 2 OUTPUTS TIMEOUT OUTPUTS 1 y TIMEOUT 9000", [1, 2, 2]),
    ],
)
def test_sections_may_be_left_out(stored: Wire, line: str, counts: list[int]) -> None:
    """A word within the count of a section is never a keyword."""
    assert stored.ask("AI.SCRIPTEXECUTE", "s", "count", *line.split()) == b"OK"
    assert values(stored, "y") == counts


@pytest.mark.parametrize(
    ("name", "inputs", "args", "results"),
    [
        ("add", ["a", "b"], [], [[b"31", b"42"]]),
        ("total", ["a", "b", "a"], [], [[b"76"]]),
        ("two", ["a"], [], [[b"2", b"3"], [b"2", b"4"]]),
        ("listed", ["a"], [], [[b"2", b"3"], [b"2", b"4"]]),
        ("nested", ["a"], [], [[b"1", b"2"], [b"2", b"3"], [b"2", b"4"]]),
        ("scaled", ["a"], ["0.5", "-3"], [[b"-2.5", b"-2"]]),
        ("uses_helper", ["a"], [], [[b"4", b"5"]]),
        ("itself", ["a"], [], [[b"1", b"2"]]),
        ("scalar", ["b"], [], [[b"70"]]),
        ("empty", ["b"], [], [[]]),
        ("shapes", ["a", "b"], [], [[b"1", b"2", b"30", b"40"]]),
    ],
)
def test_results(stored: Wire, name: str, inputs: list[Word], args: list[Word], results: list[list[bytes]]) -> None:
    outputs: list[Word] = [f"y{number}" for number in range(len(results))]
    assert stored.ask(*execute("s", name, inputs=inputs, args=args, outputs=outputs)) == b"OK"
    assert [values(stored, output) for output in outputs] == results


@pytest.mark.parametrize("name", ["nothing", "none"])
def test_functions_without_outputs(stored: Wire, name: str) -> None:
    before = stored.ask("DBSIZE")
    reply = stored.ask(*execute("s", name, inputs=["a"]))
    assert (type(reply), reply) == (Simple, b"OK")
    assert stored.ask("AI.SCRIPTRUN", "old", "nothing", "INPUTS", "a") == b"OK"
    assert stored.ask("DBSIZE") == before


def test_a_result_that_nobody_asked_for(stored: Wire) -> None:
    """Without OUTPUTS it is dropped, whatever it is."""
    before = stored.ask("DBSIZE")
    for name in ("add", "two", "number", "text", "mixed"):
        assert stored.ask(*execute("s", name, inputs=["a", "b"], args=["x"])) == b"OK"
    assert stored.ask("DBSIZE") == before


def test_shapes_and_types_of_results(stored: Wire) -> None:
    stored.ask("AI.TENSORSET", "m", "INT16", 2, 3, "VALUES", 1, 2, 3, 4, 5, 6)
    assert stored.ask(*execute("s", "view", inputs=["m"], outputs=["y"])) == b"OK"
    assert stored.ask("AI.TENSORGET", "y", "META", "VALUES") == [
        b"dtype", b"INT16", b"shape", [3, 2], b"values", [1, 4, 2, 5, 3, 6],
    ]  # fmt: skip
    assert stored.ask(*execute("s", "scalar", inputs=["a"], outputs=["y"])) == b"OK"
    assert stored.ask("AI.TENSORGET", "y", "META") == [b"dtype", b"FLOAT", b"shape", []]
    assert stored.ask(*execute("s", "empty", inputs=["m"], outputs=["y"])) == b"OK"
    assert stored.ask("AI.TENSORGET", "y") == [b"dtype", b"INT16", b"shape", [0, 3], b"blob", b""]


@pytest.mark.parametrize("dtype", ["FLOAT", "DOUBLE", "INT8", "INT16", "INT32", "INT64", "UINT8", "BOOL"])
def test_every_type(stored: Wire, dtype: str) -> None:
    stored.ask("AI.TENSORSET", "x", dtype, 2, "VALUES", 0, 1)
    assert stored.ask(*execute("s", "itself", inputs=["x"], outputs=["y"])) == b"OK"
    assert stored.ask("AI.TENSORGET", "y") == stored.ask("AI.TENSORGET", "x")


def test_a_large_result_is_right(stored: Wire) -> None:
    x = np.random.default_rng(1).random(1_000_000, np.float32)
    stored.ask("AI.TENSORSET", "x", "FLOAT", 1000, 1000, "BLOB", x.tobytes())
    assert stored.ask(*execute("s", "two", inputs=["x"], outputs=["y", "z"])) == b"OK"
    assert stored.ask("AI.TENSORGET", "y", "BLOB") == (x + np.float32(1)).tobytes()
    assert stored.ask("AI.TENSORGET", "z", "BLOB") == (x * np.float32(2)).tobytes()


def test_many_inputs_and_arguments(stored: Wire) -> None:
    words = execute("s", "count", ["k"] * 500, ["a"] * 500, ["x"] * 500, ["y"])
    assert stored.ask(*words) == b"OK"
    assert values(stored, "y") == [500, 500, 500]


def test_one_key_as_input_and_output(stored: Wire) -> None:
    assert stored.ask(*execute("s", "add", inputs=["a", "a"], outputs=["a"])) == b"OK"
    assert values(stored, "a") == [b"2", b"4"]
    assert stored.ask("AI.SCRIPTRUN", "old", "add", "INPUTS", "a", "a", "OUTPUTS", "a") == b"OK"
    assert values(stored, "a") == [b"4", b"8"]


def test_one_output_key_twice(stored: Wire) -> None:
    """Either way one of the two results, and a server that goes on."""
    reply = stored.ask(*execute("s", "two", inputs=["a"], outputs=["y", "y"]))
    assert reply == b"OK" or isinstance(reply, Error)
    if reply == b"OK":
        assert values(stored, "y") == [b"2", b"4"]


def test_results_go_to_the_right_database(stored: Wire) -> None:
    stored.ask("COPY", "s", "s", "DB", 3)
    stored.ask("COPY", "b", "a", "DB", 3)
    stored.ask("SELECT", 3)
    assert stored.ask(*execute("s", "itself", inputs=["a"], outputs=["y"])) == b"OK"
    assert values(stored, "y") == [b"30", b"40"]
    stored.ask("SELECT", 0)
    assert stored.ask("EXISTS", "y") == 0


# ---- the old convention ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "results"),
    [
        ("AI.SCRIPTRUN old add INPUTS a b OUTPUTS y", [[b"31", b"42"]]),
        ("ai.scriptrun old add inputs a b outputs y", [[b"31", b"42"]]),
        ("AI.SCRIPTRUN old add TIMEOUT 9000 INPUTS a b OUTPUTS y", [[b"31", b"42"]]),
        ("AI.SCRIPTRUN old addn INPUTS a $ b b OUTPUTS y", [[b"141", b"142"]]),
        ("AI.SCRIPTRUN old addn INPUTS a $ b OUTPUTS y", [[b"71", b"72"]]),
        ("AI.SCRIPTRUN old only INPUTS $ a b OUTPUTS y", [[b"73"]]),
        ("AI.SCRIPTRUN old two INPUTS a OUTPUTS y z", [[b"2", b"3"], [b"2", b"4"]]),
        ("AI.SCRIPTRUN old helped INPUTS b OUTPUTS y", [[b"60", b"80"]]),
        ("AI.SCRIPTRUN old constant INPUTS OUTPUTS y", [[b"7"]]),
        ("AI.SCRIPTEXECUTE old add INPUTS 2 a b OUTPUTS 1 y", [[b"31", b"42"]]),
        ("AI.SCRIPTEXECUTE old two INPUTS 1 a OUTPUTS 2 y z", [[b"2", b"3"], [b"2", b"4"]]),
        ("AI.SCRIPTEXECUTE old addn INPUTS 3 a b b OUTPUTS 1 y", [[b"141", b"142"]]),
        ("AI.SCRIPTEXECUTE old only INPUTS 2 a b OUTPUTS 1 y", [[b"73"]]),
        ("AI.SCRIPTEXECUTE old constant KEYS 1 k OUTPUTS 1 y", [[b"7"]]),
        ("AI.SCRIPTEXECUTE old add INPUTS 2 a b OUTPUTS 1 y TIMEOUT 9000", [[b"31", b"42"]]),
    ],
)
def test_functions_of_scripts_stored_the_old_way(stored: Wire, line: str, results: list[list[bytes]]) -> None:
    reply = stored.ask(*line.split())
    assert (type(reply), reply) == (Simple, b"OK")
    assert [values(stored, key) for key in ("y", "z")[: len(results)]] == results


@pytest.mark.parametrize(
    "line", ["AI.SCRIPTRUN s add INPUTS a b OUTPUTS y", "AI.SCRIPTEXECUTE o add INPUTS 2 a b OUTPUTS 1 y"]
)
def test_the_new_convention_by_the_other_command_and_in_the_other_script(stored: Wire, line: str) -> None:
    """A function with the signature of an entry point gets the inputs as its list of tensors, whoever calls it."""
    assert stored.ask("AI.SCRIPTSET", "o", "CPU", "SOURCE", scripts.SOURCE) == b"OK"
    assert stored.ask(*line.split()) == b"OK"
    assert values(stored, "y") == [b"31", b"42"]


def test_args_reach_a_function_of_the_new_convention_in_an_old_script(stored: Wire) -> None:
    assert stored.ask("AI.SCRIPTSET", "o", "CPU", "SOURCE", scripts.SOURCE) == b"OK"
    assert stored.ask(*execute("o", "count", ["k"], ["a"], ["x", "y"], ["y"])) == b"OK"
    assert values(stored, "y") == [1, 1, 2]


# ---- what TorchScript has to have ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("torch.nn.functional.relu(x - 1.5)", [0, 0.5]),
        ("torch.nn.functional.softmax(x * 0, 0)", [0.5, 0.5]),
        ("torch.nn.functional.pad(x, [1, 0])", [0, 1, 2]),
        ("torch.nn.functional.interpolate(x.view(1, 1, 2), scale_factor=2.0)", [1, 1, 2, 2]),
        ("torch.nn.functional.one_hot(x.long(), 3)", [0, 1, 0, 0, 0, 1]),
        ("torch.stack([x, x]).sum(0)", [2, 4]),
        ("torch.cat([x, torch.zeros(1)])", [1, 2, 0]),
        ("torch.where(x > 1, x, torch.zeros_like(x))", [0, 2]),
        ("torch.topk(x, 1)[0]", [2]),
        ("torch.argmax(x)", [1]),
        ("torch.arange(3)", [0, 1, 2]),
        ("torch.full([2], 7)", [7, 7]),
        ("x.to(torch.int32) + torch.tensor([1, 2], dtype=torch.int32)", [2, 4]),
        ("x[torch.tensor([1, 0])]", [2, 1]),
        ("torch.tensor([float(i) for i in range(3)])", [0, 1, 2]),
        ("torch.linalg.vector_norm(x * torch.tensor([3.0, 2.0]))", [5]),
        ("torch.special.expit(x * 0)", [0.5, 0.5]),
        ("torch.tensor(len(str(12)) + min(1, 2) + abs(-3))", [6]),
        ('torch.tensor(int("3") + int(float("2.5")))', [5]),
        ('torch.tensor([len(w) for w in "a bc".split(" ")])', [1, 2]),
        ("torch.tensor({'k': 3}['k'])", [3]),
        ("torch.clamp(x, max=float('inf'))", [1, 2]),
        ("x.device.type == 'cpu' and x or x", None),
    ],
)
def test_what_scripts_are_written_with(stored: Wire, expression: str, result: list[float] | None) -> None:
    if result is None:
        expression, result = "torch.ones(1, device=x.device)", [1]
    store(stored, "t", function("f", f"x = tensors[0]\n    return {expression}"), ["f"])
    assert stored.ask(*execute("t", "f", inputs=["a"], outputs=["y"])) == b"OK"
    assert [float(value) for value in values(stored, "y")] == pytest.approx(result)


@pytest.mark.parametrize(
    "source",
    [
        "def f(tensors: List[Tensor], keys: List[str], args: List[str]) -> Tensor:\n    return tensors[0]\n",
        "def f(tensors: List[Tensor], keys: List[str], args: List[str]) -> List[Tensor]:\n    return tensors\n",
        "def f(tensors: List[Tensor], keys: List[str], args: List[str]) -> Tuple[Tensor]:\n    return (tensors[0],)\n",
        "def f(tensors: List[torch.Tensor], keys: List[str], args: List[str]):\n    return tensors[0]\n",
        "def g(d: Dict[str, Tensor], o: Optional[int] = None) -> Tensor:\n    return d['x']\n\n"
        "def f(tensors: List[Tensor], keys: List[str], args: List[str]):\n    return g({'x': tensors[0]})\n",
        "def f(tensors: List[Tensor], keys: List[str], args: List[str]):\n"
        "    y: Tensor = tensors[0]\n    i = 0\n    while i < 3:\n        i += 1\n"
        "        if i == 2:\n            continue\n    return y\n",
    ],
)  # fmt: skip
def test_type_annotations(stored: Wire, source: str) -> None:
    store(stored, "t", source, ["f"])
    assert stored.ask(*execute("t", "f", inputs=["a"], outputs=["y"])) == b"OK"
    assert values(stored, "y") == [b"1", b"2"]


# ---- in place --------------------------------------------------------------------------------------------------------

IN_PLACE = {
    "augmented": "x = tensors[0]\n    x += 1\n    return x",
    "method": "tensors[0].mul_(2)\n    return tensors[0]",
    "item": "x = tensors[0]\n    x[0] = 7.0\n    return x",
    "view": "tensors[0].view(-1).add_(1)\n    return tensors[0].clone()",
    "slice": "tensors[0][1:].zero_()\n    return tensors[0]",
    "out": "x = tensors[0]\n    return torch.mul(x, 2, out=x)",
    "inplace": "return torch.nn.functional.relu(tensors[0] , inplace=True) + 1",
    "another": "x = tensors.pop()\n    x.fill_(3)\n    return x",
    "loop": "for x in tensors:\n        x.sub_(1)\n    return tensors[0]",
    "list": "tensors.append(tensors[0])\n    tensors[-1].add_(5)\n    return tensors[0]",
    "helper": "changes(tensors)\n    return tensors[0]",
    "helper_of_one": "changes_one(tensors[0])\n    return tensors[0]",
    "data": "x = tensors[0].detach()\n    x.copy_(torch.zeros(2))\n    return x",
    "nothing_returned": "tensors[0].zero_()",
}
CHANGES = """
def changes_one(x: Tensor):
    x.mul_(3)

def changes(xs: List[Tensor]):
    for i in range(len(xs)):
        xs[i] += 1
"""


@pytest.fixture
def in_place(wire: Wire) -> Wire:
    store(wire, "p", CHANGES + "".join(function(name, body) for name, body in IN_PLACE.items()), list(IN_PLACE))
    store_old(wire)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", -1, 2)
    wire.ask("COPY", "x", "copy")
    return wire


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_script_that_writes_in_place_never_changes_a_stored_tensor(in_place: Wire, name: str) -> None:
    outputs: list[Word] = [] if name == "nothing_returned" else ["y"]
    results = []
    for _ in range(3):
        assert in_place.ask(*execute("p", name, inputs=["x", "x"], outputs=outputs)) == b"OK"
        results.append(values(in_place, "y"))
        assert values(in_place, "x") == [b"-1", b"2"]
        assert values(in_place, "copy") == [b"-1", b"2"]
    assert results[0] == results[1] == results[2]


def test_in_place_the_old_way(in_place: Wire) -> None:
    for line in (
        "AI.SCRIPTRUN old in_place INPUTS x OUTPUTS y",
        "AI.SCRIPTEXECUTE old in_place INPUTS 1 x OUTPUTS 1 y",
    ):
        for _ in range(2):
            assert in_place.ask(*line.split()) == b"OK"
            assert values(in_place, "y") == [b"0", b"3"]
            assert values(in_place, "x") == [b"-1", b"2"] == values(in_place, "copy")


def test_a_large_tensor_is_not_changed_either(in_place: Wire) -> None:
    """Large ones lie in the very string that the client sent."""
    x = np.random.default_rng(1).random(500_000, np.float32)
    in_place.ask("AI.TENSORSET", "x", "FLOAT", len(x), "BLOB", x.tobytes())
    for name in ("augmented", "method", "helper"):
        assert in_place.ask(*execute("p", name, inputs=["x"], outputs=["y"])) == b"OK"
        assert in_place.ask("AI.TENSORGET", "x", "BLOB") == x.tobytes()


def test_a_result_that_is_an_input(in_place: Wire) -> None:
    """It shares memory with the input inside the library; stored, it is a tensor of its own."""
    store_plain(in_place)
    assert in_place.ask(*execute("s", "itself", inputs=["x"], outputs=["y"])) == b"OK"
    in_place.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 8, 9)
    assert values(in_place, "y") == [b"-1", b"2"]
