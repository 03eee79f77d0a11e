"""The signed statements as frozen structs; strict parsing of their bytes is `trust.statements`, never here."""

from typing import Annotated, Literal

import msgspec

from nixfleet.model.ids import (
    CACHE_KEY,
    CACHE_URL,
    SYSTEM,
    URL,
    Count,
    FingerprintText,
    Hex32,
    Hex64,
    KeyText,
    Name,
    PrincipalName,
    Seconds,
    Selector,
    StorePath,
    Tags,
    Text,
)


class Wire(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Signed content: nothing unknown, nothing implied; frozen, so never part of a cycle (`gc`)."""


class LogState(Wire, frozen=True, kw_only=True):
    """A log prefix: its number of entries and the RFC 6962 root over them."""

    size: Count
    root: Hex64


class Principal(Wire, frozen=True, kw_only=True):
    """A person or a CI, with their keys."""

    name: PrincipalName
    keys: Annotated[tuple[KeyText, ...], msgspec.Meta(min_length=1, max_length=16)]


class CacheRef(Wire, frozen=True, kw_only=True):
    """A binary cache and the key that signs it; ``/cache`` is the coordinator's built-in one."""

    url: Annotated[str, msgspec.Meta(pattern=CACHE_URL)]
    key: Annotated[str, msgspec.Meta(pattern=CACHE_KEY)]


class LogKey(Wire, frozen=True, kw_only=True):
    """The key that signs checkpoints and gates, and the log's epoch; `from_` is where a lost log is taken up."""

    key: KeyText
    epoch: Count
    from_: LogState | None = msgspec.field(default=None, name="from")


Action = Literal["release", "deploy", "rollback", "control", "approve", "enroll", "device", "grant", "revoke"]
GRANT_DAYS = 365
"""How long a grant lasts unless told otherwise; one that is handed on never longer than what it is from."""
ACTIONS: tuple[Action, ...] = (
    "release",
    "deploy",
    "rollback",
    "control",
    "approve",
    "enroll",
    "device",
    "grant",
    "revoke",
)


class Rule(Wire, frozen=True, kw_only=True):
    """What acts on selected devices need beyond a right."""

    select: Selector
    actions: tuple[Action, ...]
    approvals: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    note_required: bool = False
    max_in_flight: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    min_soak_s: Seconds = 0


class Header(Wire, frozen=True, kw_only=True):
    """What every payload starts with; `by` is the signer's fingerprint, `base` the log state it had replayed."""

    v: Annotated[int, msgspec.Meta(ge=1, le=1_000)]
    fleet: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$(?!\n)")]
    by: FingerprintText
    at: Seconds
    base: LogState
    note: Text | None = None


class Root(Header, frozen=True, kw_only=True, tag_field="type", tag="root"):
    """Who is at the root, how the log is signed, where the coordinator is, which caches and rules hold."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    protocol: Annotated[int, msgspec.Meta(ge=1, le=1_000)]
    urls: Annotated[tuple[Annotated[str, msgspec.Meta(pattern=URL)], ...], msgspec.Meta(min_length=1, max_length=8)]
    principals: Annotated[tuple[Principal, ...], msgspec.Meta(min_length=1, max_length=64)]
    threshold: Annotated[int, msgspec.Meta(ge=1, le=64)]
    log: LogKey
    caches: Annotated[tuple[CacheRef, ...], msgspec.Meta(max_length=16)] = ()
    rules: Annotated[tuple[Rule, ...], msgspec.Meta(max_length=64)] = ()


class Grant(Header, frozen=True, kw_only=True, tag_field="type", tag="grant"):
    """A capability: who may do which actions to which devices, until when, within which limits."""

    id: Hex32
    parent: Hex32 | None
    to: Principal
    actions: Annotated[tuple[Action, ...], msgspec.Meta(max_length=9)]
    select: Selector
    not_before: Seconds
    not_after: Seconds
    depth: Annotated[int, msgspec.Meta(ge=0, le=8)] = 0
    max_devices: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    max_uses: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None


class RevokeSubject(Wire, frozen=True, kw_only=True):
    """Exactly one of a grant's id or a key's fingerprint."""

    grant: Hex32 | None = None
    key: FingerprintText | None = None


class Revoke(Header, frozen=True, kw_only=True, tag_field="type", tag="revoke"):
    """The end of a grant or of a key."""

    subject: RevokeSubject


class Device(Header, frozen=True, kw_only=True, tag_field="type", tag="device"):
    """A device's membership: its name, key, tags and state; `until` belongs to ``held`` alone."""

    device: Hex32
    version: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    name: Name
    key: KeyText
    tags: Annotated[Tags, msgspec.Meta(max_length=64)]
    state: Literal["active", "held", "retired"]
    until: Seconds | None = None


class Source(Wire, frozen=True, kw_only=True):
    """Where a release was built from."""

    url: Text
    rev: Text


class Closure(Wire, frozen=True, kw_only=True):
    """One closure of a release: the system's path, its platform, the closure digest and its NAR bytes in sum."""

    path: StorePath
    system: Annotated[str, msgspec.Meta(pattern=SYSTEM)]
    digest: Hex64
    nar_size: Count


class TargetLine(Wire, frozen=True, kw_only=True):
    """A device's line of a release with targets; its exact bytes are a leaf under `Targets.root`."""

    device: Hex32
    path: StorePath
    system: Annotated[str, msgspec.Meta(pattern=SYSTEM)]
    digest: Hex64
    nar_size: Count


class SelectLine(Wire, frozen=True, kw_only=True):
    """An inline line of a release: devices that match get this closure; the first match wins."""

    select: Selector
    closure: Closure


class Targets(Wire, frozen=True, kw_only=True):
    """The number of device lines, sorted by device id, and the RFC 6962 root over their exact bytes."""

    size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    root: Hex64


class Release(Header, frozen=True, kw_only=True, tag_field="type", tag="release"):
    """A published set of closures; exactly one of `targets` and `lines`."""

    name: Name
    caches: Annotated[tuple[CacheRef, ...], msgspec.Meta(min_length=1, max_length=16)]
    source: Source | None = None
    targets: Targets | None = None
    lines: Annotated[tuple[SelectLine, ...], msgspec.Meta(min_length=1, max_length=64)] | None = None


class Wave(Wire, frozen=True, kw_only=True):
    """A group of a rollout: a count, a percentage of the whole set (``10%``) or a selector, and its gate."""

    members: (
        Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
        | Annotated[str, msgspec.Meta(pattern=r"^(100|[1-9][0-9]?)%$(?!\n)")]
        | Selector
    )
    gate: Literal["auto", "signed"] = "auto"


class StopAt(Wire, frozen=True, kw_only=True):
    """Failures that halt a rollout: a count, or a percentage of the set but never fewer than `at_least`."""

    count: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    percent: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    at_least: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1


ClockTime = Annotated[str, msgspec.Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)")]


class Window(Wire, frozen=True, kw_only=True):
    """When devices may switch: days, and times of day in an IANA time zone or in the device's own (``device``)."""

    days: Annotated[
        tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...],
        msgspec.Meta(min_length=1, max_length=7),
    ]
    from_: ClockTime = msgspec.field(name="from")
    to: ClockTime
    tz: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_+/-]{1,64}$(?!\n)")]


