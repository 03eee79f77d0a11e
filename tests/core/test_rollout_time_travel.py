"""Nights in which the clocks change, and the day that most years do not have: whole rollouts through their windows."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.core.rollout_factories import Fleet, members, rollout

from nixfleet.model.statements import Window
from nixfleet.rollout import Clock, Start, plan, status

ALL: Any = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
STEP_S = 300
"""How often it is planned; fewer times in a night than there are devices."""


def _s(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def _started(window: Window, begin: str, end: str, **changes: Any) -> list[str]:
    """Go through a night, one device at a time, each of which confirms at once; give when each was started, in UTC."""
    fleet = Fleet(rollout(window=window, max_in_flight=1, not_after=2**40, **changes), members(100))
    began, found = _s(begin), []
    for wall_s in range(began, _s(end), STEP_S):
        fleet.now = Clock(wall_s=wall_s, run_s=wall_s - began)
        if any(isinstance(decision, Start) for decision in fleet.tick()):
            found.append(f"{datetime.fromtimestamp(wall_s, UTC):%d %H:%M}")
        fleet.confirm(*fleet.under_way())
    return found


@pytest.mark.parametrize(
    ("window", "begin", "end", "first", "last"),
    [
        # Berlin, 2026-03-29: 02:00 CET is 03:00 CEST, at 01:00 UTC.
        (("01:00", "04:00"), "2026-03-28T20:00", "2026-03-29T08:00", "29 00:00", "29 01:55"),
        (("02:00", "04:00"), "2026-03-28T20:00", "2026-03-29T08:00", "29 01:00", "29 01:55"),
        (("22:00", "05:00"), "2026-03-28T20:00", "2026-03-29T08:00", "28 21:00", "29 02:55"),
        # Berlin, 2026-10-25: 03:00 CEST is 02:00 CET, at 01:00 UTC; the hour from two comes twice.
        (("01:00", "04:00"), "2026-10-24T18:00", "2026-10-25T08:00", "24 23:00", "25 02:55"),
        (("22:00", "05:00"), "2026-10-24T18:00", "2026-10-25T08:00", "24 20:00", "25 03:55"),
    ],
)
def test_a_rollout_through_the_night_of_a_clock_change(
    window: tuple[str, str], begin: str, end: str, first: str, last: str
) -> None:
    """The window's wall times hold on both sides of the change, without a pause between."""
    found = _started(Window(days=ALL, from_=window[0], to=window[1], tz="Europe/Berlin"), begin, end)
    assert (first, last) == (found[0], found[-1])
    minutes = [int(text[:2]) * 1_440 + int(text[3:5]) * 60 + int(text[6:]) for text in found]
    assert {STEP_S // 60} == {after - before for before, after in pairwise(minutes)}


def test_an_hour_that_is_skipped_is_no_window() -> None:
    """A window that lies in the skipped hour alone starts nobody that night, and is open in the next."""
    window = Window(days=ALL, from_="02:00", to="03:00", tz="Europe/Berlin")
    assert [] == _started(window, "2026-03-28T20:00", "2026-03-29T20:00")
    assert "30 00:00" == _started(window, "2026-03-29T20:00", "2026-03-30T08:00")[0]


def test_a_window_of_each_devices_own_zone_follows_the_clocks_there() -> None:
    """The same rollout opens in Berlin and in Kolkata when it is two there, whoever changes clocks."""
    window = Window(days=ALL, from_="02:00", to="03:00", tz="device")
    made = members(2)
    fleet = Fleet(rollout(window=window, not_after=2**40), made)
    fleet.change(made[0].device, timezone="Europe/Berlin")
    fleet.change(made[1].device, timezone="Asia/Kolkata")
    began, found = _s("2026-10-24T18:00"), {}
    for wall_s in range(began, _s("2026-10-25T08:00"), STEP_S):
        fleet.now = Clock(wall_s=wall_s, run_s=wall_s - began)
        for decision in fleet.tick():
            if isinstance(decision, Start):
                found[decision.device] = datetime.fromtimestamp(wall_s, UTC)
        fleet.confirm(*fleet.under_way())
    zones = (ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata"))
    local = [found[each.device].astimezone(zone) for each, zone in zip(made, zones, strict=True)]
    assert ["02:00", "02:00"] == [f"{when:%H:%M}" for when in local]


@pytest.mark.parametrize("year", [2028, 2096])
def test_a_leap_day_is_a_day_like_any_other(year: int) -> None:
    """A window of its weekday alone opens on 29 February and ends past midnight, on 1 March."""
    day = datetime(year, 2, 29, tzinfo=UTC)
    window = Window(days=(ALL[day.weekday()],), from_="23:30", to="00:30", tz="UTC")
    found = _started(window, f"{year}-02-28T00:00", f"{year}-03-02T00:00")
    assert ("29 23:30", "01 00:25") == (found[0], found[-1])


def test_a_rollout_that_ends_on_a_leap_day_ends_on_it() -> None:
    """Its last second is the twenty-ninth's, and the next is over."""
    last_s = _s("2028-02-29T23:59:59")
    fleet = Fleet(rollout(not_after=last_s), members(1))
    inside, outside = Clock(wall_s=last_s, run_s=0), Clock(wall_s=last_s + 1, run_s=0)
    assert any(isinstance(decision, Start) for decision in plan(fleet.state, fleet.members, inside))
    assert not any(isinstance(decision, Start) for decision in plan(fleet.state, fleet.members, outside))
    assert ("running", "expired") == (status(fleet.state, inside), status(fleet.state, outside))
