"""How the root and its waiting versions are shown: in lines for people, as records for programs. It never asks."""

from typing import Any

import click

from nixfleet.cli import output
from nixfleet.cli.options import Globals
from nixfleet.cli.session import now
from nixfleet.model.ids import Digest
from nixfleet.model.ruletext import rule_text
from nixfleet.model.statements import Root
from nixfleet.model.text import clean
from nixfleet.trust import fields, rootwords
from nixfleet.trust.proposals import Proposal
from nixfleet.trust.replay import State
from nixfleet.trust.unmeetable import unmeetable


def warnings(state: State, root: Root) -> tuple[str, ...]:
    """Say what about a root may be regretted: whom it depends on, and rules that nobody could fulfil."""
    return (*rootwords.warnings(state, root), *unmeetable(state, root, now()))


def show_root(state: State) -> None:
    """Write the root in force, or the first one while it still waits."""
    root = state.log_root
    assert root is not None, "a verified log has a root"
    live = rootwords.live_keys(state, root)
    pairs = [("root", f"{root.version}{'' if state.root is not None else ', waiting for co-signatures'}")]
    pairs += [("threshold", f"{root.threshold} of {len(root.principals)} principals sign")]
    for principal in root.principals:
        for place, key in enumerate(map(fields.fingerprint, principal.keys)):
            gone = "" if key in live.get(principal.name, ()) else " (revoked)"
            pairs.append(("" if place else principal.name, f"{key}{gone}"))
    pairs += [("url", url) for url in root.urls]
    pairs += [("cache", f"{cache.url} {cache.key}") for cache in root.caches]
    pairs += [(f"rule {place}", rule_text(rule)) for place, rule in enumerate(root.rules, start=1)]
    pairs += [("protocol", str(root.protocol)), ("log key", fields.fingerprint(root.log.key))]
    pairs += [("epoch", str(root.log.epoch))] if root.log.epoch else []
    output.fields(pairs)
    for warning in warnings(state, root):
        click.echo(f"! {warning}", err=True)


def show_proposal(state: State, chosen: Digest, proposal: Proposal) -> None:
    """Write a version that waits: its difference to the root in force, who has signed, and whose turn it is."""
    root = proposal.root
    click.echo(f"root {root.version} ({chosen[:12]}, entry {proposal.index}), {output.age(proposal.at, now())}")
    if root.note:
        click.echo(clean(f"  note: {root.note}"))
    for line in differences(state, root):
        click.echo(clean(f"  {line}"))
    if proposal.superseded:
        click.echo(f"  {proposal.superseded}; it can never take effect")
        return
    click.echo(f"  signed by {signed_words(proposal)}; waits for {proposal.waits}")
    for warning in warnings(state, root):
        click.echo(f"! {warning}", err=True)


def signed_words(proposal: Proposal) -> str:
    """Name who has signed a version."""
    return ", ".join(proposal.signed) or "nobody whose key is still good"


def differences(state: State, root: Root) -> tuple[str, ...]:
    """Say what a version changes; root 1 changes nothing."""
    return () if state.root is None else rootwords.differences(state.root, root)


def proposal_record(state: State, chosen: Digest, proposal: Proposal) -> dict[str, Any]:
    """Give a waiting version for programs."""
    sides = {"old": proposal.old, "new": proposal.new}
    return {
        "digest": chosen,
        "version": proposal.root.version,
        "index": proposal.index,
        "at": proposal.at,
        "by": proposal.by,
        "note": proposal.root.note or "",
        "changes": differences(state, proposal.root),
        "signed": proposal.signed,
        "superseded": proposal.superseded,
        "waits": proposal.waits,
        **{side: {"missing": one.missing, "left": one.left} for side, one in sides.items()},
    }


def changes_shown(given: Globals, state: State, old: Root, new: Root) -> None:
    """Show what a new version changes, before anybody signs."""
    changes, warned = rootwords.differences(old, new), warnings(state, new)
    if given.json:
        output.as_json({"version": new.version, "changes": changes, "warnings": warned})
        return
    click.echo(f"root {new.version}, after root {old.version}:")
    for line in changes:
        click.echo(clean(f"  {line}"))
    for warning in warned:
        click.echo(f"! {warning}", err=True)
