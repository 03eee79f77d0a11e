"""``nixfleet init``, ``context`` and ``coordinator``: a fleet's beginning, which fleets are known, and serving one."""

import getpass
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from nixfleet.cli import output
from nixfleet.cli.addresses import checked_url, is_loopback
from nixfleet.cli.options import Globals, command
from nixfleet.cli.session import client_of, now, signer_of
from nixfleet.client.acts import create_root
from nixfleet.client.admin import sign
from nixfleet.client.mirror import Mirror
from nixfleet.client.upstream import BUILT_IN
from nixfleet.config import (
    Context,
    admin_dirs,
    choose_context,
    coordinator_dir,
    mirror_dir,
    put_context,
    read_admin,
    use_context,
    write_atomic,
)
from nixfleet.errors import UserError
from nixfleet.model.ids import NAME, PRINCIPAL
from nixfleet.model.statements import CacheRef, Principal
from nixfleet.trust.signers import Signer, find_signer, seal
from nixfleet.trust.sshsig import SecretKey


def begin(name: str, urls: tuple[str, ...], signer: Signer, *, key: str, env: dict[str, str]) -> str:
    """Make a fleet with one root key in this machine's data folder, and make it the current one; give its id.

    Raises:
        UserError: the name is malformed or taken, or the folder cannot be written.
        Refused, Unreachable: the signer does not sign.

    """
    from nixfleet.server.setup import create_fleet
    from nixfleet.trust.narinfo import CacheKey

    if not re.fullmatch(NAME, name):
        raise UserError(f"{name!r} is no fleet name; use lower-case letters, digits, '-', '_' and '.'")
    if name in read_admin(env).contexts:
        raise UserError(f"a fleet named {name!r} is already known here; see 'nixfleet context list'")
    log_key, cache_key = SecretKey.generate(), CacheKey.generate(f"{name}-1")
    root = create_root(
        by=signer.key.fingerprint,
        at=now(),
        urls=urls,
        principals=(Principal(name=_person(), keys=(signer.key.text,)),),
        log_key=log_key.public.text,
        caches=(CacheRef(url=BUILT_IN, key=cache_key.public),),
    )
    # The founding note is the fleet's name, for whoever gets to know it by its address.
    payload, signature = sign(signer, msgspec.structs.replace(root, note=name))
    fleet = create_fleet(coordinator_dir(name, env), payload, signature, log_key, cache_key.text)
    put_context(name, Context(fleet=fleet, urls=urls, key=key), env=env)
    return fleet


def _person() -> str:
    """Name the root's first principal after who is logged in."""
    try:
        name = getpass.getuser().lower()
    except (OSError, KeyError):
        name = "admin"
    return name if re.fullmatch(PRINCIPAL, name) else "admin"


@click.command()
@click.argument("name")
@click.option("--url", "urls", multiple=True, required=True, help="How devices reach the coordinator; repeatable.")
@command
async def init(given: Globals, name: str, urls: tuple[str, ...]) -> None:
    """Create a fleet named NAME; --key FILE.pub says whose, --key new makes a sealed key for it."""
    checked = tuple(checked_url(url) for url in urls)
    key, signer = signer_for_new(name, "" if given.key is None else str(given.key), given)
    fleet = begin(name, checked, signer, key=key, env=given.env)
    if given.json:
        output.as_json({"name": name, "fleet": fleet, "urls": checked, "key": signer.key.fingerprint})
        return
    if given.quiet:
        return
    click.echo(f"fleet {name} is made: {fleet}", err=True)
    click.echo(f"its root key is {signer.key.fingerprint}; there is only this one: keep it safe", err=True)
    for url in checked:
        if is_loopback(url):
            click.echo(f"only this machine can join: {url} is a loopback address", err=True)
    click.echo("next: 'nixfleet coordinator' serves it, or 'nixfleet console' serves and shows it", err=True)


def signer_for_new(name: str, key: str, given: Globals) -> tuple[str, Signer]:
    """Find who founds a fleet: a key file, a fingerprint of the agent's, ``new``, or nothing for the agent's only key.

    Gives how the context names the key, and the signer. Raises: UserError that says what to do.
    """
    if key == "new":
        path, signer = _new_key(name)
        return str(path), signer
    known = str(Path(key).expanduser().absolute()) if key and not key.startswith("SHA256:") else key
    signer = signer_of(replace(given, key=None), known)
    return known or signer.key.fingerprint, signer


