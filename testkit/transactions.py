"""Commands in MULTI and in Lua, and how runs are refused there."""

from __future__ import annotations

from collections.abc import Sequence

from testkit.wire import Error, Wire, Word

REFUSED = "ERR Cannot run RedisAI command within a transaction or a LUA script"

LUA = """
local reply = redis.pcall(unpack(ARGV))
if type(reply) == 'table' and reply.err then return 'error: ' .. reply.err end
if type(reply) == 'table' and reply.ok then return 'ok: ' .. reply.ok end
return reply
"""


def lua(wire: Wire, *words: Word) -> object:
    """The reply to the command in Lua, in which errors and OK are told in a word before them."""
    keys = [words[1]] if len(words) > 1 else []
    return wire.ask("EVAL", LUA, len(keys), *keys, *words)


def check_transaction(wire: Wire, commands: Sequence[tuple[Sequence[Word], object]]) -> None:
    """All commands are queued, and each gives its reply; None: an error."""
    wire.ask("MULTI")
    for words, _ in commands:
        assert wire.ask(*words) == b"QUEUED"
    replies = wire.ask("EXEC")
    for (words, wanted), reply in zip(commands, replies, strict=True):
        if wanted is None:
            assert isinstance(reply, Error), words
        else:
            assert reply == wanted, words


def check_refused_in_multi(wire: Wire, line: str, outputs: tuple[str, ...], outside: object = b"OK") -> None:
    """The commands beside it are run; no output key is written; outside it is answered."""
    assert wire.ask("MULTI") == b"OK"
    assert wire.ask("SET", "k", "v") == b"QUEUED"
    assert wire.ask(*line.split()) == b"QUEUED"
    assert wire.ask("GET", "k") == b"QUEUED"
    assert wire.ask("EXEC") == [b"OK", REFUSED, b"v"]
    assert wire.ask("EXISTS", *outputs) == 0
    assert wire.ask(*line.split()) == outside


def check_refused_in_lua(wire: Wire, line: str, key: str, outputs: tuple[str, ...]) -> None:
    reply = lua(wire, *line.split())
    assert isinstance(reply, bytes)
    assert reply.startswith(b"error: " + REFUSED.encode())
    raised = wire.ask("EVAL", "return redis.call(unpack(ARGV))", 1, key, *line.split())
    assert isinstance(raised, Error)
    assert raised.startswith(REFUSED)
    assert wire.ask("EXISTS", *outputs) == 0
