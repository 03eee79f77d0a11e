"""What a rollout, its waves and its devices wait for, a sentence each; the coordinator's where it has one. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from nixfleet.model.device import Outcome, Phase
from nixfleet.model.text import clean
from nixfleet.model.views import MemberView, RolloutDetail, RolloutView, Transfer, WaveView, Why

NAMES_MAX: Final = 3
"""So many devices are named before a sentence that they share."""


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence: `subject` is ``rollout``, ``wave 2``, ``kind …`` or a device's name; `why` the typed reason."""

    subject: str
    said: str
    why: Why | None = None


def rollout_said(view: RolloutView) -> Said:
    """Say where a rollout stands, and why."""
    if view.state == "halted":
        text = f"the rollout halted: {view.halted}"
    elif view.waits:
        text = view.waits
    elif view.state == "running":
        text = f"the rollout goes on: {view.confirmed} of {view.total} confirmed, {view.in_flight} in flight"
    elif view.state == "finished":
        stands = "; devices that join get it" if view.standing and view.joiners else ""
        text = f"the rollout is finished: {view.confirmed} of {view.total} confirmed{stands}"
    else:
        text = f"the rollout is {view.state}"
    return Said(subject="rollout", said=clean(text), why=view.why)


def wave_said(wave: WaveView) -> Said | None:
    """Say what a wave waits for, if it does."""
    return Said(subject=f"wave {wave.number}", said=clean(wave.waits), why=wave.why) if wave.waits else None


def member_said(member: MemberView) -> Said:
    """Say what a device in a rollout waits for, does, or came to."""
    return Said(subject=member.name, said=clean(_member(member)), why=member.why)


def _member(member: MemberView) -> str:
    name = member.name
    match member.outcome:
        case Outcome.CONFIRMED:
            return f"{name} has it: confirmed"
        case Outcome.FAILED | Outcome.REFUSED:
            return _ended(name, member.outcome.value, member.reason)
        case Outcome.REVERTED:
            return _ended(name, "went back", member.reason)
        case None:
            pass
    if member.waits:
        return f"{member.waits}{ahead_words(member.transfer)}"
    if member.overdue:
        return f"{name} is overdue: nothing came of it in time, it may still confirm"
    away = "" if member.online else ", and is offline"
    if member.phase is Phase.REBOOT_PENDING:
        why = f": {member.reason}" if member.reason else ""
        return f"{name} has it set for its next boot, and waits for a reboot{away}{why}"
    if member.phase is Phase.IDLE:
        return f"{name} waits: the coordinator is about to plan it"
    doing = f"{name} is {member.phase.value}"
    if member.transfer is not None and member.transfer.total_bytes:
        doing += f", {min(100, 100 * member.transfer.done_bytes // member.transfer.total_bytes)} % fetched"
    return f"{doing}{away}{f': {member.reason}' if member.reason else ''}"


def _ended(name: str, how: str, reason: str) -> str:
    """Say how it ended and why, once: a device's own reason may begin with the same words."""
    return f"{name} {how}: {reason.removeprefix(f'{how}:').strip() or 'it gave no reason'}"


def ahead_words(transfer: Transfer | None) -> str:
    """Say how much of an update is there before its time, or nothing."""
    if transfer is None or not transfer.ahead or not transfer.total_bytes:
        return ""
    share = min(100, 100 * transfer.done_bytes // transfer.total_bytes)
    return "; it is downloaded already" if share == 100 else f"; {share} % downloaded ahead"


def explain(detail: RolloutDetail, members: Sequence[MemberView]) -> Iterator[Said]:
    """Say what a rollout, what it stopped for, each waiting wave and each of these members wait for, in that order."""
    yield rollout_said(detail.rollout)
    for stop in detail.rollout.stops:
        yield Said(subject=f"kind {stop.kind}", said=clean(f"the rollout {stop.said}"))
    yield from (said for wave in detail.rollout.waves if (said := wave_said(wave)) is not None)
    yield from map(member_said, members)


def lines(said: Iterable[Said]) -> list[str]:
    """Give sentences as lines: what devices wait for together is said once, with their names before it."""
    shared: dict[tuple[str, bool], list[str]] = {}
    for one in said:
        own = one.subject.startswith(("rollout", "wave ", "kind ")) or one.said.startswith(one.subject)
        shared.setdefault((one.said, own), []).append(one.subject)
    return [sentence if own else f"{_named(names)}: {sentence}" for (sentence, own), names in shared.items()]


def _named(names: Sequence[str]) -> str:
    """Name some devices, and count the others."""
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    return clean(", ".join(names[:NAMES_MAX]) + more)
