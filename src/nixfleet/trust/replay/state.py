"""What a replay has learned so far: one accumulator and the immutable records in it; no rules, no IO, no clock.

A `State` is owned by whoever folds over it: `replay` changes it in place. Records are never changed, only
replaced, so a `copy` shares them.
"""

import copy
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import msgspec

from nixfleet.model.ids import Digest, Fingerprint, FleetId
from nixfleet.model.statements import Control, Device, Grant, Release, Rollout, Root, Statement
from nixfleet.trust import fields
from nixfleet.trust.leaf import LeafType
from nixfleet.trust.merkle import Tree


class Valid(msgspec.Struct, frozen=True):
    """The leaf took effect; `statement` is None for an approval whose payload is not held."""

    statement: Statement | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Well signed and authorised, but co-signatures or approvals are missing: without effect so far."""

    statement: Statement | None
    reason: str


@dataclass(frozen=True, slots=True)
class Void:
    """The leaf has no effect, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Not judged: the payload is not held, or the replay has stopped; `needed`: nothing may start before it is."""

    needed: bool = False


Verdict = Valid | Waiting | Void | Unknown


Mark = tuple[bytes, Literal["states", "approves", "owns"], Fingerprint]
"""Which payload somebody has signed as what: small, since thousands are kept, and its parts are shared."""


class Place(msgspec.Struct, frozen=True):
    """Where a leaf stands and who signed it."""

    index: int
    log_time: int
    signer: Fingerprint
    sha512: bytes


@dataclass(frozen=True, slots=True)
class GrantRecord:
    """A grant in force when it was made; `links` are the grants from the root down to itself."""

    place: Place
    statement: Grant
    principal: str
    links: tuple[Grant, ...]


class DeviceRecord(msgspec.Struct, frozen=True):
    """A device by its newest statement."""

    place: Place
    statement: Device
    key: Fingerprint
    enrolled_at: int
    """Log time of version 1."""


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """A release as submitted; its signer's right is judged again at use."""

    digest: Digest
    place: Place
    statement: Release


@dataclass(frozen=True, slots=True)
class Withheld:
    """A release leaf whose payload is not held: what its judgement needs, as of its index."""

    place: Place
    root: Root


@dataclass(frozen=True, slots=True)
class ControlRecord:
    """A control leaf that may act on its rollout; `statement` is None while its payload is not held."""

    place: Place
    statement: Control | None
    note_required: bool


@dataclass(frozen=True, slots=True)
class RolloutState:
    """A rollout and the controls replayed on it; its signer's right is judged again at use."""

    digest: Digest
    place: Place
    statement: Rollout
    controls: int = 0
    """Controls in effect: the next one's `seq` is one more."""
    paused: bool = False
    cancelled: bool = False
    resumed: int = 0
    advanced: frozenset[int] = frozenset()
    """Waves, numbered from 1, whose signed gate is open."""
    retries: tuple[tuple[int, Literal["failed"] | frozenset[str]], ...] = ()
    """Index and subjects of every retry."""
    unread: tuple[ControlRecord, ...] = ()
    """Controls from the first one without a payload on, in the order of their effect."""

    @property
    def index(self) -> int:
        """The submitting index, by which rollouts are ordered."""
        return self.place.index

    def runs(self, device: str) -> int:
        """Return how many tries a device is wanted to have had: 1 + the retries that name it or say `failed`.

        A device that has confirmed this rollout has nothing to retry: that is its own knowledge, not the log's.
        """
        return 1 + sum(devices == "failed" or device in devices for _, devices in self.retries)

    def names(self, rollouts: Mapping[Digest, "RolloutState"]) -> Digest | None:
        """Return the release that must be known to judge this rollout: its own, or of the one it takes back."""
        of = self.statement.of
        named = self.statement.release if of is None else rollouts[Digest(of)].statement.release
        return Digest(named) if named is not None else None

    def wave_open(self, wave: int) -> bool:
        """Tell whether signatures open a wave (from 1): every signed gate up to it has its ``advance``."""
        gates = enumerate(self.statement.waves[:wave], start=1)
        return all(step.gate == "auto" or number in self.advanced for number, step in gates)


@dataclass(frozen=True, slots=True)
class Pending:
    """A statement that waits for co-signatures or approvals; judged again at each of them."""

    place: Place
    statement: Statement | None
    type: LeafType
    subject: str
    waits: str
    """What it waited for when it was last judged."""
    digest: Digest | None
    """None while its payload is not held."""


@dataclass(frozen=True, slots=True)
class Approval:
    """A further signature over a payload."""

    index: int
    log_time: int
    signer: Fingerprint


