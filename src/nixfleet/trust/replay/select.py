"""Which rollout a device should follow: order, staleness, rights at use (trust.md, Order and When judged).

Pure: the device's clock and history are arguments. Its choice must never look at pacing (gates, waves) nor at
windows: those only delay, and are the machine's and `rollout.windows`' to judge.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nixfleet.model.ids import Digest, Selector, Tags, matches
from nixfleet.model.statements import CacheRef, Closure, Release, Rollout
from nixfleet.model.text import counted
from nixfleet.trust.replay import rights
from nixfleet.trust.replay.links import Over, select_words
from nixfleet.trust.replay.rights import Allowed, Denied
from nixfleet.trust.replay.state import Place, ReleaseRecord, RolloutState, State

Covers = Callable[[RolloutState], bool | None]
"""Whether a rollout has something for the device that the log alone does not tell: a line of its own in a release
with device lines, or for a rollback, that the device confirmed `of`; None while not known."""

HoldKind = Literal["missing", "not-enrolled", "retired", "held", "paused", "expired", "line"]
SkipKind = Literal["cancelled", "unauthorised", "approvals", "rule", "not-yet", "stale", "release"]


@dataclass(frozen=True, slots=True)
class Skip:
    """A rollout that selects the device but does not count for it, and why."""

    rollout: RolloutState
    kind: SkipKind
    text: str


@dataclass(frozen=True, slots=True)
class Follow:
    """The rollout to follow; `run` is the wanted number of tries, `closure` is given where a selector line says it."""

    rollout: RolloutState
    release: ReleaseRecord | None
    closure: Closure | None
    run: int
    skipped: tuple[Skip, ...] = ()


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing may start, and why; `until` (unix seconds) where a time ends it; `line`: fetch the own line first."""

    kind: HoldKind
    text: str
    rollout: RolloutState | None = None
    until: int | None = None
    skipped: tuple[Skip, ...] = ()


@dataclass(frozen=True, slots=True)
class Idle:
    """No rollout counts for the device."""

    skipped: tuple[Skip, ...] = ()


Choice = Follow | Hold | Idle


def choose(state: State, device: str, now: int, attempted_index: int = -1, covers: Covers = lambda _: None) -> Choice:
    """Choose for a device; `now` is its clock (raised to the last log time), `attempted_index` its newest attempt's."""
    now = max(now, state.last_time)
    barred = _barred(state, device, now)
    if barred is not None:
        return barred
    tags = state.devices[device].statement.tags
    skipped: list[Skip] = []
    for one in covering(state, tags, covers):
        if one.index < attempted_index:
            break  # trust.md, Order: never a lower one than it has attempted
        met = _skip(state, one, tags, now, covers)
        if met is None:
            return _settle(state, one, device, now, covers, tuple(skipped))
        if isinstance(met, Hold):
            return replace(met, skipped=tuple(skipped))
        skipped.append(met)
    return Idle(tuple(skipped))


def _barred(state: State, device: str, now: int) -> Hold | None:
    """Say what keeps a device from any update."""
    if state.blind_at is not None:
        return Hold("missing", f"the payload of entry {state.blind_at} is missing")
    record = state.devices.get(device)
    if record is None:
        return Hold("not-enrolled", "the device is not enrolled")
    if record.statement.state == "retired":
        return Hold("retired", "the device is retired")
    until = record.statement.until
    if until is not None and now < until:
        return Hold("held", "the device is held by a signed act", until=until)
    return None


def covering(
    state: State, tags: Tags, covers: Covers = lambda _: None, below: int | None = None
) -> Iterator[RolloutState]:
    """Yield the rollouts that cover a device with these tags, or could, highest index first, from `below` down."""
    for one in reversed(state.rollouts.values()):
        if below is not None and one.index >= below:
            continue
        if matches(one.statement.select, tags) and _has_part(state, one, tags, covers) is not False:
            yield one


def _has_part(state: State, one: RolloutState, tags: Tags, covers: Covers) -> bool | None:
    release = release_for(state, one)
    if release is None or release.statement.lines is None:
        return covers(one)
    if not rights.may_over(state, one.place.signer, one.statement.kind, tags):
        return covers(one)  # an agent does not fetch this release (`replay.needs`), and all must judge alike
    return closure_for(release.statement, tags) is not None


