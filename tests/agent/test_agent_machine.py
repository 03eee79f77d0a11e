"""The update machine: its table row by row."""

import msgspec
import pytest
from msgspec.structs import replace
from tests.agent.steps import (
    CACHE,
    COORDINATOR,
    DONE,
    NEW,
    NEXT,
    OFFER,
    OLD,
    OLD_DIGEST,
    READY,
    TO_ACTIVATING,
    TO_CONFIRMED,
    TO_CONFIRMING,
    TO_STAGED,
    drive,
    offered,
    phase,
)

from nixfleet.agent.history import kept_paths
from nixfleet.agent.machine import step, wake_at
from nixfleet.agent.update import (
    Activate,
    Arm,
    Check,
    CheckDevice,
    Checked,
    Contact,
    Delivered,
    Disarm,
    Disarmed,
    Event,
    Fetch,
    GoBack,
    Held,
    Keep,
    Look,
    Nudged,
    Offer,
    Offered,
    Ready,
    Restarted,
    Result,
    Stage,
    State,
    Switched,
    Tick,
    Tidy,
    Trouble,
    Verify,
    Withdrawn,
)
from nixfleet.model.device import Cause, Outcome, Phase
from nixfleet.model.statements import CacheRef


def test_the_happy_path_visits_every_state_in_order_with_its_effect() -> None:
    """A plain update goes through the table from top to bottom."""
    state, seen = State(), []
    for number, event in enumerate(TO_CONFIRMED):
        state, effects = step(state, event, 100 + number)
        seen.append((phase(state), effects))
    expected = [
        (Phase.OFFERED, [Look(offer=OFFER)]),
        (Phase.PREFLIGHT, [CheckDevice(offer=OFFER, previous=OLD)]),
        (Phase.FETCHING, [Fetch(offer=OFFER)]),
        (Phase.VERIFYING, [Verify(offer=OFFER, previous=OLD)]),
        (Phase.STAGED, [Stage(offer=OFFER, previous=OLD)]),
        (Phase.STAGED, [Arm(offer=OFFER, previous=OLD)]),
        (Phase.ACTIVATING, [Activate(offer=OFFER)]),
        (Phase.CHECKING, [Check(offer=OFFER, baseline=("old.service",))]),
        (Phase.CONFIRMING, [Contact(offer=OFFER)]),
        (Phase.CONFIRMING, [Disarm(offer=OFFER)]),
        (Phase.CONFIRMED, [Keep(offer=OFFER, paths=(NEW,))]),
    ]
    assert expected == seen
    assert [(one.outcome, one.exit_code, one.lines) for one in state.outbox] == [(Outcome.CONFIRMED, 0, ("switched",))]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Result.DONE, Phase.CHECKING),
        (Result.UNITS, Phase.CHECKING),
        (Result.REBOOT, Phase.REBOOT_PENDING),
        (Result.HALFWAY, Phase.REVERTING),
        (Result.ELSEWHERE, Phase.REVERTING),
        (Result.ERROR, Phase.REVERTING),
        (Result.INTERRUPTED, Phase.REVERTING),
    ],
)
def test_each_way_a_switch_can_end_leads_somewhere_of_its_own(result: Result, expected: Phase) -> None:
    """Failed units alone decide nothing, a needed reboot waits, all else goes back."""
    state, effects = drive(*TO_ACTIVATING, Switched(result=result, exit_code=9, reason="why"))
    assert expected == phase(state)
    if expected is Phase.REVERTING:
        assert [GoBack(offer=OFFER, previous=OLD, digest=OLD_DIGEST, baseline=READY.baseline, number=0)] == effects


def test_a_failed_switch_is_reported_as_reverted_with_its_reason_and_lines() -> None:
    """Going back is never reported as success, and says why."""
    failed = Switched(
        result=Result.HALFWAY, exit_code=2, reason="the activation script failed", lines=("snippet failed",)
    )
    state, effects = drive(*TO_ACTIVATING, failed, DONE)
    [report] = state.outbox
    assert (report.outcome, report.cause) == (Outcome.REVERTED, Cause.ACTIVATION)
    assert (report.reason, report.exit_code, report.lines) == ("the activation script failed", 2, ("snippet failed",))
    assert [Tidy(offer=OFFER, delete=False)] == effects


