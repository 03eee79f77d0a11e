"""The update machine: `step` says what state comes next and what to do; `work` and `resume` are its table's columns.

Pure: it must never read a clock, a file or chance. The caller writes the new state durably BEFORE it performs the
effects, and performs at most one effect at a time; so a crash at any point repeats at most the effect of the last
journalled state, and every effect is safe to repeat.

`now` counts the seconds that the machine was awake since it booted (CLOCK_MONOTONIC): deadlines survive a restart of
the agent and a battery that thinks it is 1970, and a laptop that slept has not let one pass; after a reboot, `resume`
starts them afresh.

    phase           does (again after a restart)        then
    offered         look what runs                      preflight
    preflight       is the device fit, a way back?      fetching · refused · failed
    fetching        download                            verifying · failed
    verifying       digest, read the new system         staged · refused · failed
    staged          root both, sync again; arm guard    activating · confirmed (runs it already) · refused · failed
    activating      set profile, switch, or collect     checking · reboot-pending · reverting
    reboot-pending  guard off; reboot, or wait for one  checking · reverting
    checking        newly failed units, own checks      confirming · reverting
    confirming      reach the coordinator; on trial: wait
                    for its end; guard off;
                    make what booted the boot default   confirmed · reverting · checking
    reverting       profile back, switch or boot back   reverted · failed · confirmed (was on trial)
    confirmed       root the last three                 -
    reverted, failed, refused: let go of the closure    -
"""

from typing import assert_never

from msgspec.structs import replace

from nixfleet.agent import trying
from nixfleet.agent.booting import defaulting, elsewhere, pending, rebooting_back
from nixfleet.agent.history import kept_digest, without
from nixfleet.agent.moves import BACK_TRIES, Next, end, enter, go_back, to, try_again
from nixfleet.agent.update import (
    Armed,
    Checked,
    Contacted,
    Delivered,
    Disarmed,
    Event,
    Held,
    Looked,
    Nudged,
    Offer,
    Offered,
    Overtaken,
    Passed,
    Ready,
    Restarted,
    Result,
    State,
    Switched,
    Tick,
    Trouble,
    Update,
    Withdrawn,
)
from nixfleet.model.device import (
    SHORT_CHARS,
    Cause,
    Outcome,
    Phase,
    mends_itself,
)

AGAIN_MOST = 8
"""How often one run is begun again by itself."""
RETRY_FIRST_S = 5
RETRY_MOST_S = 300
HELD_RETRY_S = 60
DISARM_RETRY_S = 5
TIDY_RETRY_S = 60
REPLACED = "a newer rollout took its place"

BEFORE_SWITCH = frozenset({Phase.OFFERED, Phase.PREFLIGHT, Phase.FETCHING, Phase.VERIFYING, Phase.STAGED})
"""Nothing is changed yet: the update can be dropped, superseded and retried without going back."""
ENDED = frozenset({Phase.CONFIRMED, Phase.REVERTED, Phase.FAILED, Phase.REFUSED})


def step(state: State, event: Event, now: int) -> Next:
    """Give the next state and its effects; an event that means nothing in this state changes nothing."""
    match event:
        case Offered():
            return _offered(state, event, now)
        case Delivered():
            return replace(state, outbox=without(state.outbox, event)), []
        case Restarted():
            return resume(state, event, now)
        case _:
            update = state.update
            return (state, []) if update is None else _advance(state, update, event, now)


def resume(state: State, event: Restarted, now: int) -> Next:
    """Say where each state goes on after a restart of the agent or of the machine."""
    update = state.update
    if update is None:
        return state, []
    offer, phase = update.offer, update.phase
    rebooted = update.boot_id != event.boot_id
    if phase in ENDED:
        return enter(state, replace(update, retry_s=None))
    if rebooted:
        # The boot clock starts over, so every deadline does.
        update = replace(
            update,
            boot_id=event.boot_id,
            rebooting=False,
            retry_s=None,
            give_up_s=now + offer.timeout_s,
            confirm_by_s=now + offer.confirm_s,
            orphan_by_s=now + max(offer.orphan_s, offer.confirm_s),
        )
    if phase in BEFORE_SWITCH:
        # Another system may run now; look again before it is remembered as the way back.
        # And what an older agent did not note of the way back is noted now.
        blank = not update.previous_digest and phase not in {Phase.OFFERED, Phase.PREFLIGHT}
        phase = Phase.OFFERED if rebooted or blank else phase
        return enter(state, replace(update, retry_s=None, arming=False, phase=phase))
    if event.undone and phase is not Phase.REVERTING:
        return go_back(state, replace(update, lines=event.lines or update.lines), Cause.HEALTH, event.undone)
    if offer.verb == "test" and rebooted and phase is not Phase.REVERTING:
        return go_back(state, update, Cause.ACTIVATION, trying.WENT_DOWN)
    if phase is Phase.REBOOT_PENDING and not rebooted:
        return enter(state, replace(update, retry_s=None))
    if phase in {Phase.CHECKING, Phase.CONFIRMING, Phase.REBOOT_PENDING} and (why := elsewhere(update, event)):
        return go_back(state, update, Cause.ACTIVATION, why)
    if phase is Phase.REBOOT_PENDING:
        return enter(state, to(update, Phase.CHECKING))
    return enter(state, update)


