"""What the process and its flows say to the server, and as whom.

- Control: what the process itself says. One connection waits for messages, another says the rest.
- A blocking connection for each thread and each (user, db) that it acts for; commands of flows go through it.
- A connection of the loop thread for each (user, db), for commands that are awaited.

Who a flow acts for is in the context variable ACTOR. Threads that a flow starts inherit it (gears.py).
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import hiredis

from flows.atomic import Block
from flows.connections import (
    CHUNK,
    CLOSED,
    CommandError,
    Connection,
    ConnectionLost,
    Settings,
    Word,
    encode,
    leave_child,
    pack,
    tls_context,
)

FRESH_SECONDS = 0.005  # so long after a reply, the same turn of a thread does not ask whether the connection is open
LATE_SECONDS = 0.2
LINKS = 64  # of each (user, db): a command that blocks, such as a run of a model, holds up those behind it


class Actor(NamedTuple):
    """For whom a command runs, and where."""

    user: str
    db: int


ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)
HOOKED: ContextVar[bytes | None] = ContextVar("hooked", default=None)  # the command that a hook was called for


class Control:
    """What the process itself says to the server, from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._says = self._connect()
        self._hears = self._connect()

    def _connect(self) -> Connection:
        return Connection(self._settings, [("RG._PROCESS", "CONNECT", self._settings.get("secret"))])

    def messages(self) -> list[list[Any]]:
        """Waits for the next ones. The main thread only. "missed": some may be lost with the connection."""
        while True:
            try:
                messages = self._hears.call(("RG._PROCESS", "NEXT"))
                if isinstance(messages, list):
                    return messages
            except (CommandError, ConnectionLost) as error:
                if str(error).startswith("UNBLOCKED"):
                    continue
                self._hears.close()  # an error reply: it has lost its rights
                self._hears = self._connect()
                return [[b"missed"]]

    def say(self, *words: Word) -> Any:
        leave_child()
        with self._lock:
            try:
                return self._says.call(words)
            except CommandError as error:
                if not str(error).startswith("NOPERM"):
                    raise
                self._renew()
            except ConnectionLost:
                self._renew()
            except BaseException:  # an abort: the reply would be taken for that of the next command
                self._renew()
                raise
            return self._says.call(words)

    def _renew(self) -> None:
        self._says.close()
        self._says = self._connect()


class _Mine(threading.local):
    """The connections of a thread, and what runs in it."""

    def __init__(self) -> None:
        self.connections: dict[Actor, Connection] = {}
        self.is_loop = False
        self.turn = 0  # grows with each job of the pool, and each task of an execution
        self.busy: list[Connection] = []  # the one that waits for a reply: another thread may look here


_LATER = (b"RG.TRIGGER", b"RG.PYEXECUTE", b"RG.GETRESULTSBLOCKING")
# They change the connection, which belongs to all flows.
_REFUSED = {
    "AUTH", "HELLO", "RESET", "QUIT", "SELECT", "MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH", "SUBSCRIBE",
    "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR", "SYNC", "PSYNC", "REPLCONF", "READONLY", "READWRITE", "ASKING",
    "CLIENT|REPLY", "CLIENT|TRACKING", "CLIENT|CACHING", "SCRIPT|DEBUG",
}  # fmt: skip


def check(words: Sequence[object]) -> None:
    """Refuses commands after which the connection would not be what the next flow expects."""
    if not words:
        return
    name = (words[0] if isinstance(words[0], str) else encode(words[0]).decode("utf-8", "replace")).upper()
    if name in ("CLIENT", "SCRIPT") and len(words) > 1:
        name += "|" + encode(words[1]).decode("utf-8", "replace").upper()
    if name in _REFUSED:
        raise CommandError(
            f"ERR {name} cannot be called from a flow: it changes the connection; atomic() groups commands"
        )