def _skip(state: State, one: RolloutState, tags: Tags, now: int, covers: Covers) -> Skip | Hold | None:
    """Say why a rollout does not count for a device: not ready, or to be signed again; or what must be known first."""
    if one.cancelled:
        return Skip(one, "cancelled", "it is cancelled")
    right = right_of(state, one, tags, now)
    if isinstance(right, Denied):
        return Skip(one, "approvals" if right.waits else "unauthorised", right.reason)
    rule = rule_fault(state, one.statement, tags)
    if rule:
        return Skip(one, "rule", rule)
    if now < one.statement.not_before:
        return Skip(one, "not-yet", "it has not begun")
    other = _overlooked(state, one, tags, now, covers)
    if other is not None:
        unknown = _unknown(state, other) or (
            _line_unknown(other) if not _has_part(state, other, tags, covers) else None
        )
        return unknown or Skip(one, "stale", f"entry {other.index} came before it; sign it again")
    release = release_for(state, one)
    if release is not None:
        fault = release_fault(state, release, right, one.place, tags, now)
        if fault is not None:
            return Skip(one, "approvals" if fault.waits else "release", fault.reason)
    return None


def _overlooked(state: State, one: RolloutState, tags: Tags, now: int, covers: Covers) -> RolloutState | None:
    """Return a rollout for the device in [base size, index): its signer had not seen it (trust.md, Order).

    So the coordinator cannot hold a rollout back and play it after a newer one.
    """
    for other in covering(state, tags, covers, below=one.index):
        if other.index < one.statement.base.size:
            return None
        if isinstance(right_of(state, other, tags, now), Allowed):
            return other
    return None


def right_of(state: State, one: RolloutState, tags: Tags, now: int) -> Allowed | Denied:
    """Judge a rollout's signer, at use, over a device with these tags."""
    right = rights.authorise_over(
        state, one.place.signer, one.statement.kind, Over(tags=(tags,)), now, one.place.sha512
    )
    if isinstance(right, Allowed) and one.statement.of is not None and right.max_devices is not None:
        # A rollback touches whom its release had lines for; one that is not known yet is held for in `_settle`.
        first = state.rollouts[Digest(one.statement.of)]
        release = release_for(state, first)
        if first.statement.kind == "rollback" or (release is not None and not _within(release.statement, right)):
            return Denied(_limited(state, one.place, right, "takes back only what had"))
    return right


def rule_fault(state: State, statement: Rollout, tags: Tags) -> str:
    """Say which rule of the root a rollout breaks for a device, or nothing; approvals are part of the right."""
    over = Over(tags=(tags,))
    if rights.note_missing(state, statement.kind, over, statement.note):
        return "a rule asks for a note"
    for rule in rights.rules(state, statement.kind, over):
        if rule.max_in_flight is not None and statement.max_in_flight > rule.max_in_flight:
            where = select_words(rule.select)
            return f"a rule for {where} allows {rule.max_in_flight} in flight, not {statement.max_in_flight}"
        if statement.soak_s < rule.min_soak_s:
            where = select_words(rule.select)
            return f"a rule for {where} asks for a soak of {rule.min_soak_s} s, not {statement.soak_s} s"
    return ""


def release_fault(
    state: State, release: ReleaseRecord, right: Allowed, by: Place, tags: Tags, now: int
) -> Denied | None:
    """Say why a rollout's release may not be used on a device: its signer's right is judged at use too.

    `right` is that of the rollout's signer, which stands at `by`.
    """
    over = Over(tags=(tags,))
    signed = rights.authorise_over(state, release.place.signer, "release", over, now, release.place.sha512)
    if isinstance(signed, Denied):
        return Denied(f"its release: {signed.reason}", waits=signed.waits)
    if rights.note_missing(state, "release", over, release.statement.note):
        return Denied("its release: a rule asks for a note")
    for limited, place in ((right, by), (signed, release.place)):
        if not _within(release.statement, limited):
            # trust.md, Statements: max_devices forces device lines, so that it can be checked offline.
            return Denied(_limited(state, place, limited, "is limited to releases of"))
    if not caches_for(state, release.statement):
        return Denied("the root no longer names any of its release's caches")
    return None


def _limited(state: State, place: Place, right: Allowed, what: str) -> str:
    who = rights.principal_of(state, place.signer)
    return f"{who} {what} at most {counted(right.max_devices or 0, 'device line')} (max_devices of its grant)"


def _within(release: Release, right: Allowed) -> bool:
    limit = right.max_devices
    return limit is None or (release.targets is not None and release.targets.size <= limit)


