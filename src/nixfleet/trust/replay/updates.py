"""What release, rollout and control statements do to the state; releases and controls may be read late.

A release's or rollout's right is judged again at use (`select`); here it only enters. A control acts on its rollout
in the order of effect, so one whose payload is not held keeps all later ones of that rollout unread.
"""

from collections.abc import Callable
from dataclasses import replace

from nixfleet.model.ids import Digest
from nixfleet.model.statements import Control, Release, Rollout, Root
from nixfleet.trust.replay import rights
from nixfleet.trust.replay.links import Over
from nixfleet.trust.replay.rights import Denied
from nixfleet.trust.replay.state import (
    ControlRecord,
    Place,
    ReleaseRecord,
    RolloutState,
    State,
    Unknown,
    Valid,
    Verdict,
    Void,
    Waiting,
)


def release(state: State, at: Place, statement: Release, digest: Digest, root: Root | None) -> Verdict:
    """Judge a release: it names only caches of the root in force at its place."""
    if root is None or not set(statement.caches) <= set(root.caches):
        return Void("it names a cache that the root does not")
    state.releases[digest] = ReleaseRecord(digest, at, statement)
    state.release_of[at.sha512] = digest
    return Valid(statement)


def rollout(state: State, at: Place, statement: Rollout, digest: Digest) -> Verdict:
    """Judge a rollout: its signer may do its kind to something, and a rollback names an earlier rollout."""
    if reason := rights.lacks_everywhere(state, at.signer, (statement.kind,), at.log_time):
        return Void(reason)
    if digest[:32] in state.prefixes:
        return Void("another rollout's digest begins the same")
    if statement.of is not None and Digest(statement.of) not in state.rollouts:
        return Void("the rollout that it takes back is not of this log")
    state.prefixes[digest[:32]] = digest
    state.rollouts[digest] = RolloutState(digest, at, statement)
    return Valid(statement)


def control_leaf(state: State, place: Place, at: Place, subject: str, statement: Control | None) -> Verdict:
    """Judge a control's right, which its leaf alone tells; `at` is the leaf that completes it."""
    digest = state.prefixes.get(subject)
    if digest is None:
        return Void("the rollout that it controls is not of this log")
    one = state.rollouts[digest]
    over = Over(select=one.statement.select)
    right = rights.authorise_over(state, place.signer, "control", over, at.log_time, place.sha512)
    if isinstance(right, Denied):
        return Waiting(statement, right.reason) if right.waits else Void(right.reason)
    note_required = any(rule.note_required for rule in rights.rules(state, "control", over))
    record = ControlRecord(place, statement, note_required)
    if statement is None or one.unread:
        state.rollouts[digest] = replace(one, unread=(*one.unread, record))
        return Unknown()
    state.rollouts[digest], verdict = _control(one, record, statement)
    return verdict


def read_control(
    state: State, sha512: bytes, payload: Digest, statement: Control, fault_of: Callable[[Place], str]
) -> Verdict:
    """Take in a control payload that came later than its leaf, and all that waited behind it."""
    verdict: Verdict = Void("no entry waits for this payload")
    waiting = []
    for pending in state.pending.get(sha512, ()):
        # By another key than it names is a fault too: that leaf goes, one by the right key stays.
        fault = fault_of(pending.place)
        if fault:
            verdict = Void(fault)
        else:
            waiting.append(replace(pending, statement=statement, digest=payload))
    state.await_signatures(sha512, waiting)
    if waiting:
        verdict = Waiting(statement, waiting[-1].waits)
    digest = state.prefixes.get(statement.rollout[:32])
    one = state.rollouts.get(digest) if digest is not None else None
    if one is None or all(record.place.sha512 != sha512 for record in one.unread):
        return verdict
    verdict = Unknown()
    unread: list[ControlRecord] = []
    for record in one.unread:
        if record.place.sha512 != sha512 or record.statement is not None:
            unread.append(record)
            continue
        fault = fault_of(record.place)
        if fault:
            verdict = Void(fault)
        else:
            unread.append(replace(record, statement=statement))
    one = replace(one, unread=())
    while unread and unread[0].statement is not None:
        record = unread.pop(0)
        assert record.statement is not None
        one, judged = _control(one, record, record.statement)
        verdict = judged if record.place.sha512 == sha512 else verdict
    state.rollouts[one.digest] = replace(one, unread=tuple(unread))
    return verdict


def _control(one: RolloutState, record: ControlRecord, statement: Control) -> tuple[RolloutState, Verdict]:
    """Let a control take effect: `seq` must be 1 + the controls in effect, so a withheld one cannot surface later."""
    if statement.rollout != one.digest:
        return one, Void("the rollout that it controls is not of this log")
    if statement.seq != one.controls + 1:
        return one, Void(f"control {statement.seq} does not follow control {one.controls}")
    if record.note_required and not (statement.note or "").strip():
        return one, Void("a rule asks for a note")
    if one.cancelled:
        return one, Void("the rollout is cancelled")
    if statement.wave is not None and statement.wave > len(one.statement.waves):
        return one, Void(f"the rollout has {len(one.statement.waves)} waves, not {statement.wave}")
    return _effect(replace(one, controls=one.controls + 1), record, statement), Valid(statement)


def _effect(one: RolloutState, record: ControlRecord, statement: Control) -> RolloutState:
    match statement.verb:
        case "pause":
            return replace(one, paused=True)
        case "resume":
            return replace(one, paused=False, resumed=one.resumed + 1)
        case "advance":
            assert statement.wave is not None
            return replace(one, advanced=one.advanced | {statement.wave})
        case "retry":
            assert statement.devices is not None
            named = statement.devices if statement.devices == "failed" else frozenset(statement.devices)
            return replace(one, retries=(*one.retries, (record.place.index, named)))
        case "cancel":
            return replace(one, cancelled=True)
