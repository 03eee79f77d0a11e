"""A rollout that halts needs a person, who may look elsewhere: the bell, a note on the desktop (OSC 9), a toast."""

from collections.abc import Mapping

from nixfleet.model.text import clean
from nixfleet.model.views import RolloutView
from nixfleet.tui.view.rollouts import title

_NOTE_CHARS = 200


class Halts:
    """Notices each halt once; what had halted before the console came is no news."""

    def __init__(self) -> None:
        self._known: frozenset[str] | None = None

    def fresh(self, rollouts: Mapping[str, RolloutView]) -> list[RolloutView]:
        """Give the rollouts that have halted since the last call; one that went on and halts again is given again."""
        halted = {key: rollout for key, rollout in rollouts.items() if rollout.state == "halted"}
        known, self._known = self._known, frozenset(halted)
        return [] if known is None else [rollout for key, rollout in halted.items() if key not in known]


def halted_words(rollout: RolloutView) -> str:
    """Say in one line that a rollout halted, and why."""
    why = clean(rollout.halted)
    return f"{title(rollout)} halted{f': {why}' if why else ''}"


def desktop_note(text: str) -> str:
    """Give the escape sequence (OSC 9) with which many terminals show a note on the desktop; others ignore it.

    The text comes from others in part: nothing in it may end the sequence or begin another one.
    """
    return f"\x1b]9;nixfleet: {clean(text)[:_NOTE_CHARS]}\x07"
