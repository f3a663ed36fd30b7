"""Fixtures of the behaviour tests: one shared server, servers of a test's own, clients, a model that takes its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from testkit import models
from testkit.batches import Clients
from testkit.info import info
from testkit.paths import WITHOUT_DIRECT
from testkit.server import Client, Server, ServerExit, module_path
from testkit.users import Login, logins
from testkit.waiting import wait_for
from testkit.wire import Wire, Word

SERVERS = pytest.StashKey[list[Server]]()


class StartServer(Protocol):
    def __call__(
        self,
        *arguments: str,
        options: Sequence[str | int] = (),
        folder: Path | None = None,
        module: Path | None = ...,
        program: str | None = None,
    ) -> Server: ...


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        for server in item.stash.get(SERVERS, []):
            report.sections.append((f"log of the redis-server on port {server.port}", server.log_tail()))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("shared"), module=module_path()).start()
    yield server
    assert server.stop() == 0, server.log_tail()


@pytest.fixture(scope="session")
def shared_without_direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("without_direct")
    server = Server(folder, module=module_path(), environment=WITHOUT_DIRECT).start()
    yield server
    assert server.stop() == 0, server.log_tail()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server all tests share, flushed. A test that ends it fails, and the next one gets a new one.

    The parameter "python" (testkit/paths.py) chooses the one that runs all models by Python."""
    path = getattr(request, "param", "direct")
    shared: Server = request.getfixturevalue("shared_without_direct" if path == "python" else "shared")
    request.node.stash.setdefault(SERVERS, []).append(shared)
    with shared.wire() as wire:  # redis-py takes 2 ms more, of thousands of tests
        wait_for(lambda: info(wire, "clients")["blocked_clients"] == "0", what="the clients of the last test leave")
        wire.ask_ok("FLUSHALL")
    pid = shared.pid
    yield shared
    try:
        shared.check_alive()
        assert shared.pid == pid
    except (ServerExit, AssertionError) as error:
        log = shared.log_tail()
        shared.restart()
        pytest.fail(f"the shared server did not live through this test: {error}\n{log}")


@pytest.fixture
def r(server: Server) -> Iterator[Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with server.wire() as wire:
        yield wire


@pytest.fixture
def clients(server: Server) -> Iterator[Clients]:
    """Requests that tell in which batch they were run, of the shared server."""
    clients = Clients(server)
    yield clients
    clients.close()


@pytest.fixture
def login(server: Server) -> Iterator[Login]:
    """Makes a user with these rules and gives a connection of theirs: login("+@all", "~app:*")."""
    with logins(server) as login:
        yield login


@pytest.fixture
def start_server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StartServer]:
    """Starts servers of the test's own: start_server("--appendonly", "yes", options=["THREADS_PER_QUEUE", 2])."""
    servers: list[Server] = request.node.stash.setdefault(SERVERS, [])
    mine: list[Server] = []

    def start(
        *arguments: str,
        options: Sequence[str | int] = (),
        folder: Path | None = None,
        module: Path | None = module_path(),  # noqa: B008 - constant for the whole run
        program: str | None = None,
    ) -> Server:
        where = folder or tmp_path / f"server{len(mine)}"
        where.mkdir(exist_ok=True)
        server = Server(where, arguments, options, module, program=program)
        servers.append(server)
        mine.append(server)
        return server.start()

    yield start
    for server in mine:
        server.kill()


class Slow(Protocol):
    def __call__(self, wire: Wire, seconds: float, output: str = "slow:out") -> tuple[Word, ...]: ...


@pytest.fixture
def slow(pace: Callable[[], float]) -> Slow:
    """Stores a model and an input with which it runs for so long; returns the words of the command that runs it."""

    def prepare(wire: Wire, seconds: float, output: str = "slow:out") -> tuple[Word, ...]:
        assert wire.ask("AI.MODELSTORE", "slow", "ONNX", "CPU", "BLOB", models.onnx_loop()) == b"OK"
        rounds = max(1, round(seconds / pace()))
        assert wire.ask("AI.TENSORSET", "slow:n", "INT64", "VALUES", rounds) == b"OK"
        return ("AI.MODELEXECUTE", "slow", "INPUTS", 1, "slow:n", "OUTPUTS", 1, output)

    return prepare


@pytest.fixture(scope="session")
def pace(shared: Server) -> Callable[[], float]:
    """Seconds that one round of the slow model takes on this machine at best, measured once."""
    measured: list[float] = []

    def measure() -> float:
        if not measured:
            with shared.wire() as wire:
                assert wire.ask("AI.MODELSTORE", "pace", "ONNX", "CPU", "BLOB", models.onnx_loop()) == b"OK"
                rounds, best = 1000, 0.0
                while best < 0.05:
                    rounds *= 2
                    wire.ask("AI.TENSORSET", "pace:n", "INT64", "VALUES", rounds)
                    run = ("AI.MODELEXECUTE", "pace", "INPUTS", 1, "pace:n", "OUTPUTS", 1, "pace:out")
                    best = min(wire.timed(*run)[1] for _ in range(3))
                # The machine may have been busy: then the slow model would be too quick in all tests.
                best = min([best, *(wire.timed(*run)[1] for _ in range(20))])
                wire.ask("DEL", "pace", "pace:n", "pace:out")
                measured.append(best / rounds)
        return measured[0]

    return measure
