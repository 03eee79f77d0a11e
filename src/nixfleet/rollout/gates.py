"""What stands between a member and its start: the whole rollout, a window, a soak; predicates that decide nothing."""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from nixfleet.model.statements import Window
from nixfleet.rollout.reasons import (
    Cancelled,
    Expired,
    NotBefore,
    OutsideWindow,
    PausedThere,
    Reason,
    Superseded,
    UnknownZone,
    Unready,
)
from nixfleet.rollout.types import Clock, Course, Member
from nixfleet.rollout.windows import opens_at, zone_name, zone_of

_NEVER_S = 8 * 86_400
"""A window that does not open within eight days does not open (all its days skip it); look again then."""


def closed(rollout: Course, now: Clock) -> Reason | None:
    """Tell why nothing of the rollout may move at all, if so; halts and pauses are told apart from this."""
    if rollout.cancelled:
        return Cancelled()
    if rollout.superseded:
        return Superseded()
    if now.wall_s > rollout.body.not_after:
        return Expired(not_after_wall_s=rollout.body.not_after)
    if rollout.unready:
        return Unready(why=rollout.unready)
    if now.wall_s < rollout.body.not_before:
        return NotBefore(not_before_wall_s=rollout.body.not_before)
    return None


def paused_there(member: Member, now: Clock) -> PausedThere | None:
    """Tell until when and why root lets no update begin on the device itself, or None."""
    if member.paused_until_wall_s is None or now.wall_s >= member.paused_until_wall_s:
        return None
    return PausedThere(until_wall_s=member.paused_until_wall_s, why=member.pause_reason)


class Gatekeeper:
    """The rollout's window at one moment, worked out once per time zone."""

    def __init__(self, window: Window | None, wall_s: int) -> None:
        self._window = window
        self._wall_s = wall_s
        self._known: dict[str, Reason | None] = {}

    def reason(self, member: Member) -> Reason | None:
        """Tell why the member may not start now, or None."""
        if self._window is None:
            return None
        name = zone_name(self._window, member.timezone)
        if name not in self._known:
            self._known[name] = self._look(self._window, name)
        return self._known[name]

    def _look(self, window: Window, name: str) -> Reason | None:
        """Compare the window with the wall clock in one zone."""
        zone = zone_of(name)
        if zone is None:
            return UnknownZone(zone=name)
        opens = opens_at(window, zone, self._wall_s)
        if opens is None:
            opens = self._wall_s + _NEVER_S
        if opens <= self._wall_s:
            return None
        same_day = datetime.fromtimestamp(opens, zone).date() == datetime.fromtimestamp(self._wall_s, zone).date()
        return OutsideWindow(opens_wall_s=opens, zone=name or "UTC", today=same_day)


class Soak(msgspec.Struct, frozen=True, kw_only=True):
    """A wave's soak at one moment; `ask` are the connected members whose report of health is due."""

    left_s: int
    healthy: int
    confirmed: int
    passed: bool
    ask: tuple[str, ...]


def ask_from_s(done_s: int, rollout: Course) -> int:
    """Tell when the last quarter of a soak begins, on the running clock."""
    return done_s + rollout.body.soak_s - (rollout.body.soak_s + 3) // 4


def silence_ends_s(done_s: int, rollout: Course) -> int:
    """Tell until when a wave waits for the health of members that went offline after they confirmed."""
    return max(ask_from_s(done_s, rollout) + rollout.body.device_timeout_s, rollout.reconnect_s or 0)


def soak(rollout: Course, done_s: int, confirmed: Iterable[Member], now: Clock) -> Soak:
    """Judge a soak: time alone never passes it (rollouts-and-agent.md, Gates: silence never opens a gate).

    Each confirmed member must have reported healthy since the last quarter began; for one that is offline the wave
    waits no longer than `device_timeout_s` from then. A soak of 0 s asks for nothing.
    """
    left_s = done_s + rollout.body.soak_s - now.run_s
    due_s = ask_from_s(done_s, rollout)
    number = healthy = 0
    silent: list[Member] = []
    for member in confirmed:
        number += 1
        if member.healthy_s is not None and member.healthy_s >= due_s:
            healthy += 1
        else:
            silent.append(member)
    online = tuple(member.device for member in silent if member.online)
    excusable = now.run_s >= silence_ends_s(done_s, rollout)
    heard = not silent or rollout.body.soak_s == 0 or (excusable and not online)
    return Soak(
        left_s=left_s,
        healthy=healthy,
        confirmed=number,
        passed=left_s <= 0 and heard,
        ask=online if rollout.body.soak_s and now.run_s >= due_s else (),
    )
