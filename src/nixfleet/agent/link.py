"""The way to the coordinator: sync, stream, poll, come back; everything that arrives goes through the mirror.

It keeps trying for ever, with jitter and backoff, and never hands on anything that the mirror has not verified. It
decides nothing about updates.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing

from nixfleet.agent.memory import give_back as give_memory_back
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.client.offering import give_back
from nixfleet.errors import NixfleetError, Refused, Unreachable, Untrusted, UserError
from nixfleet.model.typed import checked_url, is_url
from nixfleet.model.wire import Signed, Sync
from nixfleet.trust.misplaced import why_void
from nixfleet.trust.replay import Void
from nixfleet.trust.sshsig import SecretKey
from nixfleet.trust.view import Behind, Extended

log = logging.getLogger("nixfleet.agent")

BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 300.0
STREAM_BREAKS = 2
"""Streams that end in a row before their first event make the link poll (docs/protocol.md, An agent's life)."""
STREAM_AGAIN_POLLS = 40
SKEW_MOST_S = 100 * 366 * 86_400
"""A clock that begins in 1970 is put right; a correction beyond this is no clock's."""


class NotAdmitted(Refused):
    """The coordinator does not let this key read the log: the device is not enrolled, or no longer."""


class Link:
    """Keeps a device's copy of the log at the coordinator's newest state."""

    def __init__(
        self,
        *,
        mirror: Mirror,
        urls: Sequence[str],
        clock: Callable[[], int],
        poll_s: int,
        key: Callable[[], SecretKey],
        admit: Callable[["Link"], Awaitable[None]],
        synced: Callable[[Sync], Awaitable[None]],
        distrusted: Callable[[], None],
        turned_away: Callable[[str], None] = lambda _: None,
        make_client: Callable[..., Client] = Client,
    ) -> None:
        """Prepare; `key` signs requests, `admit` is awaited until the device is a member, `synced` after each sync.

        `distrusted` is called when the log does not hold, `turned_away` with the coordinator's word when it admits this
        device no longer.
        """
        self.mirror = mirror
        self.trouble = ""
        """Why nothing may start: a fork, an old backup, a log that does not hold. Empty while all is well."""
        self.void = ""
        """The newest entry that was refused here, and why, until an update begins."""
        self._urls = tuple(urls)
        self._clock = clock
        self._poll_s = poll_s
        self._key = key
        self._admit = admit
        self._synced = synced
        self._distrusted = distrusted
        self._turned_away = turned_away
        self._make_client = make_client
        self._client: Client | None = None
        self._used: tuple[str, ...] = ()
        self._open = AsyncExitStack()
        self._taking = asyncio.Lock()
        self._breaks = 0

    @property
    def client(self) -> Client:
        """The client in use. Raises: Unreachable before the first connection."""
        if self._client is None:
            raise Unreachable("no coordinator has answered yet")
        return self._client

    @property
    def base_url(self) -> str:
        """The address that answered last."""
        return self._client.url if self._client is not None else next(iter(self.urls()), "")

    def urls(self) -> tuple[str, ...]:
        """List where to try: the root's addresses first, then agent.toml's and the token's (trust.md, Starting).

        One that is none is passed over: a slip in a signed root must not cut the fleet off from the next root.
        """
        root = self.mirror.state.root
        named = dict.fromkeys((*(root.urls if root is not None else ()), *self._urls))
        return tuple(url for url in named if is_url(url))

    def wall(self) -> int:
        """Give the time to decide by, in unix seconds: max(device clock, last log time) (trust.md, When judged).

        What a coordinator says in an answer has no part in it: nobody signed that.
        """
        return max(self._clock(), self.mirror.state.last_time)

    def signing_s(self) -> int:
        """Give the time to write into what this device signs, in unix seconds, as the coordinator counts them.

        Never to decide by: whoever answers a request can shift it.
        """
        skew_s = self._client.skew_s if self._client is not None else 0
        skew_s = skew_s if abs(skew_s) <= SKEW_MOST_S else 0
        return max(self._clock() + skew_s, self.mirror.state.last_time)

    async def run(self) -> None:
        """Stay connected for ever."""
        failures = 0
        while True:
            begun = asyncio.get_running_loop().time()
            try:
                await self.session()
            except NixfleetError as error:
                log.warning("%s", error)
                if isinstance(error, NotAdmitted):
                    self._turned_away(str(error))
            # A session that held for a while was a success: a coordinator's restart is met with a short wait.
            failures = 0 if asyncio.get_running_loop().time() - begun > BACKOFF_MOST_S / 10 else failures + 1
            await asyncio.sleep(backoff_s(failures))

    async def session(self, instead: Callable[[], Awaitable[None]] | None = None) -> None:
        """Connect, be admitted, catch up, and listen until the connection breaks, or do something else `instead`.

        Raises: Unreachable, Untrusted, Refused (NotAdmitted), UserError.
        """
        urls = self.urls()
        await self._use(urls)
        await self._admit(self)
        await self.sync()
        if instead is not None:
            await instead()
            return
        while self.urls() == urls:
            await (self._poll() if self._breaks >= STREAM_BREAKS else self._listen())

    async def close(self) -> None:
        """Close every connection; nothing may be sent after that."""
        self._client = None
        await self._open.aclose()

    async def _use(self, urls: tuple[str, ...]) -> None:
        """Keep the client, since others send through it, unless the addresses have changed."""
        if self._client is None or urls != self._used:
            self._client = await self._open.enter_async_context(self._new_client(urls))
            self._used = urls

    async def sync(self, *, fresh: bool = False) -> None:
        """Take everything up to the coordinator's checkpoint; with `fresh`, over a new connection.

        Raises: Unreachable, NotAdmitted, Untrusted (then `trouble` says why nothing may start).
        """
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(self._new_client(self.urls())) if fresh else self.client
            client.use_key(self._key())
            while True:
                try:
                    answer = await client.sync(self.mirror.next_index)
                except (Refused, Untrusted) as error:
                    await self._tell_what_is_lost(client)
                    raise NotAdmitted(f"the coordinator does not admit this device: {error}") from error
                if await self._take(client, answer):
                    return

    async def _listen(self) -> None:
        """Handle the event stream until it breaks. Raises: Unreachable."""
        heard = False
        try:
            self.client.use_key(self._key())
            async with aclosing(self.client.agent_events(self.mirror.next_index)) as events:
                async for event in events:
                    heard, self._breaks = True, 0
                    if not await self._take(self.client, event):
                        await self.sync()
        except Unreachable as error:
            if heard:
                raise
            self._breaks += 1
            log.info("the event stream does not come through (%s)", error)

    async def _poll(self) -> None:
        """Poll where a proxy breaks streams, and try a stream again now and then. Raises: Unreachable."""
        for _ in range(STREAM_AGAIN_POLLS):
            await asyncio.sleep(jittered(self._poll_s))
            await self.sync()
        self._breaks = STREAM_BREAKS - 1

    async def _take(self, client: Client, answer: Sync) -> bool:
        """Verify and keep an answer, and tell of it; False while more is to come."""
        async with self._taking:
            try:
                taken = await self._verified(client, answer)
            except Untrusted as unexplained:
                error = await self.mirror.explained(client, answer.checkpoint, unexplained)
                self.trouble = f"{self.mirror.verified}: {error}" if self.mirror.verified != "ok" else str(error)
                log.error("the log does not hold, nothing will be started: %s", error)  # noqa: TRY400 - one line, no trace
                self._distrusted()
                raise error from unexplained
            if taken is None:
                return False
            self.trouble = ""
            self._tell_void(taken)
            give_memory_back(len(taken.verdicts))
            # Payloads of entries from before it was a member; one missing, and it starts no update.
            await self.mirror.fill(client)
        log.debug("the log has %d entries, %d gates are open", self.mirror.size, len(answer.gates))
        await self._synced(answer)
        return True

    def _tell_void(self, taken: Extended) -> None:
        """Note what is in the log and has no effect on this device: forged, repeated, or by nobody with the right."""
        for index, verdict in enumerate(taken.verdicts, taken.start):
            # A log met for the first time is history, which all others have judged before.
            if isinstance(verdict, Void) and taken.start:
                why = why_void(index, verdict, self.mirror.payload(index))
                self.void = f"entry {index} has no effect: {why}"
                log.warning("%s", self.void)

    async def _verified(self, client: Client, answer: Sync) -> Extended | None:
        """Give an answer to the mirror. Raises: Untrusted."""
        try:
            return self.mirror.take(answer)
        except Behind:
            # An event that a newer answer has overtaken looks like an old backup; asking again tells them apart.
            answer = await client.sync(self.mirror.next_index)
        except Untrusted:
            if not await self.mirror.succeed(client):
                raise
            log.warning("the log was lost, and goes on under the root's next epoch from entry %d on", self.mirror.size)
            answer = await client.sync(self.mirror.next_index)
        try:
            return self.mirror.take(answer)
        except Behind as behind:
            log.warning("the coordinator runs an old backup: it is offered what this device holds of the log")
            try:
                await give_back(client, self.mirror)
                answer = await client.sync(self.mirror.next_index)
            except NixfleetError as error:
                raise behind from error  # that it is behind is what counts
            return self.mirror.take(answer)

    async def _tell_what_is_lost(self, client: Client) -> None:
        """Offer a coordinator that does not know this device what it may have known once: its own enrolment, too.

        A backup from before this device came is otherwise never told of it.
        """
        if not self.mirror.size:
            return
        async with self._taking:
            try:
                # Proven first: who is on the way, and no coordinator, gets nothing.
                if self.mirror.goes_on_from(await client.checkpoint()):
                    await give_back(client, self.mirror)
            except NixfleetError as error:
                log.debug("%s", error)

    def _new_client(self, urls: Sequence[str]) -> Client:
        if not urls:
            for url in self._urls:
                checked_url(url)  # says what is wrong with it
            raise UserError("no coordinator is known: set urls in agent.toml")
        return self._make_client(urls, fleet=self.mirror.fleet, key=self._key(), clock=self._clock)

    async def send_report(self, signed: Signed) -> int | None:
        """Deliver a report; it is durable when this returns, or was dropped for one with the number that is given.

        Raises: Unreachable, Refused, Untrusted.
        """
        return await self.client.report(signed)


def backoff_s(failures: int) -> float:
    """Give how long to wait after so many failures in a row, jittered: a fleet must not come back all at once."""
    return jittered(min(BACKOFF_FIRST_S * 2 ** min(failures, 12), BACKOFF_MOST_S))


def jittered(span_s: float) -> float:
    """Spread a wait over half to all of its span."""
    return span_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
