"""The redisai-http command: the Open Inference Protocol (KServe v2) over HTTP. docs/http.md is its manual.

Each request to infer is one pipeline: AI.MODELGET, which tells the order of the inputs, and AI.DAGEXECUTE_RO, which
leaves no keys. The order is known from the request before; if the model has changed since, the run is made again.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import redis
import redis.asyncio
import uvicorn
from redisai_module.client import DTYPES, AsyncRedisAI, RedisAI, TimedOut
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .address import add_own_address, add_url
from .tensors import DATATYPES, HEADER_LENGTH, Array, Fields, Refused, Wanted, answer, need, parameters_of, read_input

MAX_BODY = 2**30
EXTENSIONS = ["binary_tensor_data"]
PLATFORMS = {
    "ONNX": "onnxruntime_onnx",
    "TORCH": "pytorch_torchscript",
    "TF": "tensorflow_graphdef",
    "TFLITE": "tflite",
}
# Errors of Redis that pass, or that somebody else than the client has to end.
PASSING = ("LOADING", "BUSY", "OOM", "CLUSTERDOWN", "MASTERDOWN", "NOAUTH", "NOPERM", "WRONGPASS")


def refusal(error: redis.RedisError) -> Refused:
    text = str(error)
    if isinstance(error, TimedOut):
        return Refused(503, "the run took longer than --timeout-ms")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return Refused(503, f"Redis does not answer: {text}")
    if "model key is empty" in text or text.startswith("WRONGTYPE"):
        return Refused(404, "there is no such model")
    if "unknown command" in text:
        return Refused(503, "the Redis server has not loaded the module")
    return Refused(503 if text.startswith(PASSING) else 400, text)


async def body_of(request: Request) -> tuple[Fields, memoryview]:
    """The JSON of a body and the binary data after it."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(400, "compressed bodies are not supported; send it as it is")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise Refused(413, f"the body has more than {MAX_BODY} bytes")
    given = request.headers.get(HEADER_LENGTH)
    if given is not None and not (given.isdecimal() and len(given) < 12 and int(given) <= len(body)):
        raise Refused(400, f"{HEADER_LENGTH} must be a number of bytes within the body")
    length = len(body) if given is None else int(given)
    try:
        head = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON: {error}") from None
    return need(head, dict, "the body"), memoryview(body)[length:]


def in_order(names: Sequence[str], arrays: dict[str, Array]) -> list[Array]:
    """Inputs in the order of the model. Those that may be left out come last."""
    for name in arrays:
        if name not in names:
            raise Refused(400, f"the model has no input {name}; it has {', '.join(names)}")
    for name in names[: len(arrays)]:
        if name not in arrays:
            raise Refused(400, f"the input {name} is missing")
    return [arrays[name] for name in names[: len(arrays)]]


def check_outputs(wanted: Sequence[Wanted], names: Sequence[str]) -> None:
    for output in wanted:
        if output.name not in names:
            raise Refused(400, f"the model has no output {output.name}; it has {', '.join(names)}")


def names_of(model: Fields, which: str) -> list[str]:
    """TorchScript may give none: then as Triton calls them."""
    return [name or f"{which.upper()[:-1]}__{number}" for number, name in enumerate(model[which])]


def detail(name: str, details: Sequence[Any]) -> Fields:
    fields = dict(zip(details[::2], details[1::2], strict=True))
    dtype, shape = fields.get("dtype"), fields.get("shape")
    return {
        "name": name,
        "datatype": DATATYPES[DTYPES[dtype]] if dtype else "",
        "shape": [-1] if shape is None else shape,
    }


