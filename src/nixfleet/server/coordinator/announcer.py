"""What consoles are told: the views of what changed, made when they are sent, and everything for who comes anew.

It must never change what it tells of, nor make a view that nobody reads.
"""

import asyncio
from collections.abc import Iterable

from nixfleet.model.views import Delta, EnrollView, Snapshot
from nixfleet.server.coordinator.clock import waited
from nixfleet.server.coordinator.live import LiveDevices
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.planner import Planner
from nixfleet.server.coordinator.views import Views
from nixfleet.server.events import ConsoleHub
from nixfleet.trust.replay import ReleaseRecord

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

    def request(self, view: EnrollView) -> None:
        """Tell of a device that asks to be enrolled."""
        self._consoles.publish(Delta(seq=0, request=view))

    def request_gone(self, device: str) -> None:
        """Tell that a device does not ask any more."""
        self._consoles.publish(Delta(seq=0, removed=f"request:{device}"))

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

    def snapshot(self, requests: Iterable[EnrollView]) -> Snapshot:
        """Show everything, as of the newest delta."""
        self._consoles.expect()
        self._publish()
        return Snapshot(
            seq=self._consoles.seq,
            fleet=self._views.fleet(),
            devices=tuple(self._views.devices.all()),
            rollouts=tuple(self._views.rollouts.all()),
            releases=tuple(self._views.releases.all()),
            requests=tuple(requests),
        )

    def _publish(self) -> None:
        devices, self._devices = self._devices, set()
        rollouts, self._rollouts = self._rollouts, set()
        fleet, self._fleet = self._fleet, False
        if not self._consoles.expected():
            self._consoles.skip()
            for device in devices:
                self._live.get(device).told_all()
            return
        for device in sorted(devices):
            self._publish_device(device)
        for rollout in sorted(rollouts):
            work = self._planner.works.get(rollout)
            if work is not None:
                self._consoles.publish(Delta(seq=0, rollout=self._views.rollouts.one(work)))
        if fleet:
            self._consoles.publish(Delta(seq=0, fleet=self._views.fleet()))

    def _publish_device(self, device: str) -> None:
        statement = self._log.device(device)
        if statement is None:
            return
        if statement.state == "retired":
            self._consoles.publish(Delta(seq=0, removed=f"device:{device}"))
            return
        live = self._live.get(device)
        if live.output is not None and live.output.next > live.told_lines:
            lines = tuple(live.output.after(live.told_lines))
            live.told_all()
            self._consoles.publish(Delta(seq=0, line_device=device, lines=lines))
        self._consoles.publish(Delta(seq=0, device=self._views.devices.one(device)))
