"""The built-in binary cache: uploads that are checked before anyone sees them, served as a standard Nix binary cache.

It must never show a path whose bytes it has not unpacked and hashed itself. Its signature proves what the coordinator
holds, never what an admin meant: that is the closure digest in a signed release (trust.md).
"""

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import zstandard

from nixfleet.config import sync_folder
from nixfleet.errors import Conflict, Unreachable, Untrusted, UserError
from nixfleet.model.wire import UPLOAD_CHUNK_BYTES, CachePath
from nixfleet.server.faults import Bound, Busy
from nixfleet.trust.narinfo import (
    NARINFO_BYTES_MAX,
    CacheKey,
    NarInfo,
    base32_encode,
    format_narinfo,
    hash_part,
    parse_narinfo,
)

_READ_BYTES: Final = 1 << 20
_WINDOW_BYTES_MAX: Final = 128 << 20
_NAR_MAGIC: Final = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0"
_HASH_PART: Final = re.compile(r"[0-9abcdfghijklmnpqrsvwxyz]{32}", re.ASCII)
_NAR_FILE: Final = re.compile(r"[0-9abcdfghijklmnpqrsvwxyz]{52}\.nar\.zst", re.ASCII)

NARINFOS: Final = "narinfo"
"""The folder of the narinfos in a cache's folder."""
INFO: Final = b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"


