"""Gates, soaks, halts, places and timeouts, one behaviour at a time; every plan is also checked for soundness."""

from typing import Any

import msgspec
import pytest
from tests.core.rollout_factories import NOON_S, Fleet, at, member, members, rollout

from nixfleet.model.device import Cause, Outcome, Phase
from nixfleet.model.statements import StopAt, Wave
from nixfleet.rollout import (
    Ask,
    Await,
    Counts,
    Decision,
    Done,
    Finish,
    Halt,
    Open,
    Overdue,
    Parked,
    Passed,
    Resumed,
    Standing,
    Start,
    Wait,
    apply,
    next_wake,
    plan,
    standing,
    status,
    summary,
    waiting,
    waves,
)
from nixfleet.rollout import reasons as r

_TWO = (Wave(members=1), Wave(members="100%"))


def _started(decisions: list[Decision]) -> list[str]:
    return [each.device for each in decisions if isinstance(each, Start)]


def _moves(decisions: list[Decision]) -> list[str]:
    return [type(each).__name__ for each in decisions if not isinstance(each, Wait | Ask)]


def test_one_device_starts_at_once_and_its_confirmation_finishes() -> None:
    """A single device needs no soak: there is nobody to protect by it."""
    fleet = Fleet(rollout(), members(1))
    assert ["Open", "Start"] == _moves(fleet.tick())
    assert [] == _moves(fleet.tick(5))
    fleet.confirm(member(0).device)
    assert [Done(wave=1), Passed(wave=1), Finish()] == fleet.tick(5)
    assert [] == fleet.tick(5)
    assert "finished" == status(fleet.state, fleet.now)


def test_an_empty_set_finishes() -> None:
    """No device, nothing to wait for."""
    fleet = Fleet(rollout(_TWO), ())
    assert ["Open", "Done", "Passed", "Open", "Done", "Passed", "Finish"] == _moves(fleet.tick())


def test_the_second_wave_waits_for_the_soak_and_for_fresh_health() -> None:
    """Health from before the last quarter opens nothing; the device is asked, and its answer opens the gate."""
    fleet = Fleet(rollout(_TWO), members(3))
    canary = _started(fleet.tick())[0]
    fleet.confirm(canary)
    assert [Done(wave=1), Wait(subject=2, why=r.Soaking(wave=1, left_s=300, healthy=0, confirmed=1))] == fleet.tick(10)
    assert [] == [each for each in fleet.tick(224) if isinstance(each, Ask)]
    assert Ask(device=canary) in fleet.tick(1)
    assert [] == _moves(fleet.tick(75))
    assert r.Soaking(wave=1, left_s=0, healthy=0, confirmed=1) == waiting(fleet.tick())[2]
    fleet.confirm(canary)
    assert ["Passed", "Open", "Start", "Start"] == _moves(fleet.tick(1))


def test_a_report_within_the_last_quarter_opens_the_gate_when_the_soak_ends() -> None:
    """The healthy report may come before the soak is over."""
    fleet = Fleet(rollout(_TWO), members(2))
    canary = _started(fleet.tick())[0]
    fleet.confirm(canary)
    fleet.tick()
    fleet.tick(225)
    fleet.confirm(canary)
    assert [] == _moves(fleet.tick(74))
    assert ["Passed", "Open", "Start"] == _moves(fleet.tick(1))


def test_silence_of_an_offline_canary_opens_the_gate_only_after_the_timeout() -> None:
    """A confirmed device that went offline holds the gate for `device_timeout_s` from when its report was due."""
    fleet = Fleet(rollout(_TWO, device_timeout_s=1_000), members(2))
    canary = _started(fleet.tick())[0]
    fleet.confirm(canary)
    fleet.tick()
    fleet.change(canary, online=False)
    assert [] == _moves(fleet.tick(1_224))
    assert ["Passed", "Open", "Start"] == _moves(fleet.tick(1))


