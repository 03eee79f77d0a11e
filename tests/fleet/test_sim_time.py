"""Clocks that are wrong, and machines that slept, over a made-up fleet: nothing is lost, hurried or expired by them."""

from collections.abc import Iterator

import pytest
from tests.fleet.sim_rest import breaches, settle
from tests.fleet.sim_watch import Try
from tests.fleet.sim_world import LIMIT_S, World

from nixfleet.model.device import Outcome
from nixfleet.model.statements import Activation, StopAt, Wave
from nixfleet.rollout.asking import RolloutWishes

SOAK_S = 900
HOUR_S = 3_600
IN_1970_S = -1_764_000_000
IN_2070_S = 1_400_000_000
WAVES = RolloutWishes(
    waves=[Wave(members=1), Wave(members="100%")],
    max_in_flight=5,
    stop_at=StopAt(count=5),
    soak_s=SOAK_S,
    device_timeout_s=2 * HOUR_S,
    activation=Activation(confirm_s=HOUR_S),
)


@pytest.fixture
def world() -> Iterator[World]:
    """Give five devices with right clocks."""
    with World(seed=4) as made:
        yield made


def tried(world: World, outcome: Outcome | None = None) -> list[Try]:
    """List the tries so far, in the order of their beginning; of one outcome, if it is given."""
    return [one for one in world.watch.tries if outcome in {None, one.outcome}]


def begin_a_soak(world: World) -> float:
    """Bring a release to the first wave; give when that was confirmed."""
    world.deploy("any", WAVES)
    world.fleet.until(lambda: bool(tried(world, Outcome.CONFIRMED)), LIMIT_S)
    world.let_pass(60)
    (first,) = tried(world)
    assert first.ended_s is not None
    return first.ended_s


def rest_begins(world: World) -> float:
    """Wait for the second wave; give when the first of it began."""
    world.fleet.until(lambda: len(tried(world)) > 1, LIMIT_S)
    return tried(world)[1].begun_s


def come_to_the_end(world: World) -> None:
    """See all five devices confirm, and nothing that must not be."""
    world.fleet.until(lambda: len(tried(world, Outcome.CONFIRMED)) == 5, LIMIT_S)
    settle(world)
    assert breaches(world, at_end=True) == []


def test_a_coordinators_clock_that_goes_back_amid_a_soak_neither_ends_nor_restarts_it(world: World) -> None:
    """Put back an hour a minute into a soak of a quarter of an hour, the next wave begins when it would have."""
    ended_s = begin_a_soak(world)
    world.fleet.coordinator_off_s -= HOUR_S
    waited_s = rest_begins(world) - ended_s
    assert SOAK_S - 2 <= waited_s < SOAK_S + HOUR_S / 2, f"it waited {waited_s:.0f} s"
    come_to_the_end(world)


def test_a_coordinators_clock_that_goes_forward_an_hour_ends_no_soak(world: World) -> None:
    """An hour that nobody saw pass is no time in which the wave soaked."""
    ended_s = begin_a_soak(world)
    world.fleet.coordinator_off_s += HOUR_S
    waited_s = rest_begins(world) - ended_s
    assert SOAK_S - 60 <= waited_s, f"it waited {waited_s:.0f} s"
    world.fleet.until(lambda: len(tried(world, Outcome.CONFIRMED)) == 5, LIMIT_S)


def test_a_laptop_that_slept_wakes_to_the_rest_of_its_soak(world: World) -> None:
    """An hour's sleep counts for no soak: the next wave begins an hour later than it would have."""
    ended_s = begin_a_soak(world)
    world.fleet.clock.leap(HOUR_S)
    waited_s = rest_begins(world) - ended_s
    assert HOUR_S + SOAK_S - 60 <= waited_s, f"it waited {waited_s:.0f} s"
    come_to_the_end(world)


def test_nobody_is_overdue_when_a_laptop_wakes(world: World) -> None:
    """Asleep for longer than a device may take, the coordinator gives the one under way the rest of its time."""
    world.deploy("any", WAVES)
    world.fleet.until(lambda: bool(tried(world)), LIMIT_S)
    (first,) = tried(world)
    world.fleet.disconnect(first.device)
    world.fleet.clock.leap(3 * HOUR_S)
    world.let_pass(120)
    (digest,) = world.rollouts
    member = next(one for one in world.fleet.rollout(digest).members if one.name == first.device)
    assert (member.overdue, member.outcome) == (False, None)
    world.fleet.connect(first.device)
    come_to_the_end(world)


@pytest.mark.parametrize("off_s", [IN_1970_S, -HOUR_S], ids=["1970", "an hour behind"])
def test_a_device_with_a_clock_behind_updates_like_any_other(world: World, off_s: int) -> None:
    """The log's own time is a floor: who has no battery needs no clock to update."""
    for device in world.fleet.devices.values():
        device.clock_off_s = off_s
    world.deploy("any", WAVES)
    come_to_the_end(world)


def test_a_device_in_2070_waits_says_why_and_goes_on_once_its_clock_is_right(world: World) -> None:
    """To it everything has expired; that is no failure, and no refusal for good."""
    for device in world.fleet.devices.values():
        device.clock_off_s = IN_2070_S
    world.deploy("any", WAVES)
    world.fleet.until(lambda: any("expired" in one.waits for one in world.fleet.views().values()), LIMIT_S)
    assert tried(world) == []
    for device in world.fleet.devices.values():
        device.clock_off_s = 0
    come_to_the_end(world)
