"""Bring closures from the local Nix store into the coordinator's built-in cache: only what is missing, resumably.

It must never leave a path in the cache whose content differs from the local one without saying so.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Final, Protocol

import msgspec
import zstandard

from nixfleet.client.api import Client
from nixfleet.client.upstream import signed_upstream
from nixfleet.errors import Conflict, Unreachable, UserError
from nixfleet.model.statements import CacheRef
from nixfleet.model.wire import UPLOAD_CHUNK_BYTES, CachePath
from nixfleet.trust.narinfo import hash_part, parse_narinfo

LEVEL: Final = 3
"""Compression must give the same bytes every time, in one thread, for a broken upload to be resumed."""
_AT_ONCE: Final = 4
_ASK_AT_ONCE: Final = 16
_ANEW_MAX: Final = 2
_WAITS_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)

Sleep = Callable[[float], Awaitable[None]]


class LocalPath(Protocol):
    """What the local Nix database says of a path; `nar_hash` is `sha256:<nix base32>`."""

    @property
    def path(self) -> str: ...  # noqa: D102  a field
    @property
    def nar_hash(self) -> str: ...  # noqa: D102  a field
    @property
    def nar_bytes(self) -> int: ...  # noqa: D102  a field
    @property
    def references(self) -> tuple[str, ...]: ...  # noqa: D102  a field
    @property
    def deriver(self) -> str | None: ...  # noqa: D102  a field


class LocalStore(Protocol):
    """The part of `nixfleet.nix.Nix` that a push needs."""

    async def closure(self, path: str) -> Sequence[LocalPath]:
        """List a path and all it needs."""

    def dump_nar(self, path: str) -> AsyncIterator[bytes]:
        """Stream a path as a NAR."""


class PushProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a push is: NAR bytes handled of those missing, compressed bytes sent, and paths."""

    done_bytes: int
    total_bytes: int
    sent_bytes: int
    paths_done: int
    paths_total: int


class PushResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a push came to; `upstreams` are the caches, beside the built-in one, that the closures rely on."""

    paths: int
    pushed: tuple[str, ...]
    present: int
    upstream: int
    sent_bytes: int
    upstreams: tuple[CacheRef, ...] = ()


async def push(
    paths: Iterable[str],
    nix: LocalStore,
    client: Client,
    on_progress: Callable[[PushProgress], None],
    *,
    caches: Sequence[CacheRef] = (),
    sleep: Sleep = asyncio.sleep,
) -> PushResult:
    """Push whole closures; skip what the cache has, and what a cache of `caches` (the root's list) has signed.

    Raises: UserError when the cache holds other content for a path; Unreachable when it breaks too often: the next
    push goes on from there.
    """
    needed = {info.path: info for path in dict.fromkeys(paths) for info in await nix.closure(path)}
    missing = await client.cache_missing(list(needed))
    await _compare(client, [info for path, info in needed.items() if path not in set(missing)])
    elsewhere = await signed_upstream({path: needed[path].nar_hash for path in missing}, caches)
    todo = [needed[path] for path in missing if path not in elsewhere]
    work = _Push(nix, client, on_progress, sleep, todo)
    await work.run()
    return PushResult(
        paths=len(needed),
        pushed=tuple(info.path for info in todo),
        present=len(needed) - len(missing),
        upstream=len(elsewhere),
        sent_bytes=work.sent_bytes,
        upstreams=tuple(dict.fromkeys(elsewhere.values())),
    )


async def _compare(client: Client, present: Sequence[LocalPath]) -> None:
    """Check that the cache's content is the local one: its signature binds content to a path, not to our intent."""
    slots = asyncio.Semaphore(_ASK_AT_ONCE)

    async def compare(local: LocalPath) -> None:
        async with slots:
            text = await client.narinfo(hash_part(local.path))
        if text is not None and (held := parse_narinfo(text).nar_hash) != local.nar_hash:
            raise UserError(
                f"the cache has {local.path} with other content ({held}, here {local.nar_hash}): it was built"
                " elsewhere with another result; build it anew under another name, or remove it from the cache"
            )

    await _together(compare(local) for local in present)


async def _together(jobs: Iterable[Coroutine[None, None, None]]) -> None:
    """Run jobs at once; the first error ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for job in jobs:
                tasks.create_task(job)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


class _StartOverError(Exception):
    """The bytes held by the coordinator are not the beginning of ours."""


class _Push:
    """One push under way: what is done of each path, and what was sent."""

    def __init__(
        self,
        nix: LocalStore,
        client: Client,
        on_progress: Callable[[PushProgress], None],
        sleep: Sleep,
        todo: Sequence[LocalPath],
    ) -> None:
        self._nix, self._client, self._sleep, self._todo = nix, client, sleep, todo
        self._on_progress = on_progress
        self._done_of: dict[str, int] = {}
        self._done_bytes = 0
        self._total_bytes = sum(info.nar_bytes for info in todo)
        self._paths_done = 0
        self.sent_bytes = 0

    async def run(self) -> None:
        self._tell()
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(info: LocalPath) -> None:
            async with slots:
                await self._path(info)
            self._paths_done += 1
            self._tell()

        await _together(one(info) for info in self._todo)

    async def _path(self, info: LocalPath) -> None:
        """Upload and commit one path, over broken connections, other pushers, and beginnings that are not ours."""
        part = hash_part(info.path)
        tries, anew, furthest_bytes = 0, 0, -1
        while True:
            try:
                held = await self._client.upload_state(part)
                if held > furthest_bytes:
                    # It gets on, by us or by somebody who pushes the same: no reason to give up.
                    tries, furthest_bytes = 0, held
                await self._upload(info, part, held)
                await self._commit(info, resumed=held > 0)
                break
            except _StartOverError:
                anew += 1
                if anew > _ANEW_MAX:
                    raise UserError(f"the upload of {info.path} was spoilt {anew} times; try again later") from None
                await self._client.drop_upload(part)
            except (Unreachable, Conflict):
                if tries == len(_WAITS_S):
                    raise
                await self._sleep(_WAITS_S[tries])
                tries += 1
                if not await self._still_missing(info.path):
                    break
        self._done(info, info.nar_bytes)

    async def _still_missing(self, path: str) -> bool:
        """Tell whether a path still has to be sent; somebody else, or our own lost request, may have published it."""
        try:
            return bool(await self._client.cache_missing([path]))
        except Unreachable:
            return True

    async def _upload(self, info: LocalPath, part: str, held: int) -> None:
        """Send the compressed NAR from byte `held` on."""
        packer = zstandard.ZstdCompressor(level=LEVEL, threads=0).compressobj()
        buffer, at, read_bytes = bytearray(), 0, 0
        async with aclosing(_whole(self._nix.dump_nar(info.path), packer)) as pieces:
            async for piece, nar_bytes in pieces:
                read_bytes += nar_bytes
                # What the coordinator holds is made again, and skipped.
                skipped = min(len(piece), max(0, held - at))
                at += len(piece)
                buffer += piece[skipped:]
                while len(buffer) >= UPLOAD_CHUNK_BYTES:
                    await self._send(part, at - len(buffer), bytes(buffer[:UPLOAD_CHUNK_BYTES]))
                    del buffer[:UPLOAD_CHUNK_BYTES]
                self._done(info, read_bytes)
        if held > at:
            raise _StartOverError
        if buffer:
            await self._send(part, at - len(buffer), bytes(buffer))

    async def _send(self, part: str, offset: int, chunk: bytes) -> None:
        await self._client.upload_chunk(part, offset, chunk)
        self.sent_bytes += len(chunk)
        self._tell()

    async def _commit(self, info: LocalPath, *, resumed: bool) -> None:
        said = CachePath(
            store_path=info.path,
            nar_hash=info.nar_hash,
            nar_bytes=info.nar_bytes,
            references=info.references,
            deriver=info.deriver,
        )
        try:
            await self._client.commit_path(said)
        except UserError:
            # The coordinator dropped it: perhaps its beginning was of another version of the compressor.
            if resumed:
                raise _StartOverError from None
            raise

    def _done(self, info: LocalPath, nar_bytes: int) -> None:
        """Note how far a path is; a repeat after a break begins again from zero."""
        nar_bytes = min(nar_bytes, info.nar_bytes)
        self._done_bytes += nar_bytes - self._done_of.get(info.path, 0)
        self._done_of[info.path] = nar_bytes
        self._tell()

    def _tell(self) -> None:
        self._on_progress(
            PushProgress(
                done_bytes=self._done_bytes,
                total_bytes=self._total_bytes,
                sent_bytes=self.sent_bytes,
                paths_done=self._paths_done,
                paths_total=len(self._todo),
            )
        )


async def _whole(
    chunks: AsyncIterator[bytes], packer: "zstandard.ZstdCompressionObj"
) -> AsyncGenerator[tuple[bytes, int], None]:
    """Compress a stream to its end; gives compressed bytes and how many plain ones went in."""
    async for chunk in chunks:
        yield packer.compress(chunk), len(chunk)
    yield packer.flush(), 0
