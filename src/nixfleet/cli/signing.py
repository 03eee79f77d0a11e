"""Who signs on a command line: the key that the options or the context name.

Loads nothing of the client, so that who needs only a signer starts fast. It must never keep a passphrase.
"""

from pathlib import Path

from nixfleet.cli.options import Globals
from nixfleet.cli.passphrases import passphrase_of
from nixfleet.errors import Unreachable, Untrusted, UserError
from nixfleet.trust import sshagent
from nixfleet.trust.signers import AgentSigner, Signer, find_signer


def signer_of(given: Globals, known: str, passphrase_file: str = "") -> Signer:
    """Find who signs: ``--key``, else `known`, a context's key; each a file or a fingerprint. Raises: UserError.

    `passphrase_file` is that of the context's key, and tells nothing about another.
    """
    key = given.key or known
    sock = given.env.get("SSH_AUTH_SOCK")
    if not key.startswith("SHA256:"):
        file = Path(key).expanduser().absolute() if key else None
        told = "" if given.key and given.key != known else passphrase_file
        passphrase = passphrase_of(file, given.env, told) if file is not None else None
        return find_signer(None, key_file=file, ssh_auth_sock=sock, passphrase=passphrase)
    try:
        held = {each.fingerprint: each for each in sshagent.keys(sock)} if sock else {}
    except (Unreachable, Untrusted) as error:
        raise UserError(f"{error}; start ssh-agent and run ssh-add, or pass --key FILE") from error
    if sock is None or key not in held:
        raise UserError(f"ssh-agent holds no key {key}: run ssh-add, or pass --key FILE")
    return AgentSigner(held[key], sock)