class Server:
    """The commands of flows: call() in any thread, call_async() on the loop thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.mine = _Mine()
        self.nested: Any = None  # a context for commands that wait for other flows; the pool sets it
        self._links: dict[Actor, list[Link]] = {}
        self._atomic = threading.Lock()
        self._swap = threading.Lock()
        self._held: Block | None = None  # who has _atomic, once the block has begun
        self._numbers = itertools.count(1)
        self._block: ContextVar[Block | None] = ContextVar("block", default=None)

    # ---- commands that wait

    def actor(self) -> Actor:
        actor = ACTOR.get()
        if actor is None:
            raise RuntimeError("this thread belongs to no flow: commands run in flows and in threads that flows start")
        return actor

    def greeting(self, actor: Actor) -> list[tuple[Word, ...]]:
        first: list[tuple[Word, ...]] = [("RG._PROCESS", "USER", self.settings.get("secret"), actor.user)]
        if actor.db:
            first.append(("SELECT", actor.db))
        return first

    def connect(self, actor: Actor) -> Connection:
        try:
            return Connection(self.settings, self.greeting(actor))
        except CommandError as error:
            raise CommandError(f"{error} (this flow runs as the user {actor.user!r}, db {actor.db})") from None

    def connection(self) -> Connection:
        """The connection of this thread for whom it acts; made anew where the server has closed it."""
        actor = self.actor()
        connections = self.mine.connections
        found = connections.get(actor)
        if found is not None:
            is_fresh = 0 < found.used_in == self.mine.turn and time.monotonic() - found.used_at < FRESH_SECONDS
            if is_fresh or not found.is_closed():
                return found
            del connections[actor]
            found.close()
        if len(connections) >= 16:
            connections.pop(next(iter(connections))).close()
        connections[actor] = found = self.connect(actor)
        return found

    def drop(self) -> None:
        """Closes this thread's connections."""
        for connection in self.mine.connections.values():
            connection.close()
        self.mine.connections.clear()

    def call(self, *words: object) -> Any:
        """The reply, raw; an error reply raises."""
        (reply,) = self.exchange([words])
        if isinstance(reply, hiredis.ReplyError):
            raise CommandError(str(reply))
        return reply

    def exchange(self, commands: Sequence[Sequence[object]]) -> list[Any]:
        """Replies to several commands that are sent at once; error replies are among them."""
        for words in commands:
            check(words)
        if (block := self._open_block()) is not None:
            return [block.call(words) for words in commands]
        data = pack(commands[0]) if len(commands) == 1 else b"".join(map(pack, commands))
        if self.waits_for_flows(commands[0]):
            if self.mine.is_loop:
                name = encode(commands[0][0]).decode("utf-8", "replace")
                raise RuntimeError(f"{name} in an async function would wait for itself: use a plain function")
            with self.nested():
                return self._exchange(data, len(commands))
        return self._exchange(data, len(commands))

    def waits_for_flows(self, words: Sequence[object]) -> bool:
        name = words[0]
        if isinstance(name, (str, bytes)) and name[:1] not in ("R", "r", b"R", b"r"):
            return False
        return encode(name).upper() in _LATER

    def _exchange(self, data: bytes, count: int) -> list[Any]:
        connection = self.connection()
        busy = self.mine.busy
        busy.append(connection)
        try:
            connection.send(data)
            replies = [connection.receive() for _ in range(count)]
            connection.used_at, connection.used_in = time.monotonic(), self.mine.turn
            return replies
        except BaseException:
            # Its replies would be taken for those of later commands.
            self._forget(connection)
            raise
        finally:
            busy.clear()

    def _forget(self, connection: Connection) -> None:
        for actor, known in list(self.mine.connections.items()):
            if known is connection:
                del self.mine.connections[actor]
        connection.close()

    # ---- commands that are awaited

    async def call_async(self, *words: object) -> Any:
        actor = self.actor()
        if self._open_block() is not None or not self.mine.is_loop:  # a flow may have a loop of its own
            return self.call(*words)
        check(words)
        return await self._link(actor).call(pack(words))

    def _link(self, actor: Actor) -> Link:
        """One that has nothing to do, if there may be one."""
        links = self._links.setdefault(actor, [])
        least: Link | None = None
        for link in links:
            if link.is_lost:
                continue
            if not link.load:
                return link
            if least is None or link.load < least.load:
                least = link
        if least is None or len(links) < LINKS:
            links[:] = [link for link in links if not link.is_lost]
            links.append(least := Link(self, actor))
        return least

    # ---- atomic blocks

    def _open_block(self) -> Block | None:
        """The block that this code is in. Threads and tasks that were started in it inherit the variable."""
        block = self._block.get()
        return block if block is not None and block.is_open and block.thread == threading.get_ident() else None

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Between begin and end, the server runs this block's commands and nothing else; for 100 ms at most."""
        if self._open_block() is not None:
            raise RuntimeError("an atomic block is within another")
        self._take_turn()
        try:
            actor, connection = self.actor(), self.connection()
            del self.mine.connections[actor]  # other functions of the loop thread must not use it
            try:
                number = next(self._numbers) & 0xFFFFFFFF
                connection.send(pack((b"RG._ATOMIC", number)))
                block = Block(self.settings.pipe, number, connection)
                block.begin()
            except BaseException:
                connection.close()
                raise
        except BaseException:
            self._atomic.release()
            raise
        self._held = block
        token = self._block.set(block)
        try:
            yield
        finally:
            self._block.reset(token)
            if self._end_turn(block, None):
                self.mine.connections.setdefault(actor, connection)
        block.check()

    def _take_turn(self) -> None:
        """The server ends a block after 100 ms, so nobody waits longer for one whose code goes on."""
        while not self._atomic.acquire(timeout=0.02):
            held = self._held
            if held is None:
                continue
            if self.mine.is_loop and held.thread == threading.get_ident():
                self._end_turn(held, "an await within an atomic block ends it where others want one")
            elif time.monotonic() - held.begun > LATE_SECONDS:
                self._end_turn(held, "the atomic block took longer than 100 ms")

    def _end_turn(self, block: Block, why: str | None) -> bool:
        """False where another thread or function has ended it."""
        with self._swap:
            if self._held is not block:
                return False
            self._held = None
            try:
                block.end(why)
            except (OSError, ConnectionLost):
                block.close()
                raise
            finally:
                self._atomic.release()
            if why is not None:
                block.close()
            return True


