"""What root, grant, revoke and device statements may do, judged at the leaf that completes them.

Each function returns a verdict and, when valid, lets the statement take effect. It must never judge an envelope:
that is done before. Rules are trust.md's, Statements.
"""

from typing import Final

from nixfleet.model.ids import PROTOCOL, Fingerprint, Tags, matches
from nixfleet.model.statements import Action, Device, Grant, Revoke, Root
from nixfleet.model.text import counted
from nixfleet.trust import fields
from nixfleet.trust.replay import rights
from nixfleet.trust.replay.links import (
    EVERYTHING,
    SHOWN,
    Over,
    beyond,
    dead_words,
    right_words,
    tag_words,
)
from nixfleet.trust.replay.rights import Allowed, Denied
from nixfleet.trust.replay.select import rule_fault
from nixfleet.trust.replay.state import (
    DeviceRecord,
    GrantRecord,
    Place,
    RolloutState,
    State,
    Valid,
    Verdict,
    Void,
    Waiting,
    keys_of,
)

_TOKEN: Final[tuple[Action, ...]] = ("enroll",)


def root(state: State, at: Place, statement: Root) -> Verdict:
    """Judge a root: it takes effect with the thresholds of the old and of the new version."""
    keys = keys_of(statement)
    if state.root is None:
        if statement.version != 1:
            return Void("root 1 still waits for co-signatures")
        if at.signer not in keys:
            return Void("root 1 is signed by none of its principals")
        state.genesis, state.root_keys = statement, keys
        state.log_keys = ((1, statement.log.key, statement.log.epoch),)
    elif at.signer not in state.root_keys:
        return Void("a root is signed by a root principal")
    else:
        fault = _successor_fault(state, state.root, statement)
        if fault:
            return Void(fault)
    signed = rights.signers(state, at.signer, at.sha512)
    missing = rights.threshold_missing(state, statement, keys, signed)
    if state.root is not None:
        missing = max(missing, rights.threshold_missing(state, state.root, state.root_keys, signed))
    if missing:
        return Waiting(statement, rights.cosignatures_words(missing))
    if state.root is not None:
        state.log_keys = (*state.log_keys, (at.index + 1, statement.log.key, statement.log.epoch))
    state.root, state.root_keys, state.genesis = statement, keys, None
    if statement.protocol > PROTOCOL:
        # trust.md, Versions: what comes after is for newer software to judge.
        state.stopped_at = at.index
    return Valid(statement)


def _successor_fault(state: State, old: Root, new: Root) -> str:
    if new.version != old.version + 1:
        return f"root {new.version} does not follow root {old.version}"
    if new.protocol < old.protocol:
        return "the protocol never goes back"
    if new.log.epoch not in {old.log.epoch, old.log.epoch + 1}:
        return f"epoch {new.log.epoch} does not follow epoch {old.log.epoch}"
    # trust.md, Losing: a new epoch takes up the log where the lost one is known.
    if new.log.from_ != (new.base if new.log.epoch > old.log.epoch else None):
        return "a new epoch, and it alone, says where it takes up the log"
    live = {name for key, name in keys_of(new).items() if key not in state.revoked_keys}
    if len(live) < new.threshold:
        return "too few of its principals have a key that is not revoked"
    return ""


