"""Scripts: every error text, and the order of the checks."""

from __future__ import annotations

import re

import pytest
import torch

from testkit import scripts
from testkit.scripts import FUNCTIONS, OLD, SIGNATURE, SOURCE, execute, function, store_command, store_old, store_plain
from testkit.wire import Error, Wire, Word

DEVICE = "ERR unsupported device"
NO_SOURCE = "ERR Insufficient arguments, missing script SOURCE"
NO_ENTRY_POINTS = "ERR Insufficient arguments, missing script entry points"
NO_NUMBER = "ERR Non numeric entry points number provided to AI.SCRIPTSTORE command"

# What follows the key, and the reply. Every one of them is found before the source is looked at.
BOTH = [
    ("FOO TAG t SOURCE x", DEVICE),
    ("XPU:0 TAG t SOURCE x", DEVICE),
    ("GPU0 TAG t SOURCE x", DEVICE),
]
STORE = [
    *[(line.replace("SOURCE", "ENTRY_POINTS 1 f SOURCE"), text) for line, text in BOTH],
    ("CPU SOURCE x x x x", NO_ENTRY_POINTS),
    ("CPU TAG t SOURCE x x", NO_ENTRY_POINTS),
    ("CPU FOO 1 f SOURCE x", NO_ENTRY_POINTS),
    ("CPU ENTRY_POINTS x f SOURCE x", NO_NUMBER),
    ("CPU ENTRY_POINTS 1.5 f SOURCE x", NO_NUMBER),
    ("CPU ENTRY_POINTS f SOURCE x x", NO_NUMBER),
    ("CPU TAG t ENTRY_POINTS x f SOURCE x", NO_NUMBER),
    ("CPU ENTRY_POINTS 2 f f SOURCE", NO_SOURCE),
    ("CPU ENTRY_POINTS 1 f FOO x", NO_SOURCE),
    ("CPU ENTRY_POINTS 1 f f SOURCE x", NO_SOURCE),
    ("CPU ENTRY_POINTS 100 f SOURCE x", NO_ENTRY_POINTS),
    ("CPU ENTRY_POINTS 9223372036854775807 f SOURCE x", NO_ENTRY_POINTS),
    ("CPU TAG t ENTRY_POINTS 1 f", NO_SOURCE),
]
SET = [
    *BOTH,
    ("CPU FOO x", NO_SOURCE),
    ("CPU TAG t", NO_SOURCE),
    ("CPU TAG t FOO x", NO_SOURCE),
]


@pytest.mark.parametrize(
    ("line", "text"),
    [(f"AI.SCRIPTSTORE s {line}", text) for line, text in STORE]
    + [(f"AI.SCRIPTSET s {line}", text) for line, text in SET],
)
def test_storing(wire: Wire, line: str, text: str) -> None:
    assert wire.ask(*line.split()) == text
    assert wire.ask("EXISTS", "s") == 0
    assert wire.ask("PING") == b"PONG", "one reply to one command"


@pytest.mark.parametrize("device", ["", b"\0CPU", " CPU"])
def test_odd_devices(wire: Wire, device: Word) -> None:
    assert wire.ask("AI.SCRIPTSTORE", "s", device, "ENTRY_POINTS", 1, "f", "SOURCE", "x") == DEVICE
    assert wire.ask("AI.SCRIPTSET", "s", device, "SOURCE", "x") == DEVICE


def test_too_many_or_too_few_words(wire: Wire) -> None:
    for command in (
        "AI.SCRIPTSTORE",
        "AI.SCRIPTSET",
        "AI.SCRIPTGET",
        "AI.SCRIPTDEL",
        "AI.SCRIPTEXECUTE",
        "AI.SCRIPTRUN",
    ):
        arity = f"ERR wrong number of arguments for '{command}' command"
        assert wire.ask(command) == arity
    for words in (["AI.SCRIPTDEL", "s", "x"], ["AI._SCRIPTSCAN", "x"], ["AI.SCRIPTEXECUTE", "s"]):
        assert wire.ask(*words) == f"ERR wrong number of arguments for '{words[0]}' command"


