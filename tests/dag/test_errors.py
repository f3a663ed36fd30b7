"""DAGs: every error text. Whatever is wrong with any op is one error to the whole command, and nothing runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit import dags, models, scripts
from testkit.dags import ask, deprecated
from testkit.info import number
from testkit.server import Server, module_path
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word
from tests.commands import test_tensor_errors
from tests.conftest import SERVERS
from tests.run import test_errors as test_run_errors
from tests.scripts import test_errors as test_script_errors

WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
NO_TENSOR = "ERR tensor key is empty or in a different shard"
NO_INPUT = "ERR INPUT key cannot be found in DAG"
NO_PERSIST = "ERR PERSIST key cannot be found in DAG"
NOT_UNIQUE = "ERR PERSIST keys must be unique"
READ_ONLY = "ERR PERSIST cannot be specified in a read-only DAG"
NO_ROUTING = "ERR Missing ROUTING value"
NONE_OF_THREE = (
    "ERR AI.DAGEXECUTE and AI.DAGEXECUTE_RO commands must contain at least one out of ROUTING, LOAD, PERSIST keywords"
)
EMPTY = "ERR DAG is empty"
UNEXPECTED = "ERR Invalid DAG command. Unexpected argument:  "
UNSUPPORTED = "ERR Unsupported command within DAG"
NO_TIMEOUT = "ERR No value provided for TIMEOUT"
BAD_TIMEOUT = "ERR Invalid value for TIMEOUT"
TIMEOUT_WITHIN = "ERR TIMEOUT not allowed within a DAG command"
LOAD_MISMATCH = "ERR number of keys to LOAD into DAG does not match the number of given arguments"
PERSIST_MISMATCH = "ERR number of keys to PERSIST after DAG execution does not match the number of given arguments"


def missing(keyword: str) -> str:
    return f"ERR missing arguments after {keyword} keyword in DAG command"


def bad_number(keyword: str) -> str:
    return f"ERR invalid or negative value found in number of keys to {keyword}"


KEYS = ("add", "mul", "both", "s", "old")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests here: none of them changes what it holds."""
    server = Server(tmp_path_factory.mktemp("errors"), module=module_path()).start()
    with server.wire() as wire:
        dags.store(wire)
        scripts.store_plain(wire)
        wire.ask("AI.MODELSTORE", "many", "ONNX", "CPU", "BLOB", models.onnx_many_inputs(10))
        wire.ask("AI.MODELSTORE", "torch", "TORCH", "CPU", "BLOB", models.torch_module(models.Add))
        wire.ask("AI.TENSORSET", "a", "FLOAT", 1, 2, "VALUES", 1, 2)
        wire.ask("AI.TENSORSET", "b", "FLOAT", 1, 2, "VALUES", 3, 4)
        wire.ask("SET", "string", "x")
    yield server
    assert server.stop() == 0, server.log_tail()


@pytest.fixture
def stored(loaded: Server, request: pytest.FixtureRequest) -> Iterator[Wire]:
    request.node.stash.setdefault(SERVERS, []).append(loaded)
    with loaded.wire() as wire:
        before = wire.ask("DEBUG", "DIGEST")
        yield wire
        assert wire.ask("PING") == b"PONG", "one reply to one command"
        assert wire.ask("DEBUG", "DIGEST") == before, "nothing is stored"


def check(wire: Wire, words: list[Word], *texts: str) -> None:
    before = [dags.calls(wire, key) for key in KEYS]
    reply = wire.ask(*words)
    assert isinstance(reply, Error), reply
    assert reply in texts
    assert [dags.calls(wire, key) for key in KEYS] == before, "nothing runs"


# ---- the command itself ----------------------------------------------------------------------------------------------

