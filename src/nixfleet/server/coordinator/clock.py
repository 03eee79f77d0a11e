"""The running clock: time is only time in which a coordinator ran (rollouts-and-agent.md, Rollout engine).

A laptop that slept must not wake to a fleet that is overdue and a soak that passed. Each coordinator measures by its
own clock how much time has passed, and holds its own wall time against nobody else's: theirs may be minutes apart.
"""

import asyncio
import contextlib
from collections.abc import Callable

from nixfleet.errors import Conflict
from nixfleet.rollout import Clock
from nixfleet.server.store import ClockRow, Store

BEAT_S = 15
GAP_S = 60
"""Longer without a beat is time in which no coordinator ran."""
PUT_BACK_S = 86_400
"""A clock that is put back further was wrong before."""
RECONNECT_S = 90
"""How long all agents may take to come back after a gap: their 60 s without a ping, and jitter."""

Wall = Callable[[], float]
"""A clock: unix seconds."""


async def waited(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for an event, at most so long, and tell whether it came."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()


class RunClock:
    """Wall time and running time; several coordinators on one database move the same running time on."""

    def __init__(self, store: Store, wall: Wall) -> None:
        self._plans = store.plans
        self._wall = wall
        self._row = ClockRow(0, 0)
        """What the store holds, as far as this coordinator knows: whoever beats next names it."""
        self._mark = Clock(run_s=0, wall_s=0)
        """The running time as of the newest beat, and what our own clock showed then."""
        self._latest = Clock(run_s=0, wall_s=0)
        self.reconnect_s = 0
        """Running-clock time until which nobody is overdue."""

    def wall_s(self) -> int:
        """Give unix seconds."""
        return int(self._wall())

    def now(self) -> Clock:
        """Give both clocks; in a gap, running time stands still."""
        wall_s = self.wall_s()
        passed_s = wall_s - self._mark.wall_s
        return Clock(wall_s=wall_s, run_s=self._mark.run_s + (passed_s if 0 <= passed_s <= GAP_S else 0))

    def gate_s(self) -> int:
        """Give unix seconds for gates: put back by less than a day, the clock goes on from where it was.

        A device whose own clock is right would else take no gate: it seems hours old to it.
        """
        now, latest = self.now(), self._latest
        since_s = latest.wall_s + max(0, now.run_s - latest.run_s)
        if now.wall_s >= since_s or since_s - now.wall_s >= PUT_BACK_S:
            self._latest = now
            return now.wall_s
        return since_s

    async def start(self) -> None:
        """Take up the stored clock; every start is followed by a reconnect period."""
        row = await self._plans.clock()
        if row is None:
            row = ClockRow(0, self.wall_s())
            try:
                await self._plans.beat(None, row)
            except Conflict:
                row = await self._plans.clock() or row
        # Nobody else can tell how long ago the last beat was: a quick restart loses no time.
        self._row, self._mark = row, Clock(run_s=row.run_s, wall_s=row.beat_s)
        self._latest = self._mark
        await self.beat()
        self.reconnect_s = self._row.run_s + RECONNECT_S

    def reconnect(self) -> None:
        """Give agents the time to come back, as after a start: until then nobody is overdue."""
        self.reconnect_s = self.now().run_s + RECONNECT_S

    async def beat(self) -> None:
        """Write the running clock down; go on from another coordinator's where that is ahead.

        All that run count the same time; who starts, or wakes, behind the others catches up with them here.
        """
        now = self.now()
        slept = now.wall_s - self._mark.wall_s > GAP_S
        self.gate_s()
        row = await self._moved(self._row, now)
        if row.run_s < now.run_s:
            row = await self._moved(row, now)  # the other one is behind, and reads here what it lacks
        self._row, self._mark = row, Clock(run_s=max(now.run_s, row.run_s), wall_s=now.wall_s)
        if slept:
            self.reconnect_s = self._mark.run_s + RECONNECT_S

    async def _moved(self, held: ClockRow, now: Clock) -> ClockRow:
        """Move the stored clock on from what it held, and give what it holds then."""
        fresh = ClockRow(now.run_s, now.wall_s)
        try:
            await self._plans.beat(held, fresh)
        except Conflict:
            fresh = await self._plans.clock() or fresh
        return fresh