@pytest.mark.parametrize("words", [["AI.SCRIPTGET", "s", "FOO"], ["AI.SCRIPTGET", "s", "META", "FOO"]])
def test_get_with_other_words(wire: Wire, words: list[str]) -> None:
    store_plain(wire)
    assert wire.ask(*words) == Error("ERR Invalid argument: FOO")


@pytest.mark.parametrize("line", ["AI.SCRIPTGET s", "AI.SCRIPTGET s META", "AI.SCRIPTGET s SOURCE", "AI.SCRIPTDEL s"])
def test_a_key_that_is_not_there(wire: Wire, line: str) -> None:
    assert wire.ask(*line.split()) == "ERR script key is empty"


# ---- entry points ----------------------------------------------------------------------------------------------------


def wrong_types(name: str) -> str:
    return f"ERR Wrong inputs type in function {name}. Expected signature similar to: def {name}{SIGNATURE}"


@pytest.mark.parametrize(
    ("signature", "text"),
    [
        ("()", "ERR Wrong number of inputs in function f. Expected 3 but was 0"),
        ("(a)", "ERR Wrong number of inputs in function f. Expected 3 but was 1"),
        ("(a, b)", "ERR Wrong number of inputs in function f. Expected 3 but was 2"),
        ("(tensors: List[Tensor])", "ERR Wrong number of inputs in function f. Expected 3 but was 1"),
        (
            "(tensors: List[Tensor], keys: List[str], args: List[str], more: int)",
            "ERR Wrong number of inputs in function f. Expected 3 but was 4",
        ),
        ("(a, b, c)", wrong_types("f")),
        ("(tensors, keys: List[str], args: List[str])", wrong_types("f")),
        ("(tensors: Tensor, keys: List[str], args: List[str])", wrong_types("f")),
        ("(tensors: List[Tensor], keys: List[int], args: List[str])", wrong_types("f")),
        ("(tensors: List[Tensor], keys: List[str], args: str)", wrong_types("f")),
        ("(keys: List[str], args: List[str], tensors: List[Tensor])", wrong_types("f")),
        ("(tensors: Optional[List[Tensor]], keys: List[str], args: List[str])", wrong_types("f")),
    ],
)
def test_entry_points_are_checked_when_stored(wire: Wire, signature: str, text: str) -> None:
    source = f"def f{signature}:\n    return torch.zeros(1)\n"
    assert wire.ask(*store_command("s", source, ["f"])) == text
    assert wire.ask(*store_command("s", source + function("g", "pass"), ["g", "f"])) == text
    assert wire.ask("EXISTS", "s") == 0
    assert wire.ask(*store_command("s", source + function("g", "pass"), ["g"])) == b"OK", "f may be a helper"
    assert wire.ask("AI.SCRIPTSET", "o", "CPU", "SOURCE", source) == b"OK"


def test_other_names_of_the_arguments_are_no_error(wire: Wire) -> None:
    source = "def f(a: List[Tensor], b: List[str], c: List[str]):\n    return a[0]\n"
    assert wire.ask(*store_command("s", source, ["f"])) == b"OK"


@pytest.mark.parametrize("name", ["missing", "ADD", "add ", "", "torch", "__init__", "h\u00e9", "a.b"])
def test_an_entry_point_that_is_not_there(wire: Wire, name: str) -> None:
    for names in ([name], ["add", name], [name, "add"]):
        assert (
            wire.ask(*store_command("s", SOURCE, names)) == f"ERR Function {name} does not exist in the given script."
        )
    assert wire.ask("EXISTS", "s") == 0


