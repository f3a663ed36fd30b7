"""Scripts whose client times out or leaves, or that never end: nobody else waits, nothing is written any more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testkit import models, scripts
from testkit.restarts import wait_until_saved
from testkit.scripts import execute, store_redis
from testkit.server import Server
from testkit.waiting import check_times, wait_for
from testkit.wire import Error, Simple, Wire, Word
from tests.conftest import StartServer

GOES_ON = execute("s", "gone_on", ["started", "go", "done"])
AFTER = execute("s", "run", ["after"], (), ["SET", "after", "x"])


@pytest.fixture
def stored(wire: Wire) -> Wire:
    store_redis(wire, "gone_on", "run")
    return wire


def check_nothing_more_is_written(wire: Wire) -> None:
    """Those whose client is gone write no more, and the worker is free for others."""
    assert wire.ask("SET", "go", "x") == b"OK"
    assert wire.ask(*AFTER) == b"OK"  # comes after the one that is given up
    assert wire.ask("EXISTS", "done") == 0
    assert wire.ask("GET", "after") == b"x"


def test_the_script_itself_ends_well(server: Server, stored: Wire) -> None:
    with server.wire() as other:
        other.send(*GOES_ON)
        wait_for(lambda: stored.ask("EXISTS", "started"))
        stored.ask("SET", "go", "x")
        assert other.read() == b"OK"
    assert stored.ask("GET", "done") == b"done"


@pytest.mark.parametrize("leave", [Wire.close, Wire.abort], ids=["closes", "resets"])
def test_a_client_leaves_in_the_middle(server: Server, stored: Wire, leave: Callable[[Wire], None]) -> None:
    leaver = server.wire()
    leaver.send(*GOES_ON)
    wait_for(lambda: stored.ask("EXISTS", "started"))
    leave(leaver)
    wait_for(lambda: server.blocked_clients() == 0, what="the server notices")
    check_nothing_more_is_written(stored)


def test_a_client_is_killed_in_the_middle(server: Server, stored: Wire) -> None:
    with server.wire() as victim:
        number = victim.ask("CLIENT", "ID")
        victim.send(*GOES_ON)
        wait_for(lambda: stored.ask("EXISTS", "started"))
        assert stored.ask("CLIENT", "KILL", "ID", number) == 1
        check_nothing_more_is_written(stored)


def test_a_client_times_out_in_the_middle(server: Server, stored: Wire) -> None:
    times = []
    for asked in (0.05, 0.08, 0.12):
        reply, taken = stored.timed(*GOES_ON, "TIMEOUT", round(asked * 1000))
        assert (type(reply), reply) == (Simple, b"TIMEDOUT")
        times.append((asked, taken))
        assert stored.ask("GET", "started") == b"started"
        check_nothing_more_is_written(stored)
        stored.ask("DEL", "go", "started")
    check_times(times)


def test_the_script_is_deleted_or_replaced_in_the_middle(server: Server, stored: Wire) -> None:
    """A run that was accepted is done with the script that was there."""
    for how in (["AI.SCRIPTDEL", "s"], ["AI.SCRIPTSET", "s", "CPU", "SOURCE", scripts.OLD], ["UNLINK", "s"]):
        store_redis(stored, "gone_on", "run")
        stored.ask("DEL", "started", "go", "done")
        with server.wire() as other:
            other.send(*GOES_ON)
            wait_for(lambda: stored.ask("EXISTS", "started"))
            assert stored.ask(*how) in (b"OK", 1)
            stored.ask("SET", "go", "x")
            assert other.read() == b"OK"
        assert stored.ask("GET", "done") == b"done"


def test_storing_and_running_elsewhere_go_on_meanwhile(server: Server, stored: Wire) -> None:
    with server.wire() as other:
        other.send(*GOES_ON)
        wait_for(lambda: stored.ask("EXISTS", "started"))
        scripts.store(stored, "t", scripts.SOURCE, ["add"], device="CPU:1")
        stored.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 2)
        assert stored.ask(*execute("t", "add", inputs=["x", "x"], outputs=["y"])) == b"OK"
        stored.ask("MULTI")
        stored.ask(*scripts.store_command("u", scripts.SOURCE, ["add"]))
        assert stored.ask("EXEC") == [b"OK"]
        assert stored.ask("BGSAVE") == b"Background saving started"
        wait_until_saved(stored)
        stored.ask("SET", "go", "x")
        assert other.read() == b"OK"


def test_a_flush_or_a_reload_in_the_middle(server: Server, stored: Wire) -> None:
    for command in (["FLUSHALL"], ["DEBUG", "RELOAD"], ["FLUSHALL", "ASYNC"]):
        store_redis(stored, "gone_on", "run")
        stored.ask("DEL", "go", "done", "started")
        with server.wire() as other:
            other.send(*GOES_ON)
            wait_for(lambda: stored.ask("EXISTS", "started"))
            assert stored.ask(*command) == b"OK"
            stored.ask("SET", "go", "x")
            assert other.read() == b"OK"
        assert stored.ask("GET", "done") == b"done"


def test_runs_that_wait_behind_it_time_out(server: Server, stored: Wire) -> None:
    with server.wire() as other:
        other.send(*GOES_ON)
        wait_for(lambda: stored.ask("EXISTS", "started"))
        times = []
        for asked in (0.05, 0.08):
            words: tuple[Word, ...] = (*execute("s", "run", ["late"], (), ["SET", "late", "x"]), "TIMEOUT")
            reply, taken = stored.timed(*words, round(asked * 1000))
            assert reply == b"TIMEDOUT"
            times.append((asked, taken))
        reply, taken = stored.timed("AI.SCRIPTRUN", "s", "nothing", "TIMEOUT", 60, "INPUTS")
        assert reply == b"TIMEDOUT"
        times.append((0.06, taken))
        check_times(times)
        stored.ask("SET", "go", "x")
        assert other.read() == b"OK"
    assert stored.ask(*AFTER) == b"OK"
    assert stored.ask("EXISTS", "late") == 0
    calls = stored.ask("AI.INFO", "s")[15]
    assert calls == 2, "runs that timed out while waiting never ran"


# ---- scripts without an end ------------------------------------------------------------------------------------------


def test_a_script_that_never_ends_holds_nobody_up(start_server: StartServer) -> None:
    """But for the worker that runs it: GET is answered at once, other devices run, TIMEOUT comes in time."""
    server = start_server()
    with server.wire() as wire, server.wire() as leaver:
        store_redis(wire, "for_ever", "run")
        leaver.send(*execute("s", "for_ever"))
        wait_for(lambda: server.blocked_clients() == 1)
        worst = max(wire.timed("GET", "k")[1] for _ in range(3000))
        assert worst < 0.1
        times = []
        for asked in (0.05, 0.1, 0.15):
            reply, taken = wire.timed(*AFTER, "TIMEOUT", round(asked * 1000))
            assert reply == b"TIMEDOUT"
            times.append((asked, taken))
        check_times(times)
        leaver.abort()
        assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU:1", "BLOB", models.onnx_add()) == b"OK"
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2)
        assert wire.ask("AI.MODELEXECUTE", "m", "INPUTS", 2, "x", "x", "OUTPUTS", 1, "y") == b"OK"
        scripts.store(wire, "t", scripts.SOURCE, ["add"])
        assert wire.ask("SAVE") == b"OK"
        assert server.stop() == 0


def test_timeout_of_a_script_that_never_ends(start_server: StartServer) -> None:
    server = start_server(options=["THREADS_PER_QUEUE", 3])
    with server.wire() as wire:
        store_redis(wire, "for_ever", "run")
        times = []
        for asked in (0.05, 0.12):
            reply, taken = wire.timed(*execute("s", "for_ever", outputs=["y"]), "TIMEOUT", round(asked * 1000))
            assert (type(reply), reply) == (Simple, b"TIMEDOUT")
            times.append((asked, taken))
        check_times(times)
        assert wire.ask(*AFTER) == b"OK", "the third worker is free"
        assert wire.ask("EXISTS", "y") == 0
        assert server.stop() == 0


def test_shutdown_in_the_middle_of_a_script(start_server: StartServer) -> None:
    """The script asks for the Redis lock again and again while the server ends."""
    server = start_server()
    for function in ("gone_on", "increment"):
        server.restart()
        with server.wire() as wire, server.wire() as running:
            store_redis(wire, function)
            running.send(*execute("s", function, ["a", "b", "c"], (), [10_000_000]))
            wait_for(lambda wire=wire: wire.ask("EXISTS", "a"))  # type: ignore[misc]
            assert server.stop() == 0


def test_a_client_that_cannot_be_answered_any_more(server: Server, stored: Wire) -> None:
    """CLIENT UNBLOCK either does nothing or answers the client once; it never breaks step."""
    with server.wire() as other:
        number = other.ask("CLIENT", "ID")
        other.send(*GOES_ON)
        wait_for(lambda: stored.ask("EXISTS", "started"))
        stored.ask("CLIENT", "UNBLOCK", number)
        stored.ask("SET", "go", "x")
        reply = other.read()
        assert reply in (b"OK", b"TIMEDOUT") or isinstance(reply, Error)
        assert other.ask("ECHO", "next") == b"next"
