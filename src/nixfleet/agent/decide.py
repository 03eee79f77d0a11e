"""From a verified log to an offer: which update this device may make now, or why none.

The order of checks is trust.md's, What a device does, 3 and 4. Pure: the log, the gates, the lines and the clock come
in as arguments. It must never accept a gate, a line or a statement that is not verified, and never act.
"""

from collections.abc import Mapping, Sequence
from typing import assert_never

import msgspec

from nixfleet.agent import machine
from nixfleet.agent.update import Held, Offer, State, Withdrawn
from nixfleet.errors import Untrusted
from nixfleet.model.device import Outcome
from nixfleet.model.ids import Digest, store_name
from nixfleet.model.statements import CacheRef, Closure, Rollout, TargetLine
from nixfleet.rollout.windows import opens_at, zone_name, zone_of
from nixfleet.trust import replay as logs
from nixfleet.trust.epochs import epoch_at, lowest_index
from nixfleet.trust.gate import Gate, fresh, open_gate
from nixfleet.trust.replay import Allowed, Denied, Follow, Hold, Idle, RolloutState
from nixfleet.trust.sshsig import PublicKey

GATES_MOST = 256
"""Gates of one answer that are looked at: a device is in few rollouts at a time."""
Lines = Mapping[str, TargetLine | None]
"""This device's own proven line by release digest; None: proven that the release has none for it."""


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision needs to know of this device; `wall_s` is its clock, raised to the last log time."""

    device: str
    timezone: str
    wall_s: int
    orphan_s: int
    clock_late: bool = False
    """Its own clock is behind the log: then `wall_s` stands still, and is no time of day."""
    by_hand: bool = False
    """Root stands at it with the update in a file, in place of the coordinator's gate, and of a contact with it."""


class Proceed(msgspec.Struct, frozen=True, kw_only=True):
    """The update may begin; `refusal` says why it must be turned down instead."""

    offer: Offer
    refusal: str = ""


