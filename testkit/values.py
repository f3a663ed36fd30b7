"""Tensors, models and scripts as tests and benchmarks hold them: what clients store and what files contain."""

from __future__ import annotations

from dataclasses import dataclass

from testkit.wire import Word


@dataclass(frozen=True, slots=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    data: bytes  # STRING: elements one after another, each with a NUL behind it
    elements: tuple[bytes, ...] = ()  # of a STRING, if one has a NUL inside: RAW brings it then, not BLOB


@dataclass(frozen=True, slots=True)
class Model:
    backend: str
    blob: bytes
    device: str = "CPU"
    tag: str = ""
    batchsize: int = 0
    minbatchsize: int = 0
    minbatchtimeout: int = 0
    inputs: tuple[str, ...] = ()  # TF has to be given the names of both; the others read them from the blob
    outputs: tuple[str, ...] = ()

    def words(self, key: Word, *options: Word) -> tuple[Word, ...]:
        """The command that stores it under the key. options: more than the model has by itself."""
        own = ("TAG", self.tag), ("BATCHSIZE", self.batchsize), ("MINBATCHSIZE", self.minbatchsize)
        words: list[Word] = ["AI.MODELSTORE", key, self.backend, self.device]
        for name, value in (*own, ("MINBATCHTIMEOUT", self.minbatchtimeout)):
            words += [name, value] if value else []
        words += options
        if self.backend == "TF":
            words += ["INPUTS", len(self.inputs), *self.inputs, "OUTPUTS", len(self.outputs), *self.outputs]
        return (*words, "BLOB", self.blob)


@dataclass(frozen=True, slots=True)
class Script:
    source: str
    device: str = "CPU"
    tag: str = ""
    entry_points: tuple[str, ...] = ()


Value = Tensor | Model | Script
