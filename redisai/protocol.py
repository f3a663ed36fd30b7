"""What a backend is: the types that a backend and the engine share.

Owns no state and does not know the bridge, so that a backend, also one dropped into a folder, can import it:
`from redisai.protocol import Definition, Settings`. A backend is a module with the functions of Backend; TORCH also has
that of ScriptBackend.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy
    import numpy.typing

# STRING tensors are arrays of dtype object that hold bytes.
Array: TypeAlias = "numpy.typing.NDArray[Any]"


class _Placed:
    """What is stored for a device."""

    __slots__ = ()
    device: str  # CPU, CPU:n, GPU, GPU:n

    @property
    def gpu(self) -> int | None:
        """The index of the GPU asked for, None for a CPU. CPU:n is a CPU with a queue of its own."""
        kind, _, index = self.device.partition(":")
        return int(index or 0) if kind == "GPU" else None


@dataclass(frozen=True, slots=True)
class Definition(_Placed):
    """A model as it was stored."""

    backend: str  # TF, TFLITE, TORCH, ONNX
    device: str
    blob: bytes
    inputs: tuple[str, ...]  # as the client named them (TF); most formats declare their own
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScriptDefinition(_Placed):
    """A script as it was stored."""

    device: str
    source: bytes
    entry_points: tuple[str, ...]  # the functions that may be called; none: any


@dataclass(frozen=True, slots=True)
class Settings:
    """The load-time options, each an attribute by its name in lower case: settings.threads_per_queue."""

    options: tuple[tuple[str, int], ...]

    def __getattr__(self, name: str) -> int:
        for option, value in self.options:
            if option == name:
                return value
        raise AttributeError(f"there is no option {name.upper()}")

    @property
    def intra_op_threads(self) -> int:
        """Threads for one run: one core is left to Redis, the others are shared among the workers of a queue.

        The libraries' own default, every core for every run, makes workers and Redis wait for each other.
        """
        cores = len(os.sched_getaffinity(0))
        return self.intra_op_parallelism or max(1, (cores - 1) // self.threads_per_queue)


@dataclass(frozen=True, slots=True, eq=False)
class Direct:
    """A session as its library's C API has it, which the engine can run without Python (src/direct/): one of numbers
    only, that neither keeps nor changes its inputs. What the cdata refer to lives as long as this.
    """

    # A function of the library by its name, as cdata of the type that the backend declares. The engine asks for those
    # of the struct in src/bridge.h that is named after the backend: OnnxApi, TfApi.
    function: Callable[[str], Any]
    session: Any
    memory: Any  # None where the library has no such thing
    inputs: Any
    outputs: Any
    dtypes: Sequence[numpy.dtype[Any]]  # of the inputs
    noutputs: int
    # Called around runs, one or several one after the other: begin() gives the library's options for them, or None;
    # end() is told those, how many runs there were and the library's text where the last one failed. It returns what
    # that one fails with; None: try it again by Session.run().
    begin: Callable[[], Any]
    end: Callable[[Any, int, str | None], Exception | None]


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

    # ONNX alone has figures(): the three of bridge_onnx_figures(). Its sessions and those of TF may have a `direct`, a
    # Direct or None.


Reply: TypeAlias = "bytes | int | float | list[Reply] | None"


class Redis(Protocol):
    """What a script may ask of Redis while it runs, from the thread it runs in. What is refused or fails is raised."""

    def call(self, words: Sequence[bytes]) -> Reply: ...

    def run_model(self, key: bytes, inputs: Sequence[Array], noutputs: int) -> Sequence[Array | None]:
        """Runs a stored model here and now. Inputs and outputs as of Session.run."""
        ...


@dataclass(slots=True)
class Call:
    """One call of a script's function."""

    function: str
    inputs: Sequence[Array]  # as of Session.run
    keys: Sequence[bytes]
    args: Sequence[bytes]
    variadic: int | None  # index of the first input of those that make one list, where the client said so
    noutputs: int
    redis: Redis


class ScriptSession(Protocol):
    """A script ready to run. Several workers may run it at once."""

    def run(self, call: Call) -> Sequence[Array]: ...


class ScriptBackend(Backend, Protocol):
    def load_script(self, definition: ScriptDefinition, settings: Settings) -> ScriptSession: ...


def one_line(error: BaseException) -> str:
    """An error as a client reads it: replies of Redis are single lines."""
    text = " ".join(line.strip() for line in str(error).splitlines()).strip()
    return text or type(error).__name__
