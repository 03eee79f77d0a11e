"""A system that fails on one kind of device: the rollout stops there first, and says so, while others go on."""

import msgspec
import pytest
from tests.core.rollout_factories import Fleet, member, rollout

from nixfleet.model.device import Cause, Outcome, Phase
from nixfleet.model.statements import StopAt, Wave
from nixfleet.rollout import (
    Decision,
    Finish,
    Halt,
    Kind,
    Member,
    Start,
    Stop,
    StopKind,
    Wait,
    apply,
    check,
    clause,
    plan,
    status,
)
from nixfleet.rollout.kinds import failing

PI, NUC = Kind(model="Raspberry Pi 4", kernel="6.6"), Kind(model="NUC", kernel="6.6")
SYSTEM, OTHER = "/nix/store/a-nixos-system", "/nix/store/b-nixos-system"


def _fleet(*kinds: Kind | None, path: str = SYSTEM, stop_at: StopAt | None = None, at_once: int = 2) -> Fleet:
    """Make a fleet of devices of these kinds, all to get one system, two at a time."""
    made = [member(number, kind=kind, path=path) for number, kind in enumerate(kinds)]
    return Fleet(rollout(soak_s=0, max_in_flight=at_once, stop_at=stop_at or StopAt(count=9)), made)


def _kind_of(fleet: Fleet, device: str) -> Kind | None:
    return next(each.kind for each in fleet.members if each.device == device)


def _fail_kind(fleet: Fleet, kind: Kind, *, times: int) -> list[Decision]:
    """Let devices of a kind fail and all others confirm, as they are started, until so many failed; give the plan."""
    failed = 0
    decisions = fleet.tick()
    while failed < times:
        for device in fleet.under_way():
            if _kind_of(fleet, device) == kind and failed < times:
                fleet.fail(device)
                failed += 1
            elif _kind_of(fleet, device) != kind:
                fleet.confirm(device)
        decisions = fleet.tick()
    return decisions


def _unstarted(fleet: Fleet) -> list[Member]:
    return [each for each in fleet.members if each.offered_s is None]


def test_the_second_failure_of_a_system_on_a_kind_stops_it_there() -> None:
    """No further device of the kind starts with it, each says why, and the others go on to their end."""
    fleet = _fleet(*[PI] * 5, *[NUC] * 5)
    _fail_kind(fleet, PI, times=2)
    assert [Stop(path=SYSTEM, kind=PI, failed=2, tried=2)] == list(fleet.state.stops)
    for _ in range(9):
        fleet.confirm(*fleet.under_way())
        fleet.tick()
    assert {PI} == {each.kind for each in _unstarted(fleet)}
    assert 5 == sum(each.outcome is Outcome.CONFIRMED for each in fleet.members if each.kind == NUC)


def test_each_of_the_kind_says_why_it_waits() -> None:
    """The reason is the device's own, for the rollout goes on."""
    fleet = _fleet(*[PI] * 3, *[NUC] * 9)
    decisions = _fail_kind(fleet, PI, times=2)
    left = [each.device for each in _unstarted(fleet) if each.kind == PI]
    said = {each.subject: clause(each.why) for each in decisions if isinstance(each, Wait)}
    assert left
    assert "stopped for Raspberry Pi 4 (kernel 6.6): 2 of 2 failed with the same system" == said[left[0]]
    assert None not in said


def test_what_is_left_of_a_stopped_kind_halts_the_rollout() -> None:
    """It is not finished: devices are without the release, and a person has to say what becomes of them."""
    fleet = _fleet(*[PI] * 3)
    decisions = _fail_kind(fleet, PI, times=2)
    assert ["1 device left, and it stopped for Raspberry Pi 4 (kernel 6.6): 2 of 2 failed with the same system"] == [
        clause(each.why) for each in decisions if isinstance(each, Halt)
    ]
    assert "halted" == status(fleet.state, fleet.now)
    assert not fleet.state.finished


