"""A second state of the log to judge new statements on, so that an append need not copy all that the log says.

A copy costs as much as the log is long. The spare follows the log by the few entries that came since instead, and
changes places with the log's own state when they are durable. It must never be used again once anything failed on it.
"""

from collections import deque
from typing import Final

from nixfleet.server.store import EntryRow
from nixfleet.trust.replay import State, replay

COPIED_A_LEAF: Final = 700
"""So many entries of a state are copied in the time in which one more is replayed; measured, and not critical."""


class Spare:
    """Lends a state that equals the log's own; what is not given back by `keep` is gone."""

    def __init__(self) -> None:
        self._state: State | None = None

    def take(self, state: State, tail: deque[EntryRow]) -> State:
        """Give a state equal to this one, whose newest entries are `tail`: the caller may move it on."""
        spare, self._state = self._state, None
        if spare is None:
            return state.copy()
        behind = state.size - spare.size
        if not 0 <= behind <= len(tail) or behind * COPIED_A_LEAF > state.size:
            return state.copy()
        for at in range(len(tail) - behind, len(tail)):
            replay(spare, tail[at].index, tail[at].leaf, tail[at].payload)
        assert spare.tree.root() == state.tree.root(), "the spare follows the very log"
        return spare

    def keep(self, state: State) -> None:
        """Take a state back that the log was, or is: nothing else may move it on from now on."""
        self._state = state
