"""A database of a deployed server (1.2.x) moves over whole: by an AOF, by an RDB file, and by the link to a master.

Every storing command comes in every form that those servers took, also in those that clients are refused today. The
test writes the files and the stream itself, byte by byte.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch

from testkit import models, rdb, samples, scripts, tf_models
from testkit.metadata import COMMANDS
from testkit.replicas import FakeMaster, follow, wait_until_in_step
from testkit.restarts import rewrite, wait_until_rewritten
from testkit.server import Server, ServerExit, module_path, program
from testkit.values import Model, Script, Value
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word, encode
from tests.conftest import StartServer

AOF = ("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0")
NO_GPU: object = [b"4", b"6"] if torch.cuda.is_available() else "ERR GPU requested but Torch couldn't find CUDA"
SUM, PRODUCT = [b"4", b"6"], [b"3", b"8"]  # of [1, 2] and [3, 4]
SOURCE = scripts.function("add", "return tensors[0] + tensors[1]")
OLD = "def add(a, b):\n    return a + b\n"


@dataclass(frozen=True)
class Stored:
    """What a command or a saved value leaves."""

    device: str
    wanted: object  # what its run on a and b gives, or how its error begins
    batches: tuple[int, int, int] = (0, 0, 0)


def model_commands() -> dict[str, tuple[tuple[Word, ...], Stored]]:
    onnx, torch = models.onnx_add(), models.torch_module(models.Add)
    tf, lite = (
        tf_models.tf_mul(),
        tf_models.tflite(lambda x, y: x + y, *(tf_models.spec([1, 2], name=name) for name in "xy")),
    )
    store, old = "AI.MODELSTORE", "AI.MODELSET"
    rows: list[tuple[tuple[Word, ...], Stored]] = [
        # in forms that clients may use too
        ((store, "ONNX", "CPU", "BLOB", onnx), Stored("CPU", SUM)),
        ((store, "onnx", "cpu:1", "TAG", "t", "BATCHSIZE", 4, "MINBATCHSIZE", 0, "BLOB", onnx),
         Stored("cpu:1", SUM, (4, 0, 0))),
        ((store, "TORCH", "CPU", "BLOB", torch[:100], torch[100:]), Stored("CPU", SUM)),
        ((store, "TF", "CPU", "INPUTS", 2, "a", "b", "OUTPUTS", 1, "mul", "BLOB", tf), Stored("CPU", PRODUCT)),
        ((store, "TFLITE", "CPU", "BATCHSIZE", 4, "BLOB", lite), Stored("CPU", SUM, (4, 0, 0))),
        ((old, "TF", "CPU", "INPUTS", "a", "b", "OUTPUTS", "mul", "BLOB", tf), Stored("CPU", PRODUCT)),
        ((old, "ONNX", "CPU", "TAG", "t", "BATCHSIZE", 4, "MINBATCHSIZE", 1, "MINBATCHTIMEOUT", 9, "BLOB", onnx),
         Stored("CPU", SUM, (4, 1, 9))),
        # accepted once
        ((old, "ONNX", "CPU", "INPUTS", "a", "b", "OUTPUTS", "c", "BLOB", onnx), Stored("CPU", SUM)),
        ((old, "TORCH", "CPU", "anything", "BLOB", torch), Stored("CPU", SUM)),
        ((old, "TFLITE", "CPU", "INPUTS", "OUTPUTS", "BLOB", lite), Stored("CPU", SUM)),
        ((store, "ONNX", "CPU:", "BLOB", onnx), Stored("CPU:", SUM)),
        ((old, "ONNX", "CPU:abc", "BLOB", onnx), Stored("CPU:abc", SUM)),
        ((old, "TORCH", "CPU:123456", "BLOB", torch), Stored("CPU:123456", SUM)),
        ((old, "ONNX", "cpux", "BLOB", onnx), Stored("cpux", SUM)),
        ((old, "ONNX", "GPU:abc", "BLOB", onnx), Stored("GPU:abc", "ERR GPU requested but ONNX couldn't find CUDA")),
        ((store, "ONNX", "CPU", "BATCHSIZE", "2.0", "MINBATCHSIZE", "1.0", "BLOB", onnx),
         Stored("CPU", SUM, (2, 1, 0))),
        ((old, "ONNX", "CPU", "BATCHSIZE", "2.0", "BLOB", onnx), Stored("CPU", SUM, (2, 0, 0))),
        # what the library refuses is kept, and says so when it is run
        ((store, "ONNX", "CPU", "BLOB", "no model"), Stored("CPU", models.UNREADABLE["ONNX"])),
        ((old, "TORCH", "CPU:x", "BLOB", "no model"), Stored("CPU:x", models.UNREADABLE["TORCH"])),
        ((old, "TFLITE", "CPU", "BLOB", "no model"), Stored("CPU", "ERR Failed to load model from buffer")),
        ((old, "TF", "CPU", "INPUTS", "a", "b", "OUTPUTS", "no", "BLOB", tf),
         Stored("CPU", 'ERR Output node named "no" not found in TF graph')),
    ]  # fmt: skip
    return {
        f"model{number}": ((words[0], f"model{number}", *words[1:]), left) for number, (words, left) in enumerate(rows)
    }


def script_commands() -> dict[str, tuple[tuple[Word, ...], Stored]]:
    store, old = "AI.SCRIPTSTORE", "AI.SCRIPTSET"
    rows: list[tuple[tuple[Word, ...], Stored]] = [
        ((store, "CPU", "ENTRY_POINTS", 1, "add", "SOURCE", SOURCE), Stored("CPU", SUM)),
        ((store, "cpu:1", "TAG", "t", "ENTRY_POINTS", 1, "add", "SOURCE", SOURCE), Stored("cpu:1", SUM)),
        ((old, "CPU", "SOURCE", OLD), Stored("CPU", SUM)),
        ((old, "CPU", "TAG", "t", "SOURCE", OLD), Stored("CPU", SUM)),
        # accepted once
        ((store, "CPU:abc", "ENTRY_POINTS", 1, "add", "SOURCE", SOURCE), Stored("CPU:abc", SUM)),
        ((store, "CPU:123456789", "ENTRY_POINTS", 1, "add", "SOURCE", SOURCE), Stored("CPU:123456789", SUM)),
        ((store, "CPU", "ENTRY_POINTS", "1.0", "add", "SOURCE", SOURCE), Stored("CPU", SUM)),
        ((store, "CPU", "TAG", "t", "ENTRY_POINTS", 0, "SOURCE", SOURCE), Stored("CPU", SUM)),
        ((store, "CPU", "ENTRY_POINTS", 1, "add", "SOURCE", SOURCE, "behind", "it"), Stored("CPU", SUM)),
        ((store, "CPU", "ENTRY_POINTS", 1, "add", "SOURCE", SOURCE.encode() + b"\0cut"), Stored("CPU", SUM)),
        ((old, "CPUx", "SOURCE", OLD), Stored("CPUx", SUM)),
        ((old, "gpu:abc", "SOURCE", OLD), Stored("gpu:abc", NO_GPU)),
        ((old, "CPU", "SOURCE", OLD, "behind", "it"), Stored("CPU", SUM)),
        # what cannot be compiled is kept, and says so when it is run
        ((old, "CPU", "SOURCE", "no script"), Stored("CPU", "ERR ")),
        ((store, "CPU", "ENTRY_POINTS", 1, "no", "SOURCE", SOURCE), Stored("CPU", "ERR Function no does not exist")),
    ]  # fmt: skip
    return {
        f"script{number}": ((words[0], f"script{number}", *words[1:]), left)
        for number, (words, left) in enumerate(rows)
    }


@cache
def commands() -> dict[str, tuple[tuple[Word, ...], Stored]]:
    return {**model_commands(), **script_commands()}


# Words behind AI.TENSORSET and the key; type, shape and bytes.
TENSORS: dict[str, tuple[tuple[Word, ...], tuple[bytes, list[int], bytes]]] = {
    "zeros": (("FLOAT", 2), (b"FLOAT", [2], bytes(8))),
    "blob": (("int8", 3, "blob", b"\x80\x00\x7f"), (b"INT8", [3], b"\x80\x00\x7f")),
    "values": (("UINT16", 1, 2, "values", 1, 515), (b"UINT16", [1, 2], b"\1\0\3\2")),
    "scalar": (("DOUBLE", "VALUES", 0), (b"DOUBLE", [], bytes(8))),
    "bools": (("BOOL", 2, "BLOB", b"\1\7"), (b"BOOL", [2], b"\1\1")),
    "strings": (("STRING", 3, "VALUES", "a", b"b\0", b"\0"), (b"STRING", [3], b"a\0b\0\0")),
    "packed": (("STRING", 2, "BLOB", b"a\0\0"), (b"STRING", [2], b"a\0\0")),
}


PAIRS: list[tuple[Word, ...]] = [
    ("AI.TENSORSET", "a", "FLOAT", 1, 2, "VALUES", 1, 2),
    ("AI.TENSORSET", "b", "FLOAT", 1, 2, "VALUES", 3, 4),
]


def stream() -> bytes:
    """All commands, as a master or an AOF has them."""
    written: list[tuple[Word, ...]] = [("SELECT", 0), *PAIRS]
    written += [("AI.TENSORSET", key, *words) for key, (words, _) in TENSORS.items()]
    written += [words for words, _ in commands().values()]
    for key, words in (("gone", commands()["model0"][0]), ("lost", commands()["script0"][0])):
        written += [(words[0], key, *words[2:]), ("AI.MODELDEL" if key == "gone" else "AI.SCRIPTDEL", key)]
    return b"".join(map(encode, written))


def run(wire: Wire, key: str) -> object:
    """What the model or script gives for a and b, or how it fails."""
    old = key.startswith("script")
    words = ("AI.SCRIPTEXECUTE", key, "add") if old else ("AI.MODELEXECUTE", key)
    reply = wire.ask(*words, "INPUTS", 2, "a", "b", "OUTPUTS", 1, "y")
    return reply if isinstance(reply, Error) else wire.ask("AI.TENSORGET", "y", "VALUES")


def check_one(wire: Wire, key: str, left: Stored) -> None:
    if key.startswith("script"):
        assert wire.ask("AI.SCRIPTGET", key)[1] == left.device.encode()
    else:
        meta = wire.ask("AI.MODELGET", key, "META")
        assert (meta[3], meta[7], meta[9], meta[15]) == (left.device.encode(), *left.batches), key
    found = run(wire, key)
    if isinstance(left.wanted, str):
        assert isinstance(found, Error) and found.startswith(left.wanted), (key, found)
    else:
        assert found == left.wanted, key


def check(wire: Wire) -> None:
    for key, (_, left) in commands().items():
        check_one(wire, key, left)
    for key, (_, (dtype, shape, blob)) in TENSORS.items():
        assert wire.ask("AI.TENSORGET", key) == [b"dtype", dtype, b"shape", shape, b"blob", blob]
    assert wire.ask("DEL", "y") == 1
    assert wire.ask("DBSIZE") == len(commands()) + len(TENSORS) + 2


def rewrite_all(wire: Wire) -> None:
    if wire.ask("CONFIG", "GET", "appendonly")[1] == b"yes":
        rewrite(wire)
    else:
        wire.ask("CONFIG", "SET", "appendonly", "yes")  # which writes a new file
        wait_until_rewritten(wire)


def check_kept(server: Server) -> None:
    """It is all there, and still is after a restart with the files that this server writes, of each kind."""
    for by in ("AOF", "preamble", "RDB"):
        with server.wire() as wire:
            check(wire)
            before = wire.ask("DEBUG", "DIGEST")
            wire.ask("CONFIG", "SET", "aof-use-rdb-preamble", "no" if by == "AOF" else "yes")
            if by == "RDB":
                server.arguments = ["--appendonly", "no"]
                assert wire.ask("SAVE") == b"OK"
            else:
                server.arguments = list(AOF)
                rewrite_all(wire)
        server.restart(signal.SIGKILL)
        assert "cannot be stored" not in server.log()
        with server.wire() as wire:
            assert wire.ask("DEBUG", "DIGEST") == before
    with server.wire() as wire:
        check(wire)


@pytest.fixture(scope="module")
def from_an_aof(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("aof"), AOF, module=module_path()).start()
    server.stop()
    (path,) = server.folder.rglob("*.incr.aof")
    path.write_bytes(stream())
    yield server.start()
    server.kill()


def test_by_an_aof(from_an_aof: Server) -> None:
    check_kept(from_an_aof)


def test_commands_of_too_few_words_in_an_aof(start_server: StartServer) -> None:
    """No deployed server wrote such. Redis does not look at their number there, Valkey 9 refuses the file."""
    server = start_server(*AOF)
    server.stop()
    (path,) = server.folder.rglob("*.incr.aof")
    names = [name for name in COMMANDS if name not in ("AI._MODELSCAN", "AI._SCRIPTSCAN")]
    short = [(name, *["k"] * count) for name in names for count in range(abs(COMMANDS[name].arity) - 1)]
    path.write_bytes(b"".join(map(encode, [*short, *PAIRS])))
    if program().name == "valkey" and program().version >= (9,):
        with pytest.raises(ServerExit, match="Error reading the append only file .* wrong number of arguments for"):
            server.start()
        return
    server.start()
    with server.wire() as wire:
        assert sorted(wire.ask("KEYS", "*")) == [b"a", b"b"]


def take_all(replica: Server, master: FakeMaster) -> None:
    follow(replica, master)
    wait_for(lambda: master.acknowledged >= len(master.more), 30, "the replica has read the stream")


def test_by_the_link_to_a_master(start_server: StartServer, from_an_aof: Server) -> None:
    """It leaves what an AOF leaves, which is kept. The replica passes it on, too: its own AOF holds what it got."""
    replica, master = start_server("--appendonly", "yes"), FakeMaster(rdb.rdb_file({}), stream())
    take_all(replica, master)
    with replica.wire() as wire, from_an_aof.wire() as other:
        assert isinstance(run(wire, "model0"), Error), "a replica is read-only"
        assert wire.ask("REPLICAOF", "NO", "ONE") == b"OK"
        check(wire)
        digest = wire.ask("DEBUG", "DIGEST")
        assert digest == other.ask("DEBUG", "DIGEST")
    replica.restart(signal.SIGKILL)
    with replica.wire() as wire:
        check(wire)
        assert wire.ask("DEBUG", "DIGEST") == digest
    master.socket.close()


def test_to_the_replicas_of_a_replica(start_server: StartServer) -> None:
    first, second = start_server("--repl-diskless-sync-delay", "0"), start_server()
    master = FakeMaster(rdb.rdb_file({}), stream())
    with second.wire() as wire:
        assert wire.ask("REPLICAOF", "127.0.0.1", first.port) == b"OK"
        wait_until_in_step(wire)
    take_all(first, master)
    with first.wire() as one, second.wire() as other:
        wait_for(lambda: other.ask("DEBUG", "DIGEST") == one.ask("DEBUG", "DIGEST"), 30, "the same on both")
        assert other.ask("REPLICAOF", "NO", "ONE") == b"OK"
        check(other)
    master.socket.close()


# ---- RDB -------------------------------------------------------------------------------------------------------------

DEVICES = ["CPU:", "CPU:abc", "CPU:123456", "CPUx", "cpu:ABC", "cpu_" + "x" * 100]


def saved_values() -> dict[str, tuple[Value, Stored]]:
    found: dict[str, tuple[Value, Stored]] = {}
    for number, device in enumerate(DEVICES):
        found[f"model{number}"] = replace(samples.ONNX, device=device), Stored(device, SUM)
        found[f"script{number}"] = Script(OLD, device), Stored(device, SUM)
    gpu = "GPU:anything"
    found["model gpu"] = replace(samples.ONNX, device=gpu), Stored(gpu, "ERR GPU requested but ONNX couldn't find CUDA")
    broken = Model("ONNX", b"no model", device="CPU:x")
    found["model broken"] = broken, Stored("CPU:x", models.UNREADABLE["ONNX"])
    return found


def saved() -> dict[str, tuple[int, Value, Stored]]:
    """The values in every version: each in a file has its own."""
    values = saved_values().items()
    return {f"{key} in {version}": (version, *value) for version in rdb.VERSIONS for key, value in values}


def check_saved(wire: Wire) -> None:
    for words in PAIRS:
        assert wire.ask(*words) == b"OK"
    for key, (_, _, left) in saved().items():
        check_one(wire, key, replace(left, batches=(0, 0, 0)))


def rdb_file(values: dict[str, tuple[int, Value]]) -> bytes:
    fields = {key: (version, rdb.fields_of(value, version)) for key, (version, value) in values.items()}
    return rdb.rdb_file({key: rdb.module_value(kind, version, its) for key, (version, (kind, its)) in fields.items()})


def saved_file() -> bytes:
    return rdb_file({key: (version, value) for key, (version, value, _) in saved().items()})


def test_by_an_rdb_file(start_server: StartServer) -> None:
    server = start_server()
    server.stop()
    (server.folder / "dump.rdb").write_bytes(saved_file())
    server.start()
    with server.wire() as wire:
        assert wire.ask("DBSIZE") == len(saved())
        check_saved(wire)
        assert wire.ask("SAVE") == b"OK"
    server.restart(signal.SIGKILL)
    with server.wire() as wire:
        check_saved(wire)
        wire.ask("CONFIG", "SET", "aof-use-rdb-preamble", "no")
        rewrite_all(wire)
    server.arguments = list(AOF)
    server.restart(signal.SIGKILL)
    with server.wire() as wire:
        check_saved(wire)


def test_by_a_full_sync(start_server: StartServer) -> None:
    replica, master = start_server(), FakeMaster(saved_file())
    take_all(replica, master)
    with replica.wire() as wire:
        assert wire.ask("REPLICAOF", "NO", "ONE") == b"OK"
        check_saved(wire)
    master.socket.close()


def test_by_dump_and_restore(wire: Wire) -> None:
    for key, (version, value, _) in saved().items():
        samples.restore(wire, key, value, version)
    check_saved(wire)


@pytest.mark.parametrize("way", ["file", "replica"])
def test_names_are_the_models_own_at_once(start_server: StartServer, way: str) -> None:
    """Also before the loader came to the model. Only the client that asks waits for it."""
    values: dict[str, Value] = {
        "onnx": replace(samples.ONNX, inputs=(), outputs=(), tag=""),
        "torch": replace(samples.TORCH, inputs=(), outputs=()),
        "named": replace(samples.ONNX, inputs=("x",), outputs=("y", "z"), tag=""),
        "broken": Model("ONNX", b"no model", inputs=("p",)),
    }
    keys = {f"{key} in {version}": key for version in (0, 1, 4) for key in values}
    file = rdb_file({name: (int(name[-1]), values[key]) for name, key in keys.items()})
    server = start_server()
    if way == "file":
        server.stop()
        (server.folder / "dump.rdb").write_bytes(file)
        server.start()
    else:
        take_all(server, FakeMaster(file))
    with ExitStack() as stack, server.wire() as other:
        asking = {name: stack.enter_context(server.wire()) for name in keys}
        for name, wire in asking.items():
            wire.send("AI.MODELGET", name, "META")
        assert other.ask("PING") == b"PONG"
        meta = {name: wire.read() for name, wire in asking.items()}
    both = [b"a", b"b"]
    wanted: dict[str, tuple[list[bytes], list[bytes]]] = {
        "onnx": (both, [b"sum"]),
        "torch": (both, [b""]),
        "named": (both, [b"sum"]),
        "broken": ([b"p"], []),
    }
    assert {name: (told[11], told[13]) for name, told in meta.items()} == {key: wanted[keys[key]] for key in keys}


# ---- clients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("AI.MODELSTORE", "k", "ONNX", "CPU:", "BLOB", models.onnx_add()), "ERR Invalid DEVICE"),
        (("AI.MODELSTORE", "k", "ONNX", "CPU:abc", "BLOB", models.onnx_add()), "ERR Invalid DEVICE"),
        (("AI.MODELSET", "k", "ONNX", "CPU:1234567", "BLOB", models.onnx_add()), "ERR Invalid DEVICE"),
        (("AI.TENSORSET", "k", "BOOL", 2, "BLOB", b"\1\7"), "ERR BOOL tensor elements must be 0 or 1"),
        (("AI.MODELSTORE", "k", "ONNX", "CPU", "BLOB", "no model"), models.UNREADABLE["ONNX"]),
    ],
)
def test_what_a_client_is_refused(wire: Wire, words: tuple[Word, ...], text: str) -> None:
    assert wire.ask(*words) == text
    assert wire.ask("EXISTS", "k") == 0
