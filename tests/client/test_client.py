"""redisai_module.client on every kind of client of redis-py: arrays in and out, models, scripts, DAGs, errors."""

# redis-py's own methods have no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import redis
import redis.asyncio
import redisai_module.client
from redisai_module.client import DTYPES, AsyncRedisAI, RedisAI, TimedOut

from testkit import models
from testkit.dtypes import DTYPES as KNOWN
from testkit.server import Client, Server
from testkit.wire import Wire
from tests.client.functions import helper, keep_in_redis, twice
from tests.conftest import Slow

X = np.array([[1, 2], [3, 4]], np.float32)

Use = Callable[..., Any]  # use(method, *arguments) calls a method or a function of the client, and waits for the answer


def call(ai: RedisAI, method: str | Callable[..., Any], *words: Any, **named: Any) -> Any:
    return method(ai, *words, **named) if callable(method) else getattr(ai, method)(*words, **named)


@pytest.fixture(params=["RESP2", "RESP3", "decode_responses", "asyncio", "asyncio, decode_responses"])
def use(request: pytest.FixtureRequest, server: Server) -> Iterator[Use]:
    options: dict[str, Any] = {"port": server.port, "decode_responses": "decode_responses" in request.param}
    if request.param.startswith("RESP"):
        options["protocol"] = int(request.param[-1])
    if "asyncio" not in request.param:
        with redis.Redis(**options) as client:
            yield partial(call, RedisAI(client))
        return
    loop = asyncio.new_event_loop()
    connection = redis.asyncio.Redis(**options)

    async def ask(*words: Any, **named: Any) -> Any:
        return await call(AsyncRedisAI(connection), *words, **named)

    yield lambda *words, **named: loop.run_until_complete(ask(*words, **named))
    loop.run_until_complete(connection.aclose())
    loop.close()


@pytest.fixture
def ai(r: Client) -> RedisAI:
    return RedisAI(r)


# ---- tensors ---------------------------------------------------------------------------------------------------------


def test_all_dtypes_are_known() -> None:
    assert {name: np.dtype(numpy) for name, numpy in DTYPES.items()} == {
        name: dtype.numpy.newbyteorder("=") for name, dtype in KNOWN.items()
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_come_back(use: Use, dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(DTYPES[dtype])
    if dtype == "STRING":
        array = np.array([["ein W\u00f6rt", "", "b\udcff", "a\0b", "\0\udcff\0"]], object)
    assert use("tensor_set", "t", array) is True
    found = use("tensor_get", "t")
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert np.array_equal(found, array)
    found[0, 0] = found[0, 1]  # it may be written to


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (3, "INT64", np.array(3)),
        ([1.5, 2], "DOUBLE", np.array([1.5, 2])),
        ([True, False], "BOOL", np.array([True, False])),
        ("text", "STRING", np.array("text", object)),
        (["a", "bc"], "STRING", np.array(["a", "bc"], object)),
        ([b"a", b"\xff"], "STRING", np.array(["a", "\udcff"], object)),
        ([b"a\0\0", b"\0"], "STRING", np.array(["a\0\0", "\0"], object)),
        (["a\0", "|>"], "STRING", np.array(["a\0", "|>"], object)),
        (b"\0a\0", "STRING", np.array("\0a\0", object)),
        ([["a\0"], ["b"]], "STRING", np.array([["a\0"], ["b"]], object)),
        (np.array([b"a\0b", b""]), "STRING", np.array(["a\0b", ""], object)),
        (np.empty((0, 2), object), "STRING", np.empty((0, 2), object)),
        (np.arange(6, dtype=np.int16).reshape(2, 3).T, "INT16", np.arange(6).reshape(2, 3).T),
        (np.arange(3, dtype=">f4"), "FLOAT", np.arange(3)),
        (np.zeros((2, 1), ml_dtypes.bfloat16), "BFLOAT16", np.zeros((2, 1))),
    ],
)
def test_values_that_are_no_plain_arrays(ai: RedisAI, r: Client, value: Any, dtype: str, expected: Any) -> None:
    ai.tensor_set("t", value)
    assert r.execute_command("AI.TENSORGET", "t", "META")[1] == dtype.encode()
    found = ai.tensor_get("t")
    assert found.shape == expected.shape and np.array_equal(found, expected)


