"""Who may do what, as console and command line show it: the root, the tree of grants, what waits for signatures.

Pure. It must never judge: what is live, and what waits, the replay says.
"""

from collections.abc import Iterator
from typing import Final

from nixfleet.model.ids import Digest, Fingerprint, Tags, matches
from nixfleet.model.statements import Action, Root, Rule, Statement
from nixfleet.model.views import AccessView, GrantView, PendingView, PrincipalView, RootView, RuleView
from nixfleet.trust import fields
from nixfleet.trust.replay.links import SHOWN, Over, is_live, why_dead
from nixfleet.trust.replay.rights import Allowed, Denied, authorise_over, principal_of, signers
from nixfleet.trust.replay.select import closure_for, covering, release_for, right_of, tag_sets
from nixfleet.trust.replay.state import GrantRecord, Pending, Place, ReleaseRecord, RolloutState, State
from nixfleet.trust.words import describe

_RELEASE: Final[Action] = "release"


def access_view(state: State, now: int) -> AccessView:
    """Describe every right at a moment (unix seconds, raised to the last log time)."""
    now = max(now, state.last_time)
    root = state.root
    return AccessView(
        root=None if root is None else _root(state, root),
        grants=tuple(_grant(state, record, now) for record in _tree(state)),
        pending=tuple(sorted(_pending(state, now), key=lambda one: one.index)),
    )


def _root(state: State, root: Root) -> RootView:
    return RootView(
        version=root.version,
        protocol=root.protocol,
        threshold=root.threshold,
        epoch=root.log.epoch,
        log_key=fields.fingerprint(root.log.key),
        urls=root.urls,
        caches=tuple(cache.url for cache in root.caches),
        principals=tuple(
            _principal(state, principal.name, tuple(map(fields.fingerprint, principal.keys)))
            for principal in root.principals
        ),
        rules=tuple(map(_rule, root.rules)),
    )


def _principal(state: State, name: str, keys: tuple[Fingerprint, ...]) -> PrincipalView:
    return PrincipalView(name=name, keys=keys, revoked=tuple(key for key in keys if key in state.revoked_keys))


def _rule(rule: Rule) -> RuleView:
    return RuleView(
        select=rule.select,
        actions=rule.actions,
        approvals=rule.approvals,
        note_required=rule.note_required,
        max_in_flight=rule.max_in_flight,
        min_soak_s=rule.min_soak_s,
    )


def _tree(state: State) -> Iterator[GrantRecord]:
    """Yield the grants in the order of a tree: below each one what was handed on from it, the oldest first."""
    children: dict[str | None, list[GrantRecord]] = {}
    for record in state.grants.values():
        children.setdefault(record.statement.parent, []).append(record)
    ahead = children.get(None, [])[::-1]
    while ahead:
        record = ahead.pop()
        yield record
        ahead.extend(children.get(record.statement.id, [])[::-1])


def _grant(state: State, record: GrantRecord, now: int) -> GrantView:
    grant = record.statement
    keys = tuple(map(fields.fingerprint, grant.to.keys))
    word, why = _grant_state(state, record, now)
    uses = sum(state.use_counts.get(key, 0) for key in keys) if grant.max_uses is not None else 0
    if word == "live" and grant.max_uses is not None and uses >= grant.max_uses * len(keys):
        why = "it is used up"
    return GrantView(
        id=grant.id,
        parent=grant.parent or "",
        name=record.principal,
        keys=keys,
        actions=grant.actions,
        select=grant.select,
        not_before=grant.not_before,
        not_after=grant.not_after,
        depth=grant.depth,
        max_devices=grant.max_devices,
        max_uses=grant.max_uses,
        uses=uses,
        by=grant.by,
        by_name=principal_of(state, Fingerprint(grant.by)),
        index=record.place.index,
        note=grant.note or "",
        state=word,
        why=why,
    )


