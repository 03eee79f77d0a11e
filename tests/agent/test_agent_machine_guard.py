"""The update machine's rows that the guard is in: armed before the switch, taken off before anything is confirmed."""

import pytest
from tests.agent.steps import (
    COORDINATOR,
    OFFER,
    OLD,
    OLD_DIGEST,
    READY,
    TO_ACTIVATING,
    TO_CONFIRMING,
    TO_STAGED,
    drive,
    phase,
)

from nixfleet.agent.machine import DISARM_RETRY_S, RETRY_FIRST_S, TIDY_RETRY_S, step, wake_at
from nixfleet.agent.update import (
    Arm,
    Armed,
    Disarm,
    Disarmed,
    Event,
    GoBack,
    Held,
    Keep,
    Nudged,
    Overtaken,
    Restarted,
    Result,
    Stage,
    Switched,
    Tick,
    Tidy,
    Trouble,
    Withdrawn,
)
from nixfleet.model.device import Cause, Outcome, Phase

ARMING: tuple[Event, ...] = (*TO_STAGED, READY)
CLAIMING: tuple[Event, ...] = (*TO_CONFIRMING, COORDINATOR)
BACK = [GoBack(offer=OFFER, previous=OLD, digest=OLD_DIGEST, baseline=READY.baseline, number=0)]
WHY = "the new agent did not come back in time"
DONE = Switched(result=Result.DONE)


def test_nothing_is_switched_before_the_guard_is_armed() -> None:
    """Ready is not enough, told twice or not; only the armed guard leads on."""
    state, effects = drive(*ARMING)
    assert (Phase.STAGED, [Arm(offer=OFFER, previous=OLD)]) == (phase(state), effects)
    for event in (READY, Held(reason="paused"), Nudged(), Tick()):
        assert (state, []) == step(state, event, 200)
    state, _ = step(state, Armed(), 200)
    assert phase(state) == Phase.ACTIVATING


def test_a_guard_that_cannot_be_armed_now_has_the_log_asked_again_before_the_next_try() -> None:
    """Time went by: what was wanted then may be revoked since."""
    state, effects = drive(*ARMING, Trouble(cause=Cause.INTERNAL, reason="no process", later=True), now=100)
    due = 100 + len(ARMING) + RETRY_FIRST_S
    assert ([], due) == (effects, wake_at(state))
    state, effects = step(state, Tick(), due)
    assert [Stage(offer=OFFER, previous=OLD)] == effects


def test_without_a_guard_the_update_fails_with_nothing_changed() -> None:
    """What could not be undone is not done."""
    state, effects = drive(*ARMING, Trouble(cause=Cause.INTERNAL, reason="no way back"))
    assert (Outcome.FAILED, "no way back") == (state.outbox[0].outcome, state.outbox[0].reason)
    assert [Tidy(offer=OFFER, delete=False)] == effects


def test_a_signature_revoked_while_the_guard_is_armed_still_stops_the_update() -> None:
    """Nothing is changed yet."""
    state, effects = drive(*ARMING, Withdrawn(reason="revoked"))
    assert (Outcome.REFUSED, [Tidy(offer=OFFER, delete=False)]) == (state.outbox[0].outcome, effects)


@pytest.mark.parametrize("boot_id", ["boot-1", "boot-2"])
def test_an_agent_killed_while_it_arms_looks_or_asks_again(boot_id: str) -> None:
    """It goes on with what comes before: the last sync is as old as the time that it was dead."""
    state, _ = drive(*ARMING)
    state, effects = step(state, Restarted(boot_id=boot_id, current=OLD), 300)
    assert not isinstance(effects[0], Arm)
    assert state.update is not None
    assert not state.update.arming
    assert phase(state) == (Phase.STAGED if boot_id == "boot-1" else Phase.OFFERED)


