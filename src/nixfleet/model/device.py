"""What devices say: phases, outcomes, facts, signed reports, and unsigned progress; never what anybody may do."""

from enum import StrEnum
from typing import Annotated, Final, assert_never

import msgspec

from nixfleet.model.ids import MAX_INT, URL, Count, FingerprintText, Hex32, Hex64, KeyText, Name, Seconds, Tags
from nixfleet.model.statements import LogState, Wire


class Phase(StrEnum):
    """Where a device stands with the update it was last offered; the names of the update machine's states."""

    IDLE = "idle"
    OFFERED = "offered"
    PREFLIGHT = "preflight"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    STAGED = "staged"
    ACTIVATING = "activating"
    CHECKING = "checking"
    CONFIRMING = "confirming"
    CONFIRMED = "confirmed"
    REVERTING = "reverting"
    REVERTED = "reverted"
    FAILED = "failed"
    REFUSED = "refused"
    REBOOT_PENDING = "reboot-pending"


class Outcome(StrEnum):
    """What an update came to on one device."""

    CONFIRMED = "confirmed"
    REVERTED = "reverted"
    FAILED = "failed"
    REFUSED = "refused"


class Cause(StrEnum):
    """Who or what is behind an outcome that is not a confirmation; decides whether it counts and who must act."""

    NONE = "none"
    UNTRUSTED = "untrusted"
    NETWORK = "network"
    SPACE = "space"
    PREFLIGHT = "preflight"
    ACTIVATION = "activation"
    HEALTH = "health"
    CONTACT = "contact"
    INTERNAL = "internal"


def mends_itself(outcome: Outcome | None, cause: Cause) -> bool:
    """Tell whether a failure says nothing of the release: the device tries again by itself until its time is over.

    Network or space before the switch; after it, a coordinator that was silent on the old system too, which a device
    reports as reverted for the network (rollouts-and-agent.md, Confirm).
    """
    match outcome:
        case Outcome.FAILED:
            return cause in {Cause.NETWORK, Cause.SPACE}
        case Outcome.REVERTED:
            return cause is Cause.NETWORK
        case Outcome.CONFIRMED | Outcome.REFUSED | None:
            return False
        case _:
            assert_never(outcome)


SHORT_CHARS: Final = 300
LINE_CHARS: Final = 500
ATTEMPT_LINES: Final = 40
"""How much a device may say at once; its agent cuts to these, its coordinator refuses more."""

Line = Annotated[str, msgspec.Meta(max_length=LINE_CHARS)]
Short = Annotated[str, msgspec.Meta(max_length=SHORT_CHARS)]
PathText = Annotated[str, msgspec.Meta(max_length=SHORT_CHARS)]


class Attempt(Wire, frozen=True, kw_only=True):
    """A device's attempt at a rollout: `run` counts tries (1 + retries signed); `lines` end the activation's output."""

    rollout: Hex64
    run: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    phase: Phase
    outcome: Outcome | None = None
    cause: Cause = Cause.NONE
    reason: Short = ""
    path: PathText = ""
    previous: PathText = ""
    exit_code: Annotated[int, msgspec.Meta(ge=-MAX_INT, le=MAX_INT)] | None = None
    lines: Annotated[tuple[Line, ...], msgspec.Meta(max_length=ATTEMPT_LINES)] = ()


class Facts(Wire, frozen=True, kw_only=True):
    """What a device tells of itself; sizes in bytes."""

    hostname: Short = ""
    model: Short = ""
    architecture: Short = ""
    cpus: Count = 0
    memory_bytes: Count = 0
    nixos_version: Short = ""
    kernel: Short = ""
    nix_version: Short = ""
    agent_version: Short = ""
    machine_id: Short = ""
    boot_fallback: Short = "none"
    store_free_bytes: Count = 0
    store_bytes: Count = 0
    addresses: Annotated[tuple[Short, ...], msgspec.Meta(max_length=16)] = ()
    timezone: Short = ""


class LocalPause(Wire, frozen=True, kw_only=True):
    """A pause that root has set on the device itself; `until` by the device's clock."""

    until: Seconds
    reason: Short = ""


class Report(Wire, frozen=True, kw_only=True):
    """The device-signed state of a device (namespace ``nixfleet-report-v1``); `seq` only ever grows."""

    v: Annotated[int, msgspec.Meta(ge=1, le=1_000)]
    fleet: Hex64
    device: Hex32
    seq: Count
    at: Seconds
    log: LogState
    protocol: Annotated[int, msgspec.Meta(ge=1, le=1_000)]
    boot_id: Short
    system: PathText
    booted: PathText
    healthy: bool
    note: Short = ""
    attempt: Attempt | None = None
    facts: Facts | None = None
    paused: LocalPause | None = None
    """No update begins there until it ends."""

    @property
    def forked(self) -> bool:
        """Whether the device says that it was shown another log than the one it knows, which is the one in `log`."""
        return self.note.startswith(FORK)


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Live, unsigned, droppable: where a download or an activation stands, and its new output lines.

    `run`: of which try, 0 where an older agent does not say. `ahead`: it downloads what it may not begin yet.
    """

    rollout: Hex64
    phase: Phase
    run: Count = 0
    ahead: bool = False
    done_bytes: Count = 0
    total_bytes: Count = 0
    rate_bytes_s: Count = 0
    lines: Annotated[tuple[Line, ...], msgspec.Meta(max_length=200)] = ()


FORK: Final = "fork: "
"""How the note of a device begins that was shown another log than the one it knows."""
DISTRUST: Final = (FORK, "behind: ", "untrusted: ")
"""How the note of a device begins that cannot trust the log it was shown; nothing starts there until it can."""
CLONE: Final = "another machine-id"
"""How the reason of a device begins whose disk was copied from another machine."""


class EnrollRequest(Wire, frozen=True, kw_only=True):
    """A device that asks to be enrolled, signed by its own key (namespace ``nixfleet-enroll-v1``)."""

    v: Annotated[int, msgspec.Meta(ge=1, le=1_000)]
    fleet: Hex64
    device: Hex32
    name: Name
    key: KeyText
    at: Seconds
    tags: Tags = msgspec.field(default_factory=dict)
    facts: Facts | None = None
    reason: Short = ""


class Session(Wire, frozen=True, kw_only=True):
    """A person's signature over a key that signs requests for them, never statements (``nixfleet-session-v1``)."""

    v: Annotated[int, msgspec.Meta(ge=1, le=1_000)]
    fleet: Hex64
    by: FingerprintText
    key: KeyText
    at: Seconds
    not_after: Seconds


class JoinToken(Wire, frozen=True, kw_only=True):
    """What a join token carries: addresses, the pinned fleet and log state, and the seed of the enrolling key (hex)."""

    v: Annotated[int, msgspec.Meta(ge=1, le=1_000)]
    urls: Annotated[tuple[Annotated[str, msgspec.Meta(pattern=URL)], ...], msgspec.Meta(min_length=1, max_length=8)]
    fleet: Hex64
    log: LogState
    seed: Hex64