def _new_key(name: str) -> tuple[Path, Signer]:
    """Make a sealed key for a fleet. Raises: UserError when there is one already."""
    path = admin_dirs()[0] / "keys" / f"{name}.key"
    if path.exists():
        raise UserError(f"{path} already holds a key; use it with --key {path}")
    passphrase = click.prompt("Passphrase for the new key", hide_input=True, confirmation_prompt=True, err=True)
    key = SecretKey.generate()
    write_atomic(path, seal(key, passphrase))
    return path, find_signer(None, key_file=path, ssh_auth_sock=None, passphrase=lambda: str(passphrase))


@click.command()
@click.argument("verb", type=click.Choice(["run"]), default="run")
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:7070", show_default=True, help="Where to listen.")
@click.option("--database", metavar="URL", help="postgresql://…; by default SQLite in the data folder.")
@click.option("--context", metavar="NAME", help="The fleet to serve; by default the current one.")
def coordinator(verb: str, listen: str, database: str | None, context: str | None) -> None:
    """Serve a fleet: devices and consoles connect to this."""
    del verb  # there is only one so far
    from nixfleet.server.serve import ServerSettings, run_forever

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    for chatty in ("alembic", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    folder = os.environ.get("NIXFLEET_DATA_DIR")
    data_dir = Path(folder) if folder else coordinator_dir(choose_context(context)[0])
    settings = ServerSettings(data_dir=data_dir, listen=listen, database_url=database)
    run_forever(settings, lambda address: click.echo(f"nixfleet: serving {data_dir.name} at {address}", err=True))


@click.group()
def context() -> None:
    """Say which fleets are known here, and which one is current."""


@context.command("list")
@command
async def list_contexts(given: Globals) -> None:
    """List the fleets that this machine knows."""
    settings = read_admin(given.env)
    if given.json:
        output.as_json({"current": settings.current, "contexts": settings.contexts})
        return
    output.table(
        ("", "NAME", "FLEET", "URL", "KEY"),
        [
            ("*" if name == settings.current else "", name, each.fleet[:12], each.urls[0], each.key)
            for name, each in sorted(settings.contexts.items())
        ],
        "no fleet is known here; 'nixfleet init NAME --url URL' makes one",
    )


@context.command("show")
@click.argument("name", required=False)
@command
async def show_context(given: Globals, name: str | None) -> None:
    """Show one fleet, by default the current one."""
    chosen, found = choose_context(name or given.context, given.env)
    if given.json:
        output.as_json({"name": chosen, "fleet": found.fleet, "urls": found.urls, "key": found.key})
        return
    output.fields(
        [("name", chosen), ("fleet", found.fleet), ("urls", " ".join(found.urls)), ("key", found.key or "any")]
    )


@context.command("use")
@click.argument("name")
@command
async def use(given: Globals, name: str) -> None:
    """Make a fleet the current one."""
    use_context(name, given.env)


@context.command("add")
@click.argument("url")
@click.option("--fleet", help="The fleet's id, from someone you trust; without it the id is shown and you are asked.")
@click.option("--name", help="What to call it here.")
@command
async def add(given: Globals, url: str, fleet: str | None, name: str | None) -> None:
    """Get to know a fleet that is served at URL; its whole log is replayed before a byte of it is trusted."""
    address = checked_url(url)
    async with client_of((address,), fleet or "", None) as client:
        view = await client.fleet()
    if fleet is None:
        click.echo(f"{address} serves the fleet {view.id}", err=True)
        if not given.yes:
            click.confirm("Is this the id that its admin told you?", default=False, abort=True, err=True)
    elif view.id != fleet:
        raise UserError(f"{address} serves another fleet: {view.id}")
    chosen = name or view.name or view.id[:12]
    key, _ = signer_for_new(chosen, "" if given.key is None else str(given.key), given)
    put_context(
        chosen,
        Context(fleet=view.id, urls=(address,), key=key),
        use=True,
        env=given.env,
    )
    Mirror.open(mirror_dir(view.id, given.env), view.id)
    click.echo(f"{chosen} is known; 'nixfleet audit verify --context {chosen}' replays its log", err=True)
