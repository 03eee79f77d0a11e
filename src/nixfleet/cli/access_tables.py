"""How rights are shown to people: the tree of grants, the chains of one right, what a revocation would stop."""

from collections.abc import Sequence
from typing import Final

import click

from nixfleet.cli import output
from nixfleet.model.text import clean, counted, utc
from nixfleet.model.views import AccessView, GrantView
from nixfleet.trust.replay import Chain, Stopped
from nixfleet.trust.replay.links import SHOWN, action_words, select_words

LISTED: Final = 8
"""How many of a kind a revocation names before it counts the rest."""
_HEADINGS: Final = {
    "rollout": "rollout that is open or stands",
    "release": "release",
    "approval": "approval",
    "grant": "grant",
}


def tree(view: AccessView) -> None:
    """Write who is at the root, a line for each grant below the one it is from, and what waits for signatures."""
    if view.root is not None:
        people = ", ".join(f"{one.name} ({_keys(one.keys, one.revoked)})" for one in view.root.principals)
        signed = counted(view.root.threshold, "signature")
        click.echo(clean(f"root {view.root.version}: {people}; {signed} for what the root does"))
        click.echo("")
    depths: dict[str, int] = {}
    rows = []
    for grant in view.grants:
        depths[grant.id] = depths.get(grant.parent, -1) + 1
        rows.append(_row(grant, depths[grant.id]))
    output.table(
        ("WHO", "GRANT", "MAY", "ON", "UNTIL", "LIMITS", "STATE"),
        rows,
        "nobody but the root has a right; hand one out with 'nixfleet access grant NAME --to KEY --action ACTION'",
    )
    if view.pending:
        click.echo("")
        waiting = counted(len(view.pending), "statement")
        click.echo(f"{waiting} {'waits' if len(view.pending) == 1 else 'wait'} for signatures: 'nixfleet approve'")


def _keys(keys: Sequence[str], revoked: Sequence[str]) -> str:
    return counted(len(keys), "key") + (f", {len(revoked)} revoked" if revoked else "")


def _row(grant: GrantView, depth: int) -> tuple[str, ...]:
    name = grant.name.rpartition("/")[2] if depth else grant.name
    begins = f"from {utc(grant.not_before)}" if grant.state == "future" else ""
    return (
        f"{'  ' * depth}{name}",
        grant.id[:SHOWN],
        action_words(grant.actions),
        select_words(grant.select),
        utc(grant.not_after),
        ", ".join(filter(None, (limits(grant), begins))),
        _state(grant),
    )


def _state(grant: GrantView) -> str:
    """Say what became of a grant, and why where the word does not say it: what is live may be used up."""
    if not grant.why or grant.why == f"it is {grant.state}" or grant.state in {"future", "expired"}:
        return grant.state
    if grant.state == "live":
        return grant.why.removeprefix("it is ")
    return f"{grant.state}: {grant.why}"


def limits(grant: GrantView) -> str:
    """Say what else bounds a grant."""
    said = [
        f"depth {grant.depth}" if grant.depth else "",
        f"{grant.max_devices} devices" if grant.max_devices is not None else "",
        f"{grant.uses} of {grant.max_uses} uses" if grant.max_uses is not None else "",
    ]
    return ", ".join(filter(None, said))


def chains(listed: Sequence[Chain]) -> None:
    """Write each chain from the root down, a mark before the link that fails."""
    for chain in listed:
        click.echo("")
        for depth, link in enumerate(chain.links):
            by = f" by grant {link.grant[:SHOWN]}" if link.grant else ""
            why = f": {link.why}" if link.why else ""
            click.echo(clean(f"{'  ' * depth}{'✓' if link.ok else '✗'} {link.holder}{by}{why}"))
        if chain.why and all(link.ok and not link.why for link in chain.links):
            click.echo(clean(f"{'  ' * len(chain.links)}… {chain.why}"))


def stopped(what: str, listed: Sequence[Stopped]) -> None:
    """Write what a revocation would stop, on standard error: it stands above a question too."""
    if not listed:
        click.echo(clean(f"revoking {what} stops nothing that is under way"), err=True)
        return
    click.echo(clean(f"revoking {what} stops:"), err=True)
    for kind, noun in _HEADINGS.items():
        of_kind = [one for one in listed if one.kind == kind]
        for one in of_kind[:LISTED]:
            click.echo(clean(f"  {kind} {one.id[:SHOWN]} {one.name}: {one.why}"), err=True)
        if len(of_kind) > LISTED:
            click.echo(f"  and {counted(len(of_kind) - LISTED, f'more {noun}')}", err=True)
    click.echo("enrolments, and systems that run, stay", err=True)
