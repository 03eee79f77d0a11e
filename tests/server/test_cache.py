"""The built-in cache: nothing unverified is ever visible, uploads resume, and what it serves is a Nix binary cache."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import httpx
import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tests.cachehost import cache_host, nar_of, packed, path_of
from tests.nix.probes import need_nix

from nixfleet.errors import Conflict, NixfleetError, Unreachable, UserError
from nixfleet.model.wire import CachePath
from nixfleet.server.cache import BinaryCache, CacheLimits, DiskFull
from nixfleet.server.faults import Bound, Busy
from nixfleet.server.routes.cache import _range
from nixfleet.trust.narinfo import CacheKey, hash_part, parse_narinfo, verify_narinfo

KEY = CacheKey.generate("fleet-1")
NOW = 2_000_000_000
THING = b"a thing " * 1_000


def open_cache(folder: Path, *, now: int = 0, **limits: int) -> BinaryCache:
    """Open a cache that keeps no space free."""
    return BinaryCache(folder, KEY, clock=lambda: now, limits=CacheLimits(**{"keep_free_bytes": 0, **limits}))


@pytest.fixture
def cache(tmp_path: Path) -> BinaryCache:
    """Give an empty cache."""
    return open_cache(tmp_path)


async def upload(cache: BinaryCache, said: CachePath, data: bytes, *, chunk_bytes: int = 1_000) -> None:
    """Send data in chunks, from where the upload stands."""
    part = hash_part(said.store_path)
    offset = await cache.held_bytes(part)
    while offset < len(data):
        offset = await cache.append(part, offset, data[offset : offset + chunk_bytes])


async def put(cache: BinaryCache, content: bytes) -> CachePath:
    """Upload and commit a plain file."""
    said = path_of(content)
    await upload(cache, said, packed(content))
    await cache.commit(said)
    return said


async def test_a_committed_path_is_signed_and_whole(cache: BinaryCache) -> None:
    """After a commit the narinfo verifies by the cache's key, and the file it names unpacks to the NAR."""
    said = await put(cache, THING)
    text = cache.info(hash_part(said.store_path))
    assert text is not None
    info = parse_narinfo(text.decode())
    assert "fleet-1" == verify_narinfo(info, [cache.public_key])
    file = cache.nar(info.url.removeprefix("nar/"))
    assert file is not None
    assert nar_of(THING) == zstandard.ZstdDecompressor().decompress(file.path.read_bytes(), max_output_size=1 << 20)
    assert (said.store_path, said.nar_hash, said.nar_bytes, file.size_bytes) == (
        info.store_path,
        info.nar_hash,
        info.nar_bytes,
        info.file_bytes,
    )


async def test_the_end_of_the_program_waits_for_no_hashing(tmp_path: Path) -> None:
    """A commit under way when the program is to end is broken off; the upload stays, and is published later."""
    left = [2, 0, 99]  # pieces until it is to end: in the hashing of the file, in the unpacking, never

    def goes_on() -> bool:
        left[0] -= 1
        return left[0] >= 0

    cache = BinaryCache(tmp_path, KEY, clock=lambda: 0, limits=CacheLimits(keep_free_bytes=0), goes_on=goes_on)
    said = path_of(THING)
    await upload(cache, said, packed(THING))
    for _ in range(2):
        with pytest.raises(Unreachable, match="the coordinator is stopping"):
            await cache.commit(said)
        del left[0]
        assert cache.info(hash_part(said.store_path)) is None
    await cache.commit(said)
    assert cache.info(hash_part(said.store_path)) is not None


async def test_only_the_missing_paths_are_named(cache: BinaryCache) -> None:
    """Of a closure, exactly the paths without a narinfo are asked for, in order."""
    here = await put(cache, THING)
    there = path_of(b"other")
    assert (there.store_path,) == await cache.missing([here.store_path, there.store_path])


async def test_nothing_is_visible_before_the_commit(cache: BinaryCache, tmp_path: Path) -> None:
    """A whole but uncommitted upload is served by neither name, and a new process finds it to go on with."""
    said = path_of(THING)
    await upload(cache, said, packed(THING))
    part = hash_part(said.store_path)
    assert (None, [tmp_path / f"partial/{part}.zst"]) == (cache.info(part), files_in(tmp_path))
    assert len(packed(THING)) == await open_cache(tmp_path).held_bytes(part)


