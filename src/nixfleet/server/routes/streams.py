"""The event streams of agents and consoles: signed once, when they are opened; pings keep them alive."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from litestar import Response, get
from litestar.params import FromQuery
from litestar.response.base import ASGIResponse
from litestar.types import ControllerRouterHandler, Receive, Scope, Send

from nixfleet.model.ids import MAX_INT
from nixfleet.server.auth import AnyRequest, Auth
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.routes.bodies import bounded

SEND_S = 30
"""A listener that takes nothing for so long is dropped; it reconnects."""
_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class EventStream(ASGIResponse):
    """Sends a generator's blocks as they come, until it ends or the listener goes away."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__()
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's three
        """Serve; the generator is always closed before this returns."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        async with contextlib.aclosing(self._events) as events:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            async for block in events:
                async with asyncio.timeout(SEND_S):
                    await send({"type": "http.response.body", "body": block, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class StreamResponse(Response[bytes]):
    """Hands an event stream to the server as it is."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(b"", media_type="text/event-stream")
        self._events = events

    def to_asgi_response(self, *_args: Any, **_named: Any) -> ASGIResponse:
        """Give the stream; nothing is added to it."""
        return EventStream(self._events)


def stream_routes(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    """Make the routes."""

    @get("/v1/agent/events", media_type="text/event-stream")
    async def agent_events(request: AnyRequest, size: FromQuery[int] = 0) -> StreamResponse:
        """Stream `sync` events to a device, the first at once."""
        device, _ = await auth.device(request, "follow a device's events")
        return StreamResponse(coordinator.presence.stream(device, bounded(size, 0, MAX_INT, "size")))

    @get("/v1/events", media_type="text/event-stream")
    async def console_events(request: AnyRequest, since: FromQuery[int]) -> StreamResponse:
        """Stream numbered deltas to a console, empty ones for what its key may not read."""
        reader = await auth.reader(request, "follow what happens")
        start = bounded(since, 0, MAX_INT, "since")
        judge = partial(auth.reach, reader.key, reader.until)
        return StreamResponse(coordinator.announcer.stream(start, reader.key, judge))

    return [agent_events, console_events]
