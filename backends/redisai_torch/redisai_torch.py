"""The TORCH backend: runs TorchScript models (models.py) and scripts (scripts.py) through PyTorch's Python package.

Loader and workers enter; no state here.
"""

from __future__ import annotations

import torch

from .models import load
from .runner import advice
from .scripts import load_script

__all__ = ["advice", "load", "load_script", "version"]


def version() -> str:
    return str(torch.__version__)
