"""An update in one file, for devices without a network: log, device lines and NARs, as a tar in a fixed order.

    head.json, checkpoint, entries.jsonl, lines.jsonl, then nix-cache-info, every narinfo, every NAR below cache/

Read as a stream, by this module's own strict reader: a tar library follows links and extensions, and what is in the
file is anybody's. Nothing in it is trusted for being there: whoever uses it verifies log, lines and closures as if a
coordinator had sent them. It must never write outside of the folder that it unpacks into, nor more than fits.
"""

import hashlib
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple, TypeVar

import msgspec

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.ids import MAX_INT, MAX_NOTE_BYTES, Count, Hex32, Hex64, Name
from nixfleet.model.reading import UNREADABLE
from nixfleet.model.text import counted
from nixfleet.model.wire import Entry, LineAnswer
from nixfleet.trust.narinfo import (
    NARINFO_BYTES_MAX,
    NarInfo,
    base32_encode,
    format_narinfo,
    hash_part,
    parse_narinfo,
)

T = TypeVar("T")

HEAD: Final = "head.json"
CHECKPOINT: Final = "checkpoint"
ENTRIES: Final = "entries.jsonl"
LINES: Final = "lines.jsonl"
CACHE: Final = "cache"
CACHE_INFO: Final = b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 10\n"
DEVICES_MAX: Final = 10_000
PATHS_MAX: Final = 200_000
SPARE_BYTES: Final = 64 << 20
"""What unpacking leaves free on the disk."""

INFOS_BYTES_MAX: Final = 256 << 20
"""What all narinfos of a bundle take together."""

_BLOCK: Final = 512
_CHUNK: Final = 1 << 20
_LINE_BYTES: Final = 256 << 10
_MOST_BYTES: Final = {HEAD: 4 << 20, CHECKPOINT: MAX_NOTE_BYTES, ENTRIES: 512 << 20, LINES: 256 << 20}
_INFO_NAME: Final = re.compile(r"cache/([0-9a-df-np-sv-z]{32})\.narinfo")
_EXTENSIONS: Final = {"none": "", "xz": ".xz", "zstd": ".zst", "bzip2": ".bz2", "gzip": ".gz", "br": ".br"}
"""Compressions that a bundle may hold, and how such a file's name ends."""


class BundleDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device that the bundle is for."""

    device: Hex32
    name: Name


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The first member: what the file says that it is; of use to say early what is wrong, and never trusted."""

    format: Literal["nixfleet-bundle-v1"] = "nixfleet-bundle-v1"
    fleet: Hex64
    rollout: Hex64
    entries: Count
    devices: tuple[BundleDevice, ...]
    paths: Count
    have: str = ""
    """A system that the devices have already: its paths are left out."""


class LineOf(msgspec.Struct, frozen=True, kw_only=True):
    """What the coordinator would answer a device that asks for its line of a rollout's release."""

    rollout: Hex64
    device: Hex32
    answer: LineAnswer


class Nar(NamedTuple):
    """What a narinfo says of its file."""

    path: str
    size: int
    file_hash: str


class Member(NamedTuple):
    """A member's name and size as its header says."""

    name: str
    size: int


# Writing


