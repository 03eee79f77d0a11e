"""Further signatures over a statement: what it still lacks, whether one more key's would help, and why not, in words.

Pure. It must never judge by rules of its own: it lets the replay judge a copy of the state with the signature in it.
"""

from collections.abc import Iterator
from typing import assert_never

from nixfleet.model.ids import Digest, Fingerprint, matches
from nixfleet.model.statements import Action, Control, Device, Grant, Release, Revoke, Rollout, Root, Statement
from nixfleet.trust import sshsig
from nixfleet.trust.access import reaches
from nixfleet.trust.proposals import may_sign, proposals
from nixfleet.trust.replay import foresee
from nixfleet.trust.replay.links import EVERYTHING, SHOWN, Over, lacking
from nixfleet.trust.replay.rights import (
    Allowed,
    Denied,
    all_names_of,
    approvals_missing,
    authorise_over,
    candidates,
    grants,
    names_of,
    principal_of,
    signers,
)
from nixfleet.trust.replay.select import right_of, tag_sets
from nixfleet.trust.replay.state import State
from nixfleet.trust.statements import digest, parse

_APPROVE: Action = "approve"


def unmet(state: State, payload: bytes, now: int) -> tuple[str, ...]:
    """Say what a statement in the log lacks of signatures, once for each kind of device; nothing when it has them all.

    A rollout or a release is judged at use, for each set of tags that it could be used on.
    """
    waiting = (one.waits for one in state.pending.get(sshsig.message_digest(payload), ()))
    return (*waiting, *(reason for _, reason in _at_use(state, payload, now)))


def why_not(state: State, payload: bytes, key: Fingerprint, now: int) -> str:
    """Say why a key's signature over a statement would bring it no further, or nothing (trust.md, Approvals)."""
    sha512, statement = sshsig.message_digest(payload), parse(payload)
    who, by = principal_of(state, key), Fingerprint(statement.by)
    if isinstance(statement, Root):
        root = next((one for one in proposals(state) if one.sha512 == sha512), None)
        return "it waits for no signature" if root is None else may_sign(state, root, key)
    if key in state.revoked_keys:
        return f"the key {key} is revoked"
    if not unmet(state, payload, now):
        return "it waits for no signature"
    if overtaken := _overtaken(state, statement):
        return overtaken
    after = foresee(state, sha512, key, now)
    if _lack(after, payload, statement, now) != _lack(state, payload, statement, now):
        return ""
    signed = [
        one for one in signers(state, by, sha512) if one == key or names_of(state, one) & all_names_of(state, key)
    ]
    if by in signed:
        return f"{who} has submitted it, and nobody approves what is their own"
    if signed:
        return f"{who} has signed it already"
    return _reason(state, payload, statement, key, now)


def _overtaken(state: State, statement: Statement) -> str:
    """Say that another change of a device was complete first, or nothing: then no signature completes this one."""
    if not isinstance(statement, Device) or statement.device not in state.devices:
        return ""
    now = state.devices[statement.device].statement
    if statement.version > now.version:
        return ""
    return (
        f"another change of {now.name} is in force since, and this one no longer follows: sign it anew if still wanted"
    )


def _lack(state: State, payload: bytes, statement: Statement, now: int) -> tuple[object, ...]:
    """Give all that further signatures could change; an approval counts also before the root's own are complete."""
    return *unmet(state, payload, now), *_missing(state, payload, statement, now)


def _missing(state: State, payload: bytes, statement: Statement, now: int) -> list[int]:
    """Count the approvals that a root principal's act wants beside co-signatures, for each thing that it is over."""
    by, sha512 = Fingerprint(statement.by), sshsig.message_digest(payload)
    if by not in state.root_keys:
        return []
    action, overs = _needs(state, payload, statement, now)
    now = max(now, state.last_time)
    return [approvals_missing(state, Allowed(), by, action, over, now, sha512) for over in overs]


def _reason(state: State, payload: bytes, statement: Statement, key: Fingerprint, now: int) -> str:
    """Say what keeps a key, that has not signed yet, from counting."""
    who, by = principal_of(state, key), Fingerprint(statement.by)
    action, overs = _needs(state, payload, statement, now)
    for allowed in candidates(state, by, action, now, sshsig.message_digest(payload)):
        if isinstance(allowed, Denied):
            return f"it waits for signatures of root principals, and {who} is none"
        for link in allowed.chain[1:]:
            if names_of(state, Fingerprint(link.by)) & all_names_of(state, key):
                return f"{who} issued grant {link.id[:SHOWN]}, by which it is signed: somebody else has to approve it"
    return lacking(state, who, grants(state, key), _APPROVE, overs[0], now)


def _needs(state: State, payload: bytes, statement: Statement, now: int) -> tuple[Action, list[Over]]:
    """Tell which right stands behind a statement, and over what; of an update, where signatures are missing."""
    match statement:
        case Release():
            return "release", [over for over, _ in _at_use(state, payload, now)]
        case Rollout(kind=kind):
            return kind, [over for over, _ in _at_use(state, payload, now)]
        case Device(version=version):
            return "enroll" if version == 1 else "device", [Over(tags=(statement.tags,), name=statement.name)]
        case Control():
            one = state.rollouts.get(state.prefixes.get(statement.rollout[:32], Digest("")))
            return "control", [EVERYTHING if one is None else Over(select=one.statement.select)]
        case Grant():
            return "grant", [Over(select=statement.select)]
        case Revoke(subject=subject):
            record = state.grants.get(subject.grant or "")
            return "revoke", [EVERYTHING if record is None else Over(select=record.statement.select)]
        case Root():
            raise AssertionError("roots are judged by `proposals`")
        case _:
            assert_never(statement)


def _at_use(state: State, payload: bytes, now: int) -> Iterator[tuple[Over, str]]:
    """Yield over what an update's signatures do not suffice, and could, and what they lack."""
    one, release = state.rollouts.get(digest(payload)), state.releases.get(digest(payload))
    now = max(now, state.last_time)
    for tags in tag_sets(state) if one is not None or release is not None else ():
        over = Over(tags=(tags,))
        if one is not None:
            if one.cancelled or not matches(one.statement.select, tags):
                continue
            right = right_of(state, one, tags, now)
        elif release is not None and reaches(state, release, tags):
            place = release.place
            right = authorise_over(state, place.signer, "release", over, now, place.sha512)
        else:
            continue
        if isinstance(right, Denied) and right.waits:
            yield over, right.reason