def test_a_stop_for_a_kind_of_which_none_is_left_lets_the_rollout_finish() -> None:
    """Nobody is left out, so nothing waits for a person."""
    fleet = _fleet(PI, PI, NUC)
    _fail_kind(fleet, PI, times=2)
    fleet.confirm(*fleet.under_way())
    fleet.tick()
    assert fleet.state.finished


def test_a_resume_lifts_the_stop_and_two_more_failures_bring_it_back() -> None:
    """What failed by then is excused, as with a halt; what fails afterwards counts anew."""
    fleet = _fleet(*[PI] * 6)
    _fail_kind(fleet, PI, times=2)
    fleet.row(resumed=1)
    fleet.tick()
    assert not fleet.state.stops
    assert 2 == len(fleet.under_way())
    for device in fleet.under_way():
        fleet.fail(device)
    fleet.tick()
    assert [2] == [stop.failed for stop in fleet.state.stops]
    assert 2 == len(_unstarted(fleet))


def test_a_retry_alone_starts_nothing_of_a_stopped_kind() -> None:
    """As with a halt: retry says that it may be tried again, resume that the rollout may go on."""
    fleet = _fleet(*[PI] * 3, *[NUC] * 6)
    _fail_kind(fleet, PI, times=2)
    for each in fleet.members:
        if each.outcome is Outcome.REVERTED:
            fleet.change(each.device, run=2, offered_s=None, outcome=None, cause=Cause.NONE)
    starts = [each.device for each in fleet.tick() if isinstance(each, Start)]
    assert PI not in {_kind_of(fleet, device) for device in starts}
    fleet.row(resumed=1)
    fleet.confirm(*fleet.under_way())
    assert PI in {_kind_of(fleet, each.device) for each in fleet.tick() if isinstance(each, Start)}


def test_another_system_on_the_same_kind_goes_on() -> None:
    """Two systems that fail once each say nothing of each other."""
    fleet = _fleet(PI, PI, at_once=9)
    fleet.change(f"{1:032x}", path=OTHER)
    fleet.tick()
    for device in fleet.under_way():
        fleet.fail(device)
    assert [] == [each for each in fleet.tick() if isinstance(each, StopKind)]


def test_failures_that_are_few_of_those_that_confirmed_stop_no_kind() -> None:
    """Two bad machines among many good ones are their own fault, and for `stop_at` to judge."""
    fleet = _fleet(*[PI] * 6, at_once=9)
    fleet.tick()
    first, second, *others = fleet.under_way()
    fleet.confirm(*others)
    fleet.tick()
    fleet.fail(first)
    fleet.fail(second)
    assert [] == [each for each in fleet.tick() if isinstance(each, StopKind)]


def test_failures_that_mend_themselves_stop_no_kind() -> None:
    """A network that fails says nothing of a system."""
    fleet = _fleet(*[PI] * 4)
    fleet.tick()
    for device in fleet.under_way():
        fleet.fail(device, Cause.NETWORK, Outcome.FAILED)
    assert [] == [each for each in fleet.tick() if isinstance(each, StopKind)]


def test_devices_of_no_known_kind_have_nothing_in_common() -> None:
    """Without facts, or without knowing the system, only `stop_at` counts."""
    fleet = _fleet(None, None, None)
    for device in [device for _ in range(2) for device in (fleet.tick(), fleet.under_way())[1]]:
        fleet.fail(device)
    assert [] == [each for each in fleet.tick() if isinstance(each, StopKind)]


def test_the_limit_of_failures_still_halts_everybody() -> None:
    """A stop for a kind never lets a rollout past `stop_at`."""
    fleet = _fleet(*[PI] * 3, *[NUC] * 3, stop_at=StopAt(count=2))
    decisions = _fail_kind(fleet, PI, times=2)
    assert [] == [each for each in decisions if isinstance(each, Start)]
    assert fleet.state.halted.startswith("2 of 6 failed")