class Writer:
    """Writes a bundle's members in their order; NARs are given as they come."""

    def __init__(self, file: BinaryIO) -> None:
        """Write to an open file."""
        self._file = file

    def log(self, head: Head, checkpoint: bytes, entries: Iterable[Entry], lines: Iterable[LineOf]) -> None:
        """Write everything but the cache. Raises: UserError when there is more than a bundle may hold."""
        self._member(HEAD, msgspec.json.encode(head))
        self._member(CHECKPOINT, checkpoint)
        self._member(ENTRIES, _json_lines(entries))
        self._member(LINES, _json_lines(lines))

    def infos(self, infos: Iterable[NarInfo]) -> None:
        """Write what the cache says of each path."""
        self._member(f"{CACHE}/nix-cache-info", CACHE_INFO)
        for info in infos:
            self._member(info_name(info), format_narinfo(info).encode())

    def begin_nar(self, info: NarInfo) -> Callable[[bytes], None]:
        """Begin a NAR's file, of the size that its narinfo says; gives what takes its bytes."""
        self._header(f"{CACHE}/{info.url}", info.file_bytes)

        def take(data: bytes) -> None:
            self._file.write(data)

        return take

    def end_nar(self, info: NarInfo) -> None:
        """End a NAR's file."""
        self._pad(info.file_bytes)

    def close(self) -> None:
        """Write the end (two empty blocks)."""
        self._file.write(bytes(2 * _BLOCK))

    def _member(self, name: str, data: bytes) -> None:
        if len(data) > _MOST_BYTES.get(name, NARINFO_BYTES_MAX):
            raise UserError(f"{name} has {len(data)} bytes, more than a bundle holds; export for fewer devices")
        self._header(name, len(data))
        self._file.write(data)
        self._pad(len(data))

    def _header(self, name: str, size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        self._file.write(info.tobuf(tarfile.GNU_FORMAT))

    def _pad(self, size: int) -> None:
        self._file.write(bytes(-size % _BLOCK))


def _json_lines(values: Iterable[msgspec.Struct]) -> bytes:
    return b"".join(msgspec.json.encode(value) + b"\n" for value in values)


def info_name(info: NarInfo) -> str:
    """Give the member of a path's narinfo."""
    return f"{CACHE}/{hash_part(info.store_path)}.narinfo"


def file_url(info: NarInfo) -> str:
    """Give where a bundle has a path's NAR: by the hash of its file. Raises: UserError for an odd compression."""
    extension = _EXTENSIONS.get(info.compression)
    if extension is None:
        raise UserError(f"{info.store_path} is compressed by {info.compression}, which no bundle holds")
    return f"nar/{info.file_hash.removeprefix('sha256:')}.nar{extension}"


# Reading


@dataclass(frozen=True, slots=True)
class Bundle:
    """An unpacked bundle: well-formed, and nothing more."""

    folder: Path
    head: Head
    offsets: tuple[int, ...]
    """Where each entry begins in its file."""

    @property
    def cache_url(self) -> str:
        """The address of its binary cache, as Nix takes it."""
        return f"file://{self.folder / CACHE}"

    @property
    def checkpoint(self) -> bytes:
        """The signed note over its log."""
        return (self.folder / CHECKPOINT).read_bytes()

    def entries(self, start: int, limit: int) -> list[Entry]:
        """Read consecutive entries of the log."""
        some = self.offsets[start : start + limit]
        if not some:
            return []
        with (self.folder / ENTRIES).open("rb") as file:
            file.seek(some[0])
            return [msgspec.json.decode(file.readline(), type=Entry) for _ in some]

    def payload(self, digest: str) -> bytes | None:
        """Find a payload by its SHA-256."""
        for index in range(len(self.offsets)):
            [entry] = self.entries(index, 1)
            if entry.payload is not None and hashlib.sha256(entry.payload).hexdigest() == digest:
                return entry.payload
        return None

    def line(self, rollout: str, device: str) -> LineAnswer | None:
        """Find a device's line of a rollout's release, or the proof that there is none."""
        with (self.folder / LINES).open("rb") as file:
            for text in file:
                told = msgspec.json.decode(text, type=LineOf)
                if (told.rollout, told.device) == (rollout, device):
                    return told.answer
        return None


def read_head(path: Path) -> Head:
    """Read what a bundle says that it is. Raises: UserError, Untrusted."""
    with _opened(path) as file:
        return _Reader(path, file).head()


def unpack(path: Path, folder: Path, check: Callable[[Head], None]) -> Bundle:
    """Unpack a bundle into a folder, in place of what is there; `check` may refuse it for what it says that it is.

    Raises: UserError for a file that is none, or does not fit on the disk; Untrusted for one that is damaged.
    """
    with _opened(path) as file:
        reader = _Reader(path, file)
        head = reader.head()
        check(head)
        try:
            shutil.rmtree(folder, ignore_errors=True)
            (folder / CACHE / "nar").mkdir(mode=0o700, parents=True)
            return reader.rest(head, folder)
        except OSError as error:
            raise UserError(f"{path} cannot be unpacked into {folder}: {error.strerror or error}") from error


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


class _Reader:
    """Reads members one after the other; what is not what belongs there is refused."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._infos_bytes = 0

    def head(self) -> Head:
        block = self._file.read(_BLOCK)
        try:
            member = _member_of(block)
        except tarfile.HeaderError:
            member = None
        if member is None or member.name != HEAD or member.size > _MOST_BYTES[HEAD]:
            raise UserError(f"{self._path} is no bundle; 'nixfleet bundle export' makes one")
        head = self._decoded(b"".join(self._content(member)), Head, "its head")
        if len(head.devices) > DEVICES_MAX or head.paths > PATHS_MAX:
            raise Untrusted(
                f"{self._path} claims {counted(len(head.devices), 'device')} and {counted(head.paths, 'path')}:"
                f" {DEVICES_MAX} and {PATHS_MAX} are the most"
            )
        return head

    def rest(self, head: Head, folder: Path) -> Bundle:
        """Unpack everything behind the head."""
        for name in (CHECKPOINT, ENTRIES, LINES):
            self._keep(self._next(name, _MOST_BYTES[name]), folder / name)
        offsets = self._checked_lines(folder / ENTRIES, Entry)
        if len(offsets) != head.entries:
            raise Untrusted(f"{self._path} has {len(offsets)} entries, and says {head.entries}")
        self._checked_lines(folder / LINES, LineOf)
        self._keep(self._next(f"{CACHE}/nix-cache-info", len(CACHE_INFO)), folder / CACHE / "nix-cache-info")
        if (folder / CACHE / "nix-cache-info").read_bytes() != CACHE_INFO:
            raise Untrusted(f"{self._path} has a foreign nix-cache-info")
        self._cache(dict(self._info(folder) for _ in range(head.paths)), folder)
        if self._file.read(2 * _BLOCK) != bytes(2 * _BLOCK):
            raise Untrusted(f"{self._path} does not end where it says that it does")
        return Bundle(folder, head, tuple(offsets))

    def _info(self, folder: Path) -> tuple[str, Nar]:
        member = self._next("", NARINFO_BYTES_MAX)
        self._infos_bytes += member.size
        if self._infos_bytes > INFOS_BYTES_MAX:
            raise Untrusted(f"the narinfos of {self._path} have more than {INFOS_BYTES_MAX} bytes")
        found = _INFO_NAME.fullmatch(member.name)
        if found is None:
            raise Untrusted(f"{self._path} has {member.name!r} where a narinfo belongs")
        data = b"".join(self._content(member))
        info = parse_narinfo(data.decode("utf-8", "replace"))
        # Nix follows the address that stands here, wherever it leads.
        if hash_part(info.store_path) != found[1] or info.url != self._url(info):
            raise Untrusted(f"{self._path} has a narinfo that is of another path, or leads out of it: {member.name}")
        (folder / member.name).write_bytes(data)
        return info.url, Nar(info.store_path, info.file_bytes, info.file_hash)

    def _url(self, info: NarInfo) -> str:
        try:
            return file_url(info)
        except UserError as error:
            raise Untrusted(str(error)) from error

    def _cache(self, nars: dict[str, Nar], folder: Path) -> None:
        self._check_fits(sum(nar.size for nar in nars.values()), folder)
        for url, nar in nars.items():
            member = self._next(f"{CACHE}/{url}", MAX_INT)
            if member.size != nar.size:
                raise Untrusted(f"{self._path} has {member.size} bytes of {nar.path}, not {nar.size}")
            digest = self._keep(member, folder / CACHE / url)
            if f"sha256:{base32_encode(digest)}" != nar.file_hash:
                raise Untrusted(f"{self._path} is damaged: the content of {nar.path} is not what it says")

    def _check_fits(self, size: int, folder: Path) -> None:
        short_bytes = size + SPARE_BYTES - shutil.disk_usage(folder).free
        if short_bytes > 0:
            raise UserError(f"{folder} is short of {-(-short_bytes >> 20)} MiB to unpack {self._path}; make room there")

    def _next(self, name: str, most_bytes: int) -> Member:
        """Read the header of the member that belongs here; an empty name: of any."""
        try:
            member = _member_of(self._file.read(_BLOCK))
        except tarfile.HeaderError as error:
            raise Untrusted(f"{self._path} is cut short or damaged before {name or 'a narinfo'}") from error
        if name and member.name != name:
            raise Untrusted(f"{self._path} has {member.name!r} where {name} belongs")
        if member.size > most_bytes:
            raise Untrusted(f"{member.name} of {self._path} has {member.size} bytes; {most_bytes} are the most")
        return member

    def _content(self, member: Member) -> Iterator[bytes]:
        left = member.size
        while left:
            chunk = self._file.read(min(left, _CHUNK))
            if not chunk:
                raise Untrusted(f"{self._path} is cut short in {member.name}")
            left -= len(chunk)
            yield chunk
        if len(self._file.read(-member.size % _BLOCK)) != -member.size % _BLOCK:
            raise Untrusted(f"{self._path} is cut short behind {member.name}")

    def _keep(self, member: Member, place: Path) -> bytes:
        """Write a member's content to a file, if it fits there; gives its SHA-256."""
        self._check_fits(member.size, place.parent)
        digest = hashlib.sha256()
        with place.open("wb") as file:
            for chunk in self._content(member):
                digest.update(chunk)
                file.write(chunk)
        return digest.digest()

    def _checked_lines(self, place: Path, shape: type[T]) -> list[int]:
        """Check that every line of a file is what it should be; gives where each begins."""
        offsets: list[int] = []
        at = 0
        with place.open("rb") as file:
            while line := file.readline(_LINE_BYTES):
                self._decoded(line, shape, f"line {len(offsets)} of {place.name}")
                offsets.append(at)
                at += len(line)
        return offsets

    def _decoded(self, data: bytes, shape: type[T], what: str) -> T:
        try:
            return msgspec.json.decode(data, type=shape)
        except UNREADABLE as error:
            raise Untrusted(f"{self._path}: {what} is unreadable: {error}") from error


def _member_of(block: bytes) -> Member:
    """Read a member's header; only plain files count. Raises: tarfile.HeaderError."""
    info = tarfile.TarInfo.frombuf(block, "ascii", "replace")
    if info.type != tarfile.REGTYPE or info.size < 0:
        raise tarfile.HeaderError("not a plain file")
    return Member(info.name, info.size)