# Behind the command's name; for all four commands where there is no PERSIST.
GET = "|> AI.TENSORGET a"
BOTH: list[tuple[str, tuple[str, ...]]] = [
    (f"TIMEOUT 9000 LOAD {GET}", (missing("LOAD"), bad_number("LOAD"))),
    ("ROUTING r TIMEOUT 5 LOAD", (missing("LOAD"),)),
    (f"LOAD x a {GET}", (bad_number("LOAD"),)),
    (f"LOAD a {GET} META", (bad_number("LOAD"),)),
    (f"LOAD -1 a {GET}", (bad_number("LOAD"),)),
    (f"LOAD 1.0 a {GET}", (bad_number("LOAD"),)),
    (f"LOAD 99999999999999999999 a {GET}", (bad_number("LOAD"),)),
    (f"LOAD 2 a {GET}", (LOAD_MISMATCH,)),
    (f"LOAD 9 a b {GET}", (LOAD_MISMATCH,)),
    (f"LOAD 4 a b {GET}", (LOAD_MISMATCH,)),
    (f"LOAD 9223372036854775807 a {GET}", (LOAD_MISMATCH,)),
    ("LOAD 4 a b c", (NO_TENSOR,)),
    (f"LOAD 1 missing {GET}", (NO_TENSOR,)),
    (f"LOAD 2 a missing {GET}", (NO_TENSOR,)),
    (f"LOAD 1 string {GET}", (WRONGTYPE,)),
    (f"LOAD 2 a add {GET}", (WRONGTYPE,)),
    (f"LOAD 1 a b {GET}", (UNEXPECTED + "b",)),
    (f"LOAD 1 a FOO {GET}", (UNEXPECTED + "FOO",)),
    (f"LOAD 1 a foo 7 {GET}", (UNEXPECTED + "foo",)),
    (f"foo LOAD 1 a {GET}", (UNEXPECTED + "foo",)),
    ("LOAD 1 a AI.TENSORGET a", (UNEXPECTED + "AI.TENSORGET",)),
    (f"LOAD 1 a TIMEOUT {GET}", (NO_TIMEOUT, BAD_TIMEOUT)),
    (f"LOAD 1 a TIMEOUT x {GET}", (BAD_TIMEOUT,)),
    (f"LOAD 1 a TIMEOUT 1.5 {GET}", (BAD_TIMEOUT,)),
    (f"LOAD 1 a TIMEOUT 99999999999999999999 {GET}", (BAD_TIMEOUT,)),
    ("LOAD 2 a b TIMEOUT", (NO_TIMEOUT,)),
    ("LOAD 1 a TIMEOUT 9000", (EMPTY,)),
    ("LOAD 1 a TIMEOUT 9000 |>", (UNEXPECTED + "|>",)),
    ("LOAD 1 a |> AI.MODELGET add META", (UNSUPPORTED,)),
    ("LOAD 1 a |> AI.MODELSTORE n ONNX CPU BLOB x", (UNSUPPORTED,)),
    ("LOAD 1 a |> AI.MODELDEL add", (UNSUPPORTED,)),
    ("LOAD 1 a |> AI.SCRIPTDEL s", (UNSUPPORTED,)),
    ("LOAD 1 a |> AI.INFO add RESETSTAT", (UNSUPPORTED,)),
    ("LOAD 1 a |> AI.CONFIG MODEL_CHUNK_SIZE 5", (UNSUPPORTED,)),
    ("LOAD 1 a |> AI.DAGRUN LOAD 1 a", (UNSUPPORTED,)),
    ("LOAD 1 a |> AI.DAGEXECUTE_RO LOAD 1 a", (UNSUPPORTED,)),
    ("LOAD 1 a |> SET k v", (UNSUPPORTED,)),
    ("LOAD 1 a |> FLUSHALL", (UNSUPPORTED,)),
    ("LOAD 1 a |> TENSORGET a", (UNSUPPORTED,)),
    ("LOAD 1 a |> AI.TENSORGETX a", (UNSUPPORTED,)),
    ("LOAD 1 a |> AI.TENSORGE a", (UNSUPPORTED,)),
    ("LOAD 1 a |> AI.TENSORGET a |> FOO a", (UNSUPPORTED,)),
    ("LOAD 1 a |> AI.TENSORGET b", (NO_INPUT,)),
    ("LOAD 1 a |> AI.TENSORGET c |> AI.TENSORSET c FLOAT 1", (NO_INPUT,)),
    ("LOAD 1 a |> AI.TENSORGET A", (NO_INPUT,)),
]
WRITES: list[tuple[str, tuple[str, ...]]] = [
    (f"LOAD 1 a PERSIST {GET}", (missing("PERSIST"), bad_number("PERSIST"))),
    ("LOAD 1 a TIMEOUT 5 PERSIST", (missing("PERSIST"),)),
    (f"LOAD 1 a PERSIST x a {GET}", (bad_number("PERSIST"),)),
    (f"LOAD 1 a PERSIST -1 a {GET}", (bad_number("PERSIST"),)),
    (f"LOAD 1 a PERSIST 1.0 a {GET}", (bad_number("PERSIST"),)),
    (f"LOAD 1 a PERSIST 2 a {GET}", (PERSIST_MISMATCH,)),
    (f"LOAD 1 a PERSIST 9223372036854775807 a {GET}", (PERSIST_MISMATCH,)),
    (f"LOAD 1 a PERSIST 2 a a {GET}", (NOT_UNIQUE,)),
    (f"LOAD 2 a b PERSIST 3 a b a {GET}", (NOT_UNIQUE,)),
    (f"PERSIST 2 z z LOAD 1 a {GET}", (NOT_UNIQUE,)),
    (f"LOAD 1 a PERSIST 1 z {GET}", (NO_PERSIST,)),
    (f"LOAD 1 a PERSIST 1 b {GET}", (NO_PERSIST,)),
    (f"LOAD 1 a PERSIST 2 a z {GET}", (NO_PERSIST,)),
    ("LOAD 1 a PERSIST 1 Z |> AI.TENSORSET z FLOAT 1", (NO_PERSIST,)),
    (f"LOAD 1 a PERSIST 1 a b {GET}", (UNEXPECTED + "b",)),
]
ONLY_EXECUTE: list[tuple[str, tuple[str, ...]]] = [
    (f"LOAD 1 a ROUTING {GET}", (NO_ROUTING,)),
    ("LOAD 1 a TIMEOUT 9000 ROUTING", (NO_ROUTING,)),
    ("LOAD 1 a ROUTING r", (EMPTY,)),
    ("LOAD 1 a ROUTING r |>", (UNEXPECTED + "|>",)),
    ("|> AI.TENSORSET t FLOAT 1", (NONE_OF_THREE,)),
    ("TIMEOUT 9000 |> AI.TENSORSET t FLOAT 1", (NONE_OF_THREE,)),
    ("|> AI.TENSORSET t FLOAT 1 |> AI.TENSORGET t", (NONE_OF_THREE,)),
    ("LOAD 2 a b |> AI.MODELRUN add INPUTS a b OUTPUTS z", (
        "ERR Deprecated AI.MODELRUN cannot be used in AI.DAGEXECUTE command",)),
    ("LOAD 2 a b |> AI.SCRIPTRUN old add INPUTS a b OUTPUTS z", (
        "ERR Deprecated AI.SCRIPTRUN cannot be used in AI.DAGEXECUTE command",)),
]  # fmt: skip
ONLY_RUN: list[tuple[str, tuple[str, ...]]] = [
    ("LOAD 1 a", (EMPTY,)),
    ("LOAD 1 a |>", (UNEXPECTED + "|>",)),
    ("|> AI.TENSORGET a", (NO_INPUT,)),
    ("|> FOO a b", (UNSUPPORTED,)),
    ("LOAD 2 a b |> AI.MODELEXECUTE add INPUTS 2 a b OUTPUTS 1 z", (
        "ERR AI.MODELEXECUTE cannot be used in a deprecated AI.DAGRUN command",)),
    ("LOAD 2 a b |> AI.SCRIPTEXECUTE old add INPUTS 2 a b OUTPUTS 1 z", (
        "ERR AI.SCRIPTEXECUTE cannot be used in a deprecated AI.DAGRUN command",)),
]  # fmt: skip


