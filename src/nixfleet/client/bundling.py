"""What goes into a bundle: the log as a device would get it, its lines with their proofs, and its closure's NARs.

It trusts no cache: narinfos count when the listed key signed them, and a closure when it has the signed digest; so what
a device would refuse is found out here. It must never leave a file that looks whole and is not.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO, Final

from nixfleet.client.bundle import Head, LineOf, Writer, file_url
from nixfleet.client.faults import translated
from nixfleet.client.keeping import texts_of
from nixfleet.client.upstream import BUILT_IN, read_narinfo
from nixfleet.errors import NixfleetError, Unreachable, Untrusted, UserError
from nixfleet.model.ids import Digest, matches
from nixfleet.model.statements import CacheRef, TargetLine
from nixfleet.model.wire import Entry, LineAnswer, LineProof
from nixfleet.trust.lines import LineTree, encode_line, verify_line
from nixfleet.trust.narinfo import ClosureLine, NarInfo, base32_encode, closure_digest, parse_narinfo, verify_narinfo
from nixfleet.trust.replay import Needs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
    from pathlib import Path

    import httpx

    from nixfleet.client.api import Client
    from nixfleet.client.mirror import Mirror
    from nixfleet.model.views import ReleaseView
    from nixfleet.trust.replay import RolloutState, State

AT_ONCE: Final = 16
TRIES: Final = 3
REQUEST_S: Final = 30.0
PATHS_MAX: Final = 200_000


def entries_for(mirror: Mirror, devices: Sequence[str]) -> Iterator[Entry]:
    """Give the whole log, with the payloads that any of these devices needs."""
    needs = [Needs(mirror.state, device) for device in devices]
    for index in range(mirror.size):
        leaf = mirror.leaf(index)
        wanted = any(need(leaf) for need in needs)
        yield Entry(leaf=leaf, payload=mirror.payload(index) if wanted else None)


class LineBook:
    """Devices' lines of releases, with what proves them: their own, or that they have none."""

    def __init__(self, client: Client, state: State) -> None:
        """Read releases as they are needed."""
        self._client, self._state = client, state
        self._views: dict[Digest, tuple[ReleaseView, LineTree | None]] = {}

    async def lines_for(self, one: RolloutState, device: str) -> list[LineOf]:
        """Give a device's line of a rollout, and of each that could keep it from following this one.

        Raises: UserError when a proof cannot be had, Untrusted.
        """
        tags = self._state.devices[device].statement.tags
        found = []
        for other in self._state.rollouts.values():
            near = other.index >= one.statement.base.size or other.digest == one.digest
            if near and not other.cancelled and matches(other.statement.select, tags):
                answer = await self._answer(other, device)
                if answer is not None:
                    found.append(LineOf(rollout=other.digest, device=device, answer=answer))
        return found

    async def own_line(self, one: RolloutState, device: str) -> TargetLine | None:
        """Give a device's own line of a rollout's release; None where it has none. Raises: Untrusted."""
        release = self._state.releases[Digest(one.statement.release or "")]
        answer = await self._answer(one, device)
        if answer is None or answer.line is None or release.statement.targets is None:
            return None
        return verify_line(answer.line, release.statement.targets, device)

    async def _answer(self, one: RolloutState, device: str) -> LineAnswer | None:
        release = Digest(one.statement.release or "")
        record = self._state.releases.get(release)
        targets = record.statement.targets if record is not None else None
        if targets is None:
            return None
        if release not in self._views:
            view = await self._client.release(release)
            texts = texts_of(view, targets)
            self._views[release] = view, LineTree.from_texts(texts) if texts else None
        view, tree = self._views[release]
        if tree is not None:
            has = tree.index_of(device) is not None
            return LineAnswer(line=tree.proof(device)) if has else LineAnswer(absence=tree.absence(device))
        for shown in view.lines:
            if shown.device == device and shown.place is not None:
                line = TargetLine(
                    device=device, path=shown.path, system=shown.system, digest=shown.digest, nar_size=shown.nar_size
                )
                hashes = tuple(bytes.fromhex(one) for one in shown.proof)
                text = encode_line(line).decode()
                return LineAnswer(line=LineProof(line=text, index=shown.place, size=targets.size, hashes=hashes))
        raise UserError(
            f"you may not read every line of release {view.name}, so that a device has none cannot be proven; somebody"
            " who may read of all its devices can export"
        )


@dataclass(slots=True)
class Walked:
    """Paths as the caches describe them, and which cache has each."""

    infos: dict[str, NarInfo] = field(default_factory=dict)
    base: dict[str, str] = field(default_factory=dict)

    def closure(self, path: str) -> list[NarInfo]:
        """List a path and all that it needs."""
        found = {path: self.infos[path]}
        left = [path]
        while left:
            for reference in self.infos[left.pop()].references:
                if reference not in found:
                    found[reference] = self.infos[reference]
                    left.append(reference)
        return list(found.values())

    def check(self, path: str, digest: str) -> None:
        """Check that a closure is the signed one. Raises: Untrusted."""
        lines = [ClosureLine(info.store_path, info.nar_hash, info.nar_bytes) for info in self.closure(path)]
        if closure_digest(lines) != digest:
            raise Untrusted(
                f"the caches have other content than the release signs for {path}: no device would take it; push the"
                " closure that was released, or release anew"
            )


