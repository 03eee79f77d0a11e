"""Who signs on a command line: the key that the options or the context name, and its passphrase asked on the terminal.

Loads nothing of the client, so that who needs only a signer starts fast. It must never keep a passphrase.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import click

from nixfleet.cli.options import Globals
from nixfleet.errors import Unreachable, Untrusted, UserError
from nixfleet.trust import sshagent
from nixfleet.trust.signers import AgentSigner, Signer, find_signer


def ask_passphrase(file: Path | None) -> Callable[[], str] | None:
    """Give what asks for a key file's passphrase on the terminal; None where there is none."""
    if not sys.stdin.isatty():
        return None
    return lambda: str(click.prompt(f"Passphrase of {file}", hide_input=True, err=True))


def signer_of(given: Globals, known: str) -> Signer:
    """Find who signs: ``--key``, else `known`, a context's key; each a file or a fingerprint. Raises: UserError."""
    key = given.key or known
    sock = given.env.get("SSH_AUTH_SOCK")
    if not key.startswith("SHA256:"):
        file = Path(key).expanduser().absolute() if key else None
        return find_signer(None, key_file=file, ssh_auth_sock=sock, passphrase=ask_passphrase(file))
    try:
        held = {each.fingerprint: each for each in sshagent.keys(sock)} if sock else {}
    except (Unreachable, Untrusted) as error:
        raise UserError(f"{error}; start ssh-agent and run ssh-add, or pass --key FILE") from error
    if sock is None or key not in held:
        raise UserError(f"ssh-agent holds no key {key}: run ssh-add, or pass --key FILE")
    return AgentSigner(held[key], sock)
