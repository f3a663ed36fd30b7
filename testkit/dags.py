"""What tests of DAGs share: models, scripts and tensors, both forms of a command, replies with their types."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from testkit import models, scripts
from testkit.wire import Error, Simple, Wire, Word

OK = Simple(b"OK")
NA = Simple(b"NA")
TIMEDOUT = Simple(b"TIMEDOUT")

# Some of the functions that scripts.py has: to compile them all takes a while.
FUNCTIONS = ("add", "count", "fails", "nothing", "scaled", "shapes", "total")
SOURCE = "\n".join(scripts.function(name, scripts.FUNCTIONS[name]) for name in FUNCTIONS)

Form = Callable[[str], str]


def store(wire: Wire) -> None:
    """add and split (ONNX, CPU), mul (ONNX, CPU:1), both (TORCH, CPU), scripts s (CPU), s1 (CPU:1) and old (CPU; see
    scripts.py); tensors x [[1, 2]] and y [[3, 4]]."""
    for key, backend, device, blob in (
        ("add", "ONNX", "CPU", models.onnx_add()),
        ("split", "ONNX", "CPU", models.onnx_split3()),
        ("mul", "ONNX", "CPU:1", models.onnx_mul()),
        ("both", "TORCH", "CPU", models.torch_module(models.SumAndProduct)),
    ):
        assert wire.ask("AI.MODELSTORE", key, backend, device, "BLOB", blob) == b"OK"
    scripts.store(wire, "s", SOURCE, FUNCTIONS)
    scripts.store(wire, "s1", SOURCE, FUNCTIONS, "CPU:1")
    scripts.store_old(wire)
    assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2) == b"OK"
    assert wire.ask("AI.TENSORSET", "y", "FLOAT", 1, 2, "VALUES", 3, 4) == b"OK"


def ask(wire: Wire, line: str, *more: Word) -> Any:
    """A command given as one line."""
    return wire.ask(*line.split(), *more)


def send(wire: Wire, line: str) -> None:
    wire.send(*line.split())


def as_it_is(line: str) -> str:
    return line


def deprecated(line: str) -> str:
    """The same DAG as AI.DAGRUN, whose ops name their tensors without counts. Not for KEYS and ARGS."""
    line = re.sub(r"\b(inputs|outputs) \d+", r"\1", re.sub(r"\b(INPUTS|OUTPUTS) \d+", r"\1", line))
    line = re.sub(r"ROUTING \S+ ", "", line)
    for new, old in (("DAGEXECUTE", "DAGRUN"), ("MODELEXECUTE", "MODELRUN"), ("SCRIPTEXECUTE", "SCRIPTRUN")):
        line = line.replace(f"AI.{new}", f"AI.{old}").replace(f"ai.{new.lower()}", f"ai.{old.lower()}")
    return line


both_forms = pytest.mark.parametrize("form", [as_it_is, deprecated], ids=["execute", "run"])


def typed(reply: Any) -> Any:
    """A reply in which a simple string is not equal to the same bytes as a bulk string, nor 1.0 to 1."""
    if isinstance(reply, list):
        return [typed(item) for item in reply]
    return type(reply), reply


def check(reply: Any, wanted: Any) -> None:
    assert typed(reply) == typed(wanted), reply


def is_error(reply: Any) -> bool:
    return isinstance(reply, Error) and reply.startswith("ERR ") and not reply.startswith("ERR  ")


def keys(wire: Wire) -> list[bytes]:
    return sorted(wire.ask("KEYS", "*"))


def calls(wire: Wire, key: Word) -> int:
    """How often a model or script ran."""
    return int(wire.ask("AI.INFO", key)[15])
