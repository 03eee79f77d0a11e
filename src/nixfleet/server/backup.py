"""Sealed backups of a coordinator: database, log key and cache key in one file; the built-in cache is not in it.

Written beside a coordinator that serves, by a snapshot of its own; a file under a final name is whole. It must never
write a key or the log in the open outside the data folder.
"""

import fcntl
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from nixfleet.config import sync_folder
from nixfleet.errors import Untrusted, UserError
from nixfleet.model.reading import UNREADABLE
from nixfleet.server.settings import CACHE_KEY, DATABASE, LOG_KEY, NEXT_LOG_KEY, ServerSettings
from nixfleet.trust.sealedstream import open_stream, seal_stream

KEPT: Final = 14
"""How many automatic backups stay."""
STALE_S: Final = 3_600
_ENDING: Final = ".nixfleet-backup"
_AT: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z", re.ASCII)
_PARTIAL: Final = ".nixfleet-partial-"
_PART_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 4_096
_KEYS: Final = (LOG_KEY, NEXT_LOG_KEY, CACHE_KEY)
_HELD: Final = (*_KEYS, DATABASE)


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands before each file in a backup: its name and size; `more` tells whether another one follows."""

    name: str
    size_bytes: int
    more: bool


def name_at(fleet: str, at: int) -> str:
    """Name a backup made at a time (unix seconds), so that a fleet's names sort by it."""
    return f"{_prefix(fleet)}{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%SZ}{_ENDING}"


def _prefix(fleet: str) -> str:
    """Begin the names of a fleet's backups with what of its name can stand in a file's."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', fleet) or 'fleet'}-"


def _of(folder: Path, fleet: str) -> list[tuple[str, Path]]:
    """Find a fleet's automatic backups in a folder, which other fleets may share, with their times; oldest first."""
    begin = _prefix(fleet)
    found = ((path.name.removeprefix(begin).removesuffix(_ENDING), path) for path in folder.iterdir())
    return sorted((at, path) for at, path in found if _AT.fullmatch(at) and path.name == f"{begin}{at}{_ENDING}")


def write_backup(settings: ServerSettings, target: Path, passphrase: str) -> int:
    """Write a sealed backup that appears whole or not at all; gives its size in bytes.

    With PostgreSQL it holds the keys alone: the database is that server's to save. Raises: UserError.
    """
    try:
        with _alone(settings.data_dir):
            _clear(settings.data_dir, 0)
            _clear(target.parent, STALE_S)
            return _write(settings, target, passphrase)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise UserError(f"the database cannot be copied: {error}") from error


def _write(settings: ServerSettings, target: Path, passphrase: str) -> int:
    handle, name = tempfile.mkstemp(prefix=_PARTIAL, dir=target.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in seal_stream(_parts(settings), passphrase):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        partial.rename(target)
        sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)
    return size


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """Let one backup of a folder be made at a time (flock(2): a kill lets go of it)."""
    handle = os.open(data_dir / "backup.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _clear(folder: Path, older_s: int) -> None:
    """Remove what backups that were killed have left; another fleet may be writing its own right now."""
    for path in folder.glob(f"{_PARTIAL}*"):
        if path.stat().st_mtime > time.time() - older_s and older_s:  # noqa: TID251 - a file's age
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def newest_at(folder: Path, fleet: str) -> int | None:
    """Tell when the newest automatic backup of a fleet in a folder was made (unix seconds), by its name."""
    found = _of(folder, fleet)
    try:
        return int(datetime.strptime(found[-1][0], "%Y%m%dT%H%M%S%z").timestamp()) if found else None
    except ValueError:
        return None


def prune(folder: Path, fleet: str) -> None:
    """Keep the newest automatic backups of a fleet in a folder, and touch no other file."""
    for _, path in _of(folder, fleet)[:-KEPT]:
        path.unlink(missing_ok=True)


def _parts(settings: ServerSettings) -> Iterator[bytes]:
    """Give the plain content: each file's head and bytes, the keys first."""
    keys = [path for path in (settings.data_dir / name for name in _KEYS) if path.exists()]
    with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=settings.data_dir) as place:
        files = keys
        if settings.database_url is None:
            files = [*keys, Path(place) / DATABASE]
            _snapshot(settings.data_dir / DATABASE, files[-1])
        for path in files:
            head = _File(name=path.name, size_bytes=path.stat().st_size, more=path != files[-1])
            yield msgspec.json.encode(head) + b"\n"
            with path.open("rb") as file:
                while part := file.read(_PART_BYTES):
                    yield part


def _snapshot(source: Path, target: Path) -> None:
    """Copy a database that may be in use, as of one moment; a writer is not held up (sqlite.org: VACUUM INTO)."""
    if not source.is_file():
        raise UserError(f"there is no database in {source.parent}")
    with closing(sqlite3.connect(source, timeout=20, isolation_level=None)) as database:
        database.execute("VACUUM INTO ?", [str(target)])


def read_backup(path: Path, place: Path, passphrase: str) -> list[str]:
    """Write what a backup holds into an empty folder, each file 0600; gives the names.

    Raises: UserError for a file that is none, another passphrase, or a disk that is full; Untrusted when it is damaged.
    """
    names: list[str] = []
    try:
        with path.open("rb") as file:
            content = _Content(open_stream(file.read, passphrase))
            more = True
            while more:
                head = content.head()
                if head.name not in _HELD or head.name in names or head.size_bytes < 0:
                    raise Untrusted(f"{path} holds {head.name[:64]!r}, which no backup does")
                content.copy(place / head.name, head.size_bytes)
                names.append(head.name)
                more = head.more
            content.end()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror or error}") from error
    if not {LOG_KEY, NEXT_LOG_KEY} & set(names):
        raise Untrusted(f"{path} has no {LOG_KEY}")
    return names


class _Content:
    """The opened chunks as one stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = b""

    def head(self) -> _File:
        """Read a file's head. Raises: Untrusted."""
        while b"\n" not in self._held:
            if len(self._held) > _HEAD_BYTES:
                raise Untrusted("the backup is damaged")
            self._more()
        line, _, self._held = self._held.partition(b"\n")
        try:
            return msgspec.json.decode(line, type=_File)
        except UNREADABLE as error:
            raise Untrusted(f"the backup is damaged: {error}") from error

    def copy(self, path: Path, size: int) -> None:
        """Write the next bytes into a new file, durably. Raises: Untrusted, OSError."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            while size:
                if not self._held:
                    self._more()
                part, self._held = self._held[:size], self._held[size:]
                file.write(part)
                size -= len(part)
            file.flush()
            os.fsync(file.fileno())

    def end(self) -> None:
        """Check that nothing follows, and that the last chunk was there. Raises: Untrusted."""
        if self._held or next(self._chunks, b""):
            raise Untrusted("the backup goes on after its last file")

    def _more(self) -> None:
        part = next(self._chunks, None)
        if part is None:
            raise Untrusted("the backup ends early")
        self._held += part
