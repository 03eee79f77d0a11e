"""What the device says: signed reports until they are delivered, and progress that may be lost.

An undelivered report never causes anything but another delivery. Progress is sampled, bounded, and dropped before it
holds anything up.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from nixfleet.agent.link import backoff_s
from nixfleet.agent.machine import attempt
from nixfleet.agent.service import Service
from nixfleet.agent.update import Delivered, Offer
from nixfleet.errors import NixfleetError
from nixfleet.model.device import Attempt, Phase, Progress
from nixfleet.model.wire import Signed
from nixfleet.nix import Progress as Bytes

log = logging.getLogger("nixfleet.agent")

PROGRESS_EVERY_S = 0.25
LINES_HELD = 200


class Reporter:
    """Delivers outcomes in order, then where the device stands."""

    def __init__(
        self,
        service: Callable[[], Service],
        make: Callable[[Attempt | None], Awaitable[Signed]],
        send: Callable[[Signed], Awaitable[None]],
    ) -> None:
        """Prepare; `make` signs a report with an attempt in it, `send` delivers it durably."""
        self._service = service
        self._make = make
        self._send = send
        self._wanted = asyncio.Event()

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
        """Send every outcome that waits, then the present state. Raises: what sending raises."""
        while outbox := self._service().state.outbox:
            await self._send(await self._make(outbox[0]))
            self._service().feed(Delivered(rollout=outbox[0].rollout, run=outbox[0].run))
        update = self._service().state.update
        await self._send(await self._make(attempt(update) if update is not None else None))


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
        self._lines: deque[str] = deque(maxlen=LINES_HELD)

    def on_bytes(self, offer: Offer, progress: Bytes) -> None:
        """Take the state of a download."""
        self._offer, self._phase, self._bytes = offer, Phase.FETCHING, progress
        self._something.set()

    def on_lines(self, offer: Offer, lines: tuple[str, ...]) -> None:
        """Take new lines of an activation's output."""
        if lines and self._with_lines:
            self._offer, self._phase = offer, Phase.ACTIVATING
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
