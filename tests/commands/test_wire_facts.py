"""Order of checks, exact texts and accepted forms, in the order of the page of wire facts, section by section.

A row is a command as one line and its answer. A word `<x>` stands for bytes of a model or a source. The figures of
INFO are in tests/server/test_info_modules.py, what AOFs, dumps and masters bring in tests/persistence/test_moving_over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from testkit import models, scripts, tf_models
from testkit.metadata import command_info
from testkit.server import Server, module_path
from testkit.tf_models import spec, tflite
from testkit.wire import Error, Simple, Wire, Word
from tests.conftest import SERVERS, StartServer

OK = Simple(b"OK")
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
NO_TENSOR = "ERR tensor key is empty or in a different shard"
Row = tuple[str, object]

OLD = """
def add(a, b):
    return a + b

def rest(a, more: List[Tensor]):
    return a + torch.stack(more).sum()

def constant():
    return torch.tensor([7.0])

def two(a):
    return a + 1, a * 2

def text(a):
    return "text"
"""
FUNCTIONS = ("add", "two", "number", "nothing", "text", "count")
NEW = "\n".join(scripts.function(name, scripts.FUNCTIONS[name]) for name in FUNCTIONS)
BYTES: dict[str, Word] = {
    "<onnx>": models.onnx_add(),
    "<torch>": models.torch_module(models.Add),
    "<old>": OLD,
    "<new>": NEW,
    "<nul>": b"a\0",
    "<lone>": b"\0",
    "<inner>": b"a\0b",
    "<twice>": b"a\0\0",
    "<empty>": b"",
}


def words(line: str) -> list[Word]:
    return [BYTES.get(word, word) for word in line.split()]


def arity(name: str) -> str:
    return f"ERR wrong number of arguments for '{name}' command"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("facts"), module=module_path()).start()
    with server.wire() as wire:
        BYTES["<tf>"] = tf_models.tf_mul()
        BYTES["<tflite>"] = tflite(lambda x: x * 2, spec([1, 2, 3]))
        for line in (
            "AI.MODELSTORE add ONNX CPU BLOB <onnx>",
            "AI.MODELSTORE mul TF CPU INPUTS 2 a b OUTPUTS 1 mul BLOB <tf>",
            "AI.MODELSTORE lite TFLITE CPU BLOB <tflite>",
            f"AI.SCRIPTSTORE s CPU ENTRY_POINTS {len(FUNCTIONS)} {' '.join(FUNCTIONS)} SOURCE <new>",
            "AI.SCRIPTSET old CPU SOURCE <old>",
            "AI.TENSORSET a FLOAT 1 2 VALUES 1 2",
            "AI.TENSORSET b FLOAT 1 2 VALUES 3 4",
            "AI.TENSORSET i INT32 1 2 VALUES 3 4",
            "AI.TENSORSET three FLOAT 1 3 VALUES 1 2 3",
            "SET string x",
        ):
            assert wire.ask(*words(line)) == OK, line
    yield server
    assert server.stop() == 0, server.log_tail()


@pytest.fixture
def wire(loaded: Server, request: pytest.FixtureRequest) -> Iterator[Wire]:
    request.node.stash.setdefault(SERVERS, []).append(loaded)
    with loaded.wire() as wire:
        yield wire
        assert wire.ask("PING") == b"PONG", "one reply to one command"


def check(wire: Wire, line: str, wanted: object) -> None:
    """wanted: the answer, an error that begins like it where it ends with `...`, or None for any that is no error."""
    reply = wire.ask(*words(line))
    if wanted is None:
        assert not isinstance(reply, Error), reply
    elif isinstance(wanted, str) and wanted.endswith("..."):
        assert isinstance(reply, Error) and reply.startswith(wanted[:-3]), reply
    else:
        assert (type(reply), reply) == (Error if isinstance(wanted, str) else type(wanted), wanted)


def table(name: str, rows: Sequence[Row]) -> pytest.MarkDecorator:
    """The rows of one command, whose lines begin behind its name."""
    return pytest.mark.parametrize(("line", "wanted"), [(f"{name} {line}".strip(), wanted) for line, wanted in rows])


# ---- General ---------------------------------------------------------------------------------------------------------

# Least and most words, with the command's name; None: no limit.
WORDS: dict[str, tuple[int, int | None]] = {
    "AI.TENSORSET": (4, None),
    "AI.TENSORGET": (2, 4),
    "AI.MODELSTORE": (6, None),
    "AI.MODELSET": (4, None),
    "AI.MODELGET": (2, 4),
    "AI.SCRIPTGET": (2, 4),
    "AI.MODELDEL": (2, 2),
    "AI.SCRIPTDEL": (2, 2),
    "AI.MODELEXECUTE": (7, None),  # there are models without inputs
    "AI.MODELRUN": (6, None),
    "AI.SCRIPTSTORE": (8, None),
    "AI.SCRIPTSET": (5, 7),
    "AI.SCRIPTEXECUTE": (3, None),
    "AI.SCRIPTRUN": (3, None),
    "AI.DAGRUN": (4, None),
    "AI.DAGRUN_RO": (4, None),
}


@pytest.mark.parametrize("name", WORDS)
def test_number_of_words(wire: Wire, name: str) -> None:
    """Wrong numbers are told before the key is looked at, which has another type."""
    least, most = WORDS[name]
    for count in {least - 1, 1, *([most + 1] if most else []), *([6] if name == "AI.SCRIPTSET" else [])}:
        assert wire.ask(name, *["string"] * (count - 1)) == arity(name), count
    for count in {least, most or least}:
        assert wire.ask(name, *["string"] * (count - 1)) != arity(name), count


@pytest.mark.parametrize("name", WORDS)
def test_announced_arity(wire: Wire, name: str) -> None:
    least, most = WORDS[name]
    assert command_info(wire, name)[1] == (least if least == most else -least)


IN_DAGS = ("AI.TENSORGET", "AI.TENSORSET", "AI.MODELEXECUTE", "AI.SCRIPTEXECUTE")
IN_OLD_DAGS = ("AI.TENSORGET", "AI.TENSORSET", "AI.MODELRUN", "AI.SCRIPTRUN")


@pytest.mark.parametrize(
    ("dag", "name"),
    [("AI.DAGEXECUTE", name) for name in IN_DAGS] + [("AI.DAGRUN", name) for name in IN_OLD_DAGS],
)
def test_number_of_words_in_a_dag(wire: Wire, dag: str, name: str) -> None:
    least, most = WORDS[name]
    for count in (least - 1, *([most + 1] if most else [])):
        assert wire.ask(dag, "LOAD", 1, "a", "|>", name, *["a"] * (count - 1)) == arity(name)


def test_a_librarys_message_keeps_all_but_its_line_breaks(wire: Wire) -> None:
    reply = wire.ask("AI.MODELEXECUTE", "add", "INPUTS", 2, "a", "three", "OUTPUTS", 1, "y")
    assert isinstance(reply, Error) and "\n" not in reply
    fixed = models.onnx_add((1, 2))
    assert wire.ask("AI.MODELSTORE", "fixed", "ONNX", "CPU", "BLOB", fixed) == OK
    reply = wire.ask("AI.MODELEXECUTE", "fixed", "INPUTS", 2, "a", "three", "OUTPUTS", 1, "y")
    assert "for the following indices  index: 1 Got: 3 Expected: 2  Please fix" in reply


# ---- TENSORSET, TENSORGET --------------------------------------------------------------------------------------------

NUL_INSIDE = "ERR C-string value contains null character"


@table(
    "AI.TENSORSET",
    [
        ("t STRING 1 VALUES a", OK),
        ("t STRING 1 VALUES <nul>", OK),
        ("t STRING 1 VALUES <lone>", OK),
        ("t STRING 1 VALUES <inner>", NUL_INSIDE),
        ("t STRING 1 VALUES <twice>", NUL_INSIDE),
    ],
)
def test_strings(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


@pytest.mark.parametrize(("value", "blob"), [(b"a", b"a\0"), (b"a\0", b"a\0"), (b"\0", b"\0"), (b"", b"\0")])
def test_a_final_nul_ends_a_string(wire: Wire, value: bytes, blob: bytes) -> None:
    assert wire.ask("AI.TENSORSET", "t", "STRING", 2, "VALUES", value, "z") == OK
    assert wire.ask("AI.TENSORGET", "t", "BLOB") == blob + b"z\0"
    dag = wire.ask(
        "AI.DAGRUN", "|>", "AI.TENSORSET", "t", "STRING", 1, "VALUES", value, "|>", "AI.TENSORGET", "t", "BLOB"
    )
    assert dag == [OK, blob]


@table(
    "AI.TENSORGET",
    [
        ("missing META BLOB VALUES", arity("AI.TENSORGET")),
        ("a BLOB VALUES META", arity("AI.TENSORGET")),
        ("missing FOO", NO_TENSOR),
        ("string FOO", WRONGTYPE),
        ("a FOO", "ERR unsupported data format"),
        ("a BLOB FOO", "ERR unsupported data format"),
        ("a BLOB VALUES", "ERR both BLOB and VALUES specified"),
    ],
)
def test_tensorget(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


# ---- MODELSTORE ------------------------------------------------------------------------------------------------------

NO_BLOB = "ERR Insufficient arguments, missing model BLOB"
EXPECTED_BLOB = "ERR Invalid argument, expected BLOB"
INVALID_DEVICE = "ERR Invalid DEVICE"
UNSUPPORTED_DEVICE = "ERR unsupported device"


def number(word: str) -> str:
    return f"ERR Invalid argument for {word}"


def without(word: str, needed: str) -> str:
    return f"ERR {word} specified without {needed}"


MINIMUM = without("MINBATCHSIZE", "BATCHSIZE")
WAIT = without("MINBATCHTIMEOUT", "MINBATCHSIZE")


@table(
    "AI.MODELSTORE",
    [
        # our order: words, the key's type, then the grammar
        ("string FOO CPU BLOB b", WRONGTYPE),
        ("m FOO XPU BLOB b", "ERR unsupported backend"),
        ("m ONNX XPU BATCHSIZE x", INVALID_DEVICE),
        ("m ONNX CPU: BLOB <onnx>", INVALID_DEVICE),
        ("m ONNX CPU:abc BLOB <onnx>", INVALID_DEVICE),
        # each option: its value first, then its condition
        ("m ONNX CPU TAG t BATCHSIZE", number("BATCHSIZE")),
        ("m ONNX CPU BATCHSIZE x BLOB <onnx>", number("BATCHSIZE")),
        ("m ONNX CPU BATCHSIZE -1 BLOB <onnx>", number("BATCHSIZE")),
        ("m ONNX CPU BATCHSIZE 1.5 BLOB <onnx>", number("BATCHSIZE")),
        ("m ONNX CPU MINBATCHSIZE x BLOB <onnx>", number("MINBATCHSIZE")),
        ("m ONNX CPU BATCHSIZE 2 MINBATCHSIZE", number("MINBATCHSIZE")),
        ("m ONNX CPU MINBATCHTIMEOUT x BLOB <onnx>", number("MINBATCHTIMEOUT")),
        ("m ONNX CPU TAG t MINBATCHTIMEOUT", number("MINBATCHTIMEOUT")),
        ("m ONNX CPU MINBATCHSIZE 2 BLOB <onnx>", MINIMUM),
        ("m ONNX CPU BATCHSIZE 0 MINBATCHSIZE 2 BLOB <onnx>", MINIMUM),
        ("m ONNX CPU BATCHSIZE 2 MINBATCHTIMEOUT 2 BLOB <onnx>", WAIT),
        ("m ONNX CPU BATCHSIZE 2 MINBATCHSIZE 0 MINBATCHTIMEOUT 2 BLOB <onnx>", WAIT),
        ("m ONNX CPU MINBATCHTIMEOUT 2 BLOB <onnx>", WAIT),
        ("m ONNX CPU MINBATCHSIZE 0 BLOB <onnx>", OK),
        ("m ONNX CPU MINBATCHTIMEOUT 0 BLOB <onnx>", OK),
        ("m ONNX CPU BATCHSIZE 0 MINBATCHSIZE 0 MINBATCHTIMEOUT 0 BLOB <onnx>", OK),
        ("m ONNX CPU BATCHSIZE 2.0 MINBATCHSIZE 2.0 BLOB <onnx>", OK),
        # ours: in any order
        ("m ONNX CPU BATCHSIZE 2 TAG t BLOB <onnx>", OK),
        # nothing left behind the options
        ("m ONNX CPU TAG t", NO_BLOB),
        ("m TF CPU TAG t", NO_BLOB),
        ("m TF CPU BATCHSIZE 2", NO_BLOB),
        # TF
        ("m TF CPU BLOB <tf>", "ERR INPUTS not specified for TF"),
        ("m TF CPU FOO bar", "ERR INPUTS not specified for TF"),
        ("m TF CPU OUTPUTS 1 mul INPUTS 2 a b BLOB <tf>", "ERR INPUTS not specified for TF"),
        ("m TF CPU TAG t INPUTS", "ERR Invalid argument for input_count"),
        ("m TF CPU INPUTS x a", "ERR Invalid argument for input_count"),
        ("m TF CPU INPUTS 0 BLOB", "ERR Invalid argument for input_count"),
        ("m TF CPU INPUTS 3 a b", "ERR number of model inputs does not match the number of given arguments"),
        ("m TF CPU INPUTS 1 a", "ERR OUTPUTS not specified for TF"),
        ("m TF CPU INPUTS 1 a BLOB <tf>", "ERR OUTPUTS not specified for TF"),
        ("m TF CPU INPUTS 1 a OUTPUTS", "ERR Invalid argument for output_count"),
        ("m TF CPU INPUTS 1 a OUTPUTS x b", "ERR Invalid argument for output_count"),
        ("m TF CPU INPUTS 1 a OUTPUTS 0 BLOB <tf>", "ERR Invalid argument for output_count"),
        ("m TF CPU INPUTS 1 a OUTPUTS 2 b", "ERR number of model outputs does not match the number of given arguments"),
        ("m TF CPU INPUTS 1 a OUTPUTS 1 b", EXPECTED_BLOB),
        ("m TF CPU INPUTS 1 a OUTPUTS 1 b FOO <tf>", EXPECTED_BLOB),
        ("m TF CPU INPUTS 1 a OUTPUTS 1 b BLOB", NO_BLOB),
        # others
        ("m ONNX CPU INPUTS 1 a BLOB <onnx>", "ERR INPUTS argument should not be specified for this backend"),
        ("m ONNX CPU OUTPUTS 1 a BLOB <onnx>", "ERR OUTPUTS argument should not be specified for this backend"),
        ("m ONNX CPU FOO <onnx>", EXPECTED_BLOB),
        ("m ONNX CPU TAG t BLOB", NO_BLOB),
    ],
)
def test_modelstore(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


# ---- MODELSET --------------------------------------------------------------------------------------------------------

AUTO_BATCHING = "ERR Auto-batching not supported by the TFLITE backend"


@table(
    "AI.MODELSET",
    [
        ("m FOO XPU", "ERR unsupported backend"),
        *[(f"m ONNX {word} <onnx>", INVALID_DEVICE) for word in ("BLOB", "TAG", "INPUTS", "outputs", "BATCHSIZE")],
        ("m ONNX CPU:1234567 BLOB <onnx>", INVALID_DEVICE),
        ("m ONNX MINBATCHSIZE BLOB <onnx>", INVALID_DEVICE),
        ("m ONNX XPU BLOB <onnx>", UNSUPPORTED_DEVICE),
        ("m ONNX GPUX BLOB <onnx>", UNSUPPORTED_DEVICE),
        ("m ONNX <empty> BLOB <onnx>", UNSUPPORTED_DEVICE),
        ("m ONNX CPU:123456 BLOB <onnx>", OK),
        ("m ONNX CPU:abc BLOB <onnx>", OK),
        ("m ONNX cpux BLOB <onnx>", OK),
        ("m TFLITE CPU BATCHSIZE 2 BLOB <tflite>", AUTO_BATCHING),
        ("m TFLITE CPU BATCHSIZE 0 BLOB <tflite>", AUTO_BATCHING),
        ("m TFLITE CPU BATCHSIZE", AUTO_BATCHING),
        ("m ONNX CPU BATCHSIZE", number("BATCHSIZE")),
        ("m ONNX CPU BATCHSIZE x BLOB <onnx>", number("BATCHSIZE")),
        # condition first, then value
        ("m ONNX CPU MINBATCHSIZE x BLOB <onnx>", MINIMUM),
        ("m ONNX CPU MINBATCHSIZE 0 BLOB <onnx>", MINIMUM),
        ("m ONNX CPU MINBATCHTIMEOUT x BLOB <onnx>", without("MINBATCHTIMEOUT", "BATCHSIZE")),
        ("m ONNX CPU BATCHSIZE 2 MINBATCHTIMEOUT x BLOB <onnx>", WAIT),
        ("m ONNX CPU BATCHSIZE 2 MINBATCHSIZE x BLOB <onnx>", number("MINBATCHSIZE")),
        ("m ONNX CPU BATCHSIZE 2 MINBATCHSIZE 2 MINBATCHTIMEOUT x BLOB <onnx>", number("MINBATCHTIMEOUT")),
        # no words left
        ("m ONNX CPU", NO_BLOB),
        ("m TF CPU", NO_BLOB),
        ("m TF CPU TAG t", NO_BLOB),
        # TF: the middle
        ("m TF CPU BLOB <tf>", "ERR Insufficient arguments, INPUTS and OUTPUTS not specified"),
        ("m TF CPU BLOB", "ERR Insufficient arguments, INPUTS and OUTPUTS not specified"),
        ("m TF CPU FOO INPUTS a OUTPUTS b BLOB <tf>", "ERR INPUTS not specified"),
        ("m TF CPU OUTPUTS b INPUTS a BLOB <tf>", "ERR INPUTS not specified"),
        ("m TF CPU INPUTS a BLOB <tf>", "ERR OUTPUTS not specified"),
        ("m TF CPU INPUTS a b", "ERR OUTPUTS not specified"),
        ("m TF CPU INPUTS a b OUTPUTS mul BLOB <tf>", OK),
        ("m TF CPU INPUTS a b OUTPUTS mul OUTPUTS BLOB <tf>", 'ERR Output node named "OUTPUTS" not found in TF graph'),
        ("m TF CPU INPUTS OUTPUTS x BLOB <tf>", 'ERR Output node named "x" not found in TF graph'),
        # others: the middle is ignored
        ("m ONNX CPU INPUTS a b OUTPUTS c BLOB <onnx>", OK),
        ("m TORCH CPU anything at all BLOB <torch>", OK),
        ("m TFLITE CPU OUTPUTS INPUTS 1 BLOB <tflite>", OK),
        # no BLOB, or nothing behind it
        ("m ONNX CPU FOO b", NO_BLOB),
        ("m ONNX CPU BLOB", NO_BLOB),
        ("m ONNX CPU TAG", NO_BLOB),
        ("m TF CPU INPUTS a OUTPUTS b", NO_BLOB),
        ("m TF CPU INPUTS a OUTPUTS b BLOB", NO_BLOB),
    ],
)
def test_modelset(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


@pytest.mark.parametrize("device", ["CPU:abc", "cpux", "CPU:123456"])
def test_what_begins_with_cpu_is_the_cpu(wire: Wire, device: str) -> None:
    assert wire.ask("AI.MODELSET", "odd", "ONNX", device, "BLOB", BYTES["<onnx>"]) == OK
    assert wire.ask("AI.MODELGET", "odd", "META")[3] == device.encode()
    check(wire, "AI.MODELEXECUTE odd INPUTS 2 a b OUTPUTS 1 y", OK)
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"4", b"6"]


# ---- MODELEXECUTE ----------------------------------------------------------------------------------------------------


def mismatch(section: str) -> str:
    return f"ERR Number of keys given as {section} here does not match model definition"


def keys(noun: str) -> str:
    return f"ERR number of {noun} keys to AI.MODELEXECUTE command does not match the number of given arguments"


EXECUTE: list[Row] = [
    ("missing FOO 1 a FOO 1 b", "ERR model key is empty"),
    ("string FOO 1 a FOO 1 b", WRONGTYPE),
    ("add FOO 1 a FOO 1 b", "ERR INPUTS not specified"),
    ("add INPUTS x a OUTPUTS 1 b", "ERR Invalid argument for input_count"),
    ("add INPUTS 0 a b OUTPUTS 1 y", "ERR Input count must be a positive integer"),
    ("add INPUTS 99 a b OUTPUTS 1 y", mismatch("INPUTS")),
    ("add INPUTS 9223372036854775807 a b c d", mismatch("INPUTS")),
    ("add INPUTS 2 a b FOO 1 y", "ERR OUTPUTS not specified"),
    ("add INPUTS 2 a b OUTPUTS x y", "ERR Invalid argument for output_count"),
    ("add INPUTS 2 a b OUTPUTS 0 y", "ERR Output count must be a positive integer"),
    ("add INPUTS 2 a b OUTPUTS 9 y", mismatch("OUTPUTS")),
    ("add INPUTS 2 a b OUTPUTS 1", keys("output")),
]


@table("AI.MODELEXECUTE", [*EXECUTE, ("add INPUTS 2 a b OUTPUTS 1 y TIMEOUT x", "ERR Invalid value for TIMEOUT"),
                           ("add INPUTS 2 a b OUTPUTS 1 y FOO", "ERR Invalid argument: FOO"),
                           ("add INPUTS 2 a missing OUTPUTS 1 y", NO_TENSOR)])  # fmt: skip
def test_modelexecute(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


@table("AI.DAGEXECUTE LOAD 2 a b |> AI.MODELEXECUTE", EXECUTE)
def test_modelexecute_in_a_dag(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


def test_too_few_inputs(wire: Wire) -> None:
    wire.ask("AI.MODELSTORE", "many", "ONNX", "CPU", "BLOB", models.onnx_many_inputs(10))
    check(wire, "AI.MODELEXECUTE many INPUTS 10 a b a b", keys("input"))


WITHIN = "ERR TIMEOUT not allowed within a DAG command"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("EXECUTE |> AI.MODELEXECUTE add INPUTS 2 a b OUTPUTS 1 y TIMEOUT", "ERR No value provided for TIMEOUT"),
        ("EXECUTE |> AI.MODELEXECUTE add INPUTS 2 a b OUTPUTS 1 y TIMEOUT x", "ERR Invalid value for TIMEOUT"),
        ("EXECUTE |> AI.MODELEXECUTE add INPUTS 2 a b OUTPUTS 1 y TIMEOUT 9 x", "ERR Invalid argument: x"),
        ("EXECUTE |> AI.MODELEXECUTE add INPUTS 2 a b OUTPUTS 1 y TIMEOUT 9", WITHIN),
        ("RUN |> AI.MODELRUN add TIMEOUT x INPUTS a b OUTPUTS y", "ERR Invalid value for TIMEOUT"),
        ("RUN |> AI.MODELRUN add TIMEOUT 9 FOO a b y", "ERR INPUTS not specified"),
        ("RUN |> AI.MODELRUN add TIMEOUT 9 INPUTS a OUTPUTS y", mismatch("INPUTS")),
        ("RUN |> AI.MODELRUN add TIMEOUT 9 INPUTS a b OUTPUTS y", WITHIN),
        ("RUN |> AI.SCRIPTRUN old add TIMEOUT 9 FOO", "ERR Unrecongnized parameter to SCRIPTRUN"),
        ("RUN |> AI.SCRIPTRUN old add TIMEOUT 9 INPUTS a b OUTPUTS y", WITHIN),
        ("EXECUTE |> AI.SCRIPTEXECUTE s add TIMEOUT 9 x", "ERR Encountered problem parsing AI.SCRIPTEXECUTE"),
        ("EXECUTE |> AI.SCRIPTEXECUTE s add INPUTS 2 a b OUTPUTS 1 y TIMEOUT x", "ERR Invalid value for TIMEOUT"),
        ("EXECUTE |> AI.SCRIPTEXECUTE s add INPUTS 2 a b OUTPUTS 1 y TIMEOUT 9", WITHIN),
    ],
)
def test_timeout_within_a_dag(wire: Wire, line: str, wanted: object) -> None:
    check(wire, f"AI.DAG{line.replace(' |>', ' LOAD 2 a b |>')}", wanted)


# ---- MODELRUN --------------------------------------------------------------------------------------------------------

RUN: list[Row] = [
    ("missing FOO a OUTPUTS b", "ERR model key is empty"),
    ("add FOO a b c", "ERR INPUTS not specified"),
    ("add INPUTS a OUTPUTS y", mismatch("INPUTS")),
    ("add INPUTS a b a OUTPUTS y", mismatch("INPUTS")),
    ("add INPUTS a b a", mismatch("INPUTS")),
    ("add INPUTS a b OUTPUTS y z", mismatch("OUTPUTS")),
    ("add INPUTS a b OUTPUTS y OUTPUTS", mismatch("OUTPUTS")),
    ("add INPUTS a b OUTPUTS", mismatch("OUTPUTS")),
]


@table("AI.MODELRUN", [*RUN, ("add TIMEOUT 9000 INPUTS a b", mismatch("OUTPUTS")),
                       ("add TIMEOUT 9000 FOO a", "ERR INPUTS not specified"),
                       ("add TIMEOUT x INPUTS a b", "ERR Invalid value for TIMEOUT"),
                       ("add INPUTS a b OUTPUTS y", OK)])  # fmt: skip
def test_modelrun(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


@table("AI.DAGRUN LOAD 2 a b |> AI.MODELRUN", RUN)
def test_modelrun_in_a_dag(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


# ---- SCRIPTSTORE, SCRIPTSET ------------------------------------------------------------------------------------------

NO_ENTRY_POINTS = "ERR Insufficient arguments, missing script entry points"
NO_NUMBER = "ERR Non numeric entry points number provided to AI.SCRIPTSTORE command"
NO_SOURCE = "ERR Insufficient arguments, missing script SOURCE"


@table(
    "AI.SCRIPTSTORE",
    [
        ("string XPU ENTRY_POINTS 1 add SOURCE <new>", WRONGTYPE),
        ("n XPU ENTRY_POINTS 1 add SOURCE <new>", UNSUPPORTED_DEVICE),
        ("n GPUX ENTRY_POINTS 1 add SOURCE <new>", UNSUPPORTED_DEVICE),
        ("n CPU SOURCE <new> x x x", NO_ENTRY_POINTS),
        ("n CPU TAG t SOURCE <new> x", NO_ENTRY_POINTS),
        ("n CPU ENTRY_POINTS x add SOURCE <new>", NO_NUMBER),
        ("n CPU ENTRY_POINTS -1 add SOURCE <new>", NO_NUMBER),
        ("n CPU ENTRY_POINTS 9 add SOURCE <new>", NO_ENTRY_POINTS),
        ("n CPU ENTRY_POINTS 4 add SOURCE <new>", NO_ENTRY_POINTS),
        ("n CPU ENTRY_POINTS 3 add SOURCE <new>", NO_SOURCE),
        ("n CPU ENTRY_POINTS 2 add two <new>", NO_SOURCE),
        ("n CPU ENTRY_POINTS 2 add two SOURCE", NO_SOURCE),
        ("n CPU ENTRY_POINTS 1 missing SOURCE <new>", "ERR Function missing does not exist in the given script."),
        ("n CPU ENTRY_POINTS 1 add SOURCE <new> behind it", OK),
        ("n CPU ENTRY_POINTS 1.0 add SOURCE <new>", OK),
        ("n CPU TAG t ENTRY_POINTS 0 SOURCE <new>", OK),
        ("n CPU:abc ENTRY_POINTS 1 add SOURCE <new>", OK),
        ("n cpu_of_any_length_at_all ENTRY_POINTS 1 add SOURCE <new>", OK),
    ],
)
def test_scriptstore(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


@table(
    "AI.SCRIPTSET",
    [
        ("n XPU SOURCE <old>", UNSUPPORTED_DEVICE),
        ("n CPU SOURCE <old> x", arity("AI.SCRIPTSET")),
        ("n CPU TAG t", NO_SOURCE),
        ("n CPU FOO <old>", NO_SOURCE),
        ("n CPU TAG t FOO <old>", NO_SOURCE),
        ("n CPU SOURCE <old>", OK),
        ("n CPU TAG t SOURCE <old>", OK),
        ("n CPU SOURCE <old> behind it", OK),
        ("n CPUx SOURCE <old>", OK),
    ],
)
def test_scriptset(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


# ---- SCRIPTEXECUTE ---------------------------------------------------------------------------------------------------

NOT_FIRST = "ERR KEYS or INPUTS scope must be provided first for AI.SCRIPTEXECUTE command"
UNEXPECTED = "ERR Invalid AI.SCRIPTEXECUTE command. Unexpected argument: "
NO_KEYS = "ERR Missing arguments after KEYS keyword"
KEYS_NUMBER = "ERR Invalid or negative value found in number of KEYS"
KEYS_MISMATCH = "ERR Number of pre declared KEYS to be used in the command does not match the number of given arguments"
ARGS_NUMBER = "ERR Invalid argument for keys count in AI.SCRIPTEXECUTE"
KEYS: list[Row] = [
    ("s add KEYS", NO_KEYS),
    ("s add KEYS 1", NO_KEYS),
    ("s add KEYS x", NO_KEYS),
    ("s add INPUTS 2 a b OUTPUTS 1 y KEYS 1", NO_KEYS),
    ("s add KEYS x k", KEYS_NUMBER),
    ("s add KEYS 0 INPUTS 2 a b", KEYS_NUMBER),
    ("s add KEYS -1 k", KEYS_NUMBER),
    ("s add KEYS 2 k", KEYS_MISMATCH),
    ("s add INPUTS 2 a b ARGS x y", ARGS_NUMBER),
    ("s add INPUTS 2 a b ARGS 2 y", "ERR number of args to AI.SCRIPTEXECUTE command does not match the number of given "
     "arguments"),
]  # fmt: skip


@table("AI.SCRIPTEXECUTE", [*KEYS, ("s add", NOT_FIRST), ("s add ARGS 1 x INPUTS 2 a b", NOT_FIRST),
                            ("s INPUTS 2 a b", NOT_FIRST), ("missing add FOO", "ERR script key is empty")])  # fmt: skip
def test_scriptexecute(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


@table("AI.DAGEXECUTE LOAD 2 a b |> AI.SCRIPTEXECUTE", [*KEYS, ("s INPUTS 1 a", UNEXPECTED + "1")])
def test_scriptexecute_in_a_dag(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


@table(
    "AI.DAGEXECUTE LOAD 2 a b |> AI.SCRIPTEXECUTE",
    [
        ("s count", [OK]),
        ("s count ARGS 1 x", [OK]),
        ("s count ARGS 2 x y OUTPUTS 1 y |> AI.TENSORGET y VALUES", [OK, [0, 0, 2]]),
        ("s count OUTPUTS 1 y |> AI.TENSORGET y VALUES", [OK, [0, 0, 0]]),
        ("s count OUTPUTS 1 y INPUTS 2 a b |> AI.TENSORGET y VALUES", [OK, [2, 0, 0]]),
    ],
)
def test_sections_in_a_dag(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("AI.SCRIPTEXECUTE s two INPUTS 1 a", OK),
        ("AI.SCRIPTEXECUTE s two INPUTS 1 a OUTPUTS 0", OK),
        ("AI.SCRIPTEXECUTE s number INPUTS 1 a", OK),
        ("AI.SCRIPTEXECUTE s text INPUTS 1 a ARGS 1 x", OK),
        ("AI.SCRIPTEXECUTE s nothing INPUTS 1 a", OK),
        ("AI.SCRIPTRUN old two INPUTS a", OK),
        ("AI.SCRIPTRUN old two INPUTS a OUTPUTS", OK),
        ("AI.SCRIPTRUN old text INPUTS a", OK),
        ("AI.SCRIPTEXECUTE s two INPUTS 1 a OUTPUTS 1 y", "ERR Function returned unexpected number of outputs - two"),
        ("AI.SCRIPTRUN old two INPUTS a OUTPUTS y", "ERR Function returned unexpected number of outputs - two"),
    ],
)
def test_what_a_function_returns(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


# ---- SCRIPTRUN -------------------------------------------------------------------------------------------------------

UNRECOGNISED = "ERR Unrecongnized parameter to SCRIPTRUN"
TOO_FEW = "ERR Wrong number of inputs provided to function: "
SCRIPTRUN: list[Row] = [
    ("old INPUTS a b OUTPUTS y", UNRECOGNISED),
    ("old add FOO", UNRECOGNISED),
    ("old add INPUTS a b INPUTS a b OUTPUTS y", "ERR Already encountered an INPUTS keyword in SCRIPTRUN"),
    ("old add INPUTS a b OUTPUTS y INPUTS a b", "ERR Already encountered an INPUTS section in SCRIPTRUN"),
    ("old add OUTPUTS y INPUTS a b", "ERR Already encountered an INPUTS section in SCRIPTRUN"),
    ("old add INPUTS a b OUTPUTS y OUTPUTS z", "ERR Already encountered an OUTPUTS keyword in SCRIPTRUN"),
    ("old rest INPUTS a $ b $", "ERR Already encountered a variable size list of tensors"),
    ("old rest $ INPUTS a b", "ERR Encountered a variable size list of tensors outside of input section"),
    ("old rest INPUTS a b OUTPUTS y $", "ERR Encountered a variable size list of tensors outside of input section"),
]


@table(
    "AI.SCRIPTRUN",
    [
        *SCRIPTRUN,
        ("old constant", OK),
        ("old constant OUTPUTS y", OK),
        ("old add TIMEOUT 9000 INPUTS a b OUTPUTS y", OK),
        ("old add INPUTS a TIMEOUT 9000 b OUTPUTS y", OK),
        ("old two INPUTS a OUTPUTS y TIMEOUT 9000 z", OK),
        ("old add INPUTS a", TOO_FEW + "add"),
        ("old rest INPUTS $", TOO_FEW + "rest"),
        # ours: surplus inputs are refused
        ("old add INPUTS a b a OUTPUTS y", TOO_FEW + "add(Tensor, Tensor) was given 3"),
    ],
)
def test_scriptrun(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


@table("AI.DAGRUN LOAD 2 a b |> AI.SCRIPTRUN", SCRIPTRUN)
def test_scriptrun_in_a_dag(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


@pytest.mark.parametrize(
    "inputs", ["a b", "$ a b", "a $ b", "a b $", "TIMEOUT 9000 a b", "a TIMEOUT 9000 b", "a $ TIMEOUT 9000 b"]
)
def test_dollar_and_timeout_change_no_inputs(wire: Wire, inputs: str) -> None:
    check(wire, f"AI.SCRIPTRUN old rest INPUTS {inputs} OUTPUTS y", OK)
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"8", b"9"]
    found = wire.ask("COMMAND", "GETKEYS", *f"AI.SCRIPTRUN old rest INPUTS {inputs} OUTPUTS y".split())
    assert found == [b"old", b"a", b"b", b"y"]


def test_outputs_around_a_timeout(wire: Wire) -> None:
    check(wire, "AI.SCRIPTRUN old two INPUTS a OUTPUTS one TIMEOUT 9000 other", OK)
    assert wire.ask("AI.TENSORGET", "one", "VALUES") == [b"2", b"3"]
    assert wire.ask("AI.TENSORGET", "other", "VALUES") == [b"2", b"4"]
    assert wire.ask("EXISTS", "TIMEOUT", "9000") == 0


# ---- DAGs ------------------------------------------------------------------------------------------------------------

PIPE_LAST = "ERR Invalid DAG command. Unexpected argument:  |>"
EMPTY = "ERR DAG is empty"
UNSUPPORTED = "ERR Unsupported command within DAG"
NONE_OF_THREE = (
    "ERR AI.DAGEXECUTE and AI.DAGEXECUTE_RO commands must contain at least one out of ROUTING, LOAD, PERSIST keywords"
)
GET = "|> AI.TENSORGET a META"


def counted(what: str) -> str:
    return f"ERR number of keys to {what} does not match the number of given arguments"


def short(keyword: str) -> str:
    return f"ERR missing arguments after {keyword} keyword in DAG command"


BOTH: list[Row] = [
    # a section at its turn
    (f"LOAD 1 missing FOO {GET}", NO_TENSOR),
    (f"FOO LOAD 1 missing {GET}", "ERR Invalid DAG command. Unexpected argument:  FOO"),
    ("TIMEOUT 9000 ROUTING r LOAD", short("LOAD")),
    ("TIMEOUT 9000 ROUTING r LOAD 1", short("LOAD")),
    ("TIMEOUT 9000 ROUTING r PERSIST 1", short("PERSIST")),
    (f"LOAD x a {GET}", "ERR invalid or negative value found in number of keys to LOAD"),
    (f"LOAD 1 a PERSIST -1 a {GET}", "ERR invalid or negative value found in number of keys to PERSIST"),
    # LOAD fetches each key when it meets it
    (f"LOAD 9 a missing {GET}", NO_TENSOR),
    (f"LOAD 9 a string {GET}", WRONGTYPE),
    ("LOAD 3 a missing b", NO_TENSOR),
    ("LOAD 1 missing |> FOO", NO_TENSOR),
    ("LOAD 1 string TIMEOUT x", WRONGTYPE),
    (f"LOAD 9 a {GET}", counted("LOAD into DAG")),
    ("LOAD 9 a b c", NO_TENSOR),
    # PERSIST tells of twins before it tells of too few
    (f"PERSIST 9 z z {GET}", "ERR PERSIST keys must be unique"),
    (f"PERSIST 9 z y {GET}", counted("PERSIST after DAG execution")),
    # TIMEOUT
    (f"LOAD 1 a TIMEOUT x {GET}", "ERR Invalid value for TIMEOUT"),
    (f"LOAD 1 a TIMEOUT 0 {GET}", None),
    (f"LOAD 1 a TIMEOUT -5 {GET}", None),
    # ROUTING, for all
    (f"ROUTING r LOAD 1 a {GET}", None),
    (f"LOAD 1 a ROUTING {GET}", "ERR Missing ROUTING value"),
    # pipes
    ("LOAD 1 a TIMEOUT 9000 |>", PIPE_LAST),
    (f"LOAD 1 a {GET} |>", PIPE_LAST),
    ("LOAD 1 a |> FOO bar |>", PIPE_LAST),
    ("TIMEOUT 9000 |> FOO bar |>", PIPE_LAST),
    ("LOAD 1 a TIMEOUT 9000", EMPTY),
    (f"LOAD 1 a |> {GET}", UNSUPPORTED),
    # ops in order, then names of inputs, then those of PERSIST
    ("LOAD 1 a PERSIST 1 z |> AI.TENSORGET no |> FOO", UNSUPPORTED),
    ("LOAD 1 a PERSIST 1 z |> AI.TENSORGET no META", "ERR INPUT key cannot be found in DAG"),
    (f"LOAD 1 a PERSIST 1 z {GET}", "ERR PERSIST key cannot be found in DAG"),
]


@pytest.mark.parametrize("name", ["AI.DAGEXECUTE", "AI.DAGRUN"])
@pytest.mark.parametrize(("line", "wanted"), BOTH)
def test_dag(wire: Wire, name: str, line: str, wanted: object) -> None:
    check(wire, f"{name} {line}", wanted)


@table(
    "AI.DAGEXECUTE",
    [
        ("LOAD 1 a |>", "ERR missing arguments for 'AI.DAGEXECUTE' command"),
        ("TIMEOUT 9000 |> FOO bar", NONE_OF_THREE),
        ("TIMEOUT 9000 TIMEOUT 9000 FOO", "ERR Invalid DAG command. Unexpected argument:  TIMEOUT"),
    ],
)
def test_dagexecute(wire: Wire, line: str, wanted: object) -> None:
    check(wire, line, wanted)


def test_a_pipe_that_is_data(wire: Wire) -> None:
    reply = wire.ask("AI.DAGRUN", "|>", "AI.TENSORSET", "t", "UINT8", 2, "BLOB", "|>")
    assert reply == [OK]


def test_tf_errors_end_with_the_node(wire: Wire) -> None:
    text = wire.ask("AI.MODELEXECUTE", "mul", "INPUTS", 2, "a", "three", "OUTPUTS", 1, "y")
    assert isinstance(text, Error) and text.endswith(" \t [[{{node mul}}]]"), text
    dag = "AI.DAGEXECUTE LOAD 2 a three |> AI.MODELEXECUTE mul INPUTS 2 a three OUTPUTS 1 y"
    assert wire.ask(*dag.split()) == [text]


# ---- TFLITE ----------------------------------------------------------------------------------------------------------


def test_a_blob_that_is_no_tflite_model(loaded: Server, wire: Wire) -> None:
    for blob in (b"", b"x" * 100):
        reply = wire.ask("AI.MODELSTORE", "m", "TFLITE", "CPU", "BLOB", blob)
        assert reply == "ERR Failed to load model from buffer"
    assert "Flatbuffer" in loaded.log(), "the library's own text"


def test_tflite_inputs(wire: Wire) -> None:
    data = np.arange(6, dtype="<f4").tobytes()
    outputs = []
    for shape in ((1, 2, 3), (1, 1, 2, 3), (2, 3), (6,)):
        assert wire.ask("AI.TENSORSET", "x", "FLOAT", *shape, "BLOB", data) == OK
        check(wire, "AI.MODELEXECUTE lite INPUTS 1 x OUTPUTS 1 y", OK)
        outputs.append(wire.ask("AI.TENSORGET", "y"))
    assert outputs[1:] == outputs[:1] * 3 and outputs[0][3] == [1, 2, 3]
    assert wire.ask("AI.TENSORSET", "x", "FLOAT", 7) == OK
    check(wire, "AI.MODELEXECUTE lite INPUTS 1 x OUTPUTS 1 y", "ERR Failed to resize input tensors...")
    # ours: named with its types
    check(wire, "AI.MODELEXECUTE lite INPUTS 1 i OUTPUTS 1 y", "ERR input 'x' has type int32, expected: float32")


# ---- Batching --------------------------------------------------------------------------------------------------------


def test_a_model_of_fixed_batch(loaded: Server, wire: Wire) -> None:
    """Requests that fill it run together: each alone would fail, since the model takes 4 rows, no other number."""
    options = ["AI.MODELSTORE", "fixed", "ONNX", "CPU", "BATCHSIZE", "4", "MINBATCHSIZE", "4", "BLOB"]
    assert wire.ask(*options, models.onnx_add((4, 2))) == OK
    for turn in range(3):
        asking = [loaded.wire() for _ in range(4)]
        for client in asking:
            client.send(*f"AI.MODELEXECUTE fixed INPUTS 2 a b OUTPUTS 1 y{turn}".split())
        assert [client.read() for client in asking] == [OK] * 4
        assert wire.ask("AI.TENSORGET", f"y{turn}", "META", "VALUES")[3:] == [[1, 2], b"values", [b"4", b"6"]]
    # a request that fills it alone, after which batches go on
    wire.ask("AI.TENSORSET", "four", "FLOAT", 4, 2)
    check(wire, "AI.MODELEXECUTE fixed INPUTS 2 four four OUTPUTS 1 y", OK)


def test_a_model_of_fixed_batch_whose_first_request_fills_it(loaded: Server, wire: Wire) -> None:
    options = ["AI.MODELSTORE", "fixed", "TORCH", "CPU", "BATCHSIZE", "2", "MINBATCHSIZE", "2", "BLOB"]
    assert wire.ask(*options, models.torch_module(models.Pair)) == OK
    wire.ask("AI.TENSORSET", "full", "FLOAT", 2, 2)
    check(wire, "AI.MODELEXECUTE fixed INPUTS 1 full OUTPUTS 1 y", OK)
    with loaded.wire() as one, loaded.wire() as other:
        for client, key in ((one, "a"), (other, "b")):
            client.send(*f"AI.MODELEXECUTE fixed INPUTS 1 {key} OUTPUTS 1 y{key}".split())
        assert [one.read(), other.read()] == [OK, OK]
    assert wire.ask("AI.TENSORGET", "yb", "VALUES") == [b"6", b"8"]


# ---- Scripts ---------------------------------------------------------------------------------------------------------


def test_a_redis_command_of_too_few_words(wire: Wire) -> None:
    """Ours: Redis's own text follows, which says what is wrong."""
    scripts.store_redis(wire, "run", key="r")
    reply = wire.ask(*scripts.execute("r", "run", ["k"], (), ["GET"]))
    assert isinstance(reply, Error) and reply.startswith("ERR Redis command returned an error: ")