def test_a_canary_that_stays_online_and_unhealthy_never_opens_the_gate() -> None:
    """Time alone passes nothing."""
    fleet = Fleet(rollout(_TWO), members(2))
    fleet.confirm(*_started(fleet.tick()))
    fleet.tick()
    assert [] == _moves(fleet.tick(20 * 86_400))


def test_no_soak_asks_for_no_health() -> None:
    """With a soak of 0 s the confirmation itself opens the gate."""
    fleet = Fleet(rollout(_TWO, soak_s=0), members(2))
    fleet.confirm(*_started(fleet.tick()))
    assert ["Done", "Passed", "Open", "Start"] == _moves(fleet.tick(1))


def test_places_are_never_exceeded_and_refilled_in_rank_order() -> None:
    """Two places: two start, the rest wait for one, and each outcome frees one."""
    fleet = Fleet(rollout(max_in_flight=2), members(5))
    order = waves(fleet.state, fleet.members)[0]
    decisions = fleet.tick()
    assert list(order[:2]) == _started(decisions)
    assert r.NoPlace(used=2, allowed=2) == waiting(decisions)[1]
    fleet.confirm(order[1])
    assert [order[2]] == _started(fleet.tick(1))


def test_stop_at_halts_and_resume_goes_on_without_a_retry() -> None:
    """The first failure halts; a resume excuses it, starts the others, and does not try it again."""
    fleet = Fleet(rollout(max_in_flight=1), members(3))
    first = _started(fleet.tick())[0]
    fleet.fail(first)
    why = r.TooManyFailed(failed=1, allowed=1, total=3)
    assert [Halt(why=why), Wait(subject=None, why=r.Halted(why="1 of 3 failed, it stops at 1"))] == fleet.tick(1)
    assert [Wait(subject=None, why=r.Halted(why="1 of 3 failed, it stops at 1"))] == fleet.tick(1)
    assert "halted" == status(fleet.state, fleet.now)
    fleet.row(resumed=1)
    decisions = fleet.tick(1)
    assert Resumed(excused=(first,)) == decisions[0]
    second = _started(decisions)
    assert 1 == len(second)
    assert first not in second
    fleet.fail(second[0])
    assert Halt(why=why) in fleet.tick(1)
    fleet.row(resumed=2)
    assert 1 == len(_started(fleet.tick(1)))


def test_a_retried_device_that_fails_again_counts_again() -> None:
    """A signed retry is a new try: its failure is not excused by the resume of the last one."""
    fleet = Fleet(rollout(), members(2))
    first, second = _started(fleet.tick())
    fleet.confirm(second)
    fleet.fail(first)
    assert "Halt" in _moves(fleet.tick(1))
    fleet.row(resumed=1)
    fleet.tick(1)
    fleet.change(first, run=2, offered_s=None, outcome=None, cause=Cause.NONE, excused=False, phase=Phase.IDLE)
    assert [Start(device=first, run=2, wave=1)] == [each for each in fleet.tick(1) if isinstance(each, Start)]
    fleet.fail(first)
    assert "Halt" in _moves(fleet.tick(1))


@pytest.mark.parametrize(
    ("stop_at", "total", "failures"),
    [
        (StopAt(percent=5), 100, 5),
        (StopAt(percent=5), 101, 6),
        (StopAt(percent=1, at_least=3), 10, 3),
        (StopAt(count=2), 10, 2),
        (StopAt(count=4, percent=10), 10, 1),
        (StopAt(), 10, 1),
    ],
)
def test_the_limit_halts_exactly_when_it_is_reached(stop_at: StopAt, total: int, failures: int) -> None:
    """Percentages are rounded up and never below `at_least`; of a count and a percentage the smaller holds."""
    fleet = Fleet(rollout(stop_at=stop_at), members(total))
    started = _started(fleet.tick())
    for device in started[: failures - 1]:
        fleet.fail(device)
    assert [] == _moves(fleet.tick(1))
    fleet.fail(started[failures - 1])
    assert ["Halt"] == _moves(fleet.tick(1))


