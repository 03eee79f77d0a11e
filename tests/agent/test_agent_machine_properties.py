"""The invariants of the update machine, over any interleaving of events."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.agent.steps import (
    CACHE,
    COORDINATOR,
    DONE,
    LOOKED,
    NEW,
    OFFER,
    OLD,
    READY,
)

from nixfleet.agent.machine import ENDED, step, wake_at
from nixfleet.agent.update import (
    Activate,
    Arm,
    Armed,
    Check,
    CheckDevice,
    Checked,
    Disarm,
    Disarmed,
    Effect,
    Event,
    Fetch,
    GoBack,
    Held,
    Look,
    Nudged,
    Offered,
    Overtaken,
    Passed,
    Ready,
    Restarted,
    Result,
    Stage,
    State,
    Switched,
    Tick,
    Trouble,
    Update,
    Verify,
    Withdrawn,
)
from nixfleet.model.device import Cause, Phase

OFFERS = st.builds(
    lambda index, run: replace(OFFER, index=index, rollout=f"{index:064x}", run=run),
    index=st.integers(0, 3),
    run=st.integers(1, 3),
)


ANSWERS: st.SearchStrategy[Event] = st.one_of(
    st.sampled_from(
        [
            Passed(),
            Passed(),
            LOOKED,
            READY,
            Armed(),
            Disarmed(),
            Overtaken(reason="why"),
            Ready(baseline=(), in_place=True),
            Held(reason="paused"),
            Withdrawn(reason="cancelled"),
            Nudged(),
            Tick(),
            Checked(),
            Checked(problems=("a.service failed",)),
            COORDINATOR,
            CACHE,
        ]
    ),
    st.builds(Switched, result=st.sampled_from(Result), reason=st.just("why")),
    st.builds(Trouble, cause=st.sampled_from(Cause), reason=st.just("why"), refused=st.booleans(), later=st.booleans()),
    st.builds(Offered, offer=OFFERS, boot_id=st.just("boot-1")),
    st.builds(Restarted, boot_id=st.sampled_from(["boot-1", "boot-2"]), current=st.sampled_from([OLD, NEW])),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(ANSWERS, st.integers(0, 400)), max_size=60))
def test_any_interleaving_ends_in_one_outcome_and_enters_the_switch_once(events: list[tuple[Event, int]]) -> None:
    """Whatever comes in whatever order: one outcome for each attempt, one switch at most, never a lower rollout."""
    state, now = State(), 0
    entered: list[tuple[str, int, int]] = []
    outcomes: list[tuple[str, int, int]] = []
    for event, elapsed in events:
        now += elapsed
        before = state
        state, effects = step(state, event, now)
        assert len(effects) <= 1
        assert state.attempted >= before.attempted
        was = before.update.phase if before.update else None
        if state.update and state.update.phase is Phase.ACTIVATING and was is not Phase.ACTIVATING:
            entered.append(key_of(state.update))
        ended = [one for one in (before.update, state.update) if one is not None]
        new = {report.rollout for report in state.outbox[len(before.outbox) :]}
        outcomes += [
            key_of(one) for one in {one.offer.rollout: one for one in ended}.values() if one.offer.rollout in new
        ]
        assert state == msgspec.json.decode(msgspec.json.encode(state), type=State)
    assert len(set(entered)) == len(entered)
    assert len(set(outcomes)) == len(outcomes)
    if state.update is not None:
        assert (state.update.phase in ENDED) == (key_of(state.update) in outcomes)


def key_of(update: Update) -> tuple[str, int, int]:
    """Tell one try from every other: the rollout, the signed run, and how often it mended by itself."""
    return update.offer.rollout, update.offer.run, update.number


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(ANSWERS, st.integers(0, 400)), max_size=40))
def test_with_a_fair_world_every_update_ends(events: list[tuple[Event, int]]) -> None:
    """From any state, the answers of a working device lead to an end in a bounded number of steps."""
    state, now = State(), 0
    for event, elapsed in events:
        now += elapsed
        state, _ = step(state, event, now)
    state, effects = step(state, Restarted(boot_id="boot-1", current=NEW), now)
    for _ in range(40):
        if state.update is None or state.update.phase in ENDED:
            return
        now = max(now, wake_at(state) or now)
        waits = not effects or state.update.phase is Phase.REBOOT_PENDING
        event = Restarted(boot_id=f"boot-{now}", current=NEW) if waits else answer(effects[0])
        state, effects = step(state, event if not state.update.retry_s else Tick(), now)
    pytest.fail(f"no end: {state.update}")


def answer(effect: Effect) -> Event:
    """Answer as a device on which everything works."""
    match effect:
        case Look():
            return LOOKED
        case CheckDevice() | Fetch() | Verify():
            return Passed()
        case Stage():
            return READY
        case Arm():
            return Armed()
        case Disarm():
            return Disarmed()
        case Activate() | GoBack():
            return DONE
        case Check():
            return Checked()
        case _:
            return COORDINATOR