def wake_at(state: State) -> int | None:
    """Say when the next `Tick` is due, in seconds of the boot clock; None when nothing waits for time."""
    update = state.update
    if update is None:
        return None
    if (update.phase is Phase.CONFIRMING and not (update.claiming or update.trying)) or update.settling:
        patient = update.cache_answers and not update.settling and update.offer.contact == "coordinator"
        return update.orphan_by_s if patient else update.confirm_by_s
    return update.retry_s


def fresh(state: State, offer: Offer) -> bool:
    """Tell whether an offer is news: a higher rollout than ever attempted, a signed retry, or what mends itself."""
    if (offer.epoch, offer.index) > state.attempted:
        return True
    last = state.update
    if last is None or last.offer.rollout != offer.rollout or last.phase not in ENDED:
        return False
    if last.outcome is Outcome.CONFIRMED:
        return False
    return offer.run > last.offer.run or (offer.run == last.offer.run and _mends(last))


def _mends(update: Update) -> bool:
    """Tell whether an end is to be tried again by itself, and has not been too often."""
    return update.number < AGAIN_MOST and mends_itself(update.outcome, update.cause)


def _offered(state: State, event: Offered, now: int) -> Next:
    update, offer = state.update, event.offer
    if not offer.digest:
        # A rollback brings no signed digest: a kept path must hold what ran under it, whoever filled it since.
        offer = replace(offer, digest=kept_digest(state, offer.path))
    busy = update is not None and update.phase not in ENDED | {Phase.IDLE}
    if not fresh(state, offer):
        return state, []
    if busy and update is not None:
        if update.phase is Phase.REBOOT_PENDING:
            # It is taken back first, so that no boot brings it; then the offer comes again.
            return go_back(state, update, Cause.NONE, REPLACED)
        if update.phase not in BEFORE_SWITCH:
            # A switch is never left half-way: the offer comes again when this one has ended.
            return state, []
        state, _ = end(state, update, Outcome.REFUSED, Cause.NONE, REPLACED)
    same = update is not None and (update.offer.rollout, update.offer.run) == (offer.rollout, offer.run)
    started = Update(
        phase=Phase.OFFERED,
        offer=offer,
        boot_id=event.boot_id,
        number=update.number + 1 if same and update is not None else 0,
        give_up_s=now + offer.timeout_s,
    )
    state = replace(state, attempted=(offer.epoch, offer.index))
    if event.refusal:
        return end(state, started, Outcome.REFUSED, Cause.PREFLIGHT, event.refusal)
    return enter(state, started)


def _advance(state: State, update: Update, event: Event, now: int) -> Next:
    """Dispatch on the phase; what a phase does not expect, it ignores."""
    match update.phase:
        case Phase.OFFERED | Phase.PREFLIGHT | Phase.FETCHING | Phase.VERIFYING | Phase.STAGED:
            return _before_switch(state, update, event, now)
        case Phase.ACTIVATING:
            return _activating(state, update, event)
        case Phase.CHECKING:
            return _checking(state, update, event, now)
        case Phase.CONFIRMING:
            return _confirming(state, update, event, now)
        case Phase.REVERTING:
            return _reverting(state, update, event, now)
        case Phase.REBOOT_PENDING:
            return pending(state, update, event, now)
        case Phase.IDLE:
            return state, []
        case Phase.CONFIRMED | Phase.REVERTED | Phase.FAILED | Phase.REFUSED:
            return _ended(state, update, event, now)
        case _:
            assert_never(update.phase)


