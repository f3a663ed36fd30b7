"""TCP proxies on loopback whose connections can be cut and held: bytes pass unchanged, or not at all.

Each proxy has a thread of its own, which runs its event loop; the methods may be called on any other thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

PIECE = 1 << 18


class Proxy:
    """Connects its clients to the port that port_of() names at that moment. Its own port stays the same."""

    def __init__(self, port_of: Callable[[], int]) -> None:
        self.port_of = port_of
        self.port = 0
        self.passing = asyncio.Event()
        self.writers: set[asyncio.StreamWriter] = set()
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()
        self.thread = threading.Thread(target=self.serve, args=(ready,), daemon=True)
        self.thread.start()
        ready.wait()

    def serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self.loop)
        listener = self.loop.run_until_complete(asyncio.start_server(self.accept, "127.0.0.1", 0))
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
        for writer in self.writers:
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        with contextlib.suppress(OSError):
            upstream, back = await asyncio.open_connection("127.0.0.1", self.port_of())
            ends.add(back)
            self.writers |= ends
            await asyncio.wait(
                [asyncio.create_task(self.forward(reader, back)), asyncio.create_task(self.forward(upstream, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        self.writers -= ends
        for end in ends:
            end.transport.abort()

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                await self.passing.wait()
                writer.write(piece)
                await writer.drain()

    def cut(self) -> None:
        """Resets every connection, in the middle of what is being sent."""
        self.loop.call_soon_threadsafe(self.abort)

    def hold(self) -> None:
        """Lets nothing pass any more; neither side is told."""
        self.loop.call_soon_threadsafe(self.passing.clear)

    def release(self) -> None:
        self.loop.call_soon_threadsafe(self.passing.set)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
