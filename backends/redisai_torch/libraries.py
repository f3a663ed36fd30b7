"""Loads the operators of other packages, once a model uses them. The loader enters; no state but the library's own.

Only the package's library is loaded, not its Python code.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from redisai.protocol import one_line

OPERATOR = re.compile(rb"\bops\.torchvision\.(\w+)")


def provide(code: Iterable[bytes]) -> None:
    """Loads what the code of a model needs."""
    found = next((found for piece in code if (found := OPERATOR.search(piece))), None)
    if found is None or hasattr(torch.ops.torchvision, "nms"):
        return
    needs = f"the model needs the package torchvision, for torchvision::{found[1].decode()}"
    importlib.invalidate_caches()  # it may have been installed since we last looked
    package = importlib.util.find_spec("torchvision")
    library = package and package.origin and next(Path(package.origin).parent.glob("_C*.so"), None)
    if not library:
        raise ModuleNotFoundError(f"{needs}; install it into {sys.prefix} (pip install torchvision)")
    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except Exception as error:
        reason = one_line(error.__cause__ or error)
        raise RuntimeError(f"{needs}, which does not fit PyTorch {torch.__version__}: {reason}") from error