class Service:
    def __init__(self, client: Any, timeout_ms: int) -> None:
        self.client = client
        self.timeout_ms = timeout_ms
        self.known: dict[str, Fields] = {}  # as AI.MODELGET META has told

    async def model(self, key: str, version: str | None, full: bool = False) -> Fields:
        model: Fields = await AsyncRedisAI(self.client).model_get(key, full=full)
        check_version(version, model)
        return model

    def describe(self) -> Fields:
        version = importlib.metadata.version("redisai-module")
        return {"name": "redisai-http", "version": version, "extensions": EXTENSIONS}

    async def server(self, request: Request) -> Response:
        return JSONResponse(self.describe())

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def is_ready(self) -> bool:
        return bool((await self.client.execute_command("AI.INFO"))[1])

    async def ready(self, request: Request) -> Response:
        ready = await self.is_ready()
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def model_ready(self, request: Request) -> Response:
        key, version = named(request)
        await self.model(key, version)  # waits until it is compiled
        return JSONResponse({"name": key, "ready": True})

    async def describe_model(self, key: str, version: str | None) -> Fields:
        model = await self.model(key, version, full=True)
        ends = {
            which: [
                detail(name, details)
                for name, details in zip(names_of(model, which), model[f"{which[:-1]}_details"], strict=True)
            ]
            for which in ("inputs", "outputs")
        }
        versions = [model["tag"]] if model["tag"] else []
        return {"name": key, "versions": versions, "platform": PLATFORMS[model["backend"]], **ends}

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(await self.describe_model(*named(request)))

    async def infer(self, request: Request) -> Response:
        head, binary = await body_of(request)
        arrays: dict[str, Array] = {}
        for entry in need(head.get("inputs"), list, "inputs"):
            name, array, binary = read_input(entry, binary)
            if name in arrays:
                raise Refused(400, f"the input {name} is there twice")
            arrays[name] = array
        if binary:
            raise Refused(400, f"{len(binary)} bytes of the body belong to no input")
        all_binary = parameters_of(head, "the request").get("binary_data_output", False)
        outputs = None
        if head.get("outputs"):
            outputs = []
            for entry in need(head["outputs"], list, "outputs"):
                name = need(need(entry, dict, "an output").get("name"), str, "the name of an output")
                parameters = parameters_of(entry, name)
                outputs.append(Wanted(name, bool(parameters.get("binary_data", all_binary))))
        model, found = await self.run(*named(request), arrays, outputs, bool(all_binary))
        answered = {"model_name": request.path_params["name"], "model_version": model["tag"]}
        if "id" in head:
            answered["id"] = need(head["id"], str, "id")
        return answer(answered, found)

    async def run(
        self,
        key: str,
        version: str | None,
        arrays: dict[str, Array],
        outputs: list[Wanted] | None,
        all_binary: bool,
    ) -> tuple[Fields, list[tuple[Wanted, Array]]]:
        model = self.known.get(key)
        is_fresh = model is None
        for _ in range(3):
            if model is None:
                model = await self.model(key, version)
            try:
                check_version(version, model)
                inputs = in_order(names_of(model, "inputs"), arrays)
                names = names_of(model, "outputs")
                wanted = [Wanted(name, all_binary) for name in names] if outputs is None else outputs
                check_outputs(wanted, names)
            except Refused:
                if is_fresh:
                    raise
                model, is_fresh = None, True  # it may have changed since
                continue
            pipeline = self.client.pipeline(transaction=False)
            RedisAI(pipeline).model_get(key)
            dag = RedisAI(pipeline).dag(routing=key, timeout_ms=self.timeout_ms, read_only=True)
            places = [f"in{number}" for number in range(len(inputs))], [f"out{number}" for number in range(len(names))]
            for place, array in zip(places[0], inputs, strict=True):
                dag.tensor_set(place, array)
            dag.model_execute(key, *places)
            for output in wanted:
                dag.tensor_get(places[1][names.index(output.name)])
            dag.execute()
            told, found = await pipeline.execute(raise_on_error=False)
            if isinstance(told, Exception):
                self.known.pop(key, None)
                raise told
            self.known[key] = told
            if told == model:
                if isinstance(found, Exception):
                    raise found
                return model, list(zip(wanted, found, strict=True))
            model, is_fresh = told, True  # a new version, or another model, was stored
        raise Refused(503, "the model is being replaced again and again; try again")


def named(request: Request) -> tuple[str, str | None]:
    return request.path_params["name"], request.path_params.get("version")


def check_version(version: str | None, model: Fields) -> None:
    if version is not None and version != model["tag"]:
        raise Refused(404, f"the version (TAG) of the model is {model['tag']!r}, not {version!r}")


def answering(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Errors become the protocol's."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except Refused as error:
            refused = error
        except redis.RedisError as error:
            refused = refusal(error)
        except ClientDisconnect:
            refused = Refused(400, "the client has gone")
        return JSONResponse({"error": str(refused)}, refused.status)

    return handle


async def not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return JSONResponse({"error": "no such path; docs/http.md lists them" if status == 404 else str(error)}, status)


def application(url: str, timeout_ms: int, grpc_address: str | None = None) -> Starlette:
    # RESP2: the client reads what models declare as lists. The server itself ends runs after timeout_ms.
    client = redis.asyncio.Redis.from_url(url, protocol=2, socket_timeout=timeout_ms / 1000 + 5 if timeout_ms else None)
    service = Service(client, timeout_ms)
    routes = [
        ("/v2", service.server, "GET"),
        ("/v2/health/live", service.live, "GET"),
        ("/v2/health/ready", service.ready, "GET"),
    ]
    for model in "/v2/models/{name}", "/v2/models/{name}/versions/{version}":
        routes += [
            (model, service.metadata, "GET"),
            (f"{model}/ready", service.model_ready, "GET"),
            (f"{model}/infer", service.infer, "POST"),
        ]
    made = [Route(path, answering(handler), methods=[method]) for path, handler, method in routes]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if grpc_address is None:
            yield
            return
        from . import grpc_service

        server = await grpc_service.start(service, grpc_address)
        yield
        await server.stop(1)

    return Starlette(routes=made, exception_handlers={404: not_found, 405: not_found}, lifespan=lifespan)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="redisai-http", description="The Open Inference Protocol (KServe v2) for the models of a server."
    )
    add_url(parser)
    add_own_address(parser, 8000)
    parser.add_argument(
        "--timeout-ms", type=int, default=60000, help="for how long a run may take, 0: any time (default: 60000)"
    )
    parser.add_argument("--grpc-port", type=int, help="the port for gRPC, of the same address (default: no gRPC)")
    options = parser.parse_args()
    try:
        if options.grpc_port is not None:
            importlib.import_module(".grpc_service", __package__)
        address = None if options.grpc_port is None else f"{options.host}:{options.grpc_port}"
        app = application(options.url, options.timeout_ms, address)
    except ModuleNotFoundError as error:
        sys.exit(f"redisai-http: {error}; in the checkout, run `{sys.prefix}/bin/pip install '.[grpc]'`")
    except ValueError as error:
        print(f"redisai-http: {error}", file=sys.stderr)
        return 1
    uvicorn.run(app, host=options.host, port=options.port, access_log=False)
    return 0