# ---- compile errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("this is no script", "expected"),
        ("x = 3\n", "expected"),
        ("def f(:\n    return 1\n", "expected"),
        ("def f(a):\nreturn a\n", "expected"),
        (function("f", "return missing"), "missing"),
        (function("f", "return torch.no_such_function(tensors[0])"), "no_such_function"),
        (function("f", "return tensors[0].no_such_method()"), "no_such_method"),
        (function("f", "return f(tensors, keys, args)"), "recursive"),
        (function("f", "return torch.ones(2, no_such_argument=1)"), "no_such_argument"),
        (function("f", "return g(tensors[0])") + "\ndef g(a: str):\n    return a\n", "str"),
        (function("f", "return redis.no_such_function()"), "no_such_function"),
        (function("f", "return redisAI.no_such_function()"), "no_such_function"),
    ],
)
def test_a_compile_error_is_the_compilers_on_one_line(wire: Wire, source: str, part: str) -> None:
    for words in (store_command("s", source, ["f"]), ("AI.SCRIPTSET", "s", "CPU", "SOURCE", source)):
        reply = wire.ask(*words)
        assert isinstance(reply, Error)
        assert reply.startswith("ERR ")
        assert part in reply
        assert wire.ask("EXISTS", "s") == 0
        assert wire.ask("PING") == b"PONG"


@pytest.mark.parametrize("source", ["", "\n\n", "# nothing\n"], ids=["empty", "line breaks", "comment"])
def test_a_source_without_functions(wire: Wire, source: str) -> None:
    assert wire.ask(*store_command("s", source, ["f"])) == "ERR Function f does not exist in the given script."
    assert wire.ask("EXISTS", "s") == 0


@pytest.mark.parametrize(
    "source", [b"def f(a):\n    return a\0\n", b"def f(a):\n    return a\n# \xff\xfe\n", bytes(200)]
)
def test_a_source_that_is_no_text(wire: Wire, source: bytes) -> None:
    """Kept whole, or refused; never cut short."""
    reply = wire.ask("AI.SCRIPTSET", "s", "CPU", "SOURCE", source)
    if isinstance(reply, Error):
        assert reply.startswith("ERR ")
        assert wire.ask("EXISTS", "s") == 0
    else:
        assert wire.ask("AI.SCRIPTGET", "s", "SOURCE") == source


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["GPU", "gpu", "GPU:0", "GPU:7"])
def test_no_gpu(wire: Wire, device: str) -> None:
    reply = wire.ask(*store_command("s", SOURCE, ["add"], device))
    assert reply == "ERR GPU requested but Torch couldn't find CUDA"
    assert wire.ask("EXISTS", "s") == 0


# ---- AI.SCRIPTEXECUTE and AI.SCRIPTRUN: words ------------------------------------------------------------------------

NOT_FIRST = "ERR KEYS or INPUTS scope must be provided first for AI.SCRIPTEXECUTE command"
KEYS_COUNT = "ERR Invalid argument for keys count in AI.SCRIPTEXECUTE"
INPUTS_COUNT = "ERR Invalid argument for inputs count in AI.SCRIPTEXECUTE"
OUTPUTS_COUNT = "ERR Invalid argument for outputs count in AI.SCRIPTEXECUTE"
NO_TENSOR = "ERR tensor key is empty or in a different shard"
UNEXPECTED = "ERR Invalid AI.SCRIPTEXECUTE command. Unexpected argument: "
PROBLEM = "ERR Encountered problem parsing AI.SCRIPTEXECUTE"
NO_TIMEOUT = "ERR No value provided for TIMEOUT in AI.SCRIPTEXECUTE"
BAD_TIMEOUT = "ERR Invalid value for TIMEOUT"


def mismatch(what: str) -> str:
    return f"ERR number of {what} to AI.SCRIPTEXECUTE command does not match the number of given arguments"


def twice(what: str) -> str:
    return f"ERR Already Encountered {what} scope in AI.SCRIPTEXECUTE command"


KEYS_NUMBER = "ERR Invalid or negative value found in number of KEYS"
KEYS_MISMATCH = "ERR Number of pre declared KEYS to be used in the command does not match the number of given arguments"

