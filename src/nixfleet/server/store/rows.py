"""What the store hands out and takes: one frozen record per table, with no behaviour."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol


class Row(Protocol):
    """A record with slots."""

    __slots__: ClassVar[tuple[str, ...]]


def values(row: Row) -> dict[str, Any]:
    """Give a row's columns; `dataclasses.asdict` copies deeply and takes ten times as long."""
    return {name: getattr(row, name) for name in row.__slots__}


@dataclass(frozen=True, slots=True)
class EntryRow:
    """A log entry; `kind` and `subject` say what it is about, `said` is the JSON of its `EntryView`."""

    index: int
    leaf: bytes
    sha256: str
    payload: bytes
    kind: str
    subject: str
    said: bytes


@dataclass(frozen=True, slots=True)
class LineRow:
    """A release's target line at its place in the order of device ids."""

    release: str
    place: int
    device: str
    line: str


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device's newest signed report; `facts` is the JSON of the newest ones it told, which may be older."""

    device: str
    seq: int
    payload: bytes
    signature: bytes
    facts: bytes
    reported_at: int
    seen_at: int
    changed_at: int


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One try of a rollout on a device; `*_s` are running-clock seconds, `*_at` wall; `told` is an `Attempt`'s JSON."""

    rollout: str
    device: str
    run: int
    told: bytes
    changed_at: int
    offered_s: int | None = None
    offered_at: int | None = None
    waiting_s: int | None = None
    overdue_s: int | None = None
    parked_s: int | None = None
    excused: bool = False
    outcome_s: int | None = None
    outcome_at: int | None = None
    healthy_s: int | None = None
    kind: str = ""
    """What kind of device it was when the try began (`rollout.Kind` as JSON); empty before, or where unknown."""


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """A rollout's planner state (JSON) and the version that a change must name."""

    rollout: str
    version: int
    state: bytes


@dataclass(frozen=True, slots=True)
class EnrollRow:
    """A device that asks to be enrolled, as it signed it."""

    device: str
    payload: bytes
    signature: bytes
    asked_at: int
    seen_at: int


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session key: its fingerprint and text, whose it is (a fingerprint), and its end (unix seconds)."""

    key: str
    text: str
    by: str
    not_after: int


@dataclass(frozen=True, slots=True)
class ClockRow:
    """The running clock: seconds in which a coordinator ran, and when that was last written (unix seconds)."""

    run_s: int
    beat_s: int


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """A refused statement, by its namespace and digest, or a refused request, with its words in their place."""

    at: int
    by: str
    namespace: str
    sha256: str
    reason: str


@dataclass(frozen=True, slots=True)
class OfferedRow:
    """An entry that was given back; its payload may be still to come."""

    index: int
    leaf: bytes
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class MarkRow:
    """A checkpoint that the coordinator keeps for itself, by name, and since when (unix seconds)."""

    name: str
    note: bytes
    at: int