def grant(state: State, at: Place, statement: Grant) -> Verdict:
    """Judge a grant: from the root's threshold, or from a holder of its parent and within that."""
    if statement.id in state.grants:
        return Void(f"grant {statement.id} exists already")
    over = Over(select=statement.select)
    if rights.note_missing(state, "grant", over, statement.note):
        return Void("a rule asks for a note")
    if statement.parent is None:
        denied = _root_signed(state, at, statement, over)
        if denied is not None:
            return denied
        return _add_grant(state, at, statement, statement.to.name, (statement,))
    parent = state.grants.get(statement.parent)
    if parent is None:
        return Void(f"its parent {statement.parent} is not a grant of this log")
    if not rights.holds(parent, at.signer):
        return Void(f"{_who(state, at)} does not hold grant {statement.parent[:SHOWN]}, from which it hands on")
    dead = dead_words(state, parent, at.log_time)
    if dead:
        return Void(f"{_who(state, at)} cannot hand on: {dead}")
    wider = beyond(parent.statement, statement)
    if wider:
        return Void(f"it goes beyond its parent {statement.parent[:SHOWN]}, which {wider}")
    allowed = Allowed(parent.links)
    missing = rights.approvals_missing(state, allowed, at.signer, "grant", over, at.log_time, at.sha512)
    if missing:
        return Waiting(statement, rights.approvals_words(missing))
    # trust.md, Approvals: principals are named by root, or issuer/name.
    return _add_grant(state, at, statement, f"{parent.principal}/{statement.to.name}", (*parent.links, statement))


def _root_signed(state: State, at: Place, statement: Grant | Revoke, over: Over) -> Verdict | None:
    """Return None when the root's threshold stands behind an act, and what its rules demand."""
    if at.signer not in state.root_keys:
        return Void(_only_root(state, at, statement, over))
    missing = rights.cosignatures_missing(state, at.signer, at.sha512)
    if missing:
        return Waiting(statement, rights.cosignatures_words(missing))
    action: Action = "grant" if isinstance(statement, Grant) else "revoke"
    missing = rights.approvals_missing(state, Allowed(), at.signer, action, over, at.log_time, at.sha512)
    return Waiting(statement, rights.approvals_words(missing)) if missing else None


def _only_root(state: State, at: Place, statement: Grant | Revoke, over: Over) -> str:
    """Say whose an act is that somebody short of the root tried."""
    lacks = f"{_who(state, at)} lacks the right to"
    if isinstance(statement, Grant):
        return f"{lacks} grant {statement.to.name} anything by itself: it hands on from a grant of its own (parent)"
    if statement.subject.grant is not None:
        others = f"its holder, an issuer above it, or who may revoke over {over.words}"
        return f"{lacks} revoke grant {statement.subject.grant[:SHOWN]}: that is for the root, {others}"
    own = "its own principal" if statement.subject.key in state.root_keys else "who may revoke over all devices"
    return f"{lacks} revoke the key {statement.subject.key}: that is for the root, the key itself, or {own}"


def _who(state: State, at: Place) -> str:
    return rights.principal_of(state, at.signer)


def _add_grant(state: State, at: Place, statement: Grant, principal: str, links: tuple[Grant, ...]) -> Verdict:
    record = GrantRecord(at, statement, principal, links)
    state.grants[statement.id] = record
    for text in statement.to.keys:
        key = fields.fingerprint(text)
        state.grants_of[key] = (*state.grants_of.get(key, ()), record)
    return Valid(statement)


def revoke(state: State, at: Place, statement: Revoke) -> Verdict:
    """End a grant or a key: the root may, and who `_may_end_grant` or `_may_end_key` names."""
    grant_id, key = statement.subject.grant, statement.subject.key
    if grant_id is not None:
        return _end_grant(state, at, statement, grant_id)
    assert key is not None
    return _end_key(state, at, statement, Fingerprint(key))


def _end_grant(state: State, at: Place, statement: Revoke, grant_id: str) -> Verdict:
    record = state.grants.get(grant_id)
    if record is None:
        return Void(f"grant {grant_id} is not of this log")
    if grant_id in state.revoked_grants:
        return Void(f"grant {grant_id} is revoked already")
    over = Over(select=record.statement.select)
    denied = _end_denied(state, at, statement, over, permitted=_may_end_grant(state, at, record))
    if denied is None:
        state.revoked_grants[grant_id] = at.index
    return denied or Valid(statement)


def _end_key(state: State, at: Place, statement: Revoke, key: Fingerprint) -> Verdict:
    if key in state.revoked_keys:
        return Void(f"the key {key} is revoked already")
    if _leaves_no_root(state, key):
        return Void("too few root keys would be left; sign a new root first")
    denied = _end_denied(state, at, statement, EVERYTHING, permitted=_may_end_key(state, at, key))
    if denied is None:
        state.revoked_keys[key] = at.index
    return denied or Valid(statement)


