"""The coordinator put together: what happens on an append, a report, a stream, a beat of the clock."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TypeVar

from nixfleet.errors import NixfleetError
from nixfleet.model.device import Progress, Report
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Device
from nixfleet.model.views import Snapshot
from nixfleet.model.wire import AppendRequest, AppendResponse, LineAnswer, Offer, OfferAnswer, Signed
from nixfleet.server.coordinator.announcer import Announcer
from nixfleet.server.coordinator.backups import DailyBackups
from nixfleet.server.coordinator.clock import BEAT_S, RunClock, Wall, waited
from nixfleet.server.coordinator.journal import Journal
from nixfleet.server.coordinator.judging import Judged
from nixfleet.server.coordinator.live import Live, LiveDevices, Output
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.logkeys import LogKeys
from nixfleet.server.coordinator.people import People
from nixfleet.server.coordinator.planner import Planner
from nixfleet.server.coordinator.presence import Presence
from nixfleet.server.coordinator.release_views import by_prefix
from nixfleet.server.coordinator.releases import Releases
from nixfleet.server.coordinator.reports import ReportDesk
from nixfleet.server.coordinator.restoring import Restoring
from nixfleet.server.coordinator.sameness import recognise
from nixfleet.server.coordinator.sync import WAKING, Syncs
from nixfleet.server.coordinator.twins import Twins
from nixfleet.server.coordinator.views import Views
from nixfleet.server.events import AgentHub, ConsoleHub
from nixfleet.server.faults import Unknown
from nixfleet.server.settings import ServerSettings
from nixfleet.server.store import AttemptRow, Store
from nixfleet.trust.replay import RolloutState
from nixfleet.trust.replay.reach import Reach

T = TypeVar("T")

_log = logging.getLogger(__name__)

STOP_S = 5
FOLLOW_S = 0.25
"""How often other coordinators' work is looked for on a shared database."""
FOLLOW_REQUESTS_S = 2
"""How often requests to be enrolled, which may be many and hurry nobody, are looked for there."""
FOLLOW_SLACK_S = 15
"""How long after its stamp, by the database's clock, a row may become visible: no transaction takes longer."""


