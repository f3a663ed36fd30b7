"""Registers libraries of custom operators for models that need them. The loader enters; no state.

These are the libraries that the option ONNX_CUSTOM_OPS names, and onnxruntime-extensions where it is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

from redisai.protocol import Settings

from .c_api import api, ffi, made
from .environment import new_session

MISSING = re.compile(r"\b([\w.]+):(\w+)\(-?\d+\) is not a registered function/op")
EXTENSIONS = ("ai.onnx.contrib", "com.microsoft.extensions")  # domains of onnxruntime-extensions


def new_session_with_custom_ops(blob: bytes | memoryview, options: Any, settings: Settings) -> Any:
    try:
        return new_session(blob, options, settings)
    except RuntimeError as error:
        missing = MISSING.search(str(error))
        if missing is None:
            raise
    domain, name = missing.groups()
    extensions = _extensions()
    if domain in EXTENSIONS and extensions is None:
        raise ModuleNotFoundError(
            f"the model needs the package onnxruntime-extensions, for {domain}:{name}; install it into {sys.prefix}"
            " (pip install onnxruntime-extensions)"
        )
    for path in (*settings.onnx_custom_ops, *([extensions] if extensions else [])):
        made(api.RegisterCustomOpsLibrary, options, ffi.new("char[]", os.fsencode(path)))
    try:
        return new_session(blob, options, settings)
    except RuntimeError as error:
        missing = MISSING.search(str(error))
        if missing is None:
            raise
    raise RuntimeError(
        f"the model needs a library with the operator {missing[1]}:{missing[2]}; the server loads those that the option"
        " ONNX_CUSTOM_OPS names"
    )


def _extensions() -> str | None:
    """The library of onnxruntime-extensions. Its Python code is not needed."""
    importlib.invalidate_caches()  # it may have been installed since we last looked
    package = importlib.util.find_spec("onnxruntime_extensions")
    if package is None or package.origin is None:
        return None
    return next(map(str, Path(package.origin).parent.glob("_extensions_pydll*.so")), None)
