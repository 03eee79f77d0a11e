"""The one signature format: OpenSSH SSHSIG (PROTOCOL.sshsig, PROTOCOL.u2f), sha512 only.

A signature is over the message's SHA-512, so it is judged from the digest alone. The reader is strict: one
signature has one encoding. It must never accept a weaker hash, trailing bytes, or a touchless security key.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Self

import msgspec
import nacl.bindings
import nacl.utils

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.ids import MAX_LEAF_BYTES
from nixfleet.trust import opensshkey
from nixfleet.trust.sshkeys import TYPE_PLAIN, PublicKey, check_ed25519, parse_public_key, verify_raw
from nixfleet.trust.sshwire import Reader, string, u32

__all__ = [
    "BLOB_BYTES_MAX",
    "PublicKey",
    "SecretKey",
    "Signature",
    "Touchless",
    "armor",
    "check",
    "dearmor",
    "message_digest",
    "pack",
    "parse",
    "parse_public_key",
    "remember",
    "to_sign",
    "verify",
    "verify_raw",
]

BLOB_BYTES_MAX: Final = MAX_LEAF_BYTES - 8 - 64
"""952: a leaf less its u64 log time and SHA-512."""
NAMESPACE_CHARS_MAX: Final = 128

_MAGIC: Final = b"SSHSIG"
_VERSION: Final = u32(1)
_RESERVED: Final = string(b"")
_SHA512: Final = string(b"sha512")
_PLAIN_HEAD: Final = _MAGIC + _VERSION + u32(51) + string(TYPE_PLAIN.encode()) + u32(32)
"""How a signature by a plain key begins; the key's 32 bytes and the namespace's length follow."""
_PLAIN_KEY_AT: Final = len(_MAGIC + _VERSION) + 4
_PLAIN_NAMESPACE_AT: Final = len(_PLAIN_HEAD) + 32 + 4
_PLAIN_TAIL: Final = _RESERVED + _SHA512 + u32(83) + string(TYPE_PLAIN.encode()) + u32(64)
"""What stands between its namespace and its last 64 bytes."""
_USER_PRESENT: Final = 0x01
_BEGIN: Final = "-----BEGIN SSH SIGNATURE-----"
_END: Final = "-----END SSH SIGNATURE-----"
_ARMOR_COLUMNS: Final = 70


class Touchless(Untrusted):
    """A security key's signature that proves nobody's presence."""


class Signature(msgspec.Struct, frozen=True):
    """A parsed, not yet verified SSHSIG."""

    key: PublicKey
    namespace: str
    flags: int
    """FIDO flags of an sk signature, else 0."""
    counter: int
    """FIDO counter of an sk signature, else 0."""
    raw: bytes
    """The 64 ed25519 bytes."""


def remember(count: int) -> None:
    """Remember so many signatures that held, for a process in which many parties replay one log: a simulation.

    Each of them still judges every leaf; only that these very bytes are a signature by that key over that content is
    worked out once. What does not hold is never remembered. An agent is one party, and keeps its memory small.
    """
    _HOW.check = lru_cache(count)(check_ed25519)


def parse(blob: bytes) -> Signature:
    """Parse an SSHSIG blob; proves nothing yet. Raises: Untrusted unless it is in its one strict form."""
    # Nearly all are by plain keys, in which everything but key, namespace and signature is constant.
    namespace_end = _PLAIN_NAMESPACE_AT + int.from_bytes(blob[_PLAIN_NAMESPACE_AT - 4 : _PLAIN_NAMESPACE_AT], "big")
    raw_at = namespace_end + len(_PLAIN_TAIL)
    fits = len(blob) == raw_at + 64 <= BLOB_BYTES_MAX
    if fits and blob.startswith(_PLAIN_HEAD) and blob.startswith(_PLAIN_TAIL, namespace_end):
        key = PublicKey.from_blob(blob[_PLAIN_KEY_AT : _PLAIN_NAMESPACE_AT - 4])
        namespace = _decode_namespace(blob[_PLAIN_NAMESPACE_AT:namespace_end])
        return Signature(key, namespace, 0, 0, blob[raw_at:])
    return _parse_any(blob)


def _parse_any(blob: bytes) -> Signature:
    if len(blob) > BLOB_BYTES_MAX:
        raise Untrusted(f"a signature is larger than {BLOB_BYTES_MAX} bytes")
    reader = Reader(blob, "a signature").expect(_MAGIC, "magic").expect(_VERSION, "version")
    key = PublicKey.from_blob(reader.string())
    namespace = _decode_namespace(reader.string())
    reader.expect(_RESERVED, "reserved field").expect(_SHA512, "hash algorithm")
    inner = Reader(reader.string(), "a signature")
    reader.end()
    if inner.string() != key.type.encode():
        raise Untrusted("a signature is of another type than its key")
    raw = inner.string()
    if len(raw) != 64:
        raise Untrusted("an ed25519 signature is not 64 bytes")
    plain = key.type == TYPE_PLAIN
    flags, counter = (0, 0) if plain else (inner.byte(), inner.u32())
    inner.end()
    return Signature(key, namespace, flags, counter, raw)


def _decode_namespace(data: bytes) -> str:
    """Accept 1 to 128 visible ASCII characters, all that our namespaces use."""
    text = data.decode("ascii", "replace")
    if not (0 < len(text) <= NAMESPACE_CHARS_MAX and text.isascii() and text.isprintable() and " " not in text):
        raise Untrusted("a signature has a malformed namespace")
    return text


def check(signature: Signature, sha512: bytes) -> None:
    """Verify a parsed signature against the message's SHA-512. Raises: Untrusted."""
    signed = to_sign(signature.namespace, sha512)
    if signature.key.type == TYPE_PLAIN:
        _HOW.check(signature.key.raw, signed, signature.raw)
        return
    # PROTOCOL.u2f: a touch must be proven; sshd demands it by default, we always do.
    if not signature.flags & _USER_PRESENT:
        raise Touchless("the security key signed without a touch")
    application = hashlib.sha256(signature.key.application).digest()
    told = bytes([signature.flags]) + u32(signature.counter)
    _HOW.check(signature.key.raw, application + told + hashlib.sha256(signed).digest(), signature.raw)