class NeedLine(msgspec.Struct, frozen=True, kw_only=True):
    """The device's own line of this rollout's release must be fetched and proven first."""

    rollout: str
    release: str


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing begins, and why; an empty reason: nothing is wanted. `until_s`: when to look again without a sync."""

    reason: str = ""
    until_s: int | None = None
    ahead: Offer | None = None
    """What may be downloaded meanwhile: the rollout says ``prefetch``, and only its wave or window is not open."""


Decision = Proceed | NeedLine | Wait


def decide(log: logs.State, log_key: PublicKey, me: Me, state: State, gates: Sequence[bytes], lines: Lines) -> Decision:
    """Choose, authorise and pace: the next update of this device, a line to fetch, or the reason to wait."""
    decision = _decide(log, log_key, me, state, gates, lines)
    return waits(log, decision) if isinstance(decision, Wait) else decision


def waits(log: logs.State, wait: Wait) -> Wait:
    """Say first, whatever else is waited for, that this agent cannot read on in the log.

    Only what is older than the root that raised the protocol may still begin, and may bring the newer agent
    (trust.md, Versions).
    """
    if log.stopped_at is None:
        return wait
    return msgspec.structs.replace(wait, reason=f"agent too old: entry {log.stopped_at} raised the protocol")


def _decide(
    log: logs.State, log_key: PublicKey, me: Me, state: State, gates: Sequence[bytes], lines: Lines
) -> Decision:
    choice = _choose(log, me, state, lines)
    match choice:
        case Hold(kind="line", rollout=one) if one is not None and one.statement.release is not None:
            return NeedLine(rollout=one.digest, release=one.statement.release)
        case Hold():
            return Wait(reason=choice.text, until_s=choice.until)
        case Idle():
            return Wait(reason=_skipped(choice))
        case Follow():
            return _follow(log, log_key, me, state, gates, lines, choice)
        case _:
            assert_never(choice)


def still(log: logs.State, me: Me, state: State, offer: Offer, lines: Lines) -> Held | Withdrawn | None:
    """Judge an update once more right before the switch: revoked, paused or overtaken meanwhile? None: go on.

    What only this device's clock ends waits, and may go on: a bad battery must not expire anything for good (trust.md,
    What a device does). It is over once the log's own time, or what is signed in it, says so.
    """
    verdict = _still(log, me, state, offer, lines)
    if isinstance(verdict, Withdrawn):
        by_log = _still(log, msgspec.structs.replace(me, wall_s=log.last_time), state, offer, lines)
        return verdict if isinstance(by_log, Withdrawn) else Held(reason=verdict.reason)
    return verdict


def still_boots(log: logs.State, me: Me, state: State, offer: Offer, lines: Lines) -> Held | Withdrawn | None:
    """Judge the reboot of an update that is set for the next boot: as the switch, but by its own policy. None: go on.

    A reboot at once may be out of the window that the switch was in; one within a window takes a clock that is known to
    be right, for nobody may be there to see a machine go down at noon.
    """
    verdict = still(log, me, state, offer, lines)
    if isinstance(verdict, Withdrawn):
        return verdict
    if offer.reboot == "in_window" and me.clock_late:
        return Held(reason="its clock is behind the log, so whether its window is open is not known")
    one = log.rollouts.get(Digest(offer.rollout))
    closed = _window(one.statement, me, log) if one is not None else None
    only_window = isinstance(verdict, Held) and closed is not None and verdict.reason == closed.reason
    return None if only_window and offer.reboot == "now" else verdict


def _still(log: logs.State, me: Me, state: State, offer: Offer, lines: Lines) -> Held | Withdrawn | None:
    choice = _choose(log, me, state, lines)
    match choice:
        case Hold(kind="expired" | "retired" | "not-enrolled"):
            return Withdrawn(reason=choice.text)
        case Hold():
            return Held(reason=choice.text)
        case Idle():
            mine = [skip.text for skip in choice.skipped if skip.rollout.digest == offer.rollout]
            return Withdrawn(reason=mine[0] if mine else "the rollout no longer covers this device")
        case Follow() if choice.rollout.digest != offer.rollout:
            return Withdrawn(reason="a newer rollout took its place")
        case Follow():
            pass
        case _:
            assert_never(choice)
    right = logs.authorise_path(log, choice.rollout, me.device, me.wall_s, _confirmed(state), offer.path)
    if isinstance(right, Denied):
        return Withdrawn(reason=right.reason)
    closed = _window(choice.rollout.statement, me, log)
    return Held(reason=closed.reason) if closed is not None else None


def gates_for(gates: Sequence[bytes], log_key: PublicKey, fleet: str, device: str) -> list[Gate]:
    """Open the gates for this device; one that does not verify is no gate."""
    found: list[Gate] = []
    for data in gates[:GATES_MOST]:
        try:
            gate = open_gate(data, log_key, fleet)
        except Untrusted:
            continue
        if gate.device == device:
            found.append(gate)
    return found


def gated(gates: Sequence[bytes], log_key: PublicKey, fleet: str, device: str) -> set[str]:
    """Name the rollouts that the coordinator says are open for this device."""
    return {gate.rollout for gate in gates_for(gates, log_key, fleet, device)}


def _choose(log: logs.State, me: Me, state: State, lines: Lines) -> logs.Choice:
    def covers(one: RolloutState) -> bool | None:
        if _journalled(state, one, epoch_at(log, one.index)):
            return True
        if one.statement.kind == "rollback":
            # Only a device that confirmed it has something to go back from.
            return _kept(state, one) is not None
        release = one.statement.release
        return None if release is None or release not in lines else lines[release] is not None

    return logs.choose(log, me.device, me.wall_s, lowest_index(log, state.attempted), covers)


def _follow(
    log: logs.State,
    log_key: PublicKey,
    me: Me,
    state: State,
    gates: Sequence[bytes],
    lines: Lines,
    choice: Follow,
) -> Decision:
    one = choice.rollout
    offer = _offer(log, me, state, lines, choice)
    if offer is None:
        return _without_offer(state, lines, choice)
    if not machine.fresh(state, offer):
        return Wait()
    now = max(me.wall_s, log.last_time)
    right = logs.authorise_path(log, one, me.device, now, _confirmed(state), offer.path)
    wave = logs.first_wave(log, one, me.device)
    run = _opened(gates_for(gates, log_key, log.fleet, me.device), me, choice, now, wave)
    if isinstance(run, Wait):
        return _meanwhile(run, offer, one.statement, right)
    offer = msgspec.structs.replace(offer, run=run)
    if not machine.fresh(state, offer):
        return Wait()
    if isinstance(right, Denied):
        return Proceed(offer=offer, refusal=f"{right.reason}: this device has left {store_name(offer.path)}")
    closed = _window(one.statement, me, log)
    return Proceed(offer=offer) if closed is None else _meanwhile(closed, offer, one.statement, right)


def _meanwhile(wait: Wait, offer: Offer, statement: Rollout, right: Allowed | Denied) -> Wait:
    """Let what is waited for be downloaded ahead, where the rollout says so and this device may have it."""
    may = statement.prefetch and bool(offer.caches) and not isinstance(right, Denied)
    return msgspec.structs.replace(wait, ahead=offer) if may else wait


def _without_offer(state: State, lines: Lines, choice: Follow) -> NeedLine | Wait:
    """Ask for the line of a rollout that only the journal says is for this device, unless it is over here."""
    one, last = choice.rollout, state.update
    if last is not None and last.offer.rollout == one.digest and last.outcome is Outcome.CONFIRMED:
        return Wait()
    release = one.statement.release
    if release is not None and release not in lines:
        return NeedLine(rollout=one.digest, release=release)
    return Wait(reason="the rollout has nothing for this device")


def _opened(gates: Sequence[Gate], me: Me, choice: Follow, now: int, wave: int) -> int | Wait:
    """Say which try may begin. Root at the device stands for the coordinator's pacing, and for no signature."""
    if me.by_hand:
        signed = choice.rollout.wave_open(wave)
        return choice.run if signed else Wait(reason=f"wave {wave} waits for a signature")
    gate = _gate(gates, choice.rollout, choice.run, now, wave)
    return gate if isinstance(gate, Wait) else gate.run


