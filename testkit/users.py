"""Users with rules of their own (ACL), and connections on which they are logged in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from testkit.server import Server
from testkit.wire import Wire

USER = "caller"
Login = Callable[..., Wire]


@contextmanager
def logins(server: Server) -> Iterator[Login]:
    """login(*rules) gives the user these rules, and returns a connection of theirs."""
    connections: list[Wire] = []
    with server.wire() as admin:

        def login(*rules: str) -> Wire:
            assert admin.ask("ACL", "SETUSER", USER, "reset", "on", "nopass", *rules) == b"OK"
            connections.append(server.wire())
            assert connections[-1].ask("AUTH", USER, "any") == b"OK"
            return connections[-1]

        yield login
        for connection in connections:
            connection.close()
        admin.ask("ACL", "DELUSER", USER)
