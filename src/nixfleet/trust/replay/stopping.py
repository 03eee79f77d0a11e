"""What a revocation would stop: whatever is judged again at use (trust.md, When judged). Pure.

It compares the same judgements before and after, so it can never say other than what the replay will do; it must
never change a state.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from nixfleet.model.ids import Fingerprint, Tags
from nixfleet.model.statements import RevokeSubject
from nixfleet.trust import fields
from nixfleet.trust.replay import rights
from nixfleet.trust.replay.links import SHOWN, Over, select_words, why_dead
from nixfleet.trust.replay.rights import Allowed, Denied
from nixfleet.trust.replay.select import closure_for, covering, release_fault, release_for, right_of, tag_sets
from nixfleet.trust.replay.state import GrantRecord, Place, RolloutState, State

StoppedKind = Literal["rollout", "release", "approval", "grant"]


@dataclass(frozen=True, slots=True)
class Stopped:
    """Something that would end: an id (a digest, for an approval that of what it approves), its name, and why."""

    kind: StoppedKind
    id: str
    name: str
    why: str


def would_stop(state: State, subject: RevokeSubject, now: int) -> tuple[Stopped, ...]:
    """List what a revocation would stop now: rollouts, releases, approvals, grants, each in the log's order.

    What is done stays done: enrolments, and systems that run. Whether a newer rollout has a line for each device of
    an older one, the log does not tell: both are listed.
    """
    now = max(now, state.last_time)
    after = _after(state, subject)
    tagged, touched = tag_sets(state), _touched(state, subject)
    return (
        *_rollouts(state, after, tagged, now, touched),
        *_releases(state, after, tagged, now, touched),
        *_approvals(state, after, tagged, now, touched),
        *_grants(state, after, subject, now),
    )


def _touched(state: State, subject: RevokeSubject) -> frozenset[Fingerprint]:
    """Give the keys of which some right ends: theirs alone are judged twice, of a year of statements by many."""
    ended = {
        key
        for key, records in state.grants_of.items()
        if any(subject.grant == link.id or subject.key == link.by for record in records for link in record.links)
    }
    return frozenset(ended if subject.key is None else {*ended, Fingerprint(subject.key)})


def _concerns(state: State, touched: frozenset[Fingerprint], place: Place) -> bool:
    """Tell whether somebody who signed a payload is among those keys."""
    return not touched.isdisjoint(rights.signers(state, place.signer, place.sha512))


def _after(state: State, subject: RevokeSubject) -> State:
    """Give the state with the revocation in it; all else is shared and only read."""
    if subject.grant is not None:
        return replace(state, revoked_grants={**state.revoked_grants, subject.grant: state.size})
    assert subject.key is not None
    return replace(state, revoked_keys={**state.revoked_keys, Fingerprint(subject.key): state.size})


def _rollouts(
    before: State, after: State, tagged: list[Tags], now: int, touched: frozenset[Fingerprint]
) -> Iterator[Stopped]:
    """Find the rollouts that some device follows, or would when it joins, and would not any more."""
    left = {one.digest for one in before.rollouts.values() if _may_stop(before, one, now, touched)}
    stopped: dict[str, Stopped] = {}
    for tags in tagged if left else ():
        for one in covering(before, tags):
            release = release_for(before, one)
            ends = release is not None and release.statement.lines is not None
            if one.cancelled or now > one.statement.not_after or not (ends or one.digest in left):
                continue
            if _against(before, one, tags, now) is not None:
                continue
            denied = _against(after, one, tags, now) if one.digest in left else None
            if denied is not None:
                stopped[one.digest] = Stopped("rollout", one.digest, _rollout_name(before, one), denied.reason)
                left.discard(one.digest)
            if ends:
                break  # every device with these tags follows this one, and none below it
    yield from (stopped[one.digest] for one in before.rollouts.values() if one.digest in stopped)


def _may_stop(state: State, one: RolloutState, now: int, touched: frozenset[Fingerprint]) -> bool:
    """Tell whether a rollout is not over, and whether its signers, or its release's, are among the keys touched."""
    release = release_for(state, one)
    concerned = _concerns(state, touched, one.place) or (release and _concerns(state, touched, release.place))
    return bool(concerned) and not one.cancelled and now <= one.statement.not_after


