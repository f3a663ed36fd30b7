"""redisai-http: the Open Inference Protocol with tritonclient and with bare requests, its errors, and docs/http.md."""

from __future__ import annotations

import http.client
import json
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.http as triton

from testkit import models, samples
from testkit.server import Client, Server
from testkit.waiting import wait_for
from tests.conftest import StartServer
from tests.tools.test_docs import clients_program, page_blocks

PROGRAM = str(Path(sys.executable).parent / "redisai-http")
TITLE = "Over HTTP: redisai-http"
Ask = Callable[..., tuple[int, Any]]


@contextmanager
def serving(server: Server, *words: str) -> Iterator[int]:
    """The port of a redisai-http before the server."""
    command = [PROGRAM, "--url", f"redis://127.0.0.1:{server.port}", "--port", "0", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        lines = iter(process.stderr.readline, "")
        yield next(int(found[1]) for line in lines if (found := re.search(r"running on http://127.0.0.1:(\d+)", line)))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def port(shared: Server) -> Iterator[int]:
    with serving(shared) as port:
        yield port


def request(port: int, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if data is None else "POST", path, data, names)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if answer.getheader("content-type") == "application/json" else text


@pytest.fixture
def ask(port: int, server: Server) -> Ask:
    def ask(path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        return request(port, path, body, **headers)

    return ask


def store(r: Client, key: str, blob: bytes, tag: str = "3", backend: str = "ONNX") -> None:
    assert r.execute_command("AI.MODELSTORE", key, backend, "CPU", "TAG", tag, "BLOB", blob) == b"OK"


def tensor(name: str, values: Any, datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(np.shape(values)), "data": values}


def test_the_page(
    ask: Ask, port: int, r: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(clients_program("Clients"), {})
    store(r, "fahrenheit", Path("fahrenheit.onnx").read_bytes(), tag="")
    starting, asking = page_blocks("docs/http.md", TITLE, "sh")
    assert starting == "redisai-http --url redis://127.0.0.1:6379 --port 8000\n"
    words = asking.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    answer = json.loads(subprocess.check_output(["bash", "-ec", words], text=True, timeout=60))
    (printed,) = page_blocks("docs/http.md", TITLE, "json")
    assert answer == json.loads(printed)
    (program,) = page_blocks("docs/http.md", TITLE, "python")
    exec(program.replace("127.0.0.1:8000", f"127.0.0.1:{port}"), {})
    assert capsys.readouterr().out == "[ 98.6 212. ]\n"
    assert r.keys() == [b"fahrenheit"], "no keys are left"


def test_what_it_tells(ask: Ask, r: Client) -> None:
    store(r, "m", models.onnx_add())
    status, told = ask("/v2")
    assert (status, told["name"], told["extensions"]) == (200, "redisai-http", ["binary_tensor_data"])
    assert ask("/v2/health/live")[0] == ask("/v2/health/ready")[0] == 200
    ends = {"datatype": "FP32", "shape": [-1, 2]}
    wanted = {
        "name": "m",
        "versions": ["3"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "a", **ends}, {"name": "b", **ends}],
        "outputs": [{"name": "sum", **ends}],
    }
    for path in "/v2/models/m", "/v2/models/m/versions/3":
        assert ask(path) == (200, wanted)
        assert ask(f"{path}/ready") == (200, {"name": "m", "ready": True})


def test_not_ready(start_server: StartServer, tmp_path: Path) -> None:
    backends, go = samples.slow_backend(tmp_path)
    server = start_server(options=["BACKENDSPATH", str(backends), "PRELOAD", "ONNX", "ALLOW_FILE_OPS", 1])
    with serving(server) as port:
        assert request(port, "/v2/health/ready") == (503, {"ready": False})
        go.touch()
        wait_for(lambda: request(port, "/v2/health/ready") == (200, {"ready": True}))


@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "uint64", "float64", "float32", "object"])
def test_dtypes(ask: Ask, port: int, r: Client, dtype: str, is_binary: bool) -> None:
    """What tritonclient sends comes back from a model that gives its input."""
    name = {"float32": "FLOAT", "float64": "DOUBLE", "object": "STRING"}.get(dtype, dtype.upper())
    store(r, "m", models.onnx_identity(name, ("n", 2)))
    values: list[Any] = [[0, 1], [1, 1]]
    if dtype == "uint64":
        values[0][0] = 2**64 - 1
    if dtype == "object":
        values = [["a", ""], ["é", "\0"]]
    array = np.array(values, dtype)
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    given = triton.InferInput("x", array.shape, triton.np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array, binary_data=is_binary)
    output = triton.InferRequestedOutput("y", binary_data=is_binary)
    result = client.infer("m", [given], outputs=[output], model_version="3", request_id="7")
    found = result.as_numpy("y")
    if dtype == "object" and is_binary:
        found = np.vectorize(bytes.decode, otypes=[object])(found)
    np.testing.assert_array_equal(found, array)
    assert (result.get_response()["id"], result.get_response()["model_version"]) == ("7", "3")
    client.close()


