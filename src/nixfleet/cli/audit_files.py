"""``nixfleet audit export`` and ``verify``: the whole log as files, and its check, online or offline."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from nixfleet.cli import output
from nixfleet.cli.options import Globals, command
from nixfleet.cli.session import connected
from nixfleet.client import archive
from nixfleet.client.api import Client
from nixfleet.client.export import export_log
from nixfleet.client.gossip import Witness, check_witnesses, reports, witnesses
from nixfleet.client.mirror import Mirror, claimed_size
from nixfleet.config import read_admin, write_atomic
from nixfleet.errors import Unreachable, Untrusted, UserError
from nixfleet.model.ids import MAX_NOTE_BYTES
from nixfleet.model.text import counted
from nixfleet.trust.view import LogView, first_void, open_in_force, verify_all

STDOUT = "-"


@click.command("export")
@click.option(
    "--out",
    metavar="FILE|DIR/",
    help="Where to; '-' is standard output, by default NAME-SIZE.audit.jsonl here. A folder gets a file per entry as"
    " well, as `ssh-keygen -Y verify` wants them.",
)
@command
async def export(given: Globals, out: str | None) -> None:
    """Write the whole log and what devices signed as one file, which 'audit verify FILE' checks without a network."""
    async with connected(given, catch_up=True) as fleet:
        told = await reports(fleet.client, fleet.mirror)
        await fleet.mirror.catch_up(fleet.client)  # a report may be newer than the log was
        lines = b"".join(archive.lines_of(fleet.mirror, told))
        if out == STDOUT:
            sys.stdout.buffer.write(lines)
            return
        target, check = _write(fleet.mirror, lines, out or f"{fleet.name}-{fleet.mirror.size}.audit.jsonl")
    if given.json:
        output.as_json({"file": str(target), "entries": fleet.mirror.size, "reports": len(told)})
    elif not given.quiet:
        held = f"{fleet.mirror.size} entries and {counted(len(told), 'report')}"
        click.echo(f"{target} has {held}; 'nixfleet audit verify {target}' checks it, anywhere")
        if check:
            click.echo(f"'{check}' in {target.parent} checks every signature, with OpenSSH alone")


def _write(mirror: Mirror, lines: bytes, out: str) -> tuple[Path, str]:
    """Write an export as a file, or into a folder with a file per entry; give its path, and OpenSSH's own check."""
    target, check = Path(out), ""
    if target.is_dir() or out.endswith("/"):
        check = export_log(mirror, target)
        target /= "log.audit.jsonl"
    write_atomic(target, lines, mode=0o644)
    return target, check


@click.command("verify")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--fleet", metavar="ID", help="The fleet that FILE has to be of; by default one that is known here.")
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="CHECKPOINT",
    help="A checkpoint or an export of earlier, which the log has to extend.",
)
@command
async def verify(given: Globals, file: Path | None, fleet: str | None, against: Path | None) -> None:
    """Replay the whole log from zero, and name what does not hold; with FILE that of an export, without a network.

    Without FILE the log is what the coordinator serves, and devices' signed reports are compared with it: who was shown
    another log is named.
    """
    if file is None:
        await _verify_served(given, against)
        return
    checked = archive.verify(archive.read(file), fleet)
    earlier = None if against is None else _check_extends(checked.view, against)
    known = {context.fleet: name for name, context in read_admin(given.env).contexts.items()}
    if given.json:
        outcomes = [_outcome(one) for one in checked.outcomes]
        output.as_json({**_found(checked.view, checked.void, earlier), "outcomes": outcomes})
        return
    _say(checked.view, checked.void, earlier, against)
    for one in checked.outcomes:
        click.echo(one.sentence)
    if fleet is None and checked.view.fleet not in known:
        click.echo("this fleet is not known here: compare its id with one that you trust, or pass --fleet", err=True)


async def _verify_served(given: Globals, against: Path | None) -> None:
    async with connected(given) as fleet:
        note, entries = await fetch_all(fleet.client)
        view = verify_all(fleet.context.fleet, note, entries)
        # Our own copy is older: what it holds must be a part of what is served now (trust.md, step 1).
        await fleet.mirror.catch_up(fleet.client)
        if fleet.mirror.size != view.size:
            # An old backup has just been given back what it lacked.
            note, entries = await fetch_all(fleet.client)
            view = verify_all(fleet.context.fleet, note, entries)
        earlier = None if against is None else _check_extends(view, against)
        told = await witnesses(fleet.client, fleet.mirror)
    void = first_void(fleet.context.fleet, entries)
    check_witnesses(told)
    agreed = [one for one in told if one.seen == "ok"]
    behind = [one for one in agreed if one.size < view.size]
    if given.json:
        output.as_json({**_found(view, void, earlier), "witnesses": len(agreed), "behind": len(behind)})
        return
    _say(view, void, earlier, against)
    if told:
        click.echo(_witnessed(agreed, behind, silent=len(told) - len(agreed), size=view.size))


def _witnessed(agreed: Sequence[Witness], behind: Sequence[Witness], *, silent: int, size: int) -> str:
    """Say how many have signed for this log, and how many of them have signed for its beginning alone."""
    said = f"{counted(len(agreed), 'device')} signed for this log"
    if behind:
        least = min(behind, key=lambda one: one.size)
        which = "" if len(behind) == len(agreed) == 1 else f"{len(behind)} of them "
        said = f"{said}, {which}for its beginning alone ({least.name}: {least.size} of {size} entries)"
    return f"{said}; {silent} told nothing yet" if silent else said


def _found(view: LogView, void: tuple[int, str] | None, earlier: int | None) -> dict[str, object]:
    found = None if void is None else {"index": void[0], "why": void[1]}
    return {"size": view.size, "root": view.log.root, "fleet": view.fleet, "first_void": found, "extends": earlier}


def _outcome(one: archive.Outcome) -> dict[str, object]:
    return {
        "device": one.device,
        "name": one.name,
        "at": one.at,
        "system": one.system,
        "rollout": one.rollout,
        "outcome": one.outcome,
        "by": one.by,
        "grants": one.grants,
        "approved": one.approved,
        "why": one.why,
    }


def _say(view: LogView, void: tuple[int, str] | None, earlier: int | None, against: Path | None) -> None:
    click.echo(f"the log verifies: {view.size} entries of fleet {view.fleet}, root {view.log.root}")
    if earlier is not None:
        click.echo(f"it extends the {earlier} entries of {against}")
    if void is not None:
        click.echo(f"entry {void[0]} is the first without effect: {void[1]}")


def _check_extends(view: LogView, path: Path) -> int:
    """Hold a verified log against a checkpoint of earlier, and give that one's size. Raises: Untrusted, UserError."""
    try:
        with path.open("rb") as file:
            note = file.read(MAX_NOTE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    if note.startswith(b"{"):
        note = archive.read(path).head.checkpoint
    earlier = open_in_force(note, view.state)
    if earlier.size > view.size:
        raise Untrusted(f"{path} is of {earlier.size} entries, and the log has {view.size}: entries are kept back")
    if view.state.tree.root(earlier.size) != earlier.root:
        raise Untrusted(
            f"the log has another root at {earlier.size} entries than {path}: it was rewritten since; keep both"
        )
    return earlier.size


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
