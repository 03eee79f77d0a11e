"""Keys made for a fleet's root: a sealed file, and the second root key that `nixfleet init` asks for."""

import sys
from pathlib import Path
from typing import Final

import click

from nixfleet.cli.keys import read_key
from nixfleet.cli.options import Globals
from nixfleet.cli.passphrases import new_passphrase
from nixfleet.cli.questions import ask
from nixfleet.config import admin_dirs, write_atomic
from nixfleet.errors import UserError
from nixfleet.trust.signers import seal
from nixfleet.trust.sshsig import PublicKey, SecretKey

NEW: Final = "new"
NONE: Final = "none"
QUESTION: Final = (
    "A second root key, kept elsewhere, is what saves the fleet when the first is lost.\n"
    "A .pub file of another SSH or FIDO key, 'new' for a sealed file, or 'none' to go on with one"
)


def key_file(name: str, given: Globals) -> Path:
    """Give where a fleet's sealed key is kept. Raises: UserError when there is one already."""
    path = admin_dirs(given.env)[0] / "keys" / f"{name}.key"
    if path.exists():
        raise UserError(f"{path} already holds a key; use it with --key {path}")
    return path


def make_key(path: Path, what: str, given: Globals) -> SecretKey:
    """Make a key, seal it into a file, and give it open. Raises: UserError where no passphrase is to be had."""
    passphrase = new_passphrase(what, given.env)
    key = SecretKey.generate()
    write_atomic(path, seal(key, passphrase))
    return key


def second_key(given: Globals, name: str, wanted: str, first: PublicKey) -> PublicKey | None:
    """Get a fleet's second root key: as ``--second-key`` says, else asked for; None to go on with one.

    Raises: UserError for a key that cannot be one, where nobody can be asked again.
    """
    if wanted:
        return _read(given, name, wanted, first)
    if given.yes or not sys.stdin.isatty():
        return None
    while True:
        answer = ask(QUESTION, NONE)
        try:
            return _read(given, name, answer, first)
        except UserError as error:
            click.echo(f"{error}; try again", err=True)


def _read(given: Globals, name: str, answer: str, first: PublicKey) -> PublicKey | None:
    if answer == NONE:
        return None
    if answer == NEW:
        path = key_file(f"{name}-second", given)
        key = make_key(path, "the second root key", given).public
        click.echo(f"the second root key is sealed in {path}: move it to another place, not a copy beside it", err=True)
        return key
    key = read_key(answer)
    if key == first:
        raise UserError("this is the first root key again; a second one helps only when it is another key")
    return key
