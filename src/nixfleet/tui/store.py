"""The console's picture of the fleet: records by id, numbered deltas, what changed since it was last drawn.

It must not know how anything is drawn, and it never asks anybody: `feed` puts in what it is told.
"""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeVar

from nixfleet.model.views import Delta, DeviceView, EnrollView, FleetView, ReleaseView, RolloutView, Snapshot
from nixfleet.query import Status, status_of

Kind = Literal["device", "rollout", "release", "request", "fleet"]
T = TypeVar("T", DeviceView, RolloutView, ReleaseView, EnrollView)

MAX_LINES = 2_000
"""Output lines kept of a device that is being watched."""


class Gap(Exception):
    """A delta is missing: only a new snapshot helps."""


class Changes:
    """Ids that changed since somebody last asked, by kind; `everything` after a snapshot."""

    __slots__ = ("everything", "ids")

    def __init__(self, *, everything: bool = False) -> None:
        self.everything = everything
        self.ids: dict[Kind, set[str]] = {}

    def __bool__(self) -> bool:
        return self.everything or bool(self.ids)

    def of(self, kind: Kind) -> frozenset[str]:
        """Give the changed ids of one kind."""
        return frozenset(self.ids.get(kind, ()))


class Store:
    """Records by id. Taking in a delta costs the same however large the fleet is."""

    def __init__(self) -> None:
        self.seq = -1
        self.fleet = FleetView(id="")
        self._devices: dict[str, DeviceView] = {}
        self._rollouts: dict[str, RolloutView] = {}
        self._releases: dict[str, ReleaseView] = {}
        self._requests: dict[str, EnrollView] = {}
        self._counts: Counter[Status] = Counter()
        self._forked: set[str] = set()
        self._changes = Changes(everything=True)
        self._lines: dict[str, list[str]] = {}

    @property
    def devices(self) -> Mapping[str, DeviceView]:
        """The devices by id."""
        return MappingProxyType(self._devices)

    @property
    def rollouts(self) -> Mapping[str, RolloutView]:
        """The rollouts by id."""
        return MappingProxyType(self._rollouts)

    @property
    def releases(self) -> Mapping[str, ReleaseView]:
        """The releases by id."""
        return MappingProxyType(self._releases)

    @property
    def requests(self) -> Mapping[str, EnrollView]:
        """Who asks to be enrolled, by device id."""
        return MappingProxyType(self._requests)

    @property
    def counts(self) -> Mapping[Status, int]:
        """How many devices have which status."""
        return self._counts

    @property
    def forked(self) -> tuple[str, ...]:
        """The names of the unretired devices that signed for another log than the coordinator's."""
        return tuple(sorted(self._devices[key].name for key in self._forked))

    @property
    def under_way(self) -> tuple[str, ...]:
        """The releases that are being rolled out now, by name."""
        return tuple(sorted({one.release_name for one in self._rollouts.values() if one.state == "running"}))

    @property
    def loaded(self) -> bool:
        """Whether a snapshot has arrived."""
        return self.seq >= 0

    def load(self, snapshot: Snapshot) -> None:
        """Take a snapshot: all that was known before is replaced."""
        self.seq = snapshot.seq
        self.fleet = snapshot.fleet
        self._devices = {record.id: record for record in snapshot.devices}
        self._rollouts = {record.id: record for record in snapshot.rollouts}
        self._releases = {record.id: record for record in snapshot.releases}
        self._requests = {record.device: record for record in snapshot.requests}
        self._counts = Counter(status_of(record) for record in snapshot.devices)
        self._forked = {record.id for record in snapshot.devices if _is_forked(record)}
        self._changes = Changes(everything=True)

    def apply(self, delta: Delta) -> None:
        """Take the next delta; one that was already taken is ignored. Raises: Gap when one is missing."""
        if delta.seq <= self.seq:
            return
        if delta.seq != self.seq + 1:
            raise Gap
        self.seq = delta.seq
        if delta.device is not None:
            self._put_device(delta.device)
        if delta.rollout is not None:
            self._put("rollout", self._rollouts, delta.rollout.id, delta.rollout)
        if delta.release is not None:
            self._put("release", self._releases, delta.release.id, delta.release)
        if delta.request is not None:
            self._put("request", self._requests, delta.request.device, delta.request)
        if delta.fleet is not None:
            self.fleet = delta.fleet
            self._touch("fleet", delta.fleet.id)
        if delta.removed:
            self._remove(delta.removed)
        if delta.line_device in self._lines:
            self._add_lines(delta.line_device, delta.lines)

    def take_changes(self) -> Changes:
        """Give what changed since the last call, and start over."""
        taken = self._changes
        self._changes = Changes()
        return taken

    def device_named(self, name: str) -> DeviceView | None:
        """Find a device by its name, an unretired one first."""
        found = [record for record in self._devices.values() if record.name == name]
        return min(found, key=lambda record: record.state == "retired", default=None)

    def watch_lines(self, device: str, lines: tuple[str, ...]) -> None:
        """Start to collect a device's output lines, with those it already had."""
        self._lines[device] = list(lines[-MAX_LINES:])
        self._touch("device", device)

    @property
    def watched(self) -> tuple[str, ...]:
        """The devices whose output is collected."""
        return tuple(self._lines)

    def unwatch_lines(self, device: str) -> None:
        """Stop collecting them."""
        self._lines.pop(device, None)

    def lines(self, device: str) -> tuple[str, ...]:
        """Give the lines collected so far."""
        return tuple(self._lines.get(device, ()))

    def _add_lines(self, device: str, lines: tuple[str, ...]) -> None:
        held = self._lines[device]
        held.extend(lines)
        del held[:-MAX_LINES]
        self._touch("device", device)

    def _put_device(self, record: DeviceView) -> None:
        if (old := self._devices.get(record.id)) is not None:
            self._uncount(old)
        self._devices[record.id] = record
        self._counts[status_of(record)] += 1
        (self._forked.add if _is_forked(record) else self._forked.discard)(record.id)
        self._touch("device", record.id)

    def _put(self, kind: Kind, records: dict[str, T], key: str, record: T) -> None:
        records[key] = record
        self._touch(kind, key)

    def _uncount(self, record: DeviceView) -> None:
        status = status_of(record)
        self._counts[status] -= 1
        if not self._counts[status]:
            del self._counts[status]

    def _touch(self, kind: Kind, key: str) -> None:
        self._changes.ids.setdefault(kind, set()).add(key)

    def _remove(self, named: str) -> None:
        """Drop what ``kind:id`` names; an unknown kind comes from a newer coordinator and is not shown here anyway."""
        kind, _, key = named.partition(":")
        if kind == "device":
            if (old := self._devices.pop(key, None)) is not None:
                self._uncount(old)
            self._forked.discard(key)
            self._touch("device", key)
        elif kind == "rollout":
            self._rollouts.pop(key, None)
            self._touch("rollout", key)
        elif kind == "release":
            self._releases.pop(key, None)
            self._touch("release", key)
        elif kind == "request":
            self._requests.pop(key, None)
            self._touch("request", key)


def _is_forked(record: DeviceView) -> bool:
    return record.log_state == "fork" and record.state != "retired"
