"""The agent's memory on disk: one JSON file that is replaced atomically, and read tolerantly.

A write is whole or not at all (`config.write_atomic`), at any crash. It must never guess: a journal that is there and
cannot be read stops the agent, because going on without it could repeat an update or forget the way back.
"""

from pathlib import Path
from typing import TypeVar

import msgspec

from nixfleet.agent.update import State
from nixfleet.config import write_atomic
from nixfleet.errors import UserError
from nixfleet.model.reading import UNREADABLE

VERSION = 1
SEQ_BLOCK = 64
"""Report numbers reserved with one write; a crash skips the rest of a block, which is harmless."""
SEQ_MOST = 1 << 50
"""Above this no number is believed to be a device's own."""
MAX_BYTES = 4 << 20

T = TypeVar("T")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds; fields that a newer agent added are ignored, since an older one may come back."""

    v: int = VERSION
    state: State = State()
    seq_limit: int = 0
    """No report numbered at or above this was ever sent."""


class Journal:
    """The update machine's state and the report counter, durable before anything is done with them."""

    def __init__(self, folder: Path) -> None:
        """Read the journal in a state folder, or start one. Raises: UserError when it is there but unreadable."""
        self._path = folder / "journal.json"
        for leftover in folder.glob(".journal.json.*"):
            leftover.unlink(missing_ok=True)  # of a write that a crash cut short
        self._record = load(self._path, Record) or Record()
        self._seq = self._record.seq_limit

    @property
    def state(self) -> State:
        """The machine's state as last written."""
        return self._record.state

    def write(self, state: State) -> None:
        """Make a state durable; unchanged, nothing is written. Raises: UserError; then the old state still holds."""
        if state != self._record.state:
            self._put(msgspec.structs.replace(self._record, state=state))

    def next_seq(self) -> int:
        """Give a report number higher than any given before, over restarts too. Raises: UserError."""
        if self._seq >= self._record.seq_limit:
            self._put(msgspec.structs.replace(self._record, seq_limit=self._seq + SEQ_BLOCK))
        self._seq += 1
        return self._seq - 1

    def go_on_above(self, seq: int) -> bool:
        """Go on above one that the coordinator holds; False when this device can have given no such number.

        Nobody signed it: a bound leaves room for all numbers that a device can need after a lie.
        """
        if not self._seq <= seq + 1 <= SEQ_MOST:
            return False
        self._seq = seq + 1
        return True

    def _put(self, record: Record) -> None:
        write_atomic(self._path, msgspec.json.encode(record))
        self._record = record


def load(path: Path, shape: type[T]) -> T | None:
    """Read a struct that was written as JSON, or None when there is none. Raises: UserError when it cannot be read."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    try:
        if len(data) > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES} bytes")
        return msgspec.json.decode(data, type=shape)
    except UNREADABLE as error:
        raise UserError(
            f"{path}: unreadable ({error}); this file is the agent's memory: restore it,"
            " or move its folder away and join anew"
        ) from error
