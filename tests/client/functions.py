"""Functions whose source the tests store as scripts."""

# TorchScript reads comments about types in the code that it compiles, so they cannot stand there.
# A script's redis is not the package.
# mypy: disable-error-code="no-untyped-def, attr-defined, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
from torch import Tensor


def twice(tensors: list[Tensor], keys: list[str], args: list[str]):
    """Doubles as often as told."""
    return helper(tensors[0]) * int(args[0])


def helper(x):
    return x * 2


def keep_in_redis() -> Callable[..., Any]:
    def keep(tensors: list[Tensor], keys: list[str], args: list[str]):
        redis.execute("SET", keys[0], args[0])

    return keep