async def test_an_upload_goes_on_only_where_it_stands(cache: BinaryCache) -> None:
    """Another offset than the held one is a conflict that names it, and changes nothing."""
    said = path_of(THING)
    part = hash_part(said.store_path)
    assert 3 == await cache.append(part, 0, b"abc")
    for offset in (0, 2, 4):
        with pytest.raises(Conflict, match="stands at 3 bytes"):
            await cache.append(part, offset, b"x")
    assert 3 == await cache.held_bytes(part)
    await cache.drop(part)
    assert 0 == await cache.held_bytes(part)


def files_in(folder: Path) -> list[Path]:
    """List the files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("data", "change", "sentence"),
    [
        (packed(b"other"), {}, "NAR hash"),
        (packed(THING)[:-10], {}, "cannot be unpacked|NAR hash"),
        (packed(THING) + b"junk!", {}, "cannot be unpacked"),
        (b"not zstd at all", {}, "cannot be unpacked"),
        (zstandard.compress(b"no nar" * 100), {}, "no NAR"),
        (packed(THING), {"nar_bytes": len(nar_of(THING)) - 1}, "larger than was said"),
        (packed(THING), {"nar_bytes": len(nar_of(THING)) + 1}, "NAR hash"),
        (packed(b"\0" * (64 << 20)), {}, "larger than was said"),
    ],
)
async def test_what_is_not_as_said_is_dropped(
    cache: BinaryCache, tmp_path: Path, data: bytes, change: dict[str, int], sentence: str
) -> None:
    """A wrong, cut, padded or exploding upload is refused by name, dropped, and leaves nothing to be served."""
    said = msgspec.structs.replace(path_of(THING), **change)
    await upload(cache, said, data, chunk_bytes=1 << 20)
    with pytest.raises(UserError, match=sentence):
        await cache.commit(said)
    assert [] == files_in(tmp_path)


async def test_a_commit_can_be_repeated_but_not_changed(cache: BinaryCache) -> None:
    """The same commit again is fine; other content under a published path is refused, and the first one stays."""
    said = await put(cache, THING)
    await cache.commit(said)
    before = cache.info(hash_part(said.store_path))
    with pytest.raises(UserError, match="with other content"):
        await cache.commit(msgspec.structs.replace(path_of(b"other"), store_path=said.store_path))
    assert before == cache.info(hash_part(said.store_path))


async def test_a_commit_without_an_upload_says_so(cache: BinaryCache) -> None:
    """Committing what was never sent is the pusher's error."""
    with pytest.raises(UserError, match="nothing was uploaded"):
        await cache.commit(path_of(THING))


