"""AI.MODELSTORE, MODELSET, MODELGET, MODELDEL, _MODELSCAN: what is kept and given back."""

from __future__ import annotations

from typing import Any

import pytest

from testkit import models
from testkit.server import Client, Server
from testkit.waiting import wait_for
from testkit.wire import Error, Simple, Wire, Word

META_KEYS = [b"backend", b"device", b"tag", b"batchsize", b"minbatchsize", b"inputs", b"outputs", b"minbatchtimeout"]


def meta(r: Client, key: str) -> dict[bytes, Any]:
    reply = r.execute_command("AI.MODELGET", key, "META")
    return dict(zip(reply[::2], reply[1::2], strict=True))


@pytest.mark.parametrize("protocol", [2, 3])
def test_get_meta_and_blob(server: Server, protocol: int) -> None:
    blob = models.onnx_add()
    wanted = [b"backend", b"ONNX", b"device", b"CPU", b"tag", b"v1", b"batchsize", 0, b"minbatchsize", 0,
              b"inputs", [b"a", b"b"], b"outputs", [b"sum"], b"minbatchtimeout", 0]  # fmt: skip
    with server.wire(protocol) as wire:
        stored = wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "TAG", "v1", "BLOB", blob)
        assert (type(stored), stored) == (Simple, b"OK")
        assert wire.ask("AI.MODELGET", "m", "META") == wanted
        assert wire.ask("AI.MODELGET", "m", "BLOB") == blob
        assert wire.ask("AI.MODELGET", "m", "META", "BLOB") == [*wanted, b"blob", blob]
        assert wire.ask("AI.MODELGET", "m") == [*wanted, b"blob", blob]
        assert wire.ask("ai.modelget", "m", "meta", "blob") == [*wanted, b"blob", blob]
        assert wire.ask("TYPE", "m") == b"AI__MODEL"


def test_meta_keys_in_order(r: Client) -> None:
    r.execute_command("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", models.torch_module(models.Add))
    assert r.execute_command("AI.MODELGET", "m", "META")[::2] == META_KEYS


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ([], (0, 0, 0)),
        (["BATCHSIZE", 4], (4, 0, 0)),
        (["BATCHSIZE", 4, "MINBATCHSIZE", 2], (4, 2, 0)),
        (["BATCHSIZE", 4, "MINBATCHSIZE", 2, "MINBATCHTIMEOUT", 10], (4, 2, 10)),
        (["batchsize", 100000, "minbatchsize", 1, "minbatchtimeout", 1], (100000, 1, 1)),
    ],
)
@pytest.mark.parametrize("command", ["AI.MODELSTORE", "AI.MODELSET"])
def test_batch_options_are_kept(r: Client, command: str, options: list[Word], kept: tuple[int, int, int]) -> None:
    r.execute_command(command, "m", "ONNX", "CPU", "TAG", "t", *options, "BLOB", models.onnx_add())
    found = meta(r, "m")
    assert (found[b"batchsize"], found[b"minbatchsize"], found[b"minbatchtimeout"]) == kept
    assert found[b"tag"] == b"t"


@pytest.mark.parametrize("tag", [b"v1:2", b"", b"two words", b"nul\0inside", b"\xff\xfe", b"BLOB", b"x" * 1000])
def test_tag(wire: Wire, r: Client, tag: bytes) -> None:
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "TAG", tag, "BLOB", models.onnx_add()) == b"OK"
    assert meta(r, "m")[b"tag"] == tag
    assert wire.ask("AI._MODELSCAN") == [[b"m", tag]]


@pytest.mark.parametrize("device", ["CPU", "cpu", "Cpu", "CPU:0", "cpu:1", "CPU:12345"])
@pytest.mark.parametrize("backend", ["ONNX", "onnx", "TORCH", "Torch"])
def test_device_as_given_and_backend_in_upper_case(r: Client, device: str, backend: str) -> None:
    blob = models.onnx_add() if backend.upper() == "ONNX" else models.torch_module(models.Add)
    r.execute_command("AI.MODELSTORE", "m", backend, device, "BLOB", blob)
    found = meta(r, "m")
    assert found[b"device"] == device.encode()
    assert found[b"backend"] == backend.upper().encode()


