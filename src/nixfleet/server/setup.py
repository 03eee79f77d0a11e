"""Begin a fleet in a data folder: its keys and the log's first entry, all or nothing. It decides nothing about it."""

import asyncio
import os
import secrets
import shutil
import stat
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nixfleet.config import sync_folder
from nixfleet.errors import Conflict, NixfleetError, UserError
from nixfleet.server.coordinator.judging import first_entry
from nixfleet.server.settings import CACHE, CACHE_KEY, DATABASE, LOG_KEY, NEXT_LOG_KEY, ServerSettings
from nixfleet.server.store import Store
from nixfleet.trust.sshsig import SecretKey

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OURS = (LOG_KEY, NEXT_LOG_KEY, CACHE_KEY, CACHE, DATABASE)
"""What makes a folder a fleet's; the database last."""

Write = Callable[[Store], Awaitable[None]]


def create_fleet(
    data_dir: Path,
    root_payload: bytes,
    signature: bytes,
    log_key: SecretKey,
    cache_key: str,
    database_url: str | None = None,
    *,
    now: int | None = None,
) -> str:
    """Write keys (mode 0600) and leaf 0 durably, and return the fleet id; `cache_key` is a Nix secret key.

    Raises:
        UserError: the folder holds a fleet already or cannot be written.
        Untrusted: the root statement or its signature does not hold.

    """
    wall = int(time.time()) if now is None else now  # noqa: TID251 - the edge where a fleet begins
    row, fleet = first_entry(root_payload, signature, log_key.public, wall)
    lay_down(data_dir, log_key, cache_key, lambda store: store.log.append([row]), database_url)
    return fleet


def lay_down(data_dir: Path, log_key: SecretKey, cache_key: str, write: Write, database_url: str | None = None) -> None:
    """Write keys (mode 0600) and what `write` puts into a new database, all or nothing.

    Raises: UserError when the folder or the database holds a fleet already, or cannot be written.
    """
    check_empty(data_dir)
    building = data_dir.parent / f".{data_dir.name}.{secrets.token_hex(4)}"
    try:
        building.mkdir(mode=0o700, parents=True)
        _secret(building / LOG_KEY, log_key.to_openssh())
        _secret(building / CACHE_KEY, cache_key.strip() + "\n")
        (building / CACHE).mkdir()
        if database_url is None:
            _fill(ServerSettings(data_dir=building), write)
        keep_private(building)
        moved = put_in_place(building, data_dir)
        if database_url is not None:
            # Keys first: a log whose key was never written down would be lost.
            _fill_or_undo(ServerSettings(data_dir=data_dir, database_url=database_url), write, moved)
    except OSError as error:
        raise UserError(f"{data_dir}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def keep_private(data_dir: Path) -> None:
    """Take from everybody but the owner what a folder that was there already lets them read. Raises: UserError."""
    beside = [data_dir / f"{DATABASE}{end}" for end in ("-wal", "-shm", "-journal")]
    for path in (data_dir, *(data_dir / name for name in _OURS), *beside):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & _OTHERS:
                path.chmod(mode & ~_OTHERS)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"{path} is open to others, and its mode cannot be changed: {error.strerror}") from error


def make_folder(data_dir: Path) -> None:
    """Make a data folder that only its owner may enter, where there is none. Raises: UserError."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{data_dir}: {error.strerror or error}") from error


def begun(data_dir: Path) -> list[str]:
    """Name what a folder holds of a fleet."""
    return [name for name in _OURS if (data_dir / name).exists()]


def check_empty(data_dir: Path) -> None:
    """Check that a folder holds nothing of a fleet. Raises: UserError."""
    held = begun(data_dir)
    if held:
        raise UserError(
            f"{data_dir} already holds {', '.join(held)}: a fleet, or what is left of one; move it away first"
        )


def _secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read, durably."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _fill(settings: ServerSettings, write: Write) -> None:
    """Write into the database from a loop of its own: the caller may be in one."""
    url = settings.url()

    async def fill() -> None:
        store = Store(url)
        try:
            await store.open()
            await write(store)
        finally:
            await store.close()

    with ThreadPoolExecutor(1, "nixfleet-create") as thread:
        thread.submit(asyncio.run, fill()).result()


def _fill_or_undo(settings: ServerSettings, write: Write, moved: list[Path]) -> None:
    try:
        _fill(settings, write)
    except Conflict as error:
        _remove(moved)
        raise UserError("the database already holds a fleet's log: give the new fleet one of its own") from error
    except NixfleetError:
        _remove(moved)
        raise


def put_in_place(building: Path, data_dir: Path) -> list[Path]:
    """Move what was built into the data folder; the database last, for it is what makes the folder a fleet."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    keep_private(data_dir)
    moved: list[Path] = []
    try:
        for name in _OURS:
            if (building / name).exists():
                (building / name).rename(data_dir / name)
                moved.append(data_dir / name)
        sync_folder(data_dir)
        sync_folder(data_dir.parent)
    except OSError:
        _remove(moved)
        raise
    return moved


def _remove(paths: list[Path]) -> None:
    for path in reversed(paths):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
