"""``nixfleet init`` and ``coordinator``: a fleet's beginning, and serving one."""

import getpass
import re
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from nixfleet.cli import output
from nixfleet.cli.addresses import PORT, is_loopback
from nixfleet.cli.claiming import Founding, claim_fleet
from nixfleet.cli.newkeys import NEW, key_file, make_key
from nixfleet.cli.newkeys import second_key as chosen_second
from nixfleet.cli.options import Globals, command
from nixfleet.cli.questions import ask
from nixfleet.cli.session import now, signer_of
from nixfleet.client.acts import create_root
from nixfleet.client.admin import sign
from nixfleet.client.upstream import BUILT_IN
from nixfleet.config import (
    Context,
    coordinator_dir,
    put_context,
    read_admin,
)
from nixfleet.errors import NixfleetError, UserError
from nixfleet.model.ids import PRINCIPAL
from nixfleet.model.statements import CacheRef, Principal, Root
from nixfleet.model.typed import check_name, checked_url
from nixfleet.trust.claims import ClaimString
from nixfleet.trust.signers import MemorySigner, Signer
from nixfleet.trust.sshsig import PublicKey, SecretKey


def begin(
    name: str,
    urls: tuple[str, ...],
    signer: Signer,
    *,
    key: str,
    env: Mapping[str, str],
    database: str | None = None,
    second: PublicKey | None = None,
) -> str:
    """Make a fleet in this machine's data folder, and make it the current one; give its id.

    Its root has the signer's key, and a person's `second` one where they have it. With `database`, a URL, the log
    begins there, and the folder holds keys and cache alone.

    Raises:
        UserError: the name is malformed or taken, or folder or database cannot be written.
        Refused, Unreachable: the signer does not sign.

    """
    from nixfleet.server.setup import create_fleet
    from nixfleet.trust.narinfo import CacheKey

    check_new(name, env, database)
    folder = coordinator_dir(name, env)
    is_new = not folder.exists()
    log_key, cache_key = SecretKey.generate(), CacheKey.generate(f"{name}-1")
    root = _first_root(urls, signer, second, log_key.public, cache_key.public)
    # The founding note is the fleet's name, for whoever gets to know it by its address.
    payload, signature = sign(signer, msgspec.structs.replace(root, note=name))
    try:
        fleet = create_fleet(folder, payload, signature, log_key, cache_key.text, database)
    except NixfleetError:
        with suppress(OSError):
            folder.rmdir()  # only if nothing is in it
        raise
    try:
        put_context(name, Context(fleet=fleet, urls=urls, key=key), env=env)
    except UserError:
        if is_new:
            # Nobody has seen it yet, and without its context nobody could use it.
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return fleet


def _first_root(
    urls: tuple[str, ...], signer: Signer, second: PublicKey | None, log_key: PublicKey, cache_key: str
) -> Root:
    """Write the root of a fleet that is served from this machine, with its built-in cache."""
    return create_root(
        by=signer.key.fingerprint,
        at=now(),
        urls=urls,
        principals=(founder(signer, second),),
        log_key=log_key.text,
        caches=(CacheRef(url=BUILT_IN, key=cache_key),),
    )


def check_new(name: str, env: Mapping[str, str], database: str | None = None) -> None:
    """Check that a fleet may begin here under this name, before anything is made for it. Raises: UserError."""
    from nixfleet.server.settings import ServerSettings
    from nixfleet.server.setup import check_empty

    check_name(name, "fleet")
    if name in read_admin(env).contexts:
        raise UserError(f"a fleet named {name!r} is already known here; see 'nixfleet context list'")
    folder = coordinator_dir(name, env)
    check_empty(folder)
    ServerSettings(data_dir=folder, database_url=database).url()


def person() -> str:
    """Name the root's first principal after who is logged in."""
    try:
        name = getpass.getuser().lower()
    except (OSError, KeyError):
        name = "admin"
    return name if re.fullmatch(PRINCIPAL, name) else "admin"


