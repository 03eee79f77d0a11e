"""A fleet's whole log in one file that anybody can check, offline: checkpoint, entries, and what devices signed.

JSON lines: a head, one line per entry, one per device report. Reading it trusts nobody: neither who wrote the file,
nor the coordinator. It must never say of a report more than its device signed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from nixfleet.client.mirror import Mirror
from nixfleet.errors import Untrusted, UserError
from nixfleet.model.device import Report
from nixfleet.model.ids import DeviceId, Digest, FleetId
from nixfleet.model.reading import UNREADABLE
from nixfleet.model.text import utc
from nixfleet.model.wire import Leaf as LeafBytes
from nixfleet.model.wire import Signed
from nixfleet.trust.replay import Allowed, Denied, Over, RolloutState, State, replay, right_of
from nixfleet.trust.replay.rights import approvers, principal_of, signers
from nixfleet.trust.reports import open_report
from nixfleet.trust.sshsig import parse_public_key
from nixfleet.trust.view import ENTRIES_MAX, LogView, first_void, verify_all

T = TypeVar("T")

_LINE_BYTES: Final = 256 << 10
_REPORTS_MAX: Final = 1_000_000


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The first line; the checkpoint is a signed note over all entries of the file."""

    format: Literal["nixfleet-audit-v1"] = "nixfleet-audit-v1"
    fleet: str
    entries: int
    reports: int
    checkpoint: bytes


class EntryLine(msgspec.Struct, frozen=True, kw_only=True):
    """One entry: the leaf holds log time, the payload's SHA-512 and the signature."""

    index: int
    leaf: LeafBytes
    payload: bytes | None


class ReportLine(msgspec.Struct, frozen=True, kw_only=True):
    """A device's newest report as it signed it."""

    device: str
    report: Signed


@dataclass(frozen=True, slots=True)
class Archive:
    """A file's content, unverified."""

    head: Head
    entries: list[tuple[bytes, bytes | None]]
    reports: list[ReportLine]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a device signed for, and by whose right; times in unix seconds."""

    device: str
    name: str
    at: int
    system: str
    log_size: int
    rollout: str = ""
    outcome: str = ""
    by: str = ""
    grants: tuple[str, ...] = ()
    approved: tuple[str, ...] = ()
    why: str = ""
    """Why the rollout's right does not hold for this device, or nothing."""

    @property
    def sentence(self) -> str:
        """Say it in one sentence."""
        ran = f"on {utc(self.at)} {self.name} ran {self.system or 'an unknown system'}"
        if not self.rollout:
            return ran
        under = f"under grant {' > '.join(self.grants)}" if self.grants else "as root"
        approved = f", approved by {', '.join(self.approved)}" if self.approved else ""
        told = f"{ran}; rollout {self.rollout[:12]} {self.outcome or 'is under way'}"
        return f"{told}, signed by {self.by} {under}{approved}" if not self.why else f"{told}: {self.why}"


@dataclass(frozen=True, slots=True)
class Checked:
    """A verified archive: the log, what devices say, and the first entry without effect if there is one."""

    view: LogView
    outcomes: tuple[Outcome, ...]
    void: tuple[int, str] | None


def lines_of(mirror: Mirror, reports: Sequence[tuple[str, Signed]]) -> Iterator[bytes]:
    """Write an archive of a verified log, line by line."""
    head = Head(fleet=mirror.fleet, entries=mirror.size, reports=len(reports), checkpoint=mirror.checkpoint)
    yield msgspec.json.encode(head) + b"\n"
    for index in range(mirror.size):
        entry = EntryLine(index=index, leaf=mirror.leaf(index), payload=mirror.payload(index))
        yield msgspec.json.encode(entry) + b"\n"
    for device, signed in reports:
        yield msgspec.json.encode(ReportLine(device=device, report=signed)) + b"\n"


