"""A replica that was away for a moment is told what it missed, and no model holds the link up."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit import models, samples, scripts
from testkit.info import command_counts, number
from testkit.replicas import caught_up, follow, stopped, wait_until_in_step
from testkit.waiting import wait_for
from testkit.wire import Wire
from tests.conftest import StartServer

MASTER = ("--repl-diskless-sync-delay", "0", "--repl-backlog-size", "512mb")


def write_everything(wire: Wire, name: str) -> None:
    """All that the AI commands send to replicas; larger than what the kernel's buffers of a connection hold."""
    samples.store_tensor(wire, f"{name}:large", samples.TENSORS["large"])
    assert wire.ask("AI.TENSORSET", f"{name}:huge", "FLOAT", 2000, 1000) == b"OK"
    assert wire.ask(*samples.ONNX.words(f"{name}:m")) == b"OK"
    assert wire.ask("AI.MODELSTORE", f"{name}:l", "ONNX", "CPU", "BLOB", models.onnx_padded(2_000_000)) == b"OK"
    samples.check_run(wire, f"{name}:m", f"{name}:sum")
    scripts.store_redis(wire, "increment", key=f"{name}:s")
    assert wire.ask(*scripts.execute(f"{name}:s", "increment", [f"{name}:n"], (), [50])) == b"OK"
    dag = f"AI.DAGEXECUTE LOAD 2 left right PERSIST 2 {name}:d1 {name}:d2 |> "
    dag += f"AI.MODELEXECUTE {name}:m INPUTS 2 left right OUTPUTS 1 {name}:d1 |> "
    dag += f"AI.MODELEXECUTE {name}:m INPUTS 2 left {name}:d1 OUTPUTS 1 {name}:d2"
    assert wire.ask(*dag.split()) == [b"OK", b"OK"]
    assert wire.ask("AI.TENSORSET", f"{name}:gone", "INT8", 1) == b"OK"
    assert wire.ask("DEL", f"{name}:gone") == 1
    assert wire.ask("COPY", f"{name}:m", f"{name}:copy") == 1
    assert wire.ask("AI.MODELDEL", f"{name}:m") == b"OK"


def check_equal(master: Wire, replica: Wire) -> None:
    caught_up(master)
    assert replica.ask("DEBUG", "DIGEST") == master.ask("DEBUG", "DIGEST")
    assert replica.ask("DBSIZE") == master.ask("DBSIZE")


def test_what_was_missed_is_told(start_server: StartServer) -> None:
    master, replica = start_server(*MASTER), start_server()
    follow(replica, master)
    with master.wire() as wire, replica.wire() as reader:
        write_everything(wire, "before")
        caught_up(wire)
        full = number(wire, "sync_full")
        for time in range(2):
            with stopped(replica):
                assert wire.ask("CLIENT", "KILL", "TYPE", "replica") == 1
                write_everything(wire, f"missed{time}")
            wait_until_in_step(reader)
            check_equal(wire, reader)
            assert (number(wire, "sync_full"), number(wire, "sync_partial_ok")) == (full, time + 1)
        # the replica has run nothing
        counts = command_counts(reader)
        assert not counts.keys() & {"ai.modelexecute", "ai.scriptexecute", "ai.dagexecute"}
        assert reader.ask("REPLICAOF", "NO", "ONE") == b"OK"
        samples.check_run(reader, "missed1:copy")
        assert reader.ask(*scripts.execute("missed1:s", "increment", ["n"], (), [1])) == b"OK"


def test_a_link_that_is_cut_again_and_again(start_server: StartServer) -> None:
    """In the middle of large values, too: what had come in part comes again."""
    master, replica = start_server(*MASTER), start_server()
    follow(replica, master)
    with master.wire() as wire, master.wire() as cutter, replica.wire() as reader:
        assert wire.ask(*samples.ONNX.words("m")) == b"OK"
        caught_up(wire)
        full = number(wire, "sync_full")
        blob = models.onnx_padded(2_000_000)
        for time in range(8):
            wire.send("AI.MODELSTORE", f"m{time}", "ONNX", "CPU", "BLOB", blob)
            wire.send("AI.TENSORSET", f"t{time}", "FLOAT", 2000, 1000, "BLOB", bytes([time]) * 8_000_000)
            assert wire.read() == b"OK"
            cutter.ask("CLIENT", "KILL", "TYPE", "replica")
            assert wire.read() == b"OK"
            samples.check_run(wire, "m", f"sum{time}")
        wait_until_in_step(reader)
        check_equal(wire, reader)
        assert number(wire, "sync_full") == full and number(wire, "sync_partial_ok") > 0


