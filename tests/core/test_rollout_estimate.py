"""How long it will take: from what devices took so far, and None wherever nobody can know."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.core.rollout_factories import Fleet, members, rollout

from nixfleet.model.statements import Wave, Window
from nixfleet.rollout import plan, standing, waves
from nixfleet.rollout.estimate import Download, Pace, estimate

SHUT = Window(days=("sun",), from_="01:00", to="01:01", tz="UTC")


def _fleet(number: int, *made: Wave, online: bool = True, **fields: Any) -> Fleet:
    return Fleet(rollout(made or None, **{"max_in_flight": 2, "soak_s": 60, **fields}), members(number, online=online))


def _paces(fleet: Fleet, *took_s: int, downloads: dict[str, Download] | None = None) -> list[Pace]:
    known = {each.device: each for each in fleet.members}
    lineup = [[known[device] for device in wave] for wave in waves(fleet.state, fleet.members)]
    where = {device: standing(each, fleet.state, fleet.now) for device, each in known.items()}
    return list(estimate(fleet.state, lineup, where, fleet.now, took_s, downloads or {}))


def _etas(fleet: Fleet, *took_s: int) -> list[int | None]:
    return [pace.eta_s for pace in _paces(fleet, *took_s)]


def test_before_anybody_confirmed_nobody_knows() -> None:
    """No estimate is made up: the first device has to come to its end."""
    fleet = _fleet(3)
    fleet.tick()
    assert [None] == _etas(fleet)


def test_what_is_left_goes_by_what_devices_took() -> None:
    """Six devices by two at a time, 100 s each, 40 s of which have passed for two of them."""
    fleet = _fleet(6)
    fleet.tick()
    fleet.tick(40)
    assert [(2 * 60 + 4 * 100) // 2] == _etas(fleet, 90, 100, 400)


def test_soaks_lie_between_the_waves() -> None:
    """The second wave begins when the first is done and has soaked."""
    fleet = _fleet(3, Wave(members=1), Wave(members="100%"))
    fleet.tick()
    assert [100, 100 + 60 + 100] == _etas(fleet, 100)
    fleet.confirm(*fleet.under_way())
    fleet.tick()
    fleet.tick(45)
    assert [0, 15 + 100] == _etas(fleet, 100)


def test_a_slow_download_takes_as_long_as_its_rate_says() -> None:
    """What is left of the bytes at this rate, when that is longer than the usual."""
    fleet = _fleet(1)
    fleet.tick()
    (device,) = fleet.under_way()
    load = Download(done_bytes=1_000, total_bytes=10_000, rate_bytes_s=10)
    assert [Pace(download=load, eta_s=900)] == _paces(fleet, 100, downloads={device: load})


def test_a_signature_a_window_and_a_device_that_is_away_are_unknown() -> None:
    """Nobody can say when a person signs, or when a laptop comes back; a closed window is no device's pace."""
    signed = _fleet(3, Wave(members=1), Wave(members="100%", gate="signed"))
    signed.tick()
    assert [100, None] == _etas(signed, 100)
    shut = _fleet(3, window=SHUT)
    shut.tick()
    assert [None] == _etas(shut, 100)
    away = _fleet(3, online=False)
    away.tick()
    assert [None] == _etas(away, 100)


def test_in_the_last_wave_those_who_are_there_count() -> None:
    """A device that is away holds nobody up there, so the others' end can be told."""
    fleet = _fleet(3)
    fleet.change(fleet.members[0].device, online=False)
    fleet.tick()
    (eta,) = _etas(fleet, 100)
    assert eta is not None


def test_what_stands_still_has_no_end() -> None:
    """Paused, halted or cancelled: it goes on when somebody says so."""
    for changes in ({"paused": True}, {"halted": "why"}, {"cancelled": True}):
        fleet = _fleet(3)
        fleet.tick()
        fleet.row(**changes)
        assert [None] == _etas(fleet, 100), changes


@given(st.integers(0, 8), st.lists(st.integers(0, 900), max_size=5), st.integers(1, 5), st.integers(0, 500))
def test_waves_end_one_after_the_other(number: int, took_s: list[int], places: int, passed_s: int) -> None:
    """For any fleet: no wave is over before the one before it, none has a time where an earlier one has none."""
    fleet = _fleet(number, Wave(members=1), Wave(members="50%"), Wave(members="100%"), max_in_flight=places)
    fleet.tick()
    fleet.tick(passed_s)
    etas = _etas(fleet, *took_s)
    assert [] == [each for each in etas if each is not None and each < 0]
    told = [each for each in etas if each is not None]
    assert etas == [*told, *[None] * (len(etas) - len(told))]
    assert sorted(told) == told


def test_an_estimate_moves_with_the_plan() -> None:
    """It looks at what is stored, and changes nothing: the plan is the same before and after."""
    fleet = _fleet(4)
    fleet.tick()
    before = plan(fleet.state, fleet.members, fleet.now)
    _paces(fleet, 100)
    assert before == plan(fleet.state, fleet.members, msgspec.structs.replace(fleet.now))
