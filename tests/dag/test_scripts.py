"""Scripts in DAGs: what their Redis commands may touch - KEYS, and keys with ROUTING's hash tag - and as whom."""

from __future__ import annotations

import pytest

from testkit import dags, models, scripts
from testkit.dags import NA, OK, TIMEDOUT, ask, check, send
from testkit.scripts import FAILED, UNDECLARED, is_denied
from testkit.server import Server
from testkit.users import Login
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.conftest import Slow


@pytest.fixture
def stored(wire: Wire) -> Wire:
    scripts.store_redis(wire, "reply", "run")
    assert wire.ask("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
    wire.ask("AI.TENSORSET", "y", "FLOAT", 1, 2, "VALUES", 3, 4)
    wire.ask("SET", "k", "kept")
    return wire


def run(head: str, command: str, keys: str = "", function: str = "run") -> str:
    """A DAG whose script runs a Redis command."""
    declared = f"KEYS {len(keys.split())} {keys} " if keys else ""
    words = command.split()
    return f"AI.DAGEXECUTE {head} |> AI.SCRIPTEXECUTE s {function} {declared}INPUTS 1 x ARGS {len(words)} {command}" + (
        " OUTPUTS 1 out |> AI.TENSORGET out BLOB" if function == "reply" else ""
    )


def test_keys(stored: Wire) -> None:
    check(ask(stored, run("LOAD 1 x", "SET k changed", "k")), [OK])
    assert stored.ask("GET", "k") == b"changed"
    check(ask(stored, run("LOAD 1 x", "GET k", "j k", "reply")), [OK, b"s7:changed"])


def test_keys_alone(stored: Wire) -> None:
    """Without inputs; every op has keys of its own."""
    scripts.store_redis(stored, "increment", "reply")
    line = (
        "AI.DAGEXECUTE PERSIST 1 b |> AI.SCRIPTEXECUTE s increment KEYS 1 n ARGS 1 3"
        " |> AI.SCRIPTEXECUTE s reply KEYS 1 k ARGS 2 GET k OUTPUTS 1 a |> AI.TENSORGET a BLOB"
        " |> AI.SCRIPTEXECUTE s reply KEYS 2 n k ARGS 2 STRLEN k OUTPUTS 1 b"
    )
    check(ask(stored, line), [OK, OK, b"s4:kept", OK])
    assert stored.ask("AI.TENSORGET", "b", "BLOB") == b"i:4"
    assert stored.ask("GET", "n") == b"3"


def test_commands_come_in_the_order_of_the_chain(stored: Wire) -> None:
    ops = " ".join(
        f"|> AI.SCRIPTEXECUTE s reply KEYS 1 log INPUTS 1 t{i} ARGS 3 RPUSH log {i} OUTPUTS 1 t{i + 1}"
        for i in range(20)
    )
    check(ask(stored, f"AI.DAGEXECUTE LOAD 1 x |> AI.TENSORSET t0 FLOAT 1 {ops}"), [OK] * 21)
    assert stored.ask("LRANGE", "log", 0, -1) == [b"%d" % i for i in range(20)]


@pytest.mark.parametrize("command", ["SET k changed", "GET k", "DEL k", "MSET j 1 k 2"])
@pytest.mark.parametrize("keys", ["", "j", "j kk"])
def test_a_key_that_is_not_declared(stored: Wire, command: str, keys: str) -> None:
    reply = ask(stored, run("LOAD 1 x PERSIST 1 x", command, keys))
    check(reply, [Error(UNDECLARED)])
    assert stored.ask("MGET", "j", "k") == [None, b"kept"]


def test_keys_of_one_op_are_not_those_of_another(stored: Wire) -> None:
    line = run("LOAD 1 x", "SET k changed", "k") + " |> AI.SCRIPTEXECUTE s run KEYS 1 j INPUTS 1 x ARGS 3 SET k again"
    reply = ask(stored, line)
    assert any(isinstance(item, Error) and item == UNDECLARED for item in reply)
    assert stored.ask("GET", "k") != b"again"


@pytest.mark.parametrize("name", ["AI.DAGRUN", "AI.DAGRUN_RO"])
def test_a_dag_cannot_be_run_from_a_script(stored: Wire, name: str) -> None:
    command: list[Word] = [name, "LOAD", 1, "x", "|>", "AI.TENSORGET", "x"]
    reply = stored.ask("AI.SCRIPTEXECUTE", "s", "run", "KEYS", 1, "x", "ARGS", len(command), *command)
    assert isinstance(reply, Error) and reply.startswith(FAILED)


# ---- ROUTING ---------------------------------------------------------------------------------------------------------

# The value of ROUTING and keys: those that have its hash tag, and those that have not. A key without a tag is its own.
TAGS = [
    ("{tag}", ["x{tag}", "{tag}", "{tag}:y", "a{tag}{other}", "tag"], ["x", "x{tag", "{Tag}", "{other}", "{{tag}}"]),
    ("key{tag}", ["x{tag}", "key{tag}", "tag"], ["key", "key{other}"]),
    ("tag", ["tag", "{tag}", "x{tag}"], ["x", "tagg", "tag:1", "{tag:1}"]),
    ("{}a", ["{}a"], ["a", "{}", "x{}a", "{}b"]),
    ("{a", ["{a", "{{a}x"], ["a", "{a}"]),
]


@pytest.mark.parametrize(("routing", "inside", "outside"), TAGS, ids=[routing for routing, _, _ in TAGS])
def test_keys_with_the_tag_need_no_declaration(
    stored: Wire, routing: str, inside: list[str], outside: list[str]
) -> None:
    stored.ask("RENAME", "x", "input")
    head = f"ROUTING {routing} LOAD 1 input"
    for key in inside:
        line = run(head, f"SET {key} changed").replace("INPUTS 1 x", "INPUTS 1 input")
        check(ask(stored, line), [OK])
        assert stored.ask("GET", key) == b"changed", key
        stored.ask("DEL", key)
    for key in outside:
        line = run(head, f"SET {key} changed").replace("INPUTS 1 x", "INPUTS 1 input")
        check(ask(stored, line), [Error(UNDECLARED)])
        assert stored.ask("EXISTS", key) == 0, key


def test_routing_and_keys_add_up(stored: Wire) -> None:
    check(ask(stored, run("LOAD 1 x ROUTING {tag}", "MSET k 1 a{tag} 2", "k")), [OK])
    assert stored.ask("MGET", "k", "a{tag}") == [b"1", b"2"]
    check(ask(stored, run("LOAD 1 x ROUTING {tag}", "MSET k 3 a{tag} 4 b 5", "k")), [Error(UNDECLARED)])
    assert stored.ask("MGET", "k", "a{tag}", "b") == [b"1", b"2", None]


def test_routing_declares_nothing_for_other_commands(stored: Wire) -> None:
    for command in ("FLUSHALL", "FLUSHDB", "SWAPDB 0 1"):
        check(ask(stored, run("LOAD 1 x ROUTING {tag}", command)), [Error(UNDECLARED)])
    assert stored.ask("GET", "k") == b"kept"


def test_a_model_with_the_tag(stored: Wire) -> None:
    scripts.store_models(stored, "m")
    stored.ask("COPY", "add", "add{tag}")
    script = "|> AI.SCRIPTEXECUTE m named INPUTS 2 x y ARGS 1 {} OUTPUTS 1 z"
    head = "AI.DAGEXECUTE LOAD 2 x y ROUTING {tag} "
    reply = ask(stored, head + script.replace("{}", "add{tag}") + " |> AI.TENSORGET z VALUES")
    check(reply, [OK, [b"4", b"6"]])
    (reply,) = ask(stored, head + script.replace("{}", "add"))
    assert isinstance(reply, Error) and "not declared" in reply
    (reply,) = ask(stored, "AI.DAGEXECUTE LOAD 2 x y " + script.replace("{}", "add{tag}"))
    assert isinstance(reply, Error) and "not declared" in reply
    check(ask(stored, "AI.DAGEXECUTE LOAD 2 x y |> AI.SCRIPTEXECUTE m one KEYS 1 add INPUTS 2 x y OUTPUTS 1 z"), [OK])


# ---- users -----------------------------------------------------------------------------------------------------------


def test_a_user_without_the_command(login: Login, stored: Wire) -> None:
    user = login("+@all", "-set", "~*")
    for line in (run("LOAD 1 x", "SET k changed", "k"), run("LOAD 1 x ROUTING k", "SET k changed")):
        (reply,) = ask(user, line)
        assert isinstance(reply, Error) and reply.startswith(FAILED)
        assert stored.ask("GET", "k") == b"kept"
    check(ask(user, run("LOAD 1 x", "APPEND k !", "k")), [OK])


def test_a_user_without_the_key(login: Login, stored: Wire) -> None:
    """ROUTING widens what the script may touch, never what the user may."""
    user = login("+@all", "~s", "~x", "~mine*", "~{tag}")
    stored.ask("SET", "theirs{tag}", "kept")
    assert ask(user, run("LOAD 1 x", "SET k changed", "k")).startswith("NOPERM ")
    for command in ("SET theirs{tag} changed", "GET theirs{tag}", "MSET mine{tag} 1 theirs{tag} 2"):
        (reply,) = ask(user, run("LOAD 1 x ROUTING {tag}", command))
        assert isinstance(reply, Error) and reply.startswith(FAILED), reply
    assert stored.ask("MGET", "theirs{tag}", "mine{tag}") == [b"kept", None]
    check(ask(user, run("LOAD 1 x ROUTING {tag}", "SET mine{tag} x")), [OK])
    assert stored.ask("GET", "mine{tag}") == b"x"


def test_a_model_that_the_user_may_not_read(login: Login, stored: Wire) -> None:
    scripts.store_models(stored, "m")
    stored.ask("COPY", "add", "theirs{tag}")
    user = login("+@all", "~m", "~x", "~{tag}")
    line = (
        "AI.DAGEXECUTE LOAD 1 x ROUTING {tag} |> AI.SCRIPTEXECUTE m named INPUTS 2 x x ARGS 1 theirs{tag} OUTPUTS 1 z"
    )
    (reply,) = ask(user, line)
    assert isinstance(reply, Error) and "NOPERM" in reply
    assert dags.calls(stored, "theirs{tag}") == 0


def test_each_dag_is_of_its_own_user(login: Login, stored: Wire) -> None:
    user = login("+@all", "-set", "~*")
    send(user, run("LOAD 1 x", "SET no x", "no"))
    send(stored, run("LOAD 1 x", "SET yes x", "yes"))
    (reply,) = user.read()
    assert is_denied(reply)
    check(stored.read(), [OK])
    assert stored.ask("MGET", "no", "yes") == [None, b"x"]


# ---- when they end ---------------------------------------------------------------------------------------------------


def test_the_database_of_the_client(server: Server, stored: Wire) -> None:
    stored.ask("COPY", "s", "s", "DB", 3)
    with server.wire() as other:
        other.ask("SELECT", 3)
        line = (
            "AI.DAGEXECUTE ROUTING {t} |> AI.TENSORSET x FLOAT 1 |> AI.SCRIPTEXECUTE s run INPUTS 1 x ARGS 3 SET {t} 3"
        )
        check(ask(other, line), [OK, OK])
        assert other.ask("GET", "{t}") == b"3"
    assert stored.ask("EXISTS", "{t}") == 0


def test_what_a_script_wrote_stays_when_a_later_op_fails(stored: Wire) -> None:
    """Only tensors wait for the end: a script's commands are run as they come."""
    scripts.store_redis(stored, "nested", "reply")
    line = run("LOAD 1 x PERSIST 1 z", "SET k changed", "k", "reply").replace(" |> AI.TENSORGET out BLOB", "")
    line += " |> AI.SCRIPTEXECUTE s nested INPUTS 1 out ARGS 1 PING OUTPUTS 1 z |> AI.TENSORGET z"
    reply = ask(stored, line)
    assert dags.is_error(reply[1])
    check([reply[0], reply[2]], [OK, NA])
    assert stored.ask("GET", "k") == b"changed"
    assert stored.ask("EXISTS", "z") == 0


def test_a_dag_times_out_while_its_script_goes_on(server: Server, stored: Wire) -> None:
    """The script's further commands are refused, and the ops after it never begin."""
    scripts.store_redis(stored, "gone_on", "run")
    line = (
        "AI.DAGEXECUTE LOAD 1 x TIMEOUT 100 |> AI.SCRIPTEXECUTE s gone_on KEYS 3 started go done INPUTS 1 x"
        " |> AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 z"
    )
    check(ask(stored, line), TIMEDOUT)
    stored.ask("SET", "go", "x")
    check(ask(stored, run("LOAD 1 x", "SET after x", "after")), [OK])  # comes after the one that is given up
    assert stored.ask("MGET", "started", "done", "after") == [b"started", None, b"x"]
    assert dags.calls(stored, "add") == 0


def test_a_script_and_the_keys_that_the_dag_persists(stored: Wire) -> None:
    """The keyspace gets what the DAG persists in the end: a script before that does not see it yet."""
    line = (
        "AI.DAGEXECUTE LOAD 1 x PERSIST 1 z{t} ROUTING {t} |> AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 z{t}"
        " |> AI.SCRIPTEXECUTE s reply INPUTS 1 z{t} ARGS 2 EXISTS z{t} OUTPUTS 1 out |> AI.TENSORGET out BLOB"
    )
    check(ask(stored, line), [OK, OK, b"i:0"])
    check(ask(stored, line), [OK, OK, b"i:1"])


def test_other_ops_go_on_while_a_script_waits(server: Server, stored: Wire, slow: Slow) -> None:
    scripts.store_redis(stored, "gone_on")
    stored.ask("AI.MODELSTORE", "elsewhere", "ONNX", "CPU:1", "BLOB", models.onnx_add())
    line = (
        "AI.DAGEXECUTE LOAD 1 x |> AI.SCRIPTEXECUTE s gone_on KEYS 3 started go done INPUTS 1 x"
        " |> AI.MODELEXECUTE elsewhere INPUTS 2 x x OUTPUTS 1 z |> AI.TENSORGET z VALUES"
    )
    with server.wire() as other:
        send(other, line)
        wait_for(lambda: stored.ask("EXISTS", "started"))
        wait_for(lambda: dags.calls(stored, "elsewhere") == 1, what="the op on the other device has run")
        stored.ask("SET", "go", "x")
        check(other.read(), [OK, OK, [b"2", b"4"]])
    assert stored.ask("GET", "done") == b"done"
