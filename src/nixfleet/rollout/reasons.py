"""Why something waits or halts, as typed values, and the one place that puts them into words.

Console, command line, log and golden tests show the same sentence; nothing here decides anything.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, assert_never

import msgspec

from nixfleet.model.text import counted, utc
from nixfleet.rollout.kinds import kind_words
from nixfleet.rollout.types import Kind, Stop
from nixfleet.rollout.windows import zone_of

Subject = str | int | None
"""What waits: a device's id, a wave's number (from 1), or None for the whole rollout."""


def _tag(name: str) -> str:
    """Name a class in a record: ``NoPlace`` is ``no-place``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


class _Reason(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="reason", tag=_tag):
    """A typed reason; `clause` renders it, and records show its fields beside its name (`reason`)."""


class Cancelled(_Reason, frozen=True, kw_only=True):
    """A signed act ended the rollout."""


class Superseded(_Reason, frozen=True, kw_only=True):
    """A newer rollout covers its devices."""


class Expired(_Reason, frozen=True, kw_only=True):
    """Its `not_after` has passed."""

    not_after_wall_s: int


class NotBefore(_Reason, frozen=True, kw_only=True):
    """Its `not_before` is still to come."""

    not_before_wall_s: int


class Unready(_Reason, frozen=True, kw_only=True):
    """Devices do not follow it: a right, an approval or what a rule asks for is missing."""

    why: str


class Paused(_Reason, frozen=True, kw_only=True):
    """A signed act paused it."""


class Halted(_Reason, frozen=True, kw_only=True):
    """It halted earlier, and no signed `resume` has followed."""

    why: str


class NeedsAdvance(_Reason, frozen=True, kw_only=True):
    """The wave's gate is `signed`."""


class Unfinished(_Reason, frozen=True, kw_only=True):
    """A wave's members are not all done; counts of its active members."""

    total: int
    confirmed: int
    failed: int = 0
    in_flight: int = 0
    rebooting: int = 0
    pending: int = 0


class Behind(_Reason, frozen=True, kw_only=True):
    """An earlier wave is not done; without counts: it is not even open."""

    wave: int
    counts: Unfinished | None = None


class Soaking(_Reason, frozen=True, kw_only=True):
    """The wave before soaks, or has soaked and lacks reports of health from its last quarter."""

    wave: int
    left_s: int
    healthy: int
    confirmed: int


class NoPlace(_Reason, frozen=True, kw_only=True):
    """`max_in_flight` devices are under way."""

    used: int
    allowed: int


class Offline(_Reason, frozen=True, kw_only=True):
    """The device is not connected; it was last seen so many running-clock seconds ago, or never."""

    ago_s: int | None = None


class HeldUntil(_Reason, frozen=True, kw_only=True):
    """A signed act keeps updates from it."""

    until_wall_s: int


class PausedThere(_Reason, frozen=True, kw_only=True):
    """Root has paused updates on the device itself."""

    until_wall_s: int
    why: str = ""


class OutsideWindow(_Reason, frozen=True, kw_only=True):
    """The rollout's window is closed where the device is; `today`: it opens on the same calendar day there."""

    opens_wall_s: int
    zone: str
    today: bool = True


class UnknownZone(_Reason, frozen=True, kw_only=True):
    """No such time zone is known here, so nobody can say whether the window is open."""

    zone: str


class TooManyFailed(_Reason, frozen=True, kw_only=True):
    """`stop_at` is reached."""

    failed: int
    allowed: int
    total: int


class NobodyConfirmed(_Reason, frozen=True, kw_only=True):
    """All that a wave would open the next one with is failures."""

    wave: int
    failed: int


class KindStopped(_Reason, frozen=True, kw_only=True):
    """The same system failed on several devices of the device's kind."""

    kind: Kind
    path: str
    failed: int
    tried: int


class KindsStopped(_Reason, frozen=True, kw_only=True):
    """Nothing is left to do but what it has stopped for: so many devices, the first of whose reasons is given."""

    devices: int
    first: KindStopped


class Unplanned(_Reason, frozen=True, kw_only=True):
    """It stands in the log, and the coordinator has not planned it yet."""


Reason = (
    Unplanned
    | Cancelled
    | Superseded
    | Expired
    | NotBefore
    | Unready
    | Paused
    | Halted
    | NeedsAdvance
    | Unfinished
    | Behind
    | Soaking
    | NoPlace
    | Offline
    | HeldUntil
    | PausedThere
    | OutsideWindow
    | UnknownZone
    | TooManyFailed
    | NobodyConfirmed
    | KindStopped
    | KindsStopped
)


def sentence(subject: Subject, reason: Reason, names: Mapping[str, str], waves: int) -> str:
    """Say what waits and why, as ``wave 2 of 3 waits: …``; `names` by device id, `waves` is the rollout's number."""
    return spoken(subject, clause(reason), names, waves)


