"""The update machine's rules of a trial (mode `test`): a system that runs for a time, and is never what boots.

It confirms nothing but that it could be run: the outcome is given once the device is back. Pure, as `agent.machine` is.
"""

from msgspec.structs import replace

from nixfleet.agent.moves import Next, enter, go_back, to
from nixfleet.agent.update import Event, Offer, Ready, State, Tick, Update
from nixfleet.model.device import SHORT_CHARS, Cause, Outcome, Phase
from nixfleet.model.ids import store_name
from nixfleet.model.typed import duration

WENT_DOWN = "the machine went down during the trial"
NEEDS_REBOOT = "the switch says that it takes a reboot, which a trial cannot bring; deploy it with --mode boot"


def unfit(offer: Offer, ready: Ready) -> str:
    """Say why a system cannot be tried; a trial that went down would only ever end in the previous one."""
    if offer.verb != "test" or not ready.reboot:
        return ""
    return f"it needs a reboot ({', '.join(ready.reboot)}), which a trial cannot bring; deploy it with --mode boot"


def begin(state: State, update: Update, now: int) -> Next:
    """Let it run, healthy and in contact as it is; the guard stays."""
    reason = f"on trial for {duration(update.offer.for_s)}, then the device goes back"
    return enter(state, replace(update, trying=True, retry_s=now + update.offer.for_s, reason=reason))


def on_trial(state: State, update: Update, event: Event, now: int) -> Next:
    """Wait for its end, and look once more at what has become of the system."""
    match event:
        case Tick() if update.retry_s is not None and now >= update.retry_s:
            return enter(state, replace(to(update, Phase.CHECKING), tried=True))
        case _:
            return state, []


def finish(state: State, update: Update) -> Next:
    """Go back from a trial that was healthy to its end."""
    reason = f"{store_name(update.offer.path)} was tried for {duration(update.offer.for_s)}, healthy to the end"
    return go_back(state, update, Cause.NONE, reason[:SHORT_CHARS])


def outcome(update: Update) -> Outcome:
    """Tell what being back on the previous system is: the end of a good trial, or of an update that failed."""
    return Outcome.CONFIRMED if update.tried and update.cause is Cause.NONE else Outcome.REVERTED
