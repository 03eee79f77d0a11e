"""Records for console and command line, made from log, reports and plans; unsigned, and cached until they change."""

from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

import nixfleet
from nixfleet.errors import UserError
from nixfleet.model.device import Outcome, Report
from nixfleet.model.ids import Digest, Fingerprint
from nixfleet.model.statements import Rollout, Wave
from nixfleet.model.views import (
    DeviceView,
    FleetView,
    MemberView,
    ReleaseLineView,
    ReleaseView,
    RolloutDetail,
    RolloutView,
    Transfer,
    WaveView,
)
from nixfleet.rollout import Counts, Standing, WaveState, sentence, status, summary
from nixfleet.server.coordinator.clock import RunClock
from nixfleet.server.coordinator.live import Live, LiveDevices, phase_of
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.planner import Planner
from nixfleet.server.coordinator.releases import Releases
from nixfleet.server.coordinator.sync import WAKING
from nixfleet.server.coordinator.work import Work
from nixfleet.server.faults import Unknown
from nixfleet.server.store import EntryRow
from nixfleet.server.text import clean, clean_facts
from nixfleet.trust.replay import ReleaseRecord, principal_of
from nixfleet.trust.words import select_words

_PREFIX_MIN = 6
_LINES_SHOWN = 20


class Views:
    """Makes views; `touch` says that a device's has changed."""

    def __init__(
        self, log: LogKeeper, live: LiveDevices, planner: Planner, releases: Releases, clock: RunClock
    ) -> None:
        self._log = log
        self._live = live
        self._planner = planner
        self._releases = releases
        self._clock = clock
        self._devices: dict[str, DeviceView] = {}

    # Fleet

    def fleet(self) -> FleetView:
        """Show the fleet at a glance."""
        root = self._log.root_statement()
        return FleetView(
            id=self._log.fleet,
            name=self._log.name or urlsplit(root.urls[0]).hostname or "",
            urls=root.urls,
            log_size=self._log.size,
            log_root=self._log.state.tree.root().hex(),
            epoch=root.log.epoch,
            root_keys=len(self._log.state.root_keys),
            protocol=root.protocol,
            server_time=self._clock.wall_s(),
            version=nixfleet.__version__,
        )

    # Devices

    def touch(self, devices: Iterable[str]) -> None:
        """Forget what was made of these devices."""
        for device in devices:
            self._devices.pop(device, None)

    def devices(self) -> list[DeviceView]:
        """Show all devices but the retired ones, by name."""
        views = [self.device(device) for device in self._log.state.devices]
        return sorted((view for view in views if view.state != "retired"), key=lambda view: (view.name, view.id))

    def find(self, name: str) -> str:
        """Give the id of a device by id or name, an unretired one first. Raises: Unknown."""
        if name in self._log.state.devices:
            return name
        ids = self._log.state.named(name)
        if ids:
            return ids[0]
        for device, record in self._log.state.devices.items():
            if record.statement.name == name:
                return device
        raise Unknown(f"there is no device {name[:63]!r}")

    def device(self, device: str) -> DeviceView:
        """Show one device."""
        view = self._devices.get(device)
        if view is None:
            view = self._devices[device] = self._device(device)
        return view

    def _device(self, device: str) -> DeviceView:
        record = self._log.state.devices[device]
        statement, live, now = record.statement, self._live.get(device), self._clock.wall_s()
        online = self._live.online(device, now)
        view = DeviceView(
            id=device,
            name=statement.name,
            key=statement.key,
            tags=statement.tags,
            state=statement.state,
            version=statement.version,
            held_until=statement.until,
            online=online,
            link=live.link if online else "",
            seen_at=now if online else live.seen_at,
            phase=phase_of(live),
            transfer=_transfer(live),
            facts=clean_facts(live.facts),
            enrolled_at=record.enrolled_at,
            reported_at=live.reported_at,
            lines=tuple(live.output.after(live.output.next - _LINES_SHOWN)) if live.output else (),
        )
        if live.report is not None:
            view = self._reported(view, live.report, live)
        work = self._planner.newest(device)
        if work is not None and statement.state != "retired":
            view = msgspec.structs.replace(
                view,
                intended=work.brings(device, statement.tags) or "",
                release=self._release_name(work.logged.statement),
                rollout=work.id,
                waits=self._planner.waits_for(work, device),
            )
        return view

    def _reported(self, view: DeviceView, report: Report, live: Live) -> DeviceView:
        attempt = report.attempt
        if attempt is not None and live.progress is not None and live.progress.rollout != attempt.rollout:
            attempt = None
        return msgspec.structs.replace(
            view,
            outcome=attempt.outcome if attempt else None,
            cause=attempt.cause.value if attempt and attempt.outcome not in {None, Outcome.CONFIRMED} else "",
            reason=clean(attempt.reason if attempt and attempt.reason else report.note),
            previous=clean(attempt.previous) if attempt else "",
            system=clean(report.system),
            booted=clean(report.booted),
            healthy=report.healthy,
            boot_id=clean(report.boot_id),
            log_size=report.log.size,
            log_root=report.log.root,
            log_state=self._log_state(view, report, live),
            protocol=report.protocol,
        )

    def _log_state(self, view: DeviceView, report: Report, live: Live) -> str:
        """Compare the log that a device signed for with ours: ok, behind, ahead or fork."""
        ours = self._log.root_at(report.log.size)
        if ours is None:
            return "ahead"
        if ours != report.log.root:
            return "fork"
        # A stream that was served has brought what is newer; a device signs for it with its next report.
        known = max(report.log.size, live.sent_size if view.online else 0)
        waits = any(row.kind in WAKING and row.index >= known for row in self._newest(known))
        return "behind" if waits else "ok"

    def _newest(self, size: int) -> Iterable[EntryRow]:
        tail = self._log.tail
        count = min(len(tail), max(0, self._log.size - size))
        return (tail[at] for at in range(len(tail) - count, len(tail)))

    # Releases

    def _release_name(self, rollout: Rollout) -> str:
        record = self._log.state.releases.get(Digest(rollout.release or ""))
        if record is not None:
            return record.statement.name
        if rollout.of is not None:
            return f"back from {self._release_name(self._log.state.rollouts[Digest(rollout.of)].statement)}"
        return (rollout.release or "")[:12]

    def releases(self) -> list[ReleaseView]:
        """Show all releases, newest first, without their lines."""
        return [self.release_head(record) for record in reversed(self._log.state.releases.values())]

    def release_head(self, record: ReleaseRecord) -> ReleaseView:
        """Show a release without its lines."""
        statement = record.statement
        return ReleaseView(
            id=record.digest,
            index=record.place.index,
            name=statement.name,
            by=record.place.signer,
            principal=principal_of(self._log.state, record.place.signer),
            at=record.place.log_time,
            note=clean(statement.note or ""),
            targets=statement.targets.size if statement.targets else 0,
            source_url=clean(statement.source.url) if statement.source else "",
            source_rev=clean(statement.source.rev) if statement.source else "",
        )

    async def release(self, name: str) -> ReleaseView:
        """Show a release by digest, its start, or the newest of a name, with its lines. Raises: Unknown."""
        records = self._log.state.releases
        found = records.get(Digest(name)) or next(
            (one for one in reversed(records.values()) if one.statement.name == name), None
        )
        if found is None:
            digest = _by_prefix(name, records, "release")
            found = records[Digest(digest)]
        lines = await self._releases.get(found.digest)
        shown = [
            ReleaseLineView(
                device=line.device,
                name=self._name(line.device),
                path=line.path,
                system=line.system,
                digest=line.digest,
                nar_size=line.nar_size,
            )
            for line in lines.lines.values()
        ]
        shown += [
            ReleaseLineView(
                select=line.select,
                path=line.closure.path,
                system=line.closure.system,
                digest=line.closure.digest,
                nar_size=line.closure.nar_size,
            )
            for line in found.statement.lines or ()
        ]
        return msgspec.structs.replace(self.release_head(found), lines=tuple(shown))

    def _name(self, device: str) -> str:
        statement = self._log.device(device)
        return statement.name if statement else ""

    # Rollouts

    def rollout_release(self, work: Work) -> str:
        """Name what a rollout brings."""
        return self._release_name(work.logged.statement)

    def rollouts(self) -> list[RolloutView]:
        """Show all rollouts, newest first."""
        return [self.rollout(work) for work in reversed(self._planner.works.values())]

    def work(self, name: str) -> Work:
        """Find a rollout by digest or an unambiguous start of it. Raises: Unknown, UserError."""
        works = self._planner.works
        return works.get(name) or works[_by_prefix(name, works, "rollout")]

    def rollout(self, work: Work) -> RolloutView:
        """Show a rollout."""
        logged, stored, statement = work.logged, work.stored, work.logged.statement
        now, state, lineup = self._clock.now(), work.state(self._clock.reconnect_s), work.lineup()
        result = summary(state, tuple(work.members.values()), now, lineup)
        word, total = status(state, now), result.total
        waits = work.waits.get(None)
        clocks = stored.waves or tuple(WaveState() for _ in statement.waves)
        numbered = enumerate(zip(statement.waves, clocks, result.waves, strict=True), start=1)
        return RolloutView(
            id=work.id,
            index=logged.index,
            kind=statement.kind,
            release=statement.release or "",
            release_name=self._release_name(statement),
            by=logged.place.signer,
            principal=principal_of(self._log.state, Fingerprint(logged.place.signer)),
            at=logged.place.log_time,
            note=clean(statement.note or ""),
            state=word,
            waits="" if waits is None else sentence(None, waits, {}, len(clocks)),
            halted=state.halted if word == "halted" else "",
            standing=word == "finished" and not work.superseded,
            waves=tuple(self._wave(work, number, *parts) for number, parts in numbered),
            total=total.total,
            confirmed=total.confirmed,
            failed=total.failed + total.overdue,
            in_flight=total.in_flight,
            max_in_flight=statement.max_in_flight,
            soak_s=statement.soak_s,
            device_timeout_s=statement.device_timeout_s,
            started_at=stored.started_at,
            finished_at=stored.finished_at,
            controls=logged.controls,
        )

    def _wave(self, work: Work, number: int, wave: Wave, clock: WaveState, counts: Counts) -> WaveView:
        reason = work.waits.get(number)
        members = select_words(wave.members) if isinstance(wave.members, dict) else str(wave.members)
        return WaveView(
            number=number,
            members=members,
            gate=wave.gate,
            state=_wave_state(clock),
            total=counts.total,
            confirmed=counts.confirmed,
            failed=counts.failed,
            in_flight=counts.in_flight,
            overdue=counts.overdue,
            opened_at=None if clock.opened_s is None else self._wall_of(clock.opened_s),
            waits="" if reason is None else sentence(number, reason, {}, len(work.logged.statement.waves)),
        )

    def _wall_of(self, run_s: int) -> int:
        """Turn running time into wall time, as if no gap had been since."""
        now = self._clock.now()
        return now.wall_s - (now.run_s - run_s)

    def detail(self, work: Work) -> RolloutDetail:
        """Show a rollout with its members, in the order of their waves."""
        now, state = self._clock.now(), work.state(self._clock.reconnect_s)
        standings = summary(state, tuple(work.members.values()), now, work.lineup()).standings
        members = []
        for number, wave in enumerate(work.lineup(), start=1):
            for device in wave:
                member, live = work.members[device], self._live.get(device)
                if standings[device] is Standing.GONE:
                    continue
                members.append(
                    MemberView(
                        device=device,
                        name=member.name,
                        wave=number,
                        phase=member.phase,
                        outcome=member.outcome,
                        overdue=standings[device] is Standing.OVERDUE,
                        online=member.online,
                        reason=clean(member.reason),
                        waits=self._planner.waits_for(work, device),
                        transfer=_transfer(live) if live.progress and live.progress.rollout == work.id else None,
                    )
                )
        return RolloutDetail(rollout=self.rollout(work), members=tuple(members))


def _transfer(live: Live) -> Transfer | None:
    progress = live.progress
    if progress is None or not progress.total_bytes:
        return None
    return Transfer(
        done_bytes=progress.done_bytes, total_bytes=progress.total_bytes, rate_bytes_s=progress.rate_bytes_s
    )


def _wave_state(clock: WaveState) -> str:
    """Say where a wave is: waiting, open, soaking or passed."""
    if clock.passed_s is not None:
        return "passed"
    if clock.done_s is not None:
        return "soaking"
    return "waiting" if clock.opened_s is None else "open"


def _by_prefix(name: str, known: Iterable[str], what: str) -> str:
    """Find the one digest that begins so. Raises: Unknown, UserError when several do."""
    found = [digest for digest in known if len(name) >= _PREFIX_MIN and digest.startswith(name)]
    if not found:
        raise Unknown(f"there is no {what} {name[:64]!r}")
    if len(found) > 1:
        raise UserError(f"{len(found)} {what}s begin with {name}: give more digits")
    return found[0]
