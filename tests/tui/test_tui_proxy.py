"""The console's feed with the real client and a real coordinator, behind a proxy that holds event streams back."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.factories import device_id
from tests.server.harness import Rig, rig
from tests.tui.console_ports import FakeVerifier, connect

from nixfleet.tui.adapter import ClientSource
from nixfleet.tui.calls import Calls
from nixfleet.tui.feed import POLL_S, Feed
from nixfleet.tui.store import Store

DEADLINE_S = 30
BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Passes bytes on, but answers 502 to whoever asks for events while `buffers` is set."""

    def __init__(self, upstream_port: int) -> None:
        self.buffers = True
        self._port = upstream_port
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        async with _closing(writer):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._pass_on(reader, writer)
        self._serving.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if self.buffers and b" /v1/events" in head.split(b"\r\n", 1)[0]:
            writer.write(BAD_GATEWAY)
            await writer.drain()
            return
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        async with _closing(to_server):
            to_server.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            await _pump(from_server, writer)

    async def end(self) -> None:
        """Hang up on everybody."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncGenerator[None, None]:
    """Close a connection, whatever ended it."""
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65_536):
        writer.write(chunk)
        await writer.drain()


@asynccontextmanager
async def behind_a_proxy(one: Rig) -> AsyncGenerator[tuple[Feed, Store, Proxy], None]:
    """Run a feed as the fleet's admin through the proxy; waiting for the next poll takes no time to speak of."""
    proxy = Proxy(int(one.server.address.rpartition(":")[2]))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    store = Store()
    mirror: Any = None  # the feed reads no release here
    async with one.client("admin", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:

        async def wait(delay_s: float) -> None:
            await asyncio.sleep(min(delay_s, 0.01))

        verifier, calls = FakeVerifier(), Calls(lambda: one.now)
        source = ClientSource(client, mirror)
        feed = Feed(connect(source, verifier=verifier), store, calls, clock=lambda: one.now, wait=wait)
        task = asyncio.create_task(feed.run())
        try:
            yield feed, store, proxy
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            server.close()
            await proxy.end()
            await server.wait_closed()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that a real socket brings; fails after the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110 - the other side is a thread and a socket; bounded by the deadline
            await asyncio.sleep(0.01)


async def test_a_buffering_proxy_makes_it_poll_until_streams_come_through(tmp_path: Path) -> None:
    """Behind it a new device is seen by polling; once streams come through, the link is live and changes are, too."""
    assert POLL_S >= 1, "a coordinator is not asked for everything all the time"
    async with rig(tmp_path, "web-01") as one, behind_a_proxy(one) as (feed, store, proxy):
        await until(lambda: feed.link.state == "polling" and device_id("web-01") in store.devices)
        async with one.client("admin") as admin:
            one.fleet.device("web-02", tags={"env": "prod"})
            await one.send(admin)
            await until(lambda: device_id("web-02") in store.devices)
            polled = feed.link.state
            proxy.buffers = False
            await until(lambda: feed.link.state == "live")
            one.fleet.device("web-03", tags={"env": "prod"})
            await one.send(admin)
            await until(lambda: device_id("web-03") in store.devices)
        assert ("polling", "live") == (polled, feed.link.state)
