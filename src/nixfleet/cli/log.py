"""``nixfleet log``: this machine's copy of the log, and what it is good for when a coordinator has lost its own."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from nixfleet.cli import output
from nixfleet.cli.clock import now
from nixfleet.cli.options import Globals, Group, command, confirm
from nixfleet.cli.session import Fleet, client_of, connected
from nixfleet.cli.signing import signer_of
from nixfleet.client.acts import Head
from nixfleet.client.admin import sign
from nixfleet.client.keeping import keep_lines
from nixfleet.client.mirror import Mirror
from nixfleet.client.offering import give_back
from nixfleet.client.upstream import BUILT_IN
from nixfleet.config import choose_context, coordinator_dir, mirror_dir
from nixfleet.errors import NixfleetError, Refused, Unreachable, UserError
from nixfleet.model.statements import CacheRef, LogKey, Root
from nixfleet.model.text import counted
from nixfleet.model.wire import OfferAnswer
from nixfleet.trust.signers import Signer
from nixfleet.trust.sshsig import SecretKey
from nixfleet.trust.statements import NAMESPACE_APPROVE

FOLLOW_S = 5.0


@click.group(cls=Group)
def log() -> None:
    """Keep a verified copy of the log, and bring a lost coordinator back from one."""


_folder = click.argument("folder", metavar="[DIR]", type=click.Path(file_okay=False, path_type=Path), required=False)


@log.command("mirror")
@_folder
@click.option("--follow", is_flag=True, help="Go on for ever: what was appended a few seconds ago is here, too.")
@command
async def mirror(given: Globals, folder: Path | None, *, follow: bool) -> None:
    """Bring this machine's copy of the log up to date, with the device lines of releases; DIR is another copy."""
    async with connected(given) as fleet:
        copy = fleet.mirror if folder is None else Mirror.open(folder, fleet.context.fleet)
        await _mirror_once(given, fleet, copy, changed=False)
        while follow:
            await asyncio.sleep(FOLLOW_S)
            try:
                await _mirror_once(given, fleet, copy, changed=True)
            except (Unreachable, Refused) as error:
                click.echo(f"nixfleet: {error}", err=True)


async def _mirror_once(given: Globals, fleet: Fleet, copy: Mirror, *, changed: bool) -> None:
    """Bring a copy up to date, and say so; with `changed` only where something came."""
    before = copy.log_state
    await copy.catch_up(fleet.client)
    kept = await keep_lines(fleet.client, copy)
    if changed and copy.log_state == before and not kept:
        return
    if given.json:
        output.as_json({"size": copy.size, "root": copy.log_state.root, "fleet": copy.fleet, "lines": kept})
    elif not given.quiet:
        click.echo(f"{copy.size} entries in {copy.folder}, verified; root {copy.log_state.root}")


@log.command("restore")
@_folder
@click.option("--new-log-key", is_flag=True, help="The coordinator is lost for good: make its folder anew from here.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where to make it.")
@click.option("--with", "further", multiple=True, metavar="FILE|SHA256:…", help="A further root key that signs, too.")
@command
async def restore(
    given: Globals, folder: Path | None, data: Path | None, further: tuple[str, ...], *, new_log_key: bool
) -> None:
    """Give a coordinator that runs an old backup the entries back that it lacks, from this machine's copy or from DIR.

    With --new-log-key, where database or log key are gone for good: make a new data folder from the copy, with a new
    log key that the root's threshold signs. Devices go on where the copy ends.
    """
    if new_log_key:
        await _refound(given, folder, data, further)
        return
    if data is not None or further:
        raise click.UsageError("--data and --with belong to --new-log-key")
    name, context = choose_context(given.context, given.env)
    copy = Mirror.open(folder or mirror_dir(context.fleet, given.env), context.fleet)
    if not copy.size:
        raise UserError(f"there is no copy of the log of {name} in {copy.folder}: name the folder of one")
    async with connected(given) as fleet:
        answer = await give_back(fleet.client, copy)
    if given.json:
        output.as_json({"size": answer.size, "goal": answer.goal, "lacks": answer.lacks, "lines": answer.lines})
    elif not given.quiet:
        click.echo(_in_words(answer, copy.size))
    if answer.lacks:
        raise NixfleetError(f"it lacks the content of {counted(len(answer.lacks), 'entry')}: {_first(answer.lacks)}")


