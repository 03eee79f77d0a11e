"""The console's one reader: a snapshot, then numbered deltas; a gap means a new snapshot, a lost link a new try.

It puts what it hears into the store and draws nothing. On a lost link the last data stays and is marked stale.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence

from nixfleet.errors import NixfleetError
from nixfleet.model.views import ReleaseView, RolloutDetail
from nixfleet.tui.calls import Calls
from nixfleet.tui.ports import AttemptView, LogCheck, Reset, Source, Verifier
from nixfleet.tui.store import Gap, Store
from nixfleet.tui.view.chrome import Link

FIRST_DELAY_S = 0.5
LAST_DELAY_S = 15.0
_BURST = 256
"""Deltas taken in one go before the screen gets its turn."""


class Feed:
    """Reads for the whole console; `run` and `verify` are its two endless tasks, both safe to cancel."""

    def __init__(
        self,
        source: Source,
        store: Store,
        verifier: Verifier,
        calls: Calls,
        *,
        clock: Callable[[], int],
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.link = Link()
        self._source = source
        self._store = store
        self._verifier = verifier
        self._calls = calls
        self._clock = clock
        self._wait = wait
        self._chance = chance
        self._grew = asyncio.Event()

    async def run(self) -> None:
        """Keep the store up to date for ever."""
        delay_s = FIRST_DELAY_S
        while True:
            try:
                await self._snapshot()
                delay_s = FIRST_DELAY_S
                if await self._follow():
                    continue
                why = "the coordinator ended the stream"
            except NixfleetError as error:
                why = str(error)
            self._lost(why)
            # Between half and all of the delay, so that consoles do not come back all at once.
            await self._wait(delay_s * (0.5 + self._chance() / 2))
            delay_s = min(LAST_DELAY_S, delay_s * 2)
            self.link = Link(state="reconnecting", since=self.link.since, why=why)

    async def verify(self) -> None:
        """Replay the log whenever it has grown, for ever."""
        delay_s = FIRST_DELAY_S
        while True:
            await self._grew.wait()
            self._grew.clear()
            try:
                await self._calls.run(
                    "GET /v1/log/entries, verified", "nixfleet audit verify", self._verifier.catch_up()
                )
                delay_s = FIRST_DELAY_S
            except NixfleetError:
                await self._wait(delay_s * (0.5 + self._chance() / 2))
                delay_s = min(LAST_DELAY_S, delay_s * 2)
                self._grew.set()

    @property
    def check(self) -> LogCheck:
        """How our replay of the log stands."""
        return self._verifier.check

    async def rollout(self, rollout: str) -> RolloutDetail:
        """Read a rollout with its members."""
        return await self._calls.run(
            f"GET /v1/rollouts/{rollout[:8]}", f"nixfleet rollout show {rollout[:8]}", self._source.rollout(rollout)
        )

    async def release(self, release: str) -> ReleaseView:
        """Read a release with its lines."""
        return await self._calls.run(
            f"GET /v1/releases/{release[:8]}", f"nixfleet release show {release[:8]}", self._source.release(release)
        )

    async def history(self, device: str, name: str) -> Sequence[AttemptView]:
        """Read a device's past attempts."""
        return await self._calls.run(
            f"GET /v1/devices/{name}/history", f"nixfleet device history {name}", self._source.history(device)
        )

    async def watch_lines(self, device: str, name: str) -> None:
        """Read a device's output lines, and collect those that follow in the store."""
        self._store.watch_lines(device, ())
        output = await self._calls.run(
            f"GET /v1/devices/{name}/lines", f"nixfleet device logs {name}", self._source.lines(device)
        )
        self._store.watch_lines(device, _merged(output.lines, self._store.lines(device)))

    async def _snapshot(self) -> None:
        snapshot = await self._calls.run("GET /v1/snapshot", "nixfleet device list --json", self._source.snapshot())
        self._store.load(snapshot)
        self.link = Link(state="live", since=self._clock())
        self._grow()

    async def _follow(self) -> bool:
        """Take in deltas; true when a new snapshot is wanted at once."""
        taken = 0
        async with contextlib.aclosing(self._source.events(self._store.seq)) as events:
            async for event in events:
                if isinstance(event, Reset):
                    return True
                try:
                    self._store.apply(event)
                except Gap:
                    self._calls.note("GET /v1/events", "a delta is missing: reading everything again", failed=True)
                    return True
                if event.fleet is not None:
                    self._grow()
                taken += 1
                if taken % _BURST == 0:
                    await asyncio.sleep(0)
        return False

    def _grow(self) -> None:
        if self._store.fleet.log_size != self._verifier.check.size or self._verifier.check.state == "unknown":
            self._grew.set()

    def _lost(self, why: str) -> None:
        """Keep when it was lost, not when it was last tried."""
        since = self._clock() if self.link.state == "live" else self.link.since or self._clock()
        self.link = Link(state="stale" if self._store.loaded else "reconnecting", since=since, why=why)


def _merged(read: tuple[str, ...], heard: tuple[str, ...]) -> tuple[str, ...]:
    """Join what was read with what came as deltas meanwhile: lines that are in both stand once."""
    shared = next((size for size in range(min(len(read), len(heard)), 0, -1) if read[-size:] == heard[:size]), 0)
    return read + heard[shared:]
