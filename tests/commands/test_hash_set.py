"""AI.HASHSET: tensors as values of hashes, alone and at the end of DAGs."""

from __future__ import annotations

import numpy as np
import pytest

from testkit import dags, models
from testkit.dags import NA, OK, ask, send
from testkit.replicas import caught_up, follow
from testkit.restarts import AOF, aof_commands
from testkit.server import Server
from testkit.users import Login
from testkit.waiting import wait_for
from testkit.wire import Error, Wire
from tests.conftest import Slow, StartServer

WRONG_TYPE = Error("WRONGTYPE Operation against a key holding the wrong kind of value")


@pytest.mark.parametrize(
    ("tensor", "form", "value"),
    [
        ("FLOAT 1 VALUES 0.1", "", b"0.1"),
        ("FLOAT VALUES 16777216", "", b"16777216"),
        ("FLOAT 1 1 VALUES 1e30", "AS NUMBER", b"1e+30"),
        ("DOUBLE 1 VALUES 0.1", "as number", b"0.1"),
        ("DOUBLE 1 VALUES 0.30000000000000004", "", b"0.30000000000000004"),
        ("FLOAT16 1 VALUES 0.5", "", b"0.5"),
        ("BFLOAT16 1 VALUES -inf", "", b"-inf"),
        ("FLOAT * FROM HASH none FIELDS 1 f DEFAULT nan", "", b"nan"),
        ("INT8 1 VALUES -127", "", b"-127"),
        ("INT64 1 VALUES -9223372036854775807", "", b"-9223372036854775807"),
        ("UINT64 1 VALUES 18446744073709551615", "", b"18446744073709551615"),
        ("BOOL 1 VALUES 1", "", b"1"),
        ("STRING 1 VALUES cat", "", b"cat"),
        ("STRING VALUES cat", "AS TEXT", b"cat"),
        ("FLOAT 1 3 VALUES 0.1 0.7 0.2", "AS ARGMAX", b"1"),
        ("DOUBLE 4 VALUES -3 -1 -1 -2", "AS ARGMAX", b"1"),
        ("FLOAT * FROM HASH none FIELDS 1 f DEFAULT nan", "AS ARGMAX", b"0"),
        ("INT16 2 2 VALUES -5 3 9 -1", "AS ARGMAX", b"2"),
        ("INT64 2 VALUES 9007199254740992 9007199254740993", "AS ARGMAX", b"1"),
        ("UINT64 2 VALUES 18446744073709551614 18446744073709551615", "AS ARGMAX", b"1"),
        ("BOOL 2 VALUES 0 1", "AS ARGMAX", b"1"),
        ("FLOAT 2 VALUES 1 2", "AS BLOB", np.array([1, 2], "<f4").tobytes()),
        ("INT8 0", "AS BLOB", b""),
        ("STRING 2 VALUES a b", "AS BLOB", b"a\0b\0"),
    ],
)
def test_forms(wire: Wire, tensor: str, form: str, value: bytes) -> None:
    assert ask(wire, f"AI.TENSORSET t {tensor}") == b"OK"
    assert ask(wire, f"AI.HASHSET h f t {form}") == OK
    assert wire.ask("HGETALL", "h") == [b"f", value]
    assert ask(wire, f"AI.DAGEXECUTE LOAD 1 t |> AI.HASHSET g f t {form}") == [OK]
    assert wire.ask("HGETALL", "g") == [b"f", value]


def test_nan_is_no_largest_element(wire: Wire) -> None:
    wire.ask("AI.TENSORSET", "t", "FLOAT", 4, "BLOB", np.array([np.nan, -5, np.nan, -6], "<f4").tobytes())
    assert ask(wire, "AI.HASHSET h f t AS ARGMAX") == OK
    assert wire.ask("HGET", "h", "f") == b"1"


