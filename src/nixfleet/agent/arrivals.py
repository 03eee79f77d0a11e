"""What came into the store since a download began that nothing has vouched for yet, by a mark in the state folder.

A cache that the release names may send more than was asked for: a narinfo lists what else to fetch. Until the digest
of the whole closure is known to be the signed one, all of it is foreign. This module only looks and marks; it must
never delete, and what it names may still be in use (`Store.delete` spares that).
"""

from contextlib import suppress
from pathlib import Path

from nixfleet.agent.host import Host
from nixfleet.errors import UserError
from nixfleet.trust.narinfo import check_store_path

STORE = "/nix/store"


def begin(folder: Path) -> bool:
    """Mark that a download begins; an older mark stays, since what came after it is not vouched for either.

    Tells whether there was none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        (folder / "fetching").touch(exist_ok=False)
        return True
    return False


def end(folder: Path) -> None:
    """Forget the mark: all that came is vouched for, or gone."""
    (folder / "fetching").unlink(missing_ok=True)


def foreign(host: Host, folder: Path) -> list[str]:
    """Name the store paths that came since the mark; no mark, none.

    By the change time of the inode, which nobody can set (inode(7)); Nix sets the other times to 1.
    """
    try:
        since_ns = (folder / "fetching").stat().st_ctime_ns
    except FileNotFoundError:
        return []
    found: list[str] = []
    for entry in host.at(STORE).iterdir():
        try:
            path = check_store_path(f"{STORE}/{entry.name}")
            if entry.lstat().st_ctime_ns >= since_ns:
                found.append(path)
        except (UserError, FileNotFoundError):
            continue  # a lock, a link of the store, or gone meanwhile
    return found