def _grant_state(state: State, record: GrantRecord, now: int) -> tuple[str, str]:
    """Give a grant's state in one word, and why it is not live, or nothing."""
    grant = record.statement
    for link in record.links[:-1]:
        if not is_live(state, link, now):
            return "cut", f"grant {link.id[:SHOWN]} above it {why_dead(state, link, now)}"
    why = why_dead(state, grant, now)
    if grant.id in state.revoked_grants or grant.by in state.revoked_keys:
        return "revoked", f"it {why}"
    if all(fields.fingerprint(text) in state.revoked_keys for text in grant.to.keys):
        return "revoked", "every key that it names is revoked"
    if why:
        return "future" if now < grant.not_before else "expired", f"it {why}"
    return "live", ""


def _pending(state: State, now: int) -> Iterator[PendingView]:
    """Yield what takes effect only with further signatures, and what devices do not take up before they come."""
    for waiting in state.pending.values():
        for one in waiting:
            yield _waiting(state, one)
    if state.root is not None and (state.root.threshold > 1 or state.root.rules):
        yield from _waiting_updates(state, now)


def _waiting(state: State, one: Pending) -> PendingView:
    return _view(state, one.place, one.statement, one.digest or "", one.type, one.waits, one.subject)


def _waiting_updates(state: State, now: int) -> Iterator[PendingView]:
    """Yield the rollouts and releases whose signatures do not suffice for some device that would follow them.

    Their right is judged at use, so the log knows no verdict on them; an older one than an approval could still
    reach (`State.recent`) waits for nothing any more.
    """
    found: set[Digest] = set()
    for tags in tag_sets(state):
        for one in covering(state, tags):
            if one.place.sha512 not in state.recent:
                break
            if one.cancelled or now > one.statement.not_after:
                continue
            right = right_of(state, one, tags, now)
            if isinstance(right, Denied) and right.waits and one.digest not in found:
                found.add(one.digest)
                yield _update(state, one, right.reason)
            release = release_for(state, one)
            if isinstance(right, Allowed) and release is not None and release.statement.lines is not None:
                break  # it is every such device's; whose a release's device lines are, the log does not tell
        for release in _recent_releases(state):
            right = authorise_over(state, release.place.signer, _RELEASE, Over(tags=(tags,)), now, release.place.sha512)
            if (
                isinstance(right, Denied)
                and right.waits
                and release.digest not in found
                and reaches(state, release, tags)
            ):
                found.add(release.digest)
                yield _update(state, release, right.reason)


def _recent_releases(state: State) -> list[ReleaseRecord]:
    return [record for record in state.releases.values() if record.place.sha512 in state.recent]


def reaches(state: State, release: ReleaseRecord, tags: Tags) -> bool:
    """Tell whether a release could have something for devices with these tags, as far as the log says.

    Whose its device lines are only its publisher and its devices know: the rollouts that bring it say more.
    """
    if release.statement.lines is not None:
        return closure_for(release.statement, tags) is not None
    bringing = [one for one in state.rollouts.values() if release_for(state, one) is release]
    return not bringing or any(matches(one.statement.select, tags) and not one.cancelled for one in bringing)


def _update(state: State, one: RolloutState | ReleaseRecord, waits: str) -> PendingView:
    type_ = "rollout" if isinstance(one, RolloutState) else "release"
    return _view(state, one.place, one.statement, one.digest, type_, waits, "")


def _view(
    state: State, place: Place, statement: Statement | None, digest: str, type_: str, waits: str, subject: str
) -> PendingView:
    signed = (principal_of(state, key) for key in signers(state, place.signer, place.sha512))
    return PendingView(
        digest=digest,
        type=type_,
        subject=describe(statement, state)[0] if statement is not None else subject,
        by=place.signer,
        by_name=principal_of(state, place.signer),
        at=place.log_time,
        index=place.index,
        note="" if statement is None else statement.note or "",
        waits=waits,
        signed=tuple(dict.fromkeys(signed)),
    )
