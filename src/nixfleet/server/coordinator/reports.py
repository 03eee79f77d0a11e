"""Signed reports: verified with the device's key of the log, ordered by `seq`, durable before they are answered."""

from collections.abc import Awaitable, Callable

import msgspec

from nixfleet.errors import Untrusted
from nixfleet.model.device import Attempt, Facts, Outcome, Report
from nixfleet.model.ids import Hex32
from nixfleet.model.reading import UNREADABLE
from nixfleet.model.wire import Signed
from nixfleet.server.coordinator.clock import RunClock
from nixfleet.server.coordinator.groups import GroupWriter
from nixfleet.server.coordinator.live import Live, LiveDevices
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.twins import Twins
from nixfleet.server.store import AttemptRow, DeviceRow, Forget, Store, Told
from nixfleet.trust.reports import open_report
from nixfleet.trust.sshsig import PublicKey

Known = Callable[[str, str, int], Awaitable[bool]]
"""Rollout, device, run: is that a try the planner knows of?"""
Heard = Callable[[Report, AttemptRow | None], None]


class _Peek(msgspec.Struct):
    """Whose report it claims to be; believed only once the signature holds for that device's key."""

    device: Hex32


class ReportDesk:
    """Takes reports in."""

    def __init__(
        self,
        store: Store,
        log: LogKeeper,
        live: LiveDevices,
        clock: RunClock,
        twins: Twins,
        *,
        known: Known,
        heard: Heard,
        cloned: Callable[[str], None],
    ) -> None:
        """Take in nothing yet; `cloned` is told of a device whose key two machines use, or do no more."""
        self._log = log
        self._live = live
        self._clock = clock
        self._twins = twins
        self._cloned = cloned
        self._known = known
        self._heard = heard
        self._group = GroupWriter[Told | Forget](store.status.save)

    async def take(self, signed: Signed) -> int | None:
        """Verify and store a report; a seq that is not above the last is dropped, and the last one is given.

        A report that comes a second time was taken. Raises: Untrusted, Busy.
        """
        report, key = await self._open(signed)
        if self._twins.heard(report, self._clock.wall_s()):
            self._cloned(report.device)
        live = self._live.get(report.device)
        if report.seq <= live.seq:
            return None if report == live.report else live.seq
        now = self._clock.now()
        facts = report.facts if report.facts is not None else live.facts
        row = DeviceRow(
            device=report.device,
            seq=report.seq,
            payload=signed.payload,
            signature=signed.signature,
            facts=msgspec.json.encode(facts),
            reported_at=now.wall_s,
            seen_at=now.wall_s,
            changed_at=now.wall_s,
        )
        attempt = await self._attempt(report, now.run_s, now.wall_s)
        self._still(report.device, key)
        await self._group.put(Told(row, attempt))
        self._still(report.device, key)
        if self._apply(report, facts, now.wall_s, now.run_s) or not _same_try(self._live.get(report.device), attempt):
            self._heard(report, attempt)
        return None

    def forget(self, device: str) -> None:
        """Let go of a device's former key's reports, those that wait to be written too; what comes after it stays."""
        self._live.forget(device)
        self._twins.forget(device)
        self._group.add(Forget(device))

    async def close(self) -> None:
        """Wait for what is being written."""
        await self._group.close()

    async def _open(self, signed: Signed) -> tuple[Report, PublicKey]:
        try:
            device = msgspec.json.decode(signed.payload, type=_Peek).device
        except UNREADABLE as error:
            raise Untrusted(f"malformed report: {error}") from error
        key = self._log.device_key(device)
        if key is None:
            await self._log.catch_up()  # another coordinator may have enrolled it a moment ago
            key = self._log.device_key(device)
        if key is None:
            raise Untrusted("the report is of a device that is not enrolled here")
        return open_report(signed, key, fleet=self._log.fleet, device=device), key

    def _still(self, device: str, key: PublicKey) -> None:
        """Drop a report whose key was changed or revoked while it was on its way into the store. Raises: Untrusted."""
        if self._log.device_key(device) != key:
            raise Untrusted("the report is by a key that the device has no more")

    async def _attempt(self, report: Report, run_s: int, wall_s: int) -> AttemptRow | None:
        """Make the row of the try that a report speaks of; a rollout that the log does not know leaves no trace."""
        told = report.attempt
        if told is None or not await self._known(told.rollout, report.device, told.run):
            return None
        ended = told.outcome is not None
        return AttemptRow(
            rollout=told.rollout,
            device=report.device,
            run=told.run,
            told=msgspec.json.encode(told),
            changed_at=wall_s,
            outcome_s=run_s if ended else None,
            outcome_at=wall_s if ended else None,
            healthy_s=run_s if report.healthy and told.outcome is Outcome.CONFIRMED else None,
        )

    def _apply(self, report: Report, facts: Facts | None, wall_s: int, run_s: int) -> bool:
        """Take a stored report up; False when a newer one was in the same group, which the store prefers too."""
        live = self._live.get(report.device)
        if report.seq <= live.seq:
            return False
        live.seq = report.seq
        live.report = report
        live.facts = facts
        live.reported_at = live.seen_at = max(live.seen_at, wall_s)
        if report.healthy:
            live.healthy_s = run_s
        if _ended(report.attempt):
            live.progress = None
        return True


def _same_try(live: Live, row: AttemptRow | None) -> bool:
    """Tell whether a device's newest report speaks of the same try."""
    told = live.report.attempt if live.report is not None else None
    return told is not None and row is not None and (told.rollout, told.run) == (row.rollout, row.run)


def _ended(attempt: Attempt | None) -> bool:
    return attempt is not None and attempt.outcome is not None
