"""Hands models and scripts to runner.cpp, which loads and runs them without Python's lock. The loader enters.

build_runner.py compiles runner.cpp against the PyTorch that is installed. Without that, Python loads and runs all.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import cffi
import torch

from redisai.protocol import MB, Direct, one_line

from .build_runner import library_path

_ffi: Any = cffi.FFI()
_ffi.cdef("""
    typedef struct TorchTensor TorchTensor;
    typedef struct TorchCall TorchCall;
    int redisai_torch_run(const void *session, const TorchCall *call, void **outputs);
    int redisai_torch_count(const void *outputs);
    void redisai_torch_get(const void *outputs, int index, TorchTensor *output);
    void redisai_torch_free(void *outputs, int are_used);
    void redisai_torch_close(void *session);
    int redisai_torch_has_outcome(const void *op);
    void *redisai_torch_take_asking(void);
""")


def _open() -> tuple[Any, str]:
    """The library, or why there is none."""
    path = library_path()
    if not path.exists():
        others = any(path.parent.glob("runner-*.so"))
        return None, "its runner was built for another PyTorch or module" if others else "its runner is not built"
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
        return _ffi.dlopen(str(path)), ""
    except Exception as error:
        return None, f"its runner cannot be loaded ({one_line(error)})"


_lib, _why_not = _open()
_operators: Any = torch.ops.redisai_runner


def advice() -> str | None:
    """Why Python runs all models, and what to do about it; None where C++ does."""
    if _lib is not None:
        return None
    return f"Python runs all models and scripts, slower: {_why_not}; run `redisai-server --build-torch` and start anew"


def load(unit: Any, blob: bytes | memoryview, device: torch.device) -> Any:
    """The module of an archive; unit gets its functions."""
    if _lib is None:
        load_archive: Any = torch._C.import_ir_module_from_buffer
        return load_archive(unit, bytes(blob), device, {}, False)
    return _operators.load(_shell(unit), torch.frombuffer(blob, dtype=torch.uint8), device)


def inlined_graph(module: Any) -> Any:
    """A copy of forward's graph with all that it calls."""
    if _lib is None:
        return module.inlined_graph
    unit: Any = torch._C.CompilationUnit()
    _operators.inline_forward(module._c, _shell(unit))
    return unit.get_functions()[0].graph


@functools.cache
def limit_memory(megabytes: int) -> None:
    """Of all tensors on the CPU. Without the runner there is no limit."""
    if _lib is not None:
        _operators.limit_memory(megabytes * MB)


def of_model(
    module: Any, copies: bool, device: torch.device, threads: int, ninputs: int | None, noutputs: int | None
) -> Direct | None:
    """How C runs the method forward. copies: it writes to its inputs."""
    dtypes = None if ninputs is None else [None] * ninputs
    return _direct(module, {"forward": (copies, False)}, device, threads, dtypes, noutputs)


def of_script(
    unit: Any, functions: Mapping[str, tuple[bool, bool]], device: torch.device, threads: int
) -> Direct | None:
    """How C runs functions. Each is given with whether it writes to its inputs, and whether it calls Redis or runs
    models."""
    return _direct(_shell(unit), functions, device, threads, None, None) if functions else None


def _direct(
    module: Any,
    functions: Mapping[str, tuple[bool, bool]],
    device: torch.device,
    threads: int,
    dtypes: list[None] | None,
    noutputs: int | None,
) -> Direct | None:
    if _lib is None:
        return None
    copies, has_effects = map(list, zip(*functions.values(), strict=True))
    address = _operators.session(module, list(functions), copies, has_effects, device, threads)
    session = _ffi.gc(_ffi.cast("void *", address), _lib.redisai_torch_close)
    return Direct(
        lambda name: _ffi.addressof(_lib, name),
        session,
        None,
        None,
        None,
        dtypes,
        noutputs,
        lambda _: None,
    )


# The namespace of the operators that a script's calls become. Those of C++ call Python's where Python runs the script.
NAMESPACE = "redisai" if _lib is None else "redisai_runner"


def has_outcome(op: int) -> bool:
    """Whether C++ has run this op's function in this thread, and Python has to go on from there."""
    return _lib is not None and bool(_lib.redisai_torch_has_outcome(_ffi.cast("void *", op)))


def take_outcome() -> Any:
    """The function's result. Raises its error."""
    return _operators.take_outcome()


def take_asking() -> int:
    """The op of the script for which C++ calls one of Python's operators; 0: none. It is given once."""
    return 0 if _lib is None else int(_ffi.cast("uintptr_t", _lib.redisai_torch_take_asking()))


def _shell(unit: Any) -> Any:
    """A module without methods: what operators get instead of a compilation unit, which they cannot take."""
    return torch._C.ScriptModule("__torch__.RedisAI", unit, True)  # type: ignore[call-arg]