def test_newly_failed_units_go_back_and_name_themselves() -> None:
    """A problem found by the checks reverts, and its words become the reason."""
    state, _ = drive(*TO_ACTIVATING, DONE, Checked(problems=("a.service failed",), lines=("a: boom",)), DONE)
    assert (
        state.outbox[0].reason,
        state.outbox[0].cause,
        state.outbox[0].lines,
    ) == ("a.service failed", Cause.HEALTH, ("a: boom",))


def test_going_back_is_tried_three_times_and_then_reported_as_failed() -> None:
    """A device that cannot go back says so instead of claiming that it did."""
    error = Switched(result=Result.ERROR, exit_code=1, reason="lock held")
    state, effects = drive(*TO_ACTIVATING, error, error)
    assert [GoBack(offer=OFFER, previous=OLD, digest=OLD_DIGEST, baseline=READY.baseline, number=1)] == effects
    state, _ = drive(error, error, state=state)
    assert (
        state.outbox[0].outcome,
        state.outbox[0].reason,
    ) == (Outcome.FAILED, "could not go back (lock held) after: lock held")


def test_network_and_space_are_retried_with_backoff_until_the_device_times_out() -> None:
    """What mends itself is waited for; the outcome comes when `timeout_s` is over, not before."""
    trouble = Trouble(cause=Cause.NETWORK, reason="cache gone", later=True)
    state, effects = drive(*TO_STAGED[:3], trouble)
    assert (phase(state), effects, wake_at(state)) == (Phase.FETCHING, [], 108)
    state, effects = step(state, Tick(), 107)
    assert effects == []
    state, effects = step(state, Tick(), 108)
    assert [Fetch(offer=OFFER)] == effects
    state, _ = step(state, trouble, 100 + OFFER.timeout_s)
    assert (state.outbox[0].outcome, state.outbox[0].cause) == (Outcome.FAILED, Cause.NETWORK)


def test_an_untrusted_closure_ends_at_once_and_is_deleted() -> None:
    """Content that is not what was signed is never tried again by itself."""
    state, effects = drive(*TO_STAGED[:4], Trouble(cause=Cause.UNTRUSTED, reason="another digest"))
    assert (state.outbox[0].outcome, state.outbox[0].cause) == (Outcome.FAILED, Cause.UNTRUSTED)
    assert [Tidy(offer=OFFER, delete=True)] == effects


def test_a_refusal_before_the_switch_changes_nothing() -> None:
    """An offer that would make the device worse is refused with its reason."""
    state, _ = drive(*TO_STAGED[:4], Trouble(cause=Cause.PREFLIGHT, reason="would leave the fleet", refused=True))
    assert (state.outbox[0].outcome, state.outbox[0].reason) == (Outcome.REFUSED, "would leave the fleet")


def test_a_system_that_runs_already_is_confirmed_without_a_switch() -> None:
    """Nothing is switched when nothing would change."""
    state, effects = drive(*TO_STAGED, Ready(baseline=(), in_place=True))
    assert (Phase.CONFIRMED, [Keep(offer=OFFER, paths=(NEW,))]) == (phase(state), effects)


def test_a_paused_rollout_waits_staged_and_goes_on_when_nudged() -> None:
    """Paused is neither failed nor forgotten."""
    state, effects = drive(*TO_STAGED, Held(reason="paused"))
    assert (phase(state), effects) == (Phase.STAGED, [])
    _, effects = step(state, Nudged(), 200)
    assert [Stage(offer=OFFER, previous=OLD)] == effects


def test_a_withdrawn_update_ends_refused_before_the_switch_and_is_ignored_after() -> None:
    """A revoked signature stops a download; a switch under way is never left half-way."""
    state, _ = drive(*TO_STAGED, Withdrawn(reason="revoked"))
    assert (state.outbox[0].outcome, state.outbox[0].reason) == (Outcome.REFUSED, "revoked")
    state, effects = drive(*TO_ACTIVATING, Withdrawn(reason="revoked"))
    assert (phase(state), effects) == (Phase.ACTIVATING, [])


