"""What a command works with: the chosen fleet's client, its verified log, and, to act, a signer.

The one place that turns global options into connections; it holds keys in memory only as long as a command runs.
"""

import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from nixfleet.cli.options import Globals
from nixfleet.client.admin import Admin
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.client.session import SessionKeeper
from nixfleet.config import Context, choose_context, mirror_dir, session_file
from nixfleet.errors import UserError
from nixfleet.trust.signers import AgentSigner, Signer, agent_keys, find_signer
from nixfleet.trust.sshsig import SecretKey

TIMEOUT_S = 30


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


def client_of(urls: tuple[str, ...], fleet: str, key: SecretKey | None, timeout_s: int | None = None) -> Client:
    """Give a client for a coordinator's addresses."""
    return Client(urls, fleet=fleet, key=key, clock=now, timeout_s=timeout_s or TIMEOUT_S)


def passphrase_of(given: Globals) -> Callable[[], str] | None:
    """Ask for a passphrase on the terminal; None where there is none."""
    del given
    if not sys.stdin.isatty():
        return None
    return lambda: str(click.prompt("Passphrase", hide_input=True, err=True))


def key_file_of(given: Globals, known: str) -> Path | None:
    """Choose the key file: the option's, or the context's when that is a file; else None (a key in the agent)."""
    if given.key is not None:
        return given.key.expanduser().absolute()
    return Path(known) if known and not known.startswith("SHA256:") else None


def signer_of(given: Globals, known: str) -> Signer:
    """Find who signs; `known` is a context's key, a file or a fingerprint. Raises: UserError that says what to do."""
    key_file = key_file_of(given, known)
    sock = given.env.get("SSH_AUTH_SOCK")
    if key_file is not None or not known:
        return find_signer(None, key_file=key_file, ssh_auth_sock=sock, passphrase=passphrase_of(given))
    for key in agent_keys(sock) if sock else ():
        if key.fingerprint == known:
            assert sock is not None
            return AgentSigner(key, sock)
    raise UserError(f"ssh-agent holds no key {known}: run ssh-add, or pass --key FILE")


def keeper_of(given: Globals, context: Context, signer: Signer) -> SessionKeeper:
    """Give what keeps a person's session with a fleet."""
    fingerprint = signer.key.fingerprint
    file = session_file(context.fleet, fingerprint, given.env)
    return SessionKeeper(signer, fleet=context.fleet, file=file, clock=now)


@asynccontextmanager
async def connected(given: Globals, *, catch_up: bool = False) -> AsyncIterator[Fleet]:
    """Connect to the chosen fleet with the person's session; with `catch_up` its log is verified first.

    Raises: UserError, Unreachable, Refused, Untrusted.
    """
    name, context = choose_context(given.context, given.env)
    signer = signer_of(given, context.key)
    async with client_of(context.urls, context.fleet, None, given.timeout_s) as client:
        await keeper_of(given, context, signer).attach(client)
        mirror = Mirror.open(mirror_dir(context.fleet, given.env), context.fleet)
        if catch_up:
            await mirror.catch_up(client)
        yield Fleet(name=name, context=context, client=client, mirror=mirror, admin=Admin(client, mirror, signer, now))
