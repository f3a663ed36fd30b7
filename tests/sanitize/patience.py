"""A pytest plugin for slow builds (scripts/sanitize): servers get longer to start and to stop. Engine processes get no
limit of memory: AddressSanitizer's own would count."""

from testkit import isolation, server

server.START_SECONDS = server.STOP_SECONDS = 300.0
isolation.MEMORY_LIMIT.clear()
