"""An AOF that is rewritten, in either form, while clients store, run and delete holds all that was acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from testkit import large, rdb, samples
from testkit.info import number
from testkit.restarts import rewrite, wait_until_rewritten
from testkit.server import Server
from testkit.values import Model, Script, Tensor, Value
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.conftest import StartServer

AOF = ("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0")
# restored, not stored: that takes no library, whose import would take longer than all the rest
SCRIPTS = [rdb.dump(script, 4) for script in samples.SCRIPTS.values()]
PREAMBLE = pytest.mark.parametrize("preamble", ["yes", "no"])


def start(start_server: StartServer, preamble: str) -> Server:
    return start_server(*AOF, "--aof-use-rdb-preamble", preamble)


def write(wire: Wire, writer: int, step: int) -> None:
    """Every kind of change, to keys of the writer's own."""
    wire.ask("SELECT", writer)
    run = f"AI.DAGEXECUTE LOAD 2 left right PERSIST 1 d{step % 7} |> AI.MODELEXECUTE m INPUTS 2 left right OUTPUTS 1 d"
    commands = [
        ("AI.TENSORSET", f"t{step % 20}", "INT32", 2, "VALUES", writer, step),
        samples.ONNX.words(f"m{step % 5}"),
        ("AI.MODELEXECUTE", f"m{step % 5}", "INPUTS", 2, "left", "right", "OUTPUTS", 1, f"o{step % 10}"),
        (f"{run}{step % 7}".split()),
        ("RESTORE", f"s{step % 3}", 0, SCRIPTS[step % 2], "REPLACE"),
        ("COPY", f"m{step % 5}", f"c{step % 4}", "REPLACE"),
        ("RENAME", f"t{step % 20}", f"r{step % 6}"),
        ("EXPIRE", f"o{step % 10}", 1000 + step),
        ("DEL", f"d{step % 4}"),
    ]
    for words in commands:
        reply = wire.ask(*words)
        assert reply in (b"OK", 0, 1, [b"OK"]), (words, reply)


@contextmanager
def writing(server: Server, writers: int = 3) -> Iterator[list[int]]:
    """Clients write meanwhile; the list holds how many steps each has done."""
    stop, done, errors = threading.Event(), [0] * writers, []

    def work(writer: int) -> None:
        try:
            with server.wire() as wire:
                for step in count():
                    if stop.is_set():
                        break
                    write(wire, writer, step)
                    done[writer] = step + 1
        except BaseException as error:
            errors.append(error)

    for writer in range(writers):
        with server.wire() as wire:
            wire.ask("SELECT", writer)
            samples.store_tensor(wire, "left", samples.TENSORS["FLOAT"])
            wire.ask("AI.TENSORSET", "left", "FLOAT", 1, 2, "VALUES", 1, 2)
            wire.ask("AI.TENSORSET", "right", "FLOAT", 1, 2, "VALUES", 3, 4)
            assert wire.ask(*samples.ONNX.words("m")) == b"OK"
    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


@PREAMBLE
def test_under_load(start_server: StartServer, preamble: str) -> None:
    server = start(start_server, preamble)
    with server.wire() as wire, writing(server) as done:
        wire.ask("CONFIG", "SET", "rdb-key-save-delay", "5000")

        def rewritten_meanwhile() -> bool:
            """Whether all clients have written while a rewrite went on."""
            before = list(done)
            rewrite(wire)
            return all(now > then + 1 for now, then in zip(done, before, strict=True))

        for _ in range(2):
            wait_for(rewritten_meanwhile, 20)
    with server.wire() as wire:
        digest = wire.ask("DEBUG", "DIGEST")
        keys = wire.ask("INFO", "keyspace")
    server.kill()
    server.start()
    with server.wire() as wire:
        assert wire.ask("DEBUG", "DIGEST") == digest
        assert without_ttl(wire.ask("INFO", "keyspace")) == without_ttl(keys)
        wire.ask("SELECT", 1)
        assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "left", "right", "OUTPUTS", 1, "last") == b"OK"
        assert wire.ask("AI.TENSORGET", "last", "VALUES") == [b"4", b"6"]
        assert wire.ask("DEL", "last") == 1
        assert wire.ask("DEBUG", "LOADAOF") == b"OK"
        assert wire.ask("DEBUG", "DIGEST") == digest


def without_ttl(keyspace: bytes) -> list[bytes]:
    return [line.split(b",avg_ttl")[0] for line in keyspace.splitlines()]


