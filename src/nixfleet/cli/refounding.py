"""A lost log under its root's next epoch: signed at once, or proposed in a file that people sign where they are.

The new log key and cache key stay on the machine that proposes, beside the folder to come; the file that goes round
holds nothing secret. It must never make a folder before the root's threshold has signed.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import click
import msgspec

from nixfleet.cli import output
from nixfleet.cli.clock import now
from nixfleet.cli.newepoch import KeyFolder, Keys, judged_on, read_file, shown
from nixfleet.cli.options import Globals, confirm
from nixfleet.cli.session import client_of
from nixfleet.cli.signing import signer_of
from nixfleet.client.acts import Head
from nixfleet.client.admin import sign
from nixfleet.client.mirror import Mirror
from nixfleet.client.upstream import BUILT_IN
from nixfleet.config import Context, choose_context, coordinator_dir, mirror_dir, write_atomic
from nixfleet.errors import Refused, Unreachable, UserError
from nixfleet.model.statements import CacheRef, LogKey, Root
from nixfleet.trust import nextepoch
from nixfleet.trust.nextepoch import EpochProposal, Judged
from nixfleet.trust.signers import Signer
from nixfleet.trust.statements import NAMESPACE_APPROVE, digest


@dataclass(frozen=True, slots=True)
class Wishes:
    """From which copy of the log, where to, who signs as well, and the files of a proposal that goes round."""

    folder: Path | None
    data: Path | None
    further: tuple[str, ...]
    propose: Path | None
    signed: tuple[Path, ...]


async def restore(given: Globals, wishes: Wishes) -> None:
    """Make a new data folder from a copy, or a proposal of one. Raises: UserError, Refused, Untrusted."""
    from nixfleet.server.setup import check_empty

    if wishes.propose is not None and wishes.signed:
        raise click.UsageError("--propose begins a proposal, --signed ends it: say one of them")
    name, context = choose_context(given.context, given.env)
    copy = Mirror.open(wishes.folder or mirror_dir(context.fleet, given.env), context.fleet)
    if copy.state.root is None:
        raise UserError(f"there is no copy of the log of {name} in {copy.folder}: name the folder of one")
    place = wishes.data or coordinator_dir(name, given.env)
    check_empty(place)
    kept = KeyFolder.beside(place)
    await _check_lost(given, context.urls, context.fleet)
    if wishes.signed:
        _complete(given, copy, place, kept.read(), read_files(wishes.signed))
        kept.forget()
        return
    kept.check_free()
    confirm(
        given,
        f"Take {name} up again after {copy.size} entries, under a new log key? What came later, and the old"
        " coordinator, are given up for ever.",
    )
    keys = Keys.new(kept.folder, f"{name}-{copy.state.root.log.epoch + 1}")
    proposal = _proposed(given, context, copy, keys, wishes.further)
    if wishes.propose is None:
        _complete(given, copy, place, keys, proposal)
        return
    _check_free(wishes.propose)
    root, _ = nextepoch.root_of(proposal, copy.fleet)
    judged = judged_on(copy.state, proposal, root)
    keys.write()
    write_atomic(wishes.propose, nextepoch.write(proposal), mode=0o644)
    _tell_proposed(given, wishes.propose, proposal, judged, keys)


def read_files(files: tuple[Path, ...]) -> EpochProposal:
    """Read what several people have signed, of one proposal. Raises: UserError."""
    return nextepoch.merged([(str(file), read_file(file)) for file in files])


def _check_free(file: Path) -> None:
    if file.exists():
        raise UserError(f"{file} is there already: name another file for the proposal")


def _proposed(given: Globals, context: Context, copy: Mirror, keys: Keys, further: tuple[str, ...]) -> EpochProposal:
    """Write the next epoch's root, and sign it with the keys that are at hand."""
    signer = signer_of(given, context.key)
    payload, signature = sign(signer, _next_epoch(copy, signer, keys, given.note))
    others = [signer_of(replace(given, key=None), key) for key in further]
    signatures = (signature, *(other.sign(NAMESPACE_APPROVE, payload) for other in others))
    return EpochProposal(payload=payload, signatures=signatures)


def _complete(given: Globals, copy: Mirror, place: Path, keys: Keys, proposal: EpochProposal) -> None:
    """Make the folder, once the root's threshold has signed. Raises: Refused, UserError, Untrusted."""
    from nixfleet.server.refound import Refounding, Saved, refound

    root, taken = nextepoch.root_of(proposal, copy.fleet)
    if copy.log_state != taken:
        raise UserError(
            f"the proposal takes the log up after {taken.size} entries, and the copy in {copy.folder} has"
            f" {copy.size}: name the copy that it was made from, or propose it anew"
        )
    judged = judged_on(copy.state, proposal, root)
    if judged.waits:
        raise Refused(
            f"it waits for {judged.waits}: name their keys with --with KEY, each a file or one in ssh-agent, or let"
            " them sign where they are: --propose FILE"
        )
    lines = {str(release): lines for release in copy.state.releases if (lines := copy.lines(release))}
    entries = [(copy.leaf(index), copy.payload(index)) for index in range(copy.size)]
    saved = Saved(fleet=copy.fleet, entries=entries, lines=lines)
    signed = Refounding(proposal.payload, proposal.signatures, nextepoch.log_time(copy.state, root))
    size = refound(place, saved, signed, keys.log_key, keys.cache_key)
    if given.json:
        output.as_json({"folder": str(place), "size": size, "epoch": root.log.epoch})
    elif not given.quiet:
        click.echo(f"{place} holds the log with {size} entries, a new log key and a new cache key", err=True)
        click.echo("next: 'nixfleet coordinator' serves it; systems that are to be deployed are pushed again", err=True)


def _tell_proposed(given: Globals, file: Path, proposal: EpochProposal, judged: Judged, keys: Keys) -> None:
    """Say who signs now, how it ends, and where the secret part stays."""
    if given.json:
        output.as_json({"file": str(file), "digest": digest(proposal.payload), "waits": judged.waits})
        return
    if given.quiet:
        return
    shown(judged.root, judged, err=True)
    waits = judged.waits or "nobody"
    click.echo(f"{file} waits for {waits}; they run: nixfleet access root sign {file.name}", err=True)
    click.echo(f"then, here: nixfleet log restore --new-log-key --signed {file.name}; the new keys stay", err=True)
    click.echo(f"in {keys.folder} until then", err=True)


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


def _next_epoch(copy: Mirror, signer: Signer, keys: Keys, note: str | None) -> Root:
    """Make the root that takes the log up where the copy ends."""
    old, base = copy.state.root, copy.log_state
    assert old is not None
    head = Head(copy.fleet, signer.key.fingerprint, now(), base, note)
    public = keys.cache_public
    caches = tuple(CacheRef(url=one.url, key=public) if one.url == BUILT_IN else one for one in old.caches)
    log = LogKey(key=keys.log_key.public.text, epoch=old.log.epoch + 1, from_=base)
    return msgspec.structs.replace(old, **head.fields(), version=old.version + 1, log=log, caches=caches)