@pytest.mark.parametrize("name", ["AI.DAGEXECUTE", "AI.DAGEXECUTE_RO", "AI.DAGRUN", "AI.DAGRUN_RO"])
@pytest.mark.parametrize(("line", "texts"), BOTH, ids=[line for line, _ in BOTH])
def test_every_command(stored: Wire, name: str, line: str, texts: tuple[str, ...]) -> None:
    if name.startswith("AI.DAGRUN") and "ROUTING" in line:
        line = line.replace("ROUTING r ", "")
    check(stored, [name, *line.split()], *texts)


@pytest.mark.parametrize("name", ["AI.DAGEXECUTE", "AI.DAGRUN"])
@pytest.mark.parametrize(("line", "texts"), WRITES, ids=[line for line, _ in WRITES])
def test_persist(stored: Wire, name: str, line: str, texts: tuple[str, ...]) -> None:
    check(stored, [name, *line.split()], *texts)


@pytest.mark.parametrize("name", ["AI.DAGEXECUTE", "AI.DAGEXECUTE_RO"])
@pytest.mark.parametrize(("line", "texts"), ONLY_EXECUTE, ids=[line for line, _ in ONLY_EXECUTE])
def test_dagexecute(stored: Wire, name: str, line: str, texts: tuple[str, ...]) -> None:
    check(stored, [name, *line.split()], *texts)


