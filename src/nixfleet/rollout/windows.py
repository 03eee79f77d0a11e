"""Maintenance windows: when one is open or opens next, past midnight and across DST; no clock of its own."""

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final

from nixfleet.model.statements import Window

_CALENDAR_S: Final = range(-62_000_000_000, 253_370_764_800)
"""From the year 5 to the end of 9998: `datetime` counts the days around each of these, in any zone."""

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@lru_cache(maxsize=1_024)
def zone_of(name: str) -> tzinfo | None:
    """Find an IANA time zone; an empty name is UTC, an unknown one None (devices name theirs, so anything may come)."""
    if name in {"", "UTC"}:
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # a third of a megabyte on every device

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def zone_name(window: Window, device_zone: str) -> str:
    """Name the zone that the window's times are in; ``device`` means the device's own."""
    return device_zone if window.tz == "device" else window.tz


def opens_at(window: Window, zone: tzinfo, wall_s: int) -> int | None:
    """Tell when the window next opens, in unix seconds; at or before `wall_s` when it is open; None: not in eight days.

    Total: a time beyond the calendar is no clock's, and no window opens then.

    A window belongs to the day it begins on and ends before `to`: on the next day when `to` is not after `from`, so
    equal times are a whole day. Across DST the wall times hold: one that is skipped begins or ends when the clocks
    have jumped, and of one that comes twice the first counts (PEP 495, fold=0), so the night's length changes.
    """
    if wall_s not in _CALENDAR_S:
        return None
    today = datetime.fromtimestamp(wall_s, zone).date()
    from_h, from_m = (int(part) for part in window.from_.split(":"))
    to_h, to_m = (int(part) for part in window.to.split(":"))
    to_next_day = timedelta(days=int((to_h, to_m) <= (from_h, from_m)))
    for offset in range(-1, 9):
        day = today + timedelta(days=offset)
        if _DAYS[day.weekday()] not in window.days:
            continue
        begin = int(datetime(day.year, day.month, day.day, from_h, from_m, tzinfo=zone).timestamp())
        last = day + to_next_day
        end = int(datetime(last.year, last.month, last.day, to_h, to_m, tzinfo=zone).timestamp())
        if wall_s < end and begin < end:
            return begin
    return None
