"""``nixfleet context``: which fleets are known on this machine, and which one is current."""

import re
from json import dumps

import click
import msgspec

from nixfleet.cli import output
from nixfleet.cli.fleet import signer_for_new
from nixfleet.cli.options import Globals, Group, command, confirm
from nixfleet.cli.session import client_of, keeper_of
from nixfleet.client.mirror import Mirror
from nixfleet.config import Context, choose_context, mirror_dir, put_context, read_admin, use_context
from nixfleet.errors import Untrusted, UserError
from nixfleet.model.ids import HEX64, NAME
from nixfleet.model.text import one_line
from nixfleet.model.typed import check_name, checked_url


@click.group(cls=Group)
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
    """Show one fleet, by default the current one, and what agent.toml of a device without a token says of it."""
    chosen, found = choose_context(name or given.context, given.env)
    folder = mirror_dir(found.fleet, given.env)
    mirror = Mirror.open(folder, found.fleet) if folder.exists() else None
    checkpoint = f"{mirror.size}:{mirror.log_state.root}" if mirror is not None and mirror.size else ""
    if given.json:
        shown = {"name": chosen, "fleet": found.fleet, "urls": found.urls, "key": found.key}
        output.as_json({**shown, "checkpoint": checkpoint})
        return
    output.fields(
        [("name", chosen), ("fleet", found.fleet), ("urls", " ".join(found.urls)), ("key", found.key or "any")]
    )
    click.echo("\nagent.toml of a device that asks to be enrolled:")
    click.echo(f"urls = {dumps(found.urls)}\nfleet = {dumps(found.fleet)}")
    if not checkpoint:
        click.echo("checkpoint: none is verified here yet; 'nixfleet audit verify' gets one", err=True)
    else:
        click.echo(f'checkpoint = "{checkpoint}"')


@context.command("use")
@click.argument("name")
@command
async def use(given: Globals, name: str) -> None:
    """Make a fleet the current one."""
    use_context(name, given.env)
    output.done({"current": name}, f"{name} is the current fleet", json=given.json, quiet=given.quiet)


@context.command("add")
@click.argument("url")
@click.option("--fleet", help="The fleet's id, from someone you trust; without it the id is shown and you are asked.")
@click.option("--name", help="What to call it here.")
@command
async def add(given: Globals, url: str, fleet: str | None, name: str | None) -> None:
    """Get to know a fleet that is served at URL; its whole log is replayed before anything is written down."""
    address = checked_url(url)
    if fleet is not None and not re.fullmatch(HEX64, fleet):
        raise UserError(f"{fleet!r} is no fleet id; it has 64 digits, as 'nixfleet context show' says on its admin's")
    async with client_of((address,), "", None, given.timeout_s) as client:
        served = await client.fleet()
    if fleet is None:
        if not re.fullmatch(HEX64, served.id):
            raise Untrusted(f"{address} says no fleet id")
        click.echo(f"{address} serves the fleet {served.id}", err=True)
        confirm(given, "Is this the id that its admin told you?")
    elif served.id != fleet:
        raise UserError(f"{address} serves another fleet: {one_line(served.id)[:64]}")
    chosen = name or (served.name if re.fullmatch(NAME, served.name) else served.id[:12])
    _check_name(chosen, served.id, given)
    key, signer = signer_for_new(chosen, given.key or "", given)
    found = _kept(chosen, Context(fleet=served.id, urls=(address,), key=key), given)
    async with client_of(found.urls, found.fleet, None, given.timeout_s) as client:
        await keeper_of(given, found, signer).attach(client)
        mirror = Mirror.open(mirror_dir(found.fleet, given.env), found.fleet)
        await mirror.catch_up(client)
    put_context(chosen, found, env=given.env)
    output.done(
        {"name": chosen, "fleet": found.fleet, "urls": found.urls, "key": found.key, "log_size": mirror.size},
        f"{chosen} is known and the current fleet; its log of {mirror.size} entries verifies",
        json=given.json,
        quiet=given.quiet,
    )


def _kept(name: str, found: Context, given: Globals) -> Context:
    """Keep what a context says besides, where the fleet is known by that name already."""
    known = read_admin(given.env).contexts.get(name)
    if known is None:
        return found
    passphrase = known.passphrase_file if known.key == found.key else ""
    return msgspec.structs.replace(known, urls=found.urls, key=found.key, passphrase_file=passphrase)


def _check_name(name: str, fleet: str, given: Globals) -> None:
    """Check that a fleet may be called so here. Raises: UserError."""
    check_name(name, "fleet")
    known = read_admin(given.env).contexts.get(name)
    if known is not None and known.fleet != fleet:
        raise UserError(f"another fleet is known here as {name!r}; choose a name with --name")
