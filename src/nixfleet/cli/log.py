"""``nixfleet log``: this machine's copy of the log, and what it is good for when a coordinator has lost its own."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click

from nixfleet.cli import output, refounding
from nixfleet.cli.options import Globals, Group, command
from nixfleet.cli.session import Fleet, connected
from nixfleet.client.keeping import keep_lines
from nixfleet.client.mirror import Mirror
from nixfleet.client.offering import give_back
from nixfleet.config import choose_context, mirror_dir
from nixfleet.errors import NixfleetError, Refused, Unreachable, UserError
from nixfleet.model.text import counted
from nixfleet.model.wire import OfferAnswer

FOLLOW_S = 5.0
_FILE = click.Path(dir_okay=False, path_type=Path)


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
@click.option(
    "--propose", type=_FILE, metavar="FILE", help="Write the new root to FILE, for others to sign it elsewhere."
)
@click.option("--signed", type=_FILE, multiple=True, metavar="FILE", help="What others have signed; repeatable.")
@command
async def restore(
    given: Globals,
    folder: Path | None,
    data: Path | None,
    further: tuple[str, ...],
    propose: Path | None,
    signed: tuple[Path, ...],
    *,
    new_log_key: bool,
) -> None:
    """Give a coordinator that runs an old backup the entries back that it lacks, from this machine's copy or from DIR.

    With --new-log-key, where database or log key are gone for good: make a new data folder from the copy, with a new
    log key that the root's threshold signs. Devices go on where the copy ends. Where not all its keys are at hand,
    --propose writes a file that others sign by 'access root sign FILE', and --signed goes on with it.
    """
    if new_log_key:
        await refounding.restore(given, refounding.Wishes(folder, data, further, propose, signed))
        return
    if data is not None or further or propose is not None or signed:
        raise click.UsageError("--data, --with, --propose and --signed belong to --new-log-key")
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