EXECUTE = [
    ("missing add INPUTS 1 a OUTPUTS 1 y", "ERR script key is empty"),
    ("missing add KEYS 1 a", "ERR script key is empty"),
    ("s add OUTPUTS 1 y INPUTS 2 a b", NOT_FIRST),
    ("s add ARGS 1 x INPUTS 2 a b OUTPUTS 1 y", NOT_FIRST),
    ("s add TIMEOUT 10", NOT_FIRST),
    ("s add FOO 2 a b OUTPUTS 1 y", NOT_FIRST),
    ("s add OUTPUTS 1 y", NOT_FIRST),
    ("s add INPUTS 2 a b INPUTS 2 a b OUTPUTS 1 y", twice("INPUTS")),
    ("s add INPUTS 2 a b OUTPUTS 1 y INPUTS 2 a b", twice("INPUTS")),
    ("s add KEYS 1 k KEYS 1 k OUTPUTS 1 y", twice("KEYS")),
    ("s add KEYS 1 k INPUTS 2 a b KEYS 1 k OUTPUTS 1 y", twice("KEYS")),
    ("s add INPUTS 2 a b OUTPUTS 1 y OUTPUTS 1 y", twice("OUTPUTS")),
    ("s add INPUTS 2 a b ARGS 1 x OUTPUTS 1 y ARGS 1 x", twice("ARGS")),
    ("s add inputs 2 a b args 1 x outputs 1 y args 1 x", twice("ARGS")),
    ("s add KEYS", "ERR Missing arguments after KEYS keyword"),
    ("s add INPUTS", "ERR Invalid arguments provided to AI.SCRIPTEXECUTE"),
    ("s add INPUTS 2 a b OUTPUTS", "ERR Invalid arguments provided to AI.SCRIPTEXECUTE"),
    ("s add INPUTS 2 a b ARGS", "ERR Invalid arguments provided to AI.SCRIPTEXECUTE"),
    ("s add INPUTS x a b OUTPUTS 1 y", INPUTS_COUNT),
    ("s add INPUTS 2.0 a b OUTPUTS 1 y", INPUTS_COUNT),
    ("s add INPUTS -1 a b OUTPUTS 1 y", INPUTS_COUNT),
    ("s add INPUTS 2 a b OUTPUTS x y", OUTPUTS_COUNT),
    ("s add INPUTS 2 a b OUTPUTS -1 y", OUTPUTS_COUNT),
    ("s add INPUTS 2 a b ARGS x y OUTPUTS 1 y", KEYS_COUNT),
    ("s add INPUTS 2 a b ARGS -1 y OUTPUTS 1 y", KEYS_COUNT),
    ("s add KEYS x k INPUTS 2 a b OUTPUTS 1 y", KEYS_NUMBER),
    ("s add KEYS -1 k INPUTS 2 a b OUTPUTS 1 y", KEYS_NUMBER),
    ("s add INPUTS 9 a b OUTPUTS 1 y", mismatch("inputs")),
    ("s add INPUTS 9223372036854775807 a b OUTPUTS 1 y", mismatch("inputs")),
    ("s add INPUTS 2 a b OUTPUTS 2 y", mismatch("outputs")),
    ("s add INPUTS 2 a b ARGS 2 y", mismatch("args")),
    ("s add KEYS 9 k INPUTS 2 a b", KEYS_MISMATCH),
    ("s add KEYS 9223372036854775807 k", KEYS_MISMATCH),
    ("s add INPUTS 1 a b OUTPUTS 1 y", UNEXPECTED + "b"),
    ("s add INPUTS 2 a b FOO OUTPUTS 1 y", UNEXPECTED + "FOO"),
    ("s add INPUTS 2 a b OUTPUTS 1 y foo bar", UNEXPECTED + "foo"),
    ("s add KEYS 1 k l", UNEXPECTED + "l"),
    ("s add INPUTS 2 a b OUTPUTS 1 y TIMEOUT", NO_TIMEOUT),
    ("s add INPUTS 2 a b OUTPUTS 1 y TIMEOUT x", BAD_TIMEOUT),
    ("s add INPUTS 2 a b OUTPUTS 1 y TIMEOUT -1", BAD_TIMEOUT),
    ("s add INPUTS 2 a b OUTPUTS 1 y TIMEOUT 1.5", BAD_TIMEOUT),
    ("s add INPUTS 2 a b TIMEOUT 1000 OUTPUTS 1 y", PROBLEM),
    ("s add INPUTS 2 a b OUTPUTS 1 y TIMEOUT 1000 TIMEOUT 1000", PROBLEM),
    ("s add INPUTS 2 a b OUTPUTS 1 y TIMEOUT 1000 x", PROBLEM),
    ("s add INPUTS 2 a missing OUTPUTS 1 y", NO_TENSOR),
    ("s add INPUTS 2 missing b OUTPUTS 1 y", NO_TENSOR),
    ("s missing INPUTS 2 a b OUTPUTS 1 y", "ERR Function does not exist: missing"),
    ("s helped INPUTS 2 a b OUTPUTS 1 y", "ERR Function does not exist: helped"),
    ("s ADD INPUTS 2 a b OUTPUTS 1 y", "ERR Function does not exist: ADD"),
    ("old missing INPUTS 2 a b OUTPUTS 1 y", "ERR Function does not exist: missing"),
    ("old torch INPUTS 2 a b OUTPUTS 1 y", "ERR Function does not exist: torch"),
    ("s add INPUTS 2 a b OUTPUTS 2 y z", "ERR Function returned unexpected number of outputs - add"),
    ("s two INPUTS 1 a OUTPUTS 1 y", "ERR Function returned unexpected number of outputs - two"),
    ("s two INPUTS 1 a OUTPUTS 3 y z w", "ERR Function returned unexpected number of outputs - two"),
    ("s nested INPUTS 1 a OUTPUTS 2 y z", "ERR Function returned unexpected number of outputs - nested"),
    ("s nothing INPUTS 1 a OUTPUTS 1 y", "ERR Function returned unexpected number of outputs - nothing"),
    ("old two INPUTS 1 a OUTPUTS 1 y", "ERR Function returned unexpected number of outputs - two"),
    ("s text INPUTS 1 a ARGS 1 x OUTPUTS 1 y", "ERR Function returned non-tensor values"),
    ("s number INPUTS 1 a OUTPUTS 1 y", "ERR Function returned non-tensor values"),
    ("s mixed INPUTS 1 a OUTPUTS 2 y z", "ERR Function returned non-tensor values"),
]  # fmt: skip