class Coordinator:
    """Everything behind the routes; lives on one event loop."""

    def __init__(self, settings: ServerSettings, wall: Wall) -> None:
        self.ready = False
        self.failed = False
        """Whether one of its tasks has ended by a failure of its own: what it did is not done any more."""
        self.settings = settings
        self.store = Store(settings.url())
        self.clock = RunClock(self.store, wall)
        self.consoles = ConsoleHub(start=self.clock.wall_s() * 1_000_000)
        self.agents = AgentHub()
        self.live = LiveDevices(self.agents)
        self.log = LogKeeper(self.store, LogKeys.read(settings), self.clock.wall_s)
        self.releases = Releases(self.store, self.log)
        self.restoring = Restoring(self.store, self.log, self.releases, self.clock.wall_s)
        self.log.shut = self.restoring.why
        self.planner = Planner(
            self.store,
            self.log,
            self.live,
            self.releases,
            self.clock,
            changed=self._plans_changed,
            wake=self.agents.wake,
        )
        self.syncs = Syncs(self.log, self.planner, self.live, self.clock)
        self.twins = Twins()
        self.views = Views(self.log, self.live, self.planner, self.releases, self.clock, self.twins)
        self.announcer = Announcer(self.consoles, self.log, self.live, self.planner, self.views)
        self.journal = Journal(self.store, self.clock.wall_s)
        self.people = People(self.store, self.log, self.clock, self.journal, self.announcer.request_gone)
        self.desk = ReportDesk(
            self.store,
            self.log,
            self.live,
            self.clock,
            self.twins,
            known=self.planner.knows,
            heard=self._heard,
            cloned=self._cloned,
        )
        self.presence = Presence(
            self.store, self.agents, self.live, self.syncs, self.clock, self.announcer, self.planner.device_changed
        )
        self.restoring.lines_came = lambda: self.planner.log_changed((), everything=True)
        self.backups = DailyBackups(settings, self.clock.wall_s, lambda: self.log.name or self.log.fleet[:12])
        self._loaded_s = 0
        """When devices and tries were read from a shared database, by its clock; others' changes since are followed."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    # Life

    async def start(self) -> None:
        """Open the database, replay the log, and begin to plan. Raises: UserError, Unreachable."""
        self.settings.check_backups()
        await self.store.open()
        await self.log.load()
        self.log.announce = self._entries_came
        await self.releases.look()
        await recognise(self.store, self.settings.data_dir)
        await self.restoring.load()
        if self.store.shared:
            self._loaded_s = await self.store.status.now_s()
        for device in self.live.load(await self.store.status.devices()):
            if (report := self.live.get(device).report) is not None:
                self.twins.told_before(report)
        await self.people.load()
        await self.clock.start()
        await self.planner.begin()
        self._spawn(self.planner.run())
        self._spawn(self._beats())
        self._spawn(self._backs_up())
        self._spawn(self.announcer.run())
        if self.store.shared:
            self._spawn(self._follows())
            self._spawn(self._follows_requests())
        self.ready = True

    def close_streams(self) -> None:
        """End every stream at once; agents come back with jitter."""
        self.ready = False
        self.agents.close()
        self.consoles.close()

    async def stop(self) -> None:
        """End everything; what was answered is durable already."""
        self.close_streams()
        self._stopping.set()
        self.announcer.stop()
        self.planner.stop()
        if self._tasks:
            # Tasks end by themselves, not in the middle of a transaction; only what hangs is cancelled.
            _, hanging = await asyncio.wait(self._tasks, timeout=STOP_S)
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)
        with contextlib.suppress(NixfleetError):
            await self.desk.close()
            await self.presence.close()
        await self.store.close()

    def wall_s(self) -> int:
        """Give unix seconds."""
        return self.clock.wall_s()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed = True
            _log.error("a task of the coordinator failed", exc_info=error)

    # The log

    async def append(self, request: AppendRequest) -> AppendResponse:
        """Append statements; see `LogKeeper.append`. Who has the answer can ask for what was appended."""
        await self._open_again()
        answer = await self.log.append(request)
        await self.planner.take_up()
        return answer

    async def _open_again(self) -> None:
        """Go on where an old backup is whole again and its quiet time over."""
        if await self.restoring.opened():
            self.clock.reconnect()
            self.planner.log_changed((), everything=True)
            self.agents.wake_all()

    async def offer(self, offer: Offer) -> OfferAnswer:
        """Take entries back that an old backup lacks; see `Restoring.take`."""
        return await self.restoring.take(offer)

    def _entries_came(self, entries: Sequence[Judged]) -> None:
        """Wake whom new entries concern, and plan again."""
        names = []
        for entry in entries:
            if isinstance(entry.statement, Device):
                self._device_entry(entry.statement, entry.before)
                names.append(entry.statement.device)
        if any(entry.row.kind in {"revoke", "approve"} for entry in entries):
            self._drop_revoked()
        waking = any(entry.row.kind in WAKING for entry in entries)
        if waking:
            self.agents.wake_all()
            self.views.devices.touch(list(self.log.state.devices))  # who is behind now, and what is intended
        else:
            self.agents.wake(names)
        self.views.devices.touch(names)
        self.planner.log_changed(names, everything=waking)
        for entry in entries:
            record = self.log.state.releases.get(Digest(entry.row.sha256))
            if entry.row.kind == "release" and record is not None:
                self.announcer.release(record)
        self.announcer.stale(devices=names, fleet=True)

    def _drop_revoked(self) -> None:
        """End the streams of devices whose keys are revoked: they were opened while the keys were good."""
        for key in self.log.state.revoked_keys:
            device = self.log.device_of(key)
            if device is not None:
                self.agents.drop(device)

    def _device_entry(self, statement: Device, before: Device | None) -> None:
        """Let go of what belonged to a device's former key, and of its request, once the statement is in force."""
        record = self.log.state.devices.get(statement.device)
        if record is None or record.statement.version < statement.version:
            return  # it waits for signatures
        if before is not None and before.key != statement.key:
            self.desk.forget(statement.device)
            self.agents.drop(statement.device)
        if statement.state == "retired":
            self.agents.drop(statement.device, farewell=True)
        if before is not None and before.tags != statement.tags:
            self.announcer.retagged(statement.device, before.tags)
        if self.people.request(statement.device) is not None:
            self._spawn(self._quietly(self.forget_request(statement.device)))

    @staticmethod
    async def _quietly(work: Coroutine[object, object, None]) -> None:
        with contextlib.suppress(NixfleetError):
            await work

    async def known(self, ask: Callable[[], T]) -> T:
        """Answer from memory; what is unknown there is looked for once more after what other coordinators have done.

        Whoever was told of something by one coordinator can ask any other for it at once. Raises: what `ask` raises.
        """
        try:
            return ask()
        except Unknown:
            await self.catch_up()
            return ask()

    async def catch_up(self) -> None:
        """Know all that other coordinators on the same database have appended by now."""
        await self.log.catch_up()
        await self.planner.take_up()

    # Devices speaking

    async def report(self, signed: Signed) -> int | None:
        """Take a signed report; durable when this returns. Gives the number held where it was dropped for that."""
        return await self.desk.take(signed)

    def _heard(self, report: Report, row: AttemptRow | None) -> None:
        self.planner.heard(report, row)
        self.announcer.stale(devices=[report.device], rollouts=[row.rollout] if row is not None else [])

    def _cloned(self, device: str) -> None:
        """Tell that two machines use a device's key, or do no more."""
        statement = self.log.device(device)
        name = statement.name if statement is not None else device
        _log.warning("%s: %s", name, self.twins.words(device, name) or "one machine alone uses its key again")
        self.announcer.stale(devices=[device])

    def progress(self, device: str, progress: Progress) -> None:
        """Take unsigned progress: memory only, sampled to consoles, dropped when nothing is known of the rollout."""
        live = self.live.get(device)
        if progress.rollout not in self.planner.works:
            return
        if not progress.ahead or _waits(live):
            live.progress = progress
        if progress.lines:
            if live.output is None:
                live.output = Output()
            live.output.add(progress.lines)
        self.planner.device_changed(device)
        self.announcer.stale(devices=[device])

    async def line(self, rollout: str, device: str) -> LineAnswer:
        """Prove a device's own line of a rollout's release, or that it has none. Raises: Unknown.

        The log alone answers: a device may have heard of a rollout that the planner, or this coordinator, has not.
        """
        release = (await self.known(lambda: self._logged(rollout))).statement.release
        if release is None:
            raise Unknown("a rollback has no release and no lines")
        return (await self.releases.get(release)).answer(device)

    def _logged(self, name: str) -> RolloutState:
        """Find a rollout in the log by digest or an unambiguous start of it. Raises: Unknown, UserError."""
        rollouts = self.log.state.rollouts
        return rollouts[Digest(name if name in rollouts else by_prefix(name, rollouts, "rollout"))]

    # People

    async def enroll(self, signed: Signed, host: str | None) -> None:
        """Take a request to be enrolled, from an address if it is known."""
        asked = await self.people.ask(signed, host)
        if asked is not None:
            self.announcer.request(*asked)

    async def forget_request(self, device: str) -> None:
        """Drop a request to be enrolled. Raises: Unknown."""
        await self.people.forget(device)

    def snapshot(self, reader: str, reach: Reach) -> Snapshot:
        """Show a reader (a key) everything that it may read, as of the newest delta."""
        return self.announcer.snapshot(self.people.requests(), reader, reach)

    def _plans_changed(self, rollouts: Iterable[str], devices: Iterable[str]) -> None:
        self.announcer.stale(devices=devices, rollouts=rollouts)

    # Beats

    async def _beats(self) -> None:
        """Move the running clock on, and notice pollers that stay away."""
        while not await waited(self._stopping, BEAT_S):
            try:
                await self.clock.beat()
            except NixfleetError as error:
                _log.warning("the running clock is not written: %s", error)
            self.presence.look()
            for device in self.twins.ended(self.wall_s()):
                self._cloned(device)
            with contextlib.suppress(NixfleetError):
                await self._open_again()

    async def _backs_up(self) -> None:
        """Make a backup every day."""
        await self.backups.look()
        while not await waited(self._stopping, BEAT_S):
            await self.backups.look()

    async def _follows(self) -> None:
        """Take up what other coordinators on the same database have written."""
        since = self._loaded_s
        while not await waited(self._stopping, FOLLOW_S):
            try:
                await self.restoring.follow()
                await self.log.catch_up()
                now = await self.store.status.now_s()
                rows = await self.store.status.devices(since - FOLLOW_SLACK_S)
                works = [work.id for work in self.planner.open()]
                tries = await self.store.status.attempts(works, since - FOLLOW_SLACK_S)
                since = now
            except NixfleetError as error:
                _log.warning("cannot follow the other coordinators: %s", error)
                continue
            changed = self.live.load(rows)
            for row in tries:
                if work := self.planner.works.get(row.rollout):
                    work.take_try(row)
            for device in {*changed, *(row.device for row in tries)}:
                self.planner.device_changed(device)
            self.announcer.stale(devices=changed)

    async def _follows_requests(self) -> None:
        """Take up who asked other coordinators on the same database to be enrolled, and who was dropped there."""
        while not await waited(self._stopping, FOLLOW_REQUESTS_S):
            try:
                news = await self.people.follow()
            except NixfleetError as error:
                _log.warning("cannot follow who asks other coordinators to be enrolled: %s", error)
                continue
            for view, before in news:
                self.announcer.request(view, before)


def _waits(live: Live) -> bool:
    """Tell whether a device has no update under way, as far as it has told."""
    told = live.report.attempt if live.report is not None else None
    return live.under_way is None and (told is None or told.outcome is not None)
