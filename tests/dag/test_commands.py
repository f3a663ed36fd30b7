"""DAGs: LOAD, PERSIST, ROUTING and TIMEOUT, every op, names that are the DAG's own, what an op sees of the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from testkit import dags, models, samples
from testkit.dags import OK, Form, ask, both_forms, check, send
from testkit.scripts import values
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Wire, Word
from tests.conftest import Slow, StartServer

Values = list[object]


@pytest.fixture
def stored(wire: Wire) -> Wire:
    dags.store(wire)
    return wire


# What the DAG is, its replies, and the tensors that it leaves in the keyspace. x is 1 2, y is 3 4.
CASES: dict[str, tuple[str, list[object], dict[str, Values]]] = {
    "set and get": (
        "ROUTING r |> AI.TENSORSET t FLOAT 2 VALUES 1 2 |> AI.TENSORGET t VALUES",
        [OK, [b"1", b"2"]],
        {},
    ),
    "every format": (
        "ROUTING r |> AI.TENSORSET t INT8 1 2 VALUES 1 2 |> AI.TENSORGET t |> AI.TENSORGET t META"
        " |> AI.TENSORGET t BLOB |> AI.TENSORGET t META VALUES |> AI.TENSORGET t VALUES META"
        " |> AI.TENSORGET t BLOB META",
        [
            OK,
            [b"dtype", b"INT8", b"shape", [1, 2], b"blob", b"\1\2"],
            [b"dtype", b"INT8", b"shape", [1, 2]],
            b"\1\2",
            [b"dtype", b"INT8", b"shape", [1, 2], b"values", [1, 2]],
            [b"dtype", b"INT8", b"shape", [1, 2], b"values", [1, 2]],
            [b"dtype", b"INT8", b"shape", [1, 2], b"blob", b"\1\2"],
        ],
        {},
    ),
    "load": (
        "LOAD 2 x y |> AI.TENSORGET y VALUES |> AI.TENSORGET x VALUES",
        [[b"3", b"4"], [b"1", b"2"]],
        {},
    ),
    "load one key twice": ("LOAD 2 x x |> AI.TENSORGET x VALUES", [[b"1", b"2"]], {}),
    "run a model": (
        "LOAD 2 x y |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 z |> AI.TENSORGET z VALUES",
        [OK, [b"4", b"6"]],
        {},
    ),
    "run a script": (
        "LOAD 2 x y |> AI.SCRIPTEXECUTE old add INPUTS 2 x y OUTPUTS 1 z |> AI.TENSORGET z VALUES",
        [OK, [b"4", b"6"]],
        {},
    ),
    "persist what a model gave": (
        "LOAD 2 x y PERSIST 1 z |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 z",
        [OK],
        {"z": [b"4", b"6"]},
    ),
    "persist what a script gave": (
        "LOAD 1 x PERSIST 2 z w |> AI.SCRIPTEXECUTE old two INPUTS 1 x OUTPUTS 2 z w",
        [OK],
        {"z": [b"2", b"3"], "w": [b"2", b"4"]},
    ),
    "persist what was set": (
        "PERSIST 1 z |> AI.TENSORSET z FLOAT 1 2 VALUES 5 6",
        [OK],
        {"z": [b"5", b"6"]},
    ),
    "persist what was loaded": ("LOAD 2 x y PERSIST 1 x |> AI.TENSORGET y VALUES", [[b"3", b"4"]], {"x": [b"1", b"2"]}),
    "persist some of the outputs": (
        "LOAD 2 x y PERSIST 1 product |> AI.MODELEXECUTE both INPUTS 2 x y OUTPUTS 2 sum product",
        [OK],
        {"product": [b"3", b"8"]},
    ),
    "persist over a tensor": (
        "LOAD 2 x y PERSIST 1 y |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 y |> AI.TENSORGET y VALUES",
        [OK, [b"4", b"6"]],
        {"y": [b"4", b"6"]},
    ),
    "sections in another order": (
        "TIMEOUT 9000 ROUTING r PERSIST 1 z LOAD 2 x y |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 z",
        [OK],
        {"z": [b"4", b"6"]},
    ),
    "all sections": (
        "LOAD 2 x y PERSIST 1 z ROUTING r TIMEOUT 9000 |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 z",
        [OK],
        {"z": [b"4", b"6"]},
    ),
    "a name that a later op defines again": (
        "LOAD 2 x y PERSIST 1 x |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 x |> AI.TENSORGET x VALUES"
        " |> AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 x |> AI.TENSORGET x VALUES |> AI.TENSORGET y VALUES",
        [OK, [b"4", b"6"], OK, [b"12", b"24"], [b"3", b"4"]],
        {"x": [b"12", b"24"]},
    ),
    "a name that is set again": (
        "ROUTING r PERSIST 2 t u |> AI.TENSORSET t FLOAT 1 2 VALUES 1 2 |> AI.MODELEXECUTE add INPUTS 2 t t OUTPUTS 1 u"
        " |> AI.TENSORSET t FLOAT 1 2 VALUES 10 20 |> AI.MODELEXECUTE add INPUTS 2 t u OUTPUTS 1 v"
        " |> AI.TENSORGET u VALUES |> AI.TENSORGET t VALUES |> AI.TENSORGET v VALUES",
        [OK, OK, OK, OK, [b"2", b"4"], [b"10", b"20"], [b"12", b"24"]],
        {"t": [b"10", b"20"], "u": [b"2", b"4"]},
    ),
    "a set name that an op gives": (
        "PERSIST 1 t |> AI.TENSORSET t FLOAT 1 2 VALUES 1 2 |> AI.TENSORGET t VALUES"
        " |> AI.SCRIPTEXECUTE old add INPUTS 2 t t OUTPUTS 1 t |> AI.TENSORGET t VALUES",
        [OK, [b"1", b"2"], OK, [b"2", b"4"]],
        {"t": [b"2", b"4"]},
    ),
    "one name for two outputs of an op": (
        "LOAD 2 x y PERSIST 1 z |> AI.MODELEXECUTE both INPUTS 2 x y OUTPUTS 2 z z |> AI.TENSORGET z VALUES",
        [OK, [b"3", b"8"]],
        {"z": [b"3", b"8"]},
    ),
    "outputs are inputs of any later op": (
        "LOAD 2 x y PERSIST 1 f |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 a"
        " |> AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 b |> AI.MODELEXECUTE both INPUTS 2 a b OUTPUTS 2 c d"
        " |> AI.SCRIPTEXECUTE old add INPUTS 2 c a OUTPUTS 1 e |> AI.MODELEXECUTE add INPUTS 2 e d OUTPUTS 1 f"
        " |> AI.TENSORGET f VALUES",
        [OK, OK, OK, OK, OK, [b"23", b"68"]],
        {"f": [b"23", b"68"]},
    ),
    "devices take turns": (
        "LOAD 2 x y PERSIST 1 x |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 x"
        " |> AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 x |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 x"
        " |> AI.MODELEXECUTE mul INPUTS 2 x x OUTPUTS 1 x",
        [OK, OK, OK, OK],
        {"x": [b"225", b"784"]},
    ),
    "outputs that nobody uses": (
        "LOAD 2 x y |> AI.MODELEXECUTE both INPUTS 2 x y OUTPUTS 2 a b |> AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 c",
        [OK, OK],
        {},
    ),
    "names like words": (
        "PERSIST 2 PERSIST TIMEOUT LOAD 1 x |> AI.TENSORSET LOAD FLOAT 1 2 VALUES 7 8"
        " |> AI.MODELEXECUTE add INPUTS 2 LOAD x OUTPUTS 1 PERSIST |> AI.TENSORSET TIMEOUT INT8 1 VALUES 3"
        " |> AI.TENSORGET PERSIST VALUES |> AI.TENSORSET AI.TENSORGET INT8 1 VALUES 4"
        " |> AI.TENSORGET AI.TENSORGET VALUES",
        [OK, OK, OK, [b"8", b"10"], OK, [4]],
        {"PERSIST": [b"8", b"10"], "TIMEOUT": [3]},
    ),
    "names differ by case": (
        "ROUTING r |> AI.TENSORSET t INT8 1 VALUES 1 |> AI.TENSORSET T INT8 1 VALUES 2 |> AI.TENSORGET t VALUES",
        [OK, OK, [1]],
        {},
    ),
    "a name of a key that is not loaded": (
        "ROUTING r |> AI.TENSORSET x INT8 1 VALUES 9 |> AI.TENSORGET x VALUES",
        [OK, [9]],
        {},
    ),
    "a name of a key of another type": (
        "ROUTING r |> AI.TENSORSET add INT8 1 VALUES 9 |> AI.TENSORGET add VALUES",
        [OK, [9]],
        {},
    ),
}


@both_forms
@pytest.mark.parametrize(("line", "replies", "persisted"), CASES.values(), ids=CASES)
def test_dag(stored: Wire, form: Form, line: str, replies: list[object], persisted: dict[str, Values]) -> None:
    before = set(dags.keys(stored))
    others = {key: values(stored, key) for key in ("x", "y") if key not in persisted}
    check(ask(stored, form("AI.DAGEXECUTE " + line)), replies)
    assert set(dags.keys(stored)) == before | {key.encode() for key in persisted}
    for key, wanted in persisted.items():
        assert values(stored, key) == wanted
    for key, wanted in others.items():
        assert values(stored, key) == wanted, "only what is persisted changes"
    assert stored.ask("PING") == b"PONG", "one reply to one command"


@both_forms
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_words_in_any_case(stored: Wire, form: Form, case: Callable[[str], str]) -> None:
    """Names in capitals survive upper(), and so the keys are renamed for it."""
    for key in ("add", "old", "x", "y"):
        stored.ask("RENAME", key, case(key))
    stored.ask(
        "AI.SCRIPTSET",
        case("old"),
        "CPU",
        "SOURCE",
        "def add(a, b):\n    return a + b\ndef ADD(a, b):\n    return a + b\n",
    )
    line = (
        "AI.DAGEXECUTE LOAD 2 x y PERSIST 1 z TIMEOUT 9000 ROUTING r |> AI.MODELEXECUTE add INPUTS 2 x y OUTPUTS 1 a"
        " |> AI.TENSORSET t FLOAT 1 2 VALUES 1 1 |> AI.SCRIPTEXECUTE old add INPUTS 2 a t OUTPUTS 1 z"
        " |> AI.TENSORGET z META VALUES"
    )
    meta = [b"dtype", b"FLOAT", b"shape", [1, 2], b"values", [b"5", b"7"]]
    check(ask(stored, case(form(line))), [OK, OK, OK, meta])
    assert values(stored, case("z")) == [b"5", b"7"]


def test_keys_and_args_of_a_script(stored: Wire) -> None:
    line = (
        "AI.DAGEXECUTE LOAD 1 x |> AI.SCRIPTEXECUTE s scaled INPUTS 1 x ARGS 2 10 1 OUTPUTS 1 a"
        " |> AI.TENSORGET a VALUES |> AI.SCRIPTEXECUTE s count KEYS 1 k INPUTS 2 x a ARGS 3 1 2 3 OUTPUTS 1 b"
        " |> AI.TENSORGET b VALUES"
    )
    check(ask(stored, line), [OK, [b"11", b"21"], OK, [2, 1, 3]])


def test_a_list_of_inputs(stored: Wire) -> None:
    line = "AI.DAGRUN LOAD 2 x y |> AI.SCRIPTRUN old addn INPUTS x $ y y OUTPUTS z |> AI.TENSORGET z VALUES"
    check(ask(stored, line), [OK, [b"15", b"16"]])


def test_a_script_without_outputs(stored: Wire) -> None:
    line = "LOAD 1 x |> AI.SCRIPTEXECUTE s nothing INPUTS 1 x |> AI.TENSORGET x VALUES"
    check(ask(stored, "AI.DAGEXECUTE " + line), [OK, [b"1", b"2"]])


def test_names_are_binary(stored: Wire) -> None:
    name, other = b"\0name\r\n\xff", b"\0name\r\n\xfe"
    words: list[Word] = [
        "AI.DAGEXECUTE",
        "LOAD",
        1,
        "x",
        "PERSIST",
        1,
        name,
        "|>",
        "AI.TENSORSET",
        other,
        "FLOAT",
        1,
        2,
    ]
    words += ["VALUES", 5, 6, "|>", "AI.MODELEXECUTE", "add", "INPUTS", 2, other, "x", "OUTPUTS", 1, name]
    check(stored.ask(*words), [OK, OK])
    assert values(stored, name) == [b"6", b"8"]
    assert stored.ask("EXISTS", other, b"\0name", "name") == 0


@pytest.mark.parametrize("dtype", samples.TENSORS)
def test_every_type_goes_through(wire: Wire, dtype: str) -> None:
    """A tensor that is set, loaded and persisted is the same to the last byte."""
    tensor = samples.TENSORS[dtype]
    samples.store_tensor(wire, "loaded", tensor)
    words: list[Word] = [
        "AI.DAGEXECUTE",
        "LOAD",
        1,
        "loaded",
        "PERSIST",
        2,
        "loaded",
        "set",
        "|>",
        "AI.TENSORSET",
        "set",
    ]
    words += [
        tensor.dtype,
        *tensor.shape,
        *samples.data_words(tensor),
        "|>",
        "AI.TENSORGET",
        "loaded",
        *samples.get_words(tensor),
        "|>",
        "AI.TENSORGET",
        "set",
        *samples.get_words(tensor),
    ]
    reply = samples.tensor_reply(tensor)
    check(wire.ask(*words), [OK, reply, reply])
    for key in ("loaded", "set"):
        assert wire.ask("AI.TENSORGET", key, *samples.get_words(tensor)) == reply


@pytest.mark.parametrize(("dtype", "shape"), [("INT16", [1]), ("UINT8", [2]), ("INT8", [1, 2])])
def test_a_blob_that_looks_like_a_separator(wire: Wire, dtype: str, shape: list[Word]) -> None:
    """The word after BLOB is data, whatever it is."""
    words: list[Word] = ["|>", "AI.TENSORSET", "t", dtype, *shape, "BLOB", b"|>"]
    reply = wire.ask("AI.DAGEXECUTE", "PERSIST", 1, "t", *words, "|>", "AI.TENSORGET", "t", "BLOB")
    check(reply, [OK, b"|>"])
    assert wire.ask("AI.TENSORGET", "t", "BLOB") == b"|>"
    check(wire.ask("AI.DAGRUN", *words, *words), [OK, OK])


def test_keys_of_models_and_scripts_like_words(stored: Wire) -> None:
    for key, name in (("add", "TIMEOUT"), ("mul", "INPUTS"), ("old", "OUTPUTS")):
        stored.ask("RENAME", key, name)
    line = (
        "AI.DAGEXECUTE LOAD 2 x y |> AI.MODELEXECUTE TIMEOUT INPUTS 2 x y OUTPUTS 1 TIMEOUT"
        " |> AI.MODELEXECUTE INPUTS INPUTS 2 TIMEOUT y OUTPUTS 1 a |> AI.TENSORGET a VALUES"
        " |> AI.SCRIPTEXECUTE OUTPUTS two INPUTS 1 a OUTPUTS 2 LOAD PERSIST |> AI.TENSORGET PERSIST VALUES"
        " |> AI.SCRIPTEXECUTE s count INPUTS 1 a ARGS 2 TIMEOUT 100 OUTPUTS 1 c |> AI.TENSORGET c VALUES"
    )
    check(ask(stored, line), [OK, OK, [b"12", b"24"], OK, [b"24", b"48"], OK, [1, 0, 2]])
    line = "AI.DAGRUN LOAD 2 x y |> AI.MODELRUN TIMEOUT INPUTS x y OUTPUTS a"
    check(ask(stored, line + " |> AI.SCRIPTRUN OUTPUTS two INPUTS a OUTPUTS b c"), [OK, OK])


def test_a_large_blob(server: Server, wire: Wire) -> None:
    """It is not copied where the client's own argument can be held; and it goes when its holders go."""
    wire.ask("AI.MODELSTORE", "sum", "ONNX", "CPU", "BLOB", models.onnx_add((None, None)))
    data = np.random.default_rng(1).random((1000, 1000), np.float32)
    before = server.used_memory()
    words: tuple[Word, ...] = (
        *(
            "AI.DAGEXECUTE",
            "PERSIST",
            2,
            "t",
            "u",
            "|>",
            "AI.TENSORSET",
            "t",
            "FLOAT",
            1000,
            1000,
            "BLOB",
            data.tobytes(),
        ),
        *("|>", "AI.MODELEXECUTE", "sum", "INPUTS", 2, "t", "t", "OUTPUTS", 1, "u", "|>", "AI.TENSORGET", "u", "BLOB"),
    )
    for _ in range(3):
        check(wire.ask(*words), [OK, OK, (data + data).tobytes()])
        assert wire.ask("AI.TENSORGET", "t", "BLOB") == data.tobytes()
        assert wire.ask("AI.TENSORGET", "u", "BLOB") == (data + data).tobytes()
    assert wire.ask("DEL", "t", "u") == 2
    wait_for(lambda: server.used_memory() < before + (1 << 20), what="memory comes back")


