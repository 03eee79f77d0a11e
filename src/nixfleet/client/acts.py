"""Build the statements of administrative acts from what a verified log says. Pure: state, header and wishes in.

It must never sign, and never guess: what the log does not support is refused before anybody is asked for a touch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from nixfleet.errors import UserError
from nixfleet.model.ids import PROTOCOL, Digest, Selector, Tags
from nixfleet.model.statements import (
    CacheRef,
    Closure,
    Control,
    Device,
    LogKey,
    LogState,
    Principal,
    Release,
    Revoke,
    RevokeSubject,
    Rollout,
    Root,
    SelectLine,
    Source,
    TargetLine,
    Targets,
    Verb,
)
from nixfleet.rollout.asking import MOST_IN_FLIGHT, RolloutWishes, Shape, filled_up
from nixfleet.trust.fields import unchecked_gate
from nixfleet.trust.lines import LineTree
from nixfleet.trust.merkle import EMPTY_ROOT
from nixfleet.trust.replay import Over, State, selected
from nixfleet.trust.replay.rights import rules

DAY_S: Final = 86_400
ROLLOUT_LIFE_S: Final = 365 * DAY_S
TOKEN_DAYS_MAX: Final = 366
ROLLOUTS_NAMED: Final = 4
"""So many rollouts are named to somebody who named their release."""


@dataclass(frozen=True, slots=True)
class Head:
    """The header of what is signed next: fleet, the signer's fingerprint, now (unix seconds), base and note.

    `v` is the protocol of the root in force, above which statements are void for everybody.
    """

    fleet: str
    by: str
    at: int
    base: LogState
    note: str | None = None
    v: int = 1

    def fields(self) -> dict[str, Any]:
        """Give the header as the fields that every statement starts with."""
        return {
            "v": self.v,
            "fleet": self.fleet,
            "by": self.by,
            "at": self.at,
            "base": self.base,
            "note": self.note,
        }


def create_root(
    *,
    by: str,
    at: int,
    urls: Sequence[str],
    principals: Sequence[Principal],
    log_key: str,
    caches: Sequence[CacheRef] = (),
    threshold: int = 1,
) -> Root:
    """Build root 1, which begins a fleet; `by` is the fingerprint of the principal that signs it."""
    head = Head(fleet="", by=by, at=at, base=LogState(size=0, root=EMPTY_ROOT.hex()))
    return Root(
        **head.fields(),
        version=1,
        protocol=PROTOCOL,
        urls=tuple(urls),
        principals=tuple(principals),
        threshold=threshold,
        log=LogKey(key=log_key, epoch=0),
        caches=tuple(caches),
    )


def enroll(head: Head, state: State, *, device: str, key: str, name: str, tags: Tags, replace: bool) -> list[Device]:
    """Build a device's enrolment; with `replace`, the device that had the name is retired first.

    Raises: UserError when the name is taken, or the device is enrolled already.
    """
    if device in state.devices:
        raise UserError(f"the device is enrolled already, as {state.devices[device].statement.name}")
    holders = state.named(name)
    if holders and not replace:
        raise UserError(f"the name {name} is taken by another device; to move it to this one, add --replace")
    retired = [change_device(head, state, holder, state="retired", until=None) for holder in holders]
    new = Device(**head.fields(), device=device, version=1, name=name, key=key, tags=dict(tags), state="active")
    return [*retired, new]


def change_device(head: Head, state: State, device: str, /, **changes: Any) -> Device:
    """Build a device's next version with some fields changed. Raises: UserError for a retired or unknown device."""
    record = state.devices.get(device)
    if record is None:
        raise UserError(f"there is no device {device}")
    old = record.statement
    if old.state == "retired":
        raise UserError(f"{old.name} is retired; enrol the machine anew")
    return msgspec.structs.replace(old, **head.fields(), version=old.version + 1, **changes)


def change_tags(head: Head, state: State, device: str, changes: Mapping[str, str | None]) -> Device:
    """Build a device's next version with tags set, or removed where the value is None."""
    old = state.devices[device].statement.tags if device in state.devices else {}
    tags = {tag: value for tag, value in {**old, **changes}.items() if value is not None}
    return change_device(head, state, device, tags=tags)


def release_of(
    head: Head,
    state: State,
    name: str,
    *,
    targets: Mapping[str, Closure] | None = None,
    lines: Sequence[SelectLine] | None = None,
    caches: Sequence[CacheRef] | None = None,
    source: Source | None = None,
) -> tuple[Release, LineTree | None]:
    """Build a release from closures by device id, or from at most 64 selector lines; caches default to the root's all.

    Raises: UserError.
    """
    listed = tuple(state.root.caches if state.root is not None and caches is None else caches or ())
    if not listed:
        raise UserError("the release names no cache, and the fleet's root lists none")
    if bool(targets) == bool(lines):
        raise UserError("a release has either device lines or selector lines, and at least one")
    tree = None
    if targets:
        tree = LineTree([_line(device, closure) for device, closure in targets.items()])
    made = Release(
        **head.fields(),
        name=name,
        caches=listed,
        source=source,
        targets=None if tree is None else Targets(size=tree.size, root=tree.root.hex()),
        lines=tuple(lines) if lines else None,
    )
    return made, tree


