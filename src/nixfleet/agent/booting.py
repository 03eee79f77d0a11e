"""The update machine's rules of another boot: waiting for it, what has to be booted, and what is booted from then on.

Pure, as `agent.machine` is.
"""

from typing import Final

from msgspec.structs import replace

from nixfleet.agent.moves import BACK_TRIES, Next, end, enter, go_back, try_again
from nixfleet.agent.update import (
    Disarmed,
    Event,
    Held,
    Nudged,
    Overtaken,
    Restarted,
    Result,
    State,
    Switched,
    Tick,
    Trouble,
    Update,
    Withdrawn,
)
from nixfleet.model.device import SHORT_CHARS, Cause, Outcome
from nixfleet.model.ids import store_name

HELD_RETRY_S: Final = 60
DEFAULT_RETRY_S: Final = 5


def elsewhere(update: Update, event: Restarted) -> str:
    """Say what runs in place of the new system; one that needs a reboot has to be what was booted, too."""
    path = update.offer.path
    if event.current == path and (not update.reboot or event.booted == path):
        return ""
    if update.boots_once and event.booted == update.previous:
        return "the new system did not boot, or went down before it confirmed: the boot loader fell back"
    wrong = event.current if event.current != path else event.booted
    runs = store_name(wrong) or "an unknown system"
    return f"the device {'runs' if wrong == event.current else 'booted'} {runs} after a restart"


def pending(state: State, update: Update, event: Event, now: int) -> Next:
    """Wait for another boot, and bring it about where the rollout says so; what is no longer wanted never boots."""
    match event:
        case Overtaken():
            return go_back(state, update, Cause.HEALTH, event.reason)
        case Withdrawn():
            return go_back(state, update, Cause.NONE, event.reason)
        case Disarmed() if not update.rebooting and update.reboot and update.offer.reboot != "never":
            return enter(state, replace(update, rebooting=True))
        case Held() | Trouble():
            why = f"needs a reboot ({', '.join(update.reboot) or 'the switch says so'}): {event.reason}"
            return replace(state, update=replace(update, reason=why[:SHORT_CHARS], retry_s=now + HELD_RETRY_S)), []
        case Tick() if update.retry_s is not None and now >= update.retry_s:
            return enter(state, replace(update, retry_s=None))
        case Nudged() if update.retry_s is not None:
            return enter(state, replace(update, retry_s=None))
        case _:
            return state, []


def defaulting(state: State, update: Update, event: Event, now: int) -> Next:
    """Confirm once it is the boot default: what confirms is what boots, from then on."""
    match event:
        case Switched(result=Result.DONE | Result.UNITS | Result.REBOOT):
            return end(state, update, Outcome.CONFIRMED, Cause.NONE, "")
        case Switched() | Trouble() if update.tries + 1 < BACK_TRIES:
            return replace(state, update=replace(update, tries=update.tries + 1, retry_s=now + DEFAULT_RETRY_S)), []
        case Switched() | Trouble():
            reason = f"it cannot be made the boot default: {event.reason}"
            return go_back(state, replace(update, lines=event.lines), Cause.ACTIVATION, reason)
        case Tick() if update.retry_s is not None and now >= update.retry_s:
            return enter(state, replace(update, retry_s=None))
        case _:
            return state, []


def rebooting_back(state: State, update: Update, event: Event, now: int) -> Next:
    """Wait for the boot that leads back; a machine that does not go down is told again."""
    return try_again(state, update, event, now, HELD_RETRY_S)
