"""Clocks that jump: a coordinator's wall clock set back or forward mid-soak, and a laptop that slept."""

import pytest
from tests.core.rollout_factories import NOON_S, Fleet, members, rollout

from nixfleet.model.statements import Wave
from nixfleet.rollout import Open, Overdue
from nixfleet.server.coordinator.clock import BEAT_S, RECONNECT_S, RunClock
from nixfleet.server.store import Store

SOAK_S = 600
TIMEOUT_S = 900
HOUR_S = 3_600


class _World:
    """A wall clock, the coordinator's clock on it, and a rollout in two waves whose canary has confirmed."""

    def __init__(self, store: Store) -> None:
        self.wall_s = NOON_S
        self.clock = RunClock(store, lambda: float(self.wall_s))
        waves = [Wave(members=1), Wave(members="100%")]
        self.fleet = Fleet(rollout(waves, soak_s=SOAK_S, device_timeout_s=TIMEOUT_S), members(3))
        self.canary = ""
        self.opened_s: int | None = None
        """When the second wave opened, in seconds that the coordinator ran."""
        self.overdue: list[str] = []

    async def begin(self) -> None:
        await self.clock.start()
        self._plan()
        (self.canary,) = self.fleet.under_way()
        self.fleet.confirm(self.canary)
        self._plan()

    async def run(self, seconds: int) -> None:
        """Let the coordinator run: it beats, the canary reports healthy, and it plans."""
        for _ in range(0, seconds, BEAT_S):
            self.wall_s += BEAT_S
            await self.clock.beat()
            self.fleet.change(self.canary, healthy_s=self.clock.now().run_s)
            self._plan()

    def _plan(self) -> None:
        self.fleet.now = self.clock.now()
        self.fleet.row(reconnect_s=self.clock.reconnect_s)
        for decision in self.fleet.tick():
            if decision == Open(wave=2):
                self.opened_s = self.fleet.now.run_s
            if isinstance(decision, Overdue):
                self.overdue.append(decision.device)


@pytest.mark.parametrize("step_s", [-HOUR_S, -30, 45, HOUR_S, 8 * HOUR_S])
async def test_a_soak_lasts_as_long_as_the_coordinator_ran(store: Store, step_s: int) -> None:
    """Mid-soak the wall clock is set back or forward, or the laptop sleeps: the gate opens when it has soaked."""
    world = _World(store)
    await world.begin()
    await world.run(SOAK_S // 2)
    world.wall_s += step_s
    await world.run(SOAK_S // 2 - 2 * BEAT_S)
    slack_s = step_s if 0 < step_s <= 60 else 0  # a step that looks like running time is taken for it
    assert (world.opened_s is not None) == (slack_s > 2 * BEAT_S)
    await world.run(4 * BEAT_S)
    assert world.opened_s is not None
    assert SOAK_S <= world.opened_s <= SOAK_S + 2 * BEAT_S


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S, 8 * HOUR_S])
async def test_nobody_is_overdue_for_time_in_which_nobody_ran(store: Store, step_s: int) -> None:
    """Two devices are under way when the clock jumps: each still has its whole time, and that of reconnecting."""
    world = _World(store)
    await world.begin()
    await world.run(SOAK_S + BEAT_S)
    assert 2 == len(world.fleet.under_way())
    world.wall_s += step_s
    await world.run(TIMEOUT_S - 3 * BEAT_S)
    assert [] == world.overdue
    await world.run(max(RECONNECT_S, 4 * BEAT_S))
    assert 2 == len(world.overdue)


async def test_a_restart_after_a_step_back_takes_the_soak_up(store: Store) -> None:
    """The next coordinator starts on a wall clock an hour earlier, and goes on where the soak stood."""
    world = _World(store)
    await world.begin()
    await world.run(SOAK_S // 2)
    world.wall_s -= HOUR_S
    world.clock = RunClock(store, lambda: float(world.wall_s))
    await world.clock.start()
    await world.run(SOAK_S // 2 - 2 * BEAT_S)
    assert world.opened_s is None
    await world.run(4 * BEAT_S)
    assert world.opened_s is not None
