"""Whether the database is the one that this data folder served last: one that was restored from a dump is not.

A dump of a PostgreSQL database is an old copy, like any backup, and a standby that takes over may be one. It says
nothing of that itself; who serves it with the keys still in place would begin another history than the one that devices
have seen. A database of the folder's own (SQLite) comes back with `coordinator restore`, which asks first by itself.
"""

import logging
from pathlib import Path
from typing import Final

from nixfleet.config import write_atomic
from nixfleet.errors import UserError
from nixfleet.server.store import GOAL, HEAD, MarkRow, Store

_log = logging.getLogger(__name__)
RECORD: Final = "database.seen"
_RECORD_CHARS: Final = 200


async def recognise(store: Store, data_dir: Path) -> None:
    """Ask first where the database is another one than the last time, and note which it is. Raises: UserError."""
    if not store.shared:
        return
    found, path = await store.identity(), data_dir / RECORD
    known = _read(path)
    if known == found:
        return
    if known:
        _log.warning("%s is not the database that was served last: others are asked what came after it", store.name)
        await ask_first(store)
    # Noted after the mark: a crash between the two asks once more.
    write_atomic(path, f"{found}\n".encode())


def _read(path: Path) -> str:
    """Read which database was served last, nothing where none was."""
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return file.read(_RECORD_CHARS).strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


async def ask_first(store: Store) -> None:
    """Let the next start wait for devices and consoles that know more, as one that has just got all entries back does.

    Else who acts first, with no copy of the log, would begin another history than the one that devices have seen.
    """
    goal, head = await store.offers.mark(GOAL), await store.offers.mark(HEAD)
    if head is not None and (goal is None or goal.at):
        await store.offers.keep(MarkRow(GOAL, head.note, 0), ())
