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


def onnx_line(line: Line, ballast: int = 0, batchsize: int = 0, minbatchsize: int = 0, ms: int = 0) -> LineModel:
    """For tensors of any length; ballast: so many more numbers make the model larger."""
    blob = models.onnx_line(line.factor, line.offset, ("n",), ballast)
    return LineModel("ONNX", blob, batchsize=batchsize, minbatchsize=minbatchsize, minbatchtimeout=ms, line=line)


def torch_line(line: Line) -> LineModel:
    return LineModel("TORCH", models.torch_line(line.factor, line.offset), line=line)