def _end_denied(state: State, at: Place, statement: Revoke, over: Over, *, permitted: bool) -> Verdict | None:
    """Return None when a revocation may take effect; `permitted`: its signer stands where no right is needed."""
    if rights.note_missing(state, "revoke", over, statement.note):
        return Void("a rule asks for a note")
    if permitted:
        return None
    subject = statement.subject.key
    if subject is None or subject not in state.root_keys:
        # A right like others, so what rules ask for beyond it binds; the root's own comes with its threshold, below.
        right = rights.authorise_over(
            state, at.signer, "revoke", over, at.log_time, at.sha512, fits=lambda allowed: bool(allowed.chain)
        )
        if isinstance(right, Allowed):
            return None
        if right.waits and at.signer not in state.root_keys:
            return Waiting(statement, right.reason)
    return _root_signed(state, at, statement, over)


def _leaves_no_root(state: State, key: Fingerprint) -> bool:
    if state.root is None or key not in state.root_keys:
        return False
    left = {name for one, name in state.root_keys.items() if one != key and one not in state.revoked_keys}
    return len(left) < state.root.threshold


def _may_end_grant(state: State, at: Place, record: GrantRecord) -> bool:
    """Tell whether a grant is its signer's own to end: its holder's, or an issuer's above."""
    return rights.holds(record, at.signer) or _issuer_above(state, at, record)


def _may_end_key(state: State, at: Place, key: Fingerprint) -> bool:
    """Tell whether a key is its signer's own to end, fleet-wide and for ever.

    The key itself, or a root key of the same person. Others need `revoke` over everything, and a root key only the
    root's threshold ends for others. An issuer ends the grants that it made, never a key: a grant can name any key,
    a device's or the next root's, and whether a key is a device's is not known to every party, so no rule may
    depend on it.
    """
    same = key in state.root_keys and state.root_keys.get(at.signer) == state.root_keys[key]
    return at.signer == key or same


def _issuer_above(state: State, at: Place, record: GrantRecord) -> bool:
    above = (state.grants[link.id] for link in record.links[:-1])
    return any(rights.holds(link, at.signer) and rights.alive(state, link, at.log_time) for link in above)


def device(state: State, at: Place, statement: Device) -> Verdict:
    """Judge a device: it enters by `enroll`, changes by `device`, and may change its own key."""
    old = state.devices.get(statement.device)
    if old is None:
        if statement.version != 1:
            return Void("the device is not enrolled")
        denied = _enroll(state, at, statement)
    else:
        if statement.version != old.statement.version + 1:
            return Void(f"version {statement.version} does not follow {old.statement.version}")
        if old.statement.state == "retired":
            return Void("the device is retired; enrol the machine under a new id")
        denied = _change(state, at, old, statement)
    if denied is not None:
        return denied
    _set_device(state, at, old, statement)
    return Valid(statement)


def _enroll(state: State, at: Place, statement: Device) -> Verdict | None:
    over = Over(tags=(statement.tags,), name=statement.name)
    if rights.note_missing(state, "enroll", over, statement.note):
        return Void("a rule asks for a note")
    unfit: list[str] = []

    def fits(allowed: Allowed) -> bool:
        last = allowed.chain[-1] if allowed.chain else None
        if last is None or last.actions != _TOKEN:
            return True
        # trust.md, Enrolment: a token gives exactly the tags of its selector, and so many devices.
        if statement.tags.keys() != last.select.keys():
            unfit.append(f"its token gives exactly the tags {', '.join(sorted(last.select)) or 'none'}")
        elif last.max_uses is not None and state.uses.get((at.signer, statement.device), 0) > last.max_uses:
            unfit.append(f"its token is used up ({counted(last.max_uses, 'use')})")
        else:
            return True
        return False

    right = rights.authorise_over(state, at.signer, "enroll", over, at.log_time, at.sha512, fits)
    if isinstance(right, Denied) and not right.waits and unfit:
        return Void(f"{_who(state, at)} lacks the right to {right_words('enroll', over)}: {unfit[0]}")
    return _verdict(right, statement)


