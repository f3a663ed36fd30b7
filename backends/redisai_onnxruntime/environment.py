"""Owns what all sessions of the process share: threads, and the arena that they allocate from.

Loader and workers enter.

By default the library makes a pool of threads and an arena for each session. On a machine with five cores, 300 tiny
models then had 900 threads, and each large model kept the memory of its largest run.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from redisai.protobuf import Piece
from redisai.protocol import MB, Settings

from .c_api import api, ffi, made
from .values import new_value
from .weights import Weight, give

FATAL = 4  # the lowest level that is logged: the client gets its errors as replies, so the log need not have them
ARENA_ALLOCATOR = 1  # of OrtAllocatorType

# The library shrinks an arena only after a run. This is the smallest model to run: one Identity node on a float, IR
# version 8, opset 13.
IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


@functools.cache
def environment(settings: Settings) -> Any:
    """The environment of the process. There is only one, since settings do not change."""
    threads = made(api.CreateThreadingOptions, release=api.ReleaseThreadingOptions)
    # The worker computes too. The pool has as many other threads as if each worker had its own pool.
    api.SetGlobalIntraOpNumThreads(threads, 1 + settings.threads_per_queue * (settings.intra_op_threads - 1))
    api.SetGlobalInterOpNumThreads(threads, settings.inter_op_parallelism or 1)
    api.SetGlobalSpinControl(threads, 0)  # 0: spinning threads would take cores from Redis and the workers
    made_environment = made(api.CreateEnvWithGlobalThreadPools, FATAL, b"redisai", threads)
    where = made(api.CreateCpuMemoryInfo, ARENA_ALLOCATOR, 0)
    # 1: grow by what is asked for; -1: the library's defaults.
    config = made(api.CreateArenaCfg, settings.memory_limit * MB, 1, -1, -1, release=api.ReleaseArenaCfg)
    api.CreateAndRegisterAllocator(made_environment, where, config)
    return made_environment


def new_session(model: Piece, options: Any, settings: Settings, weights: Sequence[Weight] = ()) -> Any:
    shared = environment(settings)  # first: give() fails without the log that comes with it
    api.SetSessionLogSeverityLevel(options, FATAL)
    api.DisablePerSessionThreads(options)
    api.AddSessionConfigEntry(options, b"session.use_env_allocators", b"1")
    give(options, weights)
    with ffi.from_buffer(model) as data:  # else an error keeps it, and Python 3.11 crashes where that becomes garbage
        return made(api.CreateSessionFromArray, shared, data, len(model), options, release=api.ReleaseSession)


def is_overdrawn(session: Any) -> bool:
    """Whether the models take more memory than the arena may have.

    The library checks the limit for runs only. For them, what is left would then be a negative number, which it takes
    for a large one: from then on it grants everything."""
    where = made(api.CreateCpuMemoryInfo, ARENA_ALLOCATOR, 0)
    try:
        arena = made(api.CreateAllocator, session, where, release=api.ReleaseAllocator)
        made(api.AllocatorAlloc, arena, 1 << 62)  # nobody has that; what counts is the reason why it is refused
    except RuntimeError as error:
        return "Failed to allocate" in str(error)
    return True


@functools.cache
def _identity(settings: Settings) -> Any:
    return new_session(IDENTITY, made(api.CreateSessionOptions, release=api.ReleaseSessionOptions), settings)


def shrink_arena(settings: Settings) -> None:
    """Makes the arena release the memory of earlier runs, which it keeps in blocks of their sizes."""
    options = made(api.CreateRunOptions, release=api.ReleaseRunOptions)
    api.AddRunConfigEntry(options, b"memory.enable_memory_arena_shrinkage", b"cpu:0")
    zero = np.zeros(1, np.float32)
    value = ffi.gc(new_value(zero), api.ReleaseValue)
    x, y, result = ffi.new("char[]", b"x"), ffi.new("char[]", b"y"), ffi.new("void *[1]")
    api.Run(_identity(settings), options, [x], [value], 1, [y], 1, result)
    api.ReleaseValue(result[0])