def cannot(form: str, tensor: str, advice: str) -> str:
    return f"ERR the field 'f' cannot be the {form} of a {tensor} elements; {advice}"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("f three", cannot("NUMBER", "FLOAT tensor of 3", "use AS ARGMAX or AS BLOB")),
        ("g text f three AS NUMBER", cannot("NUMBER", "FLOAT tensor of 3", "use AS ARGMAX or AS BLOB")),
        ("f three AS TEXT", cannot("TEXT", "FLOAT tensor of 3", "use AS NUMBER")),
        ("f empty", cannot("NUMBER", "FLOAT tensor of 0", "use AS BLOB")),
        ("f empty AS ARGMAX", cannot("ARGMAX", "FLOAT tensor of 0", "use AS BLOB")),
        ("f text AS NUMBER", cannot("NUMBER", "STRING tensor of 1", "use AS TEXT")),
        ("f texts", cannot("TEXT", "STRING tensor of 2", "use AS BLOB")),
        ("f texts AS ARGMAX", cannot("ARGMAX", "STRING tensor of 2", "use AS TEXT or AS BLOB")),
        ("f raw AS BLOB", cannot("BLOB", "STRING tensor of 1", "an element has a null character inside; use AS TEXT")),
        ("f three AS", "ERR AS needs NUMBER, TEXT, ARGMAX or BLOB"),
        ("f three AS VALUES", "ERR AS needs NUMBER, TEXT, ARGMAX or BLOB"),
        ("f three AS BLOB g", "ERR the field 'g' has no tensor"),
        ("f", "ERR wrong number of arguments for 'AI.HASHSET' command"),
    ],
)
def test_errors(wire: Wire, words: str, error: str) -> None:
    """The hash stays as it is, and a DAG saves nothing."""
    names = ("three", "empty", "text", "texts", "raw")
    for name, data in zip(names, ("FLOAT 3", "FLOAT 0", "STRING 1", "STRING 2"), strict=False):
        ask(wire, f"AI.TENSORSET {name} {data}")
    wire.ask("AI.TENSORSET", "raw", "STRING", 1, "RAW", b"a\0b")
    wire.ask("HSET", "h", "old", 1)
    assert str(ask(wire, f"AI.HASHSET h {words}")).lower() == error.lower()
    dag = f"AI.DAGEXECUTE LOAD 5 {' '.join(names)} PERSIST 1 u |> AI.TENSORSET u FLOAT 1 |> AI.HASHSET h {words}"
    assert str(ask(wire, dag)) == error
    assert wire.ask("HGETALL", "h") == [b"old", b"1"]
    assert wire.ask("EXISTS", "u") == 0


def test_keys_of_other_types(wire: Wire) -> None:
    wire.ask("SET", "text", "x")
    ask(wire, "AI.TENSORSET t FLOAT 1")
    for key in ("text", "t"):
        assert ask(wire, f"AI.HASHSET {key} f t") == WRONG_TYPE
        assert ask(wire, f"AI.DAGEXECUTE LOAD 1 t PERSIST 1 u |> AI.TENSORSET u FLOAT 1 |> AI.HASHSET {key} f t") == (
            WRONG_TYPE
        )
    assert ask(wire, "AI.HASHSET h f text") == WRONG_TYPE
    assert ask(wire, "AI.HASHSET h f none") == Error("ERR tensor key is empty or in a different shard")
    both = "AI.DAGEXECUTE PERSIST 1 h |> AI.TENSORSET h FLOAT 1 |> AI.HASHSET g f h |> AI.HASHSET h f h"
    assert ask(wire, both) == Error("ERR the key 'h' is in PERSIST and in AI.HASHSET")
    assert ask(wire, "AI.DAGEXECUTE ROUTING h |> AI.HASHSET h f t") == Error(
        "ERR AI.HASHSET key cannot be found in DAG"
    )
    for name in ("AI.DAGEXECUTE_RO", "AI.DAGRUN_RO"):
        assert ask(wire, f"{name} LOAD 1 t |> AI.HASHSET h f t") == Error(
            "ERR AI.HASHSET cannot be specified in a read-only DAG"
        )
    assert wire.ask("EXISTS", "h", "g", "u") == 0


FROM_HASHES = "AI.TENSORSET in FLOAT * 2 FROM HASHES 2 user:1 user:2 FIELDS 2 a b"


def test_hashes_in_and_out(wire: Wire) -> None:
    """Fields of hashes become rows, a model runs on them, and its outputs become fields."""
    dags.store(wire)
    wire.ask("HSET", "user:1", "a", 1, "b", 2)
    wire.ask("HSET", "user:2", "a", 3, "b", 4.5)
    for name, model in (
        ("AI.DAGEXECUTE", "AI.MODELEXECUTE add INPUTS 2 in in OUTPUTS 1 out"),
        ("AI.DAGRUN", "AI.MODELRUN add INPUTS in in OUTPUTS out"),
    ):
        line = f"{name} PERSIST 1 kept |> {FROM_HASHES} |> {model} |> AI.HASHSET h vector out AS BLOB top out AS ARGMAX"
        line += f" |> AI.TENSORGET out VALUES |> {model.replace('out', 'kept')} |> AI.HASHSET user:1 top kept AS ARGMAX"
        assert ask(wire, line) == [OK, OK, OK, [b"2", b"4", b"6", b"9"], OK, OK]
        assert wire.ask("HGETALL", "h") == [b"vector", np.array([2, 4, 6, 9], "<f4").tobytes(), b"top", b"3"]
        assert wire.ask("HGET", "user:1", "top") == b"3"
        assert wire.ask("DEL", "h", "kept") == 2