def test_a_finished_rollout_stands_for_other_kinds_alone() -> None:
    """A joiner of a kind that the system fails on is kept from it, one of another kind gets it."""
    fleet = _fleet(PI, PI, NUC, at_once=9)
    _fail_kind(fleet, PI, times=2)
    fleet.confirm(*fleet.under_way())
    fleet.tick()
    assert fleet.state.finished
    fleet.members += (member(7, late=True, kind=PI, path=SYSTEM), member(8, late=True, kind=NUC, path=SYSTEM))
    assert [f"{8:032x}"] == [each.device for each in fleet.tick() if isinstance(each, Start)]
    assert "finished" == status(fleet.state, fleet.now)


def test_a_wave_waits_for_nobody_of_a_stopped_kind() -> None:
    """What comes after it opens for the others."""
    made = [member(number, kind=PI if number % 3 else NUC, path=SYSTEM) for number in range(12)]
    fleet = Fleet(rollout([Wave(members=6), Wave(members="100%")], soak_s=0, stop_at=StopAt(count=9)), made)
    fleet.tick()
    for device in fleet.under_way():
        if _kind_of(fleet, device) == PI:
            fleet.fail(device)
        else:
            fleet.confirm(device)
    fleet.tick()
    fleet.confirm(*fleet.under_way())
    fleet.tick()
    assert {PI} == {each.kind for each in _unstarted(fleet)}
    assert all(each.outcome is Outcome.CONFIRMED for each in fleet.members if each.kind == NUC)


def test_check_finds_what_a_stop_forbids() -> None:
    """A start on a stopped kind, an end that leaves it out, and a stop for nothing are each a fault."""
    fleet = _fleet(*[PI] * 3, NUC, at_once=1)
    stop = Stop(path=SYSTEM, kind=PI, failed=2, tried=2)
    fleet.tick()
    (device,) = fleet.under_way()
    left = next(each.device for each in fleet.members if each.offered_s is None and each.kind == PI)
    stopped = msgspec.structs.replace(fleet.state, stops=(stop,))
    start = Start(device=left, run=1, wave=1)
    assert any("failed on others" in fault for fault in check(stopped, fleet.members, [start], fleet.now))
    assert any("without those" in fault for fault in check(stopped, fleet.members, [Finish()], fleet.now))
    noticed = check(fleet.state, fleet.members, [StopKind(stop=stop)], fleet.now)
    assert any("does not fail" in fault for fault in noticed)
    assert device != left


def test_a_stop_is_kept_once_and_decided_once() -> None:
    """Planning again on what is stored says nothing new, and a repeated decision changes nothing."""
    fleet = _fleet(*[PI] * 3, *[NUC] * 6)
    _fail_kind(fleet, PI, times=2)
    stop = fleet.state.stops[0]
    again = plan(fleet.state, fleet.members, fleet.now)
    assert [] == [each for each in again if isinstance(each, StopKind)]
    repeated = apply(fleet.state, fleet.members, [StopKind(stop=stop)], fleet.now)
    assert (fleet.state, fleet.members) == repeated


@pytest.mark.parametrize(
    ("phase", "stops"),
    [
        (Phase.IDLE, []),
        (Phase.OFFERED, []),
        (Phase.ACTIVATING, [Stop(path=SYSTEM, kind=PI, failed=2, tried=2)]),
    ],
)
def test_who_ran_out_of_time_before_it_began_says_nothing_of_the_system(phase: Phase, stops: list[Stop]) -> None:
    """A gate that looked too old, a damaged log, a silent agent: the system was not tried; amid its switch it was."""
    late = [
        msgspec.structs.replace(member(number, kind=PI, path=SYSTEM), offered_s=0, overdue_s=9, phase=phase)
        for number in range(2)
    ]
    assert stops == failing(late, [])


def test_another_of_a_kind_is_started_where_two_never_began() -> None:
    """The plan goes on, and its check finds no fault in it."""
    late = [member(number, kind=PI, path=SYSTEM, offered_s=0, overdue_s=9) for number in range(2)]
    fleet = Fleet(rollout(stop_at=StopAt(count=5)), [*late, member(2, kind=PI, path=SYSTEM)])
    assert [member(2).device] == [each.device for each in fleet.tick(20) if isinstance(each, Start)]