def test_hashes(use: Use, r: Client) -> None:
    r.hset("h", mapping={"a": 1, "b": 2.5})
    r.hset("g", "a", "-3")
    assert use("tensor_from_hashes", "t", ["h", "g"], ("a", "b"), default=float("nan")) is True
    assert np.array_equal(use("tensor_get", "t"), np.array([[1, 2.5], [-3, np.nan]], np.float32), equal_nan=True)
    assert use("tensor_from_hashes", "t", "h", "a", dtype="INT8") is True
    assert use("tensor_get", "t").tolist() == [1]
    with pytest.raises(redis.ResponseError, match="the hash 'g' has no field 'b'; DEFAULT"):
        use("tensor_from_hashes", "t", ["g"], "b")
    assert use("hash_set", "h", {"c": "t", "d": "t"}) is True
    assert use("hash_set", "h", {"e": "t"}, "BLOB") is True
    assert r.hgetall("h") == {b"a": b"1", b"b": b"2.5", b"c": b"1", b"d": b"1", b"e": b"\1"}


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (np.zeros(2, complex), TypeError, "no tensor has the dtype complex128; choose one of float32, "),
        ([None, "a"], TypeError, "None is neither str nor bytes"),
    ],
)
def test_values_that_no_tensor_can_have(ai: RedisAI, r: Client, value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ai.tensor_set("t", np.array(value, object) if isinstance(value, list) else value)
    assert not r.exists("t")


def test_other_users_of_the_same_client_get_what_they_got(ai: RedisAI, r: Client) -> None:
    ai.tensor_set("t", X)
    ai.tensor_get("t")
    assert r.execute_command("AI.TENSORGET", "t", "BLOB") == X.tobytes()


# ---- models ----------------------------------------------------------------------------------------------------------


def test_model(use: Use) -> None:
    options = {"tag": "v1", "batch_size": 4, "min_batch_size": 2, "min_batch_timeout_ms": 5}
    assert use("model_store", "m", models.onnx_add(), **options) is True
    expected = {
        "backend": "ONNX",
        "device": "CPU",
        "tag": "v1",
        "batchsize": 4,
        "minbatchsize": 2,
        "inputs": ["a", "b"],
        "outputs": ["sum"],
        "minbatchtimeout": 5,
    }
    assert use("model_get", "m") == expected
    limits = {"min_batch_timeout_ms": 0.5, "max_queue": 9, "timeout_ms": 60000, "priority": "low", "cache_bytes": 1000}
    assert use("model_config", "m", **limits) is True
    expected |= {"minbatchtimeout": 1, "minbatchtimeout_us": 500, "maxqueue": 9, "timeout": 60000, "priority": "low"}
    expected["cache"] = 1000
    assert use("model_get", "m") == expected
    assert use("model_store", "m", models.onnx_add(), **(options | limits)) is True
    assert use("model_get", "m")["maxqueue"] == 9
    assert use("model_store", "m", models.onnx_add(), warmup=[[X, X], [X[:1], X[:1]]]) is True
    assert use("model_get", "m")["warmup"] == [f"2 FLOAT {rows} 2 FLOAT {rows} 2" for rows in (len(X), 1)]
    assert use("model_store", "m", models.onnx_identity("STRING"), warmup=[[["a", "b\0"]]]) is True
    assert use("model_get", "m")["warmup"] == ["1 STRING 2"]
    assert use("model_store", "m", models.onnx_add(), **(options | limits)) is True
    assert use("model_blob", "m") == models.onnx_add()
    use("tensor_set", "x", X)
    assert use("model_execute", "m", ["x", "x"], "y", timeout_ms=10000, priority="high") is True
    assert np.array_equal(use("tensor_get", "y"), X * 2)
    assert use("info", "m")["calls"] == 1
    assert use("info", "m", full=True)["executions"] == 1


def test_strings_of_any_bytes_through_models_and_dags(use: Use) -> None:
    texts = np.array(["a\0b", "\udcff\0", ""], object)
    use("model_store", "same", models.onnx_identity("STRING"))
    (found,) = use("run", "same", texts)
    assert np.array_equal(found, texts)

    def in_a_dag(ai: RedisAI) -> Any:
        dag = ai.dag(routing="same").tensor_set("x", [b"|>", b"\0"]).model_execute("same", "x", "y")
        return dag.tensor_get("x").tensor_get("y").execute()

    assert [array.tolist() for array in use(in_a_dag)] == [["|>", "\0"]] * 2


def test_run(use: Use, r: Client) -> None:
    use("model_store", "both", models.torch_module(models.SumAndProduct))
    assert use("model_get", "both")["backend"] == "TORCH"
    for outputs in (None, 2):
        total, product = use("run", "both", X, X + 1, outputs=outputs)
        assert np.array_equal(total, X + X + 1) and np.array_equal(product, X * (X + 1))
    assert r.keys() == [b"both"]


def test_errors(use: Use) -> None:
    use("model_store", "m", models.onnx_add())
    with pytest.raises(redis.ResponseError, match="tensor key is empty"):
        use("tensor_get", "t")
    with pytest.raises(redis.ResponseError, match="does not match model definition"):
        use("run", "m", X)
    with pytest.raises(redis.ResponseError, match="(?i)invalid dimensions"):
        use("run", "m", X, X[:, :1])
    with pytest.raises(redis.ResponseError, match="protobuf"):
        use("model_store", "m", b"\x08rubbish")
    with pytest.raises(redis.ResponseError, match="model key is empty"):
        use("run", "nothing", X)
    with pytest.raises(redis.ResponseError, match="(?i)device"):
        use("model_store", "m", models.onnx_add(), device="TPU")


def test_time_out(use: Use, wire: Wire, slow: Slow) -> None:
    slow(wire, 1.0)
    rounds = use("tensor_get", "slow:n")
    with pytest.raises(TimedOut):
        use("model_execute", "slow", "slow:n", "y", timeout_ms=1)
    with pytest.raises(redis.ResponseError, match="TIMEDOUT"):
        use("run", "slow", rounds, timeout_ms=1)


def test_large_models_are_sent_in_pieces(ai: RedisAI, r: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redisai_module.client, "_CHUNK", 100)
    r.execute_command("CONFIG", "SET", "ai.model-chunk-size", 50)
    try:
        ai.model_store("m", models.onnx_add())
        assert len(r.execute_command("AI.MODELGET", "m", "BLOB")) > 1
        assert ai.model_blob("m") == models.onnx_add()
    finally:
        r.execute_command("CONFIG", "SET", "ai.model-chunk-size", 535822336)


# ---- scripts and DAGs ------------------------------------------------------------------------------------------------


def test_script(use: Use) -> None:
    assert use("script_store", "s", [helper, twice], tag="v1") is True
    found = use("script_get", "s")
    assert (found["device"], found["tag"], found["Entry Points"]) == ("CPU", "v1", ["twice"])
    assert found["source"].startswith("def helper(x)")
    use("tensor_set", "x", X)
    assert use("script_execute", "s", "twice", "x", "y", args=[3], timeout_ms=60000, priority="low") is True
    assert np.array_equal(use("tensor_get", "y"), X * 6)


def test_script_with_keys(ai: RedisAI, r: Client) -> None:
    ai.script_store("s", keep_in_redis())
    ai.script_execute("s", "keep", keys="k", args=["word"])
    assert r.get("k") == b"word"


def test_scripts_that_do_not_compile(ai: RedisAI) -> None:
    with pytest.raises(ValueError, match=r"no function has the parameters \(tensors, keys, args\)"):
        ai.script_store("s", helper)
    with pytest.raises(redis.ResponseError, match="undefined value"):
        ai.script_store("s", twice)
    source = "def one(tensors: List[Tensor], keys: List[str], args: List[str]):\n    return tensors[0]\n"
    assert ai.script_store("s", source, entry_points=["one"]) is True


def test_dag(use: Use, r: Client) -> None:
    use("model_store", "m{t}", models.onnx_add())
    use("script_store", "s{t}", [helper, twice])
    use("tensor_set", "x{t}", X)

    def ask(ai: RedisAI) -> Any:
        dag = ai.dag(load="x{t}", persist=["y{t}"], timeout_ms=60000, priority="high")
        dag.tensor_set("one", np.ones((1, 2), np.float32)).script_execute("s{t}", "twice", ["one"], ["two"], args=[1])
        dag.model_execute("m{t}", ["x{t}", "two"], ["y{t}"]).tensor_get("y{t}").tensor_get("one")
        return dag.execute()

    total, one = use(ask)
    assert np.array_equal(total, X + 2) and np.array_equal(one, [[1, 1]])
    assert np.array_equal(use("tensor_get", "y{t}"), X + 2)
    assert not r.exists("two")


def test_a_dag_raises_the_first_error(ai: RedisAI) -> None:
    ai.model_store("m", models.onnx_add())
    dag = ai.dag(routing="m").tensor_set("x", X).tensor_set("y", X[:, :1])
    with pytest.raises(redis.ResponseError, match="(?i)invalid dimensions"):
        dag.model_execute("m", ["x", "y"], ["z"]).tensor_get("z").execute()


# ---- pipelines, replicas, other packages -----------------------------------------------------------------------------


def queue(ai: Any) -> None:
    ai.tensor_set("x", X)
    ai.model_execute("m", ["x", "x"], ["y"])
    ai.tensor_get("y")
    ai.run("m", X, X, outputs=1)
    ai.tensor_get("nothing")


def check_queued(replies: list[Any]) -> None:
    assert replies[:2] == [True, True]
    assert np.array_equal(replies[2], X * 2) and np.array_equal(replies[3][0], X * 2)
    assert isinstance(replies[4], redis.ResponseError)


def test_pipeline(ai: RedisAI, r: Client) -> None:
    ai.model_store("m", models.onnx_add())
    with r.pipeline(transaction=False) as pipeline:
        queue(RedisAI(pipeline))
        check_queued(pipeline.execute(raise_on_error=False))
        with pytest.raises(TypeError, match="in a pipeline, give outputs"):
            RedisAI(pipeline).run("m", X, X)


def test_asyncio_pipeline(ai: RedisAI, server: Server) -> None:
    async def ask() -> None:
        async with redis.asyncio.Redis(port=server.port) as client, client.pipeline(transaction=False) as pipeline:
            queue(AsyncRedisAI(pipeline))
            check_queued(await pipeline.execute(raise_on_error=False))

    ai.model_store("m", models.onnx_add())
    asyncio.run(ask())


@pytest.mark.parametrize("package", ["redisai_module.client", "copied"])
def test_it_imports_nothing_of_the_module_and_no_framework(tmp_path: Path, package: str) -> None:
    shutil.copytree(Path(redisai_module.client.__file__).parent, tmp_path / "copied")
    program = f"import sys, {package}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True, timeout=60, cwd=tmp_path).split()
    assert ("redisai_module" in loaded) == (package != "copied")
    assert not {"_redisai_bridge", "cffi", "ml_dtypes", "onnx", "torch", "sklearn", "tensorflow", "keras"} & set(loaded)