def test_a_canary_that_only_failed_halts_even_within_stop_at() -> None:
    """Failures within the limit are no evidence for the next wave when nobody confirmed; a resume overrules it."""
    fleet = Fleet(rollout(_TWO, stop_at=StopAt(count=3)), members(5))
    fleet.fail(_started(fleet.tick())[0])
    decisions = fleet.tick(1)
    assert Halt(why=r.NobodyConfirmed(wave=1, failed=1)) in decisions
    fleet.row(resumed=1)
    assert ["Resumed"] == _moves(fleet.tick(1))
    assert ["Passed", "Open", "Start", "Start", "Start", "Start"] == _moves(fleet.tick(300))


@pytest.mark.parametrize("cause", [Cause.NETWORK, Cause.SPACE])
def test_a_failure_before_the_switch_mends_itself_in_its_place_until_the_timeout(cause: Cause) -> None:
    """It neither counts nor frees its place nor is started again; after `device_timeout_s` it is overdue and counts."""
    fleet = Fleet(rollout(max_in_flight=1), members(2))
    first = _started(fleet.tick())[0]
    fleet.fail(first, cause, Outcome.FAILED)
    assert [] == _moves(fleet.tick(3_599))
    assert [Overdue(device=first, run=1)] == fleet.tick(1)[:1]
    assert "halted" == status(fleet.state, fleet.now)


def test_a_coordinator_outage_condemns_nothing() -> None:
    """A device that went back because nobody answered on the old system either tries again by itself."""
    fleet = Fleet(rollout(), members(1))
    fleet.fail(_started(fleet.tick())[0], Cause.NETWORK, Outcome.REVERTED)
    assert [] == _moves(fleet.tick(60))


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.REVERTED, Outcome.REFUSED])
def test_every_other_failure_counts(outcome: Outcome) -> None:
    """A refusal or a revert halts at once."""
    fleet = Fleet(rollout(), members(1))
    fleet.fail(_started(fleet.tick())[0], Cause.PREFLIGHT, outcome)
    assert ["Halt"] == _moves(fleet.tick(60))


def test_an_overdue_device_counts_as_failed_and_may_still_confirm() -> None:
    """Silence after a start gives the place back and counts; a late confirmation is one."""
    fleet = Fleet(rollout(stop_at=StopAt(count=2), max_in_flight=1), members(2))
    order = waves(fleet.state, fleet.members)
    first = _started(fleet.tick())[0]
    decisions = fleet.tick(3_600)
    assert Overdue(device=first, run=1) == decisions[0]
    assert 1 == len(_started(decisions))
    counts = summary(fleet.state, fleet.members, fleet.now, order).total
    assert (1, 1) == (counts.overdue, counts.in_flight)
    fleet.confirm(first)
    fleet.tick(1)
    counts = summary(fleet.state, fleet.members, fleet.now, order).total
    assert (0, 1) == (counts.overdue, counts.confirmed)


def test_nobody_is_overdue_before_the_fleet_could_reconnect() -> None:
    """After a gap in the coordinator's life silence means nothing for a reconnect period."""
    fleet = Fleet(rollout(reconnect_s=4_000), members(1))
    fleet.tick()
    assert [] == _moves(fleet.tick(3_999))
    assert 1 == next_wake(fleet.state, fleet.members, fleet.now)
    assert "Overdue" in _moves(fleet.tick(1))


def test_a_gap_takes_no_place_twice() -> None:
    """Who was overdue before a gap stays so: its place was given to another, and cannot be claimed back."""
    fleet = Fleet(rollout(stop_at=StopAt(count=9), max_in_flight=1), members(3))
    fleet.tick()
    assert 1 == len(_started(fleet.tick(3_600)))
    fleet.row(reconnect_s=fleet.now.run_s + 600)
    assert [] == _moves(fleet.tick(1))