INPUTS_TWICE = "ERR Already encountered an INPUTS section in SCRIPTRUN"
OUTPUTS_TWICE = "ERR Already encountered an OUTPUTS keyword in SCRIPTRUN"
TIMEOUT_TWICE = "ERR Already encountered an TIMEOUT section in SCRIPTRUN"
LIST_TWICE = "ERR Already encountered a variable size list of tensors"
LIST_ELSEWHERE = "ERR Encountered a variable size list of tensors outside of input section"
UNRECOGNISED = "ERR Unrecongnized parameter to SCRIPTRUN"

RUN = [
    ("missing add INPUTS a b OUTPUTS y", "ERR script key is empty"),
    ("old INPUTS a b OUTPUTS y", UNRECOGNISED),
    ("old add INPUTS a b INPUTS a b OUTPUTS y", INPUTS_TWICE.replace("section", "keyword")),
    ("old add INPUTS a b OUTPUTS y INPUTS a b", INPUTS_TWICE),
    ("old add INPUTS a b OUTPUTS y OUTPUTS z", OUTPUTS_TWICE),
    ("old add OUTPUTS y INPUTS a b OUTPUTS z", INPUTS_TWICE),
    ("old add TIMEOUT 1000 TIMEOUT 1000 INPUTS a b OUTPUTS y", TIMEOUT_TWICE),
    ("old add TIMEOUT 1000 INPUTS a b OUTPUTS y TIMEOUT 1000", TIMEOUT_TWICE),
    ("old addn INPUTS a $ b $ b OUTPUTS y", LIST_TWICE),
    ("old addn $ a INPUTS a b OUTPUTS y", LIST_ELSEWHERE),
    ("old addn INPUTS a b OUTPUTS $ y", LIST_ELSEWHERE),
    ("old add FOO INPUTS a b OUTPUTS y", UNRECOGNISED),
    ("old add TIMEOUT 1000 FOO INPUTS a b OUTPUTS y", UNRECOGNISED),
    ("old add TIMEOUT", "ERR No value provided for TIMEOUT"),
    ("old add INPUTS a b OUTPUTS y TIMEOUT", "ERR No value provided for TIMEOUT"),
    ("old add TIMEOUT x INPUTS a b OUTPUTS y", BAD_TIMEOUT),
    ("old add TIMEOUT -1 INPUTS a b OUTPUTS y", BAD_TIMEOUT),
    ("old add INPUTS a missing OUTPUTS y", NO_TENSOR),
    ("old addn INPUTS a $ missing OUTPUTS y", NO_TENSOR),
    ("old missing INPUTS a b OUTPUTS y", "ERR Function does not exist: missing"),
    ("old add INPUTS a b OUTPUTS y z", "ERR Function returned unexpected number of outputs - add"),
    ("old two INPUTS a OUTPUTS y", "ERR Function returned unexpected number of outputs - two"),
    ("old nothing INPUTS a OUTPUTS y", "ERR Function returned unexpected number of outputs - nothing"),
]


