"""What the console needs of the outside, as small protocols; the only words it has for the API.

Implementations raise the errors of `nixfleet.errors` and nothing else. Nothing here knows HTTP.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from nixfleet.model.ids import Selector
from nixfleet.model.statements import Action, Verb
from nixfleet.model.views import (
    AccessView,
    Delta,
    DeviceView,
    EnrollView,
    EntryView,
    PendingView,
    ReleaseView,
    RolloutDetail,
    RolloutView,
    Snapshot,
)
from nixfleet.preview.groups import ChangePreview
from nixfleet.preview.plan import Preview
from nixfleet.rollout.asking import Order

if TYPE_CHECKING:  # the replay is loaded after the first paint
    from nixfleet.trust.replay.explain import Explanation

CheckState = Literal["checking", "valid", "behind", "fork", "invalid", "unknown"]


class Reset(msgspec.Struct, frozen=True):
    """The stream of deltas cannot go on from where it was: a new snapshot is needed."""


class OutputLines(msgspec.Struct, frozen=True, kw_only=True):
    """A device's activation output; `next` is the number of the line after the last one."""

    next: int
    lines: tuple[str, ...]


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """A past attempt of a device; `outcome` is empty while it has none."""

    rollout: str
    release: str = ""
    run: int = 1
    outcome: str = ""
    cause: str = ""
    reason: str = ""
    path: str = ""
    previous: str = ""
    at: int = 0
    lines: tuple[str, ...] = ()


class LogCheck(msgspec.Struct, frozen=True, kw_only=True):
    """How far our own replay of the log has come, and whether it holds."""

    state: CheckState = "unknown"
    size: int = 0
    root: str = ""
    detail: str = ""


class EntryProof(msgspec.Struct, frozen=True, kw_only=True):
    """An entry to the byte: payload and signature as text, and the hashes that lead to the root (hex)."""

    index: int
    payload: str
    signature: str
    hashes: tuple[str, ...] = ()
    size: int = 0
    root: str = ""


