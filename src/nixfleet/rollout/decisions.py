"""What `plan` can decide: each value is so specific that carrying it out has no choices left.

Waves are numbered from 1. A decision about a device's try names its `run`, so that a stale one changes nothing.
"""

import msgspec

from nixfleet.rollout.reasons import Reason, Subject
from nixfleet.rollout.types import Stop


class _Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing to do, or one reason not to; many at a time and never in a cycle, so the collector need not look."""


class Open(_Decision, frozen=True, kw_only=True):
    """The wave's gate opens."""

    wave: int


class Done(_Decision, frozen=True, kw_only=True):
    """Nothing more is awaited of the wave's members: its soak begins."""

    wave: int


class Passed(_Decision, frozen=True, kw_only=True):
    """The wave has soaked: the next may open."""

    wave: int


class Start(_Decision, frozen=True, kw_only=True):
    """Offer the update to the device: give it its gate."""

    device: str
    run: int
    wave: int


class Await(_Decision, frozen=True, kw_only=True):
    """It is the device's turn but it is offline: the time that others wait for it begins to count."""

    device: str
    run: int


class Overdue(_Decision, frozen=True, kw_only=True):
    """`device_timeout_s` passed without an outcome: it counts as failed, gives its place back, may still confirm."""

    device: str
    run: int


class Parked(_Decision, frozen=True, kw_only=True):
    """`device_timeout_s` passed and it only waits for a reboot: it gives its place back, neither failed nor done."""

    device: str
    run: int


class Ask(_Decision, frozen=True, kw_only=True):
    """A soak is in its last quarter (or over) and this confirmed device has not reported healthy within it: ask it."""

    device: str


class Wait(_Decision, frozen=True, kw_only=True):
    """The subject waits; a wave's reason holds for its members, the rollout's for all, that have none of their own."""

    subject: Subject
    why: Reason


class Halt(_Decision, frozen=True, kw_only=True):
    """Stop: nothing starts before a signed `resume`."""

    why: Reason


class StopKind(_Decision, frozen=True, kw_only=True):
    """The same system failed on several devices of a kind: no further one is started, the others go on."""

    stop: Stop


class Resumed(_Decision, frozen=True, kw_only=True):
    """A signed `resume` clears halt and stops; the failures so far are excused, and are not tried again."""

    excused: tuple[str, ...]


class Finish(_Decision, frozen=True, kw_only=True):
    """Every wave has passed: from now on the rollout stands."""


Decision = Open | Done | Passed | Start | Await | Overdue | Parked | Ask | Wait | Halt | StopKind | Resumed | Finish