class Link(asyncio.BufferedProtocol):
    """A connection of the loop thread: commands are sent as they come, replies are told in their order."""

    def __init__(self, server: Server, actor: Actor) -> None:
        self._server = server
        self._actor = actor
        self._reader = hiredis.Reader()
        self._buffer = bytearray(CHUNK)
        self._waiting: deque[asyncio.Future[Any] | None] = deque()
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Future[None] | None = None
        self.is_lost = False
        self.load = 0

    async def _open(self) -> None:
        if self._opening is not None:
            await asyncio.shield(self._opening)
            return
        loop = asyncio.get_running_loop()
        self._opening = loop.create_future()
        self._opening.add_done_callback(lambda done: done.exception())
        try:
            plain = await loop.run_in_executor(None, self._server.connect, self._actor)
            secured = isinstance(plain.socket, ssl.SSLSocket)
            if secured:  # asyncio cannot take over a TLS socket: a new one is greeted
                plain.close()
                settings = self._server.settings
                self._transport, _ = await loop.create_connection(
                    lambda: self,
                    settings.get("host") or "127.0.0.1",
                    int(settings.get("tls_port")),
                    ssl=tls_context(settings),
                    server_hostname="",
                )
                for words in self._server.greeting(self._actor):
                    self._waiting.append(None)
                    self._transport.write(pack(words))
            else:
                plain.socket.setblocking(False)
                self._transport, _ = await loop.connect_accepted_socket(lambda: self, plain.socket)
            self._opening.set_result(None)
        except BaseException as error:
            self.is_lost = True
            self._opening.set_exception(error if isinstance(error, Exception) else ConnectionLost("cancelled"))
            raise

    async def call(self, data: bytes) -> Any:
        self.load += 1
        try:
            if self._transport is None:
                await self._open()
            if self.is_lost or self._transport is None:
                raise ConnectionLost("the connection to the server was lost")
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            self._transport.write(data)
            return await future
        finally:
            self.load -= 1

    def get_buffer(self, size: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        self._reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]
        while (reply := self._reader.gets()) is not False:
            future = self._waiting.popleft()
            if future is None:
                if isinstance(reply, hiredis.ReplyError) and self._transport is not None:
                    self._transport.abort()
            elif not future.done():  # its flow may have been aborted
                if isinstance(reply, hiredis.ReplyError):
                    future.set_exception(CommandError(str(reply)))
                else:
                    future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        for future in self._waiting:
            if future is not None and not future.done():
                future.set_exception(ConnectionLost(CLOSED))
        self._waiting.clear()