def _against(state: State, one: RolloutState, tags: Tags, now: int) -> Denied | None:
    """Say what is against a rollout at use: its signer's right, or that of its release's signer."""
    right = right_of(state, one, tags, now)
    if isinstance(right, Denied):
        return right
    release = release_for(state, one)
    return None if release is None else release_fault(state, release, right, one.place, tags, now)


def _rollout_name(state: State, one: RolloutState) -> str:
    release = release_for(state, one)
    what = f"{one.statement.kind} of {release.statement.name}" if release is not None else one.statement.kind
    return f"{what} to {select_words(one.statement.select)}"


def _releases(
    before: State, after: State, tagged: list[Tags], now: int, touched: frozenset[Fingerprint]
) -> Iterator[Stopped]:
    for release in before.releases.values():
        for tags in tagged if _concerns(before, touched, release.place) else ():
            if release.statement.lines is not None and closure_for(release.statement, tags) is None:
                continue
            over, at = Over(tags=(tags,)), release.place
            if isinstance(rights.authorise_over(before, at.signer, "release", over, now, at.sha512), Allowed):
                denied = rights.authorise_over(after, at.signer, "release", over, now, at.sha512)
                if isinstance(denied, Denied):
                    yield Stopped("release", release.digest, release.statement.name, denied.reason)
                    break


def _approvals(
    before: State, after: State, tagged: list[Tags], now: int, touched: frozenset[Fingerprint]
) -> Iterator[Stopped]:
    """Find the approvals of rollouts, releases and what waits that count for some device, and would not any more."""
    named = [(one.digest, _rollout_name(before, one), one.place) for one in before.rollouts.values()]
    named += [(one.digest, one.statement.name, one.place) for one in before.releases.values()]
    waiting = (one for listed in before.pending.values() for one in listed if one.digest is not None)
    named += [(one.digest, f"{one.type} that waits", one.place) for one in waiting if one.digest is not None]
    for digest, name, place in named:
        for approval in before.approvals.get(place.sha512, ()):
            overs = [Over(tags=(tags,)) for tags in tagged] if approval.signer in touched else []
            if any(
                _counts(before, approval.signer, over, now) and not _counts(after, approval.signer, over, now)
                for over in overs
            ):
                who = rights.principal_of(before, approval.signer)
                yield Stopped("approval", digest, name, f"the approval by {who} counts no more")


def _counts(state: State, key: Fingerprint, over: Over, now: int) -> bool:
    """Tell whether a key's further signature counts: as an approval, or as the root's."""
    return rights.may_approve(state, key, over, now) or (key in state.root_keys and key not in state.revoked_keys)


def _grants(before: State, after: State, subject: RevokeSubject, now: int) -> Iterator[Stopped]:
    """Find the grants that nobody could use any more, other than the one that is revoked."""
    for record in before.grants.values():
        if record.statement.id == subject.grant or not _usable(before, record, now) or _usable(after, record, now):
            continue
        dead = next((link for link in record.links if why_dead(after, link, now)), None)
        if dead is None:
            why = "it names no key that is not revoked"
        elif dead.id == record.statement.id:
            why = f"it {why_dead(after, dead, now)}"
        else:
            why = f"grant {dead.id[:SHOWN]} above it {why_dead(after, dead, now)}"
        yield Stopped("grant", record.statement.id, record.principal, why)


def _usable(state: State, record: GrantRecord, now: int) -> bool:
    """Tell whether a grant is not over or cut, begun or not, and names a key that is not revoked."""
    begun = max(now, *(link.not_before for link in record.links))
    keys = map(fields.fingerprint, record.statement.to.keys)
    return rights.alive(state, record, begun) and any(key not in state.revoked_keys for key in keys)
