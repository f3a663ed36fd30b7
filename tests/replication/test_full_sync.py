"""A full sync brings all three types whole, small and large, however it travels; old data can be read meanwhile."""

from __future__ import annotations

import signal

import pytest

from testkit import large, models, samples
from testkit.replicas import caught_up, follow, wait_until_in_step
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import StartServer

AT_ONCE = ("--repl-diskless-sync-delay", "0")
WAYS = {
    "by a file": (("--repl-diskless-sync", "no"), ("--repl-diskless-load", "disabled")),
    "from socket to memory": (("--repl-diskless-sync", "yes"), ("--repl-diskless-load", "on-empty-db")),
    "swapped in": (("--repl-diskless-sync", "yes"), ("--repl-diskless-load", "swapdb")),
}


@pytest.mark.parametrize(("sending", "loading"), WAYS.values(), ids=WAYS)
def test_everything_arrives(start_server: StartServer, sending: tuple[str, ...], loading: tuple[str, ...]) -> None:
    """Over a replica's own data, which go, and while the master writes on."""
    master = start_server(*AT_ONCE, *sending, "--rdb-key-save-delay", "10000")
    replica = start_server(*loading)
    with master.wire() as wire, master.wire() as writer, replica.wire() as reader:
        assert wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", 1 << 20) == b"OK"
        samples.fill(wire)
        assert wire.ask("SELECT", 5) == b"OK"
        large.store(wire)
        if "on-empty-db" not in loading:
            samples.store_tensor(reader, "own", samples.TENSORS["FLOAT"])
            assert reader.ask(*samples.TORCH.words("torch")) == b"OK"
        assert reader.ask("REPLICAOF", "127.0.0.1", master.port) == b"OK"
        wait_for(lambda: b"state=wait_bgsave" in wire.ask("INFO") or b"rdb_bgsave_in_progress:1" in wire.ask("INFO"))
        for number in range(3):
            assert writer.ask(*samples.ONNX.words(f"during {number}")) == b"OK"
        samples.check_run(writer, "during 0", "during")
        wait_until_in_step(reader)
        before = samples.contents(writer)
        digest = wire.ask("DEBUG", "DIGEST")
        caught_up(writer)
        assert reader.ask("DEBUG", "DIGEST") == digest
        assert reader.ask("EXISTS", "own") == 0
        assert reader.ask("REPLICAOF", "NO", "ONE") == b"OK"
        samples.check_filled(reader, before)
        samples.check_run(reader, "during 2", "during")
        assert reader.ask("SELECT", 5) == b"OK"
        large.check(reader)
    assert "Skipping diskless-load" not in replica.log()
    assert [master.stop(), replica.stop()] == [0, 0]


# ---- while the new data come -----------------------------------------------------------------------------------------


@pytest.fixture
def resync(start_server: StartServer) -> tuple[Server, Server]:
    """A master and a replica that loads, slowly, a second full sync of the same master beside its old data."""
    master = start_server(*AT_ONCE, "--repl-backlog-size", "16kb")
    replica = start_server("--repl-diskless-load", "swapdb", "--loading-process-events-interval-bytes", "1024")
    with master.wire() as wire, replica.wire() as reader:
        assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
        assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 3, 4) == b"OK"
        follow(replica, master)
        # What comes while the replica is away does not fit the backlog.
        replica.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
        assert wire.ask("CLIENT", "KILL", "TYPE", "replica") == 1
        assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_mul()) == b"OK"
        assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 5, 6) == b"OK"
        for number in range(2000):
            samples.store_tensor(wire, f"t{number}", samples.TENSORS["FLOAT"])
        assert wire.ask("CONFIG", "SET", "rdb-key-save-delay", "1000") == b"OK"
        replica.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
        wait_for(lambda: b"async_loading:1" in reader.ask("INFO", "persistence"), what="the new data come")
    return master, replica


PRODUCT = "AI.DAGEXECUTE_RO LOAD 1 x |> AI.MODELEXECUTE m INPUTS 2 x x OUTPUTS 1 y |> AI.TENSORGET y VALUES"


def product(wire: Wire) -> object:
    """What the replica's model makes of its tensor, without writing."""
    return wire.ask(*PRODUCT.split())


def loading(wire: Wire) -> bool:
    return b"async_loading:1" in wire.ask("INFO", "persistence")


def test_the_old_data_are_read_while_the_new_come(resync: tuple[Server, Server]) -> None:
    master, replica = resync
    with replica.wire() as reader, replica.wire() as runner, master.wire() as wire:
        runner.send(*PRODUCT.split())
        seen = 0
        while True:
            values, blob = reader.ask("AI.TENSORGET", "x", "VALUES"), reader.ask("AI.MODELGET", "m", "BLOB")
            if not loading(reader):
                break
            seen += 1
            assert (values, blob) == ([b"3", b"4"], models.onnx_add())
            assert isinstance(reader.ask("AI.TENSORSET", "x", "FLOAT", 1), Error)
        assert seen
        # Redis unblocks no client while it loads, so the run is answered now; it came before the new data.
        assert runner.read() == [b"OK", [b"6", b"8"]]
        wait_until_in_step(reader)
        assert reader.ask("AI.TENSORGET", "x", "VALUES") == [b"5", b"6"]
        assert product(reader) == [b"OK", [b"25", b"36"]]
        assert reader.ask("DEBUG", "DIGEST") == wire.ask("DEBUG", "DIGEST")


def test_a_sync_that_breaks_off_leaves_the_old_data(resync: tuple[Server, Server]) -> None:
    master, replica = resync
    master.kill()
    with replica.wire() as reader:
        wait_for(lambda: not loading(reader), 30, "the replica gives the new data up")
        assert reader.ask("DBSIZE") == 2
        assert reader.ask("AI.TENSORGET", "x", "VALUES") == [b"3", b"4"]
        assert product(reader) == [b"OK", [b"6", b"8"]]
        assert reader.ask("REPLICAOF", "NO", "ONE") == b"OK"
        assert reader.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
        assert reader.ask("AI.TENSORGET", "y", "VALUES") == [b"6", b"8"]
    assert replica.stop() == 0