def _settle(
    state: State, one: RolloutState, device: str, now: int, covers: Covers, skipped: tuple[Skip, ...]
) -> Choice:
    """Follow the rollout that won, or say what it waits for; nothing older comes in its place."""
    release, tags = release_for(state, one), state.devices[device].statement.tags
    unknown = _unknown(state, one)
    if unknown is not None or one.unread:
        return replace(unknown or Hold("missing", "a control of it is not known here", one), skipped=skipped)
    if one.paused:
        return Hold("paused", "the rollout is paused", one, skipped=skipped)
    if now > one.statement.not_after:
        return Hold("expired", "the rollout has expired", one, skipped=skipped)
    closure = closure_for(release.statement, tags) if release is not None else None
    if closure is None and covers(one) is None:
        return replace(_line_unknown(one), skipped=skipped)
    return Follow(one, release, closure, one.runs(device), skipped)


def _unknown(state: State, one: RolloutState) -> Hold | None:
    """Hold where a rollout's release is not known: one in no log looks to an agent like one whose payload it lacks."""
    named = one.names(state.rollouts)
    if named is None or named in state.releases:
        return None
    return Hold("missing", "the rollout's release is not known here", one)


def _line_unknown(one: RolloutState) -> Hold:
    return Hold("line", "whether the rollout has a line for the device is not known yet", one)


def release_for(state: State, one: RolloutState) -> ReleaseRecord | None:
    """Return the release that a rollout brings, None for a rollback or while it is not known."""
    return state.releases.get(Digest(one.statement.release)) if one.statement.release is not None else None


def closure_for(release: Release, tags: Tags) -> Closure | None:
    """Return what an inline release has for these tags: the first match wins."""
    return next((line.closure for line in release.lines or () if matches(line.select, tags)), None)


def caches_for(state: State, release: Release) -> tuple[CacheRef, ...]:
    """Return the release's caches that the root in force still names: only these may be used."""
    return tuple(cache for cache in release.caches if state.root is not None and cache in state.root.caches)


def first_wave(state: State, one: RolloutState, device: str) -> int:
    """Return the first wave (from 1) that a device can be in, by its own tags: who joined later is in the last one.

    Up to it, and to the wave it is really in, the same signed gates stand (`fields.unchecked_gate`).
    """
    record, waves = state.devices[device], one.statement.waves
    new = record.statement.version == 1 and record.place.index > one.index
    if not new and record.enrolled_at <= one.place.log_time:
        for number, wave in enumerate(waves, start=1):
            if not isinstance(wave.members, dict) or matches(wave.members, record.statement.tags):
                return number
    return len(waves)


def selected(state: State, select: Selector) -> dict[str, Tags]:
    """Give the unretired devices that a selector matches now, with their tags."""
    return {
        device: record.statement.tags
        for device, record in state.devices.items()
        if record.statement.state != "retired" and matches(select, record.statement.tags)
    }


def tag_sets(state: State) -> list[Tags]:
    """Give the tags of unretired devices, each set of tags once: rights do not tell apart who has the same.

    Tags that nothing in the log asks for are left out, such as one that each device has a value of its own for.
    """
    asked = _asked(state)
    sets = {
        tuple(sorted((tag, value) for tag, value in record.statement.tags.items() if tag in asked))
        for record in state.devices.values()
        if record.statement.state != "retired"
    }
    return [dict(pairs) for pairs in sorted(sets)]


def _asked(state: State) -> set[str]:
    """Name the tags that any rule, grant, rollout or release line selects by."""
    selects: list[Selector] = [record.statement.select for record in state.grants.values()]
    selects += [one.statement.select for one in state.rollouts.values()]
    selects += [line.select for release in state.releases.values() for line in release.statement.lines or ()]
    selects += [rule.select for rule in (state.root.rules if state.root is not None else ())]
    return {tag for select in selects for tag in select}


def is_left(confirmed: Sequence[str], path: str) -> bool:
    """Tell whether a device left a path: confirmed it, then confirmed another (trust.md, Back).

    `confirmed` are the system paths it confirmed, oldest first. Its last one is never left, so repairing local
    drift is a deploy.
    """
    return path in confirmed and path != confirmed[-1]


def authorise_path(
    state: State, one: RolloutState, device: str, now: int, confirmed: Sequence[str], path: str
) -> Allowed | Denied:
    """Judge a rollout's signer for the very path it would bring: a left one needs `rollback` (trust.md, Back)."""
    now = max(now, state.last_time)
    action = "rollback" if is_left(confirmed, path) else one.statement.kind
    return rights.authorise(state, one.place.signer, action, device, now, one.place.sha512)
