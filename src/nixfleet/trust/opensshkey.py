"""OpenSSH private key files (PROTOCOL.key), unencrypted ed25519 only: text to seed and back.

It must never put key material into an error text.
"""

import base64
import binascii
import hashlib
from typing import Final

from nixfleet.errors import Untrusted, UserError
from nixfleet.trust.sshkeys import PublicKey
from nixfleet.trust.sshwire import Reader, string, u32

_BEGIN: Final = "-----BEGIN OPENSSH PRIVATE KEY-----"
_END: Final = "-----END OPENSSH PRIVATE KEY-----"
_MAGIC: Final = b"openssh-key-v1\0"
_TEXT_CHARS_MAX: Final = 16_384
_BLOCK_BYTES: Final = 8


def is_private_key(text: str) -> bool:
    """Tell whether this looks like an OpenSSH private key file."""
    return text.lstrip().startswith(_BEGIN)


def read_public(text: str) -> PublicKey:
    """Return the public half, which even an encrypted file has in clear. Raises: UserError."""
    try:
        _, blob, _ = _open(text)
        return PublicKey.from_blob(blob)
    except Untrusted as error:
        raise UserError(f"not a usable private key file: {error}; 'ssh-keygen -t ed25519' makes one") from error


def is_encrypted(text: str) -> bool:
    """Tell whether a private key file is protected by a passphrase; False where it cannot be read."""
    try:
        return _open(text)[0] != b"none"
    except (Untrusted, UserError):
        return False


def read_seed(text: str) -> bytes:
    """Return the 32-byte seed. Raises: UserError for an encrypted file, another type, or a damaged one."""
    try:
        cipher, blob, private = _open(text)
        if cipher != b"none":
            raise UserError("the private key file is protected by a passphrase: add it to ssh-agent instead")
        return _private(private, PublicKey.from_blob(blob))
    except Untrusted as error:
        raise UserError(f"not a usable private key file: {error}") from error


def _open(text: str) -> tuple[bytes, bytes, bytes]:
    """Split a file into cipher name, public blob and private part."""
    if len(text) > _TEXT_CHARS_MAX:
        raise UserError(f"a private key file is longer than {_TEXT_CHARS_MAX} characters")
    body = text.strip()
    if not (body.startswith(_BEGIN) and body.endswith(_END)):
        raise UserError("not an OpenSSH private key file")
    try:
        data = base64.b64decode("".join(body[len(_BEGIN) : -len(_END)].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError("the private key file is not valid base64") from error
    reader = Reader(data, "the file").expect(_MAGIC, "magic")
    cipher = reader.string()
    reader.string()  # KDF name and options matter to ssh-keygen only
    reader.string()
    if reader.u32() != 1:
        raise UserError("the private key file holds more than one key")
    public, private = reader.string(), reader.string()
    if cipher == b"none":
        reader.end()  # an authenticated cipher appends its tag here
    return cipher, public, private


def _private(data: bytes, public: PublicKey) -> bytes:
    reader = Reader(data, "the private part")
    if reader.u32() != reader.u32():
        raise Untrusted("the private part is damaged")
    if reader.string() != b"ssh-ed25519" or public.type != "ssh-ed25519":
        raise UserError("the private key file is not ssh-ed25519")
    inner, secret = reader.string(), reader.string()
    reader.string()  # comment
    padding = reader.rest()
    if len(secret) != 64 or inner != public.raw or secret[32:] != public.raw:
        raise Untrusted("the private part does not fit the public key")
    if len(data) % _BLOCK_BYTES or padding != bytes(range(1, len(padding) + 1)):
        raise Untrusted("the private part has wrong padding")
    return secret[:32]


def write(seed: bytes, public: PublicKey) -> str:
    """Write an unencrypted file that ssh-keygen, sshd and `read_seed` accept."""
    # Both check words must be equal; they detect a wrong passphrase, so any value does where there is none.
    check = hashlib.sha256(public.blob).digest()[:4]
    private = check * 2 + string(b"ssh-ed25519") + string(public.raw) + string(seed + public.raw) + string(b"")
    private += bytes(range(1, -len(private) % _BLOCK_BYTES + 1))
    data = _MAGIC + string(b"none") * 2 + string(b"") + u32(1) + string(public.blob) + string(private)
    encoded = base64.b64encode(data).decode()
    lines = [encoded[at : at + 70] for at in range(0, len(encoded), 70)]
    return "\n".join([_BEGIN, *lines, _END, ""])
