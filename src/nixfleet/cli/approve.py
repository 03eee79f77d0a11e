"""``nixfleet approve``: what waits for further signatures and for whose, and giving one over the exact payload."""

import json
from dataclasses import dataclass
from typing import Any

import click
import msgspec

from nixfleet.cli import output
from nixfleet.cli.options import Globals, command, confirm, no_note
from nixfleet.cli.root_tables import show_proposal
from nixfleet.cli.session import Fleet, connected, now
from nixfleet.client.following import check_followers
from nixfleet.errors import Refused, UserError
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Root
from nixfleet.model.text import clean
from nixfleet.model.views import PendingView
from nixfleet.trust.access import access_view
from nixfleet.trust.approving import unmet, why_not
from nixfleet.trust.proposals import proposals
from nixfleet.trust.replay import State
from nixfleet.trust.statements import parse

MIN_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits, its exact payload, and why this person's signature would not help, or nothing."""

    view: PendingView
    payload: bytes
    why_not: str


@click.command()
@click.argument("which", nargs=-1, metavar="[ID]...")
@command
async def approve(given: Globals, which: tuple[str, ...]) -> None:
    """Sign what others submitted, by the first digits of its ID or its number in the log; without ID, list what waits.

    The signature is over the exact payload that is shown, and counts only for it.
    """
    no_note(given)
    async with connected(given, catch_up=True) as fleet:
        waiting = waiting_of(fleet)
        if not which:
            _list(given, waiting)
            return
        told = [await _approve(given, fleet, find(waiting, text, fleet)) for text in which]
        if given.json:
            output.as_json({"approved": told})


def waiting_of(fleet: Fleet) -> list[Waiting]:
    """Give what waits for signatures, the oldest first."""
    state, time = fleet.state, now()
    found = []
    for view in access_view(state, time).pending:
        payload = fleet.mirror.payload(view.index) or b""
        found.append(Waiting(view, payload, why_not(state, payload, fleet.admin.key, time)))
    return found


def find(waiting: list[Waiting], text: str, fleet: Fleet) -> Waiting:
    """Find what waits by its digest's first digits or its entry's number. Raises: UserError, Refused."""
    chosen = [
        one
        for one in waiting
        if str(one.view.index) == text or (len(text) >= MIN_DIGITS and one.view.digest.startswith(text))
    ]
    if len(chosen) > 1:
        raise UserError(f"{text} is the beginning of {len(chosen)} of them; give more digits")
    if chosen:
        return chosen[0]
    if text.isdigit() and int(text) < fleet.mirror.size:
        raise UserError(f"entry {text} waits for no signature; 'nixfleet approve' lists what does")
    raise UserError(f"nothing that waits is {text!r}; 'nixfleet approve' lists what does")


def _list(given: Globals, waiting: list[Waiting]) -> None:
    """List what waits: whose it is, for whom it waits, and whether your signature would help."""
    if given.json:
        output.as_json({"pending": [{**msgspec.to_builtins(one.view), "why_not": one.why_not} for one in waiting]})
        return
    time = now()
    output.table(
        ("ID", "#", "BY", "WHEN", "WHAT", "SIGNED", "WAITS", "YOU"),
        [
            (
                one.view.digest[:12],
                str(one.view.index),
                one.view.by_name,
                output.age(one.view.at, time),
                one.view.subject,
                ", ".join(one.view.signed),
                one.view.waits,
                one.why_not or "can sign",
            )
            for one in waiting
        ],
        "nothing waits for a signature",
    )


async def _approve(given: Globals, fleet: Fleet, one: Waiting) -> dict[str, Any]:
    """Show, ask, sign, and tell what it came to. Raises: Refused when the signature would not count."""
    if not given.json:
        _show(fleet.state, one)
    if one.why_not:
        raise Refused(f"not approved: {one.why_not}")
    statement = parse(one.payload)
    if isinstance(statement, Root):
        await check_followers(fleet.client, fleet.state, statement)
    confirm(given, f"Sign this {one.view.type}, exactly as shown?")
    acted = await fleet.admin.approve(one.view.digest)
    left = unmet(fleet.state, one.payload, now())
    if not given.json and not given.quiet:
        text = f"{one.view.type} {one.view.digest[:12]} is approved, and has all signatures"
        click.echo(
            text if not left else f"signed; {one.view.type} {one.view.digest[:12]} still waits: {left[0]}", err=True
        )
    return {"digest": one.view.digest, "index": acted.index, "waits": left[0] if left else ""}


def _show(state: State, one: Waiting) -> None:
    """Show what is to be signed, in words and to the byte."""
    view = one.view
    root = next((each for each in proposals(state) if each.index == view.index), None)
    output.fields(
        [
            ("what", view.subject),
            ("by", f"{view.by_name} {view.by}"),
            ("entry", f"{view.index}, {output.age(view.at, now())}"),
            ("note", view.note or "none"),
            ("digest", view.digest),
            ("signed", ", ".join(view.signed)),
            ("waits", view.waits),
        ]
    )
    if root is not None:
        show_proposal(state, Digest(view.digest), root)
    click.echo(clean(one.payload.decode()))
    if view.type == "release":
        click.echo(f"its lines: nixfleet release show {json.loads(one.payload)['name']}", err=True)
