"""FAILOVER under load, and clients that are killed or unblocked by others while something of theirs goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from testkit import models, samples, scripts
from testkit.replicas import caught_up, follow, is_in_step, stopped
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.conftest import Slow, StartServer


@pytest.fixture
def pair(start_server: StartServer) -> tuple[Server, Server]:
    master, replica = (start_server("--repl-diskless-sync-delay", "0") for _ in range(2))
    follow(replica, master)
    return master, replica


def role(wire: Wire) -> object:
    return wire.ask("ROLE")[0]


def failed_over(old: Wire, new: Wire) -> bool:
    return role(new) == b"master" and role(old) == b"slave" and is_in_step(old)


def test_failover_while_a_model_runs(pair: tuple[Server, Server], slow: Slow) -> None:
    """The run that is under way is not the new master's business: its client is told, and nothing is written."""
    master, replica = pair
    with master.wire() as wire, master.wire() as running, master.wire() as waiting, replica.wire() as new:
        words = slow(wire, 1.0, "made")
        caught_up(wire)
        running.send(*words)
        waiting.send("AI.MODELSTORE", "large", "ONNX", "CPU", "BLOB", models.onnx_padded(8_000_000))
        wait_for(lambda: master.blocked_clients() >= 1)
        assert wire.ask("FAILOVER", "TO", "127.0.0.1", replica.port, "TIMEOUT", 10000) == b"OK"
        wait_for(lambda: failed_over(wire, new), 20, "the replica is the master")
        told = [running.read(), waiting.read()]
        assert new.ask(*words) == b"OK"
        assert new.ask("WAIT", 1, 30000) == 1
        assert wire.ask("DEBUG", "DIGEST") == new.ask("DEBUG", "DIGEST")
        for reply, key in zip(told, ("made", "large"), strict=True):
            # done before writes were paused, or refused; never both
            assert reply == b"OK" or reply.startswith(("UNBLOCKED ", "READONLY ")), reply
            if key == "large":
                assert new.ask("EXISTS", key) == (reply == b"OK")
        assert wire.ask(*words).startswith("READONLY ")


def test_failover_and_back_under_load(pair: tuple[Server, Server]) -> None:
    """Whatever was acknowledged is on both in the end, and both say the same."""
    master, replica = pair
    stop = threading.Event()
    acknowledged: list[str] = []
    errors: list[BaseException] = []

    def write(name: str) -> None:
        """Goes to the other server when it is sent away, as a client that Sentinel tells of the new master does."""
        step, at = 0, 0
        try:
            while not stop.is_set():
                with pair[at].wire() as wire:
                    while not stop.is_set():
                        key = f"{name}:{step}"
                        reply = wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "left", "right", "OUTPUTS", 1, key)
                        if reply != b"OK":
                            assert reply.startswith(("READONLY ", "UNBLOCKED ", "MASTERDOWN ", "LOADING ")), reply
                            break
                        acknowledged.append(key)
                        step += 1
                at = 1 - at
        except BaseException as error:
            errors.append(error)

    with master.wire() as one, replica.wire() as two:
        assert one.ask(*samples.ONNX.words("m")) == b"OK"
        samples.check_run(one, "m")
        caught_up(one)
        threads = [threading.Thread(target=write, args=(f"w{i}",)) for i in range(3)]
        for thread in threads:
            thread.start()
        try:
            for old, new, to in ((one, two, replica), (two, one, master)) * 2:
                before = len(acknowledged)
                wait_for(lambda before=before: len(acknowledged) > before + 20 or errors)  # type: ignore[misc]
                assert old.ask("FAILOVER", "TO", "127.0.0.1", to.port, "TIMEOUT", 10000) == b"OK"
                wait_for(lambda old=old, new=new: failed_over(old, new), 20)  # type: ignore[misc]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not errors, errors
        caught_up(one)
        assert one.ask("DEBUG", "DIGEST") == two.ask("DEBUG", "DIGEST")
        total = one.ask("AI.TENSORGET", "sum")
        for key in acknowledged:
            assert one.ask("AI.TENSORGET", key) == total
        samples.check_run(one, "m")
    assert [server.stop() for server in pair] == [0, 0]