class RefusedView(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the coordinator refused: its word, unlike the log."""

    at: int
    by: str
    what: str
    why: str


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who sits here: `may` are the actions that some grant of theirs allows, `read_only` says why they may not act.

    `root`: the key is a root principal's.
    """

    principal: str = ""
    root: bool = False
    role: str = ""
    key: str = ""
    may: frozenset[Action] = frozenset()
    read_only: str = ""


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout to be signed, as its options were read; `flags` says the same on the command line.

    With `devices` (ids) it is for these alone: a release of just their lines is signed first, and it selects no tags.
    """

    release: str
    devices: tuple[str, ...] = ()
    order: Order = Order()
    flags: tuple[str, ...] = ()
    note: str = ""


class GrantWish(msgspec.Struct, frozen=True, kw_only=True):
    """A grant to be signed: `key` is the public key's line, `key_text` what was typed for it.

    Without `days` it lasts as long as one does by default.
    """

    name: str
    key: str
    key_text: str
    actions: tuple[Action, ...]
    select: Selector
    days: int | None = None
    depth: int = 0
    max_devices: int | None = None
    note: str = ""


class TokenWish(msgspec.Struct, frozen=True, kw_only=True):
    """A join token to be made."""

    tags: dict[str, str]
    uses: int
    days: int


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """What an act gave that is shown once and written down nowhere: `said` may be, `text` may not."""

    said: str
    text: str


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be revoked: a grant by its id, or a key by its fingerprint; `name` is its holder's."""

    name: str
    grant: str = ""
    key: str = ""
    ended: bool = False


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """A thing that a revocation would stop: a rollout, a release, an approval or a grant, and why."""

    kind: str
    name: str
    why: str = ""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Differences of systems, devices that change alike together, and what could not be read for them."""

    changes: tuple[ChangePreview, ...]
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """What is read."""

    async def snapshot(self) -> Snapshot:
        """Give everything a console shows. Raises: Unreachable, Refused."""
        ...

    def events(self, since: int, /) -> AsyncGenerator[Delta | Reset, None]:
        """Give the deltas after number `since` as they come; ends or raises Unreachable when the link is lost.

        As soon as anything at all comes through, it gives a delta with the number `since`, which changes nothing.
        """
        ...

    async def rollout(self, rollout: str) -> RolloutDetail:
        """Give a rollout with its members."""
        ...

    async def release(self, release: str) -> ReleaseView:
        """Give a release with its lines."""
        ...

    async def changes(self, named: Sequence[tuple[str, str, str]], /) -> Changes:
        """Compare systems, (device's name, before, after), by what caches say of them."""
        ...

    async def lines(self, device: str) -> OutputLines:
        """Give a device's activation output as far as it is kept."""
        ...

    async def history(self, device: str) -> Sequence[AttemptView]:
        """Give a device's past attempts, newest first."""
        ...

    async def refused(self) -> Sequence[RefusedView]:
        """Give what the coordinator refused, newest first."""
        ...


class Verifier(Protocol):
    """Our own verified replay of the log."""

    @property
    def check(self) -> LogCheck:
        """How the log stands now."""
        ...

    @property
    def entries(self) -> Sequence[EntryView]:
        """The entries replayed so far, by index."""
        ...

    def root_at(self, size: int) -> str:
        """Give the root (hex) that our log had at a size; nothing where it was never so large."""
        ...

    async def catch_up(self) -> LogCheck:
        """Fetch and verify what is new."""
        ...

    async def proof(self, index: int) -> EntryProof:
        """Give one entry to the byte, with its proof."""
        ...

    async def export(self, index: int) -> str:
        """Write an entry's payload and signature to files, and say where; `ssh-keygen -Y verify` accepts them."""
        ...


class Acts(Protocol):
    """What changes the fleet: each signs and submits one statement, and returns a sentence of what was done."""

    @property
    def identity(self) -> Identity:
        """Who signs."""
        ...

    def preview(self, deployment: Deployment) -> AsyncGenerator[Preview, None]:
        """Give what a deployment would do, better and better as caches are read; what is shown last is signed so.

        Raises: Refused, Untrusted, Unreachable.
        """
        ...

    def preview_roll_back(self, rollout: str, /) -> AsyncGenerator[Preview, None]:
        """Give what rolling a rollout back would do, likewise."""
        ...

    async def deploy(self, deployment: Deployment) -> str:
        """Start a rollout."""
        ...

    async def roll_back(self, rollout: str, note: str, /) -> str:
        """Bring back the devices that confirmed a rollout."""
        ...

    async def control(self, rollout: str, verb: Verb, *, wave: int | None = None, devices: Sequence[str] = ()) -> str:
        """Pause, resume, advance, retry (these `devices`, or all that failed), or cancel a rollout."""
        ...

    async def enroll(self, request: EnrollView, *, replace: bool = False) -> str:
        """Make a device that asked a member of the fleet, under the name and tags it asked for.

        With `replace` the device that has the name now is retired first.
        """
        ...

    async def enroll_many(self, requests: Sequence[EnrollView]) -> str:
        """Enrol new devices by one signature of this key: a grant for them alone, for an hour, signs the rest."""
        ...

    async def renew_key(self, request: EnrollView, name: str) -> str:
        """Give the device that is enrolled as `name` the key it asks with now."""
        ...

    async def make_token(self, wish: TokenWish) -> Secret:
        """Make a join token."""
        ...

    async def grant(self, wish: GrantWish) -> str:
        """Hand on a right."""
        ...

    async def revoke(self, subject: Subject) -> str:
        """End a grant or a key."""
        ...

    async def approve(self, digest: str) -> str:
        """Sign what another submitted, as well: an approval, or a root's co-signature."""
        ...

    async def forget_request(self, device: str) -> str:
        """Drop a device's request to be enrolled."""
        ...

    async def set_state(self, device: str, state: Literal["active", "held", "retired"], until: int | None) -> str:
        """Hold, release or retire a device."""
        ...


class Authority(Protocol):
    """Who may do what, by our own verified replay; it judges nothing itself."""

    def access(self) -> AccessView:
        """Give the root in force, the grants, and what waits for signatures."""
        ...

    def explain(self, key: str, action: Action, device: str) -> "Explanation":
        """Say whether a key (fingerprint) may act on a device (id), and by which chain."""
        ...

    def stops(self, subject: Subject, rollouts: Sequence[RolloutView]) -> Sequence[Stop]:
        """List what a revocation would stop; `rollouts` tells which are open or stand."""
        ...

    def why_not_sign(self, pending: PendingView) -> str:
        """Say why the signature of the person who sits here would not help what waits, or nothing."""
        ...

    def why_not(self, action: Action, devices: Sequence[DeviceView]) -> str:
        """Say why the person who sits here may not act on one of these devices; nothing when they may on all."""
        ...

    def touches(self, requests: Sequence[EnrollView]) -> tuple[int, str]:
        """Say how often the key of the person who sits here signs to enrol several, and why each of many."""
        ...

    def public_key(self, text: str) -> tuple[str, str]:
        """Read a public key from its line or its file: gives line and fingerprint. Raises: UserError."""
        ...


@dataclass(frozen=True)
class Ports:
    """All that stands behind a console."""

    source: Source
    acts: Acts
    verifier: Verifier
    authority: Authority


Connect = Callable[[], Awaitable[Ports]]
"""Loads and connects what stands behind the console, once the screen is painted; asked again after it failed.

Raises: the errors of `nixfleet.errors`.
"""
