"""What ssh has learned of hosts' keys, read for enrolment: the file format of sshd(8), SSH_KNOWN_HOSTS FILE FORMAT.

Pure: text in, keys out. A line that cannot be read is passed over, as ssh does, and so is a certificate authority's:
it vouches for certificates, and a device shows none. It must never take a line for a host that it does not name, nor
a key that any line revokes.
"""

import base64
import binascii
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from nixfleet.errors import UserError
from nixfleet.model.ids import Fingerprint
from nixfleet.trust.sshsig import parse_public_key

SSH_PORT: Final = 22
LINES_MAX: Final = 200_000
_HASHED: Final = "|1|"
_KEY_TYPE: Final = "ssh-ed25519"


@dataclass(frozen=True, slots=True)
class KnownHost:
    """What the lines of one host say: keys that a device can show, those revoked, and why there may be none."""

    host: str
    keys: tuple[Fingerprint, ...] = ()
    revoked: frozenset[Fingerprint] = frozenset()
    """Of all the keys that a line for this host revokes."""
    others: tuple[str, ...] = ()
    """Types of its other keys, which no device uses."""
    authority: bool = False
    """Whether a certificate authority is named for it."""


@dataclass(frozen=True, slots=True)
class _Line:
    marker: str
    hosts: str
    kind: str
    key: str


def known_host(texts: Iterable[str], host: str, port: int = SSH_PORT) -> KnownHost:
    """Gather what known_hosts files say of a host, in the order of their lines; duplicates count once."""
    asked = _asked(host, port)
    keys: dict[Fingerprint, None] = {}
    revoked: set[Fingerprint] = set()
    others: dict[str, None] = {}
    authority = False
    for line in _lines(texts):
        if not _names(line.hosts, asked):
            continue
        if line.marker == "@cert-authority":
            authority = True
            continue
        key = _fingerprint(line)
        if line.marker == "@revoked":
            revoked |= {key} if key else set()
        elif key is not None:
            keys[key] = None
        elif line.kind != _KEY_TYPE:
            others[line.kind] = None
    good = tuple(key for key in keys if key not in revoked)
    return KnownHost(asked, good, frozenset(revoked), tuple(others), authority)


def split_host(text: str) -> tuple[str, int]:
    """Read ``HOST``, ``HOST:PORT`` or ``[HOST]:PORT``. Raises: UserError."""
    host, colon, port = text.rpartition(":")
    if not colon or (host.count(":") and not host.startswith("[")):
        host, port = text, str(SSH_PORT)  # no port, or an IPv6 address alone
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536) or set(host) & set(", \t[]|*?!"):
        raise UserError(f"{text!r} is no host; write HOST or HOST:PORT, as you type it for ssh")
    return host, int(port)


def _asked(host: str, port: int) -> str:
    """Write a host as the file has it: lower case, with brackets where the port is not ssh's own."""
    host = host.lower()
    return host if port == SSH_PORT else f"[{host}]:{port}"


def _lines(texts: Iterable[str]) -> Iterable[_Line]:
    for text in texts:
        for line in text.splitlines()[:LINES_MAX]:
            words = line.split()
            marker = words.pop(0) if words and words[0].startswith("@") else ""
            known = marker in {"", "@revoked", "@cert-authority"}
            if known and len(words) >= 3 and not words[0].startswith("#"):
                yield _Line(marker, *words[:3])


def _names(hosts: str, asked: str) -> bool:
    """Tell whether a line's first field names a host; a pattern with ``!`` that matches excludes it."""
    if hosts.startswith(_HASHED):
        return _hashed(hosts, asked)
    patterns: Sequence[str] = hosts.lower().split(",")
    if any(one.startswith("!") and _matches(one[1:], asked) for one in patterns):
        return False
    return any(_matches(one, asked) for one in patterns if not one.startswith("!"))


def _matches(pattern: str, asked: str) -> bool:
    # Only * and ? are special there: fnmatch's brackets, which ports have too, are taken literally.
    return fnmatchcase(asked, pattern.replace("[", "[[]"))


def _hashed(field: str, asked: str) -> bool:
    """Compare a hashed name: base64 of a salt and of HMAC-SHA1 over the host's name with it (ssh_config(5))."""
    salt, bar, digest = field.removeprefix(_HASHED).partition("|")
    try:
        wanted = base64.b64decode(digest, validate=True)
        made = hmac.digest(base64.b64decode(salt, validate=True), asked.encode(), "sha1")
    except (binascii.Error, ValueError):
        return False
    return bool(bar) and hmac.compare_digest(made, wanted)


def _fingerprint(line: _Line) -> Fingerprint | None:
    """Give the fingerprint of a key of the one type that devices have, None for any other and for a broken one."""
    if line.kind != _KEY_TYPE:
        return None
    try:
        return Fingerprint(parse_public_key(f"{line.kind} {line.key}").fingerprint)
    except UserError:
        return None
