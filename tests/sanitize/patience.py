"""A pytest plugin for slow builds (scripts/sanitize): servers get longer to start and to stop."""

from testkit import server

server.START_SECONDS = server.STOP_SECONDS = 300.0