def founder(signer: Signer, second: PublicKey | None) -> Principal:
    """Give the root's first principal: who is logged in, with the signer's key and a second one where there is one."""
    return Principal(name=person(), keys=tuple(key.text for key in (signer.key, second) if key))


@click.command()
@click.argument("name")
@click.option("--url", "urls", multiple=True, metavar="URL", help="How devices reach the coordinator; repeatable.")
@click.option("--database", metavar="URL", help="postgresql://…; by default SQLite in the data folder.")
@click.option("--second-key", default="", metavar="FILE.pub|new|none", help="The root's second key, kept elsewhere.")
@click.option("--claim", metavar="STRING", help="Begin it on a server: the string from its coordinator's log.")
@command
async def init(
    given: Globals, name: str, urls: tuple[str, ...], database: str | None, second_key: str, claim: str | None
) -> None:
    """Create a fleet named NAME; --key FILE.pub says whose, --key new makes a sealed key for it."""
    claimed = _claim_of(claim, database)
    check_new(name, given.env, database)
    urls = urls or (_ask_url(),)
    checked = tuple(checked_url(url) for url in urls)
    key, signer = signer_for_new(name, given.key or "", given)
    second = chosen_second(given, name, second_key, signer.key)
    if claimed is None:
        fleet = begin(name, checked, signer, key=key, env=given.env, database=database, second=second)
    else:
        principals = (founder(signer, second),)
        founding = Founding(name=name, urls=checked, signer=signer, key=key, principals=principals)
        fleet = await claim_fleet(given, founding, claimed)
    if given.json:
        keys = [one.fingerprint for one in (signer.key, second) if one]
        output.as_json({"name": name, "fleet": fleet, "urls": checked, "key": keys[0], "root_keys": keys})
        return
    if given.quiet:
        return
    click.echo(f"fleet {name} is made: {fleet}", err=True)
    click.echo(f"its root key is {signer.key.fingerprint}", err=True)
    if second is not None:
        click.echo(f"its second root key is {second.fingerprint}", err=True)
    else:
        add = f"nixfleet access root update --add-key {person()}=SECOND.pub"
        click.echo(f"1 root key: if it is lost, so is the fleet's root; add a second one by '{add}'", err=True)
    for url in checked:
        if is_loopback(url):
            click.echo(f"only this machine can join: {url} is a loopback address", err=True)
    if claimed is not None:
        click.echo("its coordinator serves it; next: 'nixfleet enroll token --tag k=v' lets devices join", err=True)
        return
    click.echo("next: 'nixfleet coordinator' serves it, or 'nixfleet console' serves and shows it", err=True)


def _claim_of(text: str | None, database: str | None) -> ClaimString | None:
    """Read what --claim says. Raises: UserError."""
    if text is None:
        return None
    if database is not None:
        raise UserError("--database is for a fleet of this machine: the coordinator that is claimed has its own")
    return ClaimString.parse(text)


def proposed_url() -> str:
    """Propose an address that devices of the same network can reach (mDNS, RFC 6762)."""
    return f"http://{socket.gethostname().partition('.')[0]}.local:{PORT}"


def _ask_url() -> str:
    """Ask how devices reach the coordinator. Raises: UserError where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UserError(f"say how devices reach the coordinator, for example --url {proposed_url()}")
    return ask("How devices reach the coordinator", proposed_url())


def signer_for_new(name: str, key: str, given: Globals) -> tuple[str, Signer]:
    """Find who founds a fleet: a key file, a fingerprint of the agent's, ``new``, or nothing for the agent's only key.

    Gives how the context names the key, and the signer. Raises: UserError that says what to do.
    """
    if key == NEW:
        path = key_file(name, given)
        return str(path), MemorySigner(make_key(path, "the new key", given))
    known = str(Path(key).expanduser().absolute()) if key and not key.startswith("SHA256:") else key
    signer = signer_of(replace(given, key=None), known)
    return known or signer.key.fingerprint, signer
