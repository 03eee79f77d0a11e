"""``nixfleet coordinator``: serve a fleet, check its folder, back it up sealed, and put a backup back.

Who runs a coordinator needs no key of an admin: nothing here signs a statement.
"""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from nixfleet.cli import output
from nixfleet.cli.addresses import PORT, listen_for
from nixfleet.cli.backups import backed_up
from nixfleet.cli.clock import now
from nixfleet.cli.options import Globals, Group, command, said_before
from nixfleet.cli.passphrases import ask_hidden, new_passphrase
from nixfleet.config import Context, choose_context, coordinator_dir
from nixfleet.errors import UserError
from nixfleet.model.text import one_line
from nixfleet.trust.passphrase import read_passphrase

if TYPE_CHECKING:
    from nixfleet.server.settings import ServerSettings

DATA_DIR: Final = "NIXFLEET_DATA_DIR"

_database = click.option("--database", metavar="URL", help="postgresql://…; by default SQLite in the data folder.")
_passphrase = click.option(
    "--passphrase-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Holds the backup's passphrase; by default it is asked for.",
)
_SERVING: Final[tuple[Callable[[Any], Any], ...]] = (
    click.option("--listen", metavar="HOST:PORT", help="Where to listen; by default what the fleet's URL needs."),
    _database,
    click.option("--metrics-anywhere", is_flag=True, help="Serve /metrics to others than this machine, too."),
    click.option(
        "--backup-dir",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Write a sealed backup there every day; the newest 14 stay.",
    ),
    click.option(
        "--backup-passphrase-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Holds the passphrase of daily backups; nobody else may read it.",
    ),
    click.option("--context", metavar="NAME", help="The fleet to serve; by default the current one."),
)


def _serving(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_SERVING):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Place:
    """A fleet's data folder, by what name, and where its coordinator listens unless told otherwise."""

    name: str
    folder: Path
    listen: str
    claimable: bool = False
    context: Context | None = None


def place_of(context: str | None) -> Place:
    """Find the data folder: NIXFLEET_DATA_DIR, else the context's. Raises: UserError."""
    if folder := os.environ.get(DATA_DIR):
        return Place(Path(folder).name, Path(folder), f"127.0.0.1:{PORT}", claimable=True)
    name, chosen = choose_context(context or said_before().get("context"))
    return Place(name, coordinator_dir(name), listen_for(chosen.urls[0]), context=chosen)


def _there(context: str | None) -> Place:
    """Find a data folder that is there. Raises: UserError."""
    place = place_of(context)
    if not place.folder.exists():
        raise UserError(f"the fleet {place.name} is not served from this machine: {place.folder} is not here")
    return place


@click.group(cls=Group, invoke_without_command=True)
@_serving
@click.pass_context
def coordinator(context: click.Context, /, **options: Any) -> None:
    """Serve a fleet: devices and consoles connect to this. NIXFLEET_DATA_DIR names its folder instead of a context.

    Where that folder is empty, it says in its log how to claim it: 'nixfleet init NAME --url URL --claim STRING'.
    """
    if context.invoked_subcommand is None:
        _serve(options)


@coordinator.command("run")
@_serving
@click.pass_context
def run(context: click.Context, /, **options: Any) -> None:
    """Serve the fleet, as `nixfleet coordinator` alone does."""
    before = context.parent.params if context.parent is not None else {}
    _serve({name: value or before.get(name) for name, value in options.items()})


def _serve(options: dict[str, Any]) -> None:
    from nixfleet.server.serve import ServerSettings, run_forever

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    for chatty in ("alembic", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    place = place_of(options["context"]) if os.environ.get(DATA_DIR) else _there(options["context"])
    settings = ServerSettings(
        data_dir=place.folder,
        listen=options["listen"] or place.listen,
        database_url=options["database"],
        claimable=place.claimable,
        metrics_anywhere=bool(options["metrics_anywhere"]),
        backup_dir=options["backup_dir"],
        backup_passphrase_file=options["backup_passphrase_file"],
    )
    settings = backed_up(settings, place.context, os.environ)
    run_forever(settings, lambda address: click.echo(f"nixfleet: serving {place.folder.name} at {address}", err=True))


@coordinator.command("check")
@_database
@command
async def check(given: Globals, database: str | None) -> int:
    """Check keys, schema, the whole log and the daily backups, also beside a coordinator that serves.

    The exit code is that of the first thing that is wrong, 0 when nothing is.
    """
    from nixfleet.server.check import check as checked

    found = await checked(_settings(_there(given.context), database), now)
    for one in () if given.json else found:
        if not (given.quiet and one.verdict == "ok"):
            click.echo(f"{one.verdict:<8}{one.what:<8}{one_line(one.text)}")
    if given.json:
        output.as_json({"checks": [{"check": one.what, "verdict": one.verdict, "text": one.text} for one in found]})
    return next((one.error.exit_code for one in found if one.error is not None), 0)


@coordinator.command("backup")
@click.argument("path", type=click.Path(path_type=Path))
@_passphrase
@_database
@command
async def backup(given: Globals, path: Path, passphrase_file: Path | None, database: str | None) -> None:
    """Write a sealed backup of database, log key and cache key to PATH, a file or a folder, while the fleet is served.

    Systems in the built-in cache are not in it: they can be pushed again.
    """
    from nixfleet.server.backup import write_backup

    place = _there(given.context)
    target = _target(path, place.name)
    passphrase = read_passphrase(passphrase_file) if passphrase_file else new_passphrase("the backup", given.env)
    size = write_backup(_settings(place, database), target, passphrase)
    if given.json:
        output.as_json({"file": str(target), "bytes": size})
    elif not given.quiet:
        what = "keys alone: save the PostgreSQL database with pg_dump" if database else "database and keys"
        click.echo(f"{target}: {size} bytes, sealed; {what}")


def _target(path: Path, name: str) -> Path:
    """Name a backup's file. Raises: UserError when it is there."""
    from nixfleet.server.backup import name_at

    if path.is_dir():
        if (target := path / name_at(name, now())).exists():
            raise UserError(f"{target} was written this very second: try again in a moment, or name a file")
        return target
    if (target := path).exists():
        raise UserError(f"{target} is there already: name another file, or a folder")
    return target


@coordinator.command("restore")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where to; by default the fleet's."
)
@_passphrase
@_database
@command
async def restore(
    given: Globals, file: Path, data: Path | None, passphrase_file: Path | None, database: str | None
) -> None:
    """Put a sealed backup back into a folder that has no fleet, once its keys and its log are proven to fit.

    What came after the backup is given back by devices, consoles and command lines as soon as they reach it.
    """
    from nixfleet.server.unpack import restore_backup

    folder = data or place_of(given.context).folder
    passphrase = read_passphrase(passphrase_file) if passphrase_file else _ask(file)
    names = restore_backup(file, folder, passphrase, database)
    if given.json:
        output.as_json({"folder": str(folder), "files": names})
    elif not given.quiet:
        click.echo(f"{folder} has {', '.join(names)} again; 'nixfleet coordinator' serves it", err=True)


def _ask(file: Path) -> str:
    """Ask for a backup's passphrase. Raises: UserError where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UserError("there is no terminal to ask for the backup's passphrase: name a file with --passphrase-file")
    return ask_hidden(f"Passphrase of {file}: ")


def _settings(place: Place, database: str | None) -> "ServerSettings":
    from nixfleet.server.settings import ServerSettings

    return ServerSettings(data_dir=place.folder, database_url=database)