def test_a_failover_that_is_called_off(start_server: StartServer, slow: Slow) -> None:
    """FAILOVER ABORT: finished runs, which have waited, are stored and answered."""
    master, replica = (start_server("--repl-diskless-sync-delay", "0") for _ in range(2))
    follow(replica, master)
    with master.wire() as wire, master.wire() as running:
        words = slow(wire, 0.3, "made")
        caught_up(wire)
        with stopped(replica):
            assert wire.ask("SET", "later", "x") == b"OK"
            running.send(*words)
            wait_for(lambda: master.blocked_clients() == 1)
            assert wire.ask("FAILOVER", "TO", "127.0.0.1", replica.port, "TIMEOUT", 60000) == b"OK"
            wait_for(
                lambda: b"failover_state:waiting-for-sync" in wire.ask("INFO", "replication").replace(b"master_", b"")
            )
            assert wire.ask("AI.TENSORGET", "slow:n", "VALUES")[0] > 0, "reads go on"
            assert wire.ask("FAILOVER", "ABORT") == b"OK"
            assert running.read() == b"OK"
        assert role(wire) == b"master"
        caught_up(wire)
        with replica.wire() as reader:
            assert reader.ask("DEBUG", "DIGEST") == wire.ask("DEBUG", "DIGEST")


# ---- CLIENT KILL, CLIENT UNBLOCK -------------------------------------------------------------------------------------


def dag(server: Server, wire: Wire, slow: Slow) -> tuple[Word, ...]:
    slow(wire, 0.4)
    run = "AI.MODELEXECUTE slow INPUTS 1 slow:n OUTPUTS 1"
    return tuple(f"AI.DAGEXECUTE LOAD 1 slow:n PERSIST 1 made |> {run} a |> {run} made".split())


def run(server: Server, wire: Wire, slow: Slow) -> tuple[Word, ...]:
    return slow(wire, 0.4, "made")


def batch(server: Server, wire: Wire, slow: Slow) -> tuple[Word, ...]:
    options: tuple[Word, ...] = ("BATCHSIZE", 8, "MINBATCHSIZE", 8, "MINBATCHTIMEOUT", 400)
    assert wire.ask("AI.MODELSTORE", "batched", "ONNX", "CPU", *options, "BLOB", models.onnx_add()) == b"OK"
    assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2) == b"OK"
    return ("AI.MODELEXECUTE", "batched", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "made")


def compilation(server: Server, wire: Wire, slow: Slow) -> tuple[Word, ...]:
    return ("AI.MODELSTORE", "made", "ONNX", "CPU", "BLOB", models.onnx_padded(8_000_000))


def script(server: Server, wire: Wire, slow: Slow) -> tuple[Word, ...]:
    scripts.store_redis(wire, "gone_on")
    return scripts.execute("s", "gone_on", ["started", "go", "made"])


Busy = Callable[[Server, Wire, Slow], tuple[Word, ...]]
each_kind = pytest.mark.parametrize("busy", [run, dag, batch, compilation, script], ids=lambda busy: busy.__name__)


def after_all(wire: Wire) -> None:
    """What was under way has ended when this returns."""
    wire.ask("SET", "go", "x")
    samples.store_tensor(wire, "left", samples.TENSORS["FLOAT"])
    assert wire.ask(*samples.ONNX.words("m")) == b"OK"
    samples.check_run(wire, "m")


@each_kind
@pytest.mark.parametrize("by", ["ID", "LADDR and TYPE"])
def test_a_client_is_killed(server: Server, wire: Wire, slow: Slow, busy: Busy, by: str) -> None:
    words = busy(server, wire, slow)
    with server.wire() as victim:
        number = victim.ask("CLIENT", "ID")
        victim.send(*words)
        wait_for(lambda: server.blocked_clients() == 1)
        if by == "ID":
            assert wire.ask("CLIENT", "KILL", "ID", number) == 1
        else:
            assert wire.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") >= 1
        with pytest.raises(OSError):
            victim.read()
    wait_for(lambda: server.blocked_clients() == 0)
    after_all(wire)
    assert wire.ask("EXISTS", "made") == 0


@each_kind
@pytest.mark.parametrize("reason", ["TIMEOUT", "ERROR"])
def test_a_client_is_unblocked(server: Server, wire: Wire, slow: Slow, busy: Busy, reason: str) -> None:
    """It comes too late, or it answers the client once; the next command is answered as ever."""
    words = busy(server, wire, slow)
    with server.wire() as victim:
        number = victim.ask("CLIENT", "ID")
        victim.send(*words)
        wait_for(lambda: server.blocked_clients() == 1)
        unblocked = wire.ask("CLIENT", "UNBLOCK", number, reason)
        wire.ask("SET", "go", "x")
        victim.send("ECHO", "next")
        reply = victim.read()
        print(unblocked, reply)
        is_done = reply in (b"OK", [b"OK", b"OK"])
        assert is_done or ((isinstance(reply, Error) or reply == b"TIMEDOUT") and unblocked == 1), reply
        assert victim.read() == b"next"
    after_all(wire)
    assert wire.ask("EXISTS", "made") == is_done
