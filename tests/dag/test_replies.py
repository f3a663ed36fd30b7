"""DAGs: one entry for each op, NA for what did not run; nothing is stored where an op failed; TIMEDOUT; wrong types."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit import dags, models, samples, scripts
from testkit.dags import NA, OK, TIMEDOUT, Form, ask, both_forms, check, send
from testkit.replicas import PAUSE, paused
from testkit.scripts import values
from testkit.server import Server
from testkit.waiting import TIMEOUTS, check_times, wait_for
from testkit.wire import Error, Wire, Word
from tests.conftest import Slow, StartServer

FAILS = scripts.OLD + "\ndef fails(a):\n    assert a.numel() > 100, 'first line\\n   second line'\n    return a\n"
X_PLUS_Y = [b"4", b"6"]


@pytest.fixture
def stored(wire: Wire) -> Wire:
    dags.store(wire)
    assert wire.ask("AI.SCRIPTSET", "old", "CPU", "SOURCE", FAILS) == b"OK"
    return wire


FAILING = "AI.SCRIPTEXECUTE old fails INPUTS 1 a OUTPUTS 1 f"
# Ops after LOAD 2 x y, and the replies; "error" is the error of the op that fails. Ops after it that a worker runs
# depend on it, so there is one right reply.
PARTS: dict[str, tuple[str, list[object]]] = {
    "the only op": (
        "AI.SCRIPTEXECUTE old fails INPUTS 1 x OUTPUTS 1 a",
        ["error"],
    ),
    "the first": (
        "AI.SCRIPTEXECUTE old fails INPUTS 1 x OUTPUTS 1 a |> AI.MODELEXECUTE add INPUTS 2 a a OUTPUTS 1 b"
        " |> AI.SCRIPTEXECUTE old add INPUTS 2 b b OUTPUTS 1 c |> AI.TENSORGET c VALUES",
        ["error", NA, NA, NA],
    ),
    "in the middle": (
        f"AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 a |> AI.TENSORGET a VALUES |> {FAILING}"
        " |> AI.MODELEXECUTE add INPUTS 2 f a OUTPUTS 1 b |> AI.TENSORGET b VALUES",
        [OK, X_PLUS_Y, "error", NA, NA],
    ),
    "the last": (
        f"AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 a |> AI.TENSORGET a VALUES |> {FAILING}",
        [OK, X_PLUS_Y, "error"],
    ),
    "tensors before and after": (
        "AI.TENSORSET a FLOAT 1 2 VALUES 1 2 |> AI.TENSORGET a VALUES |> AI.TENSORGET x VALUES"
        f" |> {FAILING} |> AI.TENSORSET b FLOAT 1 VALUES 3 |> AI.TENSORGET b VALUES |> AI.TENSORGET x VALUES",
        [OK, [b"1", b"2"], [b"1", b"2"], "error", NA, NA, NA],
    ),
    "a chain over devices": (
        f"AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 a |> {FAILING} |> AI.MODELEXECUTE mul INPUTS 2 f f OUTPUTS 1 b"
        " |> AI.SCRIPTEXECUTE old add INPUTS 2 b a OUTPUTS 1 c |> AI.TENSORGET a VALUES",
        [OK, "error", NA, NA, NA],
    ),
    "a library's error": (
        "AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 a |> AI.SCRIPTEXECUTE old add INPUTS 2 a a OUTPUTS 1 a"
        " |> AI.TENSORSET i INT64 1 2 VALUES 1 2 |> AI.MODELEXECUTE add INPUTS 2 a i OUTPUTS 1 b"
        " |> AI.SCRIPTEXECUTE old two INPUTS 1 b OUTPUTS 2 c d |> AI.TENSORGET d META |> AI.TENSORGET a VALUES",
        [OK, OK, OK, "error", NA, NA, NA],
    ),
    "a name that is defined before and after": (
        "AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 a |> AI.SCRIPTEXECUTE old fails INPUTS 1 a OUTPUTS 1 a"
        " |> AI.TENSORGET a VALUES",
        [OK, "error", NA],
    ),
}


@both_forms
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(("ops", "wanted"), PARTS.values(), ids=PARTS)
def test_an_op_fails(server: Server, stored: Wire, form: Form, protocol: int, ops: str, wanted: list[object]) -> None:
    before = stored.ask("DEBUG", "DIGEST")
    with server.wire(protocol) as wire:
        reply = ask(wire, form(f"AI.DAGEXECUTE LOAD 2 x y PERSIST 1 x |> {ops}"))
        assert isinstance(reply, list)
        (at,) = [i for i, item in enumerate(reply) if isinstance(item, Error)]
        assert dags.is_error(reply[at])
        assert "\n" not in reply[at] and "\r" not in reply[at]
        if "fails" in ops:
            assert "first line second line" in " ".join(reply[at].split())
        floats = [[float(i) for i in item] if isinstance(item, list) else item for item in wanted]
        reply[at] = "error"
        check(reply, floats if protocol == 3 else wanted)
        assert wire.ask("PING") == b"PONG", "one reply to one command"
    assert stored.ask("DEBUG", "DIGEST") == before, "nothing is persisted"


@both_forms
def test_nothing_is_persisted(stored: Wire, form: Form) -> None:
    """Not what was loaded, nor set, nor given by ops that succeeded."""
    line = (
        "AI.DAGEXECUTE LOAD 2 x y PERSIST 4 x t a b |> AI.TENSORSET t FLOAT 1 VALUES 5"
        " |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 x |> AI.SCRIPTEXECUTE old two INPUTS 1 x OUTPUTS 2 a b"
        " |> AI.SCRIPTEXECUTE old fails INPUTS 1 b OUTPUTS 1 c"
    )
    reply = ask(stored, form(line))
    check(reply[:3], [OK, OK, OK])
    assert dags.is_error(reply[3])
    assert values(stored, "x") == [b"1", b"2"]
    assert stored.ask("EXISTS", "t", "a", "b", "c") == 0


def test_two_ops_fail(stored: Wire) -> None:
    """Each that began holds its own error; what depends on them does not run."""
    line = (
        "AI.DAGEXECUTE LOAD 1 x PERSIST 1 c |> AI.SCRIPTEXECUTE s fails INPUTS 1 x OUTPUTS 1 a"
        " |> AI.SCRIPTEXECUTE s1 fails INPUTS 1 x OUTPUTS 1 b |> AI.MODELEXECUTE add INPUTS 2 a b OUTPUTS 1 c"
    )
    for _ in range(50):
        reply = ask(stored, line)
        assert len(reply) == 3
        assert any(dags.is_error(item) for item in reply[:2])
        assert all(dags.is_error(item) or item == NA for item in reply[:2])
        check(reply[2], NA)
    assert stored.ask("EXISTS", "c") == 0
    assert dags.calls(stored, "add") == 0


def test_a_backend_that_is_not_there(start_server: StartServer, tmp_path: Path) -> None:
    """Known only when the op runs: so it is the op that holds the error."""
    empty = tmp_path / "empty"
    empty.mkdir()
    with start_server(options=["BACKENDSPATH", str(empty)]).wire() as wire:
        samples.restore(wire, "m", samples.ONNX)
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        line = (
            "AI.DAGEXECUTE LOAD 1 x PERSIST 2 y z |> AI.TENSORSET z FLOAT 1 VALUES 1"
            " |> AI.MODELEXECUTE m INPUTS 2 x x OUTPUTS 1 y |> AI.MODELEXECUTE m INPUTS 2 y y OUTPUTS 1 y"
            " |> AI.TENSORGET y"
        )
        reply = ask(wire, line)
        assert reply[1].startswith("ERR Could not load backend: ONNX: ")
        reply[1] = "error"
        check(reply, [OK, "error", NA, NA])
        assert wire.ask("EXISTS", "y", "z") == 0


@both_forms
@pytest.mark.parametrize("protocol", [2, 3])
def test_types_in_resp3(server: Server, stored: Wire, form: Form, protocol: int) -> None:
    """Arrays in both protocols; only floats are doubles in the new one."""
    line = (
        "AI.DAGEXECUTE LOAD 2 x y |> AI.TENSORSET s STRING 2 VALUES one two |> AI.TENSORSET i INT8 1 VALUES 7"
        " |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 z |> AI.TENSORGET z META VALUES |> AI.TENSORGET i VALUES"
        " |> AI.TENSORGET s VALUES |> AI.TENSORGET z META |> AI.TENSORGET s BLOB"
    )
    floats: list[object] = [4.0, 6.0] if protocol == 3 else [b"4", b"6"]
    with server.wire(protocol) as wire:
        check(
            ask(wire, form(line)),
            [
                *[OK, OK, OK],
                [b"dtype", b"FLOAT", b"shape", [1, 2], b"values", floats],
                [7],
                [b"one", b"two"],
                [b"dtype", b"FLOAT", b"shape", [1, 2]],
                b"one\0two\0",
            ],
        )


def test_pipelined(stored: Wire) -> None:
    for i in range(100):
        send(stored, f"AI.DAGEXECUTE LOAD 1 x |> AI.TENSORSET t FLOAT 1 2 VALUES {i} 0"
                     " |> AI.MODELEXECUTE add INPUTS 2 x t OUTPUTS 1 z |> AI.TENSORGET z VALUES")  # fmt: skip
        if i % 3 == 0:
            send(stored, "AI.DAGEXECUTE LOAD 1 x |> AI.TENSORGET missing")
        if i % 5 == 0:
            stored.send("ECHO", i)
    for i in range(100):
        check(stored.read(), [OK, OK, [b"%d" % (i + 1), b"2"]])
        if i % 3 == 0:
            check(stored.read(), Error("ERR INPUT key cannot be found in DAG"))
        if i % 5 == 0:
            assert stored.read() == b"%d" % i


# ---- outputs that are no tensors -------------------------------------------------------------------------------------


def test_an_output_that_is_no_tensor(wire: Wire) -> None:
    """Its op fails, and no key keeps an old value in silence."""
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_ragged())
    wire.ask("AI.TENSORSET", "a", "FLOAT", 2, "VALUES", 1, 2)
    run = "|> AI.MODELEXECUTE m INPUTS 2 a a OUTPUTS 2 sequence sum"
    reply = ask(wire, f"AI.DAGEXECUTE LOAD 1 a PERSIST 2 sequence sum {run} |> AI.TENSORGET sum VALUES")
    assert "output 'sequence' is a sequence" in str(reply[0])
    check(reply[1:], [NA])
    assert wire.ask("EXISTS", "sequence", "sum") == 0


def test_a_sequence_is_the_next_ops_input(wire: Wire) -> None:
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_sequence())
    wire.ask("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", models.onnx_add((None, None)))
    wire.ask("AI.TENSORSET", "a", "FLOAT", 2, "VALUES", 1, 2)
    run = "|> AI.MODELEXECUTE m INPUTS 2 a a OUTPUTS 2 sequence sum"
    twice = "|> AI.MODELEXECUTE add INPUTS 2 sequence sequence OUTPUTS 1 z"
    reply = ask(wire, f"AI.DAGEXECUTE LOAD 1 a PERSIST 2 sequence z {run} {twice} |> AI.TENSORGET sum VALUES")
    check(reply, [OK, OK, [b"2", b"4"]])
    assert wire.ask("AI.TENSORGET", "sequence", "META", "VALUES")[3:] == [[2, 2], b"values", [b"1", b"2", b"1", b"2"]]
    assert values(wire, "z") == [b"2", b"4", b"2", b"4"]


# ---- keys of another type --------------------------------------------------------------------------------------------

SETTERS: list[list[Word]] = [["SET", "out", "x"], ["RPUSH", "out", "x"], ["COPY", "add", "out"]]


@pytest.mark.parametrize("setter", SETTERS)
@pytest.mark.parametrize(
    "ops",
    [
        "AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 out |> AI.TENSORSET a FLOAT 1",
        "AI.MODELEXECUTE both INPUTS 2 x y OUTPUTS 2 out a",
        "AI.MODELEXECUTE both INPUTS 2 x y OUTPUTS 2 a out",
        "AI.TENSORSET a FLOAT 1 |> AI.TENSORSET out FLOAT 1",
    ],
)
@both_forms
def test_a_key_to_persist_of_another_type(stored: Wire, form: Form, setter: list[Word], ops: str) -> None:
    """One bare WRONGTYPE, nothing stored, and the connection keeps step."""
    stored.ask(*setter)
    before = stored.ask("DEBUG", "DIGEST")
    send(stored, form(f"AI.DAGEXECUTE LOAD 2 x y PERSIST 2 a out |> {ops}"))
    send(stored, form(f"AI.DAGEXECUTE LOAD 2 x y PERSIST 2 out a |> {ops}"))
    stored.send("ECHO", "next")
    for _ in range(2):
        reply = stored.read()
        assert isinstance(reply, Error) and reply.startswith("WRONGTYPE ")
    assert stored.read() == b"next"
    assert stored.ask("DEBUG", "DIGEST") == before


@both_forms
def test_a_key_that_becomes_another_type_meanwhile(server: Server, stored: Wire, slow: Slow, form: Form) -> None:
    slow(stored, 0.3)
    line = "AI.DAGEXECUTE LOAD 1 slow:n PERSIST 2 a out |> AI.MODELEXECUTE slow INPUTS 1 slow:n OUTPUTS 1 out"
    with server.wire() as other:
        send(other, form(line + " |> AI.TENSORSET a FLOAT 1"))
        wait_for(lambda: server.blocked_clients() == 1)
        stored.ask("SET", "out", "x")
        reply = other.read()
        assert isinstance(reply, Error) and reply.startswith("WRONGTYPE ")
        assert other.ask("PING") == b"PONG"
    assert stored.ask("GET", "out") == b"x"
    assert stored.ask("EXISTS", "a") == 0


# ---- time and clients that go ----------------------------------------------------------------------------------------

# Three runs one after the other, of which the first takes its time.
CHAIN = (
    "LOAD 2 x slow:n PERSIST 3 t z late |> AI.TENSORSET t FLOAT 1 VALUES 1"
    " |> AI.MODELEXECUTE slow INPUTS 1 slow:n OUTPUTS 1 late"
    " |> AI.SCRIPTEXECUTE old add INPUTS 2 late late OUTPUTS 1 eye |> AI.MODELEXECUTE mul INPUTS 2 x x OUTPUTS 1 z"
    " |> AI.SCRIPTEXECUTE old add INPUTS 2 eye z OUTPUTS 1 z"
)


@both_forms
def test_a_dag_times_out(stored: Wire, slow: Slow, form: Form) -> None:
    """At the time asked for, with one bare TIMEDOUT; what has not begun never does."""
    times = []
    for asked in TIMEOUTS:
        slow(stored, 2 * asked + 0.2)
        reply, taken = stored.timed(*form(f"AI.DAGEXECUTE TIMEOUT {round(asked * 1000)} {CHAIN}").split())
        check(reply, TIMEDOUT)
        times.append((asked, taken))
        assert stored.ask(*slow(stored, 0.001)) == b"OK"  # comes after the one that timed out
    check_times(times)
    assert stored.ask("EXISTS", "t", "z", "late") == 0
    assert dags.calls(stored, "old") == 0, "it was waiting for what came too late"


@both_forms
def test_a_dag_times_out_in_the_queue(server: Server, stored: Wire, slow: Slow, form: Form) -> None:
    command = slow(stored, 1.0)
    times = []
    line = "|> AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 z |> AI.SCRIPTEXECUTE old add INPUTS 2 x z OUTPUTS 1 w"
    with server.wire() as busy:
        busy.send(*command)
        wait_for(lambda: server.blocked_clients() == 1)
        for asked in TIMEOUTS:
            words = form(f"AI.DAGEXECUTE LOAD 1 x PERSIST 2 z w TIMEOUT {round(asked * 1000)} {line}").split()
            reply, taken = stored.timed(*words)
            check(reply, TIMEDOUT)
            times.append((asked, taken))
        check_times(times)
        assert busy.read() == b"OK"
    assert ask(stored, "AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 after") == b"OK"
    assert (dags.calls(stored, "add"), dags.calls(stored, "old")) == (1, 0)
    assert stored.ask("EXISTS", "z", "w") == 0


def test_a_dag_in_time_is_not_disturbed(stored: Wire) -> None:
    for timeout in (1000, 100_000, 2**31, 2**62):
        line = f"AI.DAGEXECUTE LOAD 1 x TIMEOUT {timeout} |> AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 z"
        check(ask(stored, line), [OK])
    check(ask(stored, "AI.DAGEXECUTE LOAD 1 x TIMEOUT 1 |> AI.TENSORGET x VALUES"), [[b"1", b"2"]])


def test_a_connection_goes_on_after_a_timeout(stored: Wire, slow: Slow) -> None:
    slow(stored, 0.3)
    send(stored, f"AI.DAGEXECUTE TIMEOUT 20 {CHAIN}")
    stored.send("ECHO", "one")
    send(stored, "AI.DAGEXECUTE LOAD 1 slow:n PERSIST 1 y |> AI.MODELEXECUTE slow INPUTS 1 slow:n OUTPUTS 1 y")
    stored.send("ECHO", "two")
    for wanted in (TIMEDOUT, b"one", [OK], b"two"):
        check(stored.read(), wanted)
    assert stored.ask("EXISTS", "y", "late", "z") == 1


@pytest.mark.parametrize("leave", [Wire.close, Wire.abort], ids=["closes", "resets"])
def test_a_client_leaves(server: Server, stored: Wire, slow: Slow, leave: object) -> None:
    """What has not begun never does, and nothing is stored."""
    assert callable(leave)
    slow(stored, 0.3)
    leaver = server.wire()
    send(leaver, f"AI.DAGEXECUTE {CHAIN}")
    wait_for(lambda: server.blocked_clients() == 1)
    leave(leaver)
    wait_for(lambda: server.blocked_clients() == 0, what="the server notices")
    assert stored.ask(*slow(stored, 0.001)) == b"OK"  # comes after the one whose client left
    assert dags.calls(stored, "old") == 0
    assert stored.ask("EXISTS", "t", "z", "late") == 0


def test_a_client_is_unblocked_by_another(server: Server, stored: Wire, slow: Slow) -> None:
    """CLIENT UNBLOCK either does nothing or answers the client once; it never breaks step."""
    slow(stored, 0.2)
    with server.wire() as victim:
        number = victim.ask("CLIENT", "ID")
        send(victim, "AI.DAGEXECUTE LOAD 1 slow:n |> AI.MODELEXECUTE slow INPUTS 1 slow:n OUTPUTS 1 a")
        wait_for(lambda: server.blocked_clients() == 1)
        stored.ask("CLIENT", "UNBLOCK", number)
        assert victim.read() in ([OK], TIMEDOUT)
        assert victim.ask("ECHO", "next") == b"next"


def test_while_writes_are_paused(start_server: StartServer, slow: Slow) -> None:
    server = start_server("--appendonly", "yes")
    with server.wire() as wire:
        slow(wire, 0.3)
        line = "AI.DAGEXECUTE LOAD 1 slow:n PERSIST 1 out |> AI.MODELEXECUTE slow INPUTS 1 slow:n OUTPUTS 1 out"
        reply, seconds = paused(server, tuple(line.split()))
        check(reply, [OK])
        assert seconds > PAUSE * 0.9
        assert wire.ask("EXISTS", "out") == 1


def test_memory_comes_back_from_what_failed_or_timed_out(server: Server, wire: Wire, slow: Slow) -> None:
    wire.ask("AI.MODELSTORE", "sum", "ONNX", "CPU", "BLOB", models.onnx_add((None, None)))
    scripts.store_plain(wire)
    command = slow(wire, 0.2)
    blob = bytes(1_000_000)
    before = server.used_memory()
    with server.wire() as busy:
        for number in range(10):
            words: list[Word] = ["AI.DAGEXECUTE", "ROUTING", "r", "TIMEOUT", 5, "|>", "AI.TENSORSET", "t", "FLOAT", 500]
            words += [500, "BLOB", blob, "|>", "AI.MODELEXECUTE", "sum", "INPUTS", 2, "t", "t", "OUTPUTS", 1, "u", "|>"]
            words += ["AI.SCRIPTEXECUTE", "s", "fails", "INPUTS", 1, "u", "OUTPUTS", 1, "v"]
            if number % 2 == 0:
                busy.send(*command)
                wait_for(lambda: server.blocked_clients() == 1)
                check(wire.ask(*words), TIMEDOUT)
                assert busy.read() == b"OK"
            else:
                words[4] = 9000
                reply = wire.ask(*words)
                check(reply[:2], [OK, OK])
                assert dags.is_error(reply[2])
    wait_for(lambda: server.used_memory() < before + (1 << 20), what="memory comes back")
