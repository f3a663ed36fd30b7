"""A file with a value that is cut short or damaged: the server refuses to start, names the key, and does not crash.

What all can be wrong with a value is in test_saved_layouts.py; here are the files it may come in.
"""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest

from testkit import rdb, samples, scripts
from testkit.replicas import FakeMaster
from testkit.server import Server, ServerExit, free_port, module_path
from testkit.values import Value
from testkit.waiting import wait_for
from testkit.wire import Word, encode
from tests.conftest import StartServer
from tests.persistence.test_saved_layouts import FOUR_FLOATS

SEED = 11
AOF = ("--appendonly", "yes", "--appendfsync", "always")
CORRUPT: dict[str, tuple[str, list[rdb.Field], str]] = {
    "tensor": (rdb.TENSOR_TYPE, [2, 32, 1, 4, FOUR_FLOATS[:-1]], "data length does not match tensor shape and type"),
    "tensor that ends": (rdb.TENSOR_TYPE, [2, 32, 1, 4], "the data ends too early"),
    "model": (rdb.MODEL_TYPE, [3, b"CPU", b"", 0, 0, 0, 0, 0, 1, 1, b"x"], "not a device"),
    "model that ends": (rdb.MODEL_TYPE, [3, b"CPU\0", b"", 0, 0, 0, 0, 0, 9, 2, b"x"], "the data ends too early"),
    "script": (rdb.SCRIPT_TYPE, [b"CPU\0", b"", b"def f(): pass"], "no source"),
    "script that ends": (rdb.SCRIPT_TYPE, [b"CPU\0", b"", b"def f(): pass\0", 3, b"f\0"], "the data ends too early"),
    "newer": (rdb.TENSOR_TYPE, rdb.tensor_fields(samples.TENSORS["FLOAT"], 4), "saved by a newer version"),
}
KINDS = pytest.mark.parametrize("kind", CORRUPT)


def corrupt_rdb(kind: str, key: str) -> bytes:
    """A file whose checksum is right: a sound tensor, then the value that is not."""
    type_name, fields, _ = CORRUPT[kind]
    sound = rdb.module_value(rdb.TENSOR_TYPE, 4, rdb.tensor_fields(samples.TENSORS["FLOAT"], 4))
    return rdb.rdb_file({"sound": sound, key: rdb.module_value(type_name, 5 if kind == "newer" else 4, fields)})


def refused(folder: Path, *arguments: str) -> str:
    """Starts a server, which must end by itself; its log."""
    server = Server(folder, arguments, module=module_path())
    with pytest.raises(ServerExit):
        server.start()
    # Redis goes on to check the file, and the status it exits with is that check's.
    assert server.process and server.process.returncode >= 0, "no signal"
    log = server.log()
    assert "REDIS BUG REPORT" not in log and "crashed by signal" not in log
    return log


@KINDS
def test_in_an_rdb_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "dump.rdb").write_bytes(corrupt_rdb(kind, "the:key of it"))
    log = refused(tmp_path)
    what = kind.split()[0].replace("newer", "tensor")
    assert f"cannot load the {what} of key 'the:key of it': {CORRUPT[kind][2]}" in log
    assert "key 'sound'" not in log


@KINDS
def test_in_the_preamble_of_an_aof(start_server: StartServer, kind: str) -> None:
    server = start_server("--appendonly", "yes", "--aof-use-rdb-preamble", "yes")
    server.stop()
    (base,) = server.folder.rglob("*.base.rdb")
    base.write_bytes(corrupt_rdb(kind, "the:key of it"))
    log = refused(server.folder, *server.arguments)
    assert f"of key 'the:key of it': {CORRUPT[kind][2]}" in log


def test_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "dump.rdb").write_bytes(corrupt_rdb("tensor", "%s%n\r\n100 % sure"))
    assert "cannot load the tensor of key '" in refused(tmp_path)


# ---- from a master ---------------------------------------------------------------------------------------------------


@KINDS
def test_from_a_master(start_server: StartServer, kind: str) -> None:
    """Redis ends a replica that cannot load a module's value, wherever it comes from; the log has the key."""
    master = FakeMaster(corrupt_rdb(kind, "the:key of it"))
    replica = start_server("--repl-diskless-load", "swapdb")
    assert replica.process
    try:
        with replica.wire() as wire:
            assert wire.ask("REPLICAOF", "127.0.0.1", master.port) == b"OK"
        wait_for(lambda: replica.process and replica.process.poll() is not None, what="the replica ends")
    finally:
        master.socket.close()
    assert replica.process.returncode >= 0 and "REDIS BUG REPORT" not in replica.log()
    assert f"of key 'the:key of it': {CORRUPT[kind][2]}" in replica.log()