def read(path: Path) -> Archive:
    """Read an archive, each line bounded. Raises: UserError for a file that is none; Untrusted for one cut short."""
    try:
        with path.open("rb") as file:
            head = _line(file.readline(_LINE_BYTES), Head, f"{path} is no export of an audit")
            if not 0 < head.entries <= ENTRIES_MAX or not 0 <= head.reports <= _REPORTS_MAX:
                raise UserError(f"{path} claims {head.entries} entries and {head.reports} reports")
            entries: list[tuple[bytes, bytes | None]] = []
            for index in range(head.entries):
                entry = _line(file.readline(_LINE_BYTES), EntryLine, f"{path} ends or is damaged at entry {index}")
                if entry.index != index:
                    raise Untrusted(f"{path} has entry {entry.index} where {index} belongs")
                entries.append((entry.leaf, entry.payload))
            told = f"{path} ends or is damaged in its reports"
            reports = [_line(file.readline(_LINE_BYTES), ReportLine, told) for _ in range(head.reports)]
            if file.read(1):
                raise Untrusted(f"{path} goes on after what it says it holds")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    return Archive(head, entries, reports)


def _line(data: bytes, shape: type[T], otherwise: str) -> T:
    try:
        return msgspec.json.decode(data, type=shape)
    except UNREADABLE as error:
        raise (UserError if shape is Head else Untrusted)(f"{otherwise}: {error}") from error


def verify(archive: Archive, fleet: str | None = None) -> Checked:
    """Replay an archive from zero, and hold what devices signed against it.

    `fleet` is the id that the reader knows; without it the file's own counts. Raises: Untrusted, naming what is bad.
    """
    if fleet is not None and archive.head.fleet != fleet:
        raise Untrusted(f"the export is of fleet {archive.head.fleet}, not of {fleet}")
    view = verify_all(archive.head.fleet, archive.head.checkpoint, archive.entries)
    outcomes = _outcomes(archive, view)
    return Checked(view, outcomes, first_void(archive.head.fleet, archive.entries))


def _outcomes(archive: Archive, view: LogView) -> tuple[Outcome, ...]:
    """Judge each report by the log up to where its device had read it: what came later is no part of it."""
    opened = [(line.device, _opened(line, view)) for line in archive.reports]
    state, found = State(FleetId(view.fleet)), []
    at = 0
    for device, report in sorted(opened, key=lambda one: (one[1].log.size, one[0])):
        if report.log.size > view.size:
            raise Untrusted(f"{device} signed for a log of {report.log.size} entries, and the export has {view.size}")
        for index in range(at, report.log.size):
            replay(state, index, *archive.entries[index])
        at = report.log.size
        if state.tree.root().hex() != report.log.root:
            raise Untrusted(f"{device} signed for another log at {at} entries: there are two histories")
        found.append(_outcome(view.state, state, report))
    return tuple(sorted(found, key=lambda one: one.name))


def _opened(line: ReportLine, view: LogView) -> Report:
    record = view.state.devices.get(DeviceId(line.device))
    if record is None:
        raise Untrusted(f"there is a report of {line.device[:64]!r}, which is no device of this log")
    device = record.statement
    try:
        return open_report(line.report, parse_public_key(device.key), fleet=view.fleet, device=device.device)
    except Untrusted as error:
        raise Untrusted(f"the report of {device.name} is not by its key: {error}") from error


def _outcome(now: State, then: State, report: Report) -> Outcome:
    name, told = now.devices[DeviceId(report.device)].statement.name, report.attempt
    plain = Outcome(report.device, name, report.at, report.system, report.log.size)
    if told is None:
        return plain
    tried = replace(plain, rollout=told.rollout, outcome="" if told.outcome is None else told.outcome.value)
    rollout, record = then.rollouts.get(Digest(told.rollout)), then.devices.get(DeviceId(report.device))
    if rollout is None or record is None:
        return replace(tried, why="the log that the device had read does not have it")
    by, now_s = principal_of(then, rollout.place.signer), max(report.at, then.last_time)
    right = right_of(then, rollout, record.statement.tags, now_s)
    if isinstance(right, Denied):
        return replace(tried, by=by, why=right.reason)
    approved = _approved(then, rollout, right, Over(tags=(record.statement.tags,)), now_s)
    return replace(tried, by=by, approved=approved, grants=tuple(link.id for link in right.chain))


def _approved(state: State, rollout: RolloutState, right: Allowed, over: Over, now: int) -> tuple[str, ...]:
    """Name whose signatures stand beside the signer's over a device: others that were given count for nothing."""
    by, sha512 = rollout.place.signer, rollout.place.sha512
    keys = list(approvers(state, right, by, over, now, sha512))
    if not right.chain:
        keys += [key for key in signers(state, by, sha512) if key in state.root_keys and key not in state.revoked_keys]
    own = principal_of(state, by)
    return tuple(dict.fromkeys(name for key in keys if (name := principal_of(state, key)) != own))