def _in_words(answer: OfferAnswer, size: int) -> str:
    if answer.lines:
        return f"it has all {answer.size} entries; it lacks the device lines of {counted(len(answer.lines), 'release')}"
    if answer.goal:
        return f"it has {answer.size} of {answer.goal} entries back, as far as this copy of {size} reaches"
    return f"it has all {answer.size} entries, and all that this copy of {size} could give"


def _first(lacks: Sequence[int]) -> str:
    shown = ", ".join(map(str, lacks[:5]))
    more = " and more" if len(lacks) > 5 else ""
    return f"{shown}{more}; the devices concerned, or who signed them, have them"


async def _refound(given: Globals, folder: Path | None, data: Path | None, further: tuple[str, ...]) -> None:
    from nixfleet.server.refound import Refounding, Saved, refound
    from nixfleet.server.setup import check_empty
    from nixfleet.trust.narinfo import CacheKey

    name, context = choose_context(given.context, given.env)
    copy = Mirror.open(folder or mirror_dir(context.fleet, given.env), context.fleet)
    if copy.state.root is None:
        raise UserError(f"there is no copy of the log of {name} in {copy.folder}: name the folder of one")
    place = data or coordinator_dir(name, given.env)
    check_empty(place)
    await _check_lost(given, context.urls, context.fleet)
    confirm(
        given,
        f"Take {name} up again after {copy.size} entries, under a new log key? What came later, and the old"
        " coordinator, are given up for ever.",
    )
    signer = signer_of(given, context.key)
    log_key, cache_key = SecretKey.generate(), CacheKey.generate(f"{name}-{copy.state.root.log.epoch + 1}")
    payload, signature = sign(signer, _next_epoch(copy, signer, log_key, cache_key.public, given.note))
    others = [signer_of(replace(given, key=None), key) for key in further]
    signatures = [signature, *(other.sign(NAMESPACE_APPROVE, payload) for other in others)]
    lines = {str(release): lines for release in copy.state.releases if (lines := copy.lines(release))}
    entries = [(copy.leaf(index), copy.payload(index)) for index in range(copy.size)]
    saved = Saved(fleet=copy.fleet, entries=entries, lines=lines)
    size = refound(place, saved, Refounding(payload, signatures, now()), log_key, cache_key.text)
    if given.json:
        output.as_json({"folder": str(place), "size": size, "epoch": copy.state.root.log.epoch + 1})
    elif not given.quiet:
        click.echo(f"{place} holds the log with {size} entries, a new log key and a new cache key", err=True)
        click.echo("next: 'nixfleet coordinator' serves it; systems that are to be deployed are pushed again", err=True)


async def _check_lost(given: Globals, urls: tuple[str, ...], fleet: str) -> None:
    """Check that nobody serves the fleet: two coordinators would be two histories. Raises: UserError."""
    async with client_of(urls, fleet, None, given.timeout_s) as client:
        try:
            await client.checkpoint()
        except Unreachable:
            return
        raise UserError(
            f"{client.url} serves this fleet: it is not lost; 'nixfleet log restore' gives it what it lacks"
        )


def _next_epoch(copy: Mirror, signer: Signer, log_key: SecretKey, cache_key: str, note: str | None) -> Root:
    """Make the root that takes the log up where the copy ends."""
    old, base = copy.state.root, copy.log_state
    assert old is not None
    head = Head(copy.fleet, signer.key.fingerprint, now(), base, note)
    caches = tuple(CacheRef(url=one.url, key=cache_key) if one.url == BUILT_IN else one for one in old.caches)
    log = LogKey(key=log_key.public.text, epoch=old.log.epoch + 1, from_=base)
    return msgspec.structs.replace(old, **head.fields(), version=old.version + 1, log=log, caches=caches)