@pytest.fixture
def stored(wire: Wire) -> Wire:
    store_plain(wire)
    store_old(wire)
    wire.ask("AI.TENSORSET", "a", "FLOAT", 2, "VALUES", 1, 2)
    wire.ask("AI.TENSORSET", "b", "FLOAT", 2, "VALUES", 3, 4)
    wire.ask("SET", "string", "x")
    return wire


@pytest.mark.parametrize(
    ("line", "text"),
    [(f"AI.SCRIPTEXECUTE {line}", text) for line, text in EXECUTE]
    + [(f"AI.SCRIPTRUN {line}", text) for line, text in RUN],
)
def test_text(stored: Wire, line: str, text: str) -> None:
    assert stored.ask(*line.split()) == text
    assert stored.ask("EXISTS", "y", "z", "w") == 0
    assert stored.ask("PING") == b"PONG", "one reply to one command"


@pytest.mark.parametrize(
    "line",
    [
        "AI.SCRIPTEXECUTE old add INPUTS 1 a OUTPUTS 1 y",
        "AI.SCRIPTEXECUTE old add INPUTS 3 a b a OUTPUTS 1 y",
        "AI.SCRIPTEXECUTE old constant INPUTS 1 a OUTPUTS 1 y",
        "AI.SCRIPTRUN old add INPUTS a OUTPUTS y",
        "AI.SCRIPTRUN old add INPUTS a b a OUTPUTS y",
        "AI.SCRIPTRUN old add INPUTS OUTPUTS y",
        "AI.SCRIPTRUN old addn INPUTS $ OUTPUTS y",
    ],
)
def test_wrong_number_of_inputs(stored: Wire, line: str) -> None:
    assert stored.ask(*line.split()).startswith("ERR Wrong number of inputs provided to function: ")
    assert stored.ask("EXISTS", "y") == 0


@pytest.mark.parametrize(
    "line",
    [
        "AI.SCRIPTEXECUTE s missing INPUTS 2 a string OUTPUTS 1 y",
        "AI.SCRIPTEXECUTE s add INPUTS 2 a string OUTPUTS 1 y",
        "AI.SCRIPTEXECUTE s add INPUTS 2 s b OUTPUTS 1 y",
        "AI.SCRIPTEXECUTE s add INPUTS 2 a b OUTPUTS 1 string",
        "AI.SCRIPTEXECUTE s two INPUTS 1 a OUTPUTS 2 y string",
        "AI.SCRIPTEXECUTE s two INPUTS 1 a OUTPUTS 2 s y",
        "AI.SCRIPTRUN old add INPUTS a string OUTPUTS y",
        "AI.SCRIPTRUN old add INPUTS a b OUTPUTS string",
        "AI.SCRIPTRUN old addn INPUTS a $ b string OUTPUTS y",
        "AI.SCRIPTEXECUTE string add FOO",
        "AI.SCRIPTRUN string add FOO",
    ],
)
def test_keys_of_another_type(stored: Wire, line: str) -> None:
    assert stored.ask(*line.split()).startswith("WRONGTYPE ")
    assert stored.ask("EXISTS", "y") == 0
    assert stored.ask("GET", "string") == b"x"


