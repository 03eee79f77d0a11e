"""What a command works with: the chosen fleet's client, its verified log, and, to act, a signer.

The one place that turns global options into connections; it holds keys in memory only as long as a command runs.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import click

from nixfleet.cli import output
from nixfleet.cli.clock import now
from nixfleet.cli.options import Globals
from nixfleet.cli.signing import signer_of
from nixfleet.client.admin import Admin, too_old
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.client.session import SessionKeeper
from nixfleet.config import Context, choose_context, coordinator_dir, mirror_dir, session_file
from nixfleet.errors import Unreachable
from nixfleet.model.typed import is_url
from nixfleet.trust.replay import State
from nixfleet.trust.signers import Signer
from nixfleet.trust.sshsig import SecretKey

__all__ = ["START_S", "TIMEOUT_S", "Fleet", "client_of", "connected", "keeper_of", "now", "signer_of"]

TIMEOUT_S = 30
START_S = 10
"""How long a coordinator of this machine may take until it answers, once it was started."""
_ASK_AGAIN_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A fleet as a command sees it: who asks, the connection, this machine's verified copy of the log, and acts."""

    name: str
    context: Context
    client: Client
    mirror: Mirror
    admin: Admin

    @property
    def state(self) -> State:
        """What the log says, as far as it is verified here."""
        return self.mirror.state


def client_of(urls: tuple[str, ...], fleet: str, key: SecretKey | None, timeout_s: int | None = None) -> Client:
    """Give a client for a coordinator's addresses."""
    return Client(urls, fleet=fleet, key=key, clock=now, timeout_s=timeout_s or TIMEOUT_S)


async def fleet_time(client: Client) -> int:
    """Give the time by which the coordinator dates what it tells (unix seconds); ours where it does not say."""
    ours = now()
    return ours + await client.ahead_s(ours)


def keeper_of(given: Globals, context: Context, signer: Signer) -> SessionKeeper:
    """Give what keeps a person's session with a fleet."""
    fingerprint = signer.key.fingerprint
    file = session_file(context.fleet, fingerprint, given.env)
    return SessionKeeper(signer, fleet=context.fleet, file=file, clock=now)


def addresses(context: Context, state: State) -> tuple[str, ...]:
    """List where to try: the context's addresses, then those that the root names, for a coordinator that has moved."""
    root = state.root
    named = dict.fromkeys((*context.urls, *(root.urls if root is not None else ())))
    return tuple(url for url in named if is_url(url))


@asynccontextmanager
async def connected(given: Globals, *, catch_up: bool = False) -> AsyncIterator[Fleet]:
    """Connect to the chosen fleet with the person's session; with `catch_up` the newest log is verified first.

    Raises: UserError, Unreachable, Refused, Untrusted.
    """
    name, context = choose_context(given.context, given.env)
    signer = signer_of(given, context.key, context.passphrase_file)
    mirror = Mirror.open(mirror_dir(context.fleet, given.env), context.fleet)
    async with client_of(addresses(context, mirror.state), context.fleet, None, given.timeout_s) as client:
        if coordinator_dir(name, given.env).exists():
            await until_served(client, name, given, START_S)
        await keeper_of(given, context, signer).attach(client)
        if catch_up:
            await mirror.catch_up(client)
        if mirror.state.stopped_at is not None and mirror.state.root is not None:
            click.echo(f"! {too_old(mirror.state.root.protocol)}; what came later is not judged here", err=True)
        yield Fleet(name=name, context=context, client=client, mirror=mirror, admin=Admin(client, mirror, signer, now))


async def until_served(client: Client, name: str, given: Globals, patience_s: int) -> None:
    """Wait a moment for a coordinator that is about to answer: a script, or a claim, has just begun its fleet.

    Raises: Unreachable when it does not answer by then.
    """
    loop, meter = asyncio.get_running_loop(), output.Meter(name, quiet=given.quiet)
    ends = loop.time() + min(given.timeout_s or patience_s, patience_s)
    while True:
        try:
            await client.fleet()
        except Unreachable:
            if loop.time() >= ends:
                raise
        else:
            break
        if meter.terminal:
            meter.show("waits for its coordinator to answer")
        await asyncio.sleep(_ASK_AGAIN_S)
    meter.clear()
