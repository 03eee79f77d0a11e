"""A device's way to the coordinator, made up: real requests over loopback, which break off when it is told to.

It must never change what is sent or answered.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from nixfleet.client.api import REPORTS, SILENCE_S, TIMEOUT_S, Client
from nixfleet.client.transport import CONNECT_S, Call, Transport
from nixfleet.errors import Unreachable
from nixfleet.sim.clock import SimClock


class Line:
    """Whether a device is connected; whoever uses the line hears at once when it breaks."""

    def __init__(self) -> None:
        self.up = True
        self.reported = False
        """Whether a report was delivered over it."""
        self._uses: set[asyncio.Timeout] = set()

    def cut(self) -> None:
        """Break what is under way, and let nothing through."""
        self.up = False
        now = asyncio.get_running_loop().time()
        for use in self._uses:
            use.reschedule(now)

    def mend(self) -> None:
        """Let everything through again."""
        self.up = True

    @asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        """Use the line. Raises: Unreachable, as soon as it is cut."""
        if not self.up:
            raise Unreachable("the network is unreachable")
        try:
            async with asyncio.timeout(None) as use:
                self._uses.add(use)
                try:
                    yield
                finally:
                    self._uses.discard(use)
        except TimeoutError:
            if use.expired():
                raise Unreachable("the network went away") from None
            raise


class _WeakTransport(Transport):
    """A real transport over a line that may break."""

    def __init__(self, *args: Any, line: Line, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self._line = line

    async def send(self, call: Call) -> bytes:
        """Send a call, as far as the line holds."""
        async with self._line.used():
            answer = await super().send(call)
        self._line.reported |= call.path == REPORTS
        return answer

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Give the answer's bytes, as long as the line holds."""
        chunks = super().stream(call)
        try:
            while True:
                async with self._line.used():
                    try:
                        chunk = await anext(chunks)
                    except StopAsyncIteration:
                        return
                yield chunk
        finally:
            await chunks.aclose()


def make_client(clock: SimClock, line: Line | None = None) -> Callable[..., Client]:
    """Give what makes clients on a line of this clock's world; without one it never breaks.

    Sockets do not go faster with the clock: an answer may take as many real seconds as anywhere.
    """
    times = max(1.0, clock.origin.speed)
    make_way = Transport if line is None else partial(_WeakTransport, line=line)
    return partial(
        Client,
        timeout_s=TIMEOUT_S * times,
        silence_s=SILENCE_S * times,
        make_way=partial(make_way, connect_s=CONNECT_S * times),
    )
