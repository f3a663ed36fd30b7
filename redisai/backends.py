"""Finds backends by path and imports them. Owns the table of imported backends.

Only the loader imports, so nothing is locked. Workers enter onnx_figures().

A backend is a folder with a Python file of the same name: backends/redisai_torch/redisai_torch.py. It may import
other files of the folder relatively. A path may have any suffix, since existing configuration has
redisai_torch/redisai_torch.so. It may also name just the folder.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple, cast

from _redisai_bridge import ffi, lib

from .protocol import Backend, one_line


class Kind(NamedTuple):
    """One row of C's table of backends."""

    name: str  # as commands call it
    folder: str  # below the backends path
    package: str  # what pip calls the library


def _kinds() -> Iterator[Kind]:
    for number in count():
        row = lib.bridge_backend(number)
        if not row:
            return
        yield Kind(*(ffi.string(text).decode() for text in (row.name, row.folder, row.package)))


KINDS = tuple(_kinds())  # by number


class BackendError(Exception):
    """A backend cannot be loaded. The text says which one, and why."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(f"Could not load backend: {kind.name}: {reason}")


class Registry:
    """The imported backends. Calls `loaded` with the number and version of each."""

    def __init__(self, default_path: Callable[[], Path], loaded: Callable[[int, str, str], None]) -> None:
        self._default_path = default_path
        self._loaded = loaded
        self._backends: dict[int, tuple[Path, Backend]] = {}

    @property
    def generation(self) -> int:
        """Changes whenever a backend is imported. What failed before may work then."""
        return len(self._backends)

    def get(self, number: int) -> Backend:
        """The backend. Imports it from the default place if that has not happened yet."""
        if number not in self._backends:
            self.load(number, None)
        return self._backends[number][1]

    def onnx_figures(self) -> tuple[int, int] | None:
        """The figures of ONNX Runtime for INFO MODULES; None while it is not loaded."""
        _, backend = self._backends.get(lib.BACKEND_ONNX, (None, None))
        figures: Callable[[], tuple[int, int]] | None = getattr(backend, "figures", None)
        return figures() if figures is not None else None

    def load(self, number: int, path: Path | None) -> None:
        kind = KINDS[number]
        source = _source(kind, path or self._default_path() / kind.folder / kind.folder)
        if number in self._backends:
            earlier = self._backends[number][0]
            if path is not None and source != earlier:
                raise BackendError(kind, f"one is already loaded, from {earlier}")
            return
        backend = _import(kind, source)
        try:
            version = str(backend.version())
        except BaseException as error:
            raise BackendError(kind, one_line(error)) from error
        self._backends[number] = (source, backend)
        advice: Callable[[], str | None] | None = getattr(backend, "advice", None)
        self._loaded(number, version, (advice and advice()) or "")
        # A library creates hundreds of thousands of objects that live for ever. Frozen, they are not visited by the
        # garbage collector, which would stop every worker for 0.1 s.
        gc.collect()
        gc.freeze()


def _source(kind: Kind, path: Path) -> Path:
    """The Python file that a path stands for."""
    if path.is_dir():
        path /= kind.folder
    source = path.with_suffix(".py").resolve()
    if not source.is_file():
        raise BackendError(kind, f"there is no {source}")
    return source


def _import(kind: Kind, source: Path) -> Backend:
    name = f"redisai_backend_{kind.name.lower()}"
    importlib.invalidate_caches()  # the library may have been installed since we last looked
    try:
        folder = [str(source.parent)]
        spec = importlib.util.spec_from_file_location(name, source, submodule_search_locations=folder)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except BaseException as error:  # an import may raise anything, SystemExit included
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
            del sys.modules[loaded]
        hint = ""
        if isinstance(error, ModuleNotFoundError):
            hint = f"; install it into {sys.prefix} (pip install {kind.package})"
        elif isinstance(error, PermissionError):
            hint = "; an engine process reads backends only from BACKENDSPATH, or where a load-time option names one"
        raise BackendError(kind, one_line(error) + hint) from error
    for needed in ("version", "load"):
        if not callable(getattr(module, needed, None)):
            raise BackendError(kind, f"{source} has no function {needed}()")
    return cast(Backend, module)