@pytest.mark.parametrize("step", ["replace", "_write_durably"])
async def test_a_crash_in_a_commit_leaves_no_half_path(
    cache: BinaryCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever step of publishing fails, no narinfo names a missing file, and the push ends well when repeated."""
    said = path_of(THING)
    await upload(cache, said, packed(THING))

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, step, crash) if step == "replace" else ("nixfleet.server.cache._write_durably", crash)))
        with pytest.raises(KeyboardInterrupt):
            cache._commit(hash_part(said.store_path), said)
    reopened = open_cache(tmp_path)
    assert None is reopened.info(hash_part(said.store_path))
    assert said == await put(reopened, THING)
    assert None is not reopened.info(hash_part(said.store_path))


@pytest.mark.parametrize(
    "part", ["", "..", "../../etc/passwd", "a" * 31, "e" * 32, "A" * 32, "a" * 32 + "\n", "a/" * 16]
)
async def test_no_name_leads_out_of_the_folder(cache: BinaryCache, part: str) -> None:
    """Whatever is not exactly a hash part names no upload, no narinfo and no NAR."""
    assert (None, None) == (cache.info(part), cache.nar(part))
    for act in (cache.held_bytes(part), cache.drop(part), cache.append(part, 0, b"x")):
        with pytest.raises(UserError, match="not the hash part"):
            await act


async def refused(act: object) -> type[NixfleetError]:
    """Tell which error an act ends in."""
    with pytest.raises(NixfleetError) as caught:
        await act  # type: ignore[misc]  # any coroutine
    return type(caught.value)


async def test_every_bound_has_its_refusal(tmp_path: Path) -> None:
    """Chunks, uploads, NARs and the disk's free space are bounded, each with an error of its own, nothing written."""
    cache = open_cache(tmp_path, nar_bytes=9 << 20, uploads=1)
    first, second = hash_part(path_of(b"1").store_path), hash_part(path_of(b"2").store_path)
    assert Bound is await refused(cache.append(first, 0, b"x" * ((8 << 20) + 1)))
    await cache.append(first, 0, b"x" * (8 << 20))
    assert Bound is await refused(cache.append(first, 8 << 20, b"x" * (2 << 20)))
    assert Busy is await refused(cache.append(second, 0, b"x"))
    assert Bound is await refused(cache.commit(msgspec.structs.replace(path_of(b"1"), nar_bytes=10 << 20)))
    assert DiskFull is await refused(open_cache(tmp_path, keep_free_bytes=1 << 60).append(first, 8 << 20, b"x"))
    assert 8 << 20 == await cache.held_bytes(first)


async def test_a_full_disk_takes_a_half_chunk_back(cache: BinaryCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails, the upload stands where it stood and the error says why."""
    part = hash_part(path_of(THING).store_path)
    await cache.append(part, 0, b"abc")

    class Full:
        """A file on a full disk: it takes one byte and then no more."""

        def __init__(self, path: Path) -> None:
            self.file = os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "ab")

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[:1])
            self.file.flush()
            raise OSError(28, "No space left on device")

        def truncate(self, size: int) -> None:
            self.file.truncate(size)

    monkeypatch.setattr(Path, "open", lambda path, _mode: Full(path))
    with pytest.raises(DiskFull, match="No space left"):
        await cache.append(part, 3, b"def")
    assert 3 == await cache.held_bytes(part)


async def test_an_empty_chunk_leaves_nothing(cache: BinaryCache, tmp_path: Path) -> None:
    """A chunk of no bytes is taken, and begins no upload."""
    assert 0 == await cache.append(hash_part(path_of(THING).store_path), 0, b"")
    assert [] == files_in(tmp_path)


async def test_no_narinfo_is_written_that_readers_refuse(cache: BinaryCache, tmp_path: Path) -> None:
    """References that make a narinfo larger than what is ever read are refused, and nothing is published."""
    many = [f"/nix/store/{'a' * 32}-{number:0>200}" for number in range(20_000)]
    said = msgspec.structs.replace(path_of(THING), references=tuple(many))
    await upload(cache, said, packed(THING))
    with pytest.raises(Bound, match="more references"):
        await cache.commit(said)
    assert [] == files_in(tmp_path / "nar") + files_in(tmp_path / "narinfo")


async def test_forgotten_uploads_are_removed_at_the_start(cache: BinaryCache, tmp_path: Path) -> None:
    """An upload that nobody touched for a week is gone after a restart; a young one stays."""
    part = hash_part(path_of(THING).store_path)
    await cache.append(part, 0, b"abc")
    touched = int((tmp_path / "partial" / f"{part}.zst").stat().st_mtime)
    assert 3 == await open_cache(tmp_path, now=touched + 6 * 86_400).held_bytes(part)
    assert 0 == await open_cache(tmp_path, now=touched + 8 * 86_400).held_bytes(part)


async def test_two_at_once_cannot_mix_an_upload(cache: BinaryCache) -> None:
    """Of two chunks sent at once for the same offset one is taken and one is a conflict."""
    part = hash_part(path_of(THING).store_path)
    ended = await asyncio.gather(
        *(cache.append(part, 0, byte * 100_000) for byte in (b"a", b"b")), return_exceptions=True
    )
    assert [100_000, "Conflict"] == [end if isinstance(end, int) else type(end).__name__ for end in ended]


# Over HTTP


@pytest.fixture
async def host(cache: BinaryCache) -> AsyncIterator[httpx.AsyncClient]:
    """Give an HTTP client of the cache, served over a real port."""
    async with cache_host(cache) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
        yield http


async def test_the_cache_introduces_itself(host: httpx.AsyncClient) -> None:
    """Nix is told the store's folder and to ask for many paths at once."""
    answer = await host.get("/cache/nix-cache-info")
    assert (200, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n") == (answer.status_code, answer.text)


async def nar_url(host: httpx.AsyncClient, said: CachePath) -> str:
    """Look up where the NAR of a path is."""
    answer = await host.get(f"/cache/{hash_part(said.store_path)}.narinfo")
    assert "text/x-nix-narinfo" == answer.headers["content-type"].partition(";")[0]
    return f"/cache/{parse_narinfo(answer.text).url}"


async def test_a_nar_is_served_whole_and_by_ranges(cache: BinaryCache, host: httpx.AsyncClient) -> None:
    """GET, HEAD, ranges and conditions answer as RFC 9110 says, with exact lengths."""
    content = os.urandom(1 << 20)
    url = await nar_url(host, await put(cache, content))
    whole = await host.get(url)
    size, etag = len(whole.content), whole.headers["etag"]
    assert nar_of(content) == zstandard.ZstdDecompressor().decompress(whole.content, max_output_size=2 << 20)
    head = await host.head(url)
    assert (200, str(size), b"") == (head.status_code, head.headers["content-length"], head.content)
    for text, start, end in (("bytes=5-9", 5, 10), ("bytes=100-", 100, size), ("bytes=-7", size - 7, size)):
        part = await host.get(url, headers={"range": text})
        assert (206, whole.content[start:end]) == (part.status_code, part.content)
        assert f"bytes {start}-{end - 1}/{size}" == part.headers["content-range"]
    beyond = await host.get(url, headers={"range": f"bytes={size}-"})
    assert (416, f"bytes */{size}") == (beyond.status_code, beyond.headers["content-range"])
    for held in (etag, f'"other", W/{etag}', "*"):
        assert 304 == (await host.get(url, headers={"if-none-match": held})).status_code
    other = await host.get(url, headers={"range": "bytes=0-0", "if-range": '"other"'})
    assert (200, size) == (other.status_code, len(other.content))


@pytest.mark.parametrize(
    "path",
    [
        "/cache/x.narinfo",
        f"/cache/{'a' * 32}.narinfo",
        "/cache/nar/x",
        "/cache/nar/..%2F..%2Fetc%2Fpasswd",
        "/cache/%2e%2e/x",
    ],
)
async def test_what_is_not_there_is_404(host: httpx.AsyncClient, path: str) -> None:
    """Unknown and climbing names are 404 alike."""
    assert 404 == (await host.get(path)).status_code


async def test_refusals_have_their_status(host: httpx.AsyncClient) -> None:
    """A conflict is 409, a malformed body 400, a huge chunk 413."""
    part = hash_part(path_of(THING).store_path)
    url = f"/v1/cache/uploads/{part}"
    assert 409 == (await host.put(url, params={"offset": 1}, content=b"x")).status_code
    assert 400 == (await host.post("/v1/cache/paths", content=b"{}")).status_code
    assert 413 == (await host.put(url, params={"offset": 0}, content=b"x" * ((8 << 20) + 1))).status_code
    assert {"offset": 0} == (await host.get(url)).json()


@given(st.integers(0, 50), st.one_of(st.none(), st.integers(0, 60)), st.integers(0, 40))
def test_ranges_are_what_python_slices(first: int, last: int | None, size: int) -> None:
    """A range picks the bytes that a slice with the same ends picks."""
    data = bytes(range(size))
    found = _range(f"bytes={first}-{'' if last is None else last}", size)
    if last is not None and last < first:
        assert None is found
    else:
        assert found is not None
        assert data[first : None if last is None else last + 1] == data[found[0] : found[1]]


@pytest.mark.nix
async def test_plain_nix_can_use_it(cache: BinaryCache, tmp_path: Path) -> None:
    """`nix-store --realise` fetches a path with its reference from the cache, trusting only the cache's key."""
    need_nix()
    low = await put(cache, b"the lower one")
    high = path_of(b"needs " + low.store_path.encode(), low.store_path, name="high")
    await upload(cache, high, packed(b"needs " + low.store_path.encode()))
    await cache.commit(high)
    async with cache_host(cache) as url:
        settings = {"substituters": f"{url}/cache", "trusted-public-keys": cache.public_key, "substitute": "true"}
        options = [word for name, value in settings.items() for word in ("--option", name, value)]
        store = tmp_path / "device"
        process = await asyncio.create_subprocess_exec(
            "nix-store", "--store", str(store), "--realise", high.store_path, *options,
            env={**os.environ, "HOME": str(tmp_path), "NIX_USER_CONF_FILES": "/dev/null"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, errors = await process.communicate()
    fetched = store / low.store_path.removeprefix("/")
    assert 0 == process.returncode, errors.decode()
    assert b"the lower one" == await asyncio.to_thread(fetched.read_bytes)
