"""How the update machine moves: what a state does, how another is entered, and how an update ends. Pure, as it is."""

from typing import Final, assert_never

from msgspec.structs import replace

from nixfleet.agent.history import attempt, kept_paths, outcomes, remember
from nixfleet.agent.update import (
    Activate,
    Arm,
    Check,
    CheckDevice,
    Contact,
    Disarm,
    Effect,
    Event,
    Fetch,
    GoBack,
    Keep,
    Look,
    MakeDefault,
    Reboot,
    Stage,
    State,
    Tick,
    Tidy,
    Trouble,
    Update,
    Verify,
)
from nixfleet.model.device import SHORT_CHARS, Cause, Outcome, Phase

BACK_TRIES: Final = 3
"""How often going back is tried before the device is given up as failed."""
OUTBOX_ENTRIES: Final = 64

Next = tuple[State, list[Effect]]


def work(update: Update, state: State) -> list[Effect]:  # noqa: C901 - one branch per state
    """Say what a state does, on entry and again after a restart."""
    offer = update.offer
    match update.phase:
        case Phase.OFFERED:
            return [Look(offer=offer)]
        case Phase.PREFLIGHT:
            return [CheckDevice(offer=offer, previous=update.previous)]
        case Phase.FETCHING:
            return [Fetch(offer=offer)]
        case Phase.VERIFYING:
            return [Verify(offer=offer, previous=update.previous)]
        case Phase.STAGED if update.arming:
            return [Arm(offer=offer, previous=update.previous, number=update.number)]
        case Phase.STAGED:
            return [Stage(offer=offer, previous=update.previous)]
        case Phase.ACTIVATING:
            once = update.previous if update.boots_once else ""
            return [
                Activate(
                    offer=offer, number=update.number, boots=bool(update.reboot), once=once, fallback=update.fallback
                )
            ]
        case Phase.CHECKING:
            return [Check(offer=offer, baseline=update.baseline)]
        case Phase.REBOOT_PENDING if update.rebooting:
            return [Reboot(offer=offer)]
        case Phase.REBOOT_PENDING:
            return [Disarm(offer=offer, number=update.number)]
        case Phase.CONFIRMING if update.defaulting:
            number = update.number * BACK_TRIES + update.tries
            return [MakeDefault(offer=offer, number=number, fallback=update.fallback)]
        case Phase.CONFIRMING if update.claiming:
            return [Disarm(offer=offer, number=update.number)]
        case Phase.CONFIRMING if update.trying:
            return []
        case Phase.CONFIRMING:
            return [Contact(offer=offer)]
        case Phase.REVERTING if update.settling:
            return [Contact(offer=offer)]
        case Phase.REVERTING if update.rebooting:
            return [Reboot(offer=offer, back=True)]
        case Phase.REVERTING:
            number = update.number * BACK_TRIES + update.back_tries
            back = GoBack(offer=offer, previous=update.previous, digest=update.previous_digest, number=number)
            return [replace(back, fallback=update.fallback, baseline=update.baseline)]
        case Phase.CONFIRMED:
            return [Keep(offer=offer, paths=kept_paths(state))]
        case Phase.REVERTED | Phase.FAILED | Phase.REFUSED:
            lied = update.cause is Cause.UNTRUSTED and update.phase is Phase.FAILED
            return [Tidy(offer=offer, delete=lied or update.foreign)]
        case Phase.IDLE:
            return []
        case _:
            assert_never(update.phase)


def to(update: Update, phase: Phase) -> Update:
    """Name another state, with nothing waited for in it."""
    return replace(
        update,
        phase=phase,
        retry_s=None,
        tries=0,
        cause=Cause.NONE,
        reason="",
        arming=False,
        claiming=False,
        defaulting=False,
        rebooting=False,
        trying=False,
    )


def enter(state: State, update: Update) -> Next:
    """Enter a state, and do what it does."""
    state = replace(state, update=update)
    return state, work(update, state)


def try_again(state: State, update: Update, event: Event, now: int, after_s: int) -> Next:
    """Do what the state does once more, so many seconds after it did not work; all else changes nothing."""
    match event:
        case Trouble():
            return replace(state, update=replace(update, retry_s=now + after_s)), []
        case Tick() if update.retry_s is not None and now >= update.retry_s:
            return enter(state, replace(update, retry_s=None))
        case _:
            return state, []


def go_back(state: State, update: Update, cause: Cause, reason: str) -> Next:
    """Begin to go back, for a reason that the outcome will give."""
    back = replace(to(update, Phase.REVERTING), cause=cause, reason=reason[:SHORT_CHARS])
    return enter(state, back)


def end(
    state: State, update: Update, outcome: Outcome, cause: Cause, reason: str, lines: tuple[str, ...] | None = None
) -> Next:
    """End the update: its outcome enters the outbox in the same write as the state, hence exactly once."""
    # A preflight that knows the way back is one before another try of the download.
    again = update.phase is Phase.PREFLIGHT and bool(update.previous_digest)
    unproven = bool(update.offer.caches) and (again or update.phase in {Phase.FETCHING, Phase.VERIFYING})
    ended = replace(
        to(update, Phase(outcome.value)),
        outcome=outcome,
        cause=cause,
        reason=reason[:SHORT_CHARS],
        lines=update.lines if lines is None else lines,
        settling=False,
        # What is tried again soon stays: its digest covers all of the closure when it is complete.
        foreign=unproven and cause not in {Cause.NETWORK, Cause.SPACE},
    )
    told = attempt(ended)
    state = replace(state, outbox=(*state.outbox, told)[-OUTBOX_ENTRIES:], outcomes=outcomes(state, told))
    # What was tried does not stay: it is neither kept here nor ever left.
    if outcome is Outcome.CONFIRMED and update.offer.verb != "test":
        state = remember(state, ended)
    return enter(state, ended)
