"""The running clock: only time in which a coordinator ran counts."""

import pytest

from nixfleet.rollout import Clock
from nixfleet.server.coordinator.clock import BEAT_S, GAP_S, PUT_BACK_S, RECONNECT_S, RunClock
from nixfleet.server.store import Store


class _Wall:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> float:
        """Give unix seconds."""
        return self.now


async def test_running_time_passes_with_wall_time(store: Store) -> None:
    """Between beats and over them, a running coordinator's time passes second by second."""
    wall = _Wall()
    clock = RunClock(store, wall)
    await clock.start()
    for second in range(40):
        assert clock.now() == Clock(wall_s=1_000 + second, run_s=second)
        wall.now += 1
        if second % BEAT_S == 0:
            await clock.beat()


@pytest.mark.parametrize(("gap_s", "counted_s"), [(1, 1), (GAP_S, GAP_S), (GAP_S + 1, 0), (30_000, 0)])
async def test_gap_is_left_out(store: Store, gap_s: int, counted_s: int) -> None:
    """A laptop that slept for longer than a minute wakes as if no time had passed, and waits for all to reconnect."""
    wall = _Wall()
    clock = RunClock(store, wall)
    await clock.start()
    wall.now += gap_s
    assert clock.now().run_s == counted_s
    await clock.beat()
    assert clock.now() == Clock(wall_s=1_000 + gap_s, run_s=counted_s)
    assert clock.reconnect_s == RECONNECT_S


async def test_restart_takes_the_clock_up(store: Store) -> None:
    """A coordinator that was down for long goes on where the last one stood; a quick restart loses nothing."""
    wall = _Wall()
    first = RunClock(store, wall)
    await first.start()
    wall.now += 50
    await first.beat()
    wall.now += 10_000
    second = RunClock(store, wall)
    await second.start()
    assert second.now().run_s == 50
    assert second.reconnect_s == 50 + RECONNECT_S
    wall.now += 30
    third = RunClock(store, wall)
    await third.start()
    assert third.now().run_s == 80


async def test_wall_clock_set_back_never_takes_running_time_back(store: Store) -> None:
    """When the machine's clock is put right, running time goes on from where it was."""
    wall = _Wall()
    clock = RunClock(store, wall)
    await clock.start()
    wall.now += 20
    await clock.beat()
    wall.now -= 500
    assert clock.now().run_s == 20
    await clock.beat()
    wall.now += 5
    assert clock.now().run_s == 25


async def test_gates_are_timed_by_a_clock_that_is_not_put_back(store: Store) -> None:
    """Put back an hour, the time of gates goes on as the coordinator runs, until the clock is there again."""
    wall = _Wall()
    wall.now = 1_000_000
    clock = RunClock(store, wall)
    await clock.start()
    wall.now += 20
    await clock.beat()
    wall.now -= 3_600
    assert clock.gate_s() == 1_000_020
    for _ in range(6):
        await clock.beat()
        wall.now += 10
    assert clock.gate_s() == 1_000_080
    wall.now += 3_600
    assert clock.gate_s() == wall.now


async def test_a_clock_put_back_while_nobody_ran_does_not_take_gates_back(store: Store) -> None:
    """A coordinator that starts with a clock behind the last beat times its gates from that beat on."""
    wall = _Wall()
    wall.now = 1_000_000
    await RunClock(store, wall).start()
    wall.now -= 3_600
    clock = RunClock(store, wall)
    await clock.start()
    assert clock.gate_s() == 1_000_000


async def test_a_clock_put_back_for_long_was_wrong_before(store: Store) -> None:
    """Put back by more than a day, gates are timed by what the clock says now."""
    wall = _Wall()
    wall.now = 1_000_000
    clock = RunClock(store, wall)
    await clock.start()
    wall.now -= PUT_BACK_S + 1
    assert clock.gate_s() == wall.now


async def test_two_coordinators_share_one_clock(store: Store) -> None:
    """Both move the same running time on; nobody counts a second twice."""
    wall = _Wall()
    one, other = RunClock(store, wall), RunClock(store, wall)
    await one.start()
    await other.start()
    for _ in range(10):
        wall.now += 7
        await one.beat()
        await other.beat()
    assert (one.now().run_s, other.now().run_s) == (70, 70)


@pytest.mark.parametrize("apart_s", [-3_600, -61, 61, 3_600])
async def test_coordinators_whose_clocks_are_apart_move_one_running_time_on(store: Store, apart_s: int) -> None:
    """Neither holds the other still: each second passes once, and nobody sees a gap in which agents could have left."""
    wall, off = _Wall(), _Wall()
    wall.now = off.now = 100_000
    one, other = RunClock(store, wall), RunClock(store, off)
    await one.start()
    off.now += apart_s
    await other.start()
    for _ in range(20):
        wall.now += BEAT_S
        off.now += BEAT_S
        await one.beat()
        await other.beat()
    assert (300, 300) == (one.now().run_s, other.now().run_s)
    assert (RECONNECT_S, RECONNECT_S) == (one.reconnect_s, other.reconnect_s)


async def test_who_slept_goes_on_from_the_coordinator_that_ran(store: Store) -> None:
    """While one machine slept, the other's time passed: it holds for both, and the sleeper waits for its agents."""
    wall, asleep = _Wall(), _Wall()
    one, other = RunClock(store, wall), RunClock(store, asleep)
    await one.start()
    await other.start()
    for _ in range(20):
        wall.now += BEAT_S
        await one.beat()
    asleep.now = wall.now
    await other.beat()
    assert (300, 300 + RECONNECT_S) == (other.now().run_s, other.reconnect_s)
    assert (300, RECONNECT_S) == (one.now().run_s, one.reconnect_s)


async def test_who_starts_between_two_beats_of_another_catches_up(store: Store) -> None:
    """A coordinator that cannot tell how long ago the last beat was is behind by less than a beat, and not for long."""
    wall, off = _Wall(), _Wall()
    wall.now = 100_000
    off.now = 50_000
    one, other = RunClock(store, wall), RunClock(store, off)
    await one.start()
    wall.now += 10
    await other.start()
    assert 0 == other.now().run_s
    for clock in (wall, off):
        clock.now += 5
    await one.beat()
    await other.beat()
    assert (15, 15) == (one.now().run_s, other.now().run_s)