def _line(device: str, closure: Closure) -> TargetLine:
    return TargetLine(
        device=device, path=closure.path, system=closure.system, digest=closure.digest, nar_size=closure.nar_size
    )


def shape_of(state: State, wishes: RolloutWishes, kind: Literal["deploy", "rollback"], count: int) -> Shape:
    """Fill up what a person wishes for `count` devices: the root's rules bind, the design's defaults do the rest."""
    binding = rules(state, kind, Over(select=wishes.select or {}))
    most = min((rule.max_in_flight for rule in binding if rule.max_in_flight is not None), default=MOST_IN_FLIGHT)
    return filled_up(wishes, count, most, max((rule.min_soak_s for rule in binding), default=0))


def rollout_of(
    head: Head, state: State, wishes: RolloutWishes, *, release: str | None = None, of: str | None = None
) -> Rollout:
    """Build a rollout of a release, or one that takes back rollout `of`; exactly one, as digests. Raises: UserError."""
    kind: Literal["deploy", "rollback"] = "deploy" if release is not None else "rollback"
    select = wishes.select or {}
    count = set_size(state, select, release) if wishes.count is None else wishes.count
    shape = shape_of(state, wishes, kind, count)
    fault = unchecked_gate(shape.waves)
    if fault:
        raise UserError(fault)
    return Rollout(
        **head.fields(),
        kind=kind,
        release=release,
        of=of,
        select=select,
        waves=shape.waves,
        max_in_flight=shape.max_in_flight,
        stop_at=shape.stop_at,
        soak_s=shape.soak_s,
        device_timeout_s=wishes.device_timeout_s,
        window=wishes.window,
        mode=wishes.mode,
        reboot=wishes.reboot,
        activation=wishes.activation,
        prefetch=wishes.prefetch,
        not_before=wishes.not_before,
        not_after=head.at + ROLLOUT_LIFE_S if wishes.not_after is None else wishes.not_after,
    )


def set_size(state: State, select: Selector, release: str | None) -> int:
    """Count the devices that a rollout is for, as far as the log tells: those without a line cannot be told apart."""
    matching = len(selected(state, select))
    known = state.releases.get(Digest(release)) if release is not None else None
    if known is not None and known.statement.targets is not None:
        return min(matching, known.statement.targets.size)
    return matching


def control_of(
    head: Head,
    state: State,
    rollout: Digest,
    verb: Verb,
    *,
    wave: int | None = None,
    devices: Literal["failed"] | Sequence[str] | None = None,
) -> Control:
    """Build the next control of a rollout, numbered after those in the log. Raises: UserError."""
    known = state.rollouts.get(rollout)
    if known is None:
        raise UserError(f"there is no rollout {rollout[:12]}")
    if known.cancelled:
        raise UserError(f"rollout {rollout[:12]} is cancelled; start another one")
    return Control(
        **head.fields(),
        rollout=rollout,
        seq=known.controls + 1,
        verb=verb,
        wave=wave,
        devices="failed" if devices == "failed" else None if devices is None else tuple(devices),
    )


def revoke_of(head: Head, *, grant: str | None = None, key: str | None = None) -> Revoke:
    """Build the end of a grant (by id) or of a key (by fingerprint)."""
    return Revoke(**head.fields(), subject=RevokeSubject(grant=grant, key=key))


def find_device(state: State, text: str) -> str:
    """Find an unretired device by name or id. Raises: UserError when there is none, or a name means several."""
    if text in state.devices:
        return text
    found = state.named(text)
    if not found:
        raise UserError(f"there is no device {text!r}; 'nixfleet device list' shows them all")
    if len(found) > 1:
        raise UserError(f"{len(found)} devices are named {text}; say which by id: {', '.join(found)}")
    return found[0]


def find_rollout(state: State, text: str) -> Digest:
    """Find a rollout by digest or an unambiguous prefix of at least 6 digits. Raises: UserError."""
    # Not by its release's name: a release may have several, and what is signed is meant for one of them.
    of = [digest for digest, record in state.releases.items() if record.statement.name == text]
    named = [digest for digest, record in state.rollouts.items() if record.names(state.rollouts) in of]
    if named and not any(digest.startswith(text) for digest in state.rollouts):
        ids = ", ".join(digest[:12] for digest in reversed(named[-ROLLOUTS_NAMED:]))
        raise UserError(f"{text} is a release, not a rollout; say which, newest first: {ids}")
    return _by_prefix(text, state.rollouts, "rollout")


def find_release(state: State, text: str) -> Digest:
    """Find a release by name (its newest), digest or prefix. Raises: UserError."""
    named = [digest for digest, record in state.releases.items() if record.statement.name == text]
    return named[-1] if named else _by_prefix(text, state.releases, "release")


def _by_prefix(text: str, known: Mapping[Digest, object], what: str) -> Digest:
    found = [digest for digest in known if digest.startswith(text)] if len(text) >= 6 else []
    if not found:
        raise UserError(f"there is no {what} {text!r}; 'nixfleet {what} list' shows them all")
    if len(found) > 1:
        raise UserError(f"{text} is the beginning of {len(found)} {what}s; give more digits")
    return found[0]
