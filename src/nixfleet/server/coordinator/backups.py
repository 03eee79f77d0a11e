"""A sealed backup every day, while the coordinator serves; how the last one went stands in a file for who checks.

It must never hold up the coordinator, nor let a failure pass without a word in its log.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from nixfleet.config import write_atomic
from nixfleet.errors import NixfleetError
from nixfleet.model.reading import UNREADABLE
from nixfleet.server.backup import name_at, newest_at, prune, write_backup
from nixfleet.server.settings import BACKUP_STATUS, ServerSettings
from nixfleet.trust.passphrase import read_passphrase

_log = logging.getLogger(__name__)

EVERY_S: Final = 86_400
AGAIN_S: Final = 3_600
"""How long after a failure it is tried again."""


class BackupStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the last daily backup went: when it was tried, the file, and why it failed if it did."""

    at: int
    file: str = ""
    why: str = ""


class DailyBackups:
    """Makes them; `look` is called now and then."""

    def __init__(self, settings: ServerSettings, wall_s: Callable[[], int], fleet: Callable[[], str]) -> None:
        """Make none yet; `fleet` names the fleet in the files' names."""
        self._settings, self._wall_s, self._fleet = settings, wall_s, fleet
        self._due_s = 0

    async def look(self) -> None:
        """Make a backup if one is due."""
        folder, passphrase_file = self._settings.backup_dir, self._settings.backup_passphrase_file
        now = self._wall_s()
        if folder is None or passphrase_file is None or now < self._due_s:
            return
        try:
            newest = newest_at(folder, self._fleet())
            if newest is not None and newest <= now < newest + EVERY_S:
                self._due_s = newest + EVERY_S
                return
            file = folder / name_at(self._fleet(), now)
            size = await asyncio.to_thread(self._make, file, passphrase_file)
        except (NixfleetError, OSError) as error:
            self._due_s = now + AGAIN_S
            _log.error("the daily backup failed: %s", error)
            self._note(BackupStatus(at=now, why=str(error)))
            return
        self._due_s = now + EVERY_S
        _log.info("backup %s is written: %d bytes", file, size)
        self._note(BackupStatus(at=now, file=str(file)))

    def _make(self, file: Path, passphrase_file: Path) -> int:
        size = write_backup(self._settings, file, read_passphrase(passphrase_file))
        prune(file.parent, self._fleet())
        return size

    def _note(self, status: BackupStatus) -> None:
        try:
            write_atomic(self._settings.data_dir / BACKUP_STATUS, msgspec.json.encode(status))
        except NixfleetError as error:
            _log.warning("%s", error)


def last_backup(data_dir: Path) -> BackupStatus | None:
    """Read how the last daily backup went, None when none was tried."""
    try:
        return msgspec.json.decode((data_dir / BACKUP_STATUS).read_bytes(), type=BackupStatus)
    except (OSError, *UNREADABLE):
        return None


def backup_fault(data_dir: Path, now: int) -> str:
    """Say what is wrong with the daily backups of a folder, or nothing; none wanted is nothing wrong."""
    last = last_backup(data_dir)
    if last is None:
        return ""
    if last.why:
        return f"the daily backup failed: {last.why}"
    age_s = now - last.at
    return f"the last daily backup is {age_s // 86_400} days old" if age_s > 2 * EVERY_S else ""
