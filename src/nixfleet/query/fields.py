"""The fields a query can name, and the one word that sums up a device; it must not know how queries are written."""

from enum import Enum
from typing import Literal, get_args

import msgspec

from nixfleet.model.device import Outcome, Phase
from nixfleet.model.views import DeviceView

Status = Literal[
    "fork",
    "cloned",
    "failed",
    "refused",
    "reverted",
    "unhealthy",
    "drifted",
    "offline",
    "updating",
    "paused",
    "waiting",
    "reboot",
    "held",
    "new",
    "ok",
    "retired",
]
"""One word per device, the one that needs a person most first."""
STATUSES: tuple[Status, ...] = get_args(Status)

_ENDED: dict[Outcome, Status] = {
    Outcome.FAILED: "failed",
    Outcome.REFUSED: "refused",
    Outcome.REVERTED: "reverted",
}
_RESTING = frozenset({Phase.IDLE, Phase.CONFIRMED, Phase.REVERTED, Phase.FAILED, Phase.REFUSED})


def status_of(device: DeviceView) -> Status:
    """Sum a device up in one word; what a person must see wins over what passes by itself."""
    if device.state == "retired":
        return "retired"
    if device.log_state == "fork":
        return "fork"
    if device.cause == "cloned":
        return "cloned"
    if device.phase in _RESTING:
        if device.outcome in _ENDED:
            return _ENDED[device.outcome]
        if device.state == "held":
            return "held"
    elif device.online and device.phase is not Phase.REBOOT_PENDING:
        held_there = device.phase is Phase.STAGED and device.paused_until is not None
        return "paused" if held_there else "updating"
    if not device.online:
        return "offline" if device.seen_at else "new"
    if device.phase is Phase.REBOOT_PENDING:
        return "reboot"
    return _at_rest(device)


def _at_rest(device: DeviceView) -> Status:
    """Judge an online device that does nothing just now."""
    if device.healthy is False:
        return "unhealthy"
    if device.drifted:
        return "drifted"
    if device.paused_until is not None:
        return "paused"
    if device.waits:
        return "waiting"
    if not device.system:
        return "new"
    if device.intended and device.system != device.intended:
        return "drifted"
    return "ok"


class Kind(Enum):
    """How a field's values are written and compared."""

    TEXT = "text, with wildcards"
    WORD = "one of its words"
    PATH = "a store path, its name, or the start of its hash"
    ID = "the start of an id"
    FLAG = "yes or no"
    COUNT = "a number"
    SIZE = "a size such as 500M or 20G"
    AGE = "a time such as 10m, 2h or 7d"


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A field: `source` is an expression over `d` (a DeviceView); None in a number field means not known."""

    name: str
    kind: Kind
    source: str
    about: str
    words: tuple[str, ...] = ()


def _fact(attribute: str, absent: str = "''") -> str:
    return f"(d.facts.{attribute} if d.facts else {absent})"


FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        Field(name="status", kind=Kind.WORD, source="status(d)", about="the word of the state column", words=STATUSES),
        Field(name="name", kind=Kind.TEXT, source="d.name", about="the device's name"),
        Field(name="id", kind=Kind.ID, source="d.id", about="the device's id"),
        Field(
            name="state",
            kind=Kind.WORD,
            source="d.state",
            about="membership",
            words=("active", "held", "retired"),
        ),
        Field(name="online", kind=Kind.FLAG, source="d.online", about="connected now"),
        Field(name="healthy", kind=Kind.FLAG, source="(d.healthy is True)", about="its own checks pass"),
        Field(name="seen", kind=Kind.AGE, source="(d.seen_at or None)", about="time since it was last heard of"),
        Field(name="enrolled", kind=Kind.AGE, source="(d.enrolled_at or None)", about="time since it was enrolled"),
        Field(
            name="phase",
            kind=Kind.WORD,
            source="d.phase.value",
            about="where its update stands",
            words=tuple(phase.value for phase in Phase),
        ),
        Field(
            name="outcome",
            kind=Kind.WORD,
            source="(d.outcome.value if d.outcome else 'none')",
            about="what its last update came to",
            words=(*(outcome.value for outcome in Outcome), "none"),
        ),
        Field(
            name="reboot",
            kind=Kind.WORD,
            source="('pending' if d.phase.value == 'reboot-pending' else 'none')",
            about="set for the next boot",
            words=("pending", "none"),
        ),
        Field(name="cause", kind=Kind.TEXT, source="d.cause", about="what is behind a failure"),
        Field(name="reason", kind=Kind.TEXT, source="(d.reason or d.waits)", about="why it failed or waits"),
        Field(name="system", kind=Kind.PATH, source="d.system", about="the system it runs"),
        Field(name="intended", kind=Kind.PATH, source="d.intended", about="the system it should run"),
        Field(name="booted", kind=Kind.PATH, source="d.booted", about="the system it booted"),
        Field(name="release", kind=Kind.TEXT, source="d.release", about="the release it last got"),
        Field(name="rollout", kind=Kind.ID, source="d.rollout", about="the rollout it is in"),
        Field(name="wave", kind=Kind.COUNT, source="d.wave", about="its wave in that rollout"),
        Field(name="log", kind=Kind.TEXT, source="d.log_state", about="how its view of the log compares"),
        Field(name="model", kind=Kind.TEXT, source=_fact("model"), about="hardware"),
        Field(name="arch", kind=Kind.TEXT, source=_fact("architecture"), about="processor architecture"),
        Field(name="kernel", kind=Kind.TEXT, source=_fact("kernel"), about="kernel version"),
        Field(name="nixos", kind=Kind.TEXT, source=_fact("nixos_version"), about="NixOS version"),
        Field(name="agent", kind=Kind.TEXT, source=_fact("agent_version"), about="agent version"),
        Field(name="fallback", kind=Kind.TEXT, source=_fact("boot_fallback"), about="how it falls back at boot"),
        Field(name="cpus", kind=Kind.COUNT, source=_fact("cpus", "None"), about="processors"),
        Field(name="memory", kind=Kind.SIZE, source=_fact("memory_bytes", "None"), about="memory"),
        Field(name="free", kind=Kind.SIZE, source=_fact("store_free_bytes", "None"), about="free space of the store"),
    )
}
"""Every field but ``tag.KEY``."""