@pytest.mark.parametrize("name", ["AI.DAGRUN", "AI.DAGRUN_RO"])
@pytest.mark.parametrize(("line", "texts"), ONLY_RUN, ids=[line for line, _ in ONLY_RUN])
def test_dagrun(stored: Wire, name: str, line: str, texts: tuple[str, ...]) -> None:
    check(stored, [name, *line.split()], *texts)


@pytest.mark.parametrize("name", ["AI.DAGEXECUTE_RO", "AI.DAGRUN_RO"])
@pytest.mark.parametrize("sections", ["PERSIST 1 a LOAD 1 a", "LOAD 1 a PERSIST 1 a", "LOAD 1 a persist 1 a"])
def test_persist_in_a_read_only_dag(stored: Wire, name: str, sections: str) -> None:
    check(stored, [name, *sections.split(), *GET.split()], READ_ONLY)


def test_a_script_in_a_read_only_dag(stored: Wire) -> None:
    line = "LOAD 2 a b |> AI.TENSORGET a |> AI.SCRIPTEXECUTE old add INPUTS 2 a b OUTPUTS 1 z"
    text = "ERR AI.SCRIPTEXECUTE command cannot be specified in a read-only DAG"
    check(stored, ["AI.DAGEXECUTE_RO", *line.split()], text)
    check(stored, ["ai.dagexecute_ro", *line.lower().split()], text)


@pytest.mark.parametrize("name", ["AI.DAGEXECUTE", "AI.DAGEXECUTE_RO"])
@pytest.mark.parametrize("line", ["", "|>", "LOAD", "LOAD 1 a", "LOAD 1 a |>", "ROUTING r |> AI.TENSORGET"])
def test_dagexecute_with_fewer_than_six_words(stored: Wire, name: str, line: str) -> None:
    check(stored, [name, *line.split()], f"ERR missing arguments for '{name}' command")


@pytest.mark.parametrize("name", ["AI.DAGRUN", "AI.DAGRUN_RO"])
@pytest.mark.parametrize("line", ["", "|>", "LOAD", "LOAD 1", "|> AI.TENSORGET"])
def test_dagrun_with_fewer_than_four_words(stored: Wire, name: str, line: str) -> None:
    check(stored, [name, *line.split()], f"ERR wrong number of arguments for '{name}' command")


