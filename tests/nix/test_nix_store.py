"""Real Nix: reading a store, downloading into another, keeping and repairing what is there."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.nix.harness import CacheServer, Faults, Systems

from nixfleet.errors import UserError
from nixfleet.nix import Cache, FaultKind, FetchLimits, Nix, NixError, Progress
from nixfleet.trust.narinfo import CacheKey, ClosureLine, closure_digest, format_narinfo, parse_narinfo

pytestmark = pytest.mark.nix

# Room for a busy machine where a download is to succeed, little patience where it is to fail.
PATIENT = FetchLimits(whole_s=60, connect_s=10, stall_s=20, attempts=5)
QUICK = FetchLimits(whole_s=30, connect_s=1, stall_s=1, attempts=1)


def ignore(_: Progress) -> None:
    """Take progress and do nothing."""


def nar_of(folder: Path, name: str) -> Path:
    """Find the NAR file of the path with that name in a cache folder."""
    info = next(info for info in folder.glob("*.narinfo") if f"-{name}\n" in info.read_text().partition("URL")[0])
    return folder / parse_narinfo(info.read_text()).url


def narinfo_of(folder: Path, path: str) -> Path:
    """Find the narinfo file of a store path in a cache folder."""
    return folder / f"{path.removeprefix('/nix/store/')[:32]}.narinfo"


class Fetch:
    """Downloads into an empty store from one cache, as a device would."""

    def __init__(self, nix: Nix, key: str, root: Path) -> None:
        self.nix = nix
        self.key = key
        self.root = root
        self.seen: list[Progress] = []

    async def __call__(self, path: str, url: str, *, key: str | None = None, limits: FetchLimits = PATIENT) -> None:
        """Download a path, keeping the progress."""
        caches = [Cache(url=url, key=key or self.key)]
        await self.nix.realise(path, caches=caches, root=self.root, on_progress=self.seen.append, limits=limits)

    async def failing(self, path: str, url: str, *, key: str | None = None, limits: FetchLimits = QUICK) -> NixError:
        """Download a path, which must fail and leave no root behind; give the error."""
        with pytest.raises(NixError) as caught:
            await self(path, url, key=key, limits=limits)
        assert not self.root.is_symlink()
        print(caught.value.kind, caught.value.reason, *caught.value.lines, sep="\n  ")
        return caught.value


@pytest.fixture
def fetch(empty: Nix, cache_key: CacheKey, tmp_path: Path) -> Fetch:
    """Give a downloader into an empty store."""
    return Fetch(empty, cache_key.public, tmp_path / "roots" / "incoming")


@pytest.fixture
def spoiled(cache_folder: Path, tmp_path: Path) -> Iterator[CacheServer]:
    """Serve a copy of the cache that a test may spoil."""
    folder = tmp_path / "cache"
    shutil.copytree(cache_folder, folder)
    with CacheServer(folder) as server:
        yield server


async def test_version_is_read(builder: Nix) -> None:
    """The version is a triple that is at least the oldest we support."""
    assert (2, 8, 0) <= await builder.version()


async def test_closure_names_every_path_with_hash_and_size(builder: Nix, systems: Systems) -> None:
    """The closure from the database is the one Nix lists, and its hashes are those of the cache's narinfos."""
    infos = await builder.closure(systems.a)
    assert sorted(systems.closure(systems.a)) == sorted(info.path for info in infos)
    top = next(info for info in infos if info.path == systems.a)
    assert top.nar_hash.startswith("sha256:")
    assert len("sha256:") + 52 == len(top.nar_hash)
    assert set(top.references) <= {info.path for info in infos}
    assert top.deriver is not None


