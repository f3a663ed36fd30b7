"""A server whose models run in engine processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit import models
from testkit.isolation import ADD, MEMORY_LIMIT, Pings, engine_is_up, holdings, python_backend, store_add, zombies
from testkit.server import Server, module_path
from testkit.waiting import wait_for
from testkit.wire import Wire

OPTIONS = ["ISOLATION", "process", "MODEL_EXECUTION_TIMEOUT", "1000", "BACKEND_MEMORY_LIMIT", "1000"]


def check_holdings(server: Server, wire: Wire, before: object) -> None:
    """Deaths leave nothing behind. A thread or a descriptor may be on its way."""
    engine_is_up(wire)
    wait_for(lambda: not zombies(server.pid), what="processes that ended are reaped")
    wait_for(lambda: holdings(server) == before or _same(server, before), what="nothing is left of processes")


def _same(server: Server, before: object) -> bool:
    now = holdings(server)
    names = ("descriptors", "mappings", "children")
    return all(getattr(now, name) <= getattr(before, name) for name in names) and now.shared < 100 << 20


@pytest.fixture(scope="module")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of a module; in the end nothing is left of its processes."""
    server = Server(
        tmp_path_factory.mktemp("isolated"), options=[*OPTIONS, *MEMORY_LIMIT], module=module_path()
    ).start()
    yield from watched(server, models.onnx_add())


@pytest.fixture(scope="module")
def python_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same with ONNX models that are Python. Without the sandbox, whose part is not tested here."""
    folder = tmp_path_factory.mktemp("python")
    more = ["MODEL_LOAD_TIMEOUT", "10000", "BACKENDSPATH", str(python_backend(folder)), "ALLOW_FILE_OPS", "1"]
    yield from watched(Server(folder, options=[*OPTIONS, *MEMORY_LIMIT, *more], module=module_path()).start(), ADD)


def watched(server: Server, blob: bytes) -> Iterator[Server]:
    pid = server.pid
    with server.wire() as wire:
        engine_is_up(wire)
        store_add(wire, "another", "CPU:1", blob)  # so that its process is there from the beginning
        wire.ask("DEL", "another")
        before = holdings(server)
        yield server
        assert server.pid == pid
        server.check_alive()
        check_holdings(server, wire, before)
    assert server.stop() == 0, server.log_tail()


@pytest.fixture(scope="module")
def pings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pings]:
    name = "python_models" if "python_models" in request.fixturenames else "isolated"
    pings = Pings(request.getfixturevalue(name), tmp_path_factory.mktemp("pings") / "times")
    yield pings
    pings.stop()
