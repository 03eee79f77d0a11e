"""What Nix signs and what we sign of it: hashes, store paths, narinfos, cache keys, the closure digest.

Formats are those of the Nix manual (store path specification, binary cache narinfo). A cache signature never
stands for intent: the same path with other content can carry one. Only the closure digest does.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Self

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.ids import MAX_INT, STORE_PATH
from nixfleet.trust.sshkeys import check_ed25519
from nixfleet.trust.sshsig import SecretKey

STORE_DIR: Final = "/nix/store"
NARINFO_BYTES_MAX: Final = 4 << 20
REFERENCES_MAX: Final = 20_000
_SIGNATURES_MAX: Final = 100
_FIELD_CHARS_MAX: Final = 1024

_ALPHABET: Final = "0123456789abcdfghijklmnpqrsvwxyz"  # no e, o, t, u
_DIGITS: Final = {char: value for value, char in enumerate(_ALPHABET)}
_STORE_PATH: Final = re.compile(STORE_PATH)
_HASH: Final = re.compile(f"sha256:[{_ALPHABET}]{{52}}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
_KEY_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SIGNATURE: Final = re.compile(r"[!-9;-~]{1,256}:[A-Za-z0-9+/]{86}==")
_PLAIN: Final = re.compile(f"[!-~]{{1,{_FIELD_CHARS_MAX}}}")
_COMPRESSION: Final = re.compile(r"[a-z0-9]{1,16}")
_SINGLE: Final = frozenset(
    {"StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "Deriver", "CA"}
)


def base32_encode(data: bytes) -> str:
    """Write bytes in Nix's base32: least significant digit last, over the little-endian number."""
    number = int.from_bytes(data, "little")
    count = (len(data) * 8 + 4) // 5
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(count)))


def base32_decode(text: str) -> bytes:
    """Read Nix's base32. Raises: UserError for a foreign character, or a text that no bytes encode to."""
    number = 0
    for char in text:
        digit = _DIGITS.get(char)
        if digit is None:
            raise UserError(f"not Nix base32: {char!r}")
        number = number << 5 | digit
    count = len(text) * 5 // 8
    if number >> 8 * count or (count * 8 + 4) // 5 != len(text):
        raise UserError("not Nix base32: no bytes encode to it")
    return number.to_bytes(count, "little")


def to_base32_hash(text: str) -> str:
    """Return a SHA-256 as `sha256:` and 52 characters, from base32, hex, base64 or SRI form. Raises: UserError."""
    if _HASH.fullmatch(text):
        base32_decode(text[7:])
        return text
    digest = b""
    if text.startswith(("sha256:", "sha256-")):
        try:
            hexadecimal = text[6] == ":" and len(text) == 7 + 64
            digest = bytes.fromhex(text[7:]) if hexadecimal else base64.b64decode(text[7:], validate=True)
        except (binascii.Error, ValueError):
            digest = b""
    if len(digest) != 32:
        raise UserError(f"not a SHA-256 hash: {text[:100]!r}")
    return f"sha256:{base32_encode(digest)}"


def check_store_path(text: str) -> str:
    """Return `text` if it is a path directly in /nix/store, of Nix's characters and length. Raises: UserError."""
    if not _STORE_PATH.match(text):
        raise UserError(f"not a store path (/nix/store/HASH-NAME): {text[:300]!r}")
    return text