class Activation(Wire, frozen=True, kw_only=True):
    """How long a device may take to confirm, whom it must reach to do so, and what is accepted of it."""

    confirm_s: Annotated[int, msgspec.Meta(ge=5, le=86_400)] = 120
    contact: Literal["coordinator", "any", "none"] = "coordinator"
    leave: bool = False
    rename: bool = False
    no_fallback: bool = False
    """Devices may be rebooted where a boot that fails cannot fall back."""
    for_s: Annotated[int, msgspec.Meta(ge=60, le=604_800)] = 1_800
    """Of mode ``test``: so long the system is tried once it is healthy; then the device goes back by itself."""


class Rollout(Header, frozen=True, kw_only=True, tag_field="type", tag="rollout"):
    """The act of bringing a release to devices, or each device back; its ordered waves and limits."""

    kind: Literal["deploy", "rollback"]
    release: Hex64 | None = None
    of: Hex64 | None = None
    select: Selector
    waves: Annotated[tuple[Wave, ...], msgspec.Meta(min_length=1, max_length=64)]
    max_in_flight: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    stop_at: StopAt
    soak_s: Annotated[int, msgspec.Meta(ge=0, le=31_536_000)]
    device_timeout_s: Annotated[int, msgspec.Meta(ge=10, le=31_536_000)]
    window: Window | None = None
    mode: Literal["auto", "boot", "test"] = "auto"
    reboot: Literal["never", "in_window", "now"] = "never"
    activation: Activation = Activation()
    prefetch: bool = False
    not_before: Seconds = 0
    not_after: Seconds


Verb = Literal["pause", "resume", "advance", "retry", "cancel"]


class Control(Header, frozen=True, kw_only=True, tag_field="type", tag="control"):
    """A signed act on a rollout; `wave` belongs to ``advance``, `devices` to ``retry`` (``failed`` or device ids)."""

    rollout: Hex64
    seq: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    verb: Verb
    wave: Annotated[int, msgspec.Meta(ge=0, le=64)] | None = None
    devices: Literal["failed"] | Annotated[tuple[Hex32, ...], msgspec.Meta(min_length=1, max_length=1_000)] | None = (
        None
    )


Statement = Root | Grant | Revoke | Device | Release | Rollout | Control
