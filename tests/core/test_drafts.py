"""Rollouts that are drafted for a preview: signed as they were shown, unless that would not be the same any more."""

import msgspec
from tests.core.replay_fleets import prod

from nixfleet.client.drafts import DRAFT_S, drafted


def test_a_draft_is_signed_as_it_was_shown() -> None:
    """What is written later says the same, but for its time and base: the draft, and its digest, stand."""
    fleet = prod()
    release, _ = fleet.release("a")
    draft = fleet.rollout_statement(release, "admin")
    fleet.device("dev-02", tags={"env": "dev"})
    fleet.now += 60
    later = msgspec.structs.replace(
        fleet.rollout_statement(release, "admin"), waves=draft.waves, max_in_flight=draft.max_in_flight
    )
    assert draft.base != later.base
    assert draft is drafted(draft, later, fleet.state)
    assert later is drafted(None, later, fleet.state)


def test_a_draft_that_no_longer_holds_is_written_anew() -> None:
    """Other wishes, an hour gone, a clock set back, or a rollout in between, whose order it would overtake."""
    fleet = prod()
    release, _ = fleet.release("a")
    draft = fleet.rollout_statement(release, "admin")
    other = msgspec.structs.replace(draft, soak_s=draft.soak_s + 1)
    assert other is drafted(draft, other, fleet.state)
    for at in (draft.at + DRAFT_S + 1, draft.at - 1):
        late = msgspec.structs.replace(draft, at=at)
        assert late is drafted(draft, late, fleet.state)
    fleet.rollout(release)
    later = msgspec.structs.replace(draft, at=draft.at + 1)
    assert later is drafted(draft, later, fleet.state)
