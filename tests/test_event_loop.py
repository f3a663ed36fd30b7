"""No client waits for another's model: GET is answered at once while one is stored and while a library is imported.

This is the form for machines that do other things as well: it fails where the event loop is held up, and only there.
The figures that we promise come from scripts/stalls.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench import models
from bench.harness import build_load, modelstore
from bench.stalls import beside_request

WORST_MS = 100.0
ATTEMPTS = 3  # a machine that is busy elsewhere can hold GET up once, a loop that is blocked does every time


@pytest.mark.parametrize(
    "blob",
    [
        pytest.param(lambda: ("ONNX", models.large(200)), id="a model of 200 MB is stored"),
        pytest.param(lambda: ("TORCH", models.mlp().blob), id="a library is imported"),
    ],
)
def test_get_does_not_wait_while(blob: Callable[[], tuple[str, bytes]]) -> None:
    build_load()
    request = modelstore("m", *blob())
    measured = []
    for _ in range(ATTEMPTS):
        worst, took = beside_request(request)
        assert took > 3 * WORST_MS, f"over after {took} ms: too soon to tell whether anyone waited"
        if worst < WORST_MS:
            return
        measured.append(worst)
    pytest.fail(f"GET waited up to {measured} ms")
