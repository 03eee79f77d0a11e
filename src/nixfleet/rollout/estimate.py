"""How long a rollout will take, from what it has taken so far; honest: None where nobody can know, and never a promise.

It counts the devices that are there. A signature, a window or a device that is away makes what comes behind unknown.
"""

from collections.abc import Mapping, Sequence
from statistics import median

import msgspec

from nixfleet.rollout.fold import wave_states
from nixfleet.rollout.gates import Gatekeeper
from nixfleet.rollout.standing import Standing, status
from nixfleet.rollout.types import Clock, Course, Member


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """A download under way, or several in sum."""

    done_bytes: int = 0
    total_bytes: int = 0
    rate_bytes_s: int = 0


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """A wave's downloads under way, and in how many seconds nothing more is awaited of it; None: nobody knows."""

    download: Download
    eta_s: int | None


_NO_DOWNLOAD = Download()


def estimate(
    rollout: Course,
    waves: Sequence[Sequence[Member]],
    standings: Mapping[str, Standing],
    now: Clock,
    took_s: Sequence[int],
    downloads: Mapping[str, Download],
) -> tuple[Pace, ...]:
    """Give each wave's pace; the last one's is when the whole rollout may be done.

    `took_s` are how long devices took from their start to their confirmation, `downloads` those under way by device.
    """
    typical_s = int(median(took_s)) if took_s else None
    moving = status(rollout, now) in {"running", "finished"}
    windows = Gatekeeper(rollout.body.window, now.wall_s)
    at_s: int | None = 0 if moving else None
    result: list[Pace] = []
    clocks = wave_states(rollout)
    for number, (members, clock) in enumerate(zip(waves, clocks, strict=True), start=1):
        wave = rollout.body.waves[number - 1]
        if clock.opened_s is None and wave.gate == "signed" and number not in rollout.advanced:
            at_s = None
        left = [m for m in members if standings[m.device] in {Standing.PENDING, Standing.IN_FLIGHT}]
        flying = [m for m in left if standings[m.device] is Standing.IN_FLIGHT]
        waiting = len(left) - len(flying)
        if at_s is not None and left:
            stuck = any(windows.reason(m) is not None for m in left if m.offered_s is None)
            away = any(not m.online for m in left)
            spans = None if typical_s is None else [_left_s(m, typical_s, now, downloads) for m in flying]
            unknown = spans is None or stuck or (away and (number < len(waves) or all(not m.online for m in left)))
            at_s = None if unknown or spans is None else at_s + _span(spans, waiting, typical_s or 0, rollout)
        result.append(Pace(download=_sum(members, downloads), eta_s=at_s))
        if at_s is not None and clock.passed_s is None and number < len(waves) and members:
            soaked_s = 0 if clock.done_s is None else now.run_s - clock.done_s
            at_s += max(0, rollout.body.soak_s - soaked_s)
    return tuple(result)


def _left_s(member: Member, typical_s: int, now: Clock, downloads: Mapping[str, Download]) -> int:
    """Say how long a device under way may still take: what is left of the usual, or of its download."""
    rest_s = max(1, typical_s - (now.run_s - (member.offered_s or 0)))
    load = downloads.get(member.device)
    if load is None or not load.rate_bytes_s:
        return rest_s
    return max(rest_s, (load.total_bytes - load.done_bytes) // load.rate_bytes_s)


def _span(flying_s: Sequence[int], waiting: int, typical_s: int, rollout: Course) -> int:
    """Say how long it takes until all have had a place: never shorter than the slowest, or one that is to start."""
    places = max(1, rollout.body.max_in_flight)
    work_s = sum(flying_s) + waiting * typical_s
    return max(*flying_s, typical_s if waiting else 0, -(-work_s // places), 1)


def _sum(members: Sequence[Member], downloads: Mapping[str, Download]) -> Download:
    if not downloads:
        return _NO_DOWNLOAD
    own = [downloads[member.device] for member in members if member.device in downloads]
    return Download(
        done_bytes=sum(one.done_bytes for one in own),
        total_bytes=sum(one.total_bytes for one in own),
        rate_bytes_s=sum(one.rate_bytes_s for one in own),
    )
