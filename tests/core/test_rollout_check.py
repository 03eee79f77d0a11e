"""`check` finds what a wrong planner would do; so that silence in the other tests means something."""

from typing import Any

import msgspec
import pytest
from tests.core.rollout_factories import NOON_S, at, member, members, rollout

from nixfleet.model.device import Outcome
from nixfleet.model.statements import StopAt, Wave, Window
from nixfleet.rollout import (
    Course,
    Decision,
    Done,
    Finish,
    Member,
    Open,
    Overdue,
    Parked,
    Passed,
    Resumed,
    Start,
    Wait,
    WaveState,
    check,
    plan,
    waves,
)
from nixfleet.rollout.reasons import Paused

_ALL = Wait(subject=None, why=Paused())
_TWO = (Wave(members=1), Wave(members="100%"))
_OPEN = (WaveState(opened_s=0),)
_DONE = (WaveState(opened_s=0, done_s=0), WaveState())


def _start(number: int, run: int = 1, wave: int = 1) -> Start:
    return Start(device=member(number).device, run=run, wave=wave)


def _confirmed(number: int, **changes: Any) -> Member:
    return member(number, offered_s=0, outcome=Outcome.CONFIRMED, **changes)


_NIGHT = Window(days=("mon",), from_="01:00", to="02:00", tz="UTC")
_ONE = members(1)
_CASES: list[tuple[str, Course, tuple[Member, ...], list[Decision]]] = [
    ("started 2 times", rollout(clocks=_OPEN), _ONE, [_start(0), _start(0)]),
    ("does not belong", rollout(clocks=_OPEN), _ONE, [_start(7), _ALL]),
    ("does not belong", rollout(clocks=_OPEN), members(1, active=False), [_start(0)]),
    ("started again", rollout(clocks=_OPEN), members(1, offered_s=0), [_start(0)]),
    ("started again", rollout(clocks=_OPEN), _ONE, [_start(0, run=2), _ALL]),
    ("past the gate", rollout(), _ONE, [_start(0)]),
    ("past the gate", rollout(clocks=_OPEN), _ONE, [_start(0, wave=2)]),
    ("while offline", rollout(clocks=_OPEN), members(1, online=False), [_start(0)]),
    (
        "while it is paused on the device",
        rollout(clocks=_OPEN),
        members(1, paused_until_wall_s=NOON_S + 5_000),
        [_start(0)],
    ),
    ("while held", rollout(clocks=_OPEN), members(1, held_until_wall_s=NOON_S + 5_000), [_start(0)]),
    ("outside its window", rollout(clocks=_OPEN, window=_NIGHT), _ONE, [_start(0)]),
    ("2 in flight, 1 allowed", rollout(clocks=_OPEN, max_in_flight=1), members(2), [_start(0), _start(1)]),
    ("is paused but Start", rollout(clocks=_OPEN, paused=True), _ONE, [_start(0)]),
    ("is cancelled but Open", rollout(cancelled=True), _ONE, [Open(wave=1), _ALL]),
    ("is superseded but Start", rollout(clocks=_OPEN, superseded=True), _ONE, [_start(0)]),
    ("is halted but Start", rollout(clocks=_OPEN, halted="x"), _ONE, [_start(0)]),
    ("is not ready but Start", rollout(clocks=_OPEN, unready="more approvals"), _ONE, [_start(0)]),
    ("is not due but Start", rollout(clocks=_OPEN, not_before=NOON_S + 9_000), _ONE, [_start(0)]),
    ("is expired but Start", rollout(clocks=_OPEN, not_after=NOON_S), _ONE, [_start(0)]),
    ("without a signed resume", rollout(clocks=_OPEN, halted="x"), _ONE, [Resumed(excused=()), _ALL]),
    (
        "nothing halts",
        rollout(clocks=_OPEN, stop_at=StopAt(percent=50)),
        (member(0), member(1, offered_s=0, outcome=Outcome.FAILED)),
        [_start(0)],
    ),
    ("opens before", rollout(_TWO), members(2), [Open(wave=2), _ALL]),
    ("signed advance", rollout([Wave(members=1, gate="signed")]), _ONE, [Open(wave=1), _ALL]),
    ("is done without", rollout(clocks=_OPEN), _ONE, [Done(wave=1), _ALL]),
    ("before it is done", rollout(_TWO), members(2), [Passed(wave=1), _ALL]),
    ("finishes before", rollout(_TWO, clocks=_DONE), members(2), [Finish(), _ALL]),
    ("before its time", rollout(clocks=_OPEN), members(1, offered_s=0), [Overdue(device=member(0).device, run=1)]),
    ("before its time", rollout(clocks=_OPEN), members(1, offered_s=0), [Parked(device=member(0).device, run=1)]),
    (
        "while the fleet reconnects",
        rollout(clocks=_OPEN, reconnect_s=9_000, device_timeout_s=10),
        members(1, offered_s=0),
        [Overdue(device=member(0).device, run=1)],
    ),
    ("waits without a reason", rollout(clocks=_OPEN), _ONE, []),
]


@pytest.mark.parametrize(("fault", "state", "fleet", "decisions"), _CASES)
def test_each_fault_is_found(fault: str, state: Course, fleet: tuple[Member, ...], decisions: list[Decision]) -> None:
    """A plan with one fault gets exactly that fault as a sentence."""
    faults = check(state, fleet, decisions, at(1_000))
    assert 1 == len([each for each in faults if fault in each]), faults


@pytest.mark.parametrize(
    ("now_s", "canary", "fault"),
    [
        (299, {"healthy_s": 299}, "before it has soaked"),
        (300, {"healthy_s": 224}, "without a healthy report"),
        (300, {}, "without a healthy report"),
        (300, {"outcome": Outcome.FAILED, "excused": False}, "on failures alone"),
    ],
)
def test_a_wave_that_passes_too_early_is_found(now_s: int, canary: dict[str, Any], fault: str) -> None:
    """Too short a soak, stale or missing health, and failures alone open no gate."""
    state = rollout(_TWO, clocks=_DONE, stop_at=StopAt(count=9))
    first = waves(state, members(2))[0][0]
    fleet = tuple(
        msgspec.structs.replace(_confirmed(number), **canary) if each == first else member(number)
        for number, each in enumerate(one.device for one in members(2))
    )
    assert [fault] == [fault for each in check(state, fleet, [Passed(wave=1), _ALL], at(now_s)) if fault in each]


def test_a_sound_plan_has_no_fault() -> None:
    """The planner's own plan passes."""
    assert [] == check(rollout(_TWO), members(5), plan(rollout(_TWO), members(5), at(0)), at(0))