def test_16_bits_and_any_bytes(ask: Ask, r: Client) -> None:
    """Types that JSON and NumPy lack travel as bytes."""
    raw = {"FLOAT16": ("FP16", b"\x00\x3c"), "BFLOAT16": ("BF16", b"\x80\x3f")}
    raw["STRING"] = ("BYTES", struct.pack("<I", 4) + b"\xff\x00\x01\x00")
    for name, (datatype, blob) in raw.items():
        store(r, "m", models.onnx_identity(name))
        entry = {"name": "x", "datatype": datatype, "shape": [1], "parameters": {"binary_data_size": len(blob)}}
        head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
        length = {"Inference_Header_Content_Length": str(len(head))}
        status, body = ask("/v2/models/m/infer", head + blob, **length)
        assert status == 200 and body.endswith(blob) and datatype.encode() in body, body
        if datatype == "BYTES":
            head = json.dumps({"inputs": [entry]}).encode()
            length = {"Inference_Header_Content_Length": str(len(head))}
            status, told = ask("/v2/models/m/infer", head + blob, **length)
            assert status == 400 and "ask for binary_data" in told["error"]


def test_inputs_by_name_and_outputs_by_choice(ask: Ask, r: Client) -> None:
    store(r, "m", models.onnx_binary("Sub", "difference", ["n", 2]))
    a, b = tensor("a", [[5, 5]]), tensor("b", [[1, 2]])
    for inputs in [a, b], [b, a]:
        status, told = ask("/v2/models/m/infer", {"inputs": inputs, "outputs": [{"name": "difference"}]})
        assert (status, told["outputs"][0]["data"]) == (200, [4, 3])


def test_the_order_changes(ask: Ask, r: Client) -> None:
    a, b, y = (models.value(name, onnx.TensorProto.FLOAT, ["n"]) for name in "aby")
    node = onnx.helper.make_node("Sub", ["a", "b"], ["y"])
    body = {"inputs": [tensor("a", [5]), tensor("b", [1])]}
    for order in [a, b], [b, a]:
        store(r, "m", models.onnx_model([node], order, [y]))
        assert ask("/v2/models/m/infer", body)[1]["outputs"][0]["data"] == [4]


def test_a_new_version(ask: Ask, r: Client) -> None:
    """Other names, in another order: each run takes those of the model that ran it."""
    store(r, "m", models.onnx_add(), tag="1")
    body = {"inputs": [tensor("a", [[5, 5]]), tensor("b", [[1, 2]])]}
    assert ask("/v2/models/m/infer", body)[1]["outputs"][0]["name"] == "sum"
    store(r, "m", models.onnx_mul(), tag="2")
    told = ask("/v2/models/m/infer", body)[1]
    assert (told["model_version"], told["outputs"][0]["name"], told["outputs"][0]["data"]) == ("2", "product", [5, 10])
    status, told = ask("/v2/models/m/versions/1/infer", body)
    assert status == 404 and "is '2', not '1'" in told["error"]
    r.delete("m")
    assert ask("/v2/models/m/infer", body) == (404, {"error": "there is no such model"})


