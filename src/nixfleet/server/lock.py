"""One coordinator per data folder: a lock file that holds the address, so that a second one, or a console, finds it."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from nixfleet.errors import UserError
from nixfleet.server.settings import LOCK

_ADDRESS_BYTES = 1_024


class FolderLock:
    """Held while a coordinator serves the folder; the kernel lets go of it even after kill -9."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK
        self._file = -1

    def __enter__(self) -> Self:
        """Take the lock. Raises: UserError when another coordinator has it, with its address."""
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(f"{self._path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            address = os.pread(self._file, _ADDRESS_BYTES, 0).decode(errors="replace").strip()
            os.close(self._file)
            raise UserError(
                f"a coordinator already serves {self._path.parent}{f' at {address}' if address else ''}"
            ) from error
        os.ftruncate(self._file, 0)
        return self

    def tell(self, address: str) -> None:
        """Write down where this coordinator listens."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{address}\n".encode(), 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.ftruncate(self._file, 0)
        os.close(self._file)


def running(data_dir: Path) -> str | None:
    """Give the address of the coordinator that serves this folder, or None when none does."""
    try:
        file = os.open(data_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.pread(file, _ADDRESS_BYTES, 0).decode(errors="replace").strip() or None
    finally:
        os.close(file)
    return None
