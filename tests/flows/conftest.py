"""A server with flows that these tests share, whose process the tests play."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.server import Server, module_path
from tests.conftest import SERVERS
from tests.flows.kit import FLOWS, Process, module_with_stub, start
from tests.flows.programs import Programs


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return module_with_stub(tmp_path_factory.mktemp("stub"))


@pytest.fixture(scope="session")
def flows_server(tmp_path_factory: pytest.TempPathFactory, module: Path) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("flows"), module=module, options=FLOWS).start()
    yield server
    assert server.stop() == 0, server.log_tail()


@pytest.fixture
def server(flows_server: Server, request: pytest.FixtureRequest) -> Iterator[Server]:
    request.node.stash.setdefault(SERVERS, []).append(flows_server)
    with flows_server.wire() as wire:
        wire.ask_ok("FLUSHALL")
    yield flows_server
    flows_server.check_alive()


@pytest.fixture
def flows(server: Server) -> Iterator[Process]:
    process = start(server)
    yield process
    process.control.close()


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With the flow process itself."""
    server = Server(tmp_path_factory.mktemp("real"), module=module_path(), options=FLOWS).start()
    yield server
    assert server.stop() == 0, server.log_tail()


@pytest.fixture
def programs(real_server: Server, request: pytest.FixtureRequest) -> Iterator[Programs]:
    """Runs flows. No flow is registered and no key exists at the start of a test."""
    request.node.stash.setdefault(SERVERS, []).append(real_server)
    with Programs(real_server) as programs:
        programs.wire.ask_ok("FLUSHALL")
        programs.ask("RG.PYSTATS")  # it starts the process
        yield programs
    real_server.check_alive()
    with Programs(real_server) as programs:
        programs.unregister_all()
