"""``nixfleet audit``: the log of every administrative act, read from a copy that this machine has verified itself."""

from pathlib import Path

import click

from nixfleet.cli import output
from nixfleet.cli.options import Globals, command
from nixfleet.cli.session import connected, now
from nixfleet.client.api import Client
from nixfleet.client.mirror import claimed_size
from nixfleet.config import write_atomic
from nixfleet.errors import Unreachable, UserError
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.view import first_void, verify_all


@click.group()
def audit() -> None:
    """Read and verify the log of every administrative act."""


@audit.command("list")
@click.option("--limit", type=click.IntRange(1), help="Only the newest so many.")
@command
async def list_entries(given: Globals, limit: int | None) -> None:
    """List the log's entries: who did what to what, and whether it was valid."""
    async with connected(given, catch_up=True) as fleet:
        entries = fleet.mirror.entries(0, fleet.mirror.size)
    chosen = entries[-limit:] if limit else entries
    if given.json:
        output.as_json({"entries": chosen, "size": len(entries)})
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
                entry.subject,
                entry.verdict + (f": {entry.why}" if entry.why else ""),
            )
            for entry in chosen
        ],
        "the log is empty",
    )


@audit.command("show")
@click.argument("index", type=click.IntRange(0))
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
        entries = fleet.mirror.entries(0, fleet.mirror.size)
        if index >= len(entries):
            raise UserError(f"the log has {len(entries)} entries; the newest is number {len(entries) - 1}")
        view = entries[index]
        leaf, payload = fleet.mirror.leaf(index), fleet.mirror.payload(index) or b""
    signature = sshsig.parse(Leaf.unpack(leaf).sshsig)
    if out is not None:
        write_atomic(out / "payload.json", payload, mode=0o644)
        write_atomic(out / "payload.json.sig", sshsig.armor(Leaf.unpack(leaf).sshsig).encode(), mode=0o644)
        signer = f'{view.principal or "signer"} namespaces="{signature.namespace}" {signature.key.text}\n'
        write_atomic(out / "allowed_signers", signer.encode(), mode=0o644)
        command_line = (
            f"ssh-keygen -Y verify -f allowed_signers -I {view.principal or 'signer'} "
            f"-n '{signature.namespace}' -s payload.json.sig < payload.json"
        )
        click.echo(f"in {out}: {command_line}", err=True)
    if given.json:
        output.as_json(
            {"entry": view, "payload": payload.decode(), "signature": sshsig.armor(Leaf.unpack(leaf).sshsig)}
        )
        return
    output.fields(
        [
            ("entry", str(view.index)),
            ("who", f"{view.principal} {view.by}"),
            ("what", f"{view.what} {view.subject}".strip()),
            ("verdict", view.verdict + (f": {view.why}" if view.why else "")),
            ("note", view.note or "none"),
            ("digest", view.digest),
            ("namespace", signature.namespace),
        ]
    )
    click.echo(payload.decode())


@audit.command("verify")
@command
async def verify(given: Globals) -> None:
    """Replay the whole log from zero as the coordinator serves it, and name the first bad entry if there is one."""
    async with connected(given) as fleet:
        note, entries = await fetch_all(fleet.client)
        view = verify_all(fleet.context.fleet, note, entries)
        # Our own copy is older: what it holds must be a part of what is served now (trust.md, step 1).
        await fleet.mirror.catch_up(fleet.client)
    void = first_void(fleet.context.fleet, entries)
    if given.json:
        found = None if void is None else {"index": void[0], "why": void[1]}
        output.as_json({"size": view.size, "root": view.log.root, "fleet": view.fleet, "first_void": found})
        return
    click.echo(f"the log verifies: {view.size} entries of fleet {view.fleet}, root {view.log.root}")
    if void is not None:
        click.echo(f"entry {void[0]} is the first without effect: {void[1]}")


async def fetch_all(client: Client) -> tuple[bytes, list[tuple[bytes, bytes | None]]]:
    """Fetch the checkpoint and everything that it covers. Raises: Unreachable when less is served than it says."""
    note = await client.checkpoint()
    entries: list[tuple[bytes, bytes | None]] = []
    size = claimed_size(note)
    while len(entries) < size:
        answer = await client.entries(len(entries), min(1_000, size - len(entries)), "all")
        if answer.start != len(entries) or not answer.entries:
            raise Unreachable(f"{client.url} serves fewer entries than its checkpoint says; try again")
        entries += [(entry.leaf, entry.payload) for entry in answer.entries]
    return note, entries
