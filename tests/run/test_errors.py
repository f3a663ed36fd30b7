"""AI.MODELEXECUTE and AI.MODELRUN: every error text, and the order of the checks."""

from __future__ import annotations

import pytest

from testkit import models
from testkit.wire import Error, Wire

INPUTS_MISMATCH = "ERR Number of keys given as INPUTS here does not match model definition"
OUTPUTS_MISMATCH = "ERR Number of keys given as OUTPUTS here does not match model definition"
INPUT_KEYS = "ERR number of input keys to AI.MODELEXECUTE command does not match the number of given arguments"
OUTPUT_KEYS = "ERR number of output keys to AI.MODELEXECUTE command does not match the number of given arguments"
NO_TENSOR = "ERR tensor key is empty or in a different shard"

# add: a, b -> sum; split: x -> a, b, c; many: ten inputs -> y. Tensors a and b are there.
EXECUTE = [
    ("missing INPUTS 1 a OUTPUTS 1 y", "ERR model key is empty"),
    ("add FOO 2 a b OUTPUTS 1 y", "ERR INPUTS not specified"),
    ("add OUTPUTS 1 y INPUTS 2 a b", "ERR INPUTS not specified"),
    ("add INPUTS 2 a b FOO 1 y", "ERR OUTPUTS not specified"),
    ("add INPUTS 2 a b TIMEOUT 10", "ERR OUTPUTS not specified"),
    ("add INPUTS x a b OUTPUTS 1 y", "ERR Invalid argument for input_count"),
    ("add INPUTS 2.0 a b OUTPUTS 1 y", "ERR Invalid argument for input_count"),
    ("add INPUTS 2 a b OUTPUTS x y", "ERR Invalid argument for output_count"),
    ("add INPUTS 0 a b OUTPUTS 1 y", "ERR Input count must be a positive integer"),
    ("add INPUTS -1 a b OUTPUTS 1 y", "ERR Input count must be a positive integer"),
    ("add INPUTS 2 a b OUTPUTS 0 y", "ERR Output count must be a positive integer"),
    ("add INPUTS 2 a b OUTPUTS -1 y", "ERR Output count must be a positive integer"),
    ("add INPUTS 1 a OUTPUTS 1 y", INPUTS_MISMATCH),
    ("add INPUTS 3 a b a OUTPUTS 1 y", INPUTS_MISMATCH),
    ("torch INPUTS 1 a OUTPUTS 1 y", INPUTS_MISMATCH),
    ("add INPUTS 2 a b OUTPUTS 2 y z", OUTPUTS_MISMATCH),
    ("split INPUTS 1 a OUTPUTS 1 y", OUTPUTS_MISMATCH),
    ("torch INPUTS 2 a b OUTPUTS 2 y z", OUTPUTS_MISMATCH),
    ("many INPUTS 10 a b a b a", INPUT_KEYS),
    ("split INPUTS 1 a OUTPUTS 3 y z", OUTPUT_KEYS),
    ("add INPUTS 2 a b OUTPUTS 1 y TIMEOUT", "ERR No value provided for TIMEOUT"),
    ("add INPUTS 2 a b OUTPUTS 1 y TIMEOUT x", "ERR Invalid value for TIMEOUT"),
    ("add INPUTS 2 a b OUTPUTS 1 y TIMEOUT -1", "ERR Invalid value for TIMEOUT"),
    ("add INPUTS 2 a b OUTPUTS 1 y TIMEOUT 1.5", "ERR Invalid value for TIMEOUT"),
    ("add INPUTS 2 a b OUTPUTS 1 y FOO", "ERR Invalid argument: FOO"),
    ("add INPUTS 2 a b OUTPUTS 1 y foo bar", "ERR Invalid argument: foo"),
    ("add INPUTS 2 a missing OUTPUTS 1 y", NO_TENSOR),
    ("add INPUTS 2 missing b OUTPUTS 1 y", NO_TENSOR),
]  # fmt: skip

