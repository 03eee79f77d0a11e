"""A secret key at rest: sealed with a passphrase (Argon2id, then XSalsa20-Poly1305) in a small JSON file.

It must never derive with parameters out of bounds: a file from elsewhere could ask for all memory there is.
"""

import unicodedata
from typing import Annotated, Final, Literal

import msgspec
import nacl.exceptions
import nacl.pwhash.argon2id
import nacl.secret
import nacl.utils

from nixfleet.errors import UserError
from nixfleet.model.reading import UNREADABLE
from nixfleet.trust.sshsig import PublicKey, SecretKey, parse_public_key

_MARK: Final = b'"nixfleet-sealed-key-v1"'
_BYTES_MAX: Final = 4096
_PASSPHRASE_CHARS_MAX: Final = 1024
_OPS_MAX: Final = 10
_MEMORY_BYTES_MIN: Final = 8 << 20
_MEMORY_BYTES_MAX: Final = 1 << 30


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file; `key` is readable without the passphrase, so that a key can be found by it."""

    format: Literal["nixfleet-sealed-key-v1"]
    key: str
    kdf: Literal["argon2id"]
    ops: Annotated[int, msgspec.Meta(ge=1, le=_OPS_MAX)]
    memory_bytes: Annotated[int, msgspec.Meta(ge=_MEMORY_BYTES_MIN, le=_MEMORY_BYTES_MAX)]
    salt: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    box: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{144}$")]
    """Nonce (24), tag (16) and seed (32)."""


def seal(key: SecretKey, passphrase: str) -> bytes:
    """Seal a key (about a second and 256 MiB). Raises: UserError for an empty passphrase."""
    salt = nacl.utils.random(nacl.pwhash.argon2id.SALTBYTES)
    ops, memory = nacl.pwhash.argon2id.OPSLIMIT_MODERATE, nacl.pwhash.argon2id.MEMLIMIT_MODERATE
    box = nacl.secret.SecretBox(derive(passphrase, salt, ops, memory)).encrypt(key.seed)
    sealed = _Sealed("nixfleet-sealed-key-v1", key.public.text, "argon2id", ops, memory, salt.hex(), box.hex())
    return msgspec.json.format(msgspec.json.encode(sealed)) + b"\n"


def unseal(data: bytes, passphrase: str) -> SecretKey:
    """Open a sealed key. Raises: UserError for a wrong passphrase or a damaged file."""
    sealed = _parse(data)
    secret = derive(passphrase, bytes.fromhex(sealed.salt), sealed.ops, sealed.memory_bytes)
    try:
        seed = nacl.secret.SecretBox(secret).decrypt(bytes.fromhex(sealed.box))
    except nacl.exceptions.CryptoError as error:
        raise UserError("the passphrase does not open this key file") from error
    key = SecretKey.from_seed(seed)
    if key.public != parse_public_key(sealed.key):
        raise UserError("the sealed key file is damaged: it holds another key than it says")
    return key


def is_sealed(data: bytes) -> bool:
    """Tell whether this looks like a sealed key file."""
    return _MARK in data[:_BYTES_MAX]


def sealed_public(data: bytes) -> PublicKey:
    """Return the public key that a sealed file says it holds; `unseal` proves it. Raises: UserError."""
    return parse_public_key(_parse(data).key)


def _parse(data: bytes) -> _Sealed:
    if len(data) > _BYTES_MAX:
        raise UserError(f"a sealed key file is larger than {_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(data, type=_Sealed)
    except UNREADABLE as error:
        raise UserError(f"not a sealed key file: {error}") from error


def derive(passphrase: str, salt: bytes, ops: int, memory_bytes: int) -> bytes:
    """Make a SecretBox key of a passphrase (Argon2id). Raises: UserError for one that is empty, or without memory."""
    # NFC: keyboards of different systems compose the same letter differently.
    text = unicodedata.normalize("NFC", passphrase)
    if not 0 < len(text) <= _PASSPHRASE_CHARS_MAX:
        raise UserError(f"a passphrase has 1 to {_PASSPHRASE_CHARS_MAX} characters")
    try:
        return nacl.pwhash.argon2id.kdf(
            nacl.secret.SecretBox.KEY_SIZE, text.encode(), salt, opslimit=ops, memlimit=memory_bytes
        )
    except UnicodeEncodeError as error:
        raise UserError("the passphrase is not valid text") from error
    except (nacl.exceptions.CryptoError, MemoryError) as error:
        raise UserError(f"not enough memory to open the key: it needs {memory_bytes >> 20} MiB") from error
