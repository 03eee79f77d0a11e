"""What the update machine's state tells of earlier updates: reports, confirmed and left systems. Pure, too."""

from msgspec.structs import replace

from nixfleet.agent.update import Confirmed, Delivered, State, Update
from nixfleet.model.device import ATTEMPT_LINES, LINE_CHARS, SHORT_CHARS, Attempt, Outcome

KEPT_SYSTEMS = 3
HISTORY_ENTRIES = 64
LEFT_ENTRIES = 4_096
OUTCOMES_KEPT = 8


def attempt(update: Update) -> Attempt:
    """Say for a report where an update stands; every text is bounded as `model.device` demands.

    What a trial that ended well has confirmed is that the device is back: the path is the previous system's.
    """
    back = update.tried and update.outcome is Outcome.CONFIRMED
    return Attempt(
        rollout=update.offer.rollout,
        run=update.offer.run,
        phase=update.phase,
        outcome=update.outcome,
        cause=update.cause,
        reason=update.reason[:SHORT_CHARS],
        path=update.previous if back else update.offer.path,
        previous=update.previous,
        exit_code=update.exit_code,
        lines=tuple(line[:LINE_CHARS] for line in update.lines[-ATTEMPT_LINES:]),
    )


def kept_digest(state: State, path: str) -> str:
    """Give the closure digest of a system that ran here, as last noted; nothing when none was."""
    for one in reversed(state.confirmed):
        if one.path == path and one.digest:
            return one.digest
        if one.previous == path and one.previous_digest:
            return one.previous_digest
    return ""


def outcomes(state: State, told: Attempt) -> tuple[Attempt, ...]:
    """Keep the last few outcomes for who asks on the device, delivered or not, without their output."""
    return (*state.outcomes, replace(told, lines=()))[-OUTCOMES_KEPT:]


def drift(state: State, system: str) -> str:
    """Name the system that this device confirmed last, where another one runs by somebody's hand; else nothing."""
    update = state.update
    at_rest = update is None or update.outcome is not None
    last = state.confirmed[-1].path if state.confirmed else ""
    return last if at_rest and system and last not in {"", system} else ""


def kept_paths(state: State) -> tuple[str, ...]:
    """List the systems to keep, newest confirmed first, without repeats."""
    newest = dict.fromkeys(one.path for one in reversed(state.confirmed))
    return tuple(newest)[:KEPT_SYSTEMS]


def remember(state: State, update: Update) -> State:
    """Write down what confirmed, and what it thereby left (trust.md, Back: confirmed, then replaced)."""
    offer = update.offer
    one = Confirmed(
        rollout=offer.rollout,
        path=offer.path,
        previous=update.previous,
        digest=offer.digest,
        previous_digest=update.previous_digest,
    )
    left = state.left
    if state.confirmed and state.confirmed[-1].path != offer.path:
        left = (*(path for path in left if path != state.confirmed[-1].path), state.confirmed[-1].path)
    # The path that runs now is no longer a left one: it came back by somebody with the right to bring it.
    left = tuple(path for path in left if path != offer.path)[-LEFT_ENTRIES:]
    return replace(state, confirmed=(*state.confirmed, one)[-HISTORY_ENTRIES:], left=left)


def without(outbox: tuple[Attempt, ...], event: Delivered) -> tuple[Attempt, ...]:
    """Drop the oldest report of a run: a later end of the same run still has to be told."""
    for number, one in enumerate(outbox):
        if (one.rollout, one.run) == (event.rollout, event.run):
            return (*outbox[:number], *outbox[number + 1 :])
    return outbox
