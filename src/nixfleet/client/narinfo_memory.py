"""Narinfos on disk: what a cache key signed of a path never changes, so nobody needs to ask for it twice.

It must never keep what was not verified, and never be the reason that anything fails: a broken file is begun anew.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

FILE_BYTES_MAX: Final = 512 << 20
"""A larger file is begun anew: some 300,000 paths."""
_BUSY_S: Final = 2.0
_ASK_AT_ONCE: Final = 500
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS narinfo (key TEXT, part TEXT, text TEXT, PRIMARY KEY (key, part)) WITHOUT ROWID"
)


class NarinfoMemory:
    """The remembered narinfos, by the public key that signed them and the path's hash; without a file, none."""

    def __init__(self, file: Path | None) -> None:
        """Use `file`; other processes may use it at the same time."""
        self._file = file
        self._store = None if file is None else _opened(file)

    def get(self, key: str, parts: list[str]) -> dict[str, str]:
        """Read what is remembered of these hashes, signed by `key` (``NAME:BASE64``)."""
        found: dict[str, str] = {}
        with self._forgiven():
            for start in range(0, len(parts) if self._store else 0, _ASK_AT_ONCE):
                some = parts[start : start + _ASK_AT_ONCE]
                marks = ",".join("?" * len(some))
                assert self._store is not None
                rows = self._store.execute(
                    f"SELECT part, text FROM narinfo WHERE key = ? AND part IN ({marks})",  # noqa: S608  marks alone
                    (key, *some),
                )
                found.update(rows)
        return found

    def put(self, key: str, texts: Mapping[str, str]) -> None:
        """Remember verified narinfos by their hashes."""
        with self._forgiven():
            if self._store is not None and texts:
                rows = [(key, part, text) for part, text in texts.items()]
                self._store.executemany("INSERT OR REPLACE INTO narinfo VALUES (?, ?, ?)", rows)
                self._store.commit()

    def close(self) -> None:
        """Let go of the file."""
        if self._store is not None:
            self._store.close()
        self._store = None

    @contextlib.contextmanager
    def _forgiven(self) -> Iterator[None]:
        """Go on without it when the disk is full, or the file is no database (any more)."""
        try:
            yield
        except sqlite3.DatabaseError:
            self.close()


def _opened(file: Path) -> sqlite3.Connection | None:
    """Open the file, begun anew where it is too large or broken; None where nothing can be written."""
    for _ in range(2):
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if file.exists() and file.stat().st_size > FILE_BYTES_MAX:
                file.unlink()
            return _connected(file)
        except sqlite3.OperationalError:
            return None  # locked, or not ours to write
        except sqlite3.DatabaseError:
            with contextlib.suppress(OSError):
                file.unlink()
        except OSError:
            return None
    return None


def _connected(file: Path) -> sqlite3.Connection:
    store = sqlite3.connect(file, timeout=_BUSY_S, check_same_thread=False)
    try:
        store.execute(_SCHEMA)
    except sqlite3.DatabaseError:
        store.close()
        raise
    return store
