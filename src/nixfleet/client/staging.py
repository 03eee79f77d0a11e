"""Entries that came and that no checkpoint has proven yet: in a file, not in memory, for a log can be long.

A device's file has a name and outlives the program, so that a first sync goes on where it was killed; what it holds
counts as little as before. It must never judge an entry, nor hold more than its bound.
"""

import os
import struct
import tempfile
from array import array
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.ids import MAX_LEAF_BYTES, MAX_PAYLOAD_BYTES
from nixfleet.model.wire import Entry

_START: Final = struct.Struct(">Q")
"""The file's head: the log's size that its entries go on from."""
_HEAD: Final = struct.Struct(">HI")
"""An entry's head: the leaf's length, and the payload's and one, or 0 where it is not held."""
_LEAST_BYTES: Final = 128
"""What an entry counts at least, even where its leaf is empty."""


class Staging(Collection[Entry]):
    """Consecutive entries from the log's size on, in their order."""

    def __init__(self, folder: Path, max_bytes: int, *, named: bool) -> None:
        """Prepare to hold so much in a folder; no file is made before the first entry."""
        self._folder = folder
        self._named = named
        self._max_bytes = max_bytes
        self._file: IO[bytes] | None = None
        self._ends: array[int] = array("Q")
        """Where each entry ends in the file."""
        self._sums: array[int] = array("Q")
        """What the entries up to each count against the bound."""

    def __del__(self) -> None:
        # A program that ends, or drops its mirror, leaves a named file to its next run.
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def _path(self) -> Path:
        return self._folder / "staged"

    def resume(self, size: int) -> None:
        """Take up what an earlier run of the program left that goes on from a log of this size."""
        if not self._named:
            return
        try:
            self._file = self._path.open("r+b")
        except OSError:
            return
        head = self._file.read(_START.size)
        if len(head) != _START.size or _START.unpack(head)[0] != size:
            self.clear()
            return
        try:
            while (entry := _read(self._file)) is not None:
                self._count(entry)
            self._cut(len(self))  # a crash may have left half an entry
        except (OSError, Untrusted):
            self.clear()

    def put(self, size: int, keep: int, entries: Sequence[Entry]) -> None:
        """Hold entries behind the first `keep` of those held; `size` is the log's.

        Raises: Untrusted when that is more than may be held; UserError when the disk fails.
        """
        assert keep <= len(self)
        try:
            if self._file is None:
                self._file = self._new()
                self._file.write(_START.pack(size))
            self._cut(keep)
            for entry in entries:
                self._add(entry)
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._folder} cannot be written: {error.strerror or error}") from error

    def __contains__(self, entry: object) -> bool:
        return any(one == entry for one in self)

    def __iter__(self) -> Iterator[Entry]:
        """Read what is held from the file. Raises: UserError when the disk fails."""
        if self._file is None:
            return
        try:
            self._file.seek(_START.size)
            for _ in range(len(self)):
                entry = _read(self._file)
                assert entry is not None, "what was written is there"
                yield entry
        except OSError as error:
            raise UserError(f"{self._folder} cannot be read: {error.strerror or error}") from error

    def clear(self) -> None:
        """Hold nothing any longer."""
        if self._file is not None:
            self._file.close()
            self._file = None
            if self._named:
                with suppress(OSError):
                    self._path.unlink()
        self._ends, self._sums = array("Q"), array("Q")

    def _new(self) -> IO[bytes]:
        if not self._named:
            return tempfile.TemporaryFile(dir=self._folder)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        return os.fdopen(handle, "r+b")

    def _cut(self, keep: int) -> None:
        """Hold only the first entries, and write behind them from now on."""
        assert self._file is not None
        del self._ends[keep:], self._sums[keep:]
        end = self._ends[-1] if keep else _START.size
        self._file.seek(end)
        self._file.truncate()

    def _add(self, entry: Entry) -> None:
        assert self._file is not None
        length = 0 if entry.payload is None else len(entry.payload) + 1
        head = _HEAD.pack(len(entry.leaf), length)
        self._file.write(head + entry.leaf + (entry.payload or b""))
        self._count(entry)

    def _count(self, entry: Entry) -> None:
        leaf, payload = len(entry.leaf), len(entry.payload or b"")
        total = (self._sums[-1] if self._sums else 0) + max(_LEAST_BYTES, leaf) + payload
        if total > self._max_bytes:
            limit = self._max_bytes >> 20
            raise Untrusted(f"the coordinator sends more than {limit} MiB of entries that no checkpoint has proven yet")
        self._sums.append(total)
        self._ends.append((self._ends[-1] if self._ends else _START.size) + _HEAD.size + leaf + payload)


def _read(file: IO[bytes]) -> Entry | None:
    """Read the entry at the file's place; None where no whole one is."""
    head = file.read(_HEAD.size)
    if len(head) != _HEAD.size:
        return None
    leaf_bytes, payload_bytes = _HEAD.unpack(head)
    if leaf_bytes > MAX_LEAF_BYTES or payload_bytes > MAX_PAYLOAD_BYTES + 1:
        return None
    leaf = file.read(leaf_bytes)
    payload = file.read(payload_bytes - 1) if payload_bytes else None
    whole = len(leaf) == leaf_bytes and (payload is None or len(payload) == payload_bytes - 1)
    return Entry(leaf=leaf, payload=payload) if whole else None