def hash_part(path: str) -> str:
    """Return the 32 characters after /nix/store/, which name a path's narinfo. Raises: UserError."""
    return check_store_path(path)[len(STORE_DIR) + 1 :][:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class NarInfo:
    """What a binary cache says of one store path; paths are full ones, hashes `sha256:` and base32."""

    store_path: str
    url: str
    """Of the file, relative to the cache."""
    compression: str
    file_hash: str
    file_bytes: int
    nar_hash: str
    nar_bytes: int
    references: tuple[str, ...]
    deriver: str | None = None
    signatures: tuple[str, ...] = ()
    """Each `name:base64`."""
    ca: str | None = None


def parse_narinfo(text: str, *, bound: int = NARINFO_BYTES_MAX) -> NarInfo:
    """Parse a narinfo of at most `bound` bytes; proves nothing yet. Raises: Untrusted."""
    if len(text.encode(errors="replace")) > bound:
        raise Untrusted(f"a narinfo is larger than {bound} bytes")
    said, signatures = _fields(text)
    try:
        info = _build(said, signatures)
        _check(info)
    except UserError as error:
        raise Untrusted(f"a narinfo is malformed: {error}") from error
    return info


def _fields(text: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Split `Key: value` lines; keys that we do not know are skipped, as Nix does: no signature covers them."""
    said: dict[str, str] = {}
    signatures: list[str] = []
    for line in text.removesuffix("\n").split("\n"):
        key, divider, value = line.partition(":")
        if not divider or not line.isascii() or not line.isprintable():
            raise Untrusted("a narinfo is malformed: a line is not 'Key: value'")
        value = value.strip(" ")
        if key == "Sig":
            signatures.append(value)
        elif key in _SINGLE and key in said:
            raise Untrusted(f"a narinfo is malformed: {key} stands twice")
        elif key in _SINGLE:
            said[key] = value
    return said, tuple(signatures)


def _build(said: dict[str, str], signatures: tuple[str, ...]) -> NarInfo:
    missing = {"StorePath", "URL", "NarHash", "NarSize"} - said.keys()
    if missing:
        raise UserError(f"it lacks {', '.join(sorted(missing))}")
    compression = said.get("Compression", "bzip2")  # Nix's default since before the field existed
    if compression == "none":
        # Servers that send plain NARs leave out what is the same as the NAR's own.
        said = {"FileHash": said["NarHash"], "FileSize": said["NarSize"], **said}
    if not {"FileHash", "FileSize"} <= said.keys():
        raise UserError("it lacks FileHash or FileSize")
    deriver = said.get("Deriver")
    return NarInfo(
        store_path=said["StorePath"],
        url=said["URL"],
        compression=compression,
        file_hash=to_base32_hash(said["FileHash"]),
        file_bytes=_number(said["FileSize"]),
        nar_hash=to_base32_hash(said["NarHash"]),
        nar_bytes=_number(said["NarSize"]),
        references=tuple(f"{STORE_DIR}/{name}" for name in said.get("References", "").split()),
        deriver=None if deriver in {None, "", "unknown-deriver"} else f"{STORE_DIR}/{deriver}",
        signatures=signatures,
        ca=said.get("CA") or None,
    )


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise UserError(f"not a size in bytes: {text[:40]!r}")
    return int(text)


def _check(info: NarInfo) -> None:
    """Refuse what no cache should say, and what would break out of its line when written."""
    check_store_path(info.store_path)
    if len(info.references) > REFERENCES_MAX or len(info.signatures) > _SIGNATURES_MAX:
        raise UserError(f"more than {REFERENCES_MAX} references or {_SIGNATURES_MAX} signatures")
    for path in (*info.references, *([info.deriver] if info.deriver else [])):
        check_store_path(path)
    if not _PLAIN.fullmatch(info.url) or ".." in info.url.split("/") or info.url.startswith("/"):
        raise UserError(f"not a file's address in a cache: {info.url[:100]!r}")
    if not _COMPRESSION.fullmatch(info.compression):
        raise UserError(f"not a compression: {info.compression[:40]!r}")
    if not (_HASH.fullmatch(info.file_hash) and _HASH.fullmatch(info.nar_hash)):
        raise UserError("a hash is not sha256 in base32")
    if not (0 <= info.file_bytes <= MAX_INT and 0 < info.nar_bytes <= MAX_INT):
        raise UserError("a size is out of range")
    if info.ca is not None and not _PLAIN.fullmatch(info.ca):
        raise UserError("a malformed content address")
    if not all(_SIGNATURE.fullmatch(signature) for signature in info.signatures):
        raise UserError("a malformed signature")


def format_narinfo(info: NarInfo) -> str:
    """Write a narinfo as Nix does. Raises: UserError where a field is malformed."""
    _check(info)
    names = [path.removeprefix(f"{STORE_DIR}/") for path in sorted(set(info.references))]
    lines = [
        f"StorePath: {info.store_path}",
        f"URL: {info.url}",
        f"Compression: {info.compression}",
        f"FileHash: {info.file_hash}",
        f"FileSize: {info.file_bytes}",
        f"NarHash: {info.nar_hash}",
        f"NarSize: {info.nar_bytes}",
        f"References: {' '.join(names)}",
    ]
    if info.deriver is not None:
        lines.append(f"Deriver: {info.deriver.removeprefix(f'{STORE_DIR}/')}")
    lines += [f"Sig: {signature}" for signature in info.signatures]
    if info.ca is not None:
        lines.append(f"CA: {info.ca}")
    return "\n".join([*lines, ""])


def fingerprint(info: NarInfo) -> str:
    """Return what a cache key signs: `1;path;narHash;narSize;references` (Nix manual, signing of store objects)."""
    references = ",".join(sorted(set(info.references)))
    return f"1;{info.store_path};{info.nar_hash};{info.nar_bytes};{references}"


def verify_narinfo(info: NarInfo, public_keys: Iterable[str]) -> str | None:
    """Return the name of the first key with a good signature, or None. Raises: UserError for a malformed key."""
    keys = [_public_key(text) for text in public_keys]
    data = fingerprint(info).encode()
    for signature in info.signatures:
        signer, _, encoded = signature.partition(":")
        for name, raw in keys:
            if name == signer and _holds(raw, data, encoded):
                return name
    return None


def _holds(raw: bytes, data: bytes, encoded: str) -> bool:
    try:
        check_ed25519(raw, data, base64.b64decode(encoded, validate=True))
    except (Untrusted, binascii.Error, ValueError):
        return False
    return True


def _public_key(text: str) -> tuple[str, bytes]:
    name, raw = _split_key(text, "public key")
    if len(raw) != 32:
        raise UserError("not a cache public key: expected NAME:BASE64 of 32 bytes")
    return name, raw


def _split_key(text: str, what: str) -> tuple[str, bytes]:
    """Split `name:base64`; an error never shows what may be a secret."""
    name, _, encoded = text.strip().partition(":")
    if len(text) > _FIELD_CHARS_MAX or not _KEY_NAME.fullmatch(name):
        raise UserError(f"not a cache {what}: expected NAME:BASE64")
    try:
        return name, base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"not a cache {what}: its base64 is malformed") from None


@dataclass(frozen=True, slots=True)
class CacheKey:
    """A cache's secret signing key; its repr shows the name only."""

    name: str
    secret: SecretKey = field(repr=False)

    @classmethod
    def generate(cls, name: str) -> Self:
        """Make a key. Raises: UserError unless the name is 1 to 64 of A-Z a-z 0-9 . _ -."""
        if not _KEY_NAME.fullmatch(name):
            raise UserError(f"not a name for a cache key: {name[:100]!r}")
        return cls(name, SecretKey.generate())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `nix-store --generate-binary-cache-key` writes: name and base64 of seed ‖ public key."""
        name, raw = _split_key(text, "secret key")
        if len(raw) != 64:
            raise UserError("not a cache secret key: expected NAME:BASE64 of 64 bytes")
        secret = SecretKey.from_seed(raw[:32])
        if secret.public.raw != raw[32:]:
            raise UserError("not a cache secret key: its two halves do not belong together")
        return cls(name, secret)

    @property
    def text(self) -> str:
        """The key as Nix reads it; secret."""
        return f"{self.name}:{base64.b64encode(self.secret.seed + self.secret.public.raw).decode()}"

    @property
    def public(self) -> str:
        """The public half, as in Nix's `trusted-public-keys`."""
        return f"{self.name}:{base64.b64encode(self.secret.public.raw).decode()}"

    def sign(self, fingerprint: str) -> str:
        """Sign a fingerprint; returns `name:base64`."""
        return f"{self.name}:{base64.b64encode(self.secret.sign_raw(fingerprint.encode())).decode()}"

    def signed(self, info: NarInfo) -> NarInfo:
        """Return the narinfo with this key's signature added."""
        signature = self.sign(fingerprint(info))
        return replace(info, signatures=tuple(dict.fromkeys((*info.signatures, signature))))


@dataclass(frozen=True, slots=True)
class ClosureLine:
    """One path of a closure; `nar_hash` in any form that `to_base32_hash` reads."""

    path: str
    nar_hash: str
    nar_bytes: int


def closure_digest(lines: Iterable[ClosureLine]) -> str:
    """Return the hex SHA-256 over the sorted lines `path narHash narSize` of a whole closure (trust.md).

    Raises: UserError for an empty closure, a path named twice, or a malformed line.
    """
    written: dict[str, bytes] = {}
    for line in lines:
        path = check_store_path(line.path)
        if path in written:
            raise UserError(f"the closure names {path} twice")
        if not 0 < line.nar_bytes <= MAX_INT:
            raise UserError(f"the size of {path} is out of range: {line.nar_bytes}")
        written[path] = f"{path} {to_base32_hash(line.nar_hash)} {line.nar_bytes}\n".encode()
    if not written:
        raise UserError("a closure has at least one path")
    return hashlib.sha256(b"".join(sorted(written.values()))).hexdigest()
