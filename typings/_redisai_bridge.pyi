"""src/bridge.h in Python's types, for mypy. The module itself is part of redisai.so."""

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
    tag: CData
    tag_size: int
    queue: Queue
    alone: int

class ModelLimits(CData, Protocol):
    batchsize: int
    minbatchsize: int
    minbatchtimeout: int
    minbatchtimeout_us: int

class Model(CData, Protocol):
    base: Runnable
    limits: ModelLimits
    inputs: CNames
    outputs: CNames
    warmups: CNames
    pieces: CData
    npieces: int

class Script(CData, Protocol):
    base: Runnable
    source: CData
    entry_points: CNames

class CBytes(CData, Protocol):
    data: CData
    size: int

class Op(CData, Protocol):
    runnable: Runnable
    id: int
    inputs: CData
    ninputs: int
    noutputs: int
    batch_key: int
    rows: int
    arrival: int
    function: CData
    keys: CBytes
    args: CBytes
    nkeys: int
    nargs: int
    duration: int
    tuning: CData
    input_ns: int
    output_ns: int
    is_direct: int
    priority: int

class Taken(CData, Protocol):
    plain: CData
    batched: CData
    ready: CData
    failed: Op
    error: CData
    op_ns: int
    nplain: int
    nbatched: int
    nready: int
    deadline_passed: int
    waiting: int
    sweep: int
    priority: int
    kept: int
    full: int

class CReply(CData, Protocol):
    type: int
    integer: int
    text: CData
    size: int
    items: CData
    count: int

class Job(CData, Protocol):
    kind: int
    backend: int
    path: CData
    runnable: Runnable
    is_store: int

class Option(CData, Protocol):
    name: CData
    value: int

class Dtype(CData, Protocol):
    name: CData
    code: int
    bits: int
    onnx: int
    tf: int

class Backend(CData, Protocol):
    name: CData
    folder: CData
    package: CData

class _FFI:
    NULL: Any
    def new(self, ctype: str, value: object = ...) -> Any: ...
    def string(self, text: object) -> bytes: ...
    def cast(self, ctype: Any, value: Any) -> Any: ...
    def typeof(self, ctype: object) -> Any: ...
    def unpack(self, pointer: CData, length: int) -> Any: ...
    def buffer(self, pointer: CData, size: int) -> memoryview: ...
    def from_buffer(self, value: object) -> Any: ...

class _Lib:
    CODE_INT: int
    CODE_UINT: int
    CODE_FLOAT: int
    CODE_BOOL: int
    CODE_STRING: int
    BACKEND_ONNX: int
    READY_OPS: int
    CHUNK_NS: int
    SPLIT_NS: int
    QUEUE_NAME: int
    ANY_COUNT: int
    ANY_NUMBERS: int
    ANY_ROWS: int
    AUTO_BATCHSIZE: int
    AUTO_ROWS: int
    DIRECT_MAX: int
    KIND_SCRIPT: int
    REPLY_STRING: int
    REPLY_INTEGER: int
    REPLY_ARRAY: int
    REPLY_ERROR: int
    JOB_LOAD: int
    JOB_DROP: int
    JOB_IMPORT: int
    JOB_LIMITS: int
    def bridge_work(self, queue: Queue, worker: int, taken: Taken, wait: int) -> None: ...
    def bridge_run_ops(self, queue: Queue, taken: Taken, ops: CData, n: int) -> int: ...
    def bridge_set_deadline(self, queue: Queue, deadline: int) -> None: ...
    def bridge_set_batches(self, queue: Queue, priorities: int) -> None: ...
    def bridge_is_awaited(self, op: Op) -> int: ...
    def bridge_note_op(self, op: Op) -> None: ...
    def bridge_sweep_ops(self, ops: CData, n: int) -> int: ...
    def bridge_begin_ops(self, ops: CData, n: int) -> int: ...
    def bridge_set_output(
        self, op: Op, index: int, dtype: int, ndim: int, shape: Sequence[int], data: Any, size: int, offsets: Any
    ) -> int: ...
    def bridge_gather(self, ops: CData, n: int, input: int, into: Any, size: int) -> int: ...
    def bridge_scatter(
        self, ops: CData, n: int, output: int, dtype: int, ndim: int, shape: Sequence[int], data: Any, size: int
    ) -> int: ...
    def bridge_run_batch(self, ops: CData, n: int, error: CData) -> int: ...
    def bridge_calls(self, runnable: Runnable) -> int: ...
    def bridge_batch_ran(self, ops: CData, n: int, duration: int) -> None: ...
    def bridge_fail(self, op: Op, message: bytes) -> None: ...
    def bridge_finish_ops(self, ops: CData, n: int, ready: CData, max_ready: int) -> int: ...
    def bridge_push_ops(self, ops: CData, n: int) -> None: ...
    def bridge_next_job(self) -> Job: ...
    def bridge_call(self, op: Op, words: CData, count: int) -> CReply: ...
    def bridge_free_reply(self, reply: CReply) -> None: ...
    def bridge_hold_model(self, op: Op, key: CBytes, error: CData) -> Model: ...
    def bridge_release_model(self, model: Model, duration: int, samples: int, failed: int, is_direct: int) -> None: ...
    def bridge_ready(self, runnable: Runnable, queue: Queue, declared: CData, direct: CData) -> None: ...
    def bridge_finish_job(self, job: Job, error: Any) -> None: ...
    def bridge_queue_name(self, device: CData, name: CData) -> None: ...
    def bridge_open_queue(self, device: bytes) -> Queue: ...
    def bridge_max_tensor_bytes(self) -> int: ...
    def bridge_option(self, index: int) -> Option: ...
    def bridge_dtype(self, number: int) -> Dtype: ...
    def bridge_backend(self, number: int) -> Backend: ...
    def bridge_backends_path(self) -> CData: ...
    def bridge_backend_to_load(self, backend: int) -> CData: ...
    def bridge_onnx_custom_ops(self) -> CData: ...
    def bridge_free(self, text: CData) -> None: ...
    def bridge_backend_loaded(self, backend: int, version: bytes, advice: bytes) -> None: ...
    def bridge_onnx_figures(self, memory: int, accesses: int) -> None: ...
    def bridge_log(self, level: bytes, message: bytes) -> None: ...
    def bridge_engine_started(self, error: Any) -> None: ...

ffi: _FFI
lib: _Lib
