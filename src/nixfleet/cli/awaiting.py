"""What a signed act still waits for, in the one form that every command ends with."""

from collections.abc import Sequence
from typing import Final

from nixfleet.client.admin import Acted

IDS: Final = 10
DIGITS: Final = 12


def awaited(acts: Sequence[Acted]) -> str:
    """Say, behind what was signed, that it is not in force yet, and how others sign it; nothing when it is."""
    waiting = [one for one in acts if one.waits]
    if not waiting:
        return ""
    lacks = " or ".join(sorted({one.waits for one in waiting}))
    ids = " ".join(one.digest[:DIGITS] for one in waiting[:IDS])
    more = f" (and {len(waiting) - IDS} more that 'nixfleet approve' lists)" if len(waiting) > IDS else ""
    return f"; not in force yet: {lacks}; they run: nixfleet approve {ids}{more}"
