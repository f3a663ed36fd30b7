"""The TF backend: runs frozen GraphDefs through TensorFlow's C API. Loader and workers enter; no state but sessions.

A session may run several times at once. A run of a small network of five layers with two inputs takes 26 us, 18 of them
in TensorFlow.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from redisai.protobuf import MalformedError, as_varint
from redisai.protocol import MB, Array, Definition, Direct, Port, Settings

from .c_api import Status, failure, ffi, function, lib
from .graph_ops import check_operations, keeps_inputs
from .state import fillers
from .tensors import DTYPES, NAMES, NUMBERS, QINT32, STRING, as_array, copied_tensor, new_tensor, type_name
from .weights import Weight, split

LARGE = 32 << 20  # bytes of a graph that gains nothing from the executor for tiny ones, and that is not made twice


def version() -> str:
    return str(ffi.string(lib.TF_Version()).decode())


def load(definition: Definition, settings: Settings) -> Session:
    _limit_memory(settings.memory_limit)
    operations = check_operations(definition.blob, bool(settings.allow_file_ops))
    try:
        first = fillers(definition.blob, operations, definition.inputs, definition.outputs)
    except MalformedError:
        raise ValueError("Invalid GraphDef") from None
    copies = keeps_inputs(operations)
    if definition.gpu is None and operations.isdisjoint(("VarHandleOp", "_VarHandlesOp")):  # else names might clash
        graph, weights = split(definition.blob, (*definition.inputs, *definition.outputs, *first))
        if weights:
            _refuse_above_limit(sum(len(weight.data) for weight in weights), settings.memory_limit)
            with suppress(RuntimeError):  # what is wrong with the whole graph, the library says
                return _open(replace(definition, blob=graph), settings, copies, weights, first)
    return _open(definition, settings, copies, [], first)


def _refuse_above_limit(size: int, limit: int) -> None:
    """The library would wait 10 s for memory."""
    if size > limit * MB:
        raise MemoryError(
            f"the model's weights take {-(-size // MB)} MB, more than BACKEND_MEMORY_LIMIT allows, {limit} MB"
        )


def _open(definition: Definition, settings: Settings, copies: bool, weights: list[Weight], first: list[str]) -> Session:
    graph = _import(definition)
    size = len(definition.blob) + sum(len(weight.data) for weight in weights)
    in_order = definition.gpu is None and settings.inter_op_parallelism <= 1
    in_order = in_order and (copies or size < LARGE)
    definition = replace(definition, blob=b"")  # which does not outlive this call

    @functools.cache
    def values() -> list[Value]:
        made = [_value(weight) for weight in weights]
        weights.clear()  # their data does not outlive the load
        return made

    def session(in_order: bool, explainer: Callable[[], Session] | None = None) -> Session:
        config = _config(definition, settings, in_order)
        return Session(graph, definition, config, copies, values, first, explainer)

    @functools.cache
    def usual() -> Session:
        return session(in_order=False)

    if in_order:
        with suppress(RuntimeError):
            # Running the operations in order, in the worker's own thread, is fastest. Some graphs cannot run so: the
            # usual executor then runs them, or says why it cannot.
            return session(in_order=True, explainer=None if copies else usual)
    return usual()


@functools.cache
def _limit_memory(megabytes: int) -> None:
    """The library reads this when it makes its first session. It keeps the memory of earlier runs for the next ones. A
    run that gets none waits 10 s for others to end, then fails."""
    os.environ.update(TF_CPU_ALLOCATOR_USE_BFC="1", TF_CPU_BFC_MEM_LIMIT_IN_MB=str(megabytes))


class Value(NamedTuple):
    """Of a weight. The variables of all sessions share the tensor."""

    placeholder: str
    assignment: str
    tensor: Any


def _value(weight: Weight) -> Value:
    data = ffi.from_buffer(weight.data)
    tensor = copied_tensor(weight.type, weight.shape, data, len(data))
    return Value(weight.placeholder, weight.assignment, ffi.gc(tensor, lib.TF_DeleteTensor))


class Session:
    """explainer: makes a session whose errors name the node. The executor that runs operations in order does not. So a
    run that has failed is run there again, unless the graph has a state."""

    def __init__(
        self,
        graph: Any,
        definition: Definition,
        config: bytes,
        copies: bool,
        values: Callable[[], list[Value]],  # called once there is a session: only then the limit of memory holds
        first: list[str],  # operations that fill tables
        explainer: Callable[[], Session] | None = None,
    ) -> None:
        self._explainer = explainer
        self.inputs, self.outputs = definition.inputs, definition.outputs
        self._graph = graph
        self._copies = self.is_stateful = copies
        self._feeds = _ports(graph, self.inputs, 'Input node named "{}" not found in TF graph.')
        self._fetches = _ports(graph, self.outputs, 'Output node named "{}" not found in TF graph')
        self._types = [lib.TF_OperationOutputType(port) for port in self._feeds]
        types = [lib.TF_OperationOutputType(port) for port in self._fetches]
        self.ports = (
            _ports_of(graph, self.inputs, self._feeds, self._types),
            _ports_of(graph, self.outputs, self._fetches, types),
        )
        self._dtypes = [DTYPES.get(number, DTYPES[STRING]) for number in types]
        self._refused = next(((n, t) for n, t in zip(self.outputs, types, strict=True) if t not in DTYPES), None)
        options = ffi.gc(lib.TF_NewSessionOptions(), lib.TF_DeleteSessionOptions)
        with Status() as status:
            lib.TF_SetConfig(options, config, len(config), status.c)
            status.check()
            session = lib.TF_NewSession(graph, options, status.c)
            status.check()
            self._session = ffi.gc(session, _delete_session)
            if definition.gpu is not None and f"GPU:{definition.gpu}" not in self._devices(status):
                raise RuntimeError("GPU requested but TF couldn't find CUDA")
            # A first run makes TensorFlow optimise the graph and create its kernels, so that no client waits for that.
            # TensorFlow does it before it checks the inputs. No graph takes inputs of this type, so nothing else runs.
            for tensor in self._run([lib.TF_AllocateTensor(QINT32, ffi.NULL, 0, 4) for _ in self.inputs], status):
                lib.TF_DeleteTensor(tensor)
            if "Expects arg[" not in status.message():
                status.check()
            given = values()
            if given:
                feeds = _ports(graph, [value.placeholder for value in given], "")
                tensors = [value.tensor for value in given]
                self._run_first([value.assignment for value in given], status, feeds, tensors)
            if first:
                self._run_first(first, status)
        self.direct = None
        if not copies and all(number in DTYPES and number != STRING for number in (*self._types, *types)):
            self.direct = Direct(
                function,
                self._session,
                None,
                self._feeds,
                self._fetches,
                [DTYPES[number] for number in self._types],
                len(types),
                lambda error: failure(error) if explainer is None else None,
            )

    def _run_first(self, nodes: list[str], status: Status, feeds: Any = ffi.NULL, tensors: Sequence[Any] = ()) -> None:
        targets = [lib.TF_GraphOperationByName(self._graph, name.encode()) for name in nodes]
        no, count = ffi.NULL, len(tensors)
        lib.TF_SessionRun(self._session, no, feeds, tensors, count, no, no, 0, targets, len(targets), no, status.c)
        status.check()

    def _devices(self, status: Status) -> list[str]:
        devices = ffi.gc(lib.TF_SessionListDevices(self._session, status.c), lib.TF_DeleteDeviceList)
        status.check()
        names = [lib.TF_DeviceListName(devices, i, status.c) for i in range(lib.TF_DeviceListCount(devices))]
        return [ffi.string(name).decode().partition("device:")[2] for name in names]

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        if self._refused is not None:
            name, number = self._refused
            raise TypeError(f"output '{name}' has type {type_name(number)}, which tensors cannot have")
        for index, array in enumerate(inputs):
            if NUMBERS.get(array.dtype) != self._types[index]:
                given = "string" if array.dtype == object else array.dtype
                raise TypeError(
                    f"input '{self.inputs[index]}' has type {given}, expected: {type_name(self._types[index])}"
                )
        tensors = [new_tensor(array, number, self._copies) for array, number in zip(inputs, self._types, strict=True)]
        with Status() as status:
            results = self._run(tensors, status)
            if self._explainer is not None and status.message() and "OOM when allocating" not in status.message():
                self._explain(self._explainer, inputs)
            status.check()
        try:
            return [as_array(results[index], dtype) for index, dtype in enumerate(self._dtypes)]
        finally:
            for tensor in results:
                lib.TF_DeleteTensor(tensor)

    @staticmethod
    def _explain(explainer: Callable[[], Session], inputs: Sequence[Array]) -> None:
        """Raises the error of a run once more, now with the node."""
        try:
            session = explainer()
        except RuntimeError:
            return
        session.run(inputs)

    def _run(self, tensors: list[Any], status: Status) -> Any:
        """Returns the tensors of the outputs. Deletes those of the inputs."""
        results = ffi.new("TF_Tensor *[]", len(self._fetches))
        try:
            lib.TF_SessionRun(
                self._session,
                ffi.NULL,
                self._feeds,
                tensors,
                len(tensors),
                self._fetches,
                results,
                len(results),
                ffi.NULL,
                0,
                ffi.NULL,
                status.c,
            )
        finally:
            for tensor in tensors:
                lib.TF_DeleteTensor(tensor)
        return results


def _import(definition: Definition) -> Any:
    graph = ffi.gc(lib.TF_NewGraph(), lib.TF_DeleteGraph)
    options = ffi.gc(lib.TF_NewImportGraphDefOptions(), lib.TF_DeleteImportGraphDefOptions)
    if definition.gpu is not None:
        lib.TF_ImportGraphDefOptionsSetDefaultDevice(options, f"/device:GPU:{definition.gpu}".encode())
    blob = ffi.new("TF_Buffer *", {"data": ffi.from_buffer(definition.blob), "length": len(definition.blob)})
    with Status() as status:
        lib.TF_GraphImportGraphDef(graph, blob, options, status.c)
        status.check()
    return graph


def _ports_of(graph: Any, names: Sequence[str], ports: Any, types: Sequence[int]) -> list[Port]:
    found = zip(names, ports, types, strict=True)
    return [Port(name, NAMES.get(number), _declared_shape(graph, port)) for name, port, number in found]


def _declared_shape(graph: Any, port: Any) -> tuple[int, ...] | None:
    with Status() as status:
        ndim = lib.TF_GraphGetTensorNumDims(graph, port, status.c)
        if lib.TF_GetCode(status.c) or ndim < 0:
            return None
        shape = ffi.new("int64_t[]", ndim)
        lib.TF_GraphGetTensorShape(graph, port, shape, ndim, status.c)
        return None if lib.TF_GetCode(status.c) else tuple(shape)


def _ports(graph: Any, names: Sequence[str], missing: str) -> Any:
    """The ports with these names. "x" is the first output of operation x, "x:1" its second."""
    ports = []
    for name in names:
        node, _, number = name.partition(":")
        operation = lib.TF_GraphOperationByName(graph, node.encode())
        index = int(number) if number.isdecimal() else -1 if number else 0
        if not operation or not 0 <= index < lib.TF_OperationNumOutputs(operation):
            raise ValueError(missing.format(name))
        ports.append((operation, index))
    return ffi.new("TF_Output[]", ports)


def _config(definition: Definition, settings: Settings, in_order: bool) -> bytes:
    """A serialised ConfigProto. Each field is a tag, whose upper bits are the field's number, and a value."""
    config = b"\x38\x01"  # allow_soft_placement: graphs name the devices they were trained on
    config += b"\x10" + as_varint(settings.intra_op_threads) + b"\x28" + as_varint(settings.inter_op_parallelism or 1)
    config += (
        b"\x0a\x07\x0a\x03GPU\x10\x00" if definition.gpu is None else b"\x32\x02\x20\x01"
    )  # device_count, allow_growth
    # disable_thread_spinning, since spinning takes cores from Redis and other workers. optimize_for_static_graph and
    # disable_output_partition_graphs, which save one of five copies of the model's constants.
    experimental = b"\x48\x01\x60\x01\x70\x01"
    if in_order:
        experimental += b"\x1a\x18SINGLE_THREADED_EXECUTOR"
    return config + b"\x82\x01" + as_varint(len(experimental)) + experimental


def _delete_session(session: Any) -> None:
    with Status() as status:
        lib.TF_DeleteSession(session, status.c)