@pytest.mark.parametrize("name", ["AI.DAGEXECUTE", "AI.DAGEXECUTE_RO", "AI.DAGRUN", "AI.DAGRUN_RO"])
@pytest.mark.parametrize(
    "line",
    [
        f"LOAD 1 a |> {GET}",
        f"LOAD 1 a {GET} |>",
        f"LOAD 1 a {GET} |> {GET}",
        f"LOAD 1 a |> |> {GET}",
        "LOAD 1 a |> |> |>",
    ],
)
def test_separators_with_nothing_between(stored: Wire, name: str, line: str) -> None:
    assert dags.is_error(ask(stored, f"{name} {line}"))


@pytest.mark.parametrize("name", ["AI.DAGEXECUTE", "AI.DAGRUN"])
@pytest.mark.parametrize("section", ["LOAD 1 a", "PERSIST 1 a", "TIMEOUT 9000"])
def test_a_section_twice(stored: Wire, name: str, section: str) -> None:
    assert dags.is_error(ask(stored, f"{name} LOAD 1 b {section} {section} {GET}"))
    reply = ask(stored, f"{name} {section} PERSIST 1 z {section} |> AI.TENSORSET z FLOAT 1 |> AI.TENSORGET z")
    assert dags.is_error(reply), reply


def test_routing_twice(stored: Wire) -> None:
    assert dags.is_error(ask(stored, "AI.DAGEXECUTE ROUTING r ROUTING q |> AI.TENSORSET z FLOAT 1"))


# ---- its ops ---------------------------------------------------------------------------------------------------------

# Behind a DAG that could run as it stands; as AI.DAGEXECUTE says it.
OPS: list[tuple[str, str]] = [
    ("AI.MODELEXECUTE missing INPUTS 2 a b OUTPUTS 1 z", "ERR model key is empty"),
    ("AI.MODELEXECUTE a INPUTS 2 a b OUTPUTS 1 z", WRONGTYPE),
    ("AI.MODELEXECUTE s INPUTS 2 a b OUTPUTS 1 z", WRONGTYPE),
    ("AI.MODELEXECUTE string INPUTS 2 a b OUTPUTS 1 z", WRONGTYPE),
    ("AI.MODELEXECUTE add INPUTS 2 a x OUTPUTS 1 z", NO_INPUT),
    ("AI.MODELEXECUTE add INPUTS 2 missing a OUTPUTS 1 z", NO_INPUT),
    ("AI.MODELEXECUTE add INPUTS 2 z z OUTPUTS 1 z", NO_INPUT),
    ("AI.MODELEXECUTE add INPUTS 2 a z OUTPUTS 1 w |> AI.MODELEXECUTE add INPUTS 2 a b OUTPUTS 1 z", NO_INPUT),
    ("AI.MODELEXECUTE add INPUTS 2 a add OUTPUTS 1 z", NO_INPUT),
    ("AI.SCRIPTEXECUTE missing add INPUTS 2 a b OUTPUTS 1 z", "ERR script key is empty"),
    ("AI.SCRIPTEXECUTE a add INPUTS 2 a b OUTPUTS 1 z", WRONGTYPE),
    ("AI.SCRIPTEXECUTE add add INPUTS 2 a b OUTPUTS 1 z", WRONGTYPE),
    ("AI.SCRIPTEXECUTE old add INPUTS 2 a x OUTPUTS 1 z", NO_INPUT),
    ("AI.SCRIPTEXECUTE old add INPUTS 2 z a OUTPUTS 1 z", NO_INPUT),
    ("AI.TENSORGET x", NO_INPUT),
    ("AI.TENSORGET missing META", NO_INPUT),
    ("AI.TENSORGET a FOO", "ERR unsupported data format"),
    ("AI.TENSORGET a BLOB VALUES", "ERR both BLOB and VALUES specified"),
    ("AI.TENSORGET ok FOO", "ERR unsupported data format"),
]
TIMEOUTS = [
    "AI.DAGEXECUTE LOAD 2 a b |> AI.MODELEXECUTE add INPUTS 2 a b OUTPUTS 1 z TIMEOUT 9000",
    "AI.DAGEXECUTE LOAD 2 a b |> AI.MODELEXECUTE add INPUTS 2 a b OUTPUTS 1 z timeout 9000",
    "AI.DAGEXECUTE LOAD 2 a b |> AI.SCRIPTEXECUTE old add INPUTS 2 a b OUTPUTS 1 z TIMEOUT 9000",
    "AI.DAGEXECUTE LOAD 2 a b TIMEOUT 9000 |> AI.SCRIPTEXECUTE old add INPUTS 2 a b TIMEOUT 9000",
    "AI.DAGEXECUTE_RO LOAD 2 a b |> AI.MODELEXECUTE add INPUTS 2 a b OUTPUTS 1 z TIMEOUT 9000",
    "AI.DAGRUN LOAD 2 a b |> AI.MODELRUN add TIMEOUT 9000 INPUTS a b OUTPUTS z",
    "AI.DAGRUN LOAD 2 a b |> AI.SCRIPTRUN old add TIMEOUT 9000 INPUTS a b OUTPUTS z",
    "AI.DAGRUN LOAD 2 a b |> AI.SCRIPTRUN old add INPUTS a b OUTPUTS z TIMEOUT 9000",
    "AI.DAGRUN_RO LOAD 2 a b |> AI.SCRIPTRUN old add INPUTS a b TIMEOUT 9000 OUTPUTS z",
]
BEFORE = "AI.DAGEXECUTE LOAD 2 a b PERSIST 1 ok |> AI.MODELEXECUTE add INPUTS 2 a b OUTPUTS 1 ok |> "


