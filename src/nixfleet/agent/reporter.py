"""What the device says: signed reports until they are delivered, and progress that may be lost.

An undelivered report never causes anything but another delivery. Progress is sampled, bounded, and dropped before it
holds anything up.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from nixfleet.agent.history import attempt
from nixfleet.agent.link import Link, backoff_s
from nixfleet.agent.member import Parts
from nixfleet.agent.service import Service
from nixfleet.agent.units import NO_ANSWER
from nixfleet.agent.update import Delivered, Offer
from nixfleet.errors import NixfleetError, UserError
from nixfleet.model.device import FORK, SHORT_CHARS, Attempt, Facts, LocalPause, Phase, Progress, Report
from nixfleet.model.ids import PROTOCOL
from nixfleet.model.wire import Signed
from nixfleet.nix import Progress as Bytes
from nixfleet.trust.reports import sign_report
from nixfleet.trust.sshsig import SecretKey

log = logging.getLogger("nixfleet.agent")

PROGRESS_EVERY_S = 0.25
LINES_HELD = 200


class Reporter:
    """Delivers outcomes in order, then where the device stands."""

    def __init__(
        self,
        parts: Parts,
        link: Link,
        service: Service,
        *,
        failed_units: Callable[[], Awaitable[tuple[str, ...] | None]],
        gather: Callable[[], Facts],
        waits: Callable[[], str],
        paused: Callable[[], LocalPause | None],
        key: Callable[[], SecretKey],
    ) -> None:
        """Prepare; `gather` gives the facts, `waits` and `paused` say why nothing begins, `key` signs."""
        self._parts, self._link, self._service = parts, link, service
        self._failed_units, self._gather, self._waits, self._key = failed_units, gather, waits, key
        self._paused = paused
        self._wanted = asyncio.Event()
        self._told: Facts | None = None
        self.told_system = ""
        """The running system that the newest report names."""

    def want(self) -> None:
        """Ask for a report of the state at the next opportunity."""
        self._wanted.set()

    async def run(self) -> None:
        """Deliver for ever."""
        failures = 0
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self.deliver()
                failures = 0
            except NixfleetError as error:
                failures += 1
                log.warning("a report is not delivered yet: %s", error)
                self._wanted.set()
                await asyncio.sleep(backoff_s(failures))

    async def deliver(self) -> None:
        """Send every outcome that waits, then the present state. Raises: what sending raises, UserError."""
        if self._parts.by_hand:
            # A receipt may be lost on its way: until a coordinator has them itself, outcomes wait for it.
            for told in self._service.state.outbox:
                await self._send(told)
            await self._send_state()
            return
        while outbox := self._service.state.outbox:
            await self._send(outbox[0])
            self._service.feed(Delivered(rollout=outbox[0].rollout, run=outbox[0].run))
            if self._service.state.outbox == outbox:
                raise UserError("that it was delivered cannot be noted; it is told again in a while")
        await self._send_state()

    async def _send_state(self) -> None:
        update = self._service.state.update
        await self._send(attempt(update) if update is not None else None)

    async def _send(self, told: Attempt | None) -> None:
        found = self._gather()
        held = await self._link.send_report(await self._make(told, found))
        if held is not None and self._parts.journal.go_on_above(held):
            # This machine was put back to a snapshot: what it told since then is not its own any more.
            log.warning("the coordinator has report %d of this device: numbers go on above it", held)
            self._told = None
            await self._link.send_report(await self._make(told, found))
        self._told = found

    async def _make(self, told: Attempt | None, found: Facts) -> Signed:
        """Say where the device stands, in a report that it signs."""
        parts, host, update = self._parts, self._parts.host, self._service.state.update
        baseline = update.baseline if update is not None else ()
        failed = await self._failed_units()
        new = [unit for unit in failed or () if unit not in baseline]
        waits = self._waits()
        # A fork first: nothing else that this device tells is as urgent.
        ill = f"failed units: {', '.join(new)}" if new else NO_ANSWER if failed is None else ""
        note = ill if ill and not waits.startswith(FORK) else waits
        self.told_system = host.current_system()
        report = Report(
            v=1,
            fleet=parts.identity.fleet,
            device=parts.identity.device,
            seq=parts.journal.next_seq(),
            at=self._link.signing_s(),
            log=parts.mirror.log_state,
            protocol=PROTOCOL,
            boot_id=host.boot_id(),
            system=self.told_system[:SHORT_CHARS],
            booted=host.booted_system()[:SHORT_CHARS],
            healthy=not ill,
            note=note[:SHORT_CHARS],
            attempt=told,
            facts=None if _same(found, self._told) else found,
            paused=self._paused(),
        )
        return sign_report(report, self._key())


class Ticker:
    """Collects progress of the effect under way and sends it now and then; a watcher for the runner."""

    def __init__(self, send: Callable[[Progress], Awaitable[None]], *, lines: bool) -> None:
        """Prepare; with `lines` off, an activation's output stays on the device."""
        self._send = send
        self._with_lines = lines
        self._something = asyncio.Event()
        self._offer: Offer | None = None
        self._phase = Phase.FETCHING
        self._bytes = Bytes(0, None, 0, 0)
        self._ahead = False
        self._lines: deque[str] = deque(maxlen=LINES_HELD)

    def on_bytes(self, offer: Offer, progress: Bytes, *, ahead: bool = False) -> None:
        """Take the state of a download."""
        self._offer, self._phase, self._bytes, self._ahead = offer, Phase.FETCHING, progress, ahead
        self._something.set()

    def on_lines(self, offer: Offer, lines: tuple[str, ...]) -> None:
        """Take new lines of an activation's output."""
        if lines and self._with_lines:
            self._offer, self._phase, self._ahead = offer, Phase.ACTIVATING, False
            self._lines.extend(lines)
            self._something.set()

    async def run(self) -> None:
        """Send for ever; what cannot be sent is forgotten."""
        while True:
            await self._something.wait()
            self._something.clear()
            if self._offer is None:
                continue
            progress = Progress(
                rollout=self._offer.rollout,
                phase=self._phase,
                run=self._offer.run,
                ahead=self._ahead,
                done_bytes=self._bytes.done_bytes,
                total_bytes=self._bytes.total_bytes or 0,
                rate_bytes_s=self._bytes.rate_bytes_s,
                lines=tuple(self._lines),
            )
            self._lines.clear()
            try:
                await self._send(progress)
            except NixfleetError as error:
                log.debug("progress is lost: %s", error)
            await asyncio.sleep(PROGRESS_EVERY_S)


def _same(told: Facts, before: Facts | None) -> bool:
    """Tell whether facts are old news; free space always changes a little."""
    return before is not None and told == msgspec.structs.replace(before, store_free_bytes=told.store_free_bytes)