def test_a_replica_that_restarts_is_told_what_it_missed(start_server: StartServer) -> None:
    """What it loads from its own file is compiled while the rest comes."""
    master, replica = start_server(*MASTER), start_server()
    follow(replica, master)
    with master.wire() as wire:
        write_everything(wire, "before")
        caught_up(wire)
        with replica.wire() as reader:
            assert reader.ask("SAVE") == b"OK"
        replica.stop()
        write_everything(wire, "missed")
        full = number(wire, "sync_full")
        replica.arguments += ["--replicaof", f"127.0.0.1 {master.port}"]
        replica.start()
        with replica.wire() as reader:
            wait_until_in_step(reader)
            check_equal(wire, reader)
            assert number(wire, "sync_full") == full
            assert reader.ask("REPLICAOF", "NO", "ONE") == b"OK"
            samples.check_run(reader, "before:copy")
            samples.check_run(reader, "missed:copy")


# ---- a model that takes long to compile ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["AI.MODELSTORE", "MULTI", "RESTORE"])
def test_the_link_goes_on_while_the_replica_compiles(start_server: StartServer, tmp_path: Path, how: str) -> None:
    """However the model comes, and wherever the replica is: even its own clients are answered."""
    path, go = samples.slow_backend(tmp_path)
    master, replica = start_server(*MASTER), start_server(options=["BACKENDSPATH", str(path)])
    follow(replica, master)
    with master.wire() as wire, replica.wire() as reader, replica.wire() as runner:
        if how == "RESTORE":
            samples.restore(wire, "m", samples.ONNX)
        elif how == "MULTI":
            assert wire.ask("MULTI") == b"OK"
            assert wire.ask(*samples.ONNX.words("m")) == b"QUEUED"
            assert wire.ask("EXEC") == [b"OK"]
        else:
            assert wire.ask(*samples.ONNX.words("m")) == b"OK"
        samples.check_run(wire, "m")
        caught_up(wire)
        dag = "AI.DAGEXECUTE_RO LOAD 2 left right |> AI.MODELEXECUTE m INPUTS 2 left right OUTPUTS 1 y"
        runner.send(*dag.split(), "|>", "AI.TENSORGET", "y")
        wait_for(lambda: replica.blocked_clients() == 1, what="the run waits for its model")
        for i in range(50):
            samples.check_run(wire, "m", f"sum {i % 5}")
            assert wire.ask("WAIT", 1, 30000) == 1
            offset = number(wire, "master_repl_offset")
            assert number(reader, "slave_repl_offset") >= offset
        assert replica.blocked_clients() == 1
        assert reader.ask("DEBUG", "DIGEST") == wire.ask("DEBUG", "DIGEST")
        go.touch()
        assert runner.read() == [b"OK", wire.ask("AI.TENSORGET", "sum")]


def test_wait_counts_who_has_it(start_server: StartServer, tmp_path: Path) -> None:
    """Of three replicas one compiles for ever, which does not matter, and one does not read, which does."""
    path, _ = samples.slow_backend(tmp_path)
    master = start_server(*MASTER)
    quick, slow, deaf = start_server(), start_server(options=["BACKENDSPATH", str(path)]), start_server()
    for replica in (quick, slow, deaf):
        follow(replica, master)
    blob = models.onnx_padded(1_000_000)
    with master.wire() as wire:
        assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1) == b"OK"
        assert wire.ask("WAIT", 3, 30000) == 3
        with stopped(deaf):
            for words in (
                ("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob),
                ("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y"),
                ("AI.DAGEXECUTE", "PERSIST", 1, "d", "|>", "AI.TENSORSET", "d", "FLOAT", 1),
                ("AI.TENSORSET", "t", "FLOAT", 1),
                (*scripts.store_command("s", scripts.SOURCE, ["add"]),),
                ("AI.SCRIPTEXECUTE", "s", "add", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "z"),
            ):
                with master.wire() as writer:  # a new one each, which has told nobody anything yet
                    assert writer.ask(*words) in (b"OK", [b"OK"])
                    assert writer.ask("WAIT", 3, 50) == 2, words
                    assert writer.ask("WAIT", 2, 30000) == 2, words
        assert wire.ask("AI.TENSORSET", "last", "FLOAT", 1) == b"OK"
        assert wire.ask("WAIT", 3, 30000) == 3
        digest = wire.ask("DEBUG", "DIGEST")
    for replica in (quick, slow, deaf):
        with replica.wire() as reader:
            assert reader.ask("DEBUG", "DIGEST") == digest
