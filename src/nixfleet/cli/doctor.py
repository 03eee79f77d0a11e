"""``nixfleet doctor``: what is wrong on this admin's machine, one line each with the way to mend it.

It changes nothing but this machine's verified copy of the log, which every other command extends just the same.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Literal

import click

from nixfleet.cli import output
from nixfleet.cli.addresses import is_loopback
from nixfleet.cli.options import Globals, command
from nixfleet.cli.root_tables import warnings
from nixfleet.cli.session import client_of, keeper_of, now, signer_of
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.config import Context, choose_context, coordinator_dir, mirror_dir
from nixfleet.errors import NixfleetError, Untrusted
from nixfleet.model.ids import Fingerprint
from nixfleet.model.statements import ACTIONS
from nixfleet.model.text import counted, one_line
from nixfleet.nix import Nix
from nixfleet.trust.replay import State, may_ever, principal_of
from nixfleet.trust.signers import Signer

SKEW_MAX_S: Final = 60
"""Further off than this, statements of this machine may be void (trust.md, Log: five minutes ahead at most)."""

Verdict = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found; `text` says the way on where there is something to mend."""

    check: str
    verdict: Verdict
    text: str
    exit_code: int = 0


@click.command()
@command
async def doctor(given: Globals) -> int:
    """Say what is wrong here, and the fix.

    Looks at Nix, settings, key, coordinator, clock, log and rights, as far as each allows the next. The exit code is
    that of the first thing that is wrong, 0 when nothing is.
    """
    findings = []
    async for finding in _findings(given):
        findings.append(finding)
        if not given.json and not (given.quiet and finding.verdict == "ok"):
            click.echo(f"{finding.verdict:<8}{finding.check:<13}{one_line(finding.text)}")
    if given.json:
        output.as_json(
            {"checks": [{"check": each.check, "verdict": each.verdict, "text": each.text} for each in findings]}
        )
    return next((each.exit_code for each in findings if each.exit_code), 0)


async def _findings(given: Globals) -> AsyncIterator[Finding]:
    """Check one thing after the other, as far as each allows the next."""
    yield await _nix()
    try:
        name, context = choose_context(given.context, given.env)
    except NixfleetError as error:
        yield _wrong("settings", error)
        return
    yield Finding(check="settings", verdict="ok", text=f"fleet {name} ({context.fleet[:12]}) at {context.urls[0]}")
    if all(is_loopback(url) for url in context.urls):
        yield Finding(
            check="address", verdict="warning", text="a loopback address: devices on other machines cannot join"
        )
    if fault := backup_fault_of(name, given):
        yield Finding(check="backup", verdict="wrong", text=fault, exit_code=1)
    signer: Signer | None = None
    try:
        signer = signer_of(given, context.key, context.passphrase_file)
        yield Finding(check="key", verdict="ok", text=signer.key.fingerprint)
    except NixfleetError as error:
        yield _wrong("key", error)
    async with client_of(context.urls, context.fleet, None, given.timeout_s) as client:
        async for finding in _coordinator(given, context, client, signer):
            yield finding


async def _coordinator(
    given: Globals, context: Context, client: Client, signer: Signer | None
) -> AsyncIterator[Finding]:
    """Check what answers at the fleet's address, and what this person may do there."""
    try:
        served = await client.fleet()
        if served.id != context.fleet:
            raise Untrusted(f"{client.url} serves another fleet ({served.id[:12]}); correct the address in the context")
    except NixfleetError as error:
        yield _wrong("coordinator", error)
        return
    yield Finding(check="coordinator", verdict="ok", text=f"{client.url} answers, version {served.version}")
    off_s = served.server_time - now()
    yield Finding(
        check="clock",
        verdict="ok" if abs(off_s) <= SKEW_MAX_S else "warning",
        text=f"{abs(off_s)} s off the coordinator's" + (": set the clock" if abs(off_s) > SKEW_MAX_S else ""),
    )
    if signer is None:
        return
    try:
        await keeper_of(given, context, signer).attach(client)
        mirror = Mirror.open(mirror_dir(context.fleet, given.env), context.fleet)
        await mirror.catch_up(client)
    except NixfleetError as error:
        yield _wrong("log", error)
        return
    size = mirror.size
    yield Finding(check="log", verdict="ok", text="1 entry verifies" if size == 1 else f"{size} entries verify")
    yield _rights(mirror.state, Fingerprint(signer.key.fingerprint))
    if mirror.state.root is not None:
        for warning in warnings(mirror.state, mirror.state.root):
            yield Finding(check="root", verdict="warning", text=warning)
    async for finding in _devices(client):
        yield finding


async def _devices(client: Client) -> AsyncIterator[Finding]:
    """Name the devices whose key two machines use, of those that this person may read of."""
    try:
        cloned = await client.devices("status:cloned")
    except NixfleetError as error:
        yield _wrong("devices", error)
        return
    for device in cloned:
        yield Finding(check="devices", verdict="warning", text=f"{device.name}: {device.reason}")


def backup_fault_of(name: str, given: Globals) -> str:
    """Say what is wrong with the daily backups of a coordinator on this machine, or nothing."""
    folder = coordinator_dir(name, given.env)
    if not folder.exists():
        return ""
    from nixfleet.server.coordinator.backups import backup_fault

    return backup_fault(folder, now())


def _rights(state: State, key: Fingerprint) -> Finding:
    """Tell who the log says the key's holder is, and whether they may change anything."""
    who = principal_of(state, key) or key
    if key in state.root_keys:
        others = state.root.threshold - 1 if state.root is not None else 0
        alone = f", with the signature of {counted(others, 'other principal')}" if others else ""
        return Finding(check="rights", verdict="ok", text=f"{who}, a root key: everything{alone}")
    if may_ever(state, key, ACTIONS, now()):
        return Finding(check="rights", verdict="ok", text=f"{who}, by grant")
    return Finding(
        check="rights", verdict="warning", text=f"{who} may read and change nothing; ask for a grant for {key}"
    )


async def _nix() -> Finding:
    try:
        version = await Nix().version()
    except NixfleetError as error:
        return Finding(
            check="nix",
            verdict="warning",
            text=f"{error}; deploy, release and cache push need it, the other commands do not",
        )
    return Finding(check="nix", verdict="ok", text=f"Nix {'.'.join(map(str, version))}")


def _wrong(check: str, error: NixfleetError) -> Finding:
    return Finding(check=check, verdict="wrong", text=str(error), exit_code=error.exit_code)
