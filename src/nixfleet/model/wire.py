"""Bodies of the HTTP API (docs/protocol.md); bytes travel as base64 (msgspec's default for ``bytes``)."""

from typing import Annotated, Literal

import msgspec

from nixfleet.model.ids import MAX_NOTE_BYTES, Count, Hex64, StorePath

Bytes64K = Annotated[bytes, msgspec.Meta(max_length=65_536)]
UPLOAD_CHUNK_BYTES = 8 << 20
"""What one request of an upload to the built-in cache carries at most."""
Leaf = Annotated[bytes, msgspec.Meta(max_length=1_024)]


class _Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request or response body."""


class Signed(_Body, frozen=True, kw_only=True):
    """A payload and the SSHSIG blob over it."""

    payload: Bytes64K
    signature: Annotated[bytes, msgspec.Meta(max_length=952)]


class ReportAnswer(_Body, frozen=True, kw_only=True):
    """What became of a report: taken, or dropped, for `seq` is held of this device, which is not below its own."""

    seq: Count | None = None


class Submission(_Body, frozen=True, kw_only=True):
    """A statement to append; `lines` are a release's target lines, in order, as exact text."""

    payload: Bytes64K
    signature: Annotated[bytes, msgspec.Meta(max_length=952)]
    lines: Annotated[tuple[str, ...], msgspec.Meta(max_length=100_000)] = ()
    proof: Signed | None = None
    """The enrolment request by which the key that a device statement names asks to be that device's."""


class AppendRequest(_Body, frozen=True, kw_only=True):
    """Statements to append in order, all or none; `size` (if given) must be the log's size: compare-and-set."""

    statements: Annotated[tuple[Submission, ...], msgspec.Meta(min_length=1, max_length=1_000)]
    size: Count | None = None


class AppendResponse(_Body, frozen=True, kw_only=True):
    """Where the statements stand in the log, and the checkpoint that covers them."""

    indexes: tuple[int, ...]
    checkpoint: bytes


class Entry(_Body, frozen=True, kw_only=True):
    """A log entry; the payload is left out where the reader neither needs nor may see it."""

    leaf: Leaf
    payload: Bytes64K | None = None


class Entries(_Body, frozen=True, kw_only=True):
    """Consecutive entries from index `start`."""

    start: Count
    entries: tuple[Entry, ...]


class Proof(_Body, frozen=True, kw_only=True):
    """An RFC 6962 proof: hashes from the leaf's side up."""

    hashes: tuple[bytes, ...]


class HeldPayload(_Body, frozen=True, kw_only=True):
    """The payload of the entry at an index."""

    index: Count
    payload: Bytes64K


class HeldLines(_Body, frozen=True, kw_only=True):
    """A release's target lines, in order, as exact text; they stand in no log."""

    release: Hex64
    lines: Annotated[tuple[str, ...], msgspec.Meta(max_length=100_000)]


class Offer(_Body, frozen=True, kw_only=True):
    """Entries given back to a coordinator that runs an old backup.

    `checkpoint` is one that it signed itself, `entries` are those from `start` on (none: it is only asked what it
    lacks), and `proof` shows that the log up to their end is a beginning of the checkpoint's.
    """

    checkpoint: Annotated[bytes, msgspec.Meta(max_length=MAX_NOTE_BYTES)]
    start: Count
    entries: Annotated[tuple[Entry, ...], msgspec.Meta(max_length=1_000)] = ()
    proof: Annotated[tuple[Annotated[bytes, msgspec.Meta(max_length=32)], ...], msgspec.Meta(max_length=64)] = ()
    payloads: Annotated[tuple[HeldPayload, ...], msgspec.Meta(max_length=1_000)] = ()
    lines: Annotated[tuple[HeldLines, ...], msgspec.Meta(max_length=1_000)] = ()


class OfferAnswer(_Body, frozen=True, kw_only=True):
    """How many entries the coordinator has by now, of how many, and of which it lacks the payload (the first 1,000).

    `goal` 0: it lacks nothing that this checkpoint could show. `lines` are releases whose device lines it lacks.
    """

    size: Count
    goal: Count = 0
    lacks: Annotated[tuple[Count, ...], msgspec.Meta(max_length=1_000)] = ()
    lines: Annotated[tuple[Hex64, ...], msgspec.Meta(max_length=1_000)] = ()


class Sync(_Body, frozen=True, kw_only=True):
    """What wakes an agent: a checkpoint, the entries from `start` on, and the open gates for this device.

    `more`: the entries stop short of the checkpoint; ask again from their end.
    `ask`: the coordinator would like a fresh report (a soak is about to end, or the record is old).
    """

    checkpoint: bytes
    start: Count
    entries: tuple[Entry, ...]
    gates: tuple[bytes, ...] = ()
    more: bool = False
    ask: bool = False
    server_time: int = 0


class LineProof(_Body, frozen=True, kw_only=True):
    """A device's target line, as exact text, with its place and inclusion proof under the release's root."""

    line: str
    index: Count
    size: Count
    hashes: tuple[bytes, ...]


class LineAbsence(_Body, frozen=True, kw_only=True):
    """The neighbouring lines between which a device's own would stand: one only at an end, never none."""

    left: LineProof | None = None
    right: LineProof | None = None


class LineAnswer(_Body, frozen=True, kw_only=True):
    """Either a device's own line or the proof that the release has none for it; never neither."""

    line: LineProof | None = None
    absence: LineAbsence | None = None


class Missing(_Body, frozen=True, kw_only=True):
    """Store paths of a closure (request), or those of them that the built-in cache lacks (response)."""

    paths: Annotated[tuple[StorePath, ...], msgspec.Meta(max_length=200_000)]


class UploadState(_Body, frozen=True, kw_only=True):
    """How many bytes of a compressed NAR the coordinator holds."""

    offset: Count


class CachePath(_Body, frozen=True, kw_only=True):
    """The end of an upload: what the NAR must unpack to."""

    store_path: StorePath
    nar_hash: Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-z]{52}$(?!\n)")]
    nar_bytes: Count
    references: Annotated[tuple[StorePath, ...], msgspec.Meta(max_length=20_000)]
    deriver: str | None = None


ErrorKind = Literal[
    "user",
    "untrusted",
    "skewed",
    "foreign",
    "refused",
    "unknown",
    "conflict",
    "bound",
    "busy",
    "unavailable",
    "internal",
]
"""Who must act on a refusal (docs/protocol.md); `internal`: whoever mends the program."""


class ErrorBody(_Body, frozen=True, kw_only=True):
    """Every refusal: one sentence, the class of who must act, and the server's time for skewed clocks."""

    error: str
    kind: str
    """An `ErrorKind`, or one that a newer coordinator knows."""
    server_time: int = 0
