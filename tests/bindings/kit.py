"""What tests of bindings share: the model, binding, waiting until a binding has nothing to do."""

from __future__ import annotations

from typing import Any

import numpy as np

from testkit import models
from testkit.waiting import wait_for
from testkit.wire import Wire

BINDINGS = ("BINDINGS", "yes")
LINE = "MODEL m SET 1 y"


def store(wire: Wire, key: str = "m", *, factor: float = 2, tag: str = "one") -> None:
    """y = factor x + 1, for rows of any length."""
    wire.ask_ok("AI.MODELSTORE", key, "ONNX", "CPU", "TAG", tag, "BLOB", models.onnx_line(factor, 1))


def bind(wire: Wire, line: str, name: str = "b") -> None:
    wire.ask_ok("AI.BIND", name, *line.split())


def binding(wire: Wire, name: str = "b") -> dict[str, Any]:
    reply = wire.ask("AI.BINDINFO", name)
    pairs = dict(zip(reply[::2], reply[1::2], strict=True))
    return {key.decode(): value.decode() if isinstance(value, bytes) else value for key, value in pairs.items()}


def is_idle(wire: Wire) -> bool:
    return all(
        info["pending"] == 0 and info["bindrun_of"] == 0 for info in (binding(wire, b) for b in wire.ask("AI.BINDLIST"))
    )


def settle(wire: Wire, seconds: float = 10) -> None:
    """Until no binding has anything to do."""
    wait_for(lambda: is_idle(wire), seconds, "the bindings have done all")


def floats(value: bytes) -> list[float]:
    return [float(each) for each in np.frombuffer(value, "<f4")]
