"""Running ONNX models: results of every type, odd outputs, and inputs that do not fit."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import TensorProto

from testkit import models
from testkit.paths import both_paths, check_path
from testkit.samples import ELEMENTS
from testkit.server import Client, Server
from testkit.wire import Error, Wire
from tests.conftest import StartServer


@both_paths
@pytest.mark.parametrize("command", ["AI.MODELEXECUTE m INPUTS 2 a b OUTPUTS 1 y", "AI.MODELRUN m INPUTS a b OUTPUTS y",
                                     "ai.modelexecute m inputs 2 a b outputs 1 y timeout 10000",
                                     "ai.modelrun m timeout 10000 inputs a b outputs y"])  # fmt: skip
def test_every_way_to_run(server: Server, wire: Wire, command: str) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_mul())
    wire.ask("AI.TENSORSET", "a", "FLOAT", 2, 2, "VALUES", 1, 2, 3, 4)
    wire.ask("AI.TENSORSET", "b", "FLOAT", 2, 2, "VALUES", 5, 6, 7, 8)
    reply = wire.ask(*command.split())
    assert (type(reply).__name__, reply) == ("Simple", b"OK")
    assert wire.ask("AI.TENSORGET", "y", "META", "VALUES") == [
        b"dtype", b"FLOAT", b"shape", [2, 2], b"values", [b"5", b"12", b"21", b"32"],
    ]  # fmt: skip
    check_path(server, direct=1)


@both_paths
@pytest.mark.parametrize("device", ["CPU", "cpu", "CPU:1", "cpu:0"])
def test_on_every_cpu_queue(server: Server, r: Client, device: str) -> None:
    r.execute_command("AI.MODELSTORE", "m", "ONNX", device, "BLOB", models.onnx_linear())
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    r.execute_command("AI.TENSORSET", "x", "FLOAT", 3, 4, "BLOB", x.tobytes())
    r.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    wanted = x @ np.arange(16, dtype=np.float32).reshape(4, 4) + 1
    assert r.execute_command("AI.TENSORGET", "y", "BLOB") == wanted.tobytes()
    check_path(server, direct=1)


def test_very_many_devices(start_server: StartServer) -> None:
    """Each has its own workers, so there is an end to them: a clear error, and those that are there go on."""
    with start_server().wire() as wire:
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        stored = []
        for number in range(100):
            reply = wire.ask("AI.MODELSTORE", f"m{number}", "ONNX", f"CPU:{number}", "BLOB", models.onnx_add())
            if reply == b"OK":
                stored.append(number)
            else:
                assert reply == Error("ERR too many device queues (64)")
        assert stored == list(range(62))  # two of the 64 are kept for CPU and GPU
        for number in stored:
            assert wire.ask("AI.MODELEXECUTE", f"m{number}", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"


@both_paths
@pytest.mark.parametrize("dtype", list(ELEMENTS))
@pytest.mark.parametrize("shape", [(2,), (1, 2), (2, 1, 1)])
def test_every_type_through_identity(server: Server, r: Client, dtype: str, shape: tuple[int, ...]) -> None:
    names: tuple[str, ...] = tuple(f"d{i}" for i in range(len(shape)))
    r.execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_identity(dtype, names))
    r.execute_command("AI.TENSORSET", "x", dtype, *shape, "BLOB", ELEMENTS[dtype])
    assert r.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert r.execute_command("AI.TENSORGET", "y") == [
        b"dtype", dtype.encode(), b"shape", list(shape), b"blob", ELEMENTS[dtype],
    ]  # fmt: skip
    check_path(server, direct=dtype != "STRING", python=dtype == "STRING")


@both_paths
@pytest.mark.parametrize("dtype", list(ELEMENTS))
def test_a_scalar_in_and_out(server: Server, wire: Wire, dtype: str) -> None:
    data = {"STRING": b"one\0"}.get(dtype, ELEMENTS[dtype][: len(ELEMENTS[dtype]) // 2])
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_identity(dtype, ()))
    assert wire.ask("AI.TENSORSET", "x", dtype, "BLOB", data) == b"OK"
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y") == [b"dtype", dtype.encode(), b"shape", [], b"blob", data]
    check_path(server, direct=dtype != "STRING", python=dtype == "STRING")


@both_paths
def test_an_output_of_rank_0(server: Server, r: Client) -> None:
    r.execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_total())
    r.execute_command("AI.TENSORSET", "x", "FLOAT", 3, "VALUES", 1, 2, 3)
    assert r.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert r.execute_command("AI.TENSORGET", "y", "META", "VALUES") == [
        b"dtype", b"FLOAT", b"shape", [], b"values", [b"6"],
    ]  # fmt: skip
    check_path(server, direct=1)


@both_paths
def test_an_empty_output(server: Server, wire: Wire) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_nonzero())
    wire.ask("AI.TENSORSET", "x", "FLOAT", 3)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    check_path(server, direct=1)
    assert wire.ask("AI.TENSORGET", "y") == [b"dtype", b"INT64", b"shape", [1, 0], b"blob", b""]
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == []
    assert wire.ask("DEBUG", "RELOAD") == b"OK"
    assert wire.ask("AI.TENSORGET", "y") == [b"dtype", b"INT64", b"shape", [1, 0], b"blob", b""]


@both_paths
@pytest.mark.parametrize(
    ("kind", "name"),
    [(TensorProto.FLOAT8E4M3FN, "float8e4m3fn"), (TensorProto.FLOAT8E5M2, "float8e5m2")],
)
def test_an_output_of_a_type_without_a_name(server: Server, wire: Wire, kind: int, name: str) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_cast(kind, opset=19))
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "out")
    assert isinstance(reply, Error)
    assert reply.startswith("ERR ")
    assert name in reply.lower(), "the type is named"
    assert "y" in reply.replace("type", ""), "the output is named"
    assert wire.ask("EXISTS", "out") == 0
    check_path(server, python=1)


@both_paths
@pytest.mark.parametrize(
    ("dtype", "shape", "word"),
    [("INT64", [1, 2], "float"), ("DOUBLE", [1, 2], "float"), ("STRING", [1, 2], "float"), ("BOOL", [1, 2], "float"),
     ("FLOAT", [1, 3], "3"), ("FLOAT", [2], "rank|dim|shape"), ("FLOAT", [1, 2, 1], "rank|dim|shape"),
     ("FLOAT", [1] * 64, "rank|dim|shape"), ("FLOAT", [], "rank|dim|shape")],
)  # fmt: skip
def test_an_input_that_does_not_fit(server: Server, wire: Wire, dtype: str, shape: list[int], word: str) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add(("n", 2)))
    wire.ask("AI.TENSORSET", "good", "FLOAT", 1, 2, "VALUES", 1, 2)
    values = [1] * int(np.prod(shape, initial=1))
    assert wire.ask("AI.TENSORSET", "bad", dtype, *shape, "VALUES", *values) == b"OK"
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "good", "bad", "OUTPUTS", 1, "y")
    assert isinstance(reply, Error)
    assert reply.startswith("ERR ")
    assert re.search(word, reply.lower()), "the error says what is wrong"
    assert wire.ask("EXISTS", "y") == 0
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "good", "good", "OUTPUTS", 1, "y") == b"OK"
    if dtype == "FLOAT":  # the library refuses it
        check_path(server, direct=2)
    else:
        check_path(server, direct=1, python=1)


@both_paths
def test_the_result_outlives_its_input_and_model(server: Server, wire: Wire) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_identity())
    wire.ask("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
    wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    check_path(server, direct=1)
    wire.ask("DEL", "m", "x")
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"1", b"2"]


@both_paths
def test_a_single_run_of_a_model_with_a_batch_size(server: Server, wire: Wire) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BATCHSIZE", 8, "BLOB", models.onnx_linear())
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 4, "VALUES", 1, 0, 0, 0)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"1", b"2", b"3", b"4"]
    check_path(server, python=1)


@both_paths
def test_many_runs_down_one_connection(server: Server, wire: Wire) -> None:
    """Pipelined: every reply in its turn, every result its own."""
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    for i in range(200):
        wire.send("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", i, i)
        wire.send("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y")
        wire.send("AI.TENSORGET", "y", "VALUES")
    for i in range(200):
        assert [wire.read(), wire.read(), wire.read()] == [b"OK", b"OK", [b"%d" % (2 * i)] * 2]
    check_path(server, direct=200)
