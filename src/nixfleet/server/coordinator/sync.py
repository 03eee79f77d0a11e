"""What agents are sent: entries with the payloads they need, encoded once for all that are at the same size.

Every agent needs roots, grants, revokes, rollouts, controls and the releases that rollouts name; a device statement
is for its own device (trust.md, Replay). A device that has statements of its own in a page gets a page of its own.
"""

import base64
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import AsyncGenerator

import msgspec

from nixfleet.model.wire import Entries, Entry
from nixfleet.server.coordinator.clock import RunClock
from nixfleet.server.coordinator.live import LiveDevices
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.planner import Planner
from nixfleet.server.events import PING, AgentHub
from nixfleet.server.store import EntryRow

ENTRIES_MAX = 1_000
PAGE_BYTES = 3 << 20
"""Leaves and payloads of a page; base64 makes a third more of them, and 4 MiB are allowed."""
PING_S = 20
GATE_RENEW_S = 300
"""A gate is good for ten minutes; a stream renews it before."""
LAZY_S = 3_600
"""Entries that wake nobody reach everybody within an hour (trust.md, Cost)."""
_PAGES_KEPT = 64
_FOR_ALL = frozenset({"root", "grant", "revoke", "rollout", "control"})
WAKING = _FOR_ALL | {"approve"}
"""Kinds of entries that every agent is woken for; an approval counts by its leaf alone."""


class Syncs:
    """Makes sync answers."""

    def __init__(self, log: LogKeeper, planner: Planner, live: LiveDevices, clock: RunClock) -> None:
        self._log = log
        self._planner = planner
        self._live = live
        self._clock = clock
        self._pages: OrderedDict[tuple[int, int, int], tuple[bytes, int]] = OrderedDict()

    def needs(self, row: EntryRow, device: str | None) -> bool:
        """Tell whether an entry's payload is for this device."""
        if row.kind == "release":
            return row.sha256 in self._log.named
        return row.kind in _FOR_ALL or (row.kind == "device" and row.subject == device)

    async def sync(self, device: str | None, size: int) -> tuple[bytes, int]:
        """Give an encoded `Sync` from entry `size` on, and the size that it leads to; None is a joining device."""
        await self._log.reach(size)
        start = min(size, self._log.size)
        body, end = await self._page(device, start)
        gates: list[bytes] = []
        ask = False
        if device is not None and end == self._log.size:
            # An old backup does not know what was paused or cancelled since.
            gates = [] if self._log.shut() else self._planner.gates(device)
            ask = device in self._planner.asked
            self._live.get(device).sent_size = end
        tail = b'%b,"gates":[%b],"more":%b,"ask":%b,"server_time":%d}' % (
            body,
            b",".join(b'"%b"' % base64.b64encode(gate) for gate in gates),
            b"true" if end < self._log.size else b"false",
            b"true" if ask else b"false",
            self._clock.wall_s(),
        )
        return tail, end

    async def _page(self, device: str | None, start: int) -> tuple[bytes, int]:
        """Encode checkpoint and entries; one answer serves all that are at the same size."""
        size = self._log.size
        own = self._log.own_entries.get(device, []) if device is not None else []
        place = bisect_left(own, start)
        special = place < len(own) and own[place] < start + ENTRIES_MAX
        key = (start, size, len(self._log.named))
        if not special and key in self._pages:
            return self._pages[key]
        checkpoint = self._log.checkpoint()
        rows = cut(await self._log.rows(start, ENTRIES_MAX))
        entries = [Entry(leaf=row.leaf, payload=row.payload if self.needs(row, device) else None) for row in rows]
        head = b'{"checkpoint":"%b","start":%d,"entries":%b' % (
            base64.b64encode(checkpoint),
            start,
            msgspec.json.encode(entries),
        )
        # The checkpoint must be the one of `size`: entries may have come while the store was read.
        page = (head, start + len(rows))
        if not special and size == self._log.size:
            self._pages[key] = page
            while len(self._pages) > _PAGES_KEPT:
                self._pages.popitem(last=False)
        return page

    async def entries(self, start: int, limit: int, payloads: str, device: str | None) -> Entries:
        """Give at most `limit` entries from `start` on, with all payloads, those for one device, or none."""
        await self._log.reach(start + 1)
        rows = cut(await self._log.rows(start, min(limit, ENTRIES_MAX)))
        entries = tuple(
            Entry(
                leaf=row.leaf,
                payload=row.payload if payloads == "all" or (payloads == "mine" and self.needs(row, device)) else None,
            )
            for row in rows
        )
        return Entries(start=start, entries=entries)

    async def stream(
        self, hub: AgentHub, device: str, size: int, ping_s: float = PING_S
    ) -> AsyncGenerator[bytes, None]:
        """Yield server-sent `sync` events, the first at once, until the device's stream is closed."""
        flag = hub.join(device)
        sent_at = self._clock.wall_s()
        try:
            while not flag.closed:
                body, size = await self.sync(device, size)
                sent_at = self._clock.wall_s()
                yield b"event: sync\ndata: %b\n\n" % body
                if size < self._log.size:
                    continue
                while not await flag.wait(ping_s):
                    if self._due(device, size, sent_at):
                        break
                    yield PING
            if flag.farewell and size < self._log.size:
                body, _ = await self.sync(device, size)
                yield b"event: sync\ndata: %b\n\n" % body
        finally:
            hub.leave(device, flag)

    def _due(self, device: str, size: int, sent_at: int) -> bool:
        """Tell whether a stream that nobody woke has something to send all the same."""
        silent_s = self._clock.wall_s() - sent_at
        if silent_s >= LAZY_S and size < self._log.size:
            return True
        return silent_s >= GATE_RENEW_S and bool(self._planner.gates(device))


def cut(rows: list[EntryRow]) -> list[EntryRow]:
    """Keep as many entries as fit a page, at least one."""
    size = 0
    for count, row in enumerate(rows):
        size += len(row.leaf) + len(row.payload)
        if size > PAGE_BYTES and count:
            return rows[:count]
    return rows