async def test_digest_is_the_same_in_builder_cache_and_device(
    builder: Nix, systems: Systems, fetch: Fetch, cache_server: CacheServer
) -> None:
    """One system has one digest: where it was built, in the cache's narinfos, and where it was downloaded."""
    await fetch(systems.a, cache_server.url)
    digest, nar_bytes = await builder.digest(systems.a)
    assert (digest, nar_bytes) == await fetch.nix.digest(systems.a)
    texts = [narinfo_of(cache_server.folder, path).read_text() for path in systems.closure(systems.a)]
    infos = [parse_narinfo(text) for text in texts]
    lines = [ClosureLine(path=info.store_path, nar_hash=info.nar_hash, nar_bytes=info.nar_bytes) for info in infos]
    assert digest == closure_digest(lines)


async def test_realise_downloads_with_progress_and_roots(
    builder: Nix, systems: Systems, fetch: Fetch, cache_server: CacheServer
) -> None:
    """A download ends with the whole closure valid and rooted, and with progress that only grew."""
    assert not await fetch.nix.is_valid(systems.a)
    await fetch(systems.a, cache_server.url)
    assert await fetch.nix.is_valid(systems.a)
    assert systems.a == str(fetch.root.readlink())
    last = fetch.seen[-1]
    nars = {parse_narinfo(narinfo_of(cache_server.folder, p).read_text()) for p in systems.closure(systems.a)}
    assert sum(nar.file_bytes for nar in nars) == last.done_bytes == last.total_bytes
    assert len(nars) == last.paths_done == last.paths_total
    assert sorted(step.done_bytes for step in fetch.seen) == [step.done_bytes for step in fetch.seen]


async def test_slow_download_tells_progress_at_most_five_times_a_second(
    systems: Systems, fetch: Fetch, cache_server: CacheServer
) -> None:
    """A slow cache gives many events, few calls, and a rate."""
    cache_server.faults = Faults(rate_bytes_s=1_500_000)
    started = asyncio.get_running_loop().time()
    await fetch(systems.a, cache_server.url)
    took_s = asyncio.get_running_loop().time() - started
    assert len(fetch.seen) <= took_s * 5 + 2
    assert any(step.rate_bytes_s > 0 for step in fetch.seen)
    assert any(step.total_bytes and step.done_bytes < step.total_bytes for step in fetch.seen)


async def test_what_is_here_is_not_downloaded_again(systems: Systems, fetch: Fetch, cache_server: CacheServer) -> None:
    """The second version fetches only what differs, and the same version nothing at all."""
    await fetch(systems.a, cache_server.url)
    await fetch(systems.b, cache_server.url)
    different = set(systems.closure(systems.b)) - set(systems.closure(systems.a))
    assert len(different) == fetch.seen[-1].paths_total
    cache_server.requests.clear()
    await fetch(systems.b, cache_server.url)
    assert [] == cache_server.requests


async def test_unsigned_path_is_untrusted(systems: Systems, fetch: Fetch, tmp_path: Path) -> None:
    """A closure without signatures is refused, and the reason names a path and the cache."""
    systems.push(systems.a, tmp_path / "unsigned")
    with CacheServer(tmp_path / "unsigned") as server:
        error = await fetch.failing(systems.a, server.url)
    assert FaultKind.untrusted == error.kind
    assert server.url in error.reason


async def test_other_key_is_untrusted(systems: Systems, fetch: Fetch, cache_server: CacheServer) -> None:
    """A closure signed by a key of the same name, but another key, is refused."""
    error = await fetch.failing(systems.a, cache_server.url, key=CacheKey.generate("fleet-1").public)
    assert FaultKind.untrusted == error.kind


async def test_edited_narinfo_is_untrusted(systems: Systems, fetch: Fetch, spoiled: CacheServer) -> None:
    """A narinfo whose size was changed no longer has a valid signature."""
    file = narinfo_of(spoiled.folder, systems.a)
    file.write_text(file.read_text().replace("NarSize: ", "NarSize: 1"))
    error = await fetch.failing(systems.a, spoiled.url)
    assert FaultKind.untrusted == error.kind