# ---- errors while a script runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "part"),
    [
        ("fails", [], "first line second line"),
        ("out_of_range", [], "out of range"),
        ("not_a_number", ["x"], "not_a_number"),
        ("scaled", [], "out of range"),
        ("shapes", [], "same number of dimensions"),
    ],
)
def test_a_script_that_fails(stored: Wire, name: str, args: list[Word], part: str) -> None:
    stored.ask("AI.TENSORSET", "c", "FLOAT", 1, 3, 3)
    reply = stored.ask(*execute("s", name, inputs=["a", "c"], args=args, outputs=["y"]))
    assert isinstance(reply, Error)
    assert reply.startswith("ERR ")
    assert part in " ".join(reply.split()), reply
    assert stored.ask("EXISTS", "y") == 0
    assert stored.ask("PING") == b"PONG"


def test_an_output_of_a_type_without_a_name(stored: Wire) -> None:
    reply = stored.ask(*execute("s", "complex", inputs=["a"], outputs=["y"]))
    assert isinstance(reply, Error)
    assert "complex64" in reply
    assert stored.ask("EXISTS", "y") == 0


def test_an_input_of_strings(stored: Wire) -> None:
    stored.ask("AI.TENSORSET", "t", "STRING", 2, "VALUES", "a", "b")
    reply = stored.ask(*execute("s", "itself", inputs=["t"], outputs=["y"]))
    assert isinstance(reply, Error)
    assert "string" in reply.lower()


@pytest.mark.parametrize("text", ["line\r\nbreak", "x" * 100_000, "%s%n%d", "\x1b[31m"])
def test_error_texts_with_a_clients_own_bytes(stored: Wire, text: str) -> None:
    """They are one line, which begins with the text as it was sent, and the connection keeps step."""
    commands: tuple[tuple[tuple[Word, ...], str], ...] = (
        (("AI.SCRIPTEXECUTE", "s", text, "INPUTS", 1, "a"), "ERR Function does not exist: "),
        (("AI.SCRIPTRUN", "old", text, "INPUTS", "a"), "ERR Function does not exist: "),
        (
            ("AI.SCRIPTEXECUTE", "s", "add", "INPUTS", 1, "a", text),
            "ERR Invalid AI.SCRIPTEXECUTE command. Unexpected argument: ",
        ),
        (store_command("n", SOURCE, [text]), "ERR Function "),
    )
    shown = text.split()[0][:50]
    for words, start in commands:
        reply = stored.ask(*words)
        assert isinstance(reply, Error) and reply.startswith(start + shown), reply[:200]
        assert stored.ask("ECHO", "next") == b"next"
    reply = stored.ask(*store_command("n", text, ["f"]))
    assert isinstance(reply, Error) and re.match("ERR +expected .* but found '.*' here: +File", reply), reply[:200]
    assert stored.ask("ECHO", "next") == b"next"


def test_every_function_of_the_samples_compiles(stored: Wire) -> None:
    for name in FUNCTIONS:
        assert stored.ask(*store_command("one", SOURCE, [name])) == b"OK"
    for source, names in ((scripts.REDIS, scripts.REDIS_ENTRY_POINTS), (scripts.MODELS, scripts.MODELS_ENTRY_POINTS)):
        assert stored.ask(*store_command("one", source, names)) == b"OK"
    assert stored.ask("AI.SCRIPTSET", "one", "CPU", "SOURCE", OLD) == b"OK"
