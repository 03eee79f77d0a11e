"""The files of a mirror: leaves and payloads appended, a meta file that says how much of them counts. No judgement.

A crash leaves at most a tail beyond what the meta file says, which the next writer cuts off. Several programs of one
machine may share a folder: each takes over what another has appended. It must never change what is written.
"""

import base64
import fcntl
import itertools
import os
import re
import shutil
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Final, Self

import msgspec

from nixfleet.config import sync_folder, write_atomic
from nixfleet.errors import Untrusted, UserError
from nixfleet.model.ids import HEX64, MAX_LEAF_BYTES, MAX_PAYLOAD_BYTES
from nixfleet.model.reading import UNREADABLE
from nixfleet.model.statements import LogState
from nixfleet.model.wire import Entry
from nixfleet.trust.view import Carried

_LEAF: Final = struct.Struct(">H")
_PAYLOAD: Final = struct.Struct(">II")
_ABSENT: Final = 2**64 - 1
_DIGEST: Final = re.compile(HEX64)


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the files counts: sizes in bytes, and the newest verified checkpoint over `size` entries."""

    v: int = 1
    fleet: str
    size: int = 0
    root: str = ""
    leaves_bytes: int = 0
    payloads_bytes: int = 0
    checkpoint: bytes = b""


class LogFile:
    """The entries of a log on disk, readable by index."""

    def __init__(self, folder: Path, meta: Meta) -> None:
        """Use `open` instead."""
        self.folder = folder
        self.meta = meta
        self._leaves, self._payloads = folder / "leaves", folder / "payloads"
        self._leaf_at: array[int] = array("Q")
        self._payload_at: array[int] = array("Q")

    @classmethod
    def open(cls, folder: Path, fleet: str) -> Self:
        """Open or make the files. Raises: UserError for another fleet's or an unusable folder; Untrusted if damaged."""
        try:
            if not folder.exists() and _next(folder).exists():
                _next(folder).rename(folder)  # a crash between the two renames of `succeed`
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = cls(folder, Meta(fleet=fleet))
            with file._locked():
                file._take_over(file._read_meta())
                file._cut()
        except OSError as error:
            raise UserError(f"{folder} cannot be used: {error.strerror or error}") from error
        return file

    def succeed(
        self, carried: Sequence[Carried], checkpoint: bytes, log: LogState, entries: Sequence[Entry]
    ) -> "LogFile":
        """Put the log of a later epoch in place of this one, which is kept beside it, whole or not at all.

        Raises: UserError.
        """
        place = _next(self.folder)
        try:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True, mode=0o700)
            write_atomic(place / "carried.json", msgspec.json.encode(tuple(carried)))
            LogFile.open(place, self.meta.fleet).append(checkpoint, log, 0, entries)
            self.folder.rename(_free(self.folder))
            place.rename(self.folder)
            sync_folder(self.folder.parent)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be replaced: {error.strerror or error}") from error
        return LogFile.open(self.folder, self.meta.fleet)

    def carried(self) -> tuple[Carried, ...]:
        """Read what was revoked in lost logs that this one takes up. Raises: Untrusted."""
        path = self.folder / "carried.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=tuple[Carried, ...])
        except FileNotFoundError:
            return ()
        except (OSError, *UNREADABLE) as error:
            raise Untrusted(f"{path} is damaged ({error})") from error

    def leaf(self, index: int) -> bytes:
        """Read a leaf. Raises: IndexError."""
        with self._leaves.open("rb") as file:
            file.seek(self._leaf_at[index])
            return _exactly(file.read(_LEAF.size + MAX_LEAF_BYTES), _LEAF)

    def payload(self, index: int) -> bytes | None:
        """Read a payload, None when it is not held. Raises: IndexError."""
        if self._payload_at[index] == _ABSENT:
            return None
        with self._payloads.open("rb") as file:
            return _payload(file, self._payload_at[index])

    def lines(self, release: str) -> tuple[str, ...] | None:
        """Read what was kept of a release's device lines; None too for what is no release's digest.

        The name comes from a coordinator that nobody has to believe: it must never lead out of the folder.
        """
        if not _DIGEST.fullmatch(release):
            return None
        try:
            return tuple((self.folder / "lines" / release).read_text().split("\n")[:-1])
        except (OSError, UnicodeDecodeError):
            return None

    def keep_lines(self, release: str, lines: Sequence[str]) -> None:
        """Keep a release's device lines. Raises: UserError."""
        assert _DIGEST.fullmatch(release), "a release is known by its digest"
        write_atomic(self.folder / "lines" / release, "".join(f"{line}\n" for line in lines).encode())

    def entries(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Read everything, one entry after the other: a log need not fit the memory. Raises: Untrusted, UserError."""
        try:
            # Without the payloads' file there are none, and no entry is said to have one.
            with self._payloads.open("rb") if self._payloads.exists() else nullcontext() as payloads:
                records = self._records(self._leaves, _LEAF, 0, self.meta.leaves_bytes)
                for (_, leaf), at in zip(records, self._payload_at, strict=True):
                    yield leaf[_LEAF.size :], None if at == _ABSENT or payloads is None else _payload(payloads, at)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be read: {error.strerror or error}") from error

    def append(self, checkpoint: bytes, log: LogState, start: int, entries: Iterable[Entry]) -> None:
        """Keep entries from `start` on durably, with the checkpoint over all of them.

        Raises: UserError when the disk fails, or another program has written another log here; nothing counts then.
        """
        try:
            with self._locked():
                self._take_over(self._read_meta())
                rest = iter(entries)
                for index, entry in zip(range(start, self.meta.size), rest, strict=False):
                    if self.leaf(index) != entry.leaf:
                        raise UserError(f"{self.folder} holds another log than this program has verified")
                if log.size < self.meta.size:
                    return  # another program is further already
                self._cut()
                self._write(checkpoint, log, rest)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written: {error.strerror or error}") from error

    def add_payload(self, index: int, payload: bytes) -> None:
        """Keep a payload that came later than its leaf. Raises: UserError."""
        try:
            with self._locked():
                self._take_over(self._read_meta())
                self._cut()
                self._payload_at[index] = self.meta.payloads_bytes
                with _appending(self._payloads) as file:
                    added = file.write(_PAYLOAD.pack(index, len(payload)) + payload)
                self._publish(msgspec.structs.replace(self.meta, payloads_bytes=self.meta.payloads_bytes + added))
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written: {error.strerror or error}") from error

    def _write(self, checkpoint: bytes, log: LogState, entries: Iterable[Entry]) -> None:
        old = self.meta
        leaf_at, payload_at = array("Q"), array("Q")
        leaves_bytes, payloads_bytes = old.leaves_bytes, old.payloads_bytes
        # Both files are durable before the meta file counts them.
        with _appending(self._leaves) as leaves, _appending(self._payloads) as payloads:
            for index, entry in enumerate(entries, start=old.size):
                leaf_at.append(leaves_bytes)
                leaves_bytes += leaves.write(_LEAF.pack(len(entry.leaf)) + entry.leaf)
                payload_at.append(_ABSENT if entry.payload is None else payloads_bytes)
                if entry.payload is not None:
                    payloads_bytes += payloads.write(_PAYLOAD.pack(index, len(entry.payload)) + entry.payload)
        assert old.size + len(leaf_at) == log.size
        new = msgspec.structs.replace(
            old,
            size=log.size,
            root=log.root,
            leaves_bytes=leaves_bytes,
            payloads_bytes=payloads_bytes,
            checkpoint=checkpoint,
        )
        self._publish(new)
        self._leaf_at.extend(leaf_at)
        self._payload_at.extend(payload_at)

    def _publish(self, meta: Meta) -> None:
        """Let what is durable count; the names of new files are made durable with the meta file's own."""
        write_atomic(self.folder / "meta.json", msgspec.json.encode(meta))
        self.meta = meta

    def _read_meta(self) -> Meta:
        path = self.folder / "meta.json"
        try:
            meta = msgspec.json.decode(path.read_bytes(), type=Meta)
        except FileNotFoundError:
            return Meta(fleet=self.meta.fleet)
        except UNREADABLE as error:
            raise Untrusted(f"{path} is damaged ({error}); move {self.folder} away to fetch the log anew") from error
        if meta.v != 1 or meta.fleet != self.meta.fleet:
            raise UserError(f"{self.folder} holds the log of another fleet ({meta.fleet[:12]}…), or of a newer version")
        return meta

    def _take_over(self, disk: Meta) -> None:
        """Index what has been appended since we last looked, by this program or another."""
        if disk.size < self.meta.size or disk.payloads_bytes < self.meta.payloads_bytes:
            raise UserError(f"{self.folder} was replaced while it was in use; start again")
        for at, _ in self._records(self._leaves, _LEAF, self.meta.leaves_bytes, disk.leaves_bytes):
            self._leaf_at.append(at)
            self._payload_at.append(_ABSENT)
        if len(self._leaf_at) != disk.size:
            raise self._damaged()
        for at, data in self._records(self._payloads, _PAYLOAD, self.meta.payloads_bytes, disk.payloads_bytes):
            index = _PAYLOAD.unpack_from(data)[0]
            if index >= disk.size:
                raise self._damaged()
            self._payload_at[index] = at
        self.meta = disk

    def _records(self, path: Path, head: struct.Struct, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Read records, each with its head, between two places. Raises: Untrusted when they do not fit."""
        if start == end:
            return
        try:
            with path.open("rb") as file:
                file.seek(start)
                while start < end:
                    first = file.read(head.size)
                    length = head.unpack(first)[-1] if len(first) == head.size else 0
                    data = first + file.read(length)
                    if not length or len(data) != head.size + length or start + len(data) > end:
                        raise self._damaged()
                    yield start, data
                    start += len(data)
        except FileNotFoundError:
            raise self._damaged() from None

    def _damaged(self) -> Untrusted:
        return Untrusted(f"the files in {self.folder} are damaged; move the folder away to fetch the log anew")

    def _cut(self) -> None:
        """Cut off what a crash left beyond the meta file's word."""
        for path, size in ((self._leaves, self.meta.leaves_bytes), (self._payloads, self.meta.payloads_bytes)):
            if path.exists() and path.stat().st_size > size:
                os.truncate(path, size)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, which a crash releases (flock(2))."""
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _next(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.next")


def _free(folder: Path) -> Path:
    """Name a place for a log that is over: it may be evidence."""
    return next(
        place
        for number in itertools.count()
        if not (place := folder.with_name(f"{folder.name}.lost-{number}")).exists()
    )


def known_state(folder: Path, fleet: str) -> LogState | None:
    """Tell which state of a fleet's log the files say was verified, though they may be damaged otherwise.

    None where the checkpoint beside it does not say the same: who pins a state that never was meets a fork for ever.
    """
    try:
        meta = msgspec.json.decode((folder / "meta.json").read_bytes(), type=Meta)
        known = msgspec.convert({"size": meta.size, "root": meta.root}, LogState)
    except (OSError, *UNREADABLE):
        return None
    said = f"\n{known.size}\n{base64.b64encode(bytes.fromhex(known.root)).decode()}\n"
    return known if meta.fleet == fleet and said.encode() in meta.checkpoint else None


@contextmanager
def _appending(path: Path) -> Iterator[IO[bytes]]:
    """Append durably to a file, which is made; nothing costs no sync."""
    made = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "ab") as file:
        begin = file.tell()
        yield file
        file.flush()
        if made or file.tell() != begin:
            os.fsync(file.fileno())


def _payload(file: IO[bytes], at: int) -> bytes:
    file.seek(at)
    return _exactly(file.read(_PAYLOAD.size + MAX_PAYLOAD_BYTES), _PAYLOAD)


def _exactly(data: bytes, head: struct.Struct) -> bytes:
    length = int(head.unpack_from(data)[-1])
    return data[head.size : head.size + length]
