"""A real coordinator's cache routes on a loopback port, and NARs to put into it."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
import uvicorn
import zstandard
from litestar import Litestar, Request, Response

from nixfleet.errors import NixfleetError
from nixfleet.model.wire import CachePath, ErrorBody
from nixfleet.server.cache import BinaryCache
from nixfleet.server.faults import status_of
from nixfleet.server.routes.cache import cache_routes
from nixfleet.trust.narinfo import base32_encode


def _word(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data + b"\0" * (-len(data) % 8)


def nar_of(content: bytes) -> bytes:
    """Write the NAR of a plain file (Nix manual, NAR format)."""
    words = (b"nix-archive-1", b"(", b"type", b"regular", b"contents", content, b")")
    return b"".join(_word(word) for word in words)


def path_of(content: bytes, *references: str, name: str = "thing") -> CachePath:
    """Describe a plain file as a store path, with a made-up path hash that depends on the content."""
    nar = nar_of(content)
    part = base32_encode(hashlib.sha256(b"path" + content).digest()[:20])
    return CachePath(
        store_path=f"/nix/store/{part}-{name}",
        nar_hash=f"sha256:{base32_encode(hashlib.sha256(nar).digest())}",
        nar_bytes=len(nar),
        references=references,
    )


def packed(content: bytes) -> bytes:
    """Compress the NAR of a plain file as a push does."""
    return zstandard.ZstdCompressor(level=3).compress(nar_of(content))


async def anybody(request: Request[Any, Any, Any]) -> bytes:
    """Let everybody push: whose right it is, is another's rule."""
    return await request.body()


class _Web(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the test's signals alone."""
        yield


@asynccontextmanager
async def cache_host(
    cache: BinaryCache, judge: Callable[[Request[Any, Any, Any]], Awaitable[bytes]] = anybody
) -> AsyncIterator[str]:
    """Serve the cache's routes on a free port and give the address."""

    def refused(_: Request[Any, Any, Any], error: NixfleetError) -> Response[bytes]:
        status, kind = status_of(error)
        body = msgspec.json.encode(ErrorBody(error=str(error), kind=kind))
        return Response(body, status_code=status, media_type="application/json")

    app = Litestar(cache_routes(cache, judge), exception_handlers={NixfleetError: refused}, logging_config=None)
    listener = socket.create_server(("127.0.0.1", 0))
    web = _Web(uvicorn.Config(app, lifespan="off", log_config=None, ws="none", http="h11"))
    serving = asyncio.create_task(web.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        web.should_exit = True
        await serving
        listener.close()