@pytest.mark.parametrize(
    ("backend", "blob", "inputs", "outputs"),
    [
        ("ONNX", models.onnx_split3, [b"x"], [b"a", b"b", b"c"]),
        ("ONNX", models.onnx_sequence, [b"a", b"b"], [b"sequence", b"sum"]),
        ("TORCH", lambda: models.torch_module(models.Add), [b"a", b"b"], [b""]),
        ("TORCH", lambda: models.torch_module(models.SumAndProduct), [b"a", b"b"], [b"", b""]),
    ],
)
def test_inputs_and_outputs_are_those_the_model_declares(
    r: Client, backend: str, blob: Any, inputs: list[bytes], outputs: list[bytes]
) -> None:
    r.execute_command("AI.MODELSTORE", "m", backend, "CPU", "BLOB", blob())
    found = meta(r, "m")
    assert (found[b"inputs"], found[b"outputs"]) == (inputs, outputs)


@pytest.mark.parametrize("backend", ["ONNX", "TORCH"])
def test_modelset_with_empty_inputs_and_outputs(wire: Wire, backend: str) -> None:
    blob = models.onnx_add() if backend == "ONNX" else models.torch_module(models.Add)
    assert wire.ask("AI.MODELSET", "m", backend, "CPU", "INPUTS", "OUTPUTS", "BLOB", blob) == b"OK"
    assert wire.ask("AI.MODELGET", "m", "BLOB") == blob
    assert wire.ask("ai.modelset", "m", backend, "cpu", "tag", "x", "inputs", "outputs", "blob", blob) == b"OK"
    assert wire.ask("AI._MODELSCAN") == [[b"m", b"x"]]


def test_scan(wire: Wire) -> None:
    assert wire.ask("AI._MODELSCAN") == []
    wire.ask("SET", "string", "x")
    wire.ask("AI.TENSORSET", "t", "FLOAT", 1)
    wire.ask("AI.MODELSTORE", "a", "ONNX", "CPU", "TAG", "first", "BLOB", models.onnx_add())
    wire.ask("AI.MODELSTORE", "b", "TORCH", "CPU", "BLOB", models.torch_module(models.Add))
    assert sorted(wire.ask("AI._MODELSCAN")) == [[b"a", b"first"], [b"b", b""]]
    assert sorted(wire.ask("ai._modelscan")) == [[b"a", b"first"], [b"b", b""]]
    wire.ask("AI.MODELDEL", "a")
    assert wire.ask("AI._MODELSCAN") == [[b"b", b""]]


def test_delete(wire: Wire) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    reply = wire.ask("AI.MODELDEL", "m")
    assert (type(reply), reply) == (Simple, b"OK")
    assert wire.ask("EXISTS", "m") == 0
    assert wire.ask("AI.MODELDEL", "m") == "ERR model key is empty"
    assert wire.ask("AI.MODELGET", "m") == "ERR model key is empty"


def test_rename_copy_and_move(r: Client) -> None:
    blob = models.onnx_add()
    r.execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", "TAG", "t", "BLOB", blob)
    r.execute_command("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
    r.rename("m", "n")
    assert r.copy("n", "o")
    r.delete("n")
    assert r.execute_command("AI.MODELGET", "o", "BLOB") == blob
    assert r.execute_command("AI.MODELEXECUTE", "o", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
    assert r.execute_command("AI.TENSORGET", "y", "VALUES") == [b"2", b"4"]


def test_storing_again_replaces(wire: Wire) -> None:
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 3, 4)
    run: list[Word] = ["AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y"]
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "TAG", "old", "BATCHSIZE", 2, "BLOB", models.onnx_add())
    assert wire.ask(*run) == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"6", b"8"]
    wire.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", models.torch_module(models.SumAndProduct))
    assert wire.ask(*run[:-2], 2, "s", "p") == b"OK"
    assert wire.ask("AI.TENSORGET", "p", "VALUES") == [b"9", b"16"]
    assert wire.ask("AI._MODELSCAN") == [[b"m", b""]]


def test_a_refused_model_leaves_the_old_one(wire: Wire) -> None:
    blob = models.onnx_add()
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "TAG", "old", "BLOB", blob)
    refused = wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "TAG", "new", "BLOB", b"no model")
    assert refused == Error(models.UNREADABLE["ONNX"])
    assert wire.ask("AI._MODELSCAN") == [[b"m", b"old"]]
    assert wire.ask("AI.MODELGET", "m", "BLOB") == blob


