"""Windows: days, midnight, time zones and DST."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.rollout_factories import NOON_S, at, member, rollout

from nixfleet.model.statements import Window
from nixfleet.rollout import Start, Wait, next_wake, plan
from nixfleet.rollout.reasons import OutsideWindow, UnknownZone
from nixfleet.rollout.windows import opens_at, zone_of

_ALL: Any = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_BERLIN = ZoneInfo("Europe/Berlin")


def _window(start: str, end: str, days: Any = _ALL, tz: str = "Europe/Berlin") -> Window:
    return Window(days=days, from_=start, to=end, tz=tz)


def _s(text: str, zone: Any = _BERLIN) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp())


def _open(window: Window, text: str) -> bool:
    wall_s = _s(text)
    opens = opens_at(window, _BERLIN, wall_s)
    return opens is not None and opens <= wall_s


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2025-11-25T21:59:59", False),
        ("2025-11-25T22:00", True),
        ("2025-11-26T03:59:59", True),
        ("2025-11-26T04:00", False),
    ],
)
def test_a_window_past_midnight_ends_on_the_next_day(now: str, expected: bool) -> None:
    """From 22:00 to 04:00 is one night; its end is not part of it."""
    assert expected is _open(_window("22:00", "04:00"), now)


@pytest.mark.parametrize(("now", "expected"), [("2025-11-29T02:00", True), ("2025-11-28T02:00", False)])
def test_a_night_belongs_to_the_day_it_begins_on(now: str, expected: bool) -> None:
    """The window of Friday covers the small hours of Saturday (29th), not those of Friday."""
    assert expected is _open(_window("22:00", "04:00", ("fri",)), now)


def test_equal_times_are_the_whole_day() -> None:
    """From 00:00 to 00:00 on a Tuesday is that Tuesday."""
    window = _window("00:00", "00:00", ("tue",))
    assert [False, True, True, False] == [
        _open(window, text) for text in ("2025-11-24T23:59", "2025-11-25T00:00", "2025-11-25T23:59", "2025-11-26T00:00")
    ]


def test_the_next_opening_may_be_a_week_away() -> None:
    """Once this Tuesday's window is over the next is in seven days."""
    window = _window("10:00", "11:00", ("tue",))
    assert _s("2025-12-02T10:00") == opens_at(window, _BERLIN, _s("2025-11-25T11:00"))


def test_a_window_that_dst_skips_opens_when_the_clocks_have_jumped() -> None:
    """On 2026-03-29 there is no 02:30 in Berlin: a window from then begins an hour after 01:30, and still ends."""
    window = _window("02:30", "05:00", ("sun",))
    assert _s("2026-03-29T03:30") == opens_at(window, _BERLIN, _s("2026-03-29T01:00"))
    assert [True, False] == [_open(window, text) for text in ("2026-03-29T04:59", "2026-03-29T05:00")]


def test_a_night_across_dst_keeps_its_wall_times() -> None:
    """The night from 22:00 to 04:00 is seven hours long when the clocks go back on 2025-10-26."""
    window = _window("22:00", "04:00")
    begin = opens_at(window, _BERLIN, _s("2025-10-25T12:00"))
    assert begin == _s("2025-10-25T22:00")
    assert begin + 7 * 3_600 == _s("2025-10-26T04:00")
    assert _open(window, "2025-10-26T03:59")


@pytest.mark.parametrize("name", ["Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe", "a\0b", "x" * 300])
def test_a_zone_that_nobody_knows_is_none(name: str) -> None:
    """Devices name their zone, so anything may come; nothing of it raises."""
    assert None is zone_of(name)


def test_no_zone_is_utc() -> None:
    """A device that does not tell its zone is taken at UTC."""
    assert UTC == zone_of("") == zone_of("UTC")


def test_a_member_starts_only_inside_its_own_window() -> None:
    """With tz `device` 12:30 UTC is inside 13:00-14:00 in Berlin, not in London, and never in an unknown zone."""
    fleet = (member(1, timezone="Europe/Berlin"), member(2, timezone="Europe/London"), member(3, timezone="Nowhere/X"))
    state = rollout(window=_window("13:00", "14:00", tz="device"))
    now = at(0, NOON_S + 1_800)
    decisions = plan(state, fleet, now)
    assert [member(1).device] == [each.device for each in decisions if isinstance(each, Start)]
    waits = {each.subject: each.why for each in decisions if isinstance(each, Wait)}
    assert OutsideWindow(opens_wall_s=NOON_S + 3_600, zone="Europe/London", today=True) == waits[member(2).device]
    assert UnknownZone(zone="Nowhere/X") == waits[member(3).device]
    assert 1_800 == next_wake(state, fleet, now)


@given(
    st.integers(0, 2**31),
    st.times().map(lambda time: f"{time:%H:%M}"),
    st.times().map(lambda time: f"{time:%H:%M}"),
    st.sets(st.sampled_from(_ALL), min_size=1),
    st.sampled_from(
        ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata"]
    ),
)
def test_an_opening_is_on_a_day_of_the_window_and_open_when_it_comes(
    wall_s: int, start: str, end: str, days: set[str], name: str
) -> None:
    """Whatever the zone and the date, the next opening is no earlier than a day ago, and the window is open then."""
    window = _window(start, end, tuple(sorted(days)), name)
    zone = zone_of(name)
    assert zone is not None
    opens = opens_at(window, zone, wall_s)
    if opens is None:
        return
    assert opens > wall_s - timedelta(days=2).total_seconds()
    again = opens_at(window, zone, opens)
    assert again == opens


@given(
    st.integers()
    | st.integers(-62_135_600_000, -61_999_000_000)
    | st.integers(253_370_764_800 - 10**6, 253_402_300_800)
)
def test_any_integer_is_a_time(wall_s: int) -> None:
    """No time, however absurd, is an error; beyond the calendar no window opens."""
    for name in ("UTC", "Asia/Tokyo", "America/Los_Angeles"):
        zone = zone_of(name)
        assert zone is not None
        opens = opens_at(_window("22:00", "04:00"), zone, wall_s)
        assert (opens is not None) == (-62_000_000_000 <= wall_s < 253_370_764_800)
