"""Runs a model before its first client does, so that its library has done by then what it does in first runs.

The loader enters; no state. These runs pass no queue, so no statistics count them.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns

import numpy as np

from .dtypes import DTYPES, STRING
from .execution import ModelEntry
from .protocol import Array, Session, one_line

RUNS = 3  # with the same inputs; PyTorch watches a first run, and optimises during the second
_TYPES = {dtype.name: dtype.numpy for dtype in DTYPES}


def warm_up(session: Session, warmups: Sequence[str]) -> str:
    """Runs the session with each of its model's warmups. Returns a text for the log. Raises RuntimeError."""
    model = ModelEntry(session, None, None)
    if model.is_stateful:
        raise RuntimeError("WARMUP is not for this model: its runs change what later runs give")
    begin = perf_counter_ns()
    for warmup in warmups:
        try:
            inputs = _inputs(warmup)
            if not model.least <= len(inputs) <= model.most:
                raise ValueError(f"the model has {model.most} inputs")
            for _ in range(RUNS):
                model.run(inputs)
        except Exception as error:
            raise RuntimeError(f"WARMUP {warmup}: {one_line(error)}") from error.__cause__
    return f"is warm, which took {(perf_counter_ns() - begin) // 1_000_000} ms"


def _inputs(warmup: str) -> list[Array]:
    """Zeros, and empty strings. warmup: `count type dimension ... type dimension ...`."""
    wanted: list[tuple[str, list[int]]] = []
    for word in warmup.split()[1:]:
        if word.isdecimal():
            wanted[-1][1].append(int(word))
        else:
            wanted.append((word, []))
    return [_zeros(name, shape) for name, shape in wanted]


def _zeros(name: str, shape: Sequence[int]) -> Array:
    dtype = _TYPES[name.upper()]
    return np.full(shape, b"", object) if dtype == STRING else np.zeros(shape, dtype)
