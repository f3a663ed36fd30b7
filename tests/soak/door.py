"""TCP proxies on loopback, for links that can be cut and held: bytes go through a Door unchanged, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

PIECE = 1 << 18


class Door:
    """Leads to whatever port port_of() names when somebody comes. Its own port stays the same."""

    def __init__(self, port_of: Callable[[], int]) -> None:
        self.port_of = port_of
        self.port = 0
        self.passing = asyncio.Event()
        self.inside: set[asyncio.StreamWriter] = set()
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()
        self.thread = threading.Thread(target=self.serve, args=(ready,), daemon=True)
        self.thread.start()
        ready.wait()

    def serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self.loop)
        listener = self.loop.run_until_complete(asyncio.start_server(self.enter, "127.0.0.1", 0))
        self.port = int(listener.sockets[0].getsockname()[1])
        self.passing.set()
        ready.set()
        self.loop.run_forever()
        listener.close()
        self.abort()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.close()

    def abort(self) -> None:
        for writer in self.inside:
            writer.transport.abort()

    async def enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self.port_of())
            ends.add(back)
            self.inside |= ends
            await asyncio.wait(
                [asyncio.create_task(self.carry(reader, back)), asyncio.create_task(self.carry(there, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        self.inside -= ends
        for end in ends:
            end.transport.abort()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                await self.passing.wait()
                writer.write(piece)
                await writer.drain()

    def cut(self) -> None:
        """Resets every connection, in the middle of what is under way."""
        self.loop.call_soon_threadsafe(self.abort)

    def hold(self) -> None:
        """Nothing passes any more, and neither side is told."""
        self.loop.call_soon_threadsafe(self.passing.clear)

    def release(self) -> None:
        self.loop.call_soon_threadsafe(self.passing.set)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