def test_a_pending_reboot_is_neither_failed_nor_done() -> None:
    """It gives its place back after `device_timeout_s`, does not count as failed, and keeps its wave from passing."""
    fleet = Fleet(rollout(_TWO), members(2))
    canary = _started(fleet.tick())[0]
    fleet.change(canary, phase=Phase.REBOOT_PENDING)
    decisions = fleet.tick(3_600)
    assert Parked(device=canary, run=1) == decisions[0]
    assert r.Unfinished(total=1, confirmed=0, rebooting=1) == waiting(decisions)[1]
    assert [] == _moves(fleet.tick(86_400))
    fleet.change(canary, phase=Phase.CHECKING)
    assert [] == _moves(fleet.tick(1))
    fleet.confirm(canary)
    assert ["Done"] == _moves(fleet.tick(1))


def test_offline_devices_hold_no_place() -> None:
    """With one place and two sleeping devices the one that is awake starts; who wakes takes its turn."""
    fleet = Fleet(rollout(max_in_flight=1), members(3, online=False))
    awake, sleeper, other = (each.device for each in fleet.members)
    fleet.change(awake, online=True)
    decisions = fleet.tick()
    assert [awake] == _started(decisions)
    assert {sleeper, other} == {each.device for each in decisions if isinstance(each, Await)}
    fleet.change(sleeper, online=True)
    fleet.change(other, online=True)
    assert [] == _started(fleet.tick(1))
    fleet.confirm(awake)
    assert 1 == len(_started(fleet.tick(1)))


def test_an_offline_device_blocks_the_next_wave_no_longer_than_its_timeout() -> None:
    """It counts from its turn, not from the start of the rollout; it is no failure, and starts when it comes back."""
    fleet = Fleet(rollout([Wave(members=2), Wave(members="100%")]), members(3))
    asleep = waves(fleet.state, fleet.members)[0][0]
    fleet.change(asleep, online=False, seen_s=0)
    (awake,) = _started(fleet.tick(100))
    fleet.confirm(awake)
    assert [] == _moves(fleet.tick(3_599))
    assert ["Done"] == _moves(fleet.tick(1))
    fleet.tick(300)
    fleet.confirm(awake)
    (last,) = _started(fleet.tick(1))
    fleet.confirm(last)
    assert "Finish" in _moves(fleet.tick(1))
    assert r.Offline(ago_s=fleet.now.run_s) == waiting(fleet.tick())[asleep]
    fleet.change(asleep, online=True)
    assert [asleep] == _started(fleet.tick(1))


def test_a_signed_gate_needs_its_advance() -> None:
    """A soaked wave is not enough where the gate is signed; an advance before the soak is not enough either."""
    fleet = Fleet(rollout([Wave(members=1), Wave(members="100%", gate="signed")], soak_s=0), members(2))
    fleet.confirm(*_started(fleet.tick()))
    decisions = fleet.tick(1)
    assert {2: r.NeedsAdvance()} == waiting(decisions)
    fleet.row(advanced=frozenset({2}))
    assert ["Open", "Start"] == _moves(fleet.tick(1))


def test_an_advance_skips_no_soak() -> None:
    """The act is needed besides the soak, not instead of it."""
    gates = [Wave(members=1), Wave(members=1, gate="signed"), Wave(members=1, gate="signed")]
    fleet = Fleet(rollout(gates, advanced=frozenset({2})), members(3))
    fleet.confirm(*_started(fleet.tick()))
    assert ["Done"] == _moves(fleet.tick(1))
    assert r.Behind(wave=2) == waiting(fleet.tick())[3]


