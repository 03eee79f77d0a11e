"""Pushing closures into a real cache over sockets: only what is missing, resumed, never other content."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard
from litestar import Request
from tests.cachehost import anybody, cache_host, nar_of, path_of
from tests.httpd import Answer, Asked, httpd

from nixfleet.client import push as pushing
from nixfleet.client.api import Client
from nixfleet.client.push import PushProgress, PushResult, push
from nixfleet.client.upstream import signed_upstream
from nixfleet.errors import Unreachable, UserError
from nixfleet.model.statements import CacheRef
from nixfleet.model.wire import CachePath
from nixfleet.server.cache import BinaryCache, CacheLimits
from nixfleet.trust.narinfo import CacheKey, NarInfo, format_narinfo, hash_part

KEY = CacheKey.generate("fleet-1")


class Local:
    """A path of the made-up local store."""

    def __init__(self, said: CachePath) -> None:
        self.path, self.nar_hash, self.nar_bytes = said.store_path, said.nar_hash, said.nar_bytes
        self.references, self.deriver = said.references, said.deriver


class Store:
    """A local Nix store of plain files; each path's closure is all files before it."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = {path_of(one).store_path: one for one in contents}
        self.dumps: list[str] = []

    @property
    def paths(self) -> list[str]:
        """All paths, lowest first."""
        return list(self.contents)

    async def closure(self, path: str) -> Sequence[Local]:
        """List a path and those below it."""
        return [Local(path_of(self.contents[one])) for one in self.paths[: self.paths.index(path) + 1]]

    async def dump_nar(self, path: str) -> AsyncIterator[bytes]:
        """Stream a path's NAR in small pieces."""
        self.dumps.append(path)
        nar = nar_of(self.contents[path])
        for at in range(0, len(nar), 100_000):
            yield nar[at : at + 100_000]


@pytest.fixture
def cache(tmp_path: Path) -> BinaryCache:
    """Give an empty cache."""
    return BinaryCache(tmp_path, KEY, clock=lambda: 0, limits=CacheLimits(keep_free_bytes=0))


Judge = Callable[[Request[Any, Any, Any]], Awaitable[bytes]]


@asynccontextmanager
async def client_of(cache: BinaryCache, judge: Judge = anybody) -> AsyncIterator[Client]:
    """Serve a cache and give a client of it."""
    async with cache_host(cache, judge) as url, Client([url], fleet="", key=None, clock=lambda: 0) as api:
        yield api


async def pushed(api: Client, store: Store, **settings: Any) -> tuple[PushResult, list[PushProgress]]:
    """Push the top path of a store without waiting between tries."""
    told: list[PushProgress] = []

    async def no_wait(_: float) -> None:
        return

    result = await push([store.paths[-1]], store, api, told.append, sleep=no_wait, **settings)
    return result, told


async def test_a_closure_is_pushed_once(cache: BinaryCache) -> None:
    """All of a closure arrives, and the next push sends nothing."""
    store = Store(b"low", b"middle", os.urandom(300_000))
    async with client_of(cache) as api:
        first, told = await pushed(api, store)
        again, _ = await pushed(api, store)
    assert (3, 3, 0) == (first.paths, len(first.pushed), first.present)
    assert ((), 3, 0) == (again.pushed, again.present, again.sent_bytes)
    assert all(cache.info(hash_part(path)) for path in store.paths)
    assert (told[-1].total_bytes, 3) == (told[-1].done_bytes, told[-1].paths_done)
    assert told[-1].sent_bytes == first.sent_bytes > 300_000
    done = [one.done_bytes for one in told]
    assert sorted(done) == done


async def test_only_what_is_missing_is_sent(cache: BinaryCache) -> None:
    """A closure that shares paths with one in the cache sends only the new ones."""
    async with client_of(cache) as api:
        await pushed(api, Store(b"low", b"one"))
        store = Store(b"low", b"two")
        result, _ = await pushed(api, store)
    assert ((store.paths[1],), 1, [store.paths[1]]) == (result.pushed, result.present, store.dumps)