def test_only_a_signed_sync_confirms_under_contact_coordinator() -> None:
    """Caches that answer buy time until `orphan_s`, never a confirmation."""
    state, _ = drive(*TO_CONFIRMING, CACHE)
    assert phase(state) == Phase.CONFIRMING
    assert state.update is not None
    by, orphan_by = state.update.confirm_by_s, state.update.orphan_by_s
    state, _ = step(state, Tick(), by)
    assert phase(state) == Phase.CONFIRMING
    state, effects = step(state, Tick(), orphan_by)
    assert (
        Phase.REVERTING,
        [GoBack(offer=OFFER, previous=OLD, digest=OLD_DIGEST, baseline=READY.baseline, number=0)],
    ) == (
        phase(state),
        effects,
    )


def test_without_any_answer_the_device_goes_back_at_confirm_s() -> None:
    """A system that cuts the device off does not stay."""
    state, _ = drive(*TO_CONFIRMING)
    assert state.update is not None
    state, _ = step(state, Tick(), state.update.confirm_by_s)
    assert phase(state) == Phase.REVERTING


@pytest.mark.parametrize(
    ("event", "cause", "reason"),
    [
        (COORDINATOR, Cause.CONTACT, "no signed sync with the coordinator within 120 s of the switch"),
        (Tick(), Cause.NETWORK, "coordinator outage"),
    ],
)
def test_a_lost_route_and_a_coordinator_outage_are_told_apart(event: Event, cause: Cause, reason: str) -> None:
    """If the coordinator is silent with the previous system too, the release is not to blame."""
    state, _ = drive(*TO_CONFIRMING)
    state, _ = step(state, Tick(), 10_000)
    state, effects = step(state, DONE, 10_001)
    assert [Contact(offer=OFFER)] == effects
    state, _ = step(state, event, 10_001 + OFFER.confirm_s)
    assert (Outcome.REVERTED, cause, reason) == (state.outbox[0].outcome, state.outbox[0].cause, state.outbox[0].reason)


@pytest.mark.parametrize(("contact", "events"), [("any", (CACHE,)), ("none", ())])
def test_a_rollout_can_ask_for_less_contact(contact: str, events: tuple[Event, ...]) -> None:
    """`any` takes a cache's answer, `none` asks for nobody's."""
    offer = msgspec.convert({**msgspec.to_builtins(OFFER), "contact": contact}, Offer)
    state, _ = drive(offered(offer), *TO_CONFIRMING[1:], *events, Disarmed())
    assert phase(state) == Phase.CONFIRMED


@pytest.mark.parametrize(("cause", "again"), [(Cause.NETWORK, True), (Cause.SPACE, True), (Cause.PREFLIGHT, False)])
def test_what_mends_itself_is_begun_again_without_a_signature(cause: Cause, again: bool) -> None:
    """A network or a disk that was short says nothing of the release; each try has a switch of its own."""
    state, _ = drive(*TO_STAGED[:3], Trouble(cause=cause, reason="short"))
    state, effects = step(state, offered(), 500)
    assert again == bool(effects)
    if again:
        state, effects = drive(*TO_ACTIVATING[1:], state=state)
        assert effects == [Activate(offer=OFFER, number=1)]
        assert len(state.outbox) == 1


def test_a_refused_offer_ends_with_its_reason_and_is_not_begun() -> None:
    """What the log does not allow becomes an outcome that says so."""
    state, effects = drive(Offered(offer=OFFER, boot_id="boot-1", refusal="nobody may bring it back"))
    assert effects == [Tidy(offer=OFFER, delete=False)]
    assert (state.outbox[0].outcome, state.outbox[0].reason) == (Outcome.REFUSED, "nobody may bring it back")


