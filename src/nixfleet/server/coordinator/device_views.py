"""Devices as people see them: what they signed, what the log intends, what keeps them; cached until it changes."""

from collections.abc import Callable, Iterable

import msgspec

from nixfleet.model.device import Attempt, Outcome, Phase, Progress, Report
from nixfleet.model.ids import Tags
from nixfleet.model.text import clean
from nixfleet.model.views import DeviceView, Transfer
from nixfleet.server.coordinator.clock import RunClock
from nixfleet.server.coordinator.live import Live, LiveDevices, paused_at, phase_of
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.planner import Planner
from nixfleet.server.coordinator.release_views import ReleaseViews
from nixfleet.server.coordinator.sync import WAKING
from nixfleet.server.coordinator.twins import CAUSE, Twins
from nixfleet.server.coordinator.work import Work
from nixfleet.server.faults import Unknown
from nixfleet.server.store import EntryRow
from nixfleet.server.text import clean_facts
from nixfleet.trust.replay.reach import EVERYTHING, Reach

_LINES_SHOWN = 20


class DeviceViews:
    """Makes views of devices; `touch` says that one has changed."""

    def __init__(
        self,
        log: LogKeeper,
        live: LiveDevices,
        planner: Planner,
        releases: ReleaseViews,
        clock: RunClock,
        twins: Twins,
    ) -> None:
        self._log = log
        self._live = live
        self._planner = planner
        self._releases = releases
        self._clock = clock
        self._twins = twins
        self._devices: dict[str, DeviceView] = {}
        self.partial: Callable[[Work, Reach], bool] = lambda _work, _reach: True
        """Tells whether a rollout has members that a reader may not read of."""

    def touch(self, devices: Iterable[str]) -> None:
        """Forget what was made of these devices."""
        for device in devices:
            self._devices.pop(device, None)

    def all(self, reach: Reach = EVERYTHING) -> list[DeviceView]:
        """Show all devices that a reader may read of, but the retired ones, by name."""
        devices: Iterable[str] = self._log.state.devices
        if not reach.everything:
            devices = (device for device in devices if reach.over(self.tags(device)))
        known: dict[str, bool] = {}
        views = (self.seen(device, reach, known) for device in devices)
        return sorted((view for view in views if view.state != "retired"), key=lambda view: (view.name, view.id))

    def tags(self, device: str) -> Tags:
        """Give the tags by which it is judged who may read of a device: those of its newest statement."""
        return self._log.state.devices[device].statement.tags

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

    def seen(self, device: str, reach: Reach, known: dict[str, bool] | None = None) -> DeviceView:
        """Show a device to who may read of it: what it waits for counts no member of its rollout out of reach.

        `known` keeps for a list, by rollout, whether there are such.
        """
        view = self.one(device)
        work = None if reach.everything or not view.waits else self._planner.works.get(view.rollout)
        if work is None or view.waits != self._planner.waits_for(work, device):
            return view
        known = {} if known is None else known
        if work.id not in known:
            known[work.id] = self.partial(work, reach)
        return msgspec.structs.replace(view, waits=self._planner.waits_for(work, device, partial=known[work.id]))

    def one(self, device: str) -> DeviceView:
        """Show one device to who may read everything."""
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
            transfer=transfer_of(live),
            facts=clean_facts(live.facts),
            enrolled_at=record.enrolled_at,
            reported_at=live.reported_at,
            lines=tuple(live.output.after(live.output.next - _LINES_SHOWN)) if live.output else (),
        )
        if live.report is not None:
            view = self._reported(view, live.report, live)
        work = self._planner.newest(device)
        if work is None and statement.state != "retired":
            view = msgspec.structs.replace(view, waits=self._planner.awaits(device))
        if work is not None and statement.state != "retired":
            view = msgspec.structs.replace(
                view,
                intended=work.brings(device, statement.tags) or "",
                release=self._releases.name_of(work.logged.statement),
                rollout=work.id,
                wave=work.wave_of.get(device),
                waits=self._planner.waits_for(work, device),
            )
            if _rests(live) and self._planner.offered(work, device):
                # What it told is of an earlier try: until it tells of this one, it has been offered an update,
                # or has said why it begins none.
                why = clean(live.report.note) if live.report is not None else ""
                phase = Phase.IDLE if why else Phase.OFFERED
                waits = why or view.waits
                view = msgspec.structs.replace(view, phase=phase, outcome=None, cause="", reason=why, waits=waits)
        if twins := self._twins.words(device, statement.name):
            # Whatever else it says may be the other machine's word.
            view = msgspec.structs.replace(view, cause=CAUSE, reason=twins)
        return view

    def _reported(self, view: DeviceView, report: Report, live: Live) -> DeviceView:
        attempt = report.attempt
        newer = live.under_way
        if attempt is not None and newer is not None and _try_of(newer, attempt) != (attempt.rollout, attempt.run):
            attempt = None
        paused = paused_at(report, self._clock.wall_s())
        confirmed = attempt.path if attempt is not None and attempt.outcome is Outcome.CONFIRMED else ""
        return msgspec.structs.replace(
            view,
            paused_until=paused.until if paused is not None else None,
            pause_reason=clean(paused.reason) if paused is not None else "",
            drifted=confirmed not in {"", report.system},
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
        if report.forked:
            # It keeps the log that it knows, and signs for that; what it was shown is another one.
            return "fork"
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


def _rests(live: Live) -> bool:
    """Tell whether nothing is under way as far as the device itself has told."""
    attempt = live.report.attempt if live.report is not None else None
    return live.under_way is None and (attempt is None or attempt.outcome is not None)


def transfer_of(live: Live) -> Transfer | None:
    """Show a download under way, or one ahead of its update."""
    progress = live.progress
    if progress is None or not progress.total_bytes or not (progress.ahead or phase_of(live) is Phase.FETCHING):
        return None
    return Transfer(
        done_bytes=progress.done_bytes,
        total_bytes=progress.total_bytes,
        rate_bytes_s=progress.rate_bytes_s,
        ahead=progress.ahead,
    )


def _try_of(progress: Progress, attempt: Attempt) -> tuple[str, int]:
    """Name the try that progress is of; an older agent's says only which rollout."""
    return progress.rollout, progress.run or attempt.run