# ---- files that are cut short ----------------------------------------------------------------------------------------


VALUES: dict[str, Value] = {
    "number": samples.TENSORS["FLOAT"],
    "string": samples.TENSORS["STRING"],
    "model": samples.ONNX,
    "script": samples.SCRIPTS["script"],
}


def file_of(values: dict[str, Value]) -> bytes:
    fields = {key: rdb.fields_of(value, 4) for key, value in values.items()}
    return rdb.rdb_file({key: rdb.module_value(kind, 4, its) for key, (kind, its) in fields.items()})


def refused_short(folder: Path, file: bytes) -> str:
    """The log of a server that is started with a file that ends too early."""
    (folder / "dump.rdb").write_bytes(file)
    server = Server(folder, module=module_path())
    server.port = free_port()
    server.process = subprocess.Popen(server.command(), stdin=subprocess.DEVNULL)
    try:
        # Redis checks such a file before it exits, and where it ends inside a module's value that check never ends.
        wait_for(lambda: "Unexpected EOF reading RDB file" in server.log() or ended(server), 30, "the file is refused")
    finally:
        server.kill()
    assert "REDIS BUG REPORT" not in server.log() and "Ready to accept connections" not in server.log()
    return server.log()


@pytest.mark.parametrize("key", VALUES)
def test_an_rdb_file_that_ends_inside_a_value(tmp_path: Path, key: str) -> None:
    before = {name: VALUES[name] for name in list(VALUES)[: list(VALUES).index(key) + 1]}
    file = file_of(before)[:-12]  # without the end of the file, the end of the value and 2 bytes of it
    assert f"of key '{key}': the data ends too early" in refused_short(tmp_path, file)


def test_an_rdb_file_that_is_cut_anywhere(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    file = file_of(VALUES)
    for end in sorted(chance.sample(range(10, len(file) - 8), 6)):
        print(f"SEED={SEED}", end)
        log = refused_short(tmp_path, file[:end])
        assert set(re.findall("of key '(.*)': the data ends too early", log)) <= VALUES.keys()


def ended(server: Server) -> bool:
    return server.process is not None and server.process.poll() is not None


@pytest.mark.parametrize("command", ["AI.TENSORSET", "AI.MODELSTORE", "AI.SCRIPTSTORE"])
def test_an_aof_that_is_cut_short(start_server: StartServer, command: str) -> None:
    """In the middle of a command: what is before it is there; or the start is refused, as configured."""
    server = start_server(*AOF)
    with server.wire() as wire:
        samples.store_tensor(wire, "before", samples.TENSORS["FLOAT"])
        if command == "AI.TENSORSET":
            samples.store_tensor(wire, "k", samples.TENSORS["large"])
        elif command == "AI.MODELSTORE":
            assert wire.ask(*samples.ONNX.words("k")) == b"OK"
        else:
            scripts.store(wire, "k", scripts.SOURCE, ["add"])
    server.kill()
    (path,) = server.folder.rglob("*.incr.aof")
    content = path.read_bytes()
    path.write_bytes(content[: (content.index(command.encode(), content.index(b"before")) + len(content)) // 2])
    assert "Unexpected end of file" in refused(server.folder, *server.arguments, "--aof-load-truncated", "no")
    server.start()
    with server.wire() as wire:
        assert wire.ask("KEYS", "*") == [b"before"]
        samples.store_tensor(wire, "k", samples.TENSORS["FLOAT"])
    server.restart()
    with server.wire() as wire:
        assert wire.ask("AI.TENSORGET", "k") == wire.ask("AI.TENSORGET", "before")


@pytest.mark.parametrize(
    "words",
    [
        ("AI.TENSORSET", "the:key", "FLOAT", 2, "BLOB", "short"),
        ("AI.MODELSTORE", "the:key", "ONNX", "no device", "BLOB", "b"),
        ("AI.SCRIPTSTORE", "the:key", "no device", "ENTRY_POINTS", 1, "f", "SOURCE", "s"),
    ],
    ids=lambda words: words[0],
)
def test_a_command_in_an_aof_that_cannot_be(start_server: StartServer, words: tuple[Word, ...]) -> None:
    """Redis goes on, as with its own commands; that something is lost, and of which key, is in the log."""
    server = start_server(*AOF)
    with server.wire() as wire:
        samples.store_tensor(wire, "before", samples.TENSORS["FLOAT"])
    server.kill()
    (path,) = server.folder.rglob("*.incr.aof")
    path.write_bytes(path.read_bytes() + encode(words))
    server.start()
    with server.wire() as wire:
        assert wire.ask("KEYS", "*") == [b"before"]
    assert "the:key" in server.log()