def spoken(subject: Subject, why: str, names: Mapping[str, str], waves: int) -> str:
    """Say what waits, for a reason that is in words."""
    match subject:
        case None:
            who = "the rollout"
        case int():
            who = f"wave {subject} of {waves}"
        case str():
            who = names.get(subject, subject)
        case _:
            assert_never(subject)
    return f"{who} waits: {why}"


def record(reason: Reason) -> dict[str, Any]:
    """Give a reason as the fields of a record, its name first."""
    told: dict[str, Any] = msgspec.to_builtins(reason)
    return told


def clause(reason: Reason) -> str:  # noqa: C901 -- one case for each reason
    """Say why, without the subject: ``wave 1 soaks for 6 more minutes, 4 of 5 healthy``."""
    match reason:
        case Unplanned():
            return "the coordinator is about to plan it"
        case Cancelled():
            return "cancelled by a signed act"
        case Superseded():
            return "superseded by a newer rollout"
        case Expired():
            return f"expired since {utc(reason.not_after_wall_s)}"
        case NotBefore():
            return f"not before {utc(reason.not_before_wall_s)}"
        case Unready():
            return reason.why
        case Paused():
            return "paused by a signed act"
        case Halted():
            return f"halted: {reason.why}"
        case NeedsAdvance():
            return "its gate needs a signed advance"
        case Unfinished():
            return _counts(reason)
        case Behind(counts=Unfinished() as counts):
            return f"wave {reason.wave} is not done, {_counts(counts)}"
        case Behind():
            return f"wave {reason.wave} is not open yet"
        case Soaking():
            return _soaking(reason)
        case NoPlace():
            return f"no free place, {reason.used} of {reason.allowed} in flight"
        case Offline():
            return "offline, never seen" if reason.ago_s is None else f"offline for {_span(reason.ago_s)}"
        case HeldUntil():
            return f"held until {utc(reason.until_wall_s)}"
        case PausedThere():
            why = f": {reason.why}" if reason.why else ""
            return f"paused on the device itself until {utc(reason.until_wall_s)}{why}"
        case OutsideWindow():
            return f"outside its window until {_opening(reason)}"
        case UnknownZone():
            return f"its time zone {reason.zone!r} is not known here"
        case TooManyFailed():
            return f"{reason.failed} of {reason.total} failed, it stops at {reason.allowed}"
        case NobodyConfirmed():
            return f"in wave {reason.wave} nobody confirmed and {reason.failed} failed"
        case KindStopped():
            return f"stopped for {kind_words(reason.kind)}: {_same(reason)}"
        case KindsStopped(first=first):
            left = counted(reason.devices, "device")
            return f"{left} left, and it stopped for {kind_words(first.kind)}: {_same(first)}"
        case _:
            assert_never(reason)


def stop_sentence(stop: Stop, *, going_on: bool) -> str:
    """Say that a rollout stops for a kind of device, and whether the others go on."""
    others = "; others go on" if going_on else ""
    return f"stops for {kind_words(stop.kind)}: {_same(stop)}{others}"


def _same(stop: Stop | KindStopped) -> str:
    return f"{stop.failed} of {stop.tried} failed with the same system"


def _counts(counts: Unfinished) -> str:
    """List the counts that are not zero."""
    parts = [f"{counts.confirmed} of {counts.total} confirmed"]
    for number, word in (
        (counts.failed, "failed"),
        (counts.in_flight, "in flight"),
        (counts.rebooting, "to reboot"),
        (counts.pending, "to start"),
    ):
        if number:
            parts.append(f"{number} {word}")
    return ", ".join(parts)


def _soaking(reason: Soaking) -> str:
    """Say how long a soak lasts, then what it lacks."""
    return f"{time_left(reason)}, {reason.healthy} of {reason.confirmed} healthy"


def time_left(reason: Soaking) -> str:
    """Say how long a soak lasts."""
    if reason.left_s <= 0:
        return f"wave {reason.wave} has soaked"
    return f"wave {reason.wave} soaks for {_span(reason.left_s, 'more ')}"


def _opening(reason: OutsideWindow) -> str:
    """Say when a window opens, in its own zone; with the day unless it is today."""
    zone = zone_of(reason.zone) or UTC
    opens = datetime.fromtimestamp(reason.opens_wall_s, zone)
    day = "" if reason.today else f"{('Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun')[opens.weekday()]} "
    return f"{day}{opens:%H:%M} {reason.zone or 'UTC'}"


def _span(seconds: int, more: str = "") -> str:
    """Write a duration in the largest unit that it fills: past time rounded down, time to come (`more`) up."""
    units = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
    unit, size = next((pair for pair in units if seconds >= pair[1]), units[-1])
    number = -(-seconds // size) if more else seconds // size
    return counted(number, f"{more}{unit}")
