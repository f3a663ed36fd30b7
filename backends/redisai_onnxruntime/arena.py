"""The arena that BACKEND_MEMORY_LIMIT bounds, which all sessions of the process allocate from. Loader and workers
enter."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .c_api import api, environment, ffi, made
from .values import new_value

ARENA_ALLOCATOR = 1  # of OrtAllocatorType

# A model of one Identity node on a float, IR version 8, opset 13: the library shrinks an arena only after a run.
IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


@functools.cache
def bound_memory(limit: int) -> None:
    """Makes the one arena, of limit MB at most."""
    where = made(api.CreateCpuMemoryInfo, ARENA_ALLOCATOR, 0)
    # 1: grow by what is asked for; -1: the library's defaults.
    config = made(api.CreateArenaCfg, limit << 20, 1, -1, -1, release=api.ReleaseArenaCfg)
    api.CreateAndRegisterAllocator(environment, where, config)


def use_arena(options: Any) -> None:
    api.AddSessionConfigEntry(options, b"session.use_env_allocators", b"1")


@functools.cache
def _identity() -> Any:
    options = made(api.CreateSessionOptions, release=api.ReleaseSessionOptions)
    api.SetIntraOpNumThreads(options, 1)
    use_arena(options)
    return made(api.CreateSessionFromArray, environment, IDENTITY, len(IDENTITY), options, release=api.ReleaseSession)


def shrink_arena() -> None:
    """Makes the arena hand back what earlier runs freed, in blocks of their sizes."""
    options = made(api.CreateRunOptions, release=api.ReleaseRunOptions)
    api.AddRunConfigEntry(options, b"memory.enable_memory_arena_shrinkage", b"cpu:0")
    zero = np.zeros(1, np.float32)
    value = ffi.gc(new_value(zero), api.ReleaseValue)
    x, y, result = ffi.new("char[]", b"x"), ffi.new("char[]", b"y"), ffi.new("void *[1]")
    api.Run(_identity(), options, [x], [value], 1, [y], 1, result)
    api.ReleaseValue(result[0])
