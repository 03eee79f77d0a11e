"""What devices without a network signed, in one file that a person carries back: JSON lines, a head and reports.

The reports are as the device signed them; who carries the file can lose it, not change it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from nixfleet.config import read_bounded, write_atomic
from nixfleet.errors import UserError
from nixfleet.model.ids import Hex32, Hex64
from nixfleet.model.reading import UNREADABLE
from nixfleet.model.wire import Signed

REPORTS_MAX: Final = 256
"""Older ones are left out: a newer report of a device says all that is not delivered yet."""
_BYTES_MAX: Final = REPORTS_MAX * (96 << 10) + 4_096


class ReceiptHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first line."""

    format: Literal["nixfleet-receipt-v1"] = "nixfleet-receipt-v1"
    fleet: Hex64
    device: Hex32


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt's content, unverified."""

    head: ReceiptHead
    reports: tuple[Signed, ...]


def read(path: Path) -> Receipt:
    """Read a receipt. Raises: UserError for a file that is none, or is damaged."""
    first, *rest = read_bounded(path, _BYTES_MAX).splitlines() or [b""]
    try:
        head = msgspec.json.decode(first, type=ReceiptHead)
    except UNREADABLE as error:
        raise UserError(f"{path} is no receipt; 'nixfleet agent apply' writes one") from error
    try:
        reports = tuple(msgspec.json.decode(line, type=Signed) for line in rest)
    except UNREADABLE as error:
        raise UserError(
            f"{path} is damaged: {error}; write it anew with 'nixfleet agent apply' on the device"
        ) from error
    if len(reports) > REPORTS_MAX:
        raise UserError(f"{path} has {len(reports)} reports; {REPORTS_MAX} are the most")
    return Receipt(head, reports)


def write(path: Path, head: ReceiptHead, reports: Sequence[Signed]) -> None:
    """Write a receipt whole, or not at all. Raises: UserError."""
    lines = [msgspec.json.encode(head), *(msgspec.json.encode(one) for one in reports[-REPORTS_MAX:])]
    write_atomic(path, b"".join(line + b"\n" for line in lines), mode=0o644)