class DiskFull(Unreachable):
    """The cache's disk has no room for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """What the cache takes: sizes in bytes, uploads at a time, and how long an unfinished one is kept."""

    nar_bytes: int = 32 << 30
    keep_free_bytes: int = 512 << 20
    uploads: int = 256
    upload_kept_s: int = 7 * 86_400
    commits_at_once: int = 2


@dataclass(frozen=True, slots=True)
class NarFile:
    """A stored NAR: where it lies and how many (compressed) bytes it has."""

    path: Path
    size_bytes: int


class BinaryCache:
    """Files in a folder: `partial/` for uploads, `nar/` and `narinfo/` for what is served; one process writes."""

    def __init__(
        self,
        folder: Path,
        key: CacheKey,
        *,
        clock: Callable[[], int],
        limits: CacheLimits | None = None,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """Open or make the folder, throw away unfinished uploads that nobody came back for; `clock` is unix seconds.

        `goes_on` is asked, by other threads too, while a NAR is hashed: the end of the program need not wait for it.
        """
        self._partial, self._nars, self._infos = folder / "partial", folder / "nar", folder / NARINFOS
        self._key = key
        self._clock = clock
        self._limits = limits or CacheLimits()
        self._goes_on = goes_on
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._commits = asyncio.Semaphore(self._limits.commits_at_once)
        for part in (self._partial, self._nars, self._infos):
            part.mkdir(parents=True, exist_ok=True)
        self._forget_old()

    @property
    def public_key(self) -> str:
        """The key that signs what is served, `name:base64`, as the fleet's root lists it."""
        return self._key.public

    # Uploads

    async def missing(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Tell which of these store paths are not here."""
        return await asyncio.to_thread(
            lambda: tuple(path for path in paths if not self._info_file(hash_part(path)).exists())
        )

    async def held_bytes(self, part: str) -> int:
        """Tell how many bytes of an unfinished upload are here."""
        return _size(self._upload_file(part))

    async def append(self, part: str, offset: int, chunk: bytes) -> int:
        """Add a chunk to an upload and give its new size.

        Raises: Conflict when `offset` is not where the upload stands, Bound, Busy, DiskFull; nothing is written then.
        """
        upload = self._upload_file(part)
        async with self._lock(part):
            return await asyncio.to_thread(self._append, upload, offset, chunk)

    async def drop(self, part: str) -> None:
        """Throw an unfinished upload away."""
        async with self._lock(part):
            self._upload_file(part).unlink(missing_ok=True)

    async def commit(self, said: CachePath) -> None:
        """Unpack, hash and publish an upload; a repeat of a published path is fine.

        Raises: UserError when the upload is not what was said, and is then dropped; or when the path is here already
        with other content. Unreachable when the program is to end meanwhile: the upload stays.
        """
        part = hash_part(said.store_path)
        if said.nar_bytes > self._limits.nar_bytes:
            raise Bound(f"{said.store_path} is larger than the {self._limits.nar_bytes} bytes this cache takes")
        async with self._lock(part), self._commits:
            await asyncio.to_thread(self._commit, part, said)

    def _append(self, upload: Path, offset: int, chunk: bytes) -> int:
        held = _size(upload)
        if offset != held:
            raise Conflict(f"the upload stands at {held} bytes, not at {offset}")
        if len(chunk) > UPLOAD_CHUNK_BYTES:
            raise Bound(f"a chunk is larger than {UPLOAD_CHUNK_BYTES} bytes")
        if held + len(chunk) > self._limits.nar_bytes:
            raise Bound(f"the upload is larger than the {self._limits.nar_bytes} bytes this cache takes")
        if not chunk:
            return held
        if not held and self._unfinished() >= self._limits.uploads:
            self._forget_old()
            if self._unfinished() >= self._limits.uploads:
                raise Busy(f"{self._limits.uploads} uploads are unfinished; finish or drop one first")
        self._check_space(len(chunk))
        try:
            with upload.open("ab") as file:
                file.write(chunk)
        except OSError as error:
            with upload.open("ab") as file:
                file.truncate(held)
            raise DiskFull(f"the cache cannot be written: {error.strerror or error}") from error
        return held + len(chunk)

    def _unfinished(self) -> int:
        return sum(1 for _ in self._partial.iterdir())

    def _check_space(self, wanted_bytes: int) -> None:
        free = shutil.disk_usage(self._partial).free
        if free - wanted_bytes < self._limits.keep_free_bytes:
            raise DiskFull(
                f"the coordinator's disk has {free >> 20} MiB left and keeps {self._limits.keep_free_bytes >> 20} MiB"
                " free; make room there"
            )

    def _commit(self, part: str, said: CachePath) -> None:
        upload = self._upload_file(part)
        if (published := self._published(part)) is not None:
            if (published.nar_hash, published.store_path) != (said.nar_hash, said.store_path):
                raise UserError(f"the cache has {said.store_path} with other content ({published.nar_hash})")
            upload.unlink(missing_ok=True)
            return
        if not upload.exists():
            raise UserError(f"nothing was uploaded for {said.store_path}")
        try:
            file_hash, file_bytes = _checked(upload, said, self._goes_on)
        except UserError:
            upload.unlink(missing_ok=True)
            raise
        info = NarInfo(
            store_path=said.store_path,
            url=f"nar/{file_hash}.nar.zst",
            compression="zstd",
            file_hash=f"sha256:{file_hash}",
            file_bytes=file_bytes,
            nar_hash=said.nar_hash,
            nar_bytes=said.nar_bytes,
            references=tuple(sorted(set(said.references))),
            deriver=said.deriver,
        )
        text = format_narinfo(self._key.signed(info))
        if len(text) > NARINFO_BYTES_MAX:
            raise Bound(f"{said.store_path} has more references than a narinfo of {NARINFO_BYTES_MAX} bytes holds")
        # The NAR is durable before the narinfo that names it: a crash in between leaves a file, never a broken path.
        upload.replace(self._nars / f"{file_hash}.nar.zst")
        sync_folder(self._nars)
        _write_durably(self._partial / f"{part}.narinfo", text.encode())
        (self._partial / f"{part}.narinfo").replace(self._info_file(part))
        sync_folder(self._infos)

    def _published(self, part: str) -> NarInfo | None:
        """Read what is published; a narinfo that a broken disk left malformed counts as none, and is written anew."""
        text = self.info(part)
        try:
            return None if text is None else parse_narinfo(text.decode("utf-8", "replace"))
        except Untrusted:
            return None

    def _forget_old(self) -> None:
        """Remove uploads that nothing was added to for a while."""
        oldest = self._clock() - self._limits.upload_kept_s
        for upload in self._partial.iterdir():
            if upload.stat().st_mtime < oldest:
                upload.unlink(missing_ok=True)

    def _lock(self, part: str) -> asyncio.Lock:
        return self._locks.setdefault(part, asyncio.Lock())

    def _upload_file(self, part: str) -> Path:
        return self._partial / f"{_checked_part(part)}.zst"

    def _info_file(self, part: str) -> Path:
        return self._infos / f"{part}.narinfo"

    # Serving

    def info(self, part: str) -> bytes | None:
        """Give the narinfo of a hash part, or None; whatever is no hash part is not here either."""
        if not _HASH_PART.fullmatch(part):
            return None
        try:
            return self._info_file(part).read_bytes()
        except FileNotFoundError:
            return None

    def nar(self, name: str) -> NarFile | None:
        """Find a stored NAR by its file name, or None; only names that this cache makes are looked for."""
        if not _NAR_FILE.fullmatch(name):
            return None
        try:
            return NarFile(self._nars / name, (self._nars / name).stat().st_size)
        except FileNotFoundError:
            return None


def _checked(upload: Path, said: CachePath, goes_on: Callable[[], bool]) -> tuple[str, int]:
    """Unpack an upload and compare; give the compressed file's hash (Nix base32) and size.

    Raises: UserError; Unreachable when it is not to go on.
    """
    nar_hash, nar_bytes = hashlib.sha256(), 0
    with upload.open("rb") as file:
        try:
            reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX).stream_reader(
                file, read_across_frames=True
            )
            while chunk := _next(reader, goes_on):
                if nar_bytes == 0 and not chunk.startswith(_NAR_MAGIC):
                    raise UserError(f"what was uploaded for {said.store_path} is no NAR")
                nar_bytes += len(chunk)
                nar_hash.update(chunk)
                if nar_bytes > said.nar_bytes:
                    raise UserError(f"what was uploaded for {said.store_path} is larger than was said")
        except zstandard.ZstdError as error:
            raise UserError(f"what was uploaded for {said.store_path} cannot be unpacked: {error}") from error
        told = f"sha256:{base32_encode(nar_hash.digest())}"
        if (told, nar_bytes) != (said.nar_hash, said.nar_bytes):
            raise UserError(f"what was uploaded for {said.store_path} has NAR hash {told}, not {said.nar_hash}")
        os.fsync(file.fileno())
        return _file_hash(file, goes_on)


def _file_hash(file: BufferedReader, goes_on: Callable[[], bool]) -> tuple[str, int]:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := _next(file, goes_on):
        digest.update(chunk)
    return base32_encode(digest.digest()), file.tell()


def _next(file: BufferedReader | zstandard.ZstdDecompressionReader, goes_on: Callable[[], bool]) -> bytes:
    """Read the next piece. Raises: Unreachable when it is not to go on."""
    if not goes_on():
        raise Unreachable("the coordinator is stopping; the upload stays, commit it again in a moment")
    return file.read(_READ_BYTES)


def _checked_part(text: str) -> str:
    if not _HASH_PART.fullmatch(text):
        raise UserError(f"{text[:40]!r} is not the hash part of a store path")
    return text


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