class _How:
    """How signatures are verified in this process: each time anew, unless `remember` says otherwise."""

    def __init__(self, check: Callable[[bytes, bytes, bytes], None]) -> None:
        self.check = check


_HOW: Final = _How(check_ed25519)


def verify(blob: bytes, message: bytes, namespace: str) -> PublicKey:
    """Verify a signature over `message` in `namespace` and return who signed. Raises: Untrusted."""
    signature = parse(blob)
    if signature.namespace != namespace:
        raise Untrusted(f"the signature is for {signature.namespace!r}, not {namespace!r}")
    check(signature, message_digest(message))
    return signature.key


def message_digest(message: bytes) -> bytes:
    """Return the 64-byte SHA-512 of a message, the only hash we sign."""
    return hashlib.sha512(message).digest()


def to_sign(namespace: str, sha512: bytes) -> bytes:
    """Return the bytes a key signs for a message with this 64-byte digest (PROTOCOL.sshsig section 3)."""
    assert len(sha512) == 64
    return _MAGIC + string(namespace.encode()) + _RESERVED + _SHA512 + string(sha512)


def pack(key: PublicKey, namespace: str, signature_blob: bytes) -> bytes:
    """Wrap what an agent answers (`string type, string signature, …`) into an SSHSIG blob."""
    head = _MAGIC + _VERSION + string(key.blob) + string(namespace.encode())
    return head + _RESERVED + _SHA512 + string(signature_blob)


def armor(blob: bytes) -> str:
    """Write a blob as the text file that `ssh-keygen -Y verify` reads."""
    encoded = base64.b64encode(blob).decode()
    lines = [encoded[at : at + _ARMOR_COLUMNS] for at in range(0, len(encoded), _ARMOR_COLUMNS)]
    return "\n".join([_BEGIN, *lines, _END, ""])


def dearmor(text: str) -> bytes:
    """Return the blob of an armored signature, not yet parsed. Raises: Untrusted."""
    body = text.strip()
    if len(body) > 4 * BLOB_BYTES_MAX or not (body.startswith(_BEGIN) and body.endswith(_END)):
        raise Untrusted("not an armored SSH signature")
    try:
        return base64.b64decode("".join(body[len(_BEGIN) : -len(_END)].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Untrusted("an armored SSH signature is not valid base64") from error


class SecretKey:
    """An ed25519 secret key in memory; neither its repr nor an error shows it."""

    __slots__ = ("_pair", "public", "seed")

    public: PublicKey
    seed: bytes
    """32 bytes (RFC 8032); secret."""
    _pair: bytes

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Derive the key of a 32-byte seed. Raises: UserError for another length."""
        if len(seed) != 32:
            raise UserError("an ed25519 seed is 32 bytes")
        key = cls()
        raw, key._pair = nacl.bindings.crypto_sign_seed_keypair(seed)
        key.seed = seed
        key.public = PublicKey.from_blob(string(TYPE_PLAIN.encode()) + string(raw))
        return key

    @classmethod
    def generate(cls) -> Self:
        """Make a key from the system's randomness."""
        return cls.from_seed(nacl.utils.random(32))

    @classmethod
    def from_openssh(cls, text: str) -> Self:
        """Read an unencrypted OpenSSH ed25519 file such as ssh_host_ed25519_key. Raises: UserError."""
        key = cls.from_seed(opensshkey.read_seed(text))
        if key.public != opensshkey.read_public(text):
            raise UserError("not a usable private key file: the private part does not fit the public key")
        return key

    def to_openssh(self) -> str:
        """Write an unencrypted OpenSSH private key file; secret."""
        return opensshkey.write(self.seed, self.public)

    def sign(self, namespace: str, message: bytes) -> bytes:
        """Sign `message` in `namespace` and return the SSHSIG blob."""
        raw = self.sign_raw(to_sign(namespace, message_digest(message)))
        return pack(self.public, namespace, string(TYPE_PLAIN.encode()) + string(raw))

    def sign_raw(self, data: bytes) -> bytes:
        """Return the bare 64-byte ed25519 signature over `data`."""
        return bytes(nacl.bindings.crypto_sign(data, self._pair)[:64])

    def __repr__(self) -> str:
        return f"SecretKey({self.public.fingerprint})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretKey) and self.public == other.public

    def __hash__(self) -> int:
        return hash(self.public)
