"""The server ends in order whatever goes on: exit status 0, data saved, nobody answered twice or wrongly."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable

import pytest

from testkit import models, samples, scripts
from testkit.replicas import follow, stopped
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.conftest import Slow, StartServer

SAVING = ("--save", "3600 1")
Busy = Callable[[Server, Wire, Slow], tuple[Word, ...]]


# ---- what may be under way: each stores what it needs and gives a command that goes on for a while -------------------


def a_run(server: Server, wire: Wire, slow: Slow) -> tuple[Word, ...]:
    return slow(wire, 1.0, "made")


def a_dag(server: Server, wire: Wire, slow: Slow) -> tuple[Word, ...]:
    slow(wire, 1.0)
    run = "AI.MODELEXECUTE slow INPUTS 1 slow:n OUTPUTS 1"
    return tuple(f"AI.DAGEXECUTE LOAD 1 slow:n PERSIST 1 made |> {run} a |> {run} made".split())


def a_batch_that_waits(server: Server, wire: Wire, slow: Slow) -> tuple[Word, ...]:
    options: tuple[Word, ...] = ("BATCHSIZE", 100, "MINBATCHSIZE", 50)
    assert wire.ask("AI.MODELSTORE", "batched", "ONNX", "CPU", *options, "BLOB", models.onnx_add()) == b"OK"
    assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2) == b"OK"
    return ("AI.MODELEXECUTE", "batched", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "made")


def a_script(server: Server, wire: Wire, slow: Slow) -> tuple[Word, ...]:
    scripts.store_redis(wire, "gone_on")
    return scripts.execute("s", "gone_on", ["made:1", "made:2", "made:3"])


def a_compilation(server: Server, wire: Wire, slow: Slow) -> tuple[Word, ...]:
    return ("AI.MODELSTORE", "made", "ONNX", "CPU", "BLOB", models.onnx_padded(5_000_000))


def an_import(server: Server, wire: Wire, slow: Slow) -> tuple[Word, ...]:
    return ("AI.MODELSTORE", "made", "TORCH", "CPU", "BLOB", models.torch_module(models.Add))


def by_sigterm(server: Server) -> int:
    return server.end(signal.SIGTERM)


def by_sigint(server: Server) -> int:
    return server.end(signal.SIGINT)


def by_command(server: Server) -> int:
    with server.wire() as wire, contextlib.suppress(ConnectionError):
        reply = wire.ask("SHUTDOWN")
        raise AssertionError(reply)
    assert server.process
    return server.process.wait(20)


def fill(wire: Wire) -> None:
    samples.store_tensor(wire, "kept", samples.TENSORS["large"])
    assert wire.ask(*samples.ONNX.words("onnx")) == b"OK"


def check_kept(server: Server, made: int = 0) -> None:
    """All that was acknowledged is there after the next start; made: and so is what was finished in the last moment."""
    server.start()
    with server.wire() as wire:
        assert wire.ask("AI.TENSORGET", "kept") == samples.tensor_reply(samples.TENSORS["large"])
        samples.check_run(wire, "onnx")
        assert wire.ask("EXISTS", "made") >= made


@pytest.mark.parametrize(
    ("busy", "how"),
    [
        (a_run, by_sigterm),
        (a_run, by_command),
        (a_dag, by_sigterm),
        (a_batch_that_waits, by_command),
        (a_script, by_sigterm),
        (a_compilation, by_sigterm),
        (a_compilation, by_command),
        (an_import, by_command),
    ],
    ids=lambda each: each.__name__,
)
def test_while(start_server: StartServer, slow: Slow, busy: Busy, how: Callable[[Server], int]) -> None:
    server = start_server(*SAVING)
    with server.wire() as wire, server.wire() as one, server.wire() as two:
        fill(wire)
        words = busy(server, wire, slow)
        one.send(*words)
        two.send(*words)
        wait_for(lambda: server.blocked_clients() == 2, what="both wait")
        start = time.monotonic()
        assert how(server) == 0, server.log_tail()
        print(f"ended after {time.monotonic() - start} s")
        acknowledged = 0
        for client in (one, two):  # at most one reply came, and a whole one
            with contextlib.suppress(OSError):
                assert client.read() in (b"OK", [b"OK", b"OK"])
                acknowledged = 1
            with pytest.raises(OSError):
                client.read()
    assert "REDIS BUG REPORT" not in server.log()
    check_kept(server, acknowledged)


@pytest.mark.parametrize("how", [by_sigterm, by_sigint, by_command], ids=lambda how: how.__name__)
def test_idle(start_server: StartServer, how: Callable[[Server], int]) -> None:
    server = start_server(*SAVING)
    with server.wire() as wire:
        fill(wire)
    assert how(server) == 0
    check_kept(server)


def test_before_any_model(start_server: StartServer) -> None:
    """The engine has only just started, or not yet."""
    for end in (by_sigterm, by_command):
        assert end(start_server()) == 0


@pytest.mark.parametrize("words", ["SHUTDOWN NOSAVE", "SHUTDOWN SAVE NOW FORCE"])
def test_kinds_of_shutdown(start_server: StartServer, slow: Slow, words: str) -> None:
    server = start_server(*SAVING)
    with server.wire() as wire, server.wire() as runner:
        fill(wire)
        runner.send(*slow(wire, 1.0, "made"))
        wait_for(lambda: server.blocked_clients() == 1)
        wire.send(*words.split())
        assert server.process and server.process.wait(20) == 0
    if "NOSAVE" in words:
        server.start()
        with server.wire() as wire:
            assert wire.ask("DBSIZE") == 0
    else:
        check_kept(server)


def test_while_a_replica_is_behind(start_server: StartServer, slow: Slow) -> None:
    """SHUTDOWN waits for it with writes paused. A run that ends meanwhile must not write; the server ends in time."""
    master = start_server("--repl-diskless-sync-delay", "0", "--shutdown-timeout", "2", *SAVING)
    replica = start_server()
    follow(replica, master)
    with master.wire() as wire, master.wire() as runner, master.wire() as asker:
        fill(wire)
        words = slow(wire, 0.5, "made")
        assert wire.ask("WAIT", 1, 30000) == 1
        runner.send(*words)
        wait_for(lambda: master.blocked_clients() == 1)
        with stopped(replica):
            assert wire.ask("SET", "later", "x") == b"OK"
            asker.send("SHUTDOWN")
            assert master.process and master.process.wait(20) == 0, master.log_tail()
    assert "REDIS BUG REPORT" not in master.log()
    check_kept(master)


def test_a_shutdown_that_is_called_off(start_server: StartServer, slow: Slow) -> None:
    """SHUTDOWN ABORT: what has waited goes on, and runs that ended meanwhile are answered."""
    master = start_server("--repl-diskless-sync-delay", "0", "--shutdown-timeout", "30")
    replica = start_server()
    follow(replica, master)
    with master.wire() as wire, master.wire() as runner, master.wire() as asker:
        fill(wire)
        words = slow(wire, 0.3, "made")
        assert wire.ask("WAIT", 1, 30000) == 1
        with stopped(replica):
            runner.send(*words)
            wait_for(lambda: master.blocked_clients() == 1)
            assert wire.ask("SET", "later", "x") == b"OK"
            asker.send("SHUTDOWN")
            wait_for(lambda: b"shutdown_in_milliseconds" in wire.ask("INFO", "server"), what="the shutdown waits")
            assert wire.ask("SHUTDOWN", "ABORT") == b"OK"
            assert asker.read() == Error("ERR Errors trying to SHUTDOWN. Check logs.")
            assert runner.read() == b"OK"
        assert wire.ask("EXISTS", "made") == 1
        assert wire.ask("WAIT", 1, 30000) == 1
        with replica.wire() as reader:
            assert reader.ask("DEBUG", "DIGEST") == wire.ask("DEBUG", "DIGEST")
    assert master.stop() == 0


def test_while_an_aof_is_rewritten(start_server: StartServer) -> None:
    server = start_server("--appendonly", "yes", "--rdb-key-save-delay", "100000")
    with server.wire() as wire:
        fill(wire)
        assert b"started" in wire.ask("BGREWRITEAOF")
        digest = wire.ask("DEBUG", "DIGEST")
    assert server.stop() == 0
    server.start()
    with server.wire() as wire:
        assert wire.ask("DEBUG", "DIGEST") == digest


def test_where_nothing_can_be_saved(start_server: StartServer, slow: Slow) -> None:
    """Redis then refuses to end, and everything goes on."""
    server = start_server(*SAVING)
    with server.wire() as wire, server.wire() as runner:
        fill(wire)
        words = slow(wire, 0.3, "made")
        (server.folder / "dump.rdb").mkdir()
        runner.send(*words)
        wait_for(lambda: server.blocked_clients() == 1)
        reply = wire.ask("SHUTDOWN")
        assert isinstance(reply, Error) and reply.startswith("ERR ")
        assert runner.read() == b"OK"
        samples.check_run(wire, "onnx")
        (server.folder / "dump.rdb").rmdir()
    assert server.stop() == 0