def _change(state: State, at: Place, old: DeviceRecord, statement: Device) -> Verdict | None:
    before = old.statement
    if at.signer == old.key and _only_key_changes(before, statement):
        return None
    retagged = f"{before.name} as {tag_words(statement.tags) or 'untagged'}"
    for tags, name in ((before.tags, before.name), (statement.tags, retagged)):
        over = Over(tags=(tags,), name=name)
        if rights.note_missing(state, "device", over, statement.note):
            return Void("a rule asks for a note")
        right = rights.authorise_over(state, at.signer, "device", over, at.log_time, at.sha512)
        if isinstance(right, Denied):
            return _verdict(right, statement)
    if statement.tags != before.tags and newly_covered(state, at.log_time, before, statement):
        over = Over(tags=(statement.tags,), name=retagged)
        return _verdict(rights.authorise_over(state, at.signer, "deploy", over, at.log_time, at.sha512), statement)
    return None


def _only_key_changes(before: Device, after: Device) -> bool:
    same = (before.name, before.tags, before.state, before.until) == (after.name, after.tags, after.state, after.until)
    return same and before.key != after.key


def newly_covered(state: State, now: int, before: Device, after: Device) -> bool:
    """Tell whether new tags bring a device under a rollout that could stand, and did not apply to it as it was.

    One that selected it by its old tags without a right, an approval or what a rule asks did not apply. Whether it
    was cancelled is left out: an agent need not know the controls of rollouts that did not cover it.
    """
    applied = _Applied(state, before.tags, now)
    return any(
        now <= rollout.statement.not_after and matches(rollout.statement.select, after.tags) and not applied(rollout)
        for rollout in state.rollouts.values()
    )


class _Applied:
    """Which rollouts count for devices with the same tags at one moment, by what every party knows of them."""

    def __init__(self, state: State, tags: Tags, now: int) -> None:
        self._state, self._tags, self._now = state, tags, now
        self._over = Over(tags=(tags,))
        self._known: dict[tuple[Fingerprint, Action], bool] = {}
        """Of rights that no further signature could change: a year of rollouts is by the same few keys."""

    def __call__(self, one: RolloutState) -> bool:
        """Tell whether a rollout counts."""
        if not matches(one.statement.select, self._tags):
            return False
        by = one.place.signer, one.statement.kind
        if by in self._known:
            return self._known[by]
        state, over = self._state, self._over
        right = rights.authorise_over(state, *by, over, self._now, one.place.sha512)
        counts = isinstance(right, Allowed) and not rule_fault(state, one.statement, self._tags)
        ruled = rights.rules(state, one.statement.kind, over)
        if not ruled and (one.place.signer not in state.root_keys or rights.root_acts_alone(state)):
            self._known[by] = counts
        return counts


def _set_device(state: State, at: Place, old: DeviceRecord | None, statement: Device) -> None:
    enrolled_at = old.enrolled_at if old is not None else at.log_time
    record = DeviceRecord(at, statement, fields.fingerprint(statement.key), enrolled_at)
    state.devices[statement.device] = record
    if old is not None:
        left = tuple(one for one in state.names.get(old.statement.name, ()) if one != statement.device)
        if left:
            state.names[old.statement.name] = left
        else:
            state.names.pop(old.statement.name, None)
        if state.device_keys.get(old.key) == statement.device:
            del state.device_keys[old.key]
    if statement.state != "retired":
        state.names[statement.name] = (*state.names.get(statement.name, ()), statement.device)
        # The first holder keeps a key: a statement that names another device's key does not take it over.
        state.device_keys.setdefault(record.key, statement.device)


def _verdict(right: Allowed | Denied, statement: Device) -> Verdict | None:
    """Turn a missing right into a verdict."""
    if isinstance(right, Allowed):
        return None
    return Waiting(statement, right.reason) if right.waits else Void(right.reason)