@pytest.mark.parametrize(
    ("changes", "why", "word"),
    [
        ({"paused": True}, r.Paused(), "paused"),
        ({"cancelled": True}, r.Cancelled(), "cancelled"),
        ({"superseded": True}, r.Superseded(), "superseded"),
        ({"unready": "2 more approvals"}, r.Unready(why="2 more approvals"), "waiting"),
        ({"not_before": NOON_S + 60}, r.NotBefore(not_before_wall_s=NOON_S + 60), "waiting"),
        ({"not_after": NOON_S - 1}, r.Expired(not_after_wall_s=NOON_S - 1), "expired"),
    ],
)
def test_nothing_starts_while_the_whole_rollout_is_stopped(changes: dict[str, Any], why: r.Reason, word: str) -> None:
    """One reason holds for all, and the status is its word."""
    fleet = Fleet(rollout(**changes), members(3))
    assert [Wait(subject=None, why=why)] == fleet.tick()
    assert word == status(fleet.state, fleet.now)


@pytest.mark.parametrize("changes", [{"not_before": NOON_S}, {"not_after": NOON_S}])
def test_its_first_and_its_last_second_are_the_rollouts(changes: dict[str, Any]) -> None:
    """A rollout starts devices, and is said to run, from the very second of `not_before` to that of `not_after`."""
    fleet = Fleet(rollout(**changes), members(1))
    assert [member(0).device] == _started(fleet.tick())
    assert "running" == status(fleet.state, fleet.now)


def test_devices_of_a_stopped_rollout_still_run_out_of_time() -> None:
    """A cancelled rollout does not stay in flight for ever."""
    fleet = Fleet(rollout(), members(1))
    fleet.tick()
    fleet.row(cancelled=True)
    assert ["Overdue"] == _moves(fleet.tick(3_600))


def test_a_pause_keeps_the_soak_clock() -> None:
    """Opening waits for the resume; the soak that ran meanwhile is not lost."""
    fleet = Fleet(rollout(_TWO), members(2))
    canary = _started(fleet.tick())[0]
    fleet.confirm(canary)
    fleet.tick()
    fleet.row(paused=True)
    assert [] == _moves(fleet.tick(400))
    fleet.confirm(canary)
    fleet.row(paused=False)
    assert ["Passed", "Open", "Start"] == _moves(fleet.tick(1))


def test_nobody_waits_for_a_held_device_and_it_starts_when_the_hold_ends() -> None:
    """A rollout finishes around it, says until when it is held, and brings it along later."""
    fleet = Fleet(rollout(), (member(0), member(1, held_until_wall_s=NOON_S + 9_000)))
    decisions = fleet.tick()
    assert r.HeldUntil(until_wall_s=NOON_S + 9_000) == waiting(decisions)[member(1).device]
    fleet.confirm(member(0).device)
    assert "Finish" in _moves(fleet.tick(1))
    assert 8_999 == next_wake(fleet.state, fleet.members, fleet.now)
    assert [member(1).device] == _started(fleet.tick(8_999))


def test_a_device_that_root_has_paused_is_waited_for_like_one_that_is_offline() -> None:
    """It is not started; after the timeout its wave goes on without it; when the pause ends it is started."""
    end_s = NOON_S + 9_000
    paused = member(1, paused_until_wall_s=end_s, pause_reason="moving")
    fleet = Fleet(rollout(), (member(0), paused))
    decisions = fleet.tick()
    assert r.PausedThere(until_wall_s=end_s, why="moving") == waiting(decisions)[paused.device]
    assert ["Open", "Start", "Await"] == sorted(_moves(decisions), key=["Open", "Start", "Await"].index)
    fleet.confirm(member(0).device)
    assert [] == _moves(fleet.tick(3_599))
    assert 1 == next_wake(fleet.state, fleet.members, fleet.now)
    assert "Finish" in _moves(fleet.tick(1))
    assert r.PausedThere(until_wall_s=end_s, why="moving") == waiting(fleet.tick())[paused.device]
    assert 5_400 == next_wake(fleet.state, fleet.members, fleet.now)
    assert [paused.device] == _started(fleet.tick(5_400))


