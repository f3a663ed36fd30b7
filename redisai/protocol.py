"""What a backend is: the types that a backend and the engine share.

Owns no state and knows neither Redis nor the bridge, so that a backend, also one dropped into a folder, can import it:
`from redisai.protocol import Definition, Settings`. A backend is a module with the two functions of Backend.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy.typing

# STRING tensors are arrays of dtype object that hold bytes.
Array: TypeAlias = "numpy.typing.NDArray[Any]"


@dataclass(frozen=True, slots=True)
class Definition:
    """A model as it was stored."""

    backend: str  # TF, TFLITE, TORCH, ONNX
    device: str  # CPU, CPU:n, GPU, GPU:n
    blob: bytes
    inputs: tuple[str, ...]  # as the client named them (TF); most formats declare their own
    outputs: tuple[str, ...]

    @property
    def gpu(self) -> int | None:
        """The index of the GPU asked for, None for a CPU. CPU:n is a CPU with a queue of its own."""
        kind, _, index = self.device.partition(":")
        return int(index or 0) if kind == "GPU" else None


@dataclass(frozen=True, slots=True)
class Settings:
    """The load-time options that concern backends; 0 leaves the choice to us."""

    threads_per_queue: int = 1
    intra_op_parallelism: int = 0
    inter_op_parallelism: int = 0
    model_execution_timeout: int = 5000  # ms
    backend_memory_limit: int = 0  # MB, 0: none
    allow_file_ops: bool = False  # models may read and write files, and speak to the network

    @property
    def intra_op_threads(self) -> int:
        """Threads for one run: one core is left to Redis, the others are shared among the workers of a queue.

        The libraries' own default, every core for every run, makes workers and Redis wait for each other.
        """
        cores = len(os.sched_getaffinity(0))
        return self.intra_op_parallelism or max(1, (cores - 1) // self.threads_per_queue)


class Session(Protocol):
    """A model ready to run. Several workers may run it at once."""

    # Read when the model is loaded; None where the model does not tell how many there are.
    @property
    def inputs(self) -> tuple[str, ...] | None: ...

    @property
    def outputs(self) -> tuple[str, ...] | None: ...

    def run(self, inputs: Sequence[Array]) -> Sequence[Array | None]:
        """The model's outputs; None for one that is no tensor.

        inputs share memory with stored tensors: they must not be written to, nor kept once run has returned.
        """
        ...


class Backend(Protocol):
    def version(self) -> str: ...

    def load(self, definition: Definition, settings: Settings) -> Session: ...

    # ONNX alone has figures(): the three of bridge_onnx_figures().


def one_line(error: BaseException) -> str:
    """An error as a client reads it: replies of Redis are single lines."""
    text = " ".join(line.strip() for line in str(error).splitlines()).strip()
    return text or type(error).__name__