async def test_damaged_nar_is_told_from_a_bad_signature(systems: Systems, fetch: Fetch, tmp_path: Path) -> None:
    """A NAR with a changed byte is a hash mismatch."""
    key = CacheKey.generate("fleet-1")
    systems.push(systems.a, tmp_path / "plain", key, compression="none")
    nar = nar_of(tmp_path / "plain", "lib1-1.1")
    content = bytearray(nar.read_bytes())
    content[len(content) // 2] ^= 1
    nar.write_bytes(content)
    with CacheServer(tmp_path / "plain") as server:
        error = await fetch.failing(systems.a, server.url, key=key.public)
    assert FaultKind.hash_mismatch == error.kind
    assert "lib1-1.1" in error.reason


async def test_damaged_compression_is_corrupt(systems: Systems, fetch: Fetch, spoiled: CacheServer) -> None:
    """A compressed NAR that cannot be unpacked is corrupt or a mismatch, never a network fault."""
    nar = nar_of(spoiled.folder, "lib1-1.1")
    nar.write_bytes(nar.read_bytes()[:4] + bytes(nar.stat().st_size - 4))
    error = await fetch.failing(systems.a, spoiled.url)
    assert error.kind in {FaultKind.corrupt, FaultKind.hash_mismatch}


async def test_garbage_narinfo_is_corrupt(systems: Systems, fetch: Fetch, spoiled: CacheServer) -> None:
    """A narinfo that is none is corrupt."""
    narinfo_of(spoiled.folder, systems.a).write_text("<html>please log in</html>\n")
    assert FaultKind.corrupt == (await fetch.failing(systems.a, spoiled.url)).kind


async def test_missing_dependency_is_missing(systems: Systems, fetch: Fetch, spoiled: CacheServer) -> None:
    """A dependency that no cache has is named."""
    gone = next(path for path in systems.closure(systems.a) if path.endswith("-lib2-1.2"))
    narinfo_of(spoiled.folder, gone).unlink()
    error = await fetch.failing(systems.a, spoiled.url)
    assert FaultKind.missing == error.kind
    assert "lib2-1.2" in error.reason


async def test_missing_nar_file_is_missing(systems: Systems, fetch: Fetch, spoiled: CacheServer) -> None:
    """A NAR that its narinfo names but that is not there is missing."""
    nar_of(spoiled.folder, "lib2-1.2").unlink()
    assert FaultKind.missing == (await fetch.failing(systems.a, spoiled.url)).kind


async def test_path_pushed_after_it_was_asked_for_is_found(
    systems: Systems, fetch: Fetch, cache_key: CacheKey, tmp_path: Path
) -> None:
    """A "missing" is not remembered: the path is found as soon as it is there."""
    systems.push(systems.build(version=2), tmp_path / "late", cache_key)
    with CacheServer(tmp_path / "late") as server:
        assert FaultKind.missing == (await fetch.failing(systems.a, server.url)).kind
        systems.push(systems.a, tmp_path / "late", cache_key)
        await fetch(systems.a, server.url)


async def test_cache_that_is_down_is_unreachable(systems: Systems, fetch: Fetch, cache_server: CacheServer) -> None:
    """A cache that does not listen is unreachable, by its address."""
    cache_server.die()
    error = await fetch.failing(systems.a, cache_server.url)
    assert FaultKind.unreachable == error.kind
    assert cache_server.url in error.reason


async def test_cache_that_refuses_is_unreachable(systems: Systems, fetch: Fetch, cache_server: CacheServer) -> None:
    """A cache that wants a password, or answers with a server's error, is unreachable with its status."""
    cache_server.faults = Faults(auth="device:secret")
    error = await fetch.failing(systems.a, cache_server.url)
    assert FaultKind.unreachable == error.kind
    assert cache_server.url in error.reason
    cache_server.faults = Faults(status=("/nar/", 503))
    error = await fetch.failing(systems.a, cache_server.url)
    assert FaultKind.unreachable == error.kind
    assert "503" in error.reason


@pytest.mark.parametrize(
    "faults",
    [
        Faults(status=(".narinfo", 500)),
        Faults(status=("nix-cache-info", 503)),
        Faults(status=("/nar/", 500)),
        Faults(status=("/nar/", 404)),
        Faults(cut_after_bytes=10_000),
        Faults(auth="device:secret"),
    ],
)
async def test_what_one_cache_does_not_give_comes_from_the_next(
    systems: Systems, fetch: Fetch, cache_server: CacheServer, cache_folder: Path, faults: Faults
) -> None:
    """Caches are asked in order: one that errs, is cut off or locked keeps nobody from the others."""
    with CacheServer(cache_folder, faults=faults) as first:
        caches = [Cache(first.url, fetch.key), Cache(cache_server.url, fetch.key)]
        limits = FetchLimits(whole_s=60, connect_s=5, stall_s=10, attempts=1)
        await fetch.nix.realise(systems.a, caches=caches, root=fetch.root, on_progress=ignore, limits=limits)
        assert first.requests
    assert await fetch.nix.is_valid(systems.a)


async def test_a_cache_with_a_password_gives_to_who_has_it(
    systems: Systems, fetch: Fetch, cache_server: CacheServer, tmp_path: Path
) -> None:
    """The password is in a file that Nix is told of, never in an address, a command line or a log."""
    cache_server.faults = Faults(auth="dev1:s3cret")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login dev1 password s3cret\n")
    nix = Nix(store=fetch.nix.store, env=fetch.nix.env, options=(("netrc-file", str(tmp_path / "netrc")),))
    caches = [Cache(cache_server.url, fetch.key)]
    await nix.realise(systems.a, caches=caches, root=fetch.root, on_progress=ignore, limits=PATIENT)
    assert await nix.is_valid(systems.a)


async def test_cache_that_dies_midway_resumes(systems: Systems, fetch: Fetch, cache_server: CacheServer) -> None:
    """After a broken download the next one fetches the rest only."""
    cache_server.faults = Faults(die_after_bytes=1_200_000)
    error = await fetch.failing(systems.a, cache_server.url)
    assert FaultKind.unreachable == error.kind
    cache_server.close()
    cache_server.faults = Faults()
    cache_server.revive()
    await fetch(systems.a, cache_server.url)
    assert fetch.seen[-1].paths_total < len(systems.closure(systems.a))
    assert await fetch.nix.is_valid(systems.a)


async def test_stalled_cache_is_given_up(systems: Systems, fetch: Fetch, cache_server: CacheServer) -> None:
    """A cache that sends nothing more is stalled after the limit."""
    cache_server.faults = Faults(stall_after_bytes=500_000)
    assert FaultKind.stalled == (await fetch.failing(systems.a, cache_server.url)).kind


async def test_whole_time_is_limited(systems: Systems, fetch: Fetch, cache_server: CacheServer) -> None:
    """A download that trickles for ever ends at the whole-time limit."""
    cache_server.faults = Faults(rate_bytes_s=50_000)
    limits = FetchLimits(whole_s=1, stall_s=30)
    error = await fetch.failing(systems.a, cache_server.url, limits=limits)
    assert FaultKind.stalled == error.kind
    assert "within 1 s" in error.reason


async def test_size_is_limited(systems: Systems, fetch: Fetch, cache_server: CacheServer) -> None:
    """A closure larger than the release says is not downloaded."""
    limits = FetchLimits(whole_s=30, nar_bytes=1_000_000)
    error = await fetch.failing(systems.a, cache_server.url, limits=limits)
    assert FaultKind.over_limit == error.kind
    assert cache_server.nar_bytes < 3_000_000


async def test_cancelling_ends_the_process_group(systems: Systems, fetch: Fetch, cache_server: CacheServer) -> None:
    """A cancelled download leaves no process behind, and what was finished stays for the next try."""
    cache_server.faults = Faults(stall_after_bytes=1_000_000)
    task = asyncio.create_task(fetch(systems.a, cache_server.url, limits=FetchLimits()))
    assert await asyncio.to_thread(cache_server.stalled.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [] == running_with(str(fetch.root))
    cache_server.die()
    cache_server.faults = Faults()
    cache_server.revive()
    await fetch(systems.a, cache_server.url)


def running_with(word: str) -> list[str]:
    """List the command lines that contain a word."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(entry.read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [line for line in lines if word in line and "nix-store" in line]


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a disk of 2 MiB."""
    argv = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    mounted = subprocess.run(argv, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_full_disk_is_no_space(
    systems: Systems, cache_server: CacheServer, cache_key: CacheKey, empty: Nix, tmp_path: Path
) -> None:
    """A store without room is told as such, on a disk of its own."""
    disk = tmp_path / "store"
    disk.mkdir()
    with small_disk(disk):
        fetch = Fetch(empty, cache_key.public, tmp_path / "root")
        error = await fetch.failing(systems.a, cache_server.url)
    assert FaultKind.no_space == error.kind


async def test_other_content_under_the_right_key_passes_nix_but_not_the_digest(
    systems: Systems, builder: Nix, fetch: Fetch, spoiled: CacheServer, cache_key: CacheKey
) -> None:
    """Nix takes other content for the same path when the right key signed it; the digest does not."""
    await forge(spoiled.folder, systems.a, cache_key, builder)
    await fetch(systems.a, spoiled.url)
    assert await fetch.nix.is_valid(systems.a)
    assert [] == await fetch.nix.verify_contents(systems.a)
    honest, forged = await builder.digest(systems.a), await fetch.nix.digest(systems.a)
    assert honest[0] != forged[0]


async def test_repair_replaces_whole_but_wrong_content_from_another_cache(
    systems: Systems, builder: Nix, fetch: Fetch, spoiled: CacheServer, cache_server: CacheServer, cache_key: CacheKey
) -> None:
    """When the first cache lied, a repair asks the other one first."""
    await forge(spoiled.folder, systems.a, cache_key, builder)
    caches = [Cache(spoiled.url, cache_key.public), Cache(cache_server.url, cache_key.public)]
    await fetch.nix.realise(systems.a, caches=caches, root=fetch.root, on_progress=ignore, limits=PATIENT)
    assert await builder.digest(systems.a) != await fetch.nix.digest(systems.a)
    await fetch.nix.repair(systems.a, caches=caches, root=fetch.root, on_progress=ignore, limits=PATIENT)
    assert await builder.digest(systems.a) == await fetch.nix.digest(systems.a)
    assert systems.a == str(fetch.root.readlink())


async def forge(folder: Path, path: str, key: CacheKey, builder: Nix) -> None:
    """Put another path's content in a cache under this path, and sign it like the real one."""
    file = narinfo_of(folder, path)
    info = parse_narinfo(file.read_text())
    other = next(found for found in await builder.closure(path) if found.path.endswith("-lib0-1.0"))
    source = parse_narinfo(narinfo_of(folder, other.path).read_text())
    forged = replace(
        source, store_path=info.store_path, references=info.references, deriver=info.deriver, signatures=(), ca=None
    )
    file.write_text(format_narinfo(key.signed(forged)))


async def test_damage_on_disk_is_found_and_repaired(
    systems: Systems, fetch: Fetch, cache_server: CacheServer, cache_key: CacheKey, tmp_path: Path
) -> None:
    """Changed and vanished paths are named, and come back from the cache."""
    await fetch(systems.a, cache_server.url)
    changed, gone = (p for p in sorted(systems.closure(systems.a)) if p.endswith(("-lib1-1.1", "-lib2-1.2")))
    needs = tmp_path / "store" / changed.lstrip("/") / "lib" / "needs"
    needs.chmod(0o644)
    needs.write_text("other\n")
    shutil.rmtree(tmp_path / "store" / gone.lstrip("/"))
    assert {changed, gone} == set(await fetch.nix.verify_contents(systems.a))
    caches = [Cache(cache_server.url, cache_key.public)]
    await fetch.nix.repair(systems.a, caches=caches, root=fetch.root, on_progress=ignore, limits=PATIENT)
    assert [] == await fetch.nix.verify_contents(systems.a)


async def test_missing_bytes_are_estimated(
    systems: Systems, fetch: Fetch, builder: Nix, cache_server: CacheServer, cache_key: CacheKey
) -> None:
    """Before a download its sizes are known, after it nothing is missing."""
    caches = [Cache(cache_server.url, cache_key.public)]
    before = await fetch.nix.missing_bytes(systems.a, caches)
    _, nar_bytes = await builder.digest(systems.a)
    assert pytest.approx(nar_bytes, rel=0.02) == before.unpacked_bytes
    assert 0 < before.download_bytes < before.unpacked_bytes
    await fetch(systems.a, cache_server.url)
    after = await fetch.nix.missing_bytes(systems.a, caches)
    assert (0, 0) == (after.download_bytes, after.unpacked_bytes)


async def test_roots_keep_and_deletion_spares_what_is_kept(
    systems: Systems, fetch: Fetch, cache_server: CacheServer, tmp_path: Path
) -> None:
    """Of two systems, the one without a root goes, together with nothing that the other needs."""
    await fetch(systems.a, cache_server.url)
    await fetch.nix.add_root(systems.a, tmp_path / "roots" / "kept")
    await fetch(systems.b, cache_server.url)
    await fetch.nix.remove_root(fetch.root)
    gone = await fetch.nix.delete(systems.closure(systems.b))
    assert set(systems.closure(systems.b)) - set(systems.closure(systems.a)) == set(gone)
    assert await fetch.nix.is_valid(systems.a)
    assert not await fetch.nix.is_valid(systems.b)
    await fetch.nix.remove_root(tmp_path / "roots" / "kept")
    await fetch.nix.collect_garbage(1 << 40)
    assert not await fetch.nix.is_valid(systems.a)


async def test_rooting_what_is_not_here_fails_at_once(systems: Systems, empty: Nix, tmp_path: Path) -> None:
    """A root is only made for a path that is here; nothing is fetched for it."""
    with pytest.raises(NixError) as caught:
        await empty.add_root(systems.a, tmp_path / "root")
    assert FaultKind.missing == caught.value.kind


async def test_nar_is_streamed_whole(systems: Systems, builder: Nix, cache_folder: Path) -> None:
    """A dumped path has the size that the database says; a path that is not there is an error, not a short NAR."""
    info = next(info for info in await builder.closure(systems.a) if info.path == systems.a)
    chunks = [chunk async for chunk in builder.dump_nar(systems.a)]
    assert info.nar_bytes == sum(map(len, chunks))
    with pytest.raises(NixError):
        [chunk async for chunk in builder.dump_nar(f"{systems.a}-gone")]


async def test_a_stream_that_is_left_early_ends_its_process(systems: Systems, builder: Nix) -> None:
    """Whoever stops reading a NAR leaves no process behind."""
    path = next(path for path in systems.closure(systems.a) if path.endswith("-busybox-static"))
    stream = builder.dump_nar(path)
    assert await anext(stream)
    await stream.aclose()
    assert [] == running_with(path)


async def test_recipes_are_never_realised(systems: Systems, empty: Nix, tmp_path: Path) -> None:
    """A derivation is refused before Nix sees it: a device builds nothing."""
    with pytest.raises(UserError, match="recipe"):
        await empty.realise(f"{systems.a}.drv", caches=[], root=tmp_path / "root", on_progress=ignore)


async def test_without_nix_the_error_says_so(tmp_path: Path) -> None:
    """A machine without Nix gets one clear sentence."""
    with pytest.raises(UserError, match="not on PATH"):
        await Nix(env={"PATH": str(tmp_path)}).version()
