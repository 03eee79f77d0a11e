"""Rollouts that are written before anybody signs them, so that what a preview shows is what is signed. Pure."""

from typing import Final

import msgspec

from nixfleet.client.reaching import unreached, within_right
from nixfleet.model.statements import Rollout
from nixfleet.trust.replay import State

DRAFT_S: Final = 3_600
"""An older draft is written anew; a day is what the log allows between writing and logging."""


def reaching(state: State, made: Rollout) -> Rollout:
    """Give a rollout that somebody would follow, and that its signer can steer. Raises: Refused."""
    unreached(state, made, made.at)
    return within_right(state, made, made.at)


def drafted(draft: Rollout | None, made: Rollout, state: State) -> Rollout:
    """Give a rollout as it was drafted, and its waves shown, where the draft says what `made`, written now, says.

    A rollout that came in between may cover the same devices: then the older base would not count (trust.md, Order).
    """
    if draft is None:
        return made
    renewed = msgspec.structs.replace(draft, at=made.at, base=made.base, not_after=made.not_after)
    alone = all(one.index < draft.base.size for one in state.rollouts.values())
    return draft if renewed == made and alone and 0 <= made.at - draft.at <= DRAFT_S else made
