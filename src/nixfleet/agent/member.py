"""Becoming a member of the fleet: by token, else by asking until an admin signs; and what an agent is made of.

The own key is always tried before the token's: only requests that it signs bring the payloads of this device's own
statements. It must never give up, except where it runs once, nor join a second time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from nixfleet.agent import enroll, rekey
from nixfleet.agent.guarding import Guarding, MakeGuarding
from nixfleet.agent.host import Host
from nixfleet.agent.identity import Identity
from nixfleet.agent.journal import Journal
from nixfleet.agent.link import Link, NotAdmitted, backoff_s, jittered
from nixfleet.agent.rescue import LastGood
from nixfleet.agent.runner import Store
from nixfleet.agent.service import Clock
from nixfleet.agent.settings import Settings
from nixfleet.agent.switching import MakeSwitcher, Switcher
from nixfleet.agent.tools import run_beside
from nixfleet.agent.units import Run
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.client.upstream import cache_answers
from nixfleet.errors import Refused, UserError
from nixfleet.model.device import CLONE, Facts, JoinToken
from nixfleet.trust.sshsig import SecretKey

log = logging.getLogger("nixfleet.agent")

RETIRED = "this device is retired: it runs on, and gets no updates; 'nixfleet agent join --replace' makes it a new one"
ASKS_OFTEN = 20
"""Requests at the pace of polls."""
ASKS_STEADILY = 200
"""Requests until which a minute lies between two: somebody walks from the device to a desk. Later ones are rare."""
STEADY_S = 60.0
BUNDLE = "bundle"
"""Where an update that root brings in a file is unpacked, in the state folder."""
TOKEN_REST_S = 600
"""How long a token that admits nobody is left alone: it may only begin later, or still lack a signature."""


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is made of; `settings` are the effective ones."""

    settings: Settings
    host: Host
    store: Store
    clock: Clock
    identity: Identity
    key: SecretKey
    token: JoinToken | None
    mirror: Mirror
    journal: Journal
    make_client: Callable[..., Client] = Client
    cache_answers: Callable[[str, float], Awaitable[bool]] = cache_answers
    """Tells whether a binary cache answers at an address, in so many seconds."""
    run: Run = run_beside
    make_switcher: MakeSwitcher = Switcher
    make_guarding: MakeGuarding = Guarding
    supervised: bool = False
    """A service manager starts the agent again when it ends: then a new system's agent takes over by that."""
    rescue: bool = False
    """This is not the running system's agent, but the last one that synced: that one's update goes back."""
    last_good: LastGood | None = None
    by_hand: str = ""
    """Root brings an update from a file (`agent.applying`): the address of the cache in it, the only one asked."""


def note_waits(parts: Parts, reason: str) -> None:
    """Write down why nothing begins, for who asks on the device itself; empty when nothing is waited for."""
    try:
        (Path(parts.settings.state_dir) / "waits").write_text(reason)
    except OSError as error:
        log.debug("%s", error)


def pause_s(asked: int, poll_s: int) -> float:
    """Give how long to wait after so many requests to be enrolled, jittered."""
    if asked < ASKS_OFTEN:
        return jittered(poll_s)
    return jittered(max(poll_s, STEADY_S)) if asked < ASKS_STEADILY else backoff_s(ASKS_STEADILY)