@dataclass(slots=True)
class State:
    """All that a log prefix says; `fleet` is pinned before the first leaf."""

    fleet: FleetId
    own: str | None = None
    """The device that replays: it needs the payload of each of its own statements. None: an admin, a coordinator."""
    tree: Tree = field(default_factory=Tree)
    last_time: int = 0
    """Log time of the newest root, grant, revoke or rollout that was not void: the clock of the replay."""
    root: Root | None = None
    root_keys: dict[Fingerprint, str] = field(default_factory=dict)
    """Keys of the root in force, to their principal's name."""
    genesis: Root | None = None
    log_keys: tuple[tuple[int, str, int], ...] = ()
    """Log keys in the order of their coming: the size from which one signs, its text, its epoch."""
    grants: dict[str, GrantRecord] = field(default_factory=dict)
    grants_of: dict[Fingerprint, tuple[GrantRecord, ...]] = field(default_factory=dict)
    revoked_grants: dict[str, int] = field(default_factory=dict)
    revoked_keys: dict[Fingerprint, int] = field(default_factory=dict)
    devices: dict[str, DeviceRecord] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of unretired devices to their ids; more than one is a conflict for people to solve."""
    device_keys: dict[Fingerprint, str] = field(default_factory=dict)
    """Keys of unretired devices to their ids."""
    uses: dict[tuple[Fingerprint, str], int] = field(default_factory=dict)
    """Device ids claimed by the key of a counted grant, numbered from 1."""
    use_counts: dict[Fingerprint, int] = field(default_factory=dict)
    releases: dict[Digest, ReleaseRecord] = field(default_factory=dict)
    release_of: dict[bytes, Digest] = field(default_factory=dict)
    """SHA-512 of a release's payload, as its leaf has it, to its digest."""
    withheld: dict[Mark, Withheld] = field(default_factory=dict)
    """Releases whose payload is not held, by `mark_of`."""
    rollouts: dict[Digest, RolloutState] = field(default_factory=dict)
    """In the order of their indexes."""
    prefixes: dict[str, Digest] = field(default_factory=dict)
    """The first 32 digits of a rollout's digest to the digest."""
    pending: dict[bytes, tuple[Pending, ...]] = field(default_factory=dict)
    """What waits for signatures, by its payload's SHA-512: one, and copies of it that are void, while nobody can tell.
    """
    completed: dict[int, int] = field(default_factory=dict)
    """Entries that waited and took effect, to the entry that completed them: to tell of it, not to judge by."""
    approvals: dict[bytes, tuple[Approval, ...]] = field(default_factory=dict)
    recent: dict[bytes | Mark, int] = field(default_factory=dict)
    """Marks of what may not come again within the base window, and the SHA-512 of its payloads, to its index."""
    order: deque[tuple[int, Mark, bytes | None]] = field(default_factory=deque)
    """What each leaf has put there: its mark, and its payload's SHA-512 where that counts for everybody."""
    blind_at: int | None = None
    """The first entry whose payload is needed and not held: nothing after it is judged."""
    stopped_at: int | None = None
    """The root that raised the protocol above this software's: nothing after it is judged."""

    @property
    def size(self) -> int:
        """How many leaves were replayed."""
        return self.tree.size

    @property
    def log_root(self) -> Root | None:
        """The root whose log key signs: the one in force, or a first one that still waits for co-signatures."""
        return self.root or self.genesis

    def copy(self) -> Self:
        """Return an independent state; records are shared."""
        return replace(
            self,
            **{
                name: copy.copy(getattr(self, name))
                for name in self.__slots__
                if isinstance(getattr(self, name), dict | deque)
            },
            tree=copy.deepcopy(self.tree),
        )

    def named(self, name: str) -> tuple[str, ...]:
        """Return the ids of the unretired devices with this name; a claim on a taken name must become pending."""
        return self.names.get(name, ())

    def await_signatures(self, sha512: bytes, waiting: Iterable[Pending]) -> None:
        """Set what waits for signatures over a payload."""
        self.pending[sha512] = tuple(waiting)
        if not self.pending[sha512]:
            del self.pending[sha512]

    def device_of(self, key: Fingerprint) -> str | None:
        """Return the unretired device that has this key, None when it has none."""
        return self.device_keys.get(key)


def mark_of(sha512: bytes, signer: Fingerprint, *, approves: bool) -> Mark:
    """Make the key in `State.recent` by which a repeat of a statement, or of an approval of it, is known."""
    return sha512, "approves" if approves else "states", signer


def own_mark_of(sha512: bytes, signer: Fingerprint) -> Mark:
    """Make that key for what a device has signed by its own key alone, apart from all others' statements."""
    return sha512, "owns", signer


def keys_of(root: Root) -> dict[Fingerprint, str]:
    """Map a root's keys to their principals' names."""
    return {fields.fingerprint(key): principal.name for principal in root.principals for key in principal.keys}
