"""A log entry's leaf: u64 log time ‖ SHA-512(payload) ‖ SSHSIG, at most 1 KiB; it must never judge a signature.

The namespace inside the signature tells type and subject without the payload (trust.md, Envelope), so that an
agent can judge a leaf whose payload it does not need.
"""

import hashlib
import re
import struct
from typing import Final, Literal, NamedTuple, Self

from nixfleet.errors import Untrusted
from nixfleet.model.ids import MAX_INT, MAX_LEAF_BYTES

LeafType = Literal["root", "grant", "revoke", "device", "release", "rollout", "control", "approve"]

_HEAD: Final = struct.Struct(">Q64s")
_NAMESPACE: Final = re.compile(
    r"nixfleet-(?:(root|grant|revoke|release|rollout|approve)-v1|(device|control)-v1@([0-9a-f]{32}))", re.ASCII
)


class Leaf(NamedTuple):
    """A log time (unix seconds, set by the coordinator), the payload's 64-byte SHA-512 and the signature blob."""

    log_time: int
    sha512: bytes
    sshsig: bytes

    def pack(self) -> bytes:
        """Return the leaf's exact bytes. Raises: Untrusted when they are more than 1 KiB."""
        if len(self.sha512) != 64 or not 0 <= self.log_time <= MAX_INT:
            raise Untrusted("a leaf has a malformed digest or log time")
        data = _HEAD.pack(self.log_time, self.sha512) + self.sshsig
        if len(data) > MAX_LEAF_BYTES:
            raise Untrusted(f"a leaf is larger than {MAX_LEAF_BYTES} bytes")
        return data

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Split a leaf's bytes; the signature is judged elsewhere. Raises: Untrusted when it is no leaf."""
        if not _HEAD.size < len(data) <= MAX_LEAF_BYTES:
            raise Untrusted(f"a leaf has {len(data)} bytes, not {_HEAD.size + 1} to {MAX_LEAF_BYTES}")
        log_time, sha512 = _HEAD.unpack_from(data)
        if log_time > MAX_INT:
            raise Untrusted("a leaf's log time is out of range")
        return cls(log_time, sha512, data[_HEAD.size :])


def holds(leaf: bytes, payload: bytes) -> bool:
    """Tell whether a payload is the one that a leaf's bytes name; a leaf that is malformed may name none."""
    return hashlib.sha512(payload).digest() == leaf[8 : _HEAD.size]


class Subject(NamedTuple):
    """What a signature's namespace tells: the type, and a device id or 32 digits of a rollout's digest, or empty."""

    type: LeafType
    id: str


def subject_of(namespace: str) -> Subject | None:
    """Read a namespace, None for one that no statement has."""
    match = _NAMESPACE.fullmatch(namespace)
    if match is None:
        return None
    return Subject(match[1] or match[2], match[3] or "")  # type: ignore[arg-type]  # the pattern lists LeafType


def type_of(namespace: str) -> LeafType:
    """Return the statement type that a namespace names. Raises: Untrusted for a foreign namespace."""
    subject = subject_of(namespace)
    if subject is None:
        raise Untrusted(f"{namespace!r} is not the namespace of a statement")
    return subject.type