def test_a_lower_or_equal_rollout_is_never_begun_again() -> None:
    """Order: never a lower rollout than attempted, and the same one only by a signed retry."""
    state, _ = drive(*TO_STAGED[:4], Trouble(cause=Cause.UNTRUSTED, reason="no"))
    assert (state, []) == step(state, offered(), 500)
    assert (state, []) == step(state, offered(replace(OFFER, index=4, rollout="ef" * 32)), 500)
    again, effects = step(state, offered(replace(OFFER, run=2)), 500)
    assert ([Look(offer=replace(OFFER, run=2))], 1) == (effects, len(again.outbox))


def test_a_confirmed_rollout_is_not_retried() -> None:
    """A retry is for what failed."""
    state, _ = drive(*TO_CONFIRMED)
    assert (state, []) == step(state, offered(replace(OFFER, run=2)), 500)


def test_a_newer_rollout_takes_the_place_of_a_download_but_never_of_a_switch() -> None:
    """Superseding is possible only while nothing is changed."""
    newer = replace(OFFER, index=9, rollout="ef" * 32, path=NEXT)
    state, effects = drive(*TO_STAGED[:3], offered(newer))
    assert ([Look(offer=newer)], Outcome.REFUSED) == (effects, state.outbox[0].outcome)
    state, effects = drive(*TO_ACTIVATING, offered(newer))
    assert (phase(state), effects) == (Phase.ACTIVATING, [])


def test_what_confirmed_and_was_replaced_is_left_and_what_comes_back_is_not() -> None:
    """The `left` set follows the confirmed systems (trust.md, Back)."""
    state = State()
    for index, path in enumerate((OLD, NEW, OLD, NEXT)):
        offer = replace(OFFER, index=index, rollout=f"{index:064x}", path=path)
        state, _ = drive(offered(offer), *TO_CONFIRMED[1:], state=state)
    assert (state.left, kept_paths(state)) == ((NEW, OLD), (NEXT, OLD, NEW))


def rollback(path: str) -> Offered:
    """Make the event of a rollback to a path: the log says neither digest nor caches."""
    return offered(replace(OFFER, index=9, rollout="ef" * 32, path=path, digest=""))


@pytest.mark.parametrize(("path", "digest"), [(OLD, OLD_DIGEST), (NEW, OFFER.digest), (NEXT, "")])
def test_a_rollback_must_find_what_ran_under_the_kept_path(path: str, digest: str) -> None:
    """The digest of a kept system is what it was while it ran, or when it was signed; an unknown one has none."""
    state, _ = drive(*TO_CONFIRMED)
    state, _ = drive(rollback(path), state=state)
    assert state.update is not None
    assert digest == state.update.offer.digest


def test_an_older_journal_tells_no_digest_of_what_it_replaced() -> None:
    """Records of an agent that did not note it lead to no rollback, never to an unchecked one."""
    state, _ = drive(*TO_CONFIRMED)
    [one] = state.confirmed
    state, _ = drive(rollback(OLD), state=replace(state, confirmed=(replace(one, previous_digest=""),)))
    assert state.update is not None
    assert state.update.offer.digest == ""


@pytest.mark.parametrize("length", [3, 4, 5])
def test_a_way_back_that_an_older_agent_noted_is_looked_at_again(length: int) -> None:
    """Before the switch the digest of what runs can still be taken."""
    state, _ = drive(*TO_STAGED[:length])
    assert state.update is not None
    state = replace(state, update=replace(state.update, previous_digest=""))
    _, effects = step(state, Restarted(boot_id="boot-1", current=OLD), 300)
    assert [Look(offer=OFFER)] == effects


def test_a_way_back_that_is_lost_is_told_at_once_and_never_taken() -> None:
    """Content that is not what ran, and could not be repaired, will not be so on the next try."""
    failed = Switched(result=Result.ERROR, exit_code=1, reason="why")
    lost = Trouble(cause=Cause.UNTRUSTED, reason="not what ran")
    state, effects = drive(*TO_ACTIVATING, failed, lost)
    [report] = state.outbox
    assert (Outcome.FAILED, "could not go back (not what ran) after: why") == (report.outcome, report.reason)
    assert [Tidy(offer=OFFER, delete=False)] == effects