@pytest.mark.parametrize("after", ["", " |> AI.TENSORSET t FLOAT 1"], ids=["last", "in the middle"])
@pytest.mark.parametrize("form", [dags.as_it_is, deprecated])
@pytest.mark.parametrize(("line", "text"), OPS, ids=[line for line, _ in OPS])
def test_op(stored: Wire, form: dags.Form, line: str, text: str, after: str) -> None:
    check(stored, list(form(BEFORE + line + after).split()), text)


@pytest.mark.parametrize("line", TIMEOUTS)
def test_timeout_of_an_op(stored: Wire, line: str) -> None:
    check(stored, list(line.split()), TIMEOUT_WITHIN)


def in_dag(table: list[tuple[str, str]], texts_that_differ: tuple[str, ...]) -> list[tuple[str, str]]:
    """The rows of another test's table that hold in DAGs too."""
    return [row for row in table if "TIMEOUT" not in row[0] and row[1] not in texts_that_differ]


# What is missing in a DAG is told otherwise, above. There any section of AI.SCRIPTEXECUTE may come first.
EXECUTE = in_dag(test_run_errors.EXECUTE, (NO_TENSOR,))
RUN = in_dag(test_run_errors.RUN, (NO_TENSOR,))


@pytest.mark.parametrize(
    ("line", "text"),
    [(f"{BEFORE}AI.MODELEXECUTE {line}", text) for line, text in EXECUTE]
    + [(f"{deprecated(BEFORE)}AI.MODELRUN {line}", text) for line, text in RUN],
)
def test_models_own_texts(stored: Wire, line: str, text: str) -> None:
    check(stored, list(line.split()), text)


SCRIPT_EXECUTE = in_dag(test_script_errors.EXECUTE, (NO_TENSOR, test_script_errors.NOT_FIRST))
SCRIPT_RUN = in_dag(test_script_errors.RUN, (NO_TENSOR,))
# These are known only once the function is called, so the op holds them, and the ops before it have run.
WHEN_CALLED = ("ERR Function returned ", "ERR Function does not exist: ")


@pytest.mark.parametrize(
    ("line", "text"),
    [(f"{BEFORE}AI.SCRIPTEXECUTE {line}", text) for line, text in SCRIPT_EXECUTE]
    + [(f"{deprecated(BEFORE)}AI.SCRIPTRUN {line}", text) for line, text in SCRIPT_RUN],
)
def test_scripts_own_texts(stored: Wire, line: str, text: str) -> None:
    if not text.startswith(WHEN_CALLED):
        check(stored, list(line.split()), text)
        return
    dags.check(ask(stored, line), [dags.OK, Error(text)])


