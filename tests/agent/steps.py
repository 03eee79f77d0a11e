"""Events that tests drive the update machine with, and the update that they are about."""

from nixfleet.agent.machine import step
from nixfleet.agent.update import (
    Armed,
    Checked,
    Contacted,
    Disarmed,
    Effect,
    Event,
    Looked,
    Offer,
    Offered,
    Passed,
    Ready,
    Result,
    State,
    Switched,
)
from nixfleet.model.device import Phase

HASH = "0" * 31
OLD, NEW, NEXT = (f"/nix/store/{HASH}{digit}-nixos-system-{digit}" for digit in "123")
OFFER = Offer(rollout="ab" * 32, epoch=0, index=5, run=1, path=NEW, digest="cd" * 32, nar_bytes=7)


def drive(*events: Event, state: State | None = None, now: int = 100) -> tuple[State, list[Effect]]:
    """Feed events one second apart; give the last state and the last effects."""
    state = state or State()
    effects: list[Effect] = []
    for event in events:
        state, effects = step(state, event, now)
        now += 1
    return state, effects


def offered(offer: Offer = OFFER) -> Offered:
    """Make the event that begins an update."""
    return Offered(offer=offer, boot_id="boot-1")


LOOKED = Looked(current=OLD)
READY = Ready(baseline=("old.service",))
DONE = Switched(result=Result.DONE, exit_code=0, lines=("switched",))
OLD_DIGEST = "0d" * 32
FIT = Passed(previous_digest=OLD_DIGEST)
TO_STAGED: tuple[Event, ...] = (offered(), LOOKED, FIT, Passed(), Passed())
TO_ACTIVATING: tuple[Event, ...] = (*TO_STAGED, READY, Armed())
TO_CONFIRMING: tuple[Event, ...] = (*TO_ACTIVATING, DONE, Checked())
COORDINATOR, CACHE = Contacted(by="coordinator"), Contacted(by="cache")
TO_CONFIRMED: tuple[Event, ...] = (*TO_CONFIRMING, COORDINATOR, Disarmed())


def phase(state: State) -> Phase:
    """Give the phase of the update in a state."""
    assert state.update is not None
    return state.update.phase
