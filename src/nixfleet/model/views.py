"""What the coordinator shows over HTTP: records for console and CLI. Nothing here is signed; readers are tolerant.

Their field names are the ``--json`` contract of the command line. Times are unix seconds, sizes bytes.
"""

from typing import Any

import msgspec

from nixfleet.model.device import Facts, Outcome, Phase


class _View(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Unsigned content: unknown fields are ignored, missing ones have defaults.

    Frozen records hold what was there before them, so none is part of a cycle; the collector, which would look for
    cycles again and again while 50,000 devices are read, is spared them (`gc`).
    """


class Transfer(_View, frozen=True, kw_only=True):
    """A download under way; `ahead`: of an update that may not begin yet."""

    done_bytes: int = 0
    total_bytes: int = 0
    rate_bytes_s: int = 0
    ahead: bool = False


class DeviceView(_View, frozen=True, kw_only=True):
    """One device as the coordinator knows it: `system` is what it signed, `intended` what the log says it should be."""

    id: str
    name: str
    key: str
    tags: dict[str, str]
    state: str
    version: int = 1
    held_until: int | None = None
    paused_until: int | None = None
    """Root has set a pause on the device itself: no update begins there before; `pause_reason` says why."""
    pause_reason: str = ""
    online: bool = False
    link: str = ""
    seen_at: int = 0
    phase: Phase = Phase.IDLE
    outcome: Outcome | None = None
    cause: str = ""
    reason: str = ""
    waits: str = ""
    transfer: Transfer | None = None
    system: str = ""
    booted: str = ""
    previous: str = ""
    intended: str = ""
    release: str = ""
    rollout: str = ""
    wave: int | None = None
    healthy: bool | None = None
    drifted: bool = False
    """It confirmed one system last and runs another, by somebody's hand."""
    boot_id: str = ""
    log_size: int = 0
    log_root: str = ""
    log_state: str = ""
    protocol: int = 0
    facts: Facts | None = None
    enrolled_at: int = 0
    reported_at: int = 0
    lines: tuple[str, ...] = ()


Why = dict[str, Any]
"""A typed reason as a record: its name as ``reason``, and what it counts; `waits` beside it is its sentence."""


class MemberView(_View, frozen=True, kw_only=True):
    """A device's place in a rollout."""

    device: str
    name: str
    wave: int
    phase: Phase = Phase.IDLE
    outcome: Outcome | None = None
    overdue: bool = False
    online: bool = False
    reason: str = ""
    waits: str = ""
    why: Why | None = None
    transfer: Transfer | None = None


class WaveView(_View, frozen=True, kw_only=True):
    """A wave: its members by state; `waits` is the sentence of what it waits for."""

    number: int
    members: str
    gate: str
    state: str
    total: int
    confirmed: int = 0
    failed: int = 0
    in_flight: int = 0
    overdue: int = 0
    opened_at: int | None = None
    done_at: int | None = None
    passed_at: int | None = None
    download: Transfer | None = None
    """Its downloads under way, in sum."""
    eta_s: int | None = None
    """In how many seconds it may be done, by what devices took so far; None: nobody knows."""
    waits: str = ""
    why: Why | None = None


class StopView(_View, frozen=True, kw_only=True):
    """A kind of device that a rollout has stopped for, for a system fails on it; `left` are not started for that.

    `said` is the sentence; a signed resume lifts the stop.
    """

    kind: str
    path: str
    failed: int
    tried: int
    left: int = 0
    said: str = ""


class RolloutView(_View, frozen=True, kw_only=True):
    """A rollout: `state` is one of waiting, running, paused, halted, finished, cancelled, superseded, expired.

    `judged`: the plan has seen every outcome that was told; until then a failure may yet turn into a halt.
    `partial`: it has members that the reader may not read of; they are in no count.
    """

    id: str
    index: int
    kind: str
    release: str
    release_name: str
    by: str
    principal: str
    at: int
    note: str = ""
    state: str = "waiting"
    waits: str = ""
    why: Why | None = None
    halted: str = ""
    stops: tuple[StopView, ...] = ()
    standing: bool = False
    joiners: bool = False
    """Its release has something for devices that are yet to come: one with a line for each device has not."""
    waves: tuple[WaveView, ...] = ()
    total: int = 0
    confirmed: int = 0
    failed: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    soak_s: int = 0
    device_timeout_s: int = 0
    started_at: int | None = None
    finished_at: int | None = None
    eta_s: int | None = None
    """In how many seconds it may be done; None: it is over, or nobody knows."""
    typical_s: int | None = None
    """How long its devices took from start to confirmation, the median; None: none has yet."""
    causes: dict[str, int] = msgspec.field(default_factory=dict)
    """How many devices failed for which cause; ``overdue`` for those that fell silent."""
    controls: int = 0
    judged: bool = True
    partial: bool = False


class RolloutDetail(_View, frozen=True, kw_only=True):
    """A rollout with every member."""

    rollout: RolloutView
    members: tuple[MemberView, ...]


class ReleaseLineView(_View, frozen=True, kw_only=True):
    """What one device, or the devices of a selector, get.

    Where other lines are left out, a device's line has its place in the release and its inclusion proof (hex).
    """

    device: str = ""
    name: str = ""
    select: dict[str, tuple[str, ...]] | None = None
    path: str
    system: str
    digest: str
    nar_size: int
    place: int | None = None
    proof: tuple[str, ...] = ()


class ReleaseView(_View, frozen=True, kw_only=True):
    """A release; `partial`: it has lines of devices that the reader may not read of, which are left out."""

    id: str
    index: int
    name: str
    by: str
    principal: str
    at: int
    note: str = ""
    targets: int = 0
    source_url: str = ""
    source_rev: str = ""
    lines: tuple[ReleaseLineView, ...] = ()
    partial: bool = False


class EntryView(_View, frozen=True, kw_only=True):
    """A log entry in words: who did what to what, and its verdict (`valid`, or `void` and why)."""

    index: int
    at: int
    type: str
    by: str
    principal: str
    what: str
    subject: str
    verdict: str
    why: str = ""
    digest: str = ""
    note: str = ""


class EnrollView(_View, frozen=True, kw_only=True):
    """A device that asks to be enrolled; `payload` and `signature` are its request as it signed it."""

    device: str
    name: str
    key: str
    fingerprint: str
    tags: dict[str, str]
    facts: Facts | None = None
    asked_at: int = 0
    seen_at: int = 0
    reason: str = ""
    payload: bytes = b""
    signature: bytes = b""


class PrincipalView(_View, frozen=True, kw_only=True):
    """A person or a CI at the root: the fingerprints of their keys, and those of them that are revoked."""

    name: str
    keys: tuple[str, ...]
    revoked: tuple[str, ...] = ()


class RuleView(_View, frozen=True, kw_only=True):
    """What acts on selected devices need beyond a right."""

    select: dict[str, tuple[str, ...]]
    actions: tuple[str, ...]
    approvals: int = 0
    note_required: bool = False
    max_in_flight: int | None = None
    min_soak_s: int = 0


class RootView(_View, frozen=True, kw_only=True):
    """The root in force; `log_key` is a fingerprint, `caches` are addresses."""

    version: int
    protocol: int
    threshold: int
    epoch: int
    log_key: str
    urls: tuple[str, ...]
    caches: tuple[str, ...]
    principals: tuple[PrincipalView, ...]
    rules: tuple[RuleView, ...]


class GrantView(_View, frozen=True, kw_only=True):
    """A grant: `state` is live, future, expired, revoked or cut (a link above it is dead); `why` says more.

    `name` is the holder as ``issuer/name``, `by_name` who signed it, `uses` the device ids that its keys claimed.
    """

    id: str
    parent: str
    name: str
    keys: tuple[str, ...]
    actions: tuple[str, ...]
    select: dict[str, tuple[str, ...]]
    not_before: int
    not_after: int
    depth: int
    max_devices: int | None
    max_uses: int | None
    uses: int
    by: str
    by_name: str
    index: int
    note: str
    state: str
    why: str


class PendingView(_View, frozen=True, kw_only=True):
    """A statement that waits for signatures: what for, in a sentence, and who has signed so far."""

    digest: str
    type: str
    subject: str
    by: str
    by_name: str
    at: int
    index: int
    note: str
    waits: str
    signed: tuple[str, ...]


class AccessView(_View, frozen=True, kw_only=True):
    """Who may do what: the root in force, the grants as a tree (parents first), and what waits for signatures."""

    root: RootView | None
    grants: tuple[GrantView, ...]
    pending: tuple[PendingView, ...]


class FleetView(_View, frozen=True, kw_only=True):
    """The fleet at a glance."""

    id: str
    name: str = ""
    urls: tuple[str, ...] = ()
    log_size: int = 0
    log_root: str = ""
    epoch: int = 0
    root_keys: int = 0
    protocol: int = 1
    server_time: int = 0
    version: str = ""


class Snapshot(_View, frozen=True, kw_only=True):
    """Everything a console shows, as of delta number `seq`."""

    seq: int
    fleet: FleetView
    devices: tuple[DeviceView, ...]
    rollouts: tuple[RolloutView, ...]
    releases: tuple[ReleaseView, ...]
    requests: tuple[EnrollView, ...]


class Delta(_View, frozen=True, kw_only=True):
    """One change, numbered without gaps; exactly one of the records is set, or `removed` names ``kind:id``."""

    seq: int
    device: DeviceView | None = None
    rollout: RolloutView | None = None
    release: ReleaseView | None = None
    request: EnrollView | None = None
    fleet: FleetView | None = None
    removed: str = ""
    line_device: str = ""
    lines: tuple[str, ...] = ()
