"""The types that backends and the engine share. They define what a backend is. Loader and workers enter; no state.

A backend is a module with the functions of Backend; TORCH also has that of ScriptBackend. This file does not import the
bridge, so any backend, in any folder, can import it: `from redisai.protocol import Definition, Settings`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy
    import numpy.typing

# STRING tensors are arrays of dtype object that hold bytes.
Array: TypeAlias = "numpy.typing.NDArray[Any]"

MB = 1_000_000  # bytes, in options and texts; of deployed servers, too


class _OnDevice:
    """A definition that was stored for a device."""

    __slots__ = ()
    device: str  # CPU, CPU:n, GPU, GPU:n

    @property
    def gpu(self) -> int | None:
        """The index of the GPU; None for a CPU. CPU:n is the same CPU with a queue of its own."""
        kind, _, index = self.device.partition(":")
        return int(index or 0) if kind == "GPU" else None


@dataclass(frozen=True, slots=True)
class Definition(_OnDevice):
    """A model as it was stored."""

    backend: str  # TF, TFLITE, TORCH, ONNX
    device: str
    blob: bytes | memoryview  # a view is read-only, and valid during load() only
    inputs: tuple[str, ...]  # as the client named them, for TF; other formats declare their own
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScriptDefinition(_OnDevice):
    """A script as it was stored."""

    device: str
    source: bytes
    entry_points: tuple[str, ...]  # the functions that may be called; none: any


@dataclass(frozen=True, slots=True)
class Settings:
    """The load-time options. Each is an attribute with its name in lower case: settings.threads_per_queue."""

    options: tuple[tuple[str, int], ...]
    onnx_custom_ops: tuple[str, ...] = ()  # paths of libraries

    def __getattr__(self, name: str) -> int:
        for option, value in self.options:
            if option == name:
                return value
        raise AttributeError(f"there is no option {name.upper()}")

    @property
    def intra_op_threads(self) -> int:
        """Threads for one run. Redis keeps one core; the workers of a queue share the others.

        By default libraries use every core for every run. Workers and Redis then wait for each other.
        """
        cores = len(os.sched_getaffinity(0))
        return self.intra_op_parallelism or max(1, (cores - 1) // self.threads_per_queue)

    @property
    def memory_limit(self) -> int:
        """MB that a library may allocate."""
        limit = self.backend_memory_limit or _machine_memory() // (2 * MB)
        return min(limit, self.isolation_memory_limit or limit)


def _machine_memory() -> int:
    """Bytes: those of the machine, or of the container if it has fewer."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no such file, or it says "max"
        size = min(size, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return size


@dataclass(frozen=True, slots=True, eq=False)
class Direct:
    """A session in the terms of its library's C API, or of the C++ beside PyTorch. The engine runs it without Python
    (src/direct/).

    All inputs and outputs are numbers, and the session neither keeps nor changes its inputs. Whatever the fields point
    to must live as long as this object.
    """

    # Gives a function of the library by its name, as cdata of the type that the backend declares. The engine asks for
    # the members of the struct in src/bridge.h that is named after the backend: OnnxApi, TfApi, TorchApi.
    function: Callable[[str], Any]
    session: Any
    memory: Any  # None for TF, which has no such thing
    inputs: Any
    outputs: Any
    dtypes: Sequence[numpy.dtype[Any] | None] | None  # of the inputs; None: any numbers; no list: any inputs
    noutputs: int | None  # None: any number of them
    # Called with the library's error text after a run has failed. Returns the exception for that run, or None: then
    # Session.run() tries it again.
    explain: Callable[[str], Exception | None]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model, as far as the model declares it."""

    name: str
    dtype: str | None = None  # as commands call it; None: the model does not say, or tensors cannot have it
    shape: tuple[int, ...] | None = None  # -1 for a dimension of any size; None: the model does not say
    classes: tuple[str, ...] = ()  # what the columns of an output stand for
    type: str = ""  # TorchScript's, of an input that is not simply a tensor: "int", "List[Tensor]"
    optional: bool = False  # an input that a run may leave out, with all that follow it


class Session(Protocol):
    """A model ready to run. Several workers may run it at once."""

    # Names, read once when the model is loaded. None where the model does not say how many there are.
    @property
    def inputs(self) -> tuple[str, ...] | None: ...

    @property
    def outputs(self) -> tuple[str, ...] | None: ...

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Returns the model's outputs. Raises where one is no tensor: no output may be missing in silence.

        The inputs share memory with stored tensors. A session must not write to them, nor keep them after run().
        """
        ...


class Backend(Protocol):
    def version(self) -> str: ...

    def load(self, definition: Definition, settings: Settings) -> Session: ...

    # Five parts are optional. figures(), of ONNX, returns the two arguments of bridge_onnx_figures(). advice(), of
    # TORCH, returns what the log says once the backend is loaded, or None. `direct`, of sessions of ONNX, TF, TORCH and
    # of scripts, is a Direct or None. `ports`, of sessions of models, is the Ports of its inputs and those of its
    # outputs. `is_stateful`, of the same, is True where a run may change what later runs give.


Reply: TypeAlias = "bytes | int | list[Reply] | None"


class Redis(Protocol):
    """What a running script may ask of Redis, from its own thread. Raises what is refused or fails."""

    @property
    def op(self) -> int:
        """The address of the script's op."""
        ...

    def call(self, words: Sequence[bytes]) -> Reply: ...

    def run_model(self, key: bytes, inputs: Sequence[Array], noutputs: int, failure: str = "") -> Sequence[Array]:
        """Runs a stored model in this thread. Inputs and outputs are those of Session.run. failure: the library's error
        text, if C has just run it in vain."""
        ...


@dataclass(slots=True)
class Call:
    """One call of a script's function."""

    function: str
    inputs: Sequence[Array]  # like those of Session.run
    keys: Sequence[bytes]
    args: Sequence[bytes]
    noutputs: int
    redis: Redis


class ScriptSession(Protocol):
    """A script ready to run. Several workers may run it at once."""

    def run(self, call: Call) -> Sequence[Array]: ...


class ScriptBackend(Backend, Protocol):
    def load_script(
        self, definition: ScriptDefinition, settings: Settings, redis_of: Callable[[int], Redis]
    ) -> ScriptSession:
        """redis_of gives the Redis of an op by its address, in the thread that runs the op."""
        ...


def refusal(text: bytes) -> RuntimeError:
    """What a script raises where Redis answers its command with this error."""
    return RuntimeError(f"Redis command returned an error: {text.decode(errors='replace').removeprefix('ERR ')}")


def one_line(error: BaseException) -> str:
    """The text of an error on one line, as Redis's replies are. Nothing but line breaks is changed."""
    return re.sub("[\r\n]", " ", str(error)) or type(error).__name__