def test_a_dag_that_fails_sets_nothing(wire: Wire) -> None:
    dags.store(wire)
    ask(wire, "AI.TENSORSET wrong FLOAT 3")
    line = (
        "AI.DAGEXECUTE LOAD 2 x wrong |> AI.HASHSET h f x AS BLOB |> AI.MODELEXECUTE add INPUTS 2 x wrong OUTPUTS 1 y"
    )
    first, second, third = ask(wire, f"{line} |> AI.HASHSET h g y AS BLOB")
    assert (first, third) == (NA, NA) and isinstance(second, Error)
    assert wire.ask("EXISTS", "h") == 0


def test_a_hash_that_changes_its_type_meanwhile(server: Server, wire: Wire, slow: Slow) -> None:
    """All or nothing: the other outputs are not saved either. One that is deleted is made anew."""
    slow(wire, 0.2)
    ask(wire, "HSET h f 1")
    line = "AI.DAGEXECUTE LOAD 1 slow:n PERSIST 1 out |> AI.MODELEXECUTE slow INPUTS 1 slow:n OUTPUTS 1 out |> "
    line += "AI.HASHSET g f slow:n |> AI.HASHSET h f slow:n"
    with server.wire() as other:
        for setter, reply in (("DEL h", [OK, OK, OK]), ("SET h text", WRONG_TYPE)):
            send(wire, line)
            wait_for(lambda: server.blocked_clients() == 1)
            ask(other, setter)
            assert wire.read() == reply
            if setter == "DEL h":
                assert ask(other, "HGET h f") == b"%d" % ask(other, "AI.TENSORGET slow:n VALUES")[0]
                assert ask(other, "DEL out g") == 2
        assert ask(other, "EXISTS out g") == 0


def test_replicas_get_hset(start_server: StartServer) -> None:
    master, replica = start_server(*AOF, "--repl-diskless-sync-delay", "0"), start_server()
    with master.wire() as wire, replica.wire() as copy:
        follow(replica, master)
        wire.ask_ok("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", models.onnx_add())
        for line in "x FLOAT 1 2 VALUES 1 2", "y FLOAT 1 2 VALUES 3 4":
            assert ask(wire, f"AI.TENSORSET {line}") == b"OK"
        ask(wire, "AI.HASHSET h v x AS BLOB class y AS ARGMAX")
        line = "AI.DAGEXECUTE LOAD 2 x y PERSIST 1 z |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 z"
        assert ask(wire, f"{line} |> AI.HASHSET g top z AS ARGMAX all z AS BLOB") == [OK, OK]
        caught_up(wire)
        blob = np.array([4, 6], "<f4").tobytes()
        assert copy.ask("HGETALL", "g") == [b"top", b"1", b"all", blob]
        told = aof_commands(master)
        names = [words[0] for words in told[-5:]]
        assert names == [b"MULTI", b"HSET", b"HSET", b"AI.TENSORSET", b"EXEC"], told
        assert [b"HSET", b"h", b"class", b"1"] in told
        assert [b"HSET", b"g", b"all", blob] in told


def test_rights(wire: Wire, login: Login) -> None:
    """The old values of the hash are not told, so the right to write is enough."""
    ask(wire, "AI.TENSORSET t FLOAT 1")
    user = login("+@all", "%W~h", "%R~t")
    dag = "AI.DAGEXECUTE LOAD 1 t |>"
    assert ask(user, "AI.HASHSET h f t") == OK
    assert ask(user, f"{dag} AI.HASHSET h f t g t") == [OK]
    for line in ("AI.HASHSET t f t", "AI.HASHSET h f h", "AI.HASHSET h f t g u", f"{dag} AI.HASHSET t f t"):
        assert str(ask(user, line)).startswith("NOPERM "), line
