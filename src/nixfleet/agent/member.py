"""Becoming a member of the fleet: by token, else by asking until an admin signs; and what an agent is made of.

The own key is always tried before the token's: only requests that it signs bring the payloads of this device's own
statements. It must never give up, except where it runs once, nor join a second time.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from nixfleet.agent import enroll
from nixfleet.agent.host import Host
from nixfleet.agent.identity import Identity
from nixfleet.agent.journal import Journal
from nixfleet.agent.link import Link, NotAdmitted, backoff_s, jittered
from nixfleet.agent.runner import Store
from nixfleet.agent.service import Clock
from nixfleet.agent.settings import Settings
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.errors import Refused, UserError
from nixfleet.model.device import Facts, JoinToken
from nixfleet.trust.sshsig import SecretKey

log = logging.getLogger("nixfleet.agent")

ASKS_OFTEN = 20
"""Requests at the pace of polls; later ones come as rarely as reconnections."""


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
    supervised: bool = False
    """A service manager starts the agent again when it ends: then a new system's agent takes over by that."""


def note_waits(parts: Parts, reason: str) -> None:
    """Write down why nothing begins, for who asks on the device itself; empty when nothing is waited for."""
    try:
        (Path(parts.settings.state_dir) / "waits").write_text(reason)
    except OSError as error:
        log.debug("%s", error)


class Member:
    """A device on its way into the fleet."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._joining = False
        self._token_spent = ""
        """Why the token does not work; empty while it may."""

    def is_in(self) -> bool:
        """Tell whether the log has this device."""
        return enroll.is_member(self._parts.mirror.state, self._parts.identity, self._parts.key)

    def names(self) -> set[str]:
        """Give what the log calls this device."""
        record = self._parts.mirror.state.devices.get(self._parts.identity.device)
        return {record.statement.name} if record is not None else set()

    def request_key(self) -> SecretKey:
        """Give the key that signs requests: the device's own, or the token's while joining."""
        token = self._parts.token
        return enroll.token_key(token) if self._joining and token is not None else self._parts.key

    async def admit(self, link: Link, told: Facts, *, once: bool) -> None:
        """Return once the log has this device; `told` goes with a request, and `once` waits for no admin.

        Raises: Unreachable, Untrusted, Refused.
        """
        asked = 0
        while not await self._let_in(link):
            if enroll.is_retired(self._parts.mirror.state, self._parts.identity):
                raise Refused("this device is retired: it runs on, and gets no updates")
            reason = await self._join(link)
            if reason is None:
                continue
            await self._ask(link, told, reason)
            if once:
                raise Refused(f"{reason or 'this device is not enrolled yet'}; an admin is asked to let it in")
            poll_s = self._parts.settings.poll_s
            await asyncio.sleep(jittered(poll_s) if asked < ASKS_OFTEN else backoff_s(ASKS_OFTEN))
            asked += 1

    async def _let_in(self, link: Link) -> bool:
        """Sync with the own key, unless the log has this device already."""
        if self.is_in():
            return True
        try:
            await link.sync()
        except NotAdmitted as error:
            log.debug("%s", error)
        return self.is_in()

    async def _join(self, link: Link) -> str | None:
        """Join by token; None when the statement is in the log, else the reason why that does not work."""
        parts = self._parts
        if parts.token is None or self._token_spent:
            return self._token_spent
        self._joining = True
        try:
            await link.sync()
            submission = enroll.join(
                parts.mirror.state,
                parts.mirror.log_state,
                parts.identity,
                parts.key,
                parts.token,
                parts.settings,
                name=enroll.name_of(parts.settings, parts.host.hostname()),
                now=link.signing_s(),
            )
            await link.client.append([submission])
        except (Refused, UserError) as error:
            ended = "the join token has ended, was revoked or is of another fleet: "
            self._token_spent = f"{ended if isinstance(error, NotAdmitted) else ''}{error}"
            log.warning("cannot join by token: %s", self._token_spent)
            return self._token_spent
        finally:
            self._joining = False
            link.client.use_key(parts.key)
        log.info("joined the fleet as %s", parts.identity.device)
        return None

    async def _ask(self, link: Link, told: Facts, reason: str) -> None:
        parts = self._parts
        name = enroll.name_of(parts.settings, parts.host.hostname())
        asked = enroll.request(
            parts.identity, parts.key, parts.settings, name=name, now=link.signing_s(), facts=told, reason=reason
        )
        await link.client.enroll_request(asked)
        note_waits(parts, f"to be enrolled as {name}: an admin compares the key, and lets it in")
        log.info("waiting to be enrolled as %s with the key %s", name, parts.key.public.fingerprint)