def _before_switch(  # noqa: C901 - one branch per pair of state and event
    state: State, update: Update, event: Event, now: int
) -> Next:
    phase = update.phase
    match event:
        case Withdrawn():
            return end(state, update, Outcome.REFUSED, Cause.NONE, event.reason)
        case Trouble():
            return _trouble(state, update, event, now)
        case Held() if phase is Phase.STAGED and not update.arming:
            held = replace(update, cause=Cause.NONE, reason=event.reason, retry_s=now + HELD_RETRY_S)
            return replace(state, update=held), []
        case Tick() if update.retry_s is not None and now >= update.retry_s:
            return enter(state, replace(update, retry_s=None))
        case Nudged() if update.retry_s is not None:
            return enter(state, replace(update, retry_s=None))
        case Looked() if phase is Phase.OFFERED:
            looked = replace(to(update, Phase.PREFLIGHT), previous=event.current, previous_digest="")
            return enter(state, looked)
        case Passed() if phase is Phase.PREFLIGHT:
            fetching = replace(to(update, Phase.FETCHING), previous_digest=event.previous_digest)
            return enter(state, replace(fetching, tries=update.tries))
        case Passed() if phase is Phase.FETCHING:
            return enter(state, to(update, Phase.VERIFYING))
        case Passed() if phase is Phase.VERIFYING:
            return enter(state, to(update, Phase.STAGED))
        case Ready() if phase is Phase.STAGED and not update.arming and event.in_place:
            return end(state, update, Outcome.CONFIRMED, Cause.NONE, "it ran this system already")
        case Ready() if phase is Phase.STAGED and not update.arming:
            return _ready(state, update, event)
        case Armed() if phase is Phase.STAGED and update.arming:
            return enter(state, to(update, Phase.ACTIVATING))
        case _:
            return state, []


def _ready(state: State, update: Update, event: Ready) -> Next:
    """Arm, unless it needs a reboot that nobody accepted where a boot that fails cannot fall back."""
    offer = update.offer
    if why := trying.unfit(offer, event):
        return end(state, update, Outcome.REFUSED, Cause.PREFLIGHT, why)
    wants = bool(event.reboot) and offer.reboot != "never"
    if wants and event.fallback == "none" and not offer.accept_no_fallback:
        why = f"needs a reboot ({', '.join(event.reboot)}), and a boot that fails cannot fall back here"
        return end(state, update, Outcome.REFUSED, Cause.PREFLIGHT, f"{why}; --accept-no-fallback accepts that")
    ready = replace(to(update, Phase.STAGED), baseline=event.baseline, arming=True)
    return enter(state, replace(ready, reboot=event.reboot, fallback=event.fallback))


def _trouble(state: State, update: Update, event: Trouble, now: int) -> Next:
    """End, or try again later: a network gets better by itself, a wrong digest does not."""
    if event.refused:
        return end(state, update, Outcome.REFUSED, event.cause, event.reason, event.lines)
    if not event.later or now >= update.give_up_s:
        return end(state, update, Outcome.FAILED, event.cause, event.reason, event.lines)
    pause_s = min(RETRY_FIRST_S * 2 ** min(update.tries, 10), RETRY_MOST_S)
    retry_s = min(now + pause_s, update.give_up_s)
    # Room is made by the preflight alone: what ran out of it begins there again, or it would run out for ever.
    phase = Phase.PREFLIGHT if event.cause is Cause.SPACE and update.phase is Phase.FETCHING else update.phase
    # What waits has to ask the log again: what was staged is no longer known to be wanted.
    later = replace(
        update,
        phase=phase,
        retry_s=retry_s,
        tries=update.tries + 1,
        cause=event.cause,
        reason=event.reason,
        arming=False,
    )
    return replace(state, update=later), []


def _activating(state: State, update: Update, event: Event) -> Next:
    match event:
        case Trouble():
            return go_back(state, replace(update, lines=event.lines), event.cause, event.reason)
        case Switched():
            pass
        case _:
            return state, []
    update = replace(update, exit_code=event.exit_code, lines=event.lines)
    match event.result:
        case Result.DONE | Result.UNITS:
            return enter(state, to(update, Phase.CHECKING))
        case Result.REBOOT if update.offer.verb == "test":
            return go_back(state, update, Cause.ACTIVATION, trying.NEEDS_REBOOT)
        case Result.REBOOT:
            needs = f"needs a reboot ({', '.join(update.reboot) or 'the switch says so'})"
            return enter(state, replace(to(update, Phase.REBOOT_PENDING), reason=needs[:SHORT_CHARS]))
        case Result.HALFWAY | Result.ELSEWHERE | Result.ERROR | Result.INTERRUPTED:
            return go_back(state, update, Cause.ACTIVATION, event.reason)
        case _:
            assert_never(event.result)


