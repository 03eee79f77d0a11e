"""What the planner is told: the clock, a rollout's row, its waves' clocks and its members; data without rules.

Durations are measured on the coordinator's running clock (`Clock.run_s`), so that time only passes while a
coordinator runs.
"""

from typing import Literal

import msgspec

from nixfleet.model.device import Cause, Outcome, Phase
from nixfleet.model.ids import Tags
from nixfleet.model.statements import Rollout


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """Wall time, and the seconds that a coordinator has run since the fleet began (gaps over 60 s left out)."""

    wall_s: int
    run_s: int


class Kind(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What devices have in common that one system may not suit, as their facts say; texts are the devices' own."""

    model: str = ""
    nixos_version: str = ""
    kernel: str = ""


class Stop(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A system that fails on a kind of device: the rollout starts it on no further one before a signed `resume`."""

    path: str
    kind: Kind
    failed: int
    tried: int
    """How many of the kind had come to something with this system when it was noticed."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A device of the rollout's set as the planner sees it; `*_s` are running-clock seconds unless named wall."""

    device: str
    name: str
    tags: Tags
    active: bool = True
    held_until_wall_s: int | None = None
    paused_until_wall_s: int | None = None
    """Until when root lets no update begin on the device itself, and why: by its own signed word."""
    pause_reason: str = ""
    late: bool = False
    """It matched only after the rollout's index: it belongs to the last wave."""
    online: bool = False
    seen_s: int | None = None
    run: int = 1
    """Which try is wanted: 1 + the signed retries that name this device."""
    offered_s: int | None = None
    """When this try was started, or None."""
    waiting_s: int | None = None
    """When this try was first held back because the device was offline (see `Await`)."""
    overdue_s: int | None = None
    """When this try was given up as overdue and its place given back (see `Overdue`); it may still confirm."""
    parked_s: int | None = None
    """When this try gave its place back because it only waits for a reboot (see `Parked`)."""
    excused: bool = False
    """A signed resume has accepted this try's failure: it no longer counts against `stop_at`."""
    phase: Phase = Phase.IDLE
    outcome: Outcome | None = None
    """The outcome of this try, or None."""
    cause: Cause = Cause.NONE
    reason: str = ""
    healthy_s: int | None = None
    """When it last reported healthy after confirming."""
    timezone: str = "UTC"
    path: str = ""
    """The system that the rollout brings it; empty while that is not known."""
    kind: Kind | None = None
    """Its kind as of the start of this try, for a new system changes facts; before it, as of now. None: unknown."""


class WaveState(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored of a wave: when it opened, and when all its members were done (soak starts)."""

    opened_s: int | None = None
    done_s: int | None = None
    passed_s: int | None = None


Status = Literal["waiting", "running", "paused", "halted", "finished", "cancelled", "superseded", "expired"]


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """How far a rollout has come, as log and row describe it; the shell applies decisions to it by compare-and-set."""

    id: str
    body: Rollout
    index: int
    unready: str = ""
    """What it lacks of rights, approvals or the root's rules, in words; empty when it has them all."""
    paused: bool = False
    cancelled: bool = False
    superseded: bool = False
    advanced: frozenset[int] = frozenset()
    """Waves that a signed ``advance`` has opened the gate of, numbered from 1."""
    resumed: int = 0
    """Signed resumes so far; a halt is cleared by a later one."""
    halted: str = ""
    """Why it halted, in words; empty when it never did or has been resumed."""
    halted_resumed: int = 0
    """`resumed` when it halted."""
    stops: tuple[Stop, ...] = ()
    """Systems that failed on a kind of device; a later signed resume clears them all."""
    stops_resumed: int = 0
    """`resumed` when the newest of them was noticed."""
    finished: bool = False
    waves: tuple[WaveState, ...] = ()
    """Stored wave clocks; empty before the first plan."""
    reconnect_s: int | None = None
    """Running-clock time until which nobody is overdue (a full reconnect period after a gap)."""
