"""The pages of the camera, /all and /cats, and what they show, as server-sent events.

A page's events are `frame` (a picture, and on /cats its label and probability), `class` (on /all, what was classified
last) and `figures` (once a second).
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from .camera import STREAM
from .classifier import CATS

PAGE = Path(__file__).with_name("page.html")
AT_FIRST = 12  # a page begins with so many entries that were there before

Fields = dict[bytes, bytes]


def event(name: str, **data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def seen(fields: Fields) -> dict[str, Any]:
    """The label and the probability in an entry that has them."""
    if b"label" not in fields:
        return {}
    return {"label": fields[b"label"].decode(), "probability": float(fields[b"probability"])}


def frame(identifier: bytes, fields: Fields) -> str:
    if not fields:
        return ""
    image = base64.b64encode(fields[b"image"]).decode()
    return event("frame", id=identifier.decode(), image=image, **seen(fields))


class Figures:
    """The rate of a stream's entries, and the mean time of the model's runs, since the last question."""

    def __init__(self, client: Any, stream: str) -> None:
        self.client = client
        self.stream = stream
        self.before: tuple[float, int, int, int] | None = None

    async def next(self) -> str:
        frames = 0
        if await self.client.exists(self.stream):
            frames = int((await self.client.xinfo_stream(self.stream))["entries-added"])
        told = await self.client.execute_command("AI.INFO", "classifier")
        info = dict(zip(told[::2], told[1::2], strict=True))
        now = time.monotonic(), frames, info[b"calls"], info[b"duration"]
        before, self.before = self.before or (*now[:2], 0, 0), now
        seconds, frames, runs, duration = (new - old for new, old in zip(now, before, strict=True))
        rate = frames / seconds if seconds else None
        return event("figures", rate=rate, runs=info[b"calls"], run_ms=duration / runs / 1000 if runs else None)


def application(client: Any, binding: bool, has_ended: Callable[[], bool]) -> Starlette:
    """`client`: of redis.asyncio. `binding`: whether a binding writes what frames show, and only that. Else a flow
    makes the streams `all` and `cats`."""
    everything = STREAM if binding else "all"

    async def entries(stream: str, first: int) -> AsyncIterator[tuple[bytes, Fields]]:
        """The last entries of a stream and all that follow. After a while with nothing new, one without fields."""
        last = b"0"
        for last, fields in reversed(await client.xrevrange(stream, count=first)):
            yield last, fields
        while not has_ended():
            for _, found in await client.xread({stream: last}, count=10, block=250):
                for last, fields in found:
                    yield last, fields
            yield last, {}

    async def frames() -> AsyncIterator[str]:
        reported = b"0"
        async for entry in entries(everything, 1):
            yield frame(*entry)
            for last, fields in await client.xrevrange("classes", min=b"(" + reported, count=1):
                reported = last
                yield event("class", **seen(fields))

    async def cats() -> AsyncIterator[str]:
        async for entry in entries("cats", AT_FIRST):
            yield frame(*entry)

    async def cats_of_binding() -> AsyncIterator[str]:
        async for _, fields in entries("classes", 10 * AT_FIRST):
            yield ""
            if fields and int(fields[b"class"]) in CATS:
                for identifier, shown in await client.xrange(fields[b"stream"], fields[b"id"], fields[b"id"]):
                    yield frame(identifier, {**shown, **fields})

    async def with_figures(events: AsyncIterator[str]) -> AsyncIterator[str]:
        figures = Figures(client, everything)
        due = 0.0
        async for each in events:
            if each:
                yield each
            if time.monotonic() >= due:
                due = time.monotonic() + 1
                yield await figures.next()

    async def start(request: Request) -> Response:
        return RedirectResponse("/all")

    async def page(request: Request) -> Response:
        return FileResponse(PAGE)

    def follow(events: Callable[[], AsyncIterator[str]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return StreamingResponse(with_figures(events()), media_type="text/event-stream")

        return answer

    routes = [Route("/", start)]
    for path, events in {"/all": frames, "/cats": cats_of_binding if binding else cats}.items():
        routes += [Route(path, page), Route(f"{path}/events", follow(events))]
    return Starlette(routes=routes)