def _checking(state: State, update: Update, event: Event, now: int) -> Next:
    match event:
        case Trouble():
            return go_back(state, replace(update, lines=event.lines), event.cause, event.reason)
        case Checked() if event.problems:
            return go_back(state, replace(update, lines=event.lines), Cause.HEALTH, "; ".join(event.problems))
        case Checked() if update.tried:
            return trying.finish(state, update)
        case Checked() if update.offer.contact == "none":
            return _good(state, to(update, Phase.CONFIRMING), now)
        case Checked():
            offer = update.offer
            waiting = replace(
                to(update, Phase.CONFIRMING),
                confirm_by_s=now + offer.confirm_s,
                orphan_by_s=now + max(offer.orphan_s, offer.confirm_s),
            )
            return enter(state, waiting)
        case _:
            return state, []


def _confirming(state: State, update: Update, event: Event, now: int) -> Next:
    offer = update.offer
    if update.claiming:
        return _claiming(state, update, event, now)
    if update.trying:
        return trying.on_trial(state, update, event, now)
    match event:
        case Contacted(by="coordinator"):
            return _good(state, update, now)
        case Contacted() if offer.contact == "any":
            return _good(state, update, now)
        case Contacted():
            return replace(state, update=replace(update, cache_answers=True)), []
        case Tick() if now >= (wake_at(state) or 0):
            waited_s = offer.orphan_s if update.cache_answers else offer.confirm_s
            reason = f"no signed sync with the coordinator within {waited_s} s of the switch"
            return go_back(state, update, Cause.CONTACT, reason)
        case _:
            return state, []


def _good(state: State, update: Update, now: int) -> Next:
    """Keep what is healthy and in contact, or try it for its time."""
    return trying.begin(state, update, now) if update.offer.verb == "test" else _claim(state, update)


def _claim(state: State, update: Update) -> Next:
    """Take the guard off first: once it is known that it will not act, and not before, the update has confirmed."""
    return enter(state, replace(update, claiming=True, retry_s=None))


def _claiming(state: State, update: Update, event: Event, now: int) -> Next:
    if update.defaulting:
        return defaulting(state, update, event, now)
    match event:
        case Disarmed() if update.boots_once:
            return enter(state, replace(update, defaulting=True, retry_s=None))
        case Disarmed():
            return end(state, update, Outcome.CONFIRMED, Cause.NONE, "")
        case Overtaken():
            return go_back(state, update, Cause.HEALTH, event.reason)
        case Trouble():
            return replace(state, update=replace(update, retry_s=now + DISARM_RETRY_S)), []
        case Tick() if update.retry_s is not None and now >= update.retry_s:
            return _claim(state, update)
        case _:
            return state, []


def _reverting(state: State, update: Update, event: Event, now: int) -> Next:
    if update.rebooting:
        return rebooting_back(state, update, event, now)
    match event:
        case Switched(result=Result.REBOOT) if not update.settling and update.back_tries + 1 < BACK_TRIES:
            # The way back has its own kernel. Each boot counts as a try: one that never leads back ends, too.
            return enter(state, replace(update, back_tries=update.back_tries + 1, rebooting=True))
        case Contacted(by="coordinator") if update.settling:
            return end(state, update, Outcome.REVERTED, update.cause, update.reason)
        case Tick() if update.settling and now >= update.confirm_by_s:
            return end(state, update, Outcome.REVERTED, Cause.NETWORK, "coordinator outage")
        case Switched(result=Result.DONE | Result.UNITS) if not update.settling:
            if update.cause is not Cause.CONTACT:
                return end(state, update, trying.outcome(update), update.cause, update.reason)
            settling = replace(update, settling=True, confirm_by_s=now + update.offer.confirm_s)
            return enter(state, settling)
        case Switched() | Trouble() if not update.settling:
            tried = replace(update, back_tries=update.back_tries + 1)
            # Content that is not what ran, and could not be repaired, is never switched to.
            lost = isinstance(event, Trouble) and event.cause is Cause.UNTRUSTED
            if tried.back_tries < BACK_TRIES and not lost:
                return enter(state, tried)
            reason = f"could not go back ({event.reason}) after: {update.reason}"
            return end(state, tried, Outcome.FAILED, update.cause, reason)
        case _:
            return state, []


def _ended(state: State, update: Update, event: Event, now: int) -> Next:
    """Root what confirmed and let go of the rest, until that has worked: the outcome itself is written already."""
    return try_again(state, update, event, now, TIDY_RETRY_S)
