"""The TORCH backend: TorchScript models and scripts through PyTorch's Python package (models.py, scripts.py)."""

from __future__ import annotations

import torch

from .models import load
from .scripts import load_script

__all__ = ["load", "load_script", "version"]


def version() -> str:
    return str(torch.__version__)