def test_confirmed_is_what_the_guard_cannot_undo_any_more() -> None:
    """The outcome enters the outbox once the guard is off, in one write with the state, and not before."""
    state, effects = drive(*CLAIMING)
    assert ([Disarm(offer=OFFER)], ()) == (effects, state.outbox)
    state, _ = step(state, Disarmed(), 200)
    assert [Outcome.CONFIRMED] == [one.outcome for one in state.outbox]


def test_a_guard_that_was_faster_wins() -> None:
    """The old system runs or soon will; what the device reports is that."""
    state, effects = drive(*CLAIMING, Overtaken(reason=WHY))
    assert effects == BACK
    state, _ = step(state, DONE, 200)
    [report] = state.outbox
    assert (Outcome.REVERTED, Cause.HEALTH, WHY) == (report.outcome, report.cause, report.reason)


def test_an_update_that_has_all_it_needs_does_not_go_back_for_time() -> None:
    """Only the guard's lock or the disk is in the way; both are waited for."""
    state, _ = drive(*CLAIMING)
    assert state.update is not None
    late = state.update.orphan_by_s + 1
    assert (state, []) == step(state, Tick(), late)
    state, effects = step(state, Trouble(cause=Cause.INTERNAL, reason="read-only"), late)
    assert ([], late + DISARM_RETRY_S) == (effects, wake_at(state))
    state, effects = step(state, Tick(), late + DISARM_RETRY_S)
    assert [Disarm(offer=OFFER)] == effects


@pytest.mark.parametrize("events", [TO_ACTIVATING, (*TO_ACTIVATING, DONE), TO_CONFIRMING, CLAIMING])
def test_what_was_taken_back_without_the_agent_is_reported_as_that(events: tuple[Event, ...]) -> None:
    """In every state after the switch, with how the switch ended; the agent that returns does the rest."""
    state, _ = drive(*events)
    told = Restarted(boot_id="boot-1", current=OLD, undone=WHY, lines=("stopping nixfleet-agent.service",))
    state, effects = step(state, told, 300)
    assert (Phase.REVERTING, BACK) == (phase(state), effects)
    state, _ = step(state, DONE, 301)
    [report] = state.outbox
    assert (Outcome.REVERTED, Cause.HEALTH, WHY) == (report.outcome, report.cause, report.reason)
    assert report.lines == ("stopping nixfleet-agent.service",)


def test_what_was_going_back_anyway_keeps_its_reason() -> None:
    """The guard finished what the agent had begun before it died."""
    failed = Switched(result=Result.HALFWAY, exit_code=2, reason="the activation script failed")
    state, _ = drive(*TO_ACTIVATING, failed)
    state, effects = step(state, Restarted(boot_id="boot-1", current=OLD, undone=WHY), 300)
    assert effects == BACK
    state, _ = step(state, DONE, 301)
    assert state.outbox[0].reason == "the activation script failed"


def test_a_pending_reboot_is_not_guarded() -> None:
    """Nothing runs yet that could have lost its agent: a guard would take back what waits for the reboot."""
    state, effects = drive(*TO_ACTIVATING, Switched(result=Result.REBOOT, exit_code=100))
    assert [Disarm(offer=OFFER)] == effects
    assert (state, []) == step(state, Disarmed(), 200)
    state, effects = step(state, Overtaken(reason=WHY), 200)
    assert (Phase.REVERTING, BACK) == (phase(state), effects)


def test_what_an_end_leaves_to_do_is_tried_until_it_works() -> None:
    """A root that could not be set waits for no restart; nothing is told twice."""
    state, _ = drive(*CLAIMING, Disarmed())
    told = state.outbox
    state, effects = step(state, Trouble(cause=Cause.SPACE, reason="full", later=True), 300)
    assert ([], 300 + TIDY_RETRY_S) == (effects, wake_at(state))
    state, effects = step(state, Tick(), 300 + TIDY_RETRY_S)
    assert ([Keep(offer=OFFER, paths=(OFFER.path,))], None, told) == (effects, wake_at(state), state.outbox)