@PREAMBLE
def test_of_large_values(start_server: StartServer, preamble: str) -> None:
    """In chunks, and while what is being saved goes."""
    server = start(start_server, preamble)
    with server.wire() as wire:
        assert wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", 1 << 20) == b"OK"
        large.store(wire)
        digest = wire.ask("DEBUG", "DIGEST")
        assert wire.ask("COPY", "onnx", "other") == wire.ask("COPY", "numbers", "more") == 1
        wire.ask("CONFIG", "SET", "rdb-key-save-delay", "20000")
        assert b"started" in wire.ask("BGREWRITEAOF")
        assert wire.ask("DEL", "other") == wire.ask("UNLINK", "more") == 1
        wait_until_rewritten(wire)
        assert wire.ask("DEBUG", "DIGEST") == digest
    server.kill()
    server.start()
    with server.wire() as wire:
        assert wire.ask("DEBUG", "DIGEST") == digest
        large.check(wire)


def test_from_one_form_to_the_other(start_server: StartServer) -> None:
    """The setting may change while the server runs, and each form is rewritten as the other."""
    server = start(start_server, "no")
    with server.wire() as wire:
        samples.fill(wire)
        before = samples.contents(wire)
        for preamble in ("no", "yes", "no", "yes"):
            assert wire.ask("CONFIG", "SET", "aof-use-rdb-preamble", preamble) == b"OK"
            rewrite(wire)
            samples.run_all(wire)
            digest = wire.ask("DEBUG", "DIGEST")
            assert wire.ask("DEBUG", "LOADAOF") == b"OK"
            assert wire.ask("DEBUG", "DIGEST") == digest
    server.restart()
    with server.wire() as wire:
        assert wire.ask("DEBUG", "DIGEST") == digest
        samples.check_filled(wire, before)


def test_persistence_that_is_switched_on(start_server: StartServer) -> None:
    """CONFIG SET appendonly yes rewrites what is there; what comes meanwhile is not lost."""
    server = start_server("--appendfsync", "always", "--rdb-key-save-delay", "5000")
    with server.wire() as wire:
        for key, tensor in samples.TENSORS.items():
            samples.store_tensor(wire, key, tensor)
        assert wire.ask("CONFIG", "SET", "appendonly", "yes") == b"OK"
        assert wire.ask(*samples.ONNX.words("new")) == b"OK"
        samples.check_run(wire, "new", "new sum")
        wait_for(lambda: number(wire, "aof_rewrite_in_progress") + number(wire, "aof_rewrite_scheduled") == 0, 30)
        digest = wire.ask("DEBUG", "DIGEST")
    server.kill()
    server.arguments += ["--appendonly", "yes"]
    server.start()
    with server.wire() as wire:
        assert wire.ask("DEBUG", "DIGEST") == digest
        samples.check_run(wire, "new")


# What no command of a client makes, but models' outputs and databases of old versions do.
ODD: dict[str, Value] = {
    "number of rank 0": Tensor("BOOL", (), b"\1"),
    "string of rank 0": Tensor("STRING", (), b"a\0"),
    "no strings": Tensor("STRING", (0,), b""),
    "no numbers": Tensor("INT8", (2, 0, 3), b""),
    "least number": Tensor("INT8", (2,), b"\x80\x7f"),
    "not a number": Tensor("FLOAT", (1,), b"\0\0\xc0\x7f"),
    "many dimensions": Tensor("INT8", (1,) * 32, b"\1"),
    "digits": Tensor("INT8", (5,), b"12345"),
    "no blob": Model("ONNX", b""),
    "large batch": Model("TORCH", b"x", batchsize=2**62),
    "batched TFLITE": Model("TFLITE", b"x", batchsize=4),
    "keywords as names": Model("TF", b"x", inputs=("", "BLOB"), outputs=("OUTPUTS", "TAG")),
    "keyword as tag": Model("ONNX", b"x", tag="BATCHSIZE"),
    "another device": Model("ONNX", b"x", device="gpu:3"),
    "no names": Model("TF", b"x"),
    "no names of outputs": Model("TF", b"x", inputs=("a",)),
    "no source": Script(""),
    "keyword as script's tag": Script("x", tag="SOURCE"),
    "keywords as entry points": Script("x", entry_points=("", "SOURCE", "ENTRY_POINTS")),
}


def test_what_only_models_and_old_databases_make(start_server: StartServer) -> None:
    """The commands that stand for it in the file are taken, although clients may not send all of them."""
    server = start(start_server, "no")
    with server.wire() as wire:
        for key, value in ODD.items():
            samples.restore(wire, key, value)
        before = dict(zip(ODD, wire.ask("DEBUG", "DIGEST-VALUE", *ODD), strict=True))
        rewrite(wire)
        assert wire.ask("DEBUG", "LOADAOF") == b"OK"
        after = dict(zip(ODD, wire.ask("DEBUG", "DIGEST-VALUE", *ODD), strict=True))
        assert {key for key in ODD if after[key] != before[key]} == set()
