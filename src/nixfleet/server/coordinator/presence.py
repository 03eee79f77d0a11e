"""Who is there: a device is online while its stream is open, or for a while after it polled.

Nothing is written for it but when a device that went was last seen.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable

from nixfleet.server.coordinator.announcer import Announcer
from nixfleet.server.coordinator.clock import RunClock
from nixfleet.server.coordinator.groups import GroupWriter
from nixfleet.server.coordinator.live import LiveDevices
from nixfleet.server.coordinator.sync import PING_S, Syncs
from nixfleet.server.events import AgentHub
from nixfleet.server.store import Store


class Presence:
    """Answers devices that ask what is new, and notes that they did."""

    def __init__(
        self,
        store: Store,
        agents: AgentHub,
        live: LiveDevices,
        syncs: Syncs,
        clock: RunClock,
        announcer: Announcer,
        moved: Callable[[str], None],
    ) -> None:
        self._agents = agents
        self._live = live
        self._syncs = syncs
        self._clock = clock
        self._announcer = announcer
        self._moved = moved
        """Told of a device that came or went."""
        self._seen = GroupWriter(store.status.seen)

    async def stream(self, device: str, size: int, ping_s: float = PING_S) -> AsyncGenerator[bytes, None]:
        """Yield a device's events; while it is open, the device is online."""
        self._here(device, "stream")
        try:
            async with contextlib.aclosing(self._syncs.stream(self._agents, device, size, ping_s)) as events:
                first = True
                async for event in events:
                    if first:
                        self._here(device, "stream")
                        first = False
                    yield event
        finally:
            self._gone(device)

    async def poll(self, device: str | None, size: int) -> bytes:
        """Answer a sync request; a device that polls is online for a while."""
        body, _ = await self._syncs.sync(device, size)
        if device is not None and device not in self._agents:
            self._live.get(device).polled_at = self._clock.wall_s()
            self._here(device, "poll")
        return body

    def look(self) -> None:
        """Notice pollers that stay away."""
        for device in self._live.pollers():
            self._gone(device)

    async def close(self) -> None:
        """Wait for what is being written."""
        await self._seen.close()

    def _here(self, device: str, link: str) -> None:
        live = self._live.get(device)
        changed, live.link = link != live.link, link
        live.seen_at = self._clock.wall_s()
        if not live.announced and self._live.online(device, live.seen_at):
            live.announced = changed = True
            self._moved(device)
        if changed:
            self._announcer.stale(devices=[device])

    def _gone(self, device: str) -> None:
        """Note that a device is not connected any more: the one thing about presence that is written."""
        now = self._clock.wall_s()
        if self._live.online(device, now):
            return
        live = self._live.get(device)
        live.announced, live.seen_at = False, max(live.seen_at, min(now, live.seen_at + PING_S))
        self._moved(device)
        self._announcer.stale(devices=[device])
        if not self._agents.closed:
            self._seen.add((device, live.seen_at))
