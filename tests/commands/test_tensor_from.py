"""AI.TENSORSET ... FROM: tensors of what hashes, strings, lists and streams hold, alone and in DAGs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from testkit import scripts
from testkit.dags import ask
from testkit.replicas import caught_up, follow
from testkit.restarts import AOF, aof_commands
from testkit.server import Server, program
from testkit.users import Login
from testkit.waiting import wait_for
from testkit.wire import Error, Simple, Wire, Word
from tests.conftest import StartServer

WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value: 'k'"


@pytest.fixture(autouse=True)
def values(wire: Wire) -> None:
    for line in (
        "HSET h a 1 b 2.5 c x big 1e3",
        "HSET g a -7 b 1e-3 empty _",
        "RPUSH l 1 2 3 4 5",
        "RPUSH words one two",
        "XADD s 1-1 a 1 b 2",
        "XADD s 2-1 b 9 a 3 a 4",
        "XADD s 3-1 c 0 a 5",
        "SET number 12345678",
        "RPUSH k 1",
    ):
        ask(wire, line)
    wire.ask("HSET", "g", "empty", "")
    wire.ask("SET", "blob", np.arange(6, dtype="<f4").tobytes())
    wire.ask("SET", "bytes", b"\x89PNG\0\xff")
    wire.ask("SET", "k2", "x")


def made(wire: Wire, line: str) -> Any:
    """The shape and the values of the tensor, or the error."""
    reply = wire.ask("AI.TENSORSET", "t", *line.split())
    if isinstance(reply, Error):
        return str(reply).removeprefix("ERR ")
    assert reply == b"OK"
    fields = wire.ask("AI.TENSORGET", "t", "META", "VALUES")
    return fields[3], [float(each) if line.split()[0] != "STRING" else each for each in fields[5]]


@pytest.mark.parametrize(
    ("line", "shape", "elements"),
    [
        ("FLOAT 2 FROM HASH h FIELDS 2 b a", [2], [2.5, 1]),
        ("float * from hash h fields 3 a a big", [3], [1, 1, 1000]),
        ("DOUBLE 1 * FROM HASH h FIELDS 2 a b", [1, 2], [1, 2.5]),
        ("FLOAT 2 2 FROM HASHES 2 h g FIELDS 2 a b", [2, 2], [1, 2.5, -7, np.float32(1e-3)]),
        ("INT8 * 1 FROM HASHES 3 h g h FIELDS 1 a", [3, 1], [1, -7, 1]),
        ("INT64 3 * FROM HASHES 3 h none g FIELDS 2 a z DEFAULT -1", [3, 2], [1, -1, -1, -1, -7, -1]),
        ("BFLOAT16 FROM HASH h FIELDS 1 b", [], [2.5]),
        ("STRING * FROM HASH h FIELDS 2 c b", [2], [b"x", b"2.5"]),
        ("STRING 2 1 FROM HASHES 2 g h FIELDS 1 empty DEFAULT default", [2, 1], [b"", b"default"]),
        ("FLOAT * FROM LIST l", [5], [1, 2, 3, 4, 5]),
        ("FLOAT 2 FROM LIST l", [2], [4, 5]),
        ("FLOAT * 2 FROM LIST l COUNT 4", [2, 2], [2, 3, 4, 5]),
        ("UINT8 * FROM LIST l COUNT 9", [5], [1, 2, 3, 4, 5]),
        ("FLOAT 1 7 FROM LIST l DEFAULT 0", [1, 7], [0, 0, 1, 2, 3, 4, 5]),
        ("FLOAT 4 FROM LIST l COUNT 2 DEFAULT 9", [4], [9, 9, 4, 5]),
        ("FLOAT 2 FROM LIST none DEFAULT 9", [2], [9, 9]),
        ("FLOAT * 3 FROM LIST none DEFAULT 9", [0, 3], []),
        ("STRING * FROM LIST words", [2], [b"one", b"two"]),
        ("FLOAT * FROM STREAM s FIELD a", [3], [1, 3, 5]),
        ("FLOAT 2 FROM STREAM s FIELD a", [2], [3, 5]),
        ("INT32 * FROM STREAM s FIELD a COUNT 1", [1], [5]),
        ("INT32 5 FROM STREAM s FIELD b DEFAULT 7", [5], [7, 7, 2, 9, 7]),
        ("STRING * FROM STREAM s FIELD b COUNT 2 DEFAULT none", [2], [b"9", b"none"]),
        ("FLOAT 2 * FROM STRING blob", [2, 3], [0, 1, 2, 3, 4, 5]),
        ("INT32 2 FROM STRING number", [2], [0x34333231, 0x38373635]),
        ("STRING FROM STRING bytes", [], [b"\x89PNG\0\xff"]),
        ("STRING * FROM STRING number", [1], [b"12345678"]),
    ],
)  # fmt: skip
def test_elements(wire: Wire, line: str, shape: list[int], elements: list[Any]) -> None:
    assert made(wire, line) == (shape, elements)


@pytest.mark.parametrize("dtype", ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"])
def test_nan_for_what_is_missing(wire: Wire, dtype: str) -> None:
    assert ask(wire, f"AI.TENSORSET t {dtype} 2 FROM HASH h FIELDS 2 a z DEFAULT NaN") == b"OK"
    assert [float(each) for each in wire.ask("AI.TENSORGET", "t", "VALUES")] == pytest.approx([1, np.nan], nan_ok=True)


HELPS = "; DEFAULT gives a value for what is missing"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("FLOAT 2 FROM HASH h FIELDS 2 a z", f"the hash 'h' has no field 'z'{HELPS}"),
        ("FLOAT * 1 FROM HASHES 2 h none FIELDS 1 a", f"the hash 'none' has no field 'a'{HELPS}"),
        ("FLOAT 1 FROM HASHES 1 h FIELDS 1 c DEFAULT 1", "the field 'c' of the hash 'h' is no value of the type FLOAT"),
        ("INT8 * FROM HASH h FIELDS 2 a b", "the field 'b' of the hash 'h' is no value of the type INT8"),
        ("FLOAT * FROM HASH g FIELDS 1 empty", "the field 'empty' of the hash 'g' is no value of the type FLOAT"),
        ("FLOAT * FROM HASH h FIELDS 1 a DEFAULT x", "DEFAULT in FROM is no value of the type FLOAT"),
        ("INT8 * FROM HASH h FIELDS 1 a DEFAULT nan", "DEFAULT in FROM is no value of the type INT8"),
        ("FLOAT 3 FROM HASH h FIELDS 2 a b", "FROM gives 2 elements, which do not fit the shape"),
        ("FLOAT * 2 FROM HASH h FIELDS 3 a b a", "FROM gives 3 elements, which do not fit the shape"),
        ("FLOAT * 0 FROM HASH h FIELDS 1 a", "FROM gives 1 elements, which do not fit the shape"),
        (f"FLOAT {2**62} {2**62} FROM HASH h FIELDS 1 a", "FROM gives 1 elements, which do not fit the shape"),
        (f"FLOAT {2**62} * FROM HASH h FIELDS 1 a", "FROM gives 1 elements, which do not fit the shape"),
        (f"FLOAT {2**40} FROM LIST l DEFAULT 0", "FROM reads 1048576 elements at most"),
        ("FLOAT 6 FROM LIST l", f"5 elements of the list 'l' are too few for the shape{HELPS}"),
        ("FLOAT 4 FROM LIST l COUNT 3", f"3 elements of the list 'l' are too few for the shape{HELPS}"),
        ("FLOAT 4 FROM LIST l COUNT 5", "FROM gives 5 elements, which do not fit the shape"),
        ("FLOAT * FROM LIST none", f"there is no list 'none'{HELPS}"),
        ("FLOAT * FROM LIST words", "an element of the list 'words' is no value of the type FLOAT"),
        ("FLOAT * FROM STREAM s FIELD b", f"an entry of the stream 's' has no field 'b'{HELPS}"),
        ("FLOAT * FROM STREAM none FIELD b", f"there is no stream 'none'{HELPS}"),
        ("FLOAT * FROM STRING none", "there is no string 'none'"),
        ("FLOAT 3 FROM STRING blob", "FROM gives 6 elements, which do not fit the shape"),
        ("FLOAT * FROM STRING bytes", "data length does not match tensor shape and type"),
        ("BOOL * FROM STRING bytes", "BOOL tensor elements must be 0 or 1"),
        ("STRING 2 FROM STRING bytes", "FROM gives 1 elements, which do not fit the shape"),
        ("FLOAT * FROM HASH k FIELDS 1 a DEFAULT 1", WRONG_TYPE),
        ("FLOAT * FROM HASHES 2 h k FIELDS 1 a", WRONG_TYPE),
        ("FLOAT * FROM STRING k", WRONG_TYPE),
        ("FLOAT * FROM STREAM k FIELD a", WRONG_TYPE),
        ("FLOAT * FROM LIST k2", WRONG_TYPE.replace("'k'", "'k2'")),
        ("FLOAT 1 FROM", "FROM needs HASH, HASHES, STRING, LIST or STREAM"),
        ("FLOAT * FROM SET k", "FROM needs HASH, HASHES, STRING, LIST or STREAM"),
        ("FLOAT * FROM HASH", "a word is missing behind HASH in FROM"),
        ("FLOAT * FROM HASH h", "FROM needs the word FIELDS"),
        ("FLOAT * FROM HASH h FIELDS", "a word is missing behind FIELDS in FROM"),
        ("FLOAT * FROM HASH h FIELDS 0", "wrong number behind FIELDS in FROM"),
        ("FLOAT * FROM HASH h FIELDS 3 a b", "wrong number behind FIELDS in FROM"),
        (f"FLOAT * FROM HASHES {2**63 - 1} h FIELDS 1 a", "wrong number behind HASHES in FROM"),
        ("FLOAT * FROM HASHES -1 h FIELDS 1 a", "wrong number behind HASHES in FROM"),
        ("FLOAT * FROM HASH h FIELDS 1 a b", "unexpected argument behind FROM HASH: b"),
        ("FLOAT * FROM HASH h FIELDS 1 a COUNT 1", "unexpected argument behind FROM HASH: COUNT"),
        ("FLOAT * FROM HASH h FIELDS 1 a DEFAULT", "a word is missing behind DEFAULT in FROM"),
        ("FLOAT * FROM LIST l COUNT 0", "COUNT in FROM is no positive number"),
        ("FLOAT * FROM STRING blob DEFAULT 1", "unexpected argument behind FROM STRING: DEFAULT"),
        ("FLOAT * FROM STREAM s", "FROM needs the word FIELD"),
        ("FLOAT * * FROM HASH h FIELDS 1 a", "invalid or negative value found in tensor shape"),
        ("FLOAT * VALUES 1", "invalid or negative value found in tensor shape"),
        ("FLOAT *", "invalid or negative value found in tensor shape"),
    ],
)  # fmt: skip
def test_errors(wire: Wire, line: str, error: str) -> None:
    """Each names the thing; the tensor stays as it was, and a DAG does nothing."""
    wire.ask_ok("AI.TENSORSET", "t", "FLOAT", 1, "VALUES", 5)
    assert made(wire, line) == error
    assert wire.ask("AI.TENSORGET", "t", "VALUES") == [b"5"]
    reply = wire.ask("AI.DAGEXECUTE", "PERSIST", 1, "u", "|>", "AI.TENSORSET", "u", *line.split())
    assert str(reply).removeprefix("ERR ") == error
    assert wire.ask("EXISTS", "u") == 0


def test_limits(wire: Wire, server: Server) -> None:
    """Rows times columns are more than the words that name them."""
    before = server.used_memory()
    words: list[Word] = ["FROM", "HASHES", 1025, *["h"] * 1025, "FIELDS", 1024, *["a"] * 1024]
    assert wire.ask("AI.TENSORSET", "t", "FLOAT", "*", 1024, *words) == "ERR FROM reads 1048576 elements at most"
    wire.ask("HSET", "long", "a", b"x" * (16 << 20))
    reply = wire.ask("AI.TENSORSET", "t", "STRING", "*", "FROM", "HASH", "long", "FIELDS", 40, *["a"] * 40)
    assert reply == "ERR tensor size exceeds the limit of 536870912 bytes (proto-max-bulk-len)"
    assert wire.ask("DEL", "long") == 1
    wait_for(lambda: server.used_memory() < before + (4 << 20), what="nothing is held")


def test_what_has_expired_is_missing(wire: Wire) -> None:
    wire.ask("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    wire.ask("PEXPIRE", "g", 1)
    fields = program().since(redis=(7, 4), valkey=(9, 0))
    if fields:
        assert wire.ask("HPEXPIRE", "h", 1, "FIELDS", 2, "a", "c") == [1, 1]
    time.sleep(0.005)  # what the server measures too
    assert made(wire, "FLOAT * FROM HASH g FIELDS 1 a") == f"the hash 'g' has no field 'a'{HELPS}"
    wanted = [9, 2.5] if fields else [1, 2.5]
    assert made(wire, "FLOAT * FROM HASH h FIELDS 2 a b DEFAULT 9") == ([2], wanted)
    if fields:
        wire.ask("HPEXPIRE", "h", 1, "FIELDS", 2, "b", "big")
        time.sleep(0.005)
        assert made(wire, "FLOAT * FROM HASH h FIELDS 2 b a DEFAULT 9") == ([2], [9, 9])
    wire.ask("DEBUG", "SET-ACTIVE-EXPIRE", 1)


def test_many_fields_of_many_hashes(wire: Wire) -> None:
    """Fields in any order, more and fewer than are wanted, of hashes that the server stores in other ways."""
    wire.ask("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    names = [f"f{i}" for i in range(20)]
    more: list[tuple[Word, Word]]
    rng, rows, wanted = np.random.default_rng(2), 30, []
    for row in range(rows):
        numbers = {name: int(each) for name, each in zip(names, rng.integers(0, 99, 20), strict=True)}
        given = [(name, numbers[name]) for name in rng.permutation(names) if row % 3 or name != f"f{row % 20}"]
        more = [("other", 1), ("long", "x" * 100 * (row % 2)), *((f"more{i}", i) for i in range(40 * (row % 5 == 0)))]
        pairs: list[tuple[Word, Word]] = [*given, *more]
        wire.ask("HSET", f"row{row}", *[word for pair in pairs for word in pair])
        if program().since(redis=(7, 4), valkey=(9, 0)) and row % 4 == 0:
            wire.ask("HPEXPIRE", f"row{row}", 1, "FIELDS", 1, "f3")
            numbers["f3"] = -1
        wanted.append([numbers[name] if name in dict(given) else -1 for name in names])
    time.sleep(0.005)  # what the server measures too
    rows_of: list[Word] = ["HASHES", rows + 1, *(f"row{row}" for row in range(rows)), "none"]
    for count in (20, 8, 3):
        words: list[Word] = [*rows_of, "FIELDS", count, *names[:count], "DEFAULT", -1]
        assert wire.ask("AI.TENSORSET", "t", "INT16", "*", count, "FROM", *words) == b"OK"
        found = np.frombuffer(wire.ask("AI.TENSORGET", "t", "BLOB"), "<i2").reshape(-1, count)
        assert found.tolist() == [row[:count] for row in [*wanted, [-1] * 20]]
    wire.ask("HSET", "row9", "f7", "text")
    for names_now in (names, [*names, "f7"]):
        words = [*rows_of, "FIELDS", len(names_now), *names_now, "DEFAULT", -1]
        reply = wire.ask("AI.TENSORSET", "t", "INT16", "*", len(names_now), "FROM", *words)
        assert reply == "ERR the field 'f7' of the hash 'row9' is no value of the type INT16"
    reply = wire.ask("AI.TENSORSET", "t", "STRING", "*", 20, "FROM", *rows_of, "FIELDS", 20, *names)
    assert str(reply).startswith("ERR the hash 'row0' has no field 'f")
    wire.ask("DEBUG", "SET-ACTIVE-EXPIRE", 1)


def test_large_values(wire: Wire) -> None:
    """Hashes, lists and streams of every encoding."""
    array = np.random.default_rng(1).normal(size=3000).astype(np.float32)
    texts = [repr(float(each)) for each in array]
    wire.ask("HSET", "large", *[word for i, text in enumerate(texts) for word in (f"f{i}", text)])
    wire.ask("RPUSH", "series", *texts)
    for text in texts:
        wire.send("XADD", "events", "*", "other", 1, "value", text)
    for _ in texts:
        wire.read()
    blob = np.tile(array, 300).astype("<f4").tobytes()  # stays in a string of its own
    wire.ask("SET", "blob", blob)
    for source in (
        ["HASH", "large", "FIELDS", 3000, *[f"f{i}" for i in range(3000)]],
        ["LIST", "series"],
        ["STREAM", "events", "FIELD", "value"],
    ):
        wire.ask_ok("AI.TENSORSET", "t", "FLOAT", 30, "*", "FROM", *source)
        assert wire.ask("AI.TENSORGET", "t", "BLOB") == array.tobytes(), source[0]
    wire.ask_ok("AI.TENSORSET", "t", "FLOAT", "*", "FROM", "STRING", "blob")
    wire.ask("APPEND", "blob", "more")
    assert wire.ask("AI.TENSORGET", "t", "BLOB") == blob


@pytest.mark.parametrize("name", ["AI.DAGEXECUTE", "AI.DAGEXECUTE_RO", "AI.DAGRUN", "AI.DAGRUN_RO"])
def test_in_dags(wire: Wire, name: str) -> None:
    wire.ask("HSET", "h", "BLOB", 4, "RAW", 5)
    line = f"{name} ROUTING h |> AI.TENSORSET x FLOAT * FROM HASH h FIELDS 3 BLOB RAW z DEFAULT 0 |> "
    line += "AI.TENSORSET y STRING FROM STRING bytes |> AI.TENSORGET x VALUES |> AI.TENSORGET y RAW"
    if name in ("AI.DAGRUN", "AI.DAGRUN_RO"):
        line = line.replace("ROUTING h ", "")
    wanted = [[b"4", b"5", b"0"], [b"\x89PNG\0\xff"]]
    assert ask(wire, line) == [Simple(b"OK"), Simple(b"OK"), *wanted]
    assert wire.ask("EXISTS", "x", "y") == 0


def test_in_transactions_and_lua(wire: Wire) -> None:
    wire.ask("MULTI")
    ask(wire, "HSET h a 8")
    ask(wire, "AI.TENSORSET t FLOAT * FROM HASH h FIELDS 1 a")
    assert wire.ask("EXEC") == [0, Simple(b"OK")]
    assert wire.ask("AI.TENSORGET", "t", "VALUES") == [b"8"]
    script = "return redis.call('AI.TENSORSET', KEYS[1], 'FLOAT', '*', 'FROM', 'LIST', KEYS[2])"
    assert wire.ask("EVAL", script, 2, "t", "l") == b"OK"
    assert wire.ask("AI.TENSORGET", "t", "VALUES") == [b"1", b"2", b"3", b"4", b"5"]


def test_replicas_get_the_tensor(start_server: StartServer) -> None:
    """Not the command, which would read what the replica has."""
    master, replica = start_server(*AOF, "--repl-diskless-sync-delay", "0"), start_server()
    with master.wire() as wire, replica.wire() as copy:
        follow(replica, master)
        ask(wire, "HSET h a 1 b 2")
        assert ask(wire, "AI.TENSORSET t FLOAT * FROM HASH h FIELDS 2 a b") == b"OK"
        dag = "AI.DAGEXECUTE PERSIST 1 d |> AI.TENSORSET d FLOAT * FROM HASH h FIELDS 1 b"
        assert ask(wire, dag) == [Simple(b"OK")]
        caught_up(wire)
        assert copy.ask("AI.TENSORGET", "t", "VALUES") == [b"1", b"2"]
        assert copy.ask("AI.TENSORGET", "d", "VALUES") == [b"2"]
        told = [words for words in aof_commands(master) if words[0] == b"AI.TENSORSET"]
        one, two = (np.float32(each).tobytes() for each in (1, 2))
        assert told[0][1:] == [b"t", b"FLOAT", b"2", b"BLOB", one + two]
        assert told[1][1:] == [b"d", b"FLOAT", b"1", b"BLOB", two]
        dag = "AI.DAGEXECUTE_RO ROUTING h |> AI.TENSORSET x FLOAT * FROM HASH h FIELDS 1 a |> AI.TENSORGET x VALUES"
        assert ask(copy, dag) == [Simple(b"OK"), [b"1"]]


def test_rights(wire: Wire, login: Login) -> None:
    user = login("+@all", "%R~h", "%R~l", "%W~t")
    set_t = "AI.TENSORSET t FLOAT * FROM"
    assert ask(user, f"{set_t} HASH h FIELDS 1 a") == b"OK"
    assert ask(user, f"{set_t} LIST l") == b"OK"
    dag = "AI.DAGEXECUTE PERSIST 1 t |> AI.TENSORSET t FLOAT * FROM"
    assert ask(user, f"{dag} HASHES 2 h h FIELDS 1 a") == [Simple(b"OK")]
    for source in ("HASH t FIELDS 1 a", "HASHES 2 h g FIELDS 1 a", "STRING blob", "STREAM s FIELD a"):
        for line in (f"{set_t} {source}", f"{dag} {source}"):
            assert str(ask(user, line)).startswith("NOPERM "), line
    assert str(ask(user, "AI.TENSORSET h FLOAT * FROM LIST l")).startswith("NOPERM ")


def test_scripts_cannot_read_keys_that_are_not_declared(wire: Wire) -> None:
    scripts.store_redis(wire, "run", key="script")
    words = scripts.execute("script", "run", ["t"], (), ["AI.TENSORSET", "t", "FLOAT", "*", "FROM", "LIST", "l"])
    assert "the script touches a key that was not declared with KEYS" in str(wire.ask(*words))
    assert wire.ask("EXISTS", "t") == 0


def test_slots_of_a_cluster(start_server: StartServer) -> None:
    with start_server("--cluster-enabled", "yes").wire() as wire:
        assert wire.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383) == b"OK"
        wait_for(lambda: b"cluster_state:ok" in wire.ask("CLUSTER", "INFO"), 20)
        wire.ask("HSET", "h{1}", "a", 1)
        assert ask(wire, "AI.TENSORSET t{1} FLOAT * FROM HASH h{1} FIELDS 1 a") == b"OK"
        for source in ("HASH h{2} FIELDS 1 a", "HASHES 2 h{1} h{2} FIELDS 1 a", "LIST l{2}"):
            assert ask(wire, f"AI.TENSORSET t{{1}} FLOAT * FROM {source}").startswith("CROSSSLOT ")
            dag = f"AI.DAGEXECUTE ROUTING {{1}} |> AI.TENSORSET t FLOAT * FROM {source}"
            assert ask(wire, dag).startswith("CROSSSLOT ")