def test_a_pause_after_the_start_makes_nobody_overdue() -> None:
    """It gives its place to the next one, its wave waits for it, it counts as no failure, and confirms in the end."""
    fleet = Fleet(rollout(max_in_flight=1), members(2))
    (first,) = _started(fleet.tick())
    fleet.change(first, phase=Phase.STAGED, paused_until_wall_s=NOON_S + 9_000)
    decisions = fleet.tick(3_600)
    assert [Parked(device=first, run=1)] == [each for each in decisions if isinstance(each, Parked | Overdue)]
    (second,) = _started(decisions)
    fleet.confirm(second)
    assert [] == _moves(fleet.tick(1))
    fleet.change(first, paused_until_wall_s=None)
    assert [] == _moves(fleet.tick(10_000))
    fleet.confirm(first)
    assert "Finish" in _moves(fleet.tick(1))


@pytest.mark.parametrize("waits", [{"phase": Phase.REBOOT_PENDING}, {"paused_until_wall_s": NOON_S + 99_000}])
def test_one_that_waited_and_then_fell_silent_is_overdue_in_the_end(waits: dict[str, Any]) -> None:
    """While it waits for a reboot or a pause's end it is parked however long; after that, silence has its time."""
    fleet = Fleet(rollout(max_in_flight=1), members(1))
    (one,) = _started(fleet.tick())
    fleet.change(one, **waits)
    assert ["Parked"] == _moves(fleet.tick(3_600))
    fleet.change(one, online=False, seen_s=3_600)
    assert [] == _moves(fleet.tick(50_000))
    fleet.change(one, phase=Phase.CHECKING, paused_until_wall_s=None, seen_s=fleet.now.run_s)
    assert [] == _moves(fleet.tick(3_599))
    assert 1 == next_wake(fleet.state, fleet.members, fleet.now)
    assert Overdue(device=one, run=1) in fleet.tick(1)
    fleet.confirm(one)
    assert Standing.CONFIRMED is standing(fleet.members[0], fleet.state, fleet.now)


def test_a_retired_device_leaves_every_count() -> None:
    """A wave does not wait for who left, and its failure no longer halts."""
    fleet = Fleet(rollout(), members(2))
    first, second = _started(fleet.tick())
    fleet.confirm(first)
    fleet.change(second, active=False)
    assert "Finish" in _moves(fleet.tick(1))
    assert 1 == summary(fleet.state, fleet.members, fleet.now, waves(fleet.state, fleet.members)).total.total


def test_a_finished_rollout_stands_for_joiners_unless_superseded() -> None:
    """A late joiner is started; once a newer rollout covers it, it is not."""
    fleet = Fleet(rollout(), members(1))
    fleet.confirm(*_started(fleet.tick()))
    fleet.tick(1)
    fleet.members = (*fleet.members, member(8, late=True))
    assert [Start(device=member(8).device, run=1, wave=1)] == fleet.tick(1)
    fleet.members = (*fleet.members, member(9, late=True))
    fleet.row(superseded=True)
    assert [] == _started(fleet.tick(1))
    assert "finished" == status(fleet.state, fleet.now)


def test_a_joiner_that_fails_halts_a_standing_rollout() -> None:
    """A release that breaks the machines of today is not offered to the next joiner."""
    fleet = Fleet(rollout(), members(1))
    fleet.confirm(*_started(fleet.tick()))
    fleet.tick(1)
    fleet.members = (*fleet.members, member(8, late=True))
    fleet.fail(_started(fleet.tick(1))[0])
    assert ["Halt"] == _moves(fleet.tick(1))
    assert "halted" == status(fleet.state, fleet.now)


def test_an_early_joiner_waits_for_the_last_wave() -> None:
    """Who joins while the canary soaks is in the last wave."""
    fleet = Fleet(rollout(_TWO), members(2))
    fleet.tick()
    fleet.members = (*fleet.members, member(8, late=True))
    assert [] == _started(fleet.tick(1))
    assert member(8).device in waves(fleet.state, fleet.members)[1]


