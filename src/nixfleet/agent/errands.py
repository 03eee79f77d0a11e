"""What a person does once on a device that stands still: join a fleet, join anew, change the key.

The agent must not run meanwhile (`main` holds its lock). Nothing here begins an update, and whatever a crash leaves
behind, the agent's next start goes on with it.
"""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from nixfleet.agent import facts, rekey
from nixfleet.agent import identity as identities
from nixfleet.agent.host import Host
from nixfleet.agent.identity import Identity
from nixfleet.agent.journal import Journal, load
from nixfleet.agent.link import Link
from nixfleet.agent.machine import ENDED
from nixfleet.agent.member import Member, Parts
from nixfleet.agent.settings import Settings, pinned
from nixfleet.client.mirror import Mirror
from nixfleet.errors import UserError
from nixfleet.model.device import JoinToken
from nixfleet.model.statements import LogState
from nixfleet.model.wire import Sync

log = logging.getLogger("nixfleet.agent")


def begin_rekey(host: Host, settings: Settings, folder: Path) -> None:
    """Make a new key beside the present one, for the agent to change to. Raises: UserError."""
    if load(folder / identities.IDENTITY, Identity) is None:
        raise UserError(f"{folder}: this device has not joined a fleet yet, and has no key to change")
    found, _, _ = identities.establish(host, settings)
    rekey.begin(folder, found, settings)


def begin_join(host: Host, settings: Settings, folder: Path, token: JoinToken | None, *, replace: bool) -> None:
    """Make this device ready to join: a new identity where there is none, or where the old one is given up.

    With `replace` it always becomes another device, pinned anew by the token, or by agent.toml where there is none.
    Raises: UserError when it belongs to a fleet already and `replace` is not said, or an update is under way.
    """
    identities.finish_replacing(folder)
    found = identities.readable(folder) if replace else load(folder / identities.IDENTITY, Identity)
    if found is not None and not replace:
        name = _member_name(folder, found)
        if name or (token is not None and token.fleet != found.fleet):
            what = f"is {name}" if name else "has asked"
            raise UserError(
                f"this device {what} in fleet {found.fleet[:12]} already, with the id {found.device};"
                " --replace makes it a new one"
            )
        if token is None:
            return
        if Path(found.key_file).parent == folder:
            # It has asked: the same device joins by the token, where that says that the coordinator is.
            urls = tuple(dict.fromkeys((*token.urls, *found.urls)))
            identities.write(folder, msgspec.structs.replace(found, urls=urls))
            return
    _check_rests(folder, replace=replace)
    fleet, state, urls = _pin(settings, token, replace=replace)
    new = identities.made(host, settings, fleet, state, urls, by_token=token is not None)
    if settings.fleet not in {None, fleet}:
        log.warning("agent.toml names another fleet, %s: name this one there, or none", (settings.fleet or "")[:12])
        new = msgspec.structs.replace(new, overruled=settings.fleet or "")
    identities.replace_by(folder, new)


def _check_rests(folder: Path, *, replace: bool) -> None:
    """Check that no update is under way, whose journal knows the way back. Raises: UserError."""
    try:
        update = Journal(folder).state.update
    except UserError:
        if not replace:
            raise
        return  # nobody can read it any more: what it knew is lost, and is put aside
    if update is not None and update.phase not in ENDED:
        raise UserError(f"an update is under way ({update.phase.value}): let the agent bring it to its end first")


def _pin(settings: Settings, token: JoinToken | None, *, replace: bool) -> tuple[str, LogState, tuple[str, ...]]:
    """Say which fleet and which state of its log is trusted from now on. Raises: UserError.

    With `replace` a token always re-pins (trust.md, Enrolment): on NixOS, agent.toml changes with the system alone.
    """
    if token is not None:
        if settings.fleet not in {None, token.fleet} and not replace:
            raise UserError(
                f"the token is of fleet {token.fleet[:12]}, but agent.toml names {(settings.fleet or '')[:12]}:"
                " use another token, or --replace to trust this one all the same"
            )
        return token.fleet, token.log, token.urls
    pin = pinned(settings)
    if settings.fleet is None or pin is None:
        raise UserError("no fleet is pinned: give a token, or set fleet and checkpoint (and urls) in agent.toml")
    return settings.fleet, LogState(size=pin[0], root=pin[1]), ()


def _member_name(folder: Path, found: Identity) -> str:
    """Give the name under which the log, as last verified here, has this device; empty when it has none."""
    if not (folder / "log").exists():
        return ""
    state = Mirror.open(folder / "log", found.fleet, pin=found.pin, device=found.device).state
    record = state.devices.get(found.device)
    return record.statement.name if record is not None else ""


async def run(parts: Parts, work: Callable[[Member, Link], Awaitable[None]]) -> Member:
    """Do one errand with the coordinator, and let go of it. Raises: Unreachable, Refused, Untrusted, UserError."""
    member = Member(parts)

    async def nothing(_: Sync) -> None:
        """Begin no update."""

    async def done() -> None:
        """Stay no longer."""

    link = Link(
        mirror=parts.mirror,
        urls=(*parts.settings.urls, *parts.identity.urls),
        clock=parts.clock.wall,
        poll_s=parts.settings.poll_s,
        key=member.request_key,
        admit=lambda link: work(member, link),
        synced=nothing,
        distrusted=lambda: None,
        make_client=parts.make_client,
    )
    try:
        await link.session(done)
    finally:
        await link.close()
    return member


async def join(parts: Parts) -> Member:
    """Join by the token; where that does not work, ask. Raises: Refused when an admin has to let it in."""
    told = facts.gather(parts.host, "")
    return await run(parts, lambda member, link: member.admit(link, told, once=True))


async def change_key(parts: Parts) -> Member:
    """Bring the new key into the log and use it."""
    return await run(parts, lambda member, link: member.rekey(link))
