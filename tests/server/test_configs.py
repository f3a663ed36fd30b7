"""CONFIG and redis.conf set the load-time options by names of their own: ai.threads-per-queue is THREADS_PER_QUEUE."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testkit import models
from testkit.info import module_sections
from testkit.server import Server, ServerExit, isolation, module_path
from testkit.users import Login
from testkit.wire import Error, Wire, Word
from tests.conftest import SERVERS, StartServer

CHUNK = 535822336
BACKENDS = str(module_path().parent / "backends")
ONNX = "redisai_onnxruntime/redisai_onnxruntime.so"
DEFAULTS = {
    "ai.backendspath": BACKENDS,
    "ai.python": "",
    "ai.onnx-custom-ops": "",
    "ai.preload": "",
    "ai.tf": "",
    "ai.tflite": "",
    "ai.torch": "",
    "ai.onnx": "",
    "ai.threads-per-queue": "1",
    "ai.inter-op-parallelism": "0",
    "ai.intra-op-parallelism": "0",
    "ai.model-execution-timeout": "5000",
    "ai.backend-memory-limit": "0",
    "ai.allow-file-ops": "0",
    "ai.safe-start": "0",
    "ai.isolation": isolation(),
    "ai.isolation-memory-limit": "0",
    "ai.model-load-timeout": "0",
    "ai.max-queued": "0",
    "ai.max-queued-bytes": "0",
    "ai.bindings": "no",
    "ai.flows": "no",
    "ai.flows-memory-limit": "0",
    "ai.model-chunk-size": str(CHUNK),
}
EMBEDDED = {"ai.isolation": "none"}  # of servers that load the module without the options of all tests
AT_RUN_TIME = ("ai.backendspath", "ai.model-chunk-size", "ai.max-queued", "ai.max-queued-bytes")
NUMBERS = [name for name, value in DEFAULTS.items() if value.isdigit()]


class FromFile(Server):
    """A server with a redis.conf, which CONFIG REWRITE rewrites."""

    def write(self, *lines: str) -> None:
        (self.folder / "redis.conf").write_text("\n".join([*lines, "enable-module-command yes"]) + "\n")

    def lines(self) -> list[str]:
        """Those of the file that concern the module."""
        lines = (self.folder / "redis.conf").read_text().splitlines()
        return sorted(line for line in lines if line.startswith(("ai.", "loadmodule ")))

    def command(self) -> list[str]:
        words = super().command()
        at = words.index("--port")  # the file comes first, and what follows on the command line prevails
        return [*words[:at], str(self.folder / "redis.conf"), *words[at:]]


Start = Callable[..., FromFile]


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """start("ai.onnx …") starts a server with these lines in its redis.conf."""
    server = FromFile(tmp_path)
    request.node.stash.setdefault(SERVERS, []).append(server)

    def start(*lines: str) -> FromFile:
        server.write(*lines)
        server.start()
        return server

    yield start
    server.kill()


def load(*options: Word) -> str:
    return " ".join(map(str, ("loadmodule", module_path(), *options, "ISOLATION", isolation())))


def configs(wire: Wire, pattern: str = "ai.*") -> dict[str, str]:
    words = [word.decode() for word in wire.ask("CONFIG", "GET", pattern)]
    return dict(zip(words[::2], words[1::2], strict=True))


def shown(wire: Wire) -> dict[str, str]:
    """What INFO tells of them."""
    return module_sections(wire, "MODULES")["load_time_configs"]


def check_all(wire: Wire, changed: dict[str, str]) -> None:
    """CONFIG GET has these values and else the defaults, and INFO and AI.CONFIG have the same."""
    found = configs(wire)
    assert found == {**DEFAULTS, **changed}
    assert shown(wire) == {
        name[3:].replace("-", "_"): found[name] for name in [*NUMBERS, "ai.isolation", "ai.bindings", "ai.flows"]
    }
    assert wire.ask("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE") == int(found["ai.model-chunk-size"])
    assert wire.ask("AI.CONFIG", "GET", "BACKENDSPATH").decode() == found["ai.backendspath"]


def test_defaults(wire: Wire) -> None:
    check_all(wire, {})


def test_what_loadmodule_sets(start_server: StartServer) -> None:
    server = start_server(options=["THREADS_PER_QUEUE", 2, "model_chunk_size", 500, "Onnx", ONNX])
    with server.wire() as wire:
        changed = {"ai.threads-per-queue": "2", "ai.model-chunk-size": "500", "ai.onnx": ONNX}
        check_all(wire, changed)


def test_lines_of_redis_conf(start: Start) -> None:
    """Before or after loadmodule, and more than one of it."""
    changed = {
        "ai.threads-per-queue": "2",
        "ai.inter-op-parallelism": "1",
        "ai.intra-op-parallelism": "3",
        "ai.model-execution-timeout": "1000",
        "ai.backend-memory-limit": "500",
        "ai.allow-file-ops": "1",
        "ai.model-chunk-size": "100",
        "ai.onnx": ONNX,
    }
    lines = [f"{name} {value}" for name, value in changed.items()]
    with start(*lines[:4], load(), *lines[4:]).wire() as wire:
        check_all(wire, changed)
        assert b"onnxruntime_version" in wire.ask("INFO", "MODULES"), "the backend was loaded at start"
        assert wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
        chunks = wire.ask("AI.MODELGET", "m", "BLOB")
        assert b"".join(chunks) == models.onnx_add() and len(chunks[0]) == 100


def test_names_on_the_command_line(start_server: StartServer) -> None:
    with start_server("--ai.threads-per-queue", "2").wire() as wire:
        check_all(wire, {"ai.threads-per-queue": "2"})


def test_lines_prevail_over_loadmodules_words(start: Start) -> None:
    """CONFIG REWRITE keeps both, and what was changed last must be there after the next start."""
    server = start(load("THREADS_PER_QUEUE", 3, "MODEL_CHUNK_SIZE", 100), "ai.threads-per-queue 2")
    with server.wire() as wire:
        check_all(wire, {"ai.threads-per-queue": "2", "ai.model-chunk-size": "100"})


def test_rewriting_and_starting_again(start: Start) -> None:
    server = start(load("MODEL_CHUNK_SIZE", 100, "THREADS_PER_QUEUE", 2), "ai.inter-op-parallelism 1")
    untouched = server.lines()
    others = {"ai.threads-per-queue": "2", "ai.inter-op-parallelism": "1"}
    for value in (700, CHUNK, 100):
        with server.wire() as wire:
            assert wire.ask("CONFIG", "REWRITE") == b"OK"
            assert wire.ask("CONFIG", "SET", "ai.model-chunk-size", value) == b"OK"
            assert wire.ask("CONFIG", "REWRITE") == b"OK"
        server.restart()
        with server.wire() as wire:
            check_all(wire, {**others, "ai.model-chunk-size": str(value)})
        line = [] if value == 100 else [f"ai.model-chunk-size {value}"]
        assert [text for text in server.lines() if text not in untouched and not text.endswith(" 100")] == line


def test_set_at_run_time(wire: Wire) -> None:
    try:
        assert wire.ask("CONFIG", "SET", "ai.model-chunk-size", 1000) == b"OK"
        check_all(wire, {"ai.model-chunk-size": "1000"})
        assert wire.ask("AI.CONFIG", "MODEL_CHUNK_SIZE", 2000) == b"OK"
        check_all(wire, {"ai.model-chunk-size": "2000"})
        for value in (0, -1, "x", "1.5", ""):
            assert isinstance(wire.ask("CONFIG", "SET", "ai.model-chunk-size", value), Error), value
        check_all(wire, {"ai.model-chunk-size": "2000"})
    finally:
        wire.ask("CONFIG", "SET", "ai.model-chunk-size", CHUNK)


@pytest.mark.parametrize("name", [name for name in DEFAULTS if name not in AT_RUN_TIME])
def test_the_others_cannot_be_set(wire: Wire, name: str) -> None:
    reply = wire.ask("CONFIG", "SET", name, 2)
    assert isinstance(reply, Error) and "can't set immutable config" in reply
    check_all(wire, {})


def test_the_path_of_backends_is_protected(start_server: StartServer, wire: Wire, tmp_path: Path) -> None:
    """Like dir: the server runs code from there."""
    reply = wire.ask("CONFIG", "SET", "ai.backendspath", str(tmp_path))
    assert isinstance(reply, Error) and "can't set protected config" in reply
    with start_server("--enable-protected-configs", "yes").wire() as other:
        for path in (str(tmp_path), BACKENDS):
            assert other.ask("CONFIG", "SET", "ai.backendspath", path) == b"OK"
            check_all(other, {"ai.backendspath": path})
            reply = other.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
            assert (reply == b"OK") == (path == BACKENDS)
        assert other.ask("AI.CONFIG", "BACKENDSPATH", "/elsewhere") == b"OK"
        check_all(other, {"ai.backendspath": "/elsewhere"})


def test_who_may_not_set_them(login: Login) -> None:
    reply = login("+@all", "-@admin", "~*").ask("CONFIG", "SET", "ai.model-chunk-size", 1)
    assert isinstance(reply, Error) and reply.startswith("NOPERM ")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ai.threads-per-queue 0", "ai.threads-per-queue"),
        ("ai.threads-per-queue two", "ai.threads-per-queue"),
        ("ai.model-execution-timeout 999", "ai.model-execution-timeout"),
        ("ai.no-such-option 1", "ai.no-such-option|Module Configuration detected"),
        ("ai.python /nowhere/bin/python", "/nowhere/bin/python"),
    ],
)
def test_a_line_that_is_wrong_keeps_the_server_from_starting(start: Start, line: str, reason: str) -> None:
    with pytest.raises(ServerExit, match=reason):
        start(load(), line)


def test_module_loadex(start: Start) -> None:
    """A module that was refused leaves nothing behind."""
    with start().wire() as wire:
        loadex = ["MODULE", "LOADEX", str(module_path())]
        for words in (
            ["CONFIG", "ai.threads-per-queue", "0"],
            ["CONFIG", "ai.threads-per-queue", "2", "ARGS", "NO_SUCH_OPTION", "1"],
        ):
            assert isinstance(wire.ask(*loadex, *words), Error), words
            assert configs(wire) == {}
        options = ["CONFIG", "ai.threads-per-queue", "2", "CONFIG", "ai.onnx", ONNX]
        assert wire.ask(*loadex, *options, "ARGS", "THREADS_PER_QUEUE", 3, "INTRA_OP_PARALLELISM", 1) == b"OK"
        changed = {"ai.threads-per-queue": "2", "ai.onnx": ONNX, "ai.intra-op-parallelism": "1"}
        check_all(wire, {**changed, **EMBEDDED})


def documented(pattern: str) -> list[str]:
    """What docs/configuration.md prints, with the path of this module."""
    page = (Path(__file__).resolve().parents[2] / "docs/configuration.md").read_text().partition("\n## Which Python")[0]
    return [text.replace("/path/to/redisai.so", str(module_path())) for text in re.findall(pattern, page, re.MULTILINE)]


def test_documented_lines_of_redis_conf(start: Start) -> None:
    rows = [re.findall("`([^`]+)`", row) for row in documented(r"^\| redis.conf \| (.*) \|$")]
    blocks = [block.splitlines() for block in documented(r"^```\n(loadmodule [^`]*)```$")]
    assert len(rows) == len(blocks) == 2
    for lines in rows + blocks:
        server = start(*lines)
        with server.wire() as wire:
            assert configs(wire)["ai.threads-per-queue"] == "2", lines
            assert ("torch" in configs(wire)["ai.torch"]) == (lines in blocks)
        server.kill()


def test_documented_words_of_the_command_line(start_server: StartServer) -> None:
    rows = documented(r"^\| command line \| `(.*)` \|$")
    assert len(rows) == 2
    for row in rows:
        with start_server(*row.split(), module=None).wire() as wire:
            check_all(wire, {"ai.threads-per-queue": "2", **EMBEDDED})


def test_documented_commands_that_load(start_server: StartServer) -> None:
    rows = documented(r"^\| MODULE LOAD(?:EX)? \| `(.*)` \|$")
    assert len(rows) == 2
    for row in rows:
        with start_server("--enable-module-command", "yes", module=None).wire() as wire:
            assert wire.ask(*row.split()) == b"OK", row
            check_all(wire, {"ai.threads-per-queue": "2", **EMBEDDED})