# ---- INFO: SLOWLOG ---------------------------------------------------------------------------------------------------


def test_slowlog_is_never_longer_than_the_wait(start_server: StartServer) -> None:
    """On one core, and with a main thread that gives way, workers run ops while the command itself goes on: that time
    counts once."""
    server = start_server()
    with server.wire() as wire:
        assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_loop()) == OK
        assert wire.ask("AI.TENSORSET", "n", "INT64", "VALUES", 2) == OK
        line = "AI.DAGEXECUTE LOAD 1 n" + " |> AI.MODELEXECUTE m INPUTS 1 n OUTPUTS 1 y" * 1000
        assert wire.ask(*line.split()) == [OK] * 1000
        core = min(os.sched_getaffinity(0))
        for thread in os.listdir(f"/proc/{server.pid}/task"):
            os.sched_setaffinity(int(thread), {core})
        os.setpriority(os.PRIO_PROCESS, server.pid, 19)
        wire.ask("CONFIG", "SET", "slowlog-log-slower-than", 0)
        wire.ask("SLOWLOG", "RESET")
        waits = [wire.timed(*line.split())[1] * 1e6 for _ in range(30)]
        told = [entry[2] for entry in wire.ask("SLOWLOG", "GET", -1) if entry[3][0] == b"AI.DAGEXECUTE"]
    assert len(told) == len(waits)
    assert not [pair for pair in zip(told, reversed(waits), strict=True) if pair[0] > pair[1]]
