"""redisai-http --grpc-port: gRPC with tritonclient and with bare messages, errors, and the section of docs/http.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from testkit import models
from testkit.server import Client, Server, free_port
from tests.conftest import StartServer
from tests.programs.test_http import serving, store
from tests.tools.test_docs import clients_program, page_blocks


@pytest.fixture(scope="module")
def port(shared: Server) -> Iterator[int]:
    port = free_port()
    with serving(shared, "--grpc-port", str(port)):
        yield port


@pytest.fixture
def client(port: int, server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client


@pytest.fixture
def stub(port: int, server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def test_the_page(
    port: int, r: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(clients_program("Clients"), {})
    store(r, "fahrenheit", Path("fahrenheit.onnx").read_bytes(), tag="")
    (starting,) = page_blocks("docs/http.md", "gRPC", "sh")
    assert starting == "redisai-http --url redis://127.0.0.1:6379 --port 8000 --grpc-port 8001\n"
    (program,) = page_blocks("docs/http.md", "gRPC", "python")
    exec(program.replace("127.0.0.1:8001", f"127.0.0.1:{port}"), {})
    assert capsys.readouterr().out == "[ 98.6 212. ]\n"


def test_what_it_tells(client: Any, r: Client) -> None:
    store(r, "m", models.onnx_add())
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("m", "3")
    assert client.get_server_metadata().name == "redisai-http"
    told = client.get_model_metadata("m", as_json=True)
    ends = {"datatype": "FP32", "shape": ["-1", "2"]}
    assert told == {
        "name": "m",
        "versions": ["3"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "a", **ends}, {"name": "b", **ends}],
        "outputs": [{"name": "sum", **ends}],
    }


@pytest.mark.parametrize(
    ("dtype", "datatype", "field"),
    [
        ("bool", "BOOL", "bool_contents"),
        ("int8", "INT8", "int_contents"),
        ("uint8", "UINT8", "uint_contents"),
        ("int64", "INT64", "int64_contents"),
        ("uint64", "UINT64", "uint64_contents"),
        ("float32", "FP32", "fp32_contents"),
        ("float64", "FP64", "fp64_contents"),
        ("object", "BYTES", "bytes_contents"),
    ],
)
def test_dtypes(client: Any, stub: Any, r: Client, dtype: str, datatype: str, field: str) -> None:
    """As bytes, and as numbers in the message; what is sent comes back from a model that gives its input."""
    name = {"float32": "FLOAT", "float64": "DOUBLE", "object": "STRING"}.get(dtype, dtype.upper())
    store(r, "m", models.onnx_identity(name, ("n", 2)))
    array = np.array([[b"a", b""], [b"\xc3\xa9", b"\0"]] if dtype == "object" else [[0, 1], [1, 1]], dtype)
    given = triton.InferInput("x", array.shape, datatype)
    given.set_data_from_numpy(array)
    result = client.infer("m", [given], model_version="3", request_id="7")
    np.testing.assert_array_equal(result.as_numpy("y"), array)
    answer = result.get_response()
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "7")

    request = messages.ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[2, 2])
    getattr(tensor.contents, field).extend(array.ravel().tolist())
    assert stub.ModelInfer(request).raw_output_contents == answer.raw_output_contents


def test_errors(client: Any, stub: Any, r: Client) -> None:
    store(r, "m", models.onnx_add())

    def refused(code: str, text: str, model: str = "m", version: str = "", **tensors: Any) -> None:
        request = messages.ModelInferRequest(model_name=model, model_version=version)
        for name, sent in tensors.items():
            request.inputs.add(**{"name": name, "datatype": "FP32", "shape": [1, 2], **sent})
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request)
        assert caught.value.code().name == code and re.search(text, caught.value.details()), caught.value

    numbers = {"contents": messages.InferTensorContents(fp32_contents=[1, 2])}
    refused("NOT_FOUND", "there is no such model", model="nothing", a=numbers)
    refused("NOT_FOUND", "is '3', not '9'", version="9", a=numbers, b=numbers)
    refused("INVALID_ARGUMENT", "the input a is missing", b=numbers)
    refused("INVALID_ARGUMENT", "0 elements, but the shape", a=numbers, b={})
    refused("INVALID_ARGUMENT", "a has the datatype 'FP128'", a={"datatype": "FP128"})
    refused("INVALID_ARGUMENT", "each size in the shape of a", a={"shape": [-1, 2]})
    shared = {"parameters": {"shared_memory_region": messages.InferParameter(string_param="x")}}
    refused("INVALID_ARGUMENT", "shared_memory_region is not supported", a=shared)
    request = messages.ModelInferRequest(model_name="m", raw_input_contents=[b"x", b"y"])
    request.inputs.add(name="a", datatype="FP32", shape=[1, 2])
    with pytest.raises(grpc.RpcError, match="raw_input_contents has 2 entries, inputs 1"):
        stub.ModelInfer(request)
    del request.raw_input_contents[1:]
    with pytest.raises(grpc.RpcError, match="a as FP32: buffer size"):
        stub.ModelInfer(request)
    with pytest.raises(InferenceServerException, match="there is no such model"):
        client.is_model_ready("nothing")
    r.execute_command("AI.MODELSTORE", "odd", "ONNX", "CPU", "TAG", b"\xff", "BLOB", models.onnx_add())
    with pytest.raises(InferenceServerException, match="no UTF-8"):
        client.get_model_metadata("odd")
    with pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryIndex(messages.RepositoryIndexRequest())
    assert caught.value.code().name == "UNIMPLEMENTED"


def test_without_redis(start_server: StartServer) -> None:
    server, port = start_server(), free_port()
    with serving(server, "--grpc-port", str(port)), triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        assert client.is_server_ready()
        server.kill()
        with pytest.raises(InferenceServerException, match=r"UNAVAILABLE.*Redis does not answer"):
            client.is_server_ready()
        assert client.is_server_live()
