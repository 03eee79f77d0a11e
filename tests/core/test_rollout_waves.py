"""Which device is in which wave, and the defaults."""

import random
from math import ceil

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.rollout_factories import member, members, rollout

from nixfleet.model.statements import StopAt, Wave
from nixfleet.rollout import default_in_flight, default_stop_at, default_waves, waves
from nixfleet.rollout.lineup import places_in


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(0, ["100%"]), (1, ["100%"]), (2, [1, "100%"]), (20, [1, "100%"]), (21, [1, "10%", "50%", "100%"])],
)
def test_default_waves_follow_the_size_of_the_set(devices: int, expected: list[int | str]) -> None:
    """One device goes at once, a small set after one canary, a large one in four steps."""
    assert expected == [wave.members for wave in default_waves(devices)]


def test_default_limits_follow_the_size_of_the_set() -> None:
    """One failure stops a small set, 5 % a large one; a fifth is in flight, and always one."""
    assert StopAt(count=1) == default_stop_at(20)
    assert StopAt(percent=5) == default_stop_at(21)
    assert [1, 1, 2, 20] == [default_in_flight(number) for number in (0, 9, 10, 100)]


def test_percentages_are_of_the_whole_set_rounded_up() -> None:
    """Of 21 devices 10 % are 3, and the last wave takes whoever is left."""
    assert [1, 3, 11, 6] == [len(wave) for wave in waves(rollout(default_waves(21)), members(21))]


@pytest.mark.parametrize(("percent", "expected"), [(1, 10), (50, 500), (99, 990), (100, 1_000)])
def test_a_percentage_of_a_large_set_is_exact(percent: int, expected: int) -> None:
    """Nothing is rounded where nothing needs to be."""
    assert expected == len(waves(rollout([Wave(members=f"{percent}%"), Wave(members=1)]), members(1_000))[0])


def test_a_percentage_is_never_zero() -> None:
    """One per cent of three devices is one device."""
    assert [1, 2] == [len(wave) for wave in waves(rollout([Wave(members="1%"), Wave(members="100%")]), members(3))]


def test_the_first_wave_that_claims_a_device_has_it() -> None:
    """A selector takes its devices out of all later counts."""
    fleet = [member(number, tags={"env": "test" if number < 2 else "prod"}) for number in range(6)]
    lineup = waves(rollout([Wave(members={"env": ("test",)}), Wave(members=1), Wave(members="50%")]), fleet)
    assert {fleet[0].device, fleet[1].device} == set(lineup[0])
    assert [2, 1, 3] == [len(wave) for wave in lineup]


def test_the_remainder_and_late_joiners_are_in_the_last_wave() -> None:
    """Whoever no wave asks for is not forgotten; joiners come after them."""
    fleet = (*members(4), member(9, late=True))
    lineup = waves(rollout([Wave(members=1), Wave(members=1)]), fleet)
    assert [1, 4] == [len(wave) for wave in lineup]
    assert member(9).device == lineup[-1][-1]


def test_the_remainder_takes_its_turn_by_rank_too() -> None:
    """Whom a selector of the last wave leaves over is not behind those whom it takes."""
    fleet = [member(number, tags={"env": "prod" if number % 2 else "test"}) for number in range(20)]
    (lineup,) = waves(rollout([Wave(members={"env": ("prod",)})]), fleet)
    assert waves(rollout([Wave(members="100%")]), fleet) == (lineup,)


def test_a_late_joiner_moves_nobody() -> None:
    """Percentages are of the set at the rollout's index."""
    state = rollout(default_waves(21))
    before = waves(state, members(21))
    after = waves(state, (*members(21), *(member(number, late=True) for number in range(50, 90))))
    assert before[:-1] == after[:-1]


def test_a_retired_canary_moves_nobody() -> None:
    """Members that left keep their place in the line-up, else others would slip past gates."""
    state = rollout(default_waves(21))
    lineup = waves(state, members(21))
    gone = tuple(msgspec.structs.replace(each, active=each.device != lineup[0][0]) for each in members(21))
    assert lineup == waves(state, gone)


def test_another_rollout_has_another_canary() -> None:
    """Rank depends on the rollout, so that no device is always the first to try."""
    state = rollout(default_waves(20))
    canaries = {waves(msgspec.structs.replace(state, id=f"{number:064x}"), members(20))[0] for number in range(40)}
    assert len(canaries) > 5


_WAVE = st.one_of(
    st.integers(1, 9).map(lambda count: Wave(members=count)),
    st.integers(1, 100).map(lambda percent: Wave(members=f"{percent}%")),
    st.sampled_from(["a", "b"]).map(lambda value: Wave(members={"site": (value,)})),
)


@given(st.lists(_WAVE, min_size=1, max_size=6), st.integers(0, 40), st.randoms(use_true_random=False))
def test_every_device_is_in_exactly_one_wave_whatever_the_order(
    plan: list[Wave], number: int, chance: random.Random
) -> None:
    """Waves part the set, hold no more than they ask for, and do not depend on the order of the input."""
    fleet = [member(each, tags={"site": chance.choice("abc")}, late=each > 30) for each in range(number)]
    state = rollout(plan)
    lineup = waves(state, fleet)
    assert sorted(each.device for each in fleet) == sorted(device for wave in lineup for device in wave)
    for wave, devices in list(zip(plan, lineup, strict=True))[:-1]:
        if isinstance(wave.members, int):
            assert len(devices) <= wave.members
        elif isinstance(wave.members, str):
            assert len(devices) <= ceil(number * int(wave.members[:-1]) / 100)
    shuffled = fleet[:]
    chance.shuffle(shuffled)
    assert lineup == waves(state, shuffled)


@given(st.permutations(range(9)))
def test_a_kept_lineup_finds_members_in_any_order(order: list[int]) -> None:
    """A line-up tells where its devices are, whether the members stand as when it was made or not."""
    lineup = waves(rollout([Wave(members=2), Wave(members="50%"), Wave(members="100%")]), members(9))
    shuffled = [members(9)[at] for at in order]
    for made in (lineup, tuple(lineup)):
        places = places_in(made, shuffled)
        assert lineup == tuple(tuple(shuffled[at].device for at in wave) for wave in places)


def test_a_member_that_stands_twice_is_a_mistake_of_the_caller() -> None:
    """Members are told apart by their ids, so an id that comes twice is a fault and not two members."""
    twice = (*members(2), member(0))
    with pytest.raises(AssertionError, match="stands twice"):
        places_in((tuple(each.device for each in twice),), twice)
