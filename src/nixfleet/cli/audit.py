"""``nixfleet audit``: the log of every administrative act, read from a copy that this machine has verified itself."""

from pathlib import Path

import click

from nixfleet.cli import output
from nixfleet.cli.audit_files import export, verify
from nixfleet.cli.options import Count, Globals, Group, command
from nixfleet.cli.session import connected, now
from nixfleet.client.export import export_entry
from nixfleet.errors import UserError
from nixfleet.model.ids import Fingerprint
from nixfleet.model.text import clean
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.replay import principal_of


@click.group(cls=Group)
def audit() -> None:
    """Read and verify the log of every administrative act."""


@audit.command("list")
@click.option("--limit", type=Count(1), help="Only the newest so many.")
@click.option("--by", metavar="NAME|SHA256:…", help="Only what this principal, or this key, signed.")
@click.option("--refused", is_flag=True, help="Instead, what the coordinator kept out of the log: its word alone.")
@command
async def list_entries(given: Globals, limit: int | None, by: str | None, *, refused: bool) -> None:
    """List the log's entries: who did what to what, and whether it was valid."""
    if refused:
        await _list_refused(given, limit)
        return
    async with connected(given, catch_up=True) as fleet:
        size = fleet.mirror.size
        chosen = fleet.mirror.entries(max(0, size - limit) if limit and not by else 0, size)
    if by:
        chosen = [entry for entry in chosen if by in {entry.by, entry.principal}][-(limit or size) :]
    if given.json:
        output.as_json({"entries": chosen, "size": size})
        return
    time = now()
    output.table(
        ("#", "WHEN", "WHO", "WHAT", "ON", "VERDICT"),
        [
            (
                str(entry.index),
                output.age(entry.at, time),
                entry.principal or entry.by,
                entry.what,
                output.shortened(entry.subject),
                entry.verdict + (f": {entry.why}" if entry.why else ""),
            )
            for entry in chosen
        ],
        f"nothing in the log is by {by}" if by else "the log is empty",
    )


async def _list_refused(given: Globals, limit: int | None) -> None:
    """List refused statements and requests, the newest last as in the log."""
    async with connected(given, catch_up=True) as fleet:
        found = (await fleet.client.refusals(min(limit or 1_000, 1_000)))[::-1]
        who = {one.by: principal_of(fleet.state, Fingerprint(one.by)) if one.by else "a stranger" for one in found}
    if given.json:
        output.as_json({"refusals": found})
        return
    time = now()
    rows = [(output.age(one.at, time), who[one.by], one.what or one.namespace, one.reason) for one in found]
    output.table(("WHEN", "WHO", "WHAT", "WHY"), rows, "nothing was refused")


@audit.command("show")
@click.argument("index", type=Count(0))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write payload, signature and allowed signers there, as `ssh-keygen -Y verify` wants them.",
)
@command
async def show(given: Globals, index: int, out: Path | None) -> None:
    """Show one entry whole: its words, its payload and its signature."""
    async with connected(given, catch_up=True) as fleet:
        size = fleet.mirror.size
        if index >= size:
            raise UserError(f"the log has {size} entries; the newest is number {size - 1}")
        view = fleet.mirror.entry(index)
        leaf, payload = fleet.mirror.leaf(index), fleet.mirror.payload(index) or b""
        if out is not None:
            check = export_entry(fleet.mirror, index, out)
            if not given.quiet:
                click.echo(f"in {out}: {check}", err=True)
    signature = sshsig.parse(Leaf.unpack(leaf).sshsig)
    if given.json:
        output.as_json(
            {"entry": view, "payload": payload.decode(), "signature": sshsig.armor(Leaf.unpack(leaf).sshsig)}
        )
        return
    output.fields(
        [
            ("entry", str(view.index)),
            ("who", f"{view.principal} {view.by}".strip()),
            ("what", f"{view.what} {view.subject}".strip()),
            ("verdict", view.verdict + (f": {view.why}" if view.why else "")),
            ("note", view.note or "none"),
            ("digest", view.digest),
            ("namespace", signature.namespace),
        ]
    )
    click.echo(clean(payload.decode()))


audit.add_command(export)
audit.add_command(verify)
