"""What the bridge is to Python: src/bridge.h in Python's types. The module itself is part of redisai.so."""

from collections.abc import Sequence
from typing import Any, Protocol

class CData(Protocol):
    def __getitem__(self, index: int) -> Any: ...
    def __add__(self, offset: int) -> CData: ...
    def __bool__(self) -> bool: ...

class Queue(CData, Protocol): ...

class CNames(CData, Protocol):
    count: int
    names: CData

class Tensor(CData, Protocol):
    length: int
    size: int
    data: CData
    shape: CData
    offsets: CData
    owner: CData
    dtype: int
    ndim: int

class Runnable(CData, Protocol):
    id: int
    kind: int
    backend: int
    device: CData

class Model(CData, Protocol):
    base: Runnable
    inputs: CNames
    outputs: CNames
    pieces: CData
    npieces: int

class Script(CData, Protocol):
    base: Runnable
    source: CData
    entry_points: CNames

class CBytes(CData, Protocol):
    data: CData
    size: int

class Run(CData, Protocol):
    id: int
    inputs: CData
    ninputs: int
    noutputs: int
    function: CData
    keys: CBytes
    args: CBytes
    nkeys: int
    nargs: int
    variadic: int
    state: int
    duration: int

class CReply(CData, Protocol):
    type: int
    integer: int
    real: float
    text: CData
    size: int
    items: CData
    count: int

class Job(CData, Protocol):
    kind: int
    backend: int
    path: CData
    runnable: Runnable

class Options(CData, Protocol):
    threads_per_queue: int
    intra_op_parallelism: int
    inter_op_parallelism: int
    model_execution_timeout: int
    backend_memory_limit: int
    allow_file_ops: int

class _FFI:
    NULL: Any
    def new(self, ctype: str, value: object = ...) -> Any: ...
    def string(self, text: object) -> bytes: ...
    def cast(self, ctype: str, value: CData) -> Any: ...
    def unpack(self, pointer: CData, length: int) -> Any: ...
    def buffer(self, pointer: CData, size: int) -> memoryview: ...
    def from_buffer(self, value: object) -> Any: ...

class _Lib:
    RUN_WAITING: int
    KIND_SCRIPT: int
    REPLY_STRING: int
    REPLY_INTEGER: int
    REPLY_DOUBLE: int
    REPLY_ARRAY: int
    REPLY_ERROR: int
    JOB_LOAD: int
    JOB_DROP: int
    JOB_FORWARD: int
    JOB_IMPORT: int
    def bridge_take_runs(self, queue: Queue, worker: int, runs: CData, most: int) -> int: ...
    def bridge_set_output(
        self, run: Run, index: int, dtype: int, ndim: int, shape: Sequence[int], data: Any, size: int
    ) -> int: ...
    def bridge_fail(self, run: Run, message: bytes) -> None: ...
    def bridge_give_back(self, runs: CData, count: int) -> None: ...
    def bridge_next_job(self) -> Job: ...
    def bridge_call(self, run: Run, words: CData, count: int) -> CReply: ...
    def bridge_free_reply(self, reply: CReply) -> None: ...
    def bridge_hold_model(self, run: Run, key: CBytes, error: CData) -> Model: ...
    def bridge_release_model(self, model: Model, duration: int, samples: int, failed: int) -> None: ...
    def bridge_ready(
        self,
        runnable: Runnable,
        queue: Queue,
        ninputs: int,
        inputs: Sequence[Any],
        noutputs: int,
        outputs: Sequence[Any],
    ) -> None: ...
    def bridge_finish_job(self, job: Job, error: Any) -> None: ...
    def bridge_open_queue(self, device: bytes) -> Queue: ...
    def bridge_max_tensor_bytes(self) -> int: ...
    def bridge_options(self) -> Options: ...
    def bridge_backends_path(self) -> CData: ...
    def bridge_free(self, text: CData) -> None: ...
    def bridge_backend_loaded(self, backend: int, version: bytes) -> None: ...
    def bridge_onnx_figures(self, memory: int, accesses: int, sessions: int) -> None: ...
    def bridge_log(self, level: bytes, message: bytes) -> None: ...
    def bridge_engine_started(self, error: Any) -> None: ...

ffi: _FFI
lib: _Lib
