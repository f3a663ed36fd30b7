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

class Model(CData, Protocol):
    id: int
    backend: int
    device: CData
    inputs: CNames
    outputs: CNames
    pieces: CData
    npieces: int

class Run(CData, Protocol):
    model: Model
    model_id: int
    inputs: CData
    ninputs: int
    noutputs: int
    state: int
    duration: int

class Job(CData, Protocol):
    kind: int
    backend: int
    path: CData
    model: Model
    run: Run

class Options(CData, Protocol):
    threads_per_queue: int
    intra_op_parallelism: int
    inter_op_parallelism: int
    model_execution_timeout: int
    backend_memory_limit: int

class _FFI:
    NULL: Any
    def new(self, ctype: str, value: object = ...) -> Any: ...
    def string(self, text: object) -> bytes: ...
    def unpack(self, pointer: CData, length: int) -> list[Any]: ...
    def buffer(self, pointer: CData, size: int) -> memoryview: ...
    def from_buffer(self, value: object) -> Any: ...

class _Lib:
    RUN_WAITING: int
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
    def bridge_model_ready(
        self, model: Model, queue: Queue, ninputs: int, inputs: Sequence[Any], noutputs: int, outputs: Sequence[Any]
    ) -> None: ...
    def bridge_finish_job(self, job: Job, error: Any) -> None: ...
    def bridge_open_queue(self, device: bytes, is_new: CData) -> Queue: ...
    def bridge_options(self) -> Options: ...
    def bridge_backends_path(self) -> CData: ...
    def bridge_free(self, text: CData) -> None: ...
    def bridge_backend_loaded(self, backend: int, version: bytes) -> None: ...
    def bridge_onnx_figures(self, memory: int, accesses: int, sessions: int) -> None: ...
    def bridge_log(self, level: bytes, message: bytes) -> None: ...
    def bridge_engine_started(self, error: Any) -> None: ...

ffi: _FFI
lib: _Lib
