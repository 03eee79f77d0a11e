"""What consoles are told: the views of what changed, made when they are sent, and everything for who comes anew.

It must never change what it tells of, nor make a view that nobody reads.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable

from nixfleet.model.ids import Tags
from nixfleet.model.views import Delta, DeviceView, EnrollView, RolloutView, Snapshot
from nixfleet.server.coordinator.clock import waited
from nixfleet.server.coordinator.live import LiveDevices
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.planner import Planner
from nixfleet.server.coordinator.screening import Judge, Screen, Shown
from nixfleet.server.coordinator.views import Views
from nixfleet.server.events import ConsoleHub, Mark
from nixfleet.trust.replay import ReleaseRecord
from nixfleet.trust.replay.reach import Reach

FLUSH_S = 0.2
"""Progress and rollouts reach consoles at most five times a second."""


class Announcer:
    """Collects what is stale, and publishes it; `run` until `stop`."""

    def __init__(self, consoles: ConsoleHub, log: LogKeeper, live: LiveDevices, planner: Planner, views: Views) -> None:
        self._consoles = consoles
        self._log = log
        self._live = live
        self._planner = planner
        self._views = views
        self._devices: set[str] = set()
        self._rollouts: set[str] = set()
        self._fleet = False
        self._retagged: dict[str, Tags] = {}
        """Tags with which consoles were last told of a device that has others now."""
        self._moved: set[str] = set()
        """Rollouts whose members' tags have changed: who may see them may be somebody else now."""
        self._shown = Shown()
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()

    def stale(self, *, devices: Iterable[str] = (), rollouts: Iterable[str] = (), fleet: bool = False) -> None:
        """Note what consoles have to be told; views are made when they are."""
        devices = list(devices)
        self._views.devices.touch(devices)
        self._devices.update(devices)
        self._rollouts.update(rollouts)
        self._fleet |= fleet
        self._news.set()

    def release(self, record: ReleaseRecord) -> None:
        """Tell of a new release."""
        self._consoles.publish(Delta(seq=0, release=self._views.releases.head(record)))

    def retagged(self, device: str, before: Tags) -> None:
        """Note that a device had these tags until now: readers may lose sight of it, and others come to see it."""
        self._retagged.setdefault(device, before)
        self._moved.update(work.id for work in self._planner.works.values() if device in work.members)
        self.stale(devices=[device], rollouts=self._moved)

    def request(self, view: EnrollView, before: EnrollView | None) -> None:
        """Tell of a device that asks to be enrolled; `before` is what it asked until now."""
        mark = Mark("request", view.device, before.tags if before is not None else None, view.tags)
        self._consoles.publish(Delta(seq=0, request=view), mark)

    def request_gone(self, view: EnrollView) -> None:
        """Tell that a device does not ask any more."""
        gone = Delta(seq=0, removed=f"request:{view.device}")
        self._consoles.publish(gone, Mark("request", view.device, before=view.tags))

    async def run(self) -> None:
        """Tell consoles what changed: at once, then at most five times a second."""
        while not self._stopping.is_set():
            await self._news.wait()
            self._news.clear()
            self._publish()
            await waited(self._stopping, FLUSH_S)

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()
        self._news.set()

    def snapshot(self, requests: Iterable[EnrollView], reader: str, reach: Reach) -> Snapshot:
        """Show a reader (a key) everything that it may read, as of the newest delta."""
        self._consoles.expect()
        self._publish()
        self._shown.note(reader, reach, self._consoles.seq)
        return Snapshot(
            seq=self._consoles.seq,
            fleet=self._views.fleet(),
            devices=tuple(self._views.devices.all(reach)),
            rollouts=tuple(self._views.rollouts.all(reach)),
            releases=tuple(self._views.releases.all()),
            requests=tuple(view for view in requests if reach.enrols(view.tags)),
        )

    def stream(self, since: int, reader: str, judge: Judge) -> AsyncGenerator[bytes, None]:
        """Yield the changes after number `since` that a reader may have; `judge` says what it may read of."""
        screen = Screen(self._shown.reach_at(reader, since), judge, self._rollout, self._device)
        return self._consoles.stream(since, screen=screen)

    def _device(self, device: str, reach: Reach) -> DeviceView | None:
        whole, own = self._views.devices.one(device), self._views.devices.seen(device, reach)
        return None if own == whole else own

    def _rollout(self, rollout: str, reach: Reach) -> RolloutView | None:
        work = self._planner.works.get(rollout)
        return None if work is None else self._views.rollouts.seen(work, reach)

    def _publish(self) -> None:
        devices, self._devices = self._devices, set()
        rollouts, self._rollouts = self._rollouts, set()
        fleet, self._fleet = self._fleet, False
        retagged, self._retagged = self._retagged, {}
        moved, self._moved = self._moved, set()
        if not self._consoles.expected():
            self._consoles.skip()
            for device in devices:
                self._live.get(device).told_all()
            return
        for device in sorted(devices):
            self._publish_device(device, retagged.get(device))
        for rollout in sorted(rollouts):
            work = self._planner.works.get(rollout)
            if work is not None:
                mark = Mark("rollout", rollout, moved=rollout in moved)
                self._consoles.publish(Delta(seq=0, rollout=self._views.rollouts.one(work)), mark)
        if fleet:
            self._consoles.publish(Delta(seq=0, fleet=self._views.fleet()))

    def _publish_device(self, device: str, before: Tags | None) -> None:
        """Tell of a device; `before` are the tags with which it was last told, where it has others now."""
        statement = self._log.device(device)
        if statement is None:
            return
        if statement.state == "retired":
            gone = Mark("device", device, before=statement.tags if before is None else before)
            self._consoles.publish(Delta(seq=0, removed=f"device:{device}"), gone)
            return
        live = self._live.get(device)
        if live.output is not None and live.output.next > live.told_lines:
            lines = tuple(live.output.after(live.told_lines))
            live.told_all()
            mark = Mark("lines", device, after=statement.tags)
            self._consoles.publish(Delta(seq=0, line_device=device, lines=lines), mark)
        mark = Mark("device", device, statement.tags if before is None else before, statement.tags)
        self._consoles.publish(Delta(seq=0, device=self._views.devices.one(device)), mark)
