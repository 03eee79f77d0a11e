"""Where a simulation keeps its files: a temporary folder that nobody has to clean up after it.

Each folder is held by a lock that the kernel lets go of, whatever ends its holder; every beginning removes those whose
holder is gone. It must never remove a folder that is in use, or that somebody else made.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "nixfleet-sim-"
LOCK = "lock"
UNLOCKED_S = 60
FAST = Path("/dev/shm")  # noqa: S108 - a file system in memory; the folder in it is made by mkdtemp
ROOM_BYTES = 2 << 30
"""Where so much is free in memory, the folder is there: a thousand agents write small files all the time."""


@contextmanager
def home() -> Iterator[Path]:
    """Make a folder for as long as it is used; one that a killed simulation left is removed first."""
    place = _place()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    try:
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            reap(place, now_s=folder.stat().st_mtime)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reap(place: Path, now_s: float) -> None:
    """Remove the folders of simulations that ended without doing so; `now_s` by the clock of the file system.

    One without a lock is only just being made, or, after a minute, its maker was killed before it had one.
    """
    for folder in place.glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            if not (folder / LOCK).exists():
                if folder.stat().st_mtime < now_s - UNLOCKED_S:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            with (folder / LOCK).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # it is in use, only just being made, or gone since it was listed


def _place() -> Path:
    """Choose where: in memory if there is room, else where temporary files go."""
    usual = Path(tempfile.gettempdir())
    if "TMPDIR" in os.environ or not os.access(FAST, os.W_OK | os.X_OK):
        return usual
    return FAST if shutil.disk_usage(FAST).free >= ROOM_BYTES else usual