@pytest.mark.parametrize("setter", [["SET", "k", "x"], ["AI.TENSORSET", "k", "FLOAT", 1], ["RPUSH", "k", "x"]])
@pytest.mark.parametrize("command", ["AI.MODELSTORE", "AI.MODELSET"])
@pytest.mark.parametrize("blob", [b"no model at all", models.onnx_add()], ids=["broken", "sound"])
def test_onto_a_key_of_another_type(wire: Wire, setter: list[Word], command: str, blob: bytes) -> None:
    wire.ask(*setter)
    before = wire.ask("TYPE", "k")
    assert wire.ask(command, "k", "ONNX", "CPU", "BLOB", blob).startswith("WRONGTYPE ")
    assert wire.ask("TYPE", "k") == before
    assert wire.ask("PING") == b"PONG"


@pytest.mark.parametrize(
    "words",
    [["AI.MODELGET", "k"], ["AI.MODELGET", "k", "META"], ["AI.MODELDEL", "k"], ["AI.MODELGET", "k", "BLOB"],
     ["AI.MODELEXECUTE", "k", "INPUTS", 1, "a", "OUTPUTS", 1, "b"],
     ["AI.MODELRUN", "k", "INPUTS", "a", "OUTPUTS", "b"]],
)  # fmt: skip
@pytest.mark.parametrize("setter", [["SET", "k", "x"], ["AI.TENSORSET", "k", "FLOAT", 1]])
def test_a_key_of_another_type_is_no_model(wire: Wire, setter: list[Word], words: list[Word]) -> None:
    wire.ask(*setter)
    assert wire.ask(*words).startswith("WRONGTYPE ")
    assert wire.ask("EXISTS", "k") == 1


def test_a_key_that_changes_its_type_while_the_model_compiles(server: Server, wire: Wire) -> None:
    """One reply either way, and what the other client wrote is never lost without a word."""
    with server.wire() as other:
        wire.send("AI.MODELSTORE", "k", "ONNX", "CPU", "BLOB", models.onnx_padded(4_000_000))
        assert other.ask("SET", "k", "x") == b"OK"
        reply = wire.read()
        if isinstance(reply, Error):
            assert reply.startswith("WRONGTYPE ")
            assert other.ask("GET", "k") == b"x"
        assert wire.ask("PING") == b"PONG"


def test_in_another_database(wire: Wire) -> None:
    wire.ask("SELECT", 3)
    assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
    assert wire.ask("AI._MODELSCAN") == [[b"m", b""]]
    wire.ask("SELECT", 0)
    assert wire.ask("AI._MODELSCAN") == []
    assert wire.ask("EXISTS", "m") == 0


def test_the_client_leaves_while_the_model_compiles(server: Server, wire: Wire) -> None:
    before = server.used_memory()
    for _ in range(5):
        leaver = server.wire()
        leaver.send("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_padded(1_000_000))
        leaver.abort()
    assert wire.ask("AI.MODELSTORE", "last", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
    wire.ask("FLUSHALL")
    wait_for(lambda: server.used_memory() < before + (1 << 20), what="memory comes back")


def test_a_transaction_stores_while_another_model_compiles(server: Server, wire: Wire) -> None:
    with server.wire() as other:
        other.send("AI.MODELSTORE", "large", "ONNX", "CPU", "BLOB", models.onnx_padded(4_000_000))
        wire.ask("MULTI")
        wire.ask("AI.MODELSTORE", "small", "ONNX", "CPU", "BLOB", models.onnx_add())
        assert wire.ask("EXEC") == [b"OK"]
        assert other.read() == b"OK"


def test_memory_comes_back(server: Server, wire: Wire) -> None:
    blob = models.onnx_padded(250_000)
    before = server.used_memory()
    for i in range(10):
        assert wire.ask("AI.MODELSTORE", f"m{i % 3}", "ONNX", "CPU", "BLOB", blob) == b"OK"
    usage = wire.ask("MEMORY", "USAGE", "m0")
    assert usage >= len(blob)
    wire.ask("AI.MODELDEL", "m0")
    wire.ask("UNLINK", "m1")
    wire.ask("FLUSHALL")
    wait_for(lambda: server.used_memory() < before + (1 << 20), what="memory comes back")
