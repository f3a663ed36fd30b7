"""Running TensorFlow graphs: nodes by name, results of every type, odd outputs, and inputs that do not fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testkit import tf_models
from testkit.info import module_sections
from testkit.paths import both_paths, check_path
from testkit.samples import ELEMENTS
from testkit.server import Client, Server
from testkit.wire import Error, Wire, Word
from tests.conftest import StartServer


def store(wire: Wire, blob: bytes, inputs: str, outputs: str, device: str = "CPU") -> object:
    given: list[Word] = ["INPUTS", len(inputs.split()), *inputs.split()]
    wanted: list[Word] = ["OUTPUTS", len(outputs.split()), *outputs.split()]
    return wire.ask("AI.MODELSTORE", "m", "TF", device, *given, *wanted, "BLOB", blob)


@both_paths
@pytest.mark.parametrize("command", ["AI.MODELEXECUTE m INPUTS 2 a b OUTPUTS 1 y", "AI.MODELRUN m INPUTS a b OUTPUTS y",
                                     "ai.modelexecute m inputs 2 a b outputs 1 y timeout 10000"])  # fmt: skip
def test_every_way_to_run(server: Server, wire: Wire, command: str) -> None:
    assert store(wire, tf_models.tf_mul(), "a b", "mul") == b"OK"
    wire.ask("AI.TENSORSET", "a", "FLOAT", 2, 2, "VALUES", 1, 2, 3, 4)
    wire.ask("AI.TENSORSET", "b", "FLOAT", 2, 2, "VALUES", 5, 6, 7, 8)
    assert wire.ask(*command.split()) == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "META", "VALUES") == [
        b"dtype", b"FLOAT", b"shape", [2, 2], b"values", [b"5", b"12", b"21", b"32"],
    ]  # fmt: skip
    check_path(server, direct=1)


@both_paths
def test_stored_the_old_way(server: Server, wire: Wire) -> None:
    blob = tf_models.tf_mul()
    assert wire.ask("AI.MODELSET", "m", "TF", "CPU", "INPUTS", "a", "b", "OUTPUTS", "mul", "BLOB", blob) == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 2, 3)
    assert wire.ask("AI.MODELRUN", "m", "INPUTS", "x", "x", "OUTPUTS", "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"4", b"9"]
    check_path(server, direct=1)


@pytest.mark.parametrize("device", ["CPU", "cpu", "CPU:1"])
def test_what_is_said_of_a_model(wire: Wire, device: str) -> None:
    assert store(wire, tf_models.tf_mul(), "a b:0", "mul", device) == b"OK"
    meta = wire.ask("AI.MODELGET", "m", "META")
    found = dict(zip(meta[::2], meta[1::2], strict=True))
    assert (found[b"backend"], found[b"device"]) == (b"TF", device.encode())
    assert (found[b"inputs"], found[b"outputs"]) == ([b"a", b"b:0"], [b"mul"])
    assert wire.ask("AI.MODELGET", "m", "BLOB") == tf_models.tf_mul()
    assert re.match(r"2\.\d+", module_sections(wire, "MODULES")["backends_info"]["TensorFlow_version"])


@pytest.mark.parametrize(
    ("inputs", "outputs", "text"),
    [
        ("a x", "mul", 'ERR Input node named "x" not found in TF graph.'),
        ("a b", "y", 'ERR Output node named "y" not found in TF graph'),
    ],
)
def test_a_name_that_is_not_there(wire: Wire, inputs: str, outputs: str, text: str) -> None:
    assert store(wire, tf_models.tf_mul(), inputs, outputs) == text
    assert wire.ask("EXISTS", "m") == 0


def test_a_blob_that_is_no_graph(wire: Wire) -> None:
    assert store(wire, b"\xff" * 100, "a b", "mul") == "ERR Invalid GraphDef"
    assert wire.ask("EXISTS", "m") == 0


def test_without_a_gpu(wire: Wire) -> None:
    assert store(wire, tf_models.tf_mul(), "a b", "mul", "GPU:1") == "ERR GPU requested but TF couldn't find CUDA"


DATA = ELEMENTS | {"STRING": b"ein W\xf6rt\0\0"}  # not UTF-8


@both_paths
@pytest.mark.parametrize("dtype", list(DATA))
@pytest.mark.parametrize("shape", [(2,), (1, 2, 1)])
def test_every_type_through_identity(server: Server, wire: Wire, dtype: str, shape: tuple[int, ...]) -> None:
    assert store(wire, tf_models.tf_identity(dtype), "x", "y") == b"OK"
    wire.ask("AI.TENSORSET", "x", dtype, *shape, "BLOB", DATA[dtype])
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y") == [b"dtype", dtype.encode(), b"shape", list(shape), b"blob", DATA[dtype]]
    check_path(server, direct=dtype != "STRING", python=dtype == "STRING")


@both_paths
def test_odd_outputs(server: Server, wire: Wire) -> None:
    assert store(wire, tf_models.tf_many(), "x", "total where text positive parts:2") == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 3, "VALUES", 0, -1, -2)
    outputs = ["total", "where", "text", "positive", "part"]
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 5, *outputs) == b"OK"
    replies = {name: wire.ask("AI.TENSORGET", name, "META", "VALUES")[1::2] for name in outputs}
    assert replies == {
        "total": [b"FLOAT", [], [b"-3"]],
        "where": [b"INT64", [0, 1], []],
        "text": [b"STRING", [3], [b"0.0", b"-1.0", b"-2.0"]],
        "positive": [b"BOOL", [3], [0, 0, 0]],
        "part": [b"FLOAT", [1], [b"-2"]],
    }
    check_path(server, python=1)


@both_paths
@pytest.mark.parametrize(("output", "kind"), [("complex", "complex64")])
def test_an_output_of_a_type_without_a_name(server: Server, wire: Wire, output: str, kind: str) -> None:
    assert store(wire, tf_models.tf_many(), "x", output) == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 3)
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    assert reply == f"ERR output '{output}' has type {kind}, which tensors cannot have"
    assert wire.ask("EXISTS", "y") == 0
    check_path(server, python=1)


@both_paths
@pytest.mark.parametrize(
    ("dtype", "shape", "text"),
    [
        ("INT64", [1, 2], "ERR input 'b' has type int64, expected: float32"),
        ("STRING", [1, 2], "ERR input 'b' has type string, expected: float32"),
        (
            "FLOAT",
            [1, 3],
            "ERR input 'b' has shape [1, 3], expected: [-1, 2]: Incompatible shapes: [1,2] vs. [1,3]"
            " \t [[{{node mul}}]]",
        ),
    ],
)
def test_an_input_that_does_not_fit(server: Server, wire: Wire, dtype: str, shape: list[int], text: str) -> None:
    assert store(wire, tf_models.tf_mul(), "a b", "mul") == b"OK"
    wire.ask("AI.TENSORSET", "good", "FLOAT", 1, 2, "VALUES", 1, 2)
    wire.ask("AI.TENSORSET", "bad", dtype, *shape, "VALUES", *[1] * int(np.prod(shape)))
    reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "good", "bad", "OUTPUTS", 1, "y")
    assert isinstance(reply, Error) and reply.startswith(text)
    assert wire.ask("EXISTS", "y") == 0
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "good", "good", "OUTPUTS", 1, "y") == b"OK"
    check_path(server, direct=1, python=1)  # Python explains what C has failed to run


@both_paths
def test_an_input_may_contradict_its_declared_shape(server: Server, wire: Wire) -> None:
    blob = tf_models.graph(lambda tf: tf.reshape(tf_models.placeholder(shape=[4]), [2, 2], name="y"))
    assert store(wire, blob, "x", "y") == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 4, "VALUES", 1, 2, 3, 4)
    assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "META")[3] == [2, 2]
    check_path(server, direct=1)


@both_paths
def test_the_number_of_inputs_and_outputs(server: Server, wire: Wire) -> None:
    assert store(wire, tf_models.tf_mul(), "a b", "mul") == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2)
    for given, wanted, wrong in ((["x"], ["y"], "INPUTS"), (["x", "x"], ["y", "z"], "OUTPUTS")):
        words: list[Word] = ["INPUTS", len(given), *given, "OUTPUTS", len(wanted), *wanted]
        reply = wire.ask("AI.MODELEXECUTE", "m", *words)
        assert reply == f"ERR Number of keys given as {wrong} here does not match model definition"
    check_path(server)


@both_paths
def test_a_stored_tensor_is_never_changed(server: Server, wire: Wire) -> None:
    """Not by operations that write in place, nor by a variable that keeps an input from run to run."""

    def build(tf: Any) -> None:
        raw = tf.raw_ops
        x = tf_models.placeholder(shape=[3])
        variable = raw.VarHandleOp(dtype=x.dtype, shape=[3])
        keep = raw.AssignVariableOp(resource=variable, value=x)
        with x.graph.control_dependencies([keep]):
            add = raw.AssignAddVariableOp(resource=variable, value=x)
        with x.graph.control_dependencies([add]):
            raw.InplaceAdd(x=x, i=[0], v=[5.0], name="y")
            raw.Identity(input=raw.ReadVariableOp(resource=variable, dtype=x.dtype), name="z")

    assert store(wire, tf_models.graph(build), "x", "y z") == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 3, "VALUES", 1, 2, 3)
    for _ in range(3):
        assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 2, "y", "z") == b"OK"
        assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"6", b"2", b"3"]
        assert wire.ask("AI.TENSORGET", "z", "VALUES") == [b"2", b"4", b"6"]
        assert wire.ask("AI.TENSORGET", "x", "VALUES") == [b"1", b"2", b"3"]
    check_path(server, python=3)


@both_paths
def test_a_keras_network_gives_its_own_outputs(server: Server, r: Client) -> None:
    network = tf_models.keras_network()
    blob, output = tf_models.frozen(network, tf_models.spec([None, 8, 8, 2]))
    images = np.random.default_rng(2).random((5, 8, 8, 2), dtype=np.float32)
    r.execute_command("AI.MODELSTORE", "m", "TF", "CPU", "INPUTS", 1, "x", "OUTPUTS", 1, output, "BLOB", blob)
    r.execute_command("AI.TENSORSET", "x", "FLOAT", *images.shape, "BLOB", images.tobytes())
    r.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    answer = np.frombuffer(r.execute_command("AI.TENSORGET", "y", "BLOB"), np.float32).reshape(5, 4)
    np.testing.assert_allclose(answer, network(images).numpy(), atol=1e-6)
    check_path(server, direct=1)


def read_file() -> bytes:
    return tf_models.graph(lambda tf: tf.io.read_file(tf_models.placeholder("x", "string", []), name="y"))


def test_graphs_that_touch_files(wire: Wire, start_server: StartServer, tmp_path: Path) -> None:
    reply = store(wire, read_file(), "x", "y")
    assert isinstance(reply, Error) and "is a ReadFile" in reply and "ALLOW_FILE_OPS" in reply
    assert wire.ask("EXISTS", "m") == 0
    (tmp_path / "file").write_text("content")
    with start_server(options=["ALLOW_FILE_OPS", 1]).wire() as allowed:
        assert store(allowed, read_file(), "x", "y") == b"OK"
        assert allowed.ask("AI.TENSORSET", "x", "STRING", "VALUES", str(tmp_path / "file")) == b"OK"
        assert allowed.ask("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
        assert allowed.ask("AI.TENSORGET", "y", "VALUES") == [b"content"]


def test_after_a_restart(start_server: StartServer) -> None:
    server = start_server("--appendonly", "yes")
    with server.wire() as wire:
        assert store(wire, tf_models.tf_mul(), "a b", "mul") == b"OK"
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 2, 3)
    server.restart()
    with server.wire() as wire:
        assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
        assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"4", b"9"]


@pytest.mark.parametrize("options", [["THREADS_PER_QUEUE", 3], ["INTRA_OP_PARALLELISM", 2, "INTER_OP_PARALLELISM", 2]])
def test_many_clients(start_server: StartServer, options: list[str | int]) -> None:
    server = start_server(options=options)
    with server.wire() as wire:
        assert store(wire, tf_models.tf_mul(), "a b", "mul") == b"OK"
    wires = [server.wire() for _ in range(10)]
    for number, wire in enumerate(wires):
        wire.ask("AI.TENSORSET", f"x{number}", "FLOAT", 1, 2, "VALUES", number, 1)
        for _ in range(50):
            wire.send("AI.MODELEXECUTE", "m", "INPUTS", 2, f"x{number}", f"x{number}", "OUTPUTS", 1, f"y{number}")
            wire.send("AI.TENSORGET", f"y{number}", "VALUES")
    for number, wire in enumerate(wires):
        for _ in range(50):
            assert [wire.read(), wire.read()] == [b"OK", [b"%d" % number**2, b"1"]]
        wire.close()
