"""A server with bindings that these tests share, and the model of most: y = 2 x + 1."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit.server import Server, module_path
from tests.bindings.kit import BINDINGS, store
from tests.conftest import SERVERS


@pytest.fixture(scope="session")
def bindings_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("bindings"), module=module_path(), options=BINDINGS).start()
    yield server
    assert server.stop() == 0, server.log_tail()


@pytest.fixture
def server(bindings_server: Server, request: pytest.FixtureRequest) -> Iterator[Server]:
    request.node.stash.setdefault(SERVERS, []).append(bindings_server)
    with bindings_server.wire() as wire:
        wire.ask_ok("FLUSHALL")
        store(wire)
        yield bindings_server
        bindings_server.check_alive()
        for name in wire.ask("AI.BINDLIST"):
            wire.ask_ok("AI.UNBIND", name)