def _gate(gates: Sequence[Gate], one: RolloutState, run: int, now: int, wave: int) -> Gate | Wait:
    """Find an open gate: by the log key, at most 10 minutes old, for a signed run, its wave opened by signatures.

    `wave` is the first that this device can be in: the one that the gate names may ask for more, never for less.
    """
    newest = max((gate for gate in gates if gate.rollout == one.digest), key=lambda gate: gate.time, default=None)
    if newest is None:
        return Wait(reason="its wave is not open yet")
    if not fresh(newest, now, gates):
        return Wait(reason="the word that its wave is open is older than 10 minutes")
    if newest.log_size <= one.index:
        return Wait(reason="the word that its wave is open is older than the rollout")
    if newest.run > run:
        return Wait(reason=f"nobody signed try {newest.run} on this device")
    wave = max(wave, newest.wave)
    if not one.wave_open(wave):
        return Wait(reason=f"wave {wave} waits for a signature")
    return newest


def _window(statement: Rollout, me: Me, log: logs.State) -> Wait | None:
    """Say when the window opens next, if it is closed now."""
    if statement.window is None:
        return None
    name = zone_name(statement.window, me.timezone)
    zone, now = zone_of(name), max(me.wall_s, log.last_time)
    if zone is None:
        return Wait(reason=f"the time zone {name} of its window is not known here")
    opens_s = opens_at(statement.window, zone, now)
    if opens_s is not None and opens_s <= now:
        return None
    return Wait(
        reason=f"outside its window ({statement.window.from_} to {statement.window.to} {name})", until_s=opens_s
    )


def _offer(log: logs.State, me: Me, state: State, lines: Lines, choice: Follow) -> Offer | None:
    one = choice.rollout
    closure = choice.closure or lines.get(one.statement.release or "")
    base = _limits(one.statement, me, epoch_at(log, one.index), one, choice.run)
    if choice.release is not None and closure is not None:
        return _bringing(base, closure, logs.caches_for(log, choice.release.statement))
    kept = _kept(state, one)
    return msgspec.structs.replace(base, path=kept) if kept else None


def _limits(statement: Rollout, me: Me, epoch: int, one: RolloutState, run: int) -> Offer:
    activation = statement.activation
    return Offer(
        rollout=one.digest,
        epoch=epoch,
        index=one.index,
        run=run,
        path="",
        verb="switch" if statement.mode == "auto" else statement.mode,
        for_s=activation.for_s if statement.mode == "test" else 0,
        reboot=statement.reboot,
        accept_no_fallback=activation.no_fallback,
        confirm_s=activation.confirm_s,
        contact="none" if me.by_hand else activation.contact,
        by_hand=me.by_hand,
        leave=activation.leave,
        rename=activation.rename,
        timeout_s=statement.device_timeout_s,
        orphan_s=me.orphan_s,
    )


def _bringing(base: Offer, closure: Closure | TargetLine, caches: tuple[CacheRef, ...]) -> Offer:
    return msgspec.structs.replace(
        base,
        path=closure.path,
        system=closure.system,
        digest=closure.digest,
        nar_bytes=closure.nar_size,
        caches=caches,
    )


def _journalled(state: State, one: RolloutState, epoch: int) -> bool:
    """Tell whether this device began or confirmed a rollout: then it covers it, whatever anybody says now."""
    begun = state.attempted == (epoch, one.index)
    return begun or any(entry.rollout == one.digest for entry in state.confirmed)


def _kept(state: State, one: RolloutState) -> str | None:
    """Name the system that this device journalled when it confirmed the rollout that is taken back."""
    found = [entry.previous for entry in state.confirmed if entry.rollout == Digest(one.statement.of or "")]
    return found[-1] if found else None


def _confirmed(state: State) -> tuple[str, ...]:
    """List what this device confirmed as `is_left` wants it: what it left, then what it confirmed last."""
    return (*state.left, state.confirmed[-1].path) if state.confirmed else state.left


def _skipped(choice: Idle) -> str:
    """Say why the newest rollout that selects this device does not count; nothing when it was cancelled."""
    found = next(iter(choice.skipped), None)
    return "" if found is None or found.kind == "cancelled" else found.text
