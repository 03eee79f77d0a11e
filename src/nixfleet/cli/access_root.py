"""``nixfleet access root``: who stands at the root, its next version, and signing one that others proposed."""

from pathlib import Path

import click

from nixfleet.cli import output
from nixfleet.cli.newepoch import sign_file
from nixfleet.cli.options import Globals, Group, command, confirm, no_note
from nixfleet.cli.root_options import root_options
from nixfleet.cli.root_tables import changes_shown, proposal_record, show_proposal, show_root, signed_words, warnings
from nixfleet.cli.session import Fleet, connected, now
from nixfleet.client import roots
from nixfleet.client.following import behind_root, check_followers, some
from nixfleet.client.roots import RootWishes
from nixfleet.errors import Refused
from nixfleet.model.ids import Digest
from nixfleet.model.text import counted
from nixfleet.trust import proposals
from nixfleet.trust.access import access_view
from nixfleet.trust.proposals import Proposal
from nixfleet.trust.statements import digest

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group(cls=Group)
def root() -> None:
    """Show, change and co-sign the fleet's root: who may hand out rights, by how many signatures, by which rules."""


@root.command("show")
@command
async def show(given: Globals) -> None:
    """Show the root in force, which versions wait for whose signatures, and which devices do not know it yet."""
    async with connected(given, catch_up=True) as fleet:
        behind = await behind_root(fleet.client, fleet.state)
        waiting = proposals_of(fleet)
        if given.json:
            records = [proposal_record(fleet.state, *one) for one in waiting]
            view = access_view(fleet.state, now()).root
            warned = () if fleet.state.root is None else warnings(fleet.state, fleet.state.root)
            output.as_json({"root": view, "waiting": records, "behind": behind, "warnings": warned})
            return
        show_root(fleet.state)
        for one in waiting:
            click.echo("")
            show_proposal(fleet.state, *one)
    if behind:
        have = "has" if len(behind) == 1 else "have"
        click.echo(f"\n{counted(len(behind), 'device')} {have} not replayed this root yet: {some(behind)}")


@root.command("update")
@click.option("--dry-run", is_flag=True, help="Show what would change, and sign nothing.")
@root_options
@command
async def update(given: Globals, dry_run: bool, wishes: RootWishes) -> None:
    """Propose the next version of the root; it takes effect when the thresholds of old and new have signed."""
    async with connected(given, catch_up=True) as fleet:
        state = fleet.state
        old, new = roots.in_force(state), roots.next_root(fleet.admin.head(given.note), state, wishes)
        await check_followers(fleet.client, state, new)
        if not given.json or dry_run:
            changes_shown(given, state, old, new)
        for each, waiting in proposals_of(fleet):
            if not waiting.superseded:
                already = f"! root {waiting.root.version} ({each[:12]}) waits for signatures already"
                click.echo(f"{already}; only one can come in force", err=True)
        if set(old.urls) - set(new.urls) and (late := await behind_root(fleet.client, state)):
            click.echo(f"! {counted(len(late), 'device')} do not know root {old.version} yet: {some(late)}", err=True)
        if dry_run:
            return
        confirm(given, f"Sign root {new.version} as {state.root_keys[fleet.admin.key]}?")
        acted = await roots.propose(fleet.admin, wishes, new, note=given.note)
        _tell(given, fleet, acted.digest, new.version, acted.index)
        gone = set(old.urls) - set(new.urls)
    if gone and not given.quiet:
        click.echo(
            f"keep {' and '.join(sorted(gone))} serving until 'nixfleet access root show' names no device any more",
            err=True,
        )


@root.command("sign")
@click.argument("which", required=False, default="", metavar="[ID|FILE]")
@click.option("--copy", type=_FOLDER, metavar="DIR", help="With FILE: judge it by this copy of the log.")
@command
async def sign(given: Globals, which: str, copy: Path | None) -> None:
    """Sign a root version that somebody proposed, by the first digits of its ID; by default the only one.

    FILE is one that 'log restore --propose' wrote, because the coordinator is lost; it is signed with no coordinator.
    """
    no_note(given)
    if (file := _file(which)) is not None:
        sign_file(given, file, copy)
        return
    if copy is not None:
        raise click.UsageError("--copy belongs to the FILE of a proposal")
    async with connected(given, catch_up=True) as fleet:
        chosen, proposal = proposals.find_proposal(proposals_of(fleet), which)
        if not given.json:
            show_proposal(fleet.state, chosen, proposal)
        fault = proposals.may_sign(fleet.state, proposal, fleet.admin.key)
        if fault:
            raise Refused(f"root {proposal.root.version} is not signed: {fault}")
        # Once more: who enrolled since it was proposed may be too old.
        await check_followers(fleet.client, fleet.state, proposal.root)
        confirm(given, f"Sign root {proposal.root.version}, exactly as shown?")
        await fleet.admin.approve(chosen)
        _tell(given, fleet, chosen, proposal.root.version, proposal.index)


def _file(which: str) -> Path | None:
    """Tell whether a file is meant, and not the first digits of an ID."""
    path = Path(which)
    return path if which and path.is_file() else None


def proposals_of(fleet: Fleet) -> list[tuple[Digest, Proposal]]:
    """Give the root versions that wait, with the digests of their exact payloads."""
    found = proposals.proposals(fleet.state)
    return [(digest(fleet.mirror.payload(one.index) or b""), one) for one in found]


def _tell(given: Globals, fleet: Fleet, chosen: Digest, version: int, index: int) -> None:
    """Say whether a signed version is in force now, or for whom it waits and how they sign."""
    waiting = next((one for each, one in proposals_of(fleet) if each == chosen and not one.superseded), None)
    waits = "" if waiting is None else waiting.waits
    text = f"root {version} is in force"
    if waiting is not None:
        text = f"root {version} is signed by {signed_words(waiting)}, and waits for {waits}; they run:"
        text = f"{text} nixfleet access root sign {chosen[:12]}"
    output.done(
        {"version": version, "digest": chosen, "index": index, "waits": waits},
        text,
        json=given.json,
        quiet=given.quiet,
    )
