"""What a command works with: the chosen fleet's client, its verified log, and, to act, a signer.

The one place that turns global options into connections; it holds keys in memory only as long as a command runs.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from nixfleet.cli import output
from nixfleet.cli.options import Globals
from nixfleet.client.admin import Admin
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.client.session import SessionKeeper
from nixfleet.config import Context, choose_context, coordinator_dir, mirror_dir, session_file
from nixfleet.errors import Unreachable, Untrusted, UserError
from nixfleet.trust import sshagent
from nixfleet.trust.replay import State
from nixfleet.trust.signers import AgentSigner, Signer, find_signer
from nixfleet.trust.sshsig import SecretKey

TIMEOUT_S = 30
START_S = 10
"""How long a coordinator of this machine may take until it answers, once it was started."""
_ASK_AGAIN_S = 0.2


def now() -> int:
    """Read the clock, in unix seconds: the command line is an edge."""
    return int(time.time())  # noqa: TID251 (the edge where `now` is made)


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


def ask_passphrase(file: Path | None) -> Callable[[], str] | None:
    """Give what asks for a key file's passphrase on the terminal; None where there is none."""
    if not sys.stdin.isatty():
        return None
    return lambda: str(click.prompt(f"Passphrase of {file}", hide_input=True, err=True))


def signer_of(given: Globals, known: str) -> Signer:
    """Find who signs: ``--key``, else `known`, a context's key; each a file or a fingerprint. Raises: UserError."""
    key = given.key or known
    sock = given.env.get("SSH_AUTH_SOCK")
    if not key.startswith("SHA256:"):
        file = Path(key).expanduser().absolute() if key else None
        return find_signer(None, key_file=file, ssh_auth_sock=sock, passphrase=ask_passphrase(file))
    try:
        held = {each.fingerprint: each for each in sshagent.keys(sock)} if sock else {}
    except (Unreachable, Untrusted) as error:
        raise UserError(f"{error}; start ssh-agent and run ssh-add, or pass --key FILE") from error
    if sock is None or key not in held:
        raise UserError(f"ssh-agent holds no key {key}: run ssh-add, or pass --key FILE")
    return AgentSigner(held[key], sock)


def keeper_of(given: Globals, context: Context, signer: Signer) -> SessionKeeper:
    """Give what keeps a person's session with a fleet."""
    fingerprint = signer.key.fingerprint
    file = session_file(context.fleet, fingerprint, given.env)
    return SessionKeeper(signer, fleet=context.fleet, file=file, clock=now)


@asynccontextmanager
async def connected(given: Globals, *, catch_up: bool = False) -> AsyncIterator[Fleet]:
    """Connect to the chosen fleet with the person's session; with `catch_up` the newest log is verified first.

    Raises: UserError, Unreachable, Refused, Untrusted.
    """
    name, context = choose_context(given.context, given.env)
    signer = signer_of(given, context.key)
    async with client_of(context.urls, context.fleet, None, given.timeout_s) as client:
        if coordinator_dir(name, given.env).exists():
            await _until_served(client, name, given)
        await keeper_of(given, context, signer).attach(client)
        mirror = Mirror.open(mirror_dir(context.fleet, given.env), context.fleet)
        if catch_up:
            await mirror.catch_up(client)
        yield Fleet(name=name, context=context, client=client, mirror=mirror, admin=Admin(client, mirror, signer, now))


async def _until_served(client: Client, name: str, given: Globals) -> None:
    """Wait a moment for a fleet's coordinator where it lives on this machine: a script has just begun to start it.

    Raises: Unreachable when it does not answer by then.
    """
    loop, meter = asyncio.get_running_loop(), output.Meter(name, quiet=given.quiet)
    ends = loop.time() + min(given.timeout_s or START_S, START_S)
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