class Caches:
    """The release's caches, asked in their order."""

    def __init__(self, http: httpx.AsyncClient, caches: Sequence[CacheRef], base: str) -> None:
        """Prepare; `base` is the coordinator's address, for the cache that is built in."""
        self._http = http
        self._caches = [
            CacheRef(url=f"{base.rstrip('/')}/cache", key=one.key) if one.url == BUILT_IN else one for one in caches
        ]
        self.walked = Walked()

    async def walk(self, path: str) -> None:
        """Learn of everything that a path needs. Raises: UserError for what no cache has, Unreachable, Untrusted."""
        slots = asyncio.Semaphore(AT_ONCE)
        level = [path]

        async def ask(one: str) -> None:
            async with slots:
                await self._ask(one)

        while level := [one for one in dict.fromkeys(level) if one not in self.walked.infos]:
            try:
                async with asyncio.TaskGroup() as tasks:
                    for one in level:
                        tasks.create_task(ask(one))
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
            if len(self.walked.infos) > PATHS_MAX:
                raise UserError(f"{path} needs more than {PATHS_MAX} paths; export for fewer devices")
            level = [reference for one in level for reference in self.walked.infos[one].references]

    async def _ask(self, path: str) -> None:
        fault: NixfleetError | None = None
        for cache in self._caches:
            try:
                text = await read_narinfo(self._http, cache, path)
                info = parse_narinfo(text) if text is not None else None
            except (Unreachable, Untrusted) as error:
                fault = fault or error
                continue
            if info is not None and info.store_path == path and verify_narinfo(info, [cache.key]) is not None:
                self.walked.infos[path] = info
                self.walked.base[path] = cache.url.rstrip("/")
                return
        raise fault or UserError(f"no cache of the release has {path}, signed by its key; push it, and export again")

    async def download(self, info: NarInfo, take: Callable[[bytes], object]) -> None:
        """Download a path's NAR as it is stored. Raises: Unreachable, Untrusted for another one than is described."""
        url = f"{self.walked.base[info.store_path]}/{info.url}"
        digest, held = hashlib.sha256(), 0
        with translated(url):
            async with self._http.stream("GET", url) as answer:
                if answer.status_code != 200:
                    raise Unreachable(f"{url} answers HTTP {answer.status_code}")
                async for chunk in answer.aiter_raw():
                    held += len(chunk)
                    if held > info.file_bytes:
                        break
                    digest.update(chunk)
                    take(chunk)
        if held < info.file_bytes:
            raise Unreachable(f"{url} ended after {held} of {info.file_bytes} bytes")
        if held > info.file_bytes or f"sha256:{base32_encode(digest.digest())}" != info.file_hash:
            raise Untrusted(f"{url} is not the file that its narinfo describes")


@asynccontextmanager
async def open_caches(caches: Sequence[CacheRef], base: str) -> AsyncGenerator[Caches, None]:
    """Open connections to a release's caches."""
    import httpx

    headers = {"accept-encoding": "identity"}
    async with httpx.AsyncClient(timeout=REQUEST_S, headers=headers, follow_redirects=True, trust_env=True) as http:
        yield Caches(http, caches, base)


async def write_bundle(
    path: Path,
    head: Head,
    checkpoint: bytes,
    entries: Iterator[Entry],
    lines: Sequence[LineOf],
    caches: Caches,
    infos: Sequence[NarInfo],
    on_bytes: Callable[[int, int], None],
) -> int:
    """Write a bundle beside its place, and put it there once it is whole; gives its size.

    Raises: UserError when it cannot be written, Unreachable, Untrusted.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            writer = Writer(file)
            writer.log(head, checkpoint, entries, lines)
            writer.infos(replace(info, url=file_url(info)) for info in infos)
            await _write_nars(file, writer, caches, infos, on_bytes)
            writer.close()
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return size


async def _write_nars(
    file: BinaryIO, writer: Writer, caches: Caches, infos: Sequence[NarInfo], on_bytes: Callable[[int, int], None]
) -> None:
    files = {file_url(info): info for info in reversed(infos)}
    ordered = [info for info in infos if files.pop(file_url(info), None) is not None]
    total_bytes, done_bytes = sum(info.file_bytes for info in ordered), 0
    for info in ordered:
        at = file.tell()
        for left in reversed(range(TRIES)):
            file.seek(at)
            file.truncate()
            take = writer.begin_nar(replace(info, url=file_url(info)))
            try:
                await caches.download(info, take)
                break
            except Unreachable:
                if not left:
                    raise
        writer.end_nar(info)
        done_bytes += info.file_bytes
        on_bytes(done_bytes, total_bytes)