A, B = tensor("a", [[1, 2]]), tensor("b", [[1, 2]])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "the body is no JSON"),
        (b"[" * 100000, "the body is no JSON"),
        ([], "the body must be an object"),
        ({}, "inputs must be a list"),
        ({"inputs": [A]}, "the input b is missing|Number of keys|INPUTS"),
        ({"inputs": [B]}, "the input a is missing"),
        ({"inputs": [A, A]}, "there twice"),
        ({"inputs": [A, B, {**A, "name": "c"}]}, "no input c; it has a, b"),
        ({"inputs": [A, B], "outputs": [{"name": "y"}]}, "no output y; it has sum"),
        ({"inputs": [A, {**B, "shape": [3]}]}, "b as FP32: 2 elements, but the shape"),
        ({"inputs": [A, {**B, "shape": [-1, 2]}]}, "each size in the shape of b must be a whole number"),
        ({"inputs": [A, {**B, "shape": [2**62, 2**62]}]}, "2 elements, but the shape"),
        ({"inputs": [A, {**B, "shape": [1] * 99, "data": [1]}]}, "b as FP32: "),
        ({"inputs": [A, {**B, "datatype": "FP128"}]}, "b has the datatype 'FP128'; there are BOOL"),
        ({"inputs": [A, {**B, "datatype": []}]}, "b has the datatype"),
        ({"inputs": [A, {**B, "data": [["x", 1]]}]}, "an element does not fit"),
        ({"inputs": [A, {**B, "data": [[1], [2, 3]]}]}, "b as FP32: "),
        ({"inputs": [A, {**B, "datatype": "INT8", "data": [1, 200]}]}, "too large or too small|INT8"),
        ({"inputs": [A, {**B, "datatype": "INT64"}]}, "b.*INT64|INT64.*b"),
        ({"inputs": [A, {**B, "parameters": {"shared_memory_region": "x"}}]}, "shared_memory_region is not supported"),
        ({"inputs": [A, {**B, "parameters": {"binary_data_size": 8}}]}, "b has 8 bytes, but 0 are left"),
        ({"inputs": [{**A, "shape": [1, 3], "data": [1, 2, 3]}, {**B, "shape": [1, 3], "data": [1, 2, 3]}]}, "a"),
    ],
)
def test_bad_requests(ask: Ask, r: Client, body: object, text: str) -> None:
    store(r, "m", models.onnx_add())
    status, told = ask("/v2/models/m/infer", body)
    assert status == 400 and re.search(text, told["error"]), told


def test_errors(ask: Ask, r: Client) -> None:
    r.set("text", "a string")
    store(r, "m", models.onnx_identity())
    body = {"inputs": [tensor("x", [1])]}
    for key in "nothing", "text":
        for path, sent in (("", None), ("/ready", None), ("/infer", body)):
            assert ask(f"/v2/models/{key}{path}", sent) == (404, {"error": "there is no such model"})
    assert ask("/v2/models/m/versions/9/ready")[0] == 404
    assert ask("/v2/nothing")[0] == 404 and "error" in ask("/v2/nothing")[1]
    assert ask("/v2/models/m/infer")[0] == 405
    for length in "9999", "-1", "x", "9" * 30:
        assert ask("/v2/models/m/infer", body, Inference_Header_Content_Length=length)[0] == 400
    assert ask("/v2/models/m/infer", body, Content_Encoding="gzip")[0] == 400
    status, told = ask(
        "/v2/models/m/infer", b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}'
    )
    assert status == 400 and "ask for binary_data" in told["error"]


def test_without_redis(start_server: StartServer) -> None:
    server = start_server()
    with server.client() as r, serving(server, "--timeout-ms", "1") as port:
        store(r, "m", models.onnx_loop())
        body = {"inputs": [{"name": "n", "datatype": "INT64", "shape": [], "data": [10**7]}]}
        assert request(port, "/v2/models/m/infer", body) == (503, {"error": "the run took longer than --timeout-ms"})
        server.kill()
        for path in "/v2/health/ready", "/v2/models/m/ready":
            status, told = request(port, path)
            assert status == 503 and "Redis does not answer" in told["error"]
        assert request(port, "/v2/health/live")[0] == 200


def test_names_of_torch(ask: Ask, r: Client) -> None:
    store(r, "m", models.torch_module(models.Add), backend="TORCH")
    told = ask("/v2/models/m")[1]
    assert told["platform"] == "pytorch_torchscript" and told["outputs"][0]["name"] == "OUTPUT__0"
    inputs = [tensor(end["name"], [1, 2]) for end in told["inputs"]]
    assert {(end["datatype"], *end["shape"]) for end in told["inputs"]} == {("", -1)}
    answer = ask("/v2/models/m/infer", {"inputs": inputs})[1]
    assert [(output["name"], output["data"]) for output in answer["outputs"]] == [("OUTPUT__0", [2, 4])]
