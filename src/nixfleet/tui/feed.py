"""The console's one reader: a snapshot, then numbered deltas; a gap means a new snapshot, a lost link a new try.

Where no stream comes through (a proxy that holds answers back) it asks for snapshots every few seconds instead.
It puts what it hears into the store and draws nothing. On a lost link the last data stays and is marked stale.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from nixfleet.errors import NixfleetError, Unreachable
from nixfleet.model.views import Delta, ReleaseView, RolloutDetail
from nixfleet.tui.calls import Calls
from nixfleet.tui.ports import AttemptView, Changes, Connect, LogCheck, Ports, RefusedView, Reset, Source, Verifier
from nixfleet.tui.store import Gap, Store
from nixfleet.tui.view.chrome import FRESH, Link

FIRST_DELAY_S = 0.5
LAST_DELAY_S = 15.0
FIRST_EVENT_S = 10.0
"""A stream sends something at once (docs/protocol.md); one that has not by now is held back on its way."""
MUTE_STREAMS = 2
"""After so many streams in a row that ended before their first event, the feed polls."""
POLL_S = 3.0
POLLS = 20
"""Snapshots between two tries of a stream: a minute."""
_BURST = 256
"""Deltas taken in one go before the screen gets its turn."""


class Feed:
    """Reads for the whole console; `run` and `verify` are its two endless tasks, both safe to cancel."""

    def __init__(
        self,
        connect: Connect,
        store: Store,
        calls: Calls,
        *,
        clock: Callable[[], int],
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
        first_event_s: float = FIRST_EVENT_S,
    ) -> None:
        self.link = Link()
        self._first_event_s = first_event_s
        self._mute = 0
        self.ports: Ports | None = None
        self._connect = connect
        self._store = store
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
                if self._polls:
                    await self._poll()
                why = await self._follow()
                if not why or self._polls:
                    continue
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
        return LogCheck(state="checking") if self.ports is None else self.ports.verifier.check

    @property
    def connected(self) -> Ports:
        """What stands behind the console. Raises: Unreachable before it is there."""
        if self.ports is None:
            raise Unreachable("the console is still connecting; try again in a moment")
        return self.ports

    @property
    def _source(self) -> Source:
        return self.connected.source

    @property
    def _verifier(self) -> Verifier:
        return self.connected.verifier

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

    async def changes(self, named: Sequence[tuple[str, str, str]], cli: str) -> Changes:
        """Compare systems by what caches say."""
        return await self._calls.run("narinfos of the caches", cli, self._source.changes(named))

    async def history(self, device: str, name: str) -> Sequence[AttemptView]:
        """Read a device's past attempts."""
        return await self._calls.run(
            f"GET /v1/devices/{name}/history", f"nixfleet device history {name}", self._source.history(device)
        )

    async def refused(self) -> Sequence[RefusedView]:
        """Read what the coordinator refused."""
        return await self._calls.run("GET /v1/audit/refusals", "nixfleet audit list --refused", self._source.refused())

    async def watch_lines(self, device: str, name: str) -> None:
        """Read a device's output lines, and collect those that follow in the store."""
        self._store.watch_lines(device, ())
        output = await self._calls.run(
            f"GET /v1/devices/{name}/lines", f"nixfleet device logs {name}", self._source.lines(device)
        )
        self._store.watch_lines(device, _merged(output.lines, self._store.lines(device)))

    async def _snapshot(self) -> None:
        if self.ports is None:
            self.ports = await self._connect()
        snapshot = await self._calls.run("GET /v1/snapshot", "nixfleet device list --json", self._source.snapshot())
        self._store.load(snapshot)
        self.link = Link(state="polling" if self._polls else "live", since=self._clock())
        self._grow()

    @property
    def _polls(self) -> bool:
        """Whether streams do not come through here."""
        return self._mute >= MUTE_STREAMS

    async def _poll(self) -> None:
        """Take snapshots for a while. Raises: Unreachable, Refused."""
        for _ in range(POLLS):
            await self._wait(POLL_S)
            snapshot = await self._source.snapshot()
            if snapshot.seq != self._store.seq:
                self._store.load(snapshot)
                self._grow()
            for device in self._store.watched:
                await self._reread(device)

    async def _reread(self, device: str) -> None:
        """Read the output of a watched device again; what cannot be read now may be readable at the next turn."""
        with contextlib.suppress(NixfleetError):
            output = await self._source.lines(device)
            if device in self._store.watched:
                self._store.watch_lines(device, output.lines)

    async def _follow(self) -> str:
        """Take in deltas until the stream ends, and say why it did; nothing when a new snapshot is wanted at once."""
        self._mute += 1
        try:
            async with (
                asyncio.timeout(self._first_event_s) as limit,
                contextlib.aclosing(self._source.events(self._store.seq)) as events,
            ):
                return await self._take(events, limit)
        except TimeoutError:
            self._mute = MUTE_STREAMS
            why = "the event stream is held back on its way"
        except NixfleetError as error:
            why = str(error)
        if self._polls:
            self._calls.note("GET /v1/events", f"{why}: asking every {POLL_S:.0f} s instead", failed=True)
        return why

    async def _take(self, events: AsyncGenerator[Delta | Reset, None], limit: asyncio.Timeout) -> str:
        """Take in what a stream gives; its first event, whatever it is, shows that streams come through."""
        taken = 0
        async for event in events:
            if not taken:
                limit.reschedule(None)
                self._heard()
            if isinstance(event, Reset):
                return ""
            try:
                self._store.apply(event)
            except Gap:
                self._calls.note("GET /v1/events", "a delta is missing: reading everything again", failed=True)
                return ""
            if event.fleet is not None:
                self._grow()
            taken += 1
            if taken % _BURST == 0:
                await asyncio.sleep(0)
        return "the coordinator ended the stream"

    def _heard(self) -> None:
        self._mute = 0
        if self.link.state == "polling":
            self.link = Link(state="live", since=self._clock())

    def _grow(self) -> None:
        # A mirror that already holds everything has still to ask whether that is all there is.
        check = self._verifier.check
        if self._store.fleet.log_size != check.size or check.state in {"unknown", "checking"}:
            self._grew.set()

    def _lost(self, why: str) -> None:
        """Keep when it was lost, not when it was last tried."""
        since = self._clock() if self.link.state in FRESH else self.link.since or self._clock()
        self.link = Link(state="stale" if self._store.loaded else "reconnecting", since=since, why=why)


def _merged(read: tuple[str, ...], heard: tuple[str, ...]) -> tuple[str, ...]:
    """Join what was read with what came as deltas meanwhile: lines that are in both stand once."""
    shared = next((size for size in range(min(len(read), len(heard)), 0, -1) if read[-size:] == heard[:size]), 0)
    return read + heard[shared:]