def test_a_long_chain(stored: Wire) -> None:
    ops = "|> AI.MODELEXECUTE add INPUTS 2 t x OUTPUTS 1 t " * 200
    reply = ask(stored, f"AI.DAGEXECUTE LOAD 1 x PERSIST 1 t |> AI.TENSORSET t FLOAT 1 2 VALUES 0 0 {ops}")
    check(reply, [OK] * 201)
    assert values(stored, "t") == [b"200", b"400"]


def test_many_ops_side_by_side(stored: Wire) -> None:
    """More than one queue, more than a worker takes at once, and all of them are waited for by the last."""
    count = 300
    ops = " ".join(f"|> AI.MODELEXECUTE {('add', 'mul')[i % 2]} INPUTS 2 x y OUTPUTS 1 t{i}" for i in range(count))
    names = " ".join(f"t{i}" for i in range(count))
    total = f"|> AI.SCRIPTEXECUTE s1 total INPUTS {count} {names} OUTPUTS 1 sum |> AI.TENSORGET sum VALUES"
    reply = ask(stored, f"AI.DAGEXECUTE LOAD 2 x y {ops} {total}")
    check(reply, [*[OK] * (count + 1), [b"%d" % (count // 2 * (4 + 6 + 3 + 8))]])
    assert (dags.calls(stored, "add"), dags.calls(stored, "mul"), dags.calls(stored, "s1")) == (
        count // 2,
        count // 2,
        1,
    )


def test_thousands_of_tensors(wire: Wire) -> None:
    count = 5000
    sets = " ".join(f"|> AI.TENSORSET t{i} INT32 1 VALUES {i}" for i in range(count))
    gets = " ".join(f"|> AI.TENSORGET t{i} VALUES" for i in range(count))
    reply = ask(wire, f"AI.DAGEXECUTE ROUTING r {sets} {gets}")
    check(reply, [OK] * count + [[i] for i in range(count)])
    assert dags.keys(wire) == []


def test_databases(server: Server, stored: Wire) -> None:
    """What is loaded, run and persisted is that of the database that the client has selected."""
    with server.wire() as other:
        other.ask("SELECT", 3)
        assert dags.is_error(ask(other, "AI.DAGEXECUTE LOAD 1 x |> AI.TENSORGET x"))
        other.ask("AI.MODELSTORE", "add", "ONNX", "CPU", "BLOB", models.onnx_add())
        other.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 50, 50)
        line = "AI.DAGEXECUTE LOAD 1 x PERSIST 1 z |> AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 z"
        send(other, line)
        check(ask(stored, line), [OK])
        check(other.read(), [OK])
        assert values(other, "z") == [b"100", b"100"]
    assert values(stored, "z") == [b"2", b"4"]


def test_results_wake_those_who_watch(server: Server, stored: Wire) -> None:
    with server.wire() as watcher:
        watcher.ask("WATCH", "z")
        check(ask(stored, "AI.DAGEXECUTE LOAD 1 x PERSIST 1 z |> AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 z"), [OK])
        watcher.ask("MULTI")
        watcher.ask("PING")
        assert watcher.ask("EXEC") is None


# ---- while the world changes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["AI.MODELDEL add", "UNLINK add", "FLUSHALL", "RENAME add other"])
def test_what_it_runs_and_has_loaded_goes_meanwhile(server: Server, stored: Wire, slow: Slow, how: str) -> None:
    """It goes on with what was there when it came, also in ops that were waiting for others."""
    slow(stored, 0.3)
    line = (
        "AI.DAGEXECUTE LOAD 2 x slow:n PERSIST 1 z |> AI.MODELEXECUTE slow INPUTS 1 slow:n OUTPUTS 1 eye"
        " |> AI.SCRIPTEXECUTE s shapes INPUTS 1 eye OUTPUTS 1 eye |> AI.MODELEXECUTE add INPUTS 2 x x OUTPUTS 1 z"
        " |> AI.TENSORGET eye META"
    )
    with server.wire() as other:
        send(other, line)
        wait_for(lambda: server.blocked_clients() == 1)
        assert ask(stored, how) in (b"OK", 1)
        stored.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 100, 100)
        check(other.read(), [OK, OK, OK, [b"dtype", b"FLOAT", b"shape", [64, 64]]])
    assert values(stored, "z") == [b"2", b"4"]


@both_forms
def test_models_that_are_not_compiled_yet(start_server: StartServer, form: Form) -> None:
    """After a start the ops wait for their libraries; a second DAG, sent right after, waits as well."""
    server = start_server()
    with server.wire() as wire:
        dags.store(wire)
        assert wire.ask("SAVE") == b"OK"
    server.restart()
    line = form(
        "AI.DAGEXECUTE LOAD 2 x y |> AI.MODELEXECUTE both INPUTS 2 x y OUTPUTS 2 a b"
        " |> AI.MODELEXECUTE mul INPUTS 2 a b OUTPUTS 1 c |> AI.SCRIPTEXECUTE old add INPUTS 2 b c OUTPUTS 1 d"
        " |> AI.TENSORGET d VALUES"
    )
    with server.wire() as wire, server.wire() as other, server.wire() as leaver:
        send(other, line)
        send(leaver, line)
        leaver.abort()
        check(ask(wire, line), [OK, OK, OK, [b"15", b"56"]])
        check(other.read(), [OK, OK, OK, [b"15", b"56"]])


# ---- tensors only ----------------------------------------------------------------------------------------------------

TENSORS_ONLY = (
    "AI.DAGEXECUTE LOAD 1 x PERSIST 2 z w |> AI.TENSORSET z INT8 2 VALUES 1 2 |> AI.TENSORGET z VALUES"
    " |> AI.TENSORGET x VALUES |> AI.TENSORSET w INT8 1 VALUES 3"
)
TENSORS_ONLY_REPLY = [OK, [1, 2], [b"1", b"2"], OK]

# A call through PyDLL keeps the interpreter's lock: while it sleeps no other thread of Python gets anywhere.
HOLDS_THE_LOCK = """
import ctypes

class Session:
    inputs = outputs = None

    def run(self, inputs):
        ctypes.PyDLL(None).usleep(900_000)
        return [inputs[0] + inputs[1]]

def version():
    return "1"

def load(definition, settings):
    return Session()
"""


@both_forms
def test_tensors_only_while_the_engine_is_busy(start_server: StartServer, tmp_path: Path, form: Form) -> None:
    """Such a DAG is answered by the main thread: nothing of the engine is asked."""
    backend = tmp_path / "backends" / "redisai_onnxruntime" / "redisai_onnxruntime.py"
    backend.parent.mkdir(parents=True)
    backend.write_text(HOLDS_THE_LOCK)
    server = start_server(options=["BACKENDSPATH", str(tmp_path / "backends")])
    with server.wire() as wire, server.wire() as busy:
        assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        start = time.monotonic()
        send(busy, "AI.MODELEXECUTE m INPUTS 2 x x OUTPUTS 1 y")
        wait_for(lambda: server.blocked_clients() == 1)
        for _ in range(20):
            check(ask(wire, form(TENSORS_ONLY)), TENSORS_ONLY_REPLY)
        assert server.blocked_clients() == 1, "the run is still under way"
        assert busy.read() == b"OK"
        assert time.monotonic() - start > 0.8
        assert values(wire, "z") == [1, 2]


def test_tensors_only_where_no_backend_can_be_loaded(start_server: StartServer, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with start_server(options=["BACKENDSPATH", str(empty)]).wire() as wire:
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        check(ask(wire, TENSORS_ONLY), TENSORS_ONLY_REPLY)
        assert values(wire, "w") == [3]


def test_tensors_only_behind_a_run_of_the_same_client(server: Server, stored: Wire, slow: Slow) -> None:
    """Pipelined commands are answered in their order, whether they leave the main thread or not."""
    slow(stored, 0.1)
    run = "AI.DAGEXECUTE LOAD 1 slow:n PERSIST 1 x |> AI.MODELEXECUTE slow INPUTS 1 slow:n OUTPUTS 1 x"
    send(stored, run)
    send(stored, "AI.DAGEXECUTE LOAD 1 x |> AI.TENSORGET x META")
    stored.send("ECHO", "next")
    check(stored.read(), [OK])
    check(stored.read(), [[b"dtype", b"FLOAT", b"shape", [64, 64]]])
    assert stored.read() == b"next"


def test_a_value_that_looks_like_a_section(server: Server) -> None:
    with server.wire() as wire:
        set_words = ("AI.TENSORSET", "s", "STRING", 2, "VALUES", "BLOB", "BLOB")
        line = ("AI.DAGEXECUTE", "ROUTING", "r", "|>", *set_words, "|>", "AI.TENSORGET", "s", "VALUES")
        assert wire.ask(*line) == [b"OK", [b"BLOB", b"BLOB"]]
