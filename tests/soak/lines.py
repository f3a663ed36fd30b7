"""Models and scripts that make x * factor + offset.

For whole numbers that is exact in every library, and lines in another order make something else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from testkit import models
from testkit.networks import Floats
from testkit.values import Model


@dataclass(slots=True, frozen=True)
class Line:
    factor: int
    offset: int

    def __call__(self, x: Floats) -> Floats:
        y: Floats = x * np.float32(self.factor) + np.float32(self.offset)
        return y


@dataclass(slots=True, frozen=True, kw_only=True)
class LineModel(Model):
    line: Line

    def __call__(self, x: Floats) -> Floats:
        return self.line(x)


def onnx_line(line: Line, shape: tuple[int | str, ...] = ("n",), ballast: int = 0) -> LineModel:
    """ballast: so many more numbers make the model larger."""
    return LineModel("ONNX", models.onnx_line(line.factor, line.offset, shape, ballast), line=line)


def torch_line(line: Line) -> LineModel:
    return LineModel("TORCH", models.torch_line(line.factor, line.offset), line=line)