async def test_other_content_under_a_cached_path_fails(cache: BinaryCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the cache holds a path with another NAR hash than the local one, nothing is pushed and both are told."""
    store = Store(b"low", b"high")
    async with client_of(cache) as api:
        await pushed(api, Store(b"low"))
        true = Local(path_of(b"low"))
        forged = Local(path_of(b"low"))
        forged.nar_hash = path_of(b"changed").nar_hash

        async def closure(_: str) -> Sequence[Local]:
            return [forged, Local(path_of(b"high"))]

        monkeypatch.setattr(store, "closure", closure)
        with pytest.raises(UserError, match="with other content") as caught:
            await pushed(api, store)
    assert true.nar_hash in str(caught.value)
    assert (None, []) == (cache.info(hash_part(store.paths[1])), store.dumps)


class Flaky:
    """Lets requests through, but breaks some chunks: before they count, or after (their answer gets lost)."""

    def __init__(self, *fates: str) -> None:
        self.fates = list(fates)
        self.offsets: list[int] = []

    async def __call__(self, request: Request[Any, Any, Any]) -> bytes:
        """Judge a request."""
        body = await request.body()
        if request.method == "PUT":
            self.offsets.append(int(request.query_params["offset"]))
            if self.fates and self.fates.pop(0) == "break":
                raise Unreachable("the network broke")
        return body


async def test_a_broken_upload_goes_on_where_it_stood(cache: BinaryCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a break the next try sends from the held offset on, and the path ends up whole."""
    monkeypatch.setattr(pushing, "UPLOAD_CHUNK_BYTES", 100_000)
    store, flaky = Store(os.urandom(450_000)), Flaky("", "", "break", "", "break")
    async with client_of(cache, flaky) as api:
        result, told = await pushed(api, store)
    assert [0, 100_000, 200_000, 200_000, 300_000, 300_000, 400_000] == flaky.offsets
    assert (3, True) == (len(store.dumps), cache.info(hash_part(store.paths[0])) is not None)
    assert told[-1].done_bytes == told[-1].total_bytes
    assert 450_000 < result.sent_bytes < 460_000


async def test_a_push_that_died_is_taken_up_by_the_next(cache: BinaryCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push that gave up leaves its part; the next one sends only the rest."""
    monkeypatch.setattr(pushing, "UPLOAD_CHUNK_BYTES", 100_000)
    store, dead = Store(os.urandom(450_000)), Flaky("", "", *["break"] * 10)
    async with client_of(cache, dead) as api:
        with pytest.raises(Unreachable):
            await pushed(api, store)
    alive = Flaky()
    async with client_of(cache, alive) as api:
        result, _ = await pushed(api, store)
    assert (200_000, True) == (alive.offsets[0], result.sent_bytes < 260_000)


@pytest.mark.parametrize("held", [b"not our bytes", b"x" * 2_000_000])
async def test_a_foreign_beginning_is_thrown_away(cache: BinaryCache, held: bytes) -> None:
    """When what the coordinator holds is not the beginning of ours, or longer, the upload starts over."""
    store = Store(os.urandom(300_000))
    part = hash_part(store.paths[0])
    await cache.append(part, 0, held)
    async with client_of(cache) as api:
        await pushed(api, store)
    assert cache.info(part) is not None


async def test_a_whole_upload_is_only_committed(cache: BinaryCache) -> None:
    """When everything arrived but the commit did not, nothing is sent again."""
    store = Store(b"thing")
    packer = zstandard.ZstdCompressor(level=pushing.LEVEL, threads=0).compressobj()
    part = hash_part(store.paths[0])
    await cache.append(part, 0, packer.compress(nar_of(b"thing")) + packer.flush())
    async with client_of(cache) as api:
        result, _ = await pushed(api, store)
    assert (0, True) == (result.sent_bytes, cache.info(part) is not None)


async def test_two_pushes_at_once_both_end_well(cache: BinaryCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two admins who push the same closure at the same time both succeed."""
    monkeypatch.setattr(pushing, "UPLOAD_CHUNK_BYTES", 50_000)
    stores = Store(b"low", os.urandom(200_000)), Store()
    stores[1].contents = stores[0].contents
    async with client_of(cache) as one, client_of(cache) as other:
        await asyncio.gather(
            push([stores[0].paths[-1]], stores[0], one, lambda _: None, sleep=lambda _: asyncio.sleep(0.01)),
            push([stores[1].paths[-1]], stores[1], other, lambda _: None, sleep=lambda _: asyncio.sleep(0.013)),
        )
    assert all(cache.info(hash_part(path)) for path in stores[0].paths)


# Upstream caches


def upstream_of(*contents: bytes, key: CacheKey) -> Callable[[Asked], Answer]:
    """Serve narinfos of plain files as a public cache does."""
    infos = {}
    for content in contents:
        said = path_of(content)
        info = NarInfo(
            store_path=said.store_path, url="nar/x", compression="xz", file_hash=said.nar_hash, file_bytes=1,
            nar_hash=said.nar_hash, nar_bytes=said.nar_bytes, references=(),
        )  # fmt: skip
        infos[f"/{hash_part(said.store_path)}.narinfo"] = format_narinfo(key.signed(info))
    return lambda asked: (
        Answer(infos[asked.path].encode(), kind="text/x-nix-narinfo")
        if asked.path in infos
        else Answer(b"404", status=404, kind="text/plain")
    )


async def test_what_a_listed_cache_signed_is_not_pushed(cache: BinaryCache) -> None:
    """Paths that an upstream cache of the root's list serves, signed, are left out, and the cache is named."""
    public = CacheKey.generate("public-1")
    store = Store(b"glibc", b"ours")
    async with client_of(cache) as api, httpd(upstream_of(b"glibc", key=public)) as up:
        listed = CacheRef(url=up.url, key=public.public)
        built_in = CacheRef(url="/cache", key=KEY.public)
        result, _ = await pushed(api, store, caches=[built_in, listed])
    assert ((store.paths[1],), 1, (listed,)) == (result.pushed, result.upstream, result.upstreams)


async def test_a_wrong_key_or_other_content_does_not_count() -> None:
    """Only the listed key's signature over the local content lets a path be left out."""
    public, other = CacheKey.generate("public-1"), CacheKey.generate("public-1")
    said = path_of(b"glibc")
    async with httpd(upstream_of(b"glibc", key=public)) as up:
        listed, forged = CacheRef(url=up.url, key=public.public), CacheRef(url=up.url, key=other.public)
        assert {said.store_path: listed} == await signed_upstream({said.store_path: said.nar_hash}, [listed])
        assert {} == await signed_upstream({said.store_path: said.nar_hash}, [forged])
        assert {} == await signed_upstream({said.store_path: path_of(b"x").nar_hash}, [listed])


async def test_a_cache_out_of_reach_has_nothing() -> None:
    """Without a network everything counts as missing upstream, after one attempt."""
    async with httpd(lambda _: None) as gone:
        url = gone.url
    many = {path_of(bytes([number])).store_path: path_of(bytes([number])).nar_hash for number in range(50)}
    assert {} == await signed_upstream(many, [CacheRef(url=url, key=KEY.public)])
