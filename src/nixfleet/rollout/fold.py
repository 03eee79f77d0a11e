"""Decisions folded into stored state, the same way for the server and the property tests; it decides nothing."""

from collections.abc import Iterable, Sequence
from typing import assert_never

import msgspec

from nixfleet.rollout.decisions import (
    Ask,
    Await,
    Decision,
    Done,
    Finish,
    Halt,
    Open,
    Overdue,
    Parked,
    Passed,
    Resumed,
    Start,
    StopKind,
    Wait,
)
from nixfleet.rollout.reasons import Reason, Subject, clause
from nixfleet.rollout.types import Clock, Course, Member, WaveState


def apply(  # noqa: C901 -- one case for each decision
    rollout: Course, members: Sequence[Member], decisions: Iterable[Decision], now: Clock
) -> tuple[Course, tuple[Member, ...]]:
    """Carry decisions into the rollout's row and its members' tries; a repeat changes nothing.

    Clocks that are set stay as they are, and a decision about another run of a device is passed over.
    """
    changed = list(members)
    places: dict[str, int] = {}
    for decision in decisions:
        match decision:
            case Open() | Done() | Passed():
                rollout = _wave(rollout, decision, now.run_s)
            case Start() | Await() | Overdue() | Parked():
                if not places:
                    places = {member.device: place for place, member in enumerate(changed)}
                place = places.get(decision.device)
                if place is not None and changed[place].run == decision.run:
                    changed[place] = _member(changed[place], decision, now.run_s)
            case Halt():
                why = rollout.halted or clause(decision.why)
                rollout = msgspec.structs.replace(rollout, halted=why, halted_resumed=rollout.resumed)
            case StopKind():
                rollout = _stop(rollout, decision)
            case Resumed():
                rollout = msgspec.structs.replace(
                    rollout, halted="", halted_resumed=rollout.resumed, stops=(), stops_resumed=rollout.resumed
                )
                excused = frozenset(decision.excused)
                changed = [_excuse(member, excused) for member in changed]
            case Finish():
                rollout = msgspec.structs.replace(rollout, finished=True)
            case Ask() | Wait():
                pass
            case _:
                assert_never(decision)
    return rollout, tuple(changed)


def _stop(rollout: Course, decision: StopKind) -> Course:
    """Keep what failed on a kind, once."""
    new = decision.stop
    if any((new.path, new.kind) == (held.path, held.kind) for held in rollout.stops):
        return rollout
    return msgspec.structs.replace(rollout, stops=(*rollout.stops, new), stops_resumed=rollout.resumed)


def _wave(rollout: Course, decision: Open | Done | Passed, run_s: int) -> Course:
    """Set one clock of a wave, once."""
    clocks = list(wave_states(rollout))
    clock = clocks[decision.wave - 1]
    match decision:
        case Open():
            field, held = "opened_s", clock.opened_s
        case Done():
            field, held = "done_s", clock.done_s
        case Passed():
            field, held = "passed_s", clock.passed_s
        case _:
            assert_never(decision)
    if held is not None:
        return rollout
    clocks[decision.wave - 1] = msgspec.structs.replace(clock, **{field: run_s})
    return msgspec.structs.replace(rollout, waves=tuple(clocks))


def _member(member: Member, decision: Start | Await | Overdue | Parked, run_s: int) -> Member:
    """Set one clock of a device's try, once."""
    match decision:
        case Start():
            field, held = "offered_s", member.offered_s
        case Await():
            field, held = "waiting_s", member.waiting_s
        case Overdue():
            field, held = "overdue_s", member.overdue_s
        case Parked():
            field, held = "parked_s", member.parked_s
        case _:
            assert_never(decision)
    return member if held is not None else msgspec.structs.replace(member, **{field: run_s})


def _excuse(member: Member, excused: frozenset[str]) -> Member:
    """Mark a failure as accepted."""
    return msgspec.structs.replace(member, excused=True) if member.device in excused else member


def wave_states(rollout: Course) -> tuple[WaveState, ...]:
    """Give the stored clocks of every wave; before the first plan there are none, and all are empty."""
    return rollout.waves or tuple(WaveState() for _ in rollout.body.waves)


def waiting(decisions: Iterable[Decision]) -> dict[Subject, Reason]:
    """Index the reasons of a plan: look for a device's own first, then its wave's number, then None (the rollout's)."""
    return {decision.subject: decision.why for decision in decisions if isinstance(decision, Wait)}