class Member:
    """A device on its way into the fleet."""

    def __init__(self, parts: Parts) -> None:
        self.key = parts.key
        """The key that this device is known by."""
        self._parts = parts
        self._next = rekey.next_key(parts.host, parts.identity)
        self._key_fault = ""
        """Why the log does not have the new key; empty while nothing has tried."""
        self._bygone = ""
        """Why the coordinator refuses the own key; empty for one that it does not know."""
        self._joining = False
        self._token_spent = ""
        """Why the token does not work; empty while it may."""
        self._token_again_s = 0
        """When it is tried once more, by the boot clock."""

    def is_in(self) -> bool:
        """Tell whether the log has this device."""
        return enroll.is_member(self._parts.mirror.state, self._parts.identity, self.key)

    def is_retired(self) -> bool:
        """Tell whether the log has ended this device's membership."""
        return enroll.is_retired(self._parts.mirror.state, self._parts.identity)

    def names(self) -> set[str]:
        """Give what the log calls this device."""
        record = self._parts.mirror.state.devices.get(self._parts.identity.device)
        return {record.statement.name} if record is not None else set()

    def request_key(self) -> SecretKey:
        """Give the key that signs requests: the device's own, or the token's while joining."""
        token = self._parts.token
        return enroll.token_key(token) if self._joining and token is not None else self.key

    async def admit(self, link: Link, told: Facts, *, once: bool) -> None:
        """Return once the log has this device; `told` goes with a request, and `once` waits for no admin.

        Raises: Unreachable, Untrusted, Refused.
        """
        asked = 0
        while not await self._let_in(link):
            if self.is_retired():
                note_waits(self._parts, RETIRED)
                raise Refused(RETIRED)
            if self._bygone:
                # Neither a token nor a wish brings this id back.
                note_waits(self._parts, self._bygone)
                raise Refused(self._bygone)
            reason = await self._join(link)
            if reason is None:
                continue
            await self._ask(link, told, reason)
            if once:
                raise Refused(f"{reason or 'this device is not enrolled yet'}; an admin is asked to let it in")
            await asyncio.sleep(pause_s(asked, self._parts.settings.poll_s))
            asked += 1
        rekey.note(Path(self._parts.settings.state_dir), self.key)

    async def rekey(self, link: Link) -> None:
        """Bring the key that was made beside into the log. Raises: Refused when this device is no member."""
        if not await self._let_in(link):
            raise Refused("the log has no device with this key, so there is none to replace; it must be enrolled first")
        if self._next is not None:
            raise Refused(f"the new key is not in the log: {self._key_fault}")

    async def _let_in(self, link: Link) -> bool:
        """Sync with the own key, unless the log has this device already; then finish a change of keys."""
        if self.is_in() and self._next is None:
            return True
        try:
            await link.sync()
        except NotAdmitted as error:
            log.debug("%s", error)
            if self._next is not None:
                await self._sync_by_next(link)
            # A stranger's key is not trusted; one that is refused was a device's, and the coordinator says what became
            # of it: its word, so it is asked again and again.
            self._bygone = str(error) if isinstance(error.__cause__, Refused) and not self.is_in() else ""
        if self._next is not None and self.is_in():
            await self._change_key(link, self._next)
        return self.is_in()

    async def _sync_by_next(self, link: Link) -> None:
        """Try the new key: a crash may have come between its entry in the log and its use here."""
        assert self._next is not None
        old, self.key = self.key, self._next
        try:
            await link.sync()
        except NotAdmitted as error:
            log.debug("%s", error)
        if self.is_in():
            self._adopt()
        else:
            self.key = old

    async def _change_key(self, link: Link, new: SecretKey) -> None:
        """Append the new key by the old one's signature, and use it once the log has it."""
        parts = self._parts
        made = rekey.statement(
            parts.mirror.state, parts.mirror.log_state, parts.identity, self.key, new, now=link.signing_s()
        )
        try:
            await link.client.append([made])
        except (Refused, UserError) as error:
            # The old key is as good as before; the next connection tries again.
            self._key_fault = str(error)
            log.warning("the new key is not in the log: %s", error)
            return
        await self._sync_by_next(link)

    def _adopt(self) -> None:
        self._next = None
        rekey.adopt(Path(self._parts.settings.state_dir), self.key)
        log.info("this device is known by the key %s now", self.key.public.fingerprint)

    async def _join(self, link: Link) -> str | None:
        """Join by token; None when the statement is in the log, else the reason why that does not work."""
        parts = self._parts
        if parts.token is None or parts.clock.boot() < self._token_again_s:
            return self._token_spent
        self._joining = True
        try:
            await link.sync()
            submission = enroll.join(
                parts.mirror.state,
                parts.mirror.log_state,
                parts.identity,
                self.key,
                parts.token,
                parts.settings,
                name=enroll.name_of(parts.settings, parts.host.hostname()),
                now=link.signing_s(),
            )
            await link.client.append([submission])
        except (Refused, UserError) as error:
            # A coordinator that knows the token says what became of it; of a stranger's it cannot.
            unsaid = isinstance(error, NotAdmitted) and "join token" not in str(error)
            ended = "the join token has ended, was revoked, waits for signatures or is of another fleet: "
            self._token_spent = f"{ended if unsaid else ''}{error}"
            self._token_again_s = parts.clock.boot() + TOKEN_REST_S
            log.warning("cannot join by token: %s", self._token_spent)
            return self._token_spent
        finally:
            self._joining = False
            link.client.use_key(self.key)
        log.info("joined the fleet as %s", parts.identity.device)
        return None

    async def _ask(self, link: Link, told: Facts, reason: str) -> None:
        parts = self._parts
        name = enroll.name_of(parts.settings, parts.host.hostname())
        asked = enroll.request(
            parts.identity,
            self.key,
            parts.settings,
            name=name,
            now=link.signing_s(),
            facts=told,
            reason=reason or self._why(),
        )
        try:
            await link.client.enroll_request(asked)
        except Refused as error:
            note_waits(parts, str(error))
            raise
        note_waits(parts, f"to be enrolled as {name}: an admin compares the key, and lets it in")
        log.info("waiting to be enrolled as %s with the key %s", name, self.key.public.fingerprint)

    def _why(self) -> str:
        """Say why a device that was here before asks again, empty for a new one."""
        identity, state = self._parts.identity, self._parts.mirror.state
        if identity.clone_of:
            record = state.devices.get(identity.clone_of)
            name = record.statement.name if record is not None else "another device"
            return f"{CLONE}: this disk was in {name}, device {identity.clone_of}"
        if identity.device in state.devices or (identity.key and identity.key != self.key.public.fingerprint):
            return f"another key: {identity.key_file} holds another one than this device joined with"
        return ""
