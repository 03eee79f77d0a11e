"""Put a sealed backup back: into a folder that has no fleet, once keys and log are proven to fit each other.

It must never leave half a fleet, nor one whose log does not replay.
"""

import asyncio
import secrets
import shutil
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from nixfleet.errors import UserError
from nixfleet.server.backup import read_backup
from nixfleet.server.check import check
from nixfleet.server.coordinator.sameness import ask_first
from nixfleet.server.settings import CACHE, DATABASE, ServerSettings
from nixfleet.server.setup import check_empty, put_in_place
from nixfleet.server.store import Store

T = TypeVar("T")


def restore_backup(path: Path, data_dir: Path, passphrase: str, database_url: str | None = None) -> list[str]:
    """Put what a backup holds into a data folder that has no fleet, all or nothing; gives the names of the files.

    The database is the backup's own, or one at `database_url` that was restored by other means. Raises: UserError,
    Untrusted: also when keys and log do not fit each other, or the log does not replay.
    """
    check_empty(data_dir)
    building = data_dir.parent / f".{data_dir.name}.{secrets.token_hex(4)}"
    try:
        building.mkdir(mode=0o700, parents=True)
        names = read_backup(path, building, passphrase)
        (building / CACHE).mkdir()
        if DATABASE not in names and database_url is None:
            raise UserError(
                "this backup has keys alone: restore the PostgreSQL database, then name it by --database URL"
            )
        settings = ServerSettings(data_dir=building, database_url=database_url)
        _prove(settings)
        _ask_first(settings)
        put_in_place(building, data_dir)
    except OSError as error:
        raise UserError(f"{data_dir}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return names


def _prove(settings: ServerSettings) -> None:
    """Replay the log by the keys beside it. Raises: what is wrong."""
    for one in _apart(check(settings, lambda: int(time.time()))):  # noqa: TID251 - an edge
        if one.error is not None:
            raise one.error


def _ask_first(settings: ServerSettings) -> None:
    """Let the next start wait for devices and consoles that know more; also of a database that was restored apart."""

    async def ask() -> None:
        store = Store(settings.url())
        try:
            await store.open()
            await ask_first(store)
        finally:
            await store.close()

    _apart(ask())


def _apart(work: Coroutine[Any, Any, T]) -> T:
    """Run in a loop of its own: the caller may be in one."""
    with ThreadPoolExecutor(1, "nixfleet-restore") as thread:
        return thread.submit(asyncio.run, work).result()
