"""A passphrase from a file that its owner alone may read; the one place that judges such a file.

It must never say what it read.
"""

import os
import stat
from pathlib import Path
from typing import Final

from nixfleet.errors import UserError

_BYTES_MAX: Final = 4096
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def read_passphrase(path: Path) -> str:
    """Read the only line of a file, or of a pipe such as a shell's ``<(…)``. Raises: UserError that names the file.

    One that others may read is refused, as ssh refuses such a key: the passphrase is theirs, too, by now.
    """
    try:
        with path.expanduser().open("rb") as file:
            status = os.fstat(file.fileno())
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
                raise UserError(f"the passphrase file {path} is neither a file nor a pipe")
            if status.st_mode & _OTHERS:
                raise UserError(f"the passphrase file {path} can be read by others: run 'chmod 600 {path}'")
            data = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise UserError(f"cannot read the passphrase file {path}: {error.strerror or error}") from error
    if len(data) > _BYTES_MAX:
        raise UserError(f"the passphrase file {path} is larger than {_BYTES_MAX} bytes")
    try:
        line = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UserError(f"the passphrase file {path} is not UTF-8") from error
    if not line or "\n" in line:
        raise UserError(f"the passphrase file {path} holds {'no' if not line else 'more than one'} line: it needs one")
    return line