RUN = [
    ("missing INPUTS a OUTPUTS y", "ERR model key is empty"),
    ("add FOO a b OUTPUTS y", "ERR INPUTS not specified"),
    ("add OUTPUTS y INPUTS a b", "ERR INPUTS not specified"),
    ("add TIMEOUT 10 INPUTS a b", OUTPUTS_MISMATCH),
    ("add INPUTS a b FOO y", INPUTS_MISMATCH),
    ("add TIMEOUT 10 FOO a", "ERR INPUTS not specified"),
    ("add TIMEOUT x INPUTS a b OUTPUTS y", "ERR Invalid value for TIMEOUT"),
    ("add TIMEOUT -1 INPUTS a b OUTPUTS y", "ERR Invalid value for TIMEOUT"),
    ("add INPUTS a OUTPUTS y", INPUTS_MISMATCH),
    ("add INPUTS a b a OUTPUTS y", INPUTS_MISMATCH),
    ("add INPUTS OUTPUTS y z", INPUTS_MISMATCH),
    ("add INPUTS a b OUTPUTS y z", OUTPUTS_MISMATCH),
    ("add INPUTS a b OUTPUTS", OUTPUTS_MISMATCH),
    ("split INPUTS a OUTPUTS y", OUTPUTS_MISMATCH),
    ("add INPUTS a missing OUTPUTS y", NO_TENSOR),
]


@pytest.fixture
def stored(wire: Wire) -> Wire:
    wire.ask("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", models.onnx_add())
    wire.ask("AI.MODELSTORE", "split", "ONNX", "CPU", "BLOB", models.onnx_split3())
    wire.ask("AI.MODELSTORE", "many", "ONNX", "CPU", "BLOB", models.onnx_many_inputs(10))
    wire.ask("AI.MODELSTORE", "torch", "TORCH", "CPU", "BLOB", models.torch_module(models.Add))
    wire.ask("AI.TENSORSET", "a", "FLOAT", 1, 2, "VALUES", 1, 2)
    wire.ask("AI.TENSORSET", "b", "FLOAT", 1, 2, "VALUES", 3, 4)
    wire.ask("SET", "string", "x")
    return wire


@pytest.mark.parametrize(
    ("line", "text"),
    [(f"AI.MODELEXECUTE {line}", text) for line, text in EXECUTE]
    + [(f"AI.MODELRUN {line}", text) for line, text in RUN],
)
def test_text(stored: Wire, line: str, text: str) -> None:
    assert stored.ask(*line.split()) == text
    assert stored.ask("EXISTS", "y", "z") == 0
    assert stored.ask("PING") == b"PONG", "one reply to one command"


@pytest.mark.parametrize(
    "line",
    [
        "AI.MODELEXECUTE missing FOO 1 a OUTPUTS 1 y",
        "AI.MODELEXECUTE missing INPUTS x a OUTPUTS 1 y",
        "AI.MODELEXECUTE missing INPUTS 1 a OUTPUTS 1 y FOO",
        "AI.MODELEXECUTE missing INPUTS 1 a OUTPUTS 1 y TIMEOUT",
        "AI.MODELEXECUTE missing INPUTS 1 string OUTPUTS 1 y",
        "AI.MODELRUN missing FOO a OUTPUTS y",
        "AI.MODELRUN missing TIMEOUT x INPUTS a OUTPUTS y",
        "AI.MODELRUN missing INPUTS string OUTPUTS y",
    ],
)
def test_the_model_is_looked_up_before_the_arguments_are_checked(stored: Wire, line: str) -> None:
    assert stored.ask(*line.split()) == "ERR model key is empty"
    wrong = line.replace("missing", "string")
    assert stored.ask(*wrong.split()).startswith("WRONGTYPE ")


@pytest.mark.parametrize(
    "line", ["AI.MODELEXECUTE add INPUTS 2 a string OUTPUTS 1 y", "AI.MODELRUN add INPUTS string b OUTPUTS y",
             "AI.MODELEXECUTE add INPUTS 2 a add OUTPUTS 1 y"]
)  # fmt: skip
def test_an_input_of_another_type(stored: Wire, line: str) -> None:
    assert stored.ask(*line.split()).startswith("WRONGTYPE ")
    assert stored.ask("EXISTS", "y") == 0


@pytest.mark.parametrize(
    "words",
    [
        ["AI.MODELEXECUTE"],
        ["AI.MODELEXECUTE", "add", "INPUTS", "2", "a", "b"],
        ["AI.MODELRUN"],
        ["AI.MODELRUN", "add", "INPUTS", "a", "OUTPUTS"],
    ],
)
def test_too_few_words(stored: Wire, words: list[str]) -> None:
    assert stored.ask(*words) == f"ERR wrong number of arguments for '{words[0]}' command"


def test_a_very_large_count_of_keys(stored: Wire) -> None:
    for count in (2**31, 2**62, 2**63 - 1, 2**63):
        for line in (f"INPUTS {count} a b OUTPUTS 1 y", f"INPUTS 2 a b OUTPUTS {count} y"):
            reply = stored.ask("AI.MODELEXECUTE", "add", *line.split())
            assert isinstance(reply, Error)
            assert reply.startswith("ERR ")
