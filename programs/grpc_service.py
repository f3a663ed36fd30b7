"""The Open Inference Protocol over gRPC, for redisai-http --grpc-port: messages and stubs are those of tritonclient."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import redis
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc

from .http import MAX_BODY, Service, refusal
from .tensors import DATATYPES, Array, Fields, Refused, Wanted, read_input, to_bytes

# Where a message has the elements of a datatype that are not sent as bytes.
CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(["INT8", "INT16", "INT32"], "int_contents"),
    **dict.fromkeys(["UINT8", "UINT16", "UINT32"], "uint_contents"),
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
CODES = {400: grpc.StatusCode.INVALID_ARGUMENT, 404: grpc.StatusCode.NOT_FOUND, 503: grpc.StatusCode.UNAVAILABLE}
Method = Callable[[Any, Any], Awaitable[Any]]


def answering(method: Method) -> Callable[[Any, Any, Any], Awaitable[Any]]:
    """Errors become those of gRPC."""

    async def handle(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request)
        except Refused as error:
            refused = error
        except redis.RedisError as error:
            refused = refusal(error)
        except UnicodeEncodeError:
            refused = Refused(400, "a name or the TAG of the model is no UTF-8, which gRPC needs")
        await context.abort(CODES[refused.status], str(refused))

    return handle


def entry_of(tensor: Any, raw: bytes | None) -> Fields:
    """An input as the JSON of a request to infer would have it."""
    parameters: Fields = dict.fromkeys(tensor.parameters)
    entry = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "parameters": parameters}
    if raw is not None:
        parameters["binary_data_size"] = len(raw)
    else:
        elements = getattr(tensor.contents, CONTENTS.get(tensor.datatype, "bytes_contents"))
        entry["data"] = [e.decode(errors="surrogateescape") if isinstance(e, bytes) else e for e in elements]
    return entry


def inputs_of(request: Any) -> dict[str, Array]:
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise Refused(400, f"raw_input_contents has {len(raw)} entries, inputs {len(request.inputs)}")
    arrays: dict[str, Array] = {}
    for number, tensor in enumerate(request.inputs):
        if tensor.name in arrays:
            raise Refused(400, f"the input {tensor.name} is there twice")
        blob = raw[number] if raw else None
        arrays[tensor.name] = read_input(entry_of(tensor, blob), memoryview(blob or b""))[1]
    return arrays


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # the stubs have no types
    def __init__(self, service: Service) -> None:
        self.service = service

    @answering
    async def ServerLive(self, request: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    @answering
    async def ServerReady(self, request: Any) -> Any:
        return messages.ServerReadyResponse(ready=await self.service.is_ready())

    @answering
    async def ModelReady(self, request: Any) -> Any:
        await self.service.model(request.name, request.version or None)  # waits until it is compiled
        return messages.ModelReadyResponse(ready=True)

    @answering
    async def ServerMetadata(self, request: Any) -> Any:
        return messages.ServerMetadataResponse(**{**self.service.describe(), "extensions": []})

    @answering
    async def ModelMetadata(self, request: Any) -> Any:
        return messages.ModelMetadataResponse(
            **await self.service.describe_model(request.name, request.version or None)
        )

    @answering
    async def ModelInfer(self, request: Any) -> Any:
        wanted = [Wanted(output.name, True) for output in request.outputs] or None
        version = request.model_version or None
        model, found = await self.service.run(request.model_name, version, inputs_of(request), wanted, True)
        response = messages.ModelInferResponse(model_name=request.model_name, model_version=model["tag"], id=request.id)
        for output, array in found:
            response.outputs.add(name=output.name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
            response.raw_output_contents.append(to_bytes(array))
        return response


async def start(service: Service, address: str) -> Any:
    sizes = [(f"grpc.max_{way}_message_length", MAX_BODY) for way in ("send", "receive")]
    server = grpc.aio.server(options=[*sizes, ("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(service), server)
    server.add_insecure_port(address)
    await server.start()
    return server
