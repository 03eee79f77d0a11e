"""The journal of what was refused: statements that did not enter the log, and requests; it judges nothing.

Bounded per key, so that nobody pushes what others tried out of it; all strangers are one.
"""

from collections import OrderedDict
from collections.abc import Callable

from nixfleet.errors import NixfleetError, Refused
from nixfleet.model.answers import Refusal
from nixfleet.model.text import clean
from nixfleet.server.store import RefusalRow, Store

AGAIN_S = 60
"""The same refusal of the same key is written once in so long: who asks in a loop wears nothing out."""
_REMEMBERED = 4_096
BURST = 30
EACH_S = 5
"""Thirty of a key at once, then one in so long: a key that was revoked is in hands that may mean harm."""
_STRANGERS_S = 5
"""All keys that the log does not name share a place, and a row in so many seconds."""
STRANGER = ""
_WORDS = 160
_STATEMENT = "nixfleet-"
"""How the namespace of every statement begins; what a request asked, in words, never does."""


class Journal:
    """Notes refused requests; statements are noted where they are judged."""

    def __init__(self, store: Store, wall_s: Callable[[], int]) -> None:
        self._store = store
        self._wall_s = wall_s
        self._noted: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._left: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """How many more of each key are written, as of a time."""

    async def refused(self, by: str, what: str, reason: str) -> Refused:
        """Note that a key (its fingerprint, or `STRANGER`) asked for something in vain; gives the error to raise.

        A journal that cannot be written refuses all the same.
        """
        now = self._wall_s()
        if not self._lately(by, what, now) and self._in_bounds(by, now):
            try:
                await self._store.log.refuse(RefusalRow(now, by, what[:_WORDS], "", reason))
            except NixfleetError:
                self._noted.pop(_mark(by, what), None)
        return Refused(reason)

    def _lately(self, by: str, what: str, now: int) -> bool:
        mark = _mark(by, what)
        held = self._noted.get(mark)
        if held is not None and 0 <= now - held < (AGAIN_S if by else _STRANGERS_S):
            return True
        self._noted[mark] = now
        self._noted.move_to_end(mark)
        while len(self._noted) > _REMEMBERED:
            self._noted.popitem(last=False)
        return False

    def _in_bounds(self, by: str, now: int) -> bool:
        """Take one of what a key may have written, where any is left."""
        left, at = self._left.pop(by, (float(BURST), now))
        left = min(float(BURST), left + max(0, now - at) / EACH_S)
        self._left[by] = (max(0.0, left - 1) if left >= 1 else left, now)
        while len(self._left) > _REMEMBERED:
            self._left.popitem(last=False)
        return left >= 1


def _mark(by: str, what: str) -> tuple[str, str]:
    return (by, what if by else "")


def as_refusal(row: RefusalRow) -> Refusal:
    """Show a row of the journal."""
    statement = row.namespace.startswith(_STATEMENT)
    kind = row.namespace.removeprefix(_STATEMENT).partition("-v")[0]
    return Refusal(
        at=row.at,
        by=row.by,
        namespace=row.namespace if statement else "",
        digest=row.sha256,
        reason=clean(row.reason),
        what=f"append a statement: {kind}" if statement else clean(row.namespace),
    )
