"""Reading public keys that people give: a line as in a ``.pub`` file, or a file that holds one."""

from pathlib import Path

from nixfleet.errors import UserError
from nixfleet.trust.signers import public_key_of
from nixfleet.trust.sshsig import PublicKey, parse_public_key


def read_key(text: str) -> PublicKey:
    """Read ``ssh-ed25519 AAAA…`` or the public key of a file: a .pub, private or sealed one. Raises: UserError."""
    if text.startswith(("ssh-", "sk-ssh-", "ecdsa-", "sk-ecdsa-")):
        return parse_public_key(text)
    if text.startswith("SHA256:"):
        raise UserError(f"{text} is a fingerprint; a key that is to be signed is needed whole, as in its .pub file")
    return public_key_of(Path(text).expanduser())


def read_named_key(text: str) -> tuple[str, PublicKey]:
    """Read ``NAME=KEY`` or ``NAME=FILE.pub``. Raises: UserError."""
    name, equals, key = text.partition("=")
    if not equals or not name or not key:
        raise UserError(f"{text!r} is not NAME=KEY; write it like alice=alice.pub or alice='ssh-ed25519 AAAA…'")
    return name, read_key(key)
