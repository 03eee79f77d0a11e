"""Public keys: `ssh-ed25519` (RFC 8709) and `sk-ssh-ed25519@openssh.com` (OpenSSH PROTOCOL.u2f).

What is a key and what is not is decided here in plain arithmetic, the same on every machine: it must never
depend on how libsodium was built, or two parties could replay one log to different verdicts.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, Self

import nacl.bindings
import nacl.exceptions

from nixfleet.errors import Untrusted, UserError
from nixfleet.trust.sshwire import Reader

KeyType = Literal["ssh-ed25519", "sk-ssh-ed25519@openssh.com"]
TYPE_PLAIN: Final[KeyType] = "ssh-ed25519"
TYPE_SK: Final[KeyType] = "sk-ssh-ed25519@openssh.com"

_TYPES: Final = {TYPE_PLAIN.encode(): TYPE_PLAIN, TYPE_SK.encode(): TYPE_SK}
_BLOB_BYTES_MAX: Final = 256
_APPLICATION_BYTES_MAX: Final = 128
_LINE_CHARS_MAX: Final = 2048
_CACHED_KEYS: Final = 16_384

_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P
_Y_MASK: Final = 2**255 - 1
_Y_ORDER_8: Final = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_BASE_POINT: Final = bytes.fromhex("58" + "66" * 31)
# y of the eight points whose order divides 8: with such a key, one signature fits many messages.
_SMALL_ORDER_Y: Final = frozenset({0, 1, _P - 1, _Y_ORDER_8, _P - _Y_ORDER_8})


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key; two are equal when their wire forms are."""

    blob: bytes
    """SSH wire form: what a fingerprint is taken over."""
    type: KeyType = field(compare=False)
    raw: bytes = field(compare=False, repr=False)
    """The 32 ed25519 bytes."""
    application: bytes = field(compare=False, repr=False)
    """FIDO application of an sk key, `ssh:…`; empty for a plain one."""
    fingerprint: str = field(compare=False)
    """`SHA256:` and unpadded base64, as `ssh-keygen -lf` prints it."""
    text: str = field(compare=False, repr=False)
    """Type and base64 as in a `.pub` file, without a comment."""

    @classmethod
    def from_blob(cls, blob: bytes) -> Self:
        """Decode the SSH wire form. Raises: Untrusted for another type, a weak point, or trailing bytes."""
        key = _decode(blob)
        assert isinstance(key, cls)
        return key


@lru_cache(maxsize=_CACHED_KEYS)
def _decode(blob: bytes) -> PublicKey:
    reader = Reader(blob, "a public key")
    name = reader.string()
    kind = _TYPES.get(name)
    if kind is None:  # before its size: a larger key is of another type, which is what a person can mend
        said = name[:40].decode("ascii", "backslashreplace")
        raise Untrusted(f"a public key of type {said!r} is not taken, only {TYPE_PLAIN} and {TYPE_SK}")
    if len(blob) > _BLOB_BYTES_MAX:
        raise Untrusted(f"a public key is larger than {_BLOB_BYTES_MAX} bytes")
    raw = reader.string()
    application = reader.string() if kind == TYPE_SK else b""
    reader.end()
    _check_point(raw)
    if kind == TYPE_SK:
        _check_application(application)
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    text = f"{kind} {base64.b64encode(blob).decode()}"
    return PublicKey(blob, kind, raw, application, f"SHA256:{digest}", text)


def _check_application(application: bytes) -> None:
    """Refuse what ssh-keygen would not make (PROTOCOL.u2f: an application starts with `ssh:`)."""
    printable = all(0x21 <= byte <= 0x7E for byte in application)
    if len(application) > _APPLICATION_BYTES_MAX or not printable or not application.startswith(b"ssh:"):
        raise Untrusted("a security key has an application that is not 'ssh:…'")


def _check_point(raw: bytes) -> None:
    """Refuse what is no canonical curve point of large order (RFC 8032 section 5.1.3; as libsodium verifies)."""
    if len(raw) != 32:
        raise Untrusted("an ed25519 key is not 32 bytes")
    y = int.from_bytes(raw, "little") & _Y_MASK
    if y >= _P:
        raise Untrusted("an ed25519 key is not in canonical form")
    if y in _SMALL_ORDER_Y:
        raise Untrusted("an ed25519 key is of small order")
    if not (_sums(raw) or _has_x(y)):
        raise Untrusted("an ed25519 key is not a point on the curve")


def _sums(raw: bytes) -> bool:
    """Tell whether libsodium adds this to a point, which only points can be; a build that cannot add says no.

    Nothing but speed: it affirms in a tenth of the time what `_has_x` would, and never has the last word.
    """
    try:
        nacl.bindings.crypto_core_ed25519_add(raw, _BASE_POINT)
    except nacl.exceptions.CryptoError:
        return False
    return True


def _has_x(y: int) -> bool:
    """Tell whether a y belongs to a point: x² = (y² - 1) / (d·y² + 1) must be a square, other than zero.

    u/v is one exactly when u·v is (Euler's criterion).
    """
    square = y * y % _P
    return pow((square - 1) * (_D * square + 1), (_P - 1) // 2, _P) == 1


def parse_public_key(text: str) -> PublicKey:
    """Read one `.pub` line, `type base64 [comment]`. Raises: UserError."""
    if len(text) > _LINE_CHARS_MAX:
        raise UserError(f"a public key line is longer than {_LINE_CHARS_MAX} characters")
    line = text.strip()
    if "\n" in line or "\r" in line:
        raise UserError("a public key is one line, this text has several")
    words = line.split(None, 2)
    if len(words) < 2:
        raise UserError("not a public key: expected 'ssh-ed25519 AAAA…' as in a .pub file")
    if words[0] not in {TYPE_PLAIN, TYPE_SK}:
        raise UserError(
            f"not a usable public key: {words[0][:40]!r} is neither {TYPE_PLAIN} nor {TYPE_SK};"
            " make one with 'ssh-keygen -t ed25519'"
        )
    try:
        key = _decode(base64.b64decode(words[1], validate=True))
    except (Untrusted, binascii.Error, ValueError) as error:
        raise UserError(f"not a usable public key: {error}") from error
    # One key has one text: this also refuses base64 with stray bits and a type that contradicts the blob.
    if key.text != f"{words[0]} {words[1]}":
        raise UserError("not a usable public key: its type or its base64 does not fit its content")
    return key


def verify_raw(key: PublicKey, data: bytes, signature: bytes) -> None:
    """Verify a bare 64-byte ed25519 signature over `data`. Raises: Untrusted, for sk keys always."""
    if key.type != TYPE_PLAIN:
        raise Untrusted("a security key does not make plain ed25519 signatures")
    check_ed25519(key.raw, data, signature)


def check_ed25519(raw_key: bytes, data: bytes, signature: bytes) -> None:
    """Verify ed25519 (RFC 8032) by libsodium, the only verifier in the project. Raises: Untrusted."""
    if len(signature) != 64:
        raise Untrusted("an ed25519 signature is not 64 bytes")
    try:
        nacl.bindings.crypto_sign_open(signature + data, raw_key)
    except (nacl.exceptions.CryptoError, ValueError) as error:
        raise Untrusted("the signature does not fit the key and the content") from error