@pytest.mark.parametrize(
    ("length", "end", "delete"),
    [
        (3, Trouble(cause=Cause.INTERNAL, reason="why"), True),
        (3, Trouble(cause=Cause.UNTRUSTED, reason="why"), True),
        (3, Withdrawn(reason="cancelled"), True),
        (4, Trouble(cause=Cause.PREFLIGHT, reason="would leave", refused=True), True),
        (3, Trouble(cause=Cause.NETWORK, reason="why"), False),
        (4, Trouble(cause=Cause.SPACE, reason="why"), False),
        (5, Withdrawn(reason="cancelled"), False),
        (2, Withdrawn(reason="cancelled"), False),
    ],
)
def test_what_came_for_nothing_goes_unless_it_is_needed_soon(length: int, end: Event, delete: bool) -> None:
    """Nothing vouches for a download whose digest was never compared; one that is tried again soon stays."""
    offer = replace(OFFER, caches=(CacheRef(url="http://cache", key="cache-1:" + "A" * 43 + "="),))
    _, effects = drive(offered(offer), *TO_STAGED[1:length], end)
    assert [Tidy(offer=offer, delete=delete)] == effects


def test_an_outcome_leaves_the_outbox_only_when_delivered() -> None:
    """An undelivered report stays, and is never a reason to act again."""
    state, _ = drive(*TO_CONFIRMED)
    assert (state, []) == step(state, Delivered(rollout="00" * 32, run=1), 500)
    state, effects = step(state, Delivered(rollout=OFFER.rollout, run=1), 500)
    assert (state.outbox, effects) == ((), [])


@pytest.mark.parametrize("length", sorted({*range(1, len(TO_CONFIRMED) + 1)} - {len(TO_STAGED) + 1}))
def test_after_a_restart_in_the_same_boot_each_state_does_its_own_work_again(length: int) -> None:
    """Resume rows: the effect of the last journalled state, and nothing else."""
    state, effects = drive(*TO_CONFIRMED[:length])
    current = OLD if length <= len(TO_ACTIVATING) else NEW
    assert (state, effects) == step(state, Restarted(boot_id="boot-1", current=current), 300)


def test_after_a_reboot_before_the_switch_the_device_looks_again() -> None:
    """Another system may have been booted; the way back must be the one that runs."""
    state, _ = drive(*TO_STAGED)
    state, effects = step(state, Restarted(boot_id="boot-2", current=OLD), 3)
    assert (Phase.OFFERED, [Look(offer=OFFER)]) == (phase(state), effects)


@pytest.mark.parametrize(("current", "expected"), [(NEW, Phase.CHECKING), (OLD, Phase.REVERTING)])
def test_a_pending_reboot_is_checked_or_taken_back_after_it(current: str, expected: Phase) -> None:
    """Only a new boot id decides, and only with the right system."""
    state, _ = drive(*TO_ACTIVATING, Switched(result=Result.REBOOT, exit_code=100))
    assert (state, [Disarm(offer=OFFER)]) == step(state, Restarted(boot_id="boot-1", current=OLD), 300)
    state, _ = step(state, Restarted(boot_id="boot-2", current=current), 300)
    assert expected == phase(state)


def test_a_device_that_boots_into_another_system_while_confirming_goes_back() -> None:
    """A crash into the old system must not be confirmed as the new one."""
    state, _ = drive(*TO_CONFIRMING)
    state, effects = step(state, Restarted(boot_id="boot-2", current=OLD), 3)
    assert (
        Phase.REVERTING,
        [GoBack(offer=OFFER, previous=OLD, digest=OLD_DIGEST, baseline=READY.baseline, number=0)],
    ) == (
        phase(state),
        effects,
    )


def test_a_reboot_starts_the_deadlines_of_the_boot_clock_afresh() -> None:
    """Uptime starts over with the machine; a deadline of an earlier boot would come far too late."""
    state, _ = drive(*TO_CONFIRMING, now=1_000_000)
    state, _ = step(state, Restarted(boot_id="boot-2", current=NEW), 20)
    assert 20 + OFFER.confirm_s == wake_at(state)