@pytest.mark.parametrize(("words", "text"), test_tensor_errors.SET)
def test_tensorsets_own_texts(stored: Wire, words: list[Word], text: str) -> None:
    check(stored, [*BEFORE.split(), "AI.TENSORSET", "t", *words], text)
    check(stored, [*BEFORE.split(), "AI.TENSORSET", "t", *words, "|>", "AI.TENSORGET", "t"], text)


@pytest.mark.parametrize(
    "line", ["AI.TENSORSET", "AI.TENSORSET t", "AI.TENSORSET t FLOAT", "AI.TENSORGET", "AI.MODELEXECUTE",
             "AI.MODELEXECUTE add", "AI.SCRIPTEXECUTE", "AI.SCRIPTEXECUTE s"]
)  # fmt: skip
@pytest.mark.parametrize("form", [dags.as_it_is, deprecated])
def test_ops_of_too_few_words(stored: Wire, form: dags.Form, line: str) -> None:
    words = form(line).split()
    text = f"ERR wrong number of arguments for '{words[0]}' command"
    check(stored, [*form(BEFORE).split(), *words], text)


def test_tensorget_with_too_many_words(stored: Wire) -> None:
    assert dags.is_error(ask(stored, BEFORE + "AI.TENSORGET a META BLOB VALUES META"))


@pytest.mark.parametrize("text", ["line\r\nbreak", "x" * 100_000, "%s%n%d", "\x1b[31m", "\0"])
def test_texts_with_a_clients_own_bytes(stored: Wire, text: str) -> None:
    """They are one line, and the connection keeps step."""
    lines: list[tuple[Word, ...]] = [
        (text, "LOAD", 1, "a", *GET.split()),
        ("LOAD", text, "a", *GET.split()),
        ("LOAD", 1, text, *GET.split()),
        ("LOAD", 1, "a", "|>", text, "a"),
        ("LOAD", 1, "a", "|>", "AI.TENSORGET", text),
        ("LOAD", 1, "a", "|>", "AI.TENSORGET", "a", text),
        ("LOAD", 1, "a", "|>", "AI.MODELEXECUTE", text, "INPUTS", 1, "a", "OUTPUTS", 1, "z"),
        ("LOAD", 1, "a", "|>", "AI.MODELEXECUTE", "add", "INPUTS", 2, "a", "a", "OUTPUTS", 1, "z", text),
    ]
    for words in lines:
        assert dags.is_error(stored.ask("AI.DAGEXECUTE", *words))
        assert stored.ask("ECHO", "next") == b"next"


def test_one_error_is_told_of_several(stored: Wire) -> None:
    line = "LOAD 2 a missing PERSIST 1 z |> AI.TENSORGET none |> AI.MODELEXECUTE none INPUTS 1 a OUTPUTS 1 b |> FOO"
    check(
        stored, ["AI.DAGEXECUTE", *line.split()], NO_TENSOR, NO_PERSIST, NO_INPUT, "ERR model key is empty", UNSUPPORTED
    )


def test_memory_comes_back(stored: Wire) -> None:
    """Whatever was made while parsing goes when a later op is wrong."""
    blob = bytes(4_000_000)
    words: list[Word] = ["AI.DAGEXECUTE", "LOAD", 1, "a", "|>"]
    for i in range(5):
        words += ["AI.TENSORSET", f"t{i}", "FLOAT", 1_000_000, "BLOB", blob, "|>"]
        words += ["AI.MODELEXECUTE", "add", "INPUTS", 2, "a", "a", "OUTPUTS", 1, f"u{i}", "|>"]
    check(stored, [*words, "AI.TENSORGET", "missing"], NO_INPUT)
    before = number(stored, "used_memory", "memory")
    for _ in range(20):
        assert stored.ask(*words, "AI.TENSORGET", "missing") == NO_INPUT
    wait_for(lambda: number(stored, "used_memory", "memory") < before + (1 << 20), what="memory comes back")
