"""Replicas: what is stored on the master arrives whole, results arrive as tensors, and the link is never held up."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit import models, samples
from testkit.info import command_counts
from testkit.replicas import caught_up, follow
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error
from tests.conftest import Slow, StartServer


@pytest.fixture
def master(start_server: StartServer) -> Server:
    return start_server("--repl-diskless-sync-delay", "0")


@pytest.fixture
def replica(start_server: StartServer, master: Server) -> Server:
    return start_server()


@pytest.mark.parametrize("diskless_load", ["disabled", "swapdb"])
def test_a_full_sync_brings_everything(start_server: StartServer, master: Server, diskless_load: str) -> None:
    replica = start_server("--repl-diskless-load", diskless_load)
    with master.wire() as wire:
        samples.fill(wire)
        before = samples.contents(wire)
    follow(replica, master)
    with replica.wire() as wire:
        assert wire.ask("REPLICAOF", "NO", "ONE") == b"OK"
        samples.check_filled(wire, before)
    assert "Skipping diskless-load" not in replica.log()  # as Redis does for modules that cannot take it


def test_the_stream_brings_everything(master: Server, replica: Server) -> None:
    follow(replica, master)
    with master.wire() as wire:
        samples.fill(wire)
        before = samples.contents(wire)
        caught_up(wire)
    with replica.wire() as wire:
        # the replica itself runs nothing: it is told the results
        counts = command_counts(wire)
        assert "ai.modelexecute" not in counts
        assert counts["ai.tensorset"] > len(samples.TENSORS)
        assert counts["ai.modelstore"] == len(samples.RUNNABLE) + 3
        assert b"master_link_status:up" in wire.ask("INFO", "replication")
        refused = wire.ask("AI.MODELEXECUTE", "onnx", "INPUTS", 2, "left", "right", "OUTPUTS", 1, "o")
        assert refused == Error("READONLY You can't write against a read only replica.")
        assert wire.ask("REPLICAOF", "NO", "ONE") == b"OK"
        samples.check_filled(wire, before)


def test_deletions_and_chunks_arrive(master: Server, replica: Server) -> None:
    follow(replica, master)
    with master.wire() as wire:
        assert wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", 100) == b"OK"
        assert wire.ask(*samples.ONNX.words("m")) == b"OK"
        assert wire.ask(*samples.TORCH.words("gone")) == b"OK"
        assert wire.ask("AI.MODELDEL", "gone") == b"OK"
        caught_up(wire)
    with replica.wire() as wire:
        assert wire.ask("KEYS", "*") == [b"m"]
        assert wire.ask("AI.MODELGET", "m", "BLOB") == samples.ONNX.blob
        assert wire.ask("REPLICAOF", "NO", "ONE") == b"OK"
        samples.check_run(wire, "m")


def test_a_model_does_not_hold_up_the_link(start_server: StartServer, master: Server, tmp_path: Path) -> None:
    """The replica imports the library and compiles in the background, not before it reads on."""
    path, go = samples.slow_backend(tmp_path)
    replica = start_server(options=["BACKENDSPATH", str(path)])
    follow(replica, master)
    with master.wire() as wire:
        assert wire.ask(*samples.ONNX.words("m")) == b"OK"
        samples.check_run(wire, "m")
        assert wire.ask("SET", "after", "x") == b"OK"
        caught_up(wire)
    with replica.wire() as wire, replica.wire() as other:
        assert wire.ask("GET", "after") == b"x"
        assert wire.ask("AI.MODELGET", "m", "BLOB") == samples.ONNX.blob
        assert wire.ask("REPLICAOF", "NO", "ONE") == b"OK"
        wire.send("AI.MODELEXECUTE", "m", "INPUTS", 2, "left", "right", "OUTPUTS", 1, "again")
        wait_for(lambda: replica.blocked_clients() == 1, what="the run waits for its model")
        assert other.ask("PING") == b"PONG"
        go.touch()
        assert wire.read() == b"OK"
        assert wire.ask("AI.TENSORGET", "again") == wire.ask("AI.TENSORGET", "sum")


def test_a_replica_without_the_library_keeps_the_model(
    start_server: StartServer, master: Server, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    replica = start_server(options=["BACKENDSPATH", str(empty)])
    follow(replica, master)
    with master.wire() as wire:
        assert wire.ask(*samples.ONNX.words("onnx")) == b"OK"
        samples.check_run(wire, "onnx")
        before = samples.contents_of(wire, "sum")
        caught_up(wire)
    with replica.wire() as wire:
        assert b"master_link_status:up" in wire.ask("INFO", "replication")
        assert wire.ask("AI.MODELGET", "onnx", "BLOB") == samples.ONNX.blob
        assert samples.contents_of(wire, "sum") == before
        assert wire.ask("REPLICAOF", "NO", "ONE") == b"OK"
        answer = wire.ask("AI.MODELEXECUTE", "onnx", "INPUTS", 2, "left", "right", "OUTPUTS", 1, "o")
        assert isinstance(answer, Error) and answer.startswith("ERR Could not load backend: ONNX: ")


def test_a_master_that_becomes_a_replica_lets_its_clients_go(master: Server, replica: Server, slow: Slow) -> None:
    """Their runs and stores must not write any more: the data are another's now."""
    with master.wire() as wire:
        assert wire.ask("SET", "whose", "the other's") == b"OK"
    with replica.wire() as wire, replica.wire() as running, replica.wire() as waiting, replica.wire() as storing:
        running.send(*slow(running, 1.0, "first"))
        waiting.send("AI.MODELEXECUTE", "slow", "INPUTS", 1, "slow:n", "OUTPUTS", 1, "second")
        storing.send("AI.MODELSTORE", "large", "ONNX", "CPU", "BLOB", models.onnx_padded(5_000_000))
        wait_for(lambda: replica.blocked_clients() == 3, what="all three wait")
        follow(replica, master)
        for client in (running, waiting, storing):
            answer = client.read()
            assert isinstance(answer, Error) and answer.startswith("UNBLOCKED")
        assert wire.ask("REPLICAOF", "NO", "ONE") == b"OK"
        assert wire.ask(*samples.ONNX.words("m")) == b"OK"  # comes after the large one is compiled
        samples.check_run(wire, "m")  # comes after the runs
        assert sorted(wire.ask("KEYS", "*")) == [b"left", b"m", b"right", b"sum", b"whose"]
