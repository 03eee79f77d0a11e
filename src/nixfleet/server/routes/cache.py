"""The built-in cache over HTTP: signed uploads under ``/v1/cache``, a standard Nix binary cache under ``/cache``.

It must never hold a NAR in memory, nor make a file name of what was asked for: `server.cache` looks names up.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from litestar import Request, Response, delete, get, post, put, route
from litestar.enums import HttpMethod
from litestar.params import FromPath, FromQuery
from litestar.response import Stream
from litestar.types import ControllerRouterHandler

from nixfleet.model.wire import UPLOAD_CHUNK_BYTES, CachePath, Missing, UploadState
from nixfleet.server.cache import INFO, BinaryCache, NarFile
from nixfleet.server.faults import Unknown
from nixfleet.server.routes.bodies import decoded

Judge = Callable[[Request[Any, Any, Any]], Awaitable[bytes]]
"""Verifies a request's signature and the right to `release`, and gives the request's body."""

_READ = [HttpMethod.GET, HttpMethod.HEAD]
_SEND_BYTES: Final = 256 << 10
_MISSING_BYTES_MAX: Final = 64 << 20
_PATH_BYTES_MAX: Final = 8 << 20
"""20,000 references of at most 255 bytes, and what stands around them."""
_RANGE: Final = re.compile(r"bytes=(?:(\d{1,19})-(\d{1,19})?|-(\d{1,19}))", re.ASCII)


def cache_routes(cache: BinaryCache, judge: Judge) -> list[ControllerRouterHandler]:
    """Make the cache's route handlers; `judge` stands before every one that takes something."""
    return [*_upload_routes(cache, judge), *_nix_routes(cache)]


def _upload_routes(cache: BinaryCache, judge: Judge) -> list[ControllerRouterHandler]:
    @post("/v1/cache/missing", status_code=200, request_max_body_size=_MISSING_BYTES_MAX)
    async def missing(request: Request[Any, Any, Any]) -> Missing:
        """Tell which of a closure's paths the cache lacks."""
        asked = decoded(await judge(request), Missing)
        return Missing(paths=await cache.missing(asked.paths))

    @get("/v1/cache/uploads/{part:str}")
    async def upload_state(request: Request[Any, Any, Any], part: FromPath[str]) -> UploadState:
        """Tell where a broken upload goes on."""
        await judge(request)
        return UploadState(offset=await cache.held_bytes(part))

    @put("/v1/cache/uploads/{part:str}", request_max_body_size=UPLOAD_CHUNK_BYTES)
    async def upload(request: Request[Any, Any, Any], part: FromPath[str], offset: FromQuery[int]) -> UploadState:
        """Take the next chunk of a zstd-compressed NAR."""
        return UploadState(offset=await cache.append(part, offset, await judge(request)))

    @delete("/v1/cache/uploads/{part:str}", status_code=200)
    async def drop(request: Request[Any, Any, Any], part: FromPath[str]) -> UploadState:
        """Throw an unfinished upload away."""
        await judge(request)
        await cache.drop(part)
        return UploadState(offset=0)

    @post("/v1/cache/paths", status_code=200, request_max_body_size=_PATH_BYTES_MAX)
    async def commit(request: Request[Any, Any, Any]) -> dict[str, str]:
        """Unpack, hash and publish an upload."""
        await cache.commit(decoded(await judge(request), CachePath))
        return {}

    return [missing, upload_state, upload, drop, commit]


def _nix_routes(cache: BinaryCache) -> list[ControllerRouterHandler]:
    @route("/cache/nix-cache-info", http_method=_READ, media_type="text/x-nix-cache-info", status_code=200)
    async def info() -> bytes:
        """Introduce the cache to Nix."""
        return INFO

    @route("/cache/{name:str}", http_method=_READ, status_code=200)
    async def narinfo(name: FromPath[str]) -> Response[bytes]:
        """Serve what the cache says of one path."""
        part, _, kind = name.partition(".")
        text = await asyncio.to_thread(cache.info, part) if kind == "narinfo" else None
        if text is None:
            raise Unknown("this cache does not have the path")
        return Response(text, media_type="text/x-nix-narinfo")

    @route("/cache/nar/{name:str}", http_method=_READ, status_code=200)
    async def nar(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes] | Stream:
        """Serve a NAR, or a range of it."""
        file = await asyncio.to_thread(cache.nar, name)
        if file is None:
            raise Unknown("this cache does not have the file")
        return _nar_answer(request, file)

    return [info, narinfo, nar]


def _nar_answer(request: Request[Any, Any, Any], file: NarFile) -> Response[bytes] | Stream:
    """Answer with the whole file or one range of it (RFC 9110 section 14); several ranges get the whole."""
    etag = f'"{file.path.name[:52]}"'  # the name is the hash of the content
    headers = {"etag": etag, "accept-ranges": "bytes", "cache-control": "public, max-age=31536000, immutable"}
    held = request.headers.get("if-none-match", "")
    if etag in held or held.strip() == "*":
        return Response(b"", status_code=304, headers=headers)
    status, start, end = 200, 0, file.size_bytes
    if request.headers.get("if-range", etag) == etag and (wanted := request.headers.get("range")):
        found = _range(wanted, file.size_bytes)
        if found is not None and found[0] >= found[1]:
            return Response(b"", status_code=416, headers={**headers, "content-range": f"bytes */{file.size_bytes}"})
        if found is not None:
            status, (start, end) = 206, found
            headers["content-range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
    headers["content-length"] = str(end - start)
    body = _nothing() if request.method == HttpMethod.HEAD else _bytes_of(file, start, end)
    return Stream(body, status_code=status, headers=headers, media_type="application/x-nix-nar")


def _range(text: str, size: int) -> tuple[int, int] | None:
    """Read a range as start and end (exclusive), empty when it cannot be satisfied; None for what is to be ignored."""
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return max(0, size - int(suffix)), size
    if last is not None and int(last) < int(first):
        return None
    return int(first), size if last is None else min(size, int(last) + 1)


async def _bytes_of(file: NarFile, start: int, end: int) -> AsyncIterator[bytes]:
    """Read a file piecewise, off the event loop."""
    stream = await asyncio.to_thread(file.path.open, "rb")
    try:
        await asyncio.to_thread(stream.seek, start)
        while start < end and (chunk := await asyncio.to_thread(stream.read, min(_SEND_BYTES, end - start))):
            start += len(chunk)
            yield chunk
    finally:
        stream.close()


async def _nothing() -> AsyncIterator[bytes]:
    """Send no body, as HEAD demands, under the headers of the whole."""
    return
    yield b""