def test_waves_without_members_hold_nobody_up() -> None:
    """A selector that matches nobody passes without a soak."""
    fleet = Fleet(rollout([Wave(members={"site": ("x",)}), Wave(members="100%")]), members(2))
    assert [Open(wave=1), Done(wave=1), Passed(wave=1), Open(wave=2)] == fleet.tick()[:4]


def test_the_next_wake_is_the_next_thing_that_time_brings() -> None:
    """Timeout, last quarter, end of the soak, expiry; nothing at all once it is cancelled."""
    fleet = Fleet(rollout(_TWO), members(2))
    fleet.confirm(*_started(fleet.tick()))
    wakes = []
    for seconds in (1, 225, 75):
        fleet.tick(seconds)
        wakes.append(next_wake(fleet.state, fleet.members, fleet.now))
    assert [225, 75, 3_525] == wakes
    fleet.row(cancelled=True)
    assert None is next_wake(fleet.state, fleet.members, fleet.now)
    early = rollout(not_before=NOON_S + 77)
    assert 77 == next_wake(early, members(1), at(0))


def test_who_sleeps_until_an_offline_devices_time_is_over_is_not_late() -> None:
    """The time for which others wait for an offline device is over `device_timeout_s` after its turn, however late."""
    fleet = Fleet(rollout(), members(1, online=False))
    fleet.tick(500)
    fleet.tick(100)
    assert 3_500 == next_wake(fleet.state, fleet.members, fleet.now)


def test_a_lineup_of_other_members_is_a_mistake_of_the_caller() -> None:
    """A kept line-up that misses a joiner must not make it disappear."""
    with pytest.raises(AssertionError, match="line-up"):
        plan(rollout(), members(2), at(0), [("x",)])


def test_summary_counts_add_up() -> None:
    """Each active member is in one count of its wave and of all."""
    fleet = Fleet(rollout([Wave(members=3), Wave(members="100%")], stop_at=StopAt(count=9)), members(6))
    first, second, _ = _started(fleet.tick())
    fleet.confirm(first)
    fleet.fail(second)
    result = summary(fleet.state, fleet.members, fleet.now, waves(fleet.state, fleet.members))
    one, two = result.waves
    assert (3, 1, 1, 1, 0) == (one.total, one.confirmed, one.failed, one.in_flight, one.pending)
    assert (3, 3) == (two.total, two.pending)
    assert 6 == result.total.total
    assert "running" == result.status
    assert msgspec.json.encode(result.total)


def test_summary_counts_whoever_was_not_started_as_pending() -> None:
    """Those whose turn has not come, those who were offline for too long, and the held ones."""
    away = member(1, online=False, waiting_s=0)
    fleet = (member(0), away, member(2, held_until_wall_s=NOON_S + 9_000))
    state, now = rollout(), at(3_600)
    assert [Standing.PENDING, Standing.AWAY, Standing.HELD] == [standing(each, state, now) for each in fleet]
    assert Counts(total=3, pending=3) == summary(state, fleet, now, waves(state, fleet)).total


def test_a_repeated_decision_moves_no_clock() -> None:
    """A coordinator that carries out an old plan once more, later, changes nothing."""
    fleet = Fleet(rollout(), (member(0), member(1, online=False)))
    decisions = fleet.tick()
    assert (fleet.state, fleet.members) == apply(fleet.state, fleet.members, decisions, at(500))
    lapse = fleet.tick(3_600)
    assert "Overdue" in _moves(lapse)
    assert (fleet.state, fleet.members) == apply(fleet.state, fleet.members, lapse, at(9_000))


def test_a_decision_about_an_older_try_changes_nothing() -> None:
    """A start that was decided before a signed retry does not start the retried try."""
    fleet = members(1, run=2)
    assert fleet == apply(rollout(), fleet, [Start(device=member(0).device, run=1, wave=1)], at(5))[1]
