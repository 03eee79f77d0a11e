"""`replay`: one leaf, one verdict, the state moved on. Pure and total: every leaf has a verdict, none raises.

What a leaf alone tells is judged before its payload is looked at, in the same way for everybody: so a party that
holds only some payloads reaches the same verdicts on those (trust.md, Replay). It must never let a payload that an
agent does not need change a verdict on one that it does.
"""

from dataclasses import replace
from typing import assert_never

from nixfleet.errors import Untrusted
from nixfleet.model.ids import BASE_WINDOW, Fingerprint, FleetId
from nixfleet.model.statements import Action, Control, Device, Grant, Release, Revoke, Rollout, Root, Statement
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf, LeafType, Subject, subject_of
from nixfleet.trust.replay import rights, rules, updates
from nixfleet.trust.replay.state import (
    Approval,
    Mark,
    Pending,
    Place,
    State,
    Unknown,
    Valid,
    Verdict,
    Void,
    Waiting,
    Withheld,
    mark_of,
    own_mark_of,
)
from nixfleet.trust.statements import Malformed, digest, parse, subject_named

AT_BEFORE_MAX_S = 24 * 3_600
AT_AFTER_MAX_S = 300
ESSENTIAL: frozenset[LeafType] = frozenset({"root", "grant", "revoke", "rollout"})
"""Types whose payload everybody needs (trust.md, Replay)."""

_RIGHTS: dict[LeafType, tuple[Action, ...]] = {"release": ("release",), "rollout": ("deploy", "rollback")}


_UNKNOWN = Unknown()
_NEEDED = Unknown(needed=True)
"""Made once: most entries of a long log are unknown to a device."""


def replay(state: State, index: int, leaf: Leaf | bytes, payload: bytes | None) -> Verdict:
    """Append one leaf to the state and judge it; a payload that does not fit the leaf counts as not held."""
    assert index == state.size, "leaves are replayed in order"
    data = leaf if isinstance(leaf, bytes) else leaf.pack()
    try:
        opened = Leaf.unpack(data)
    except Untrusted as error:
        state.tree.append(data)
        return Void(str(error))
    if state.blind_at is not None or state.stopped_at is not None:
        verdict: Verdict = _NEEDED
    elif opened.log_time < state.last_time:
        # trust.md, Log: log time is the replay's only clock and never goes back.
        verdict = Void("its log time is below that of an earlier statement")
    else:
        verdict = _leaf(state, index, opened, payload)
    # Last: rules read the tree as it was before this leaf.
    state.tree.append(data)
    return verdict


def _leaf(state: State, index: int, leaf: Leaf, payload: bytes | None) -> Verdict:
    """Judge by the leaf alone: namespace, who may speak, signature, repeats."""
    try:
        signature = sshsig.parse(leaf.sshsig)
    except Untrusted as error:
        return Void(str(error))
    subject = subject_of(signature.namespace)
    if subject is None:
        return Void("its namespace is not one of a statement")
    place = Place(index, leaf.log_time, Fingerprint(signature.key.fingerprint), leaf.sha512)
    if payload is not None and sshsig.message_digest(payload) != leaf.sha512:
        payload = None
    unheard = _unheard(state, place, subject, held=payload is not None)
    if unheard is not None:
        return unheard
    try:
        sshsig.check(signature, leaf.sha512)
    except Untrusted as error:
        return Void(str(error))
    repeat = _remember(state, place, subject)
    if repeat is not None:
        return Void(f"it repeats entry {repeat}")
    if subject.type == "device":
        _count_use(state, place, subject.id)
    if subject.type == "approve":
        return _approve(state, place)
    if payload is None:
        return _without_payload(state, place, subject)
    return _with_payload(state, place, subject, payload)


def _unheard(state: State, place: Place, subject: Subject, *, held: bool) -> Verdict | None:
    """Turn away keys that nobody named, before a signature is checked or a payload wanted (trust.md, Replay)."""
    signer, now = place.signer, place.log_time
    if state.log_root is None:
        return None if place.index == 0 and subject.type == "root" else Void("the log does not begin with root 1")
    strange = signer not in state.revoked_keys and not rights.named(state, signer, subject)
    if strange and not held and subject.type == "device" and subject.id not in state.devices:
        # A device that this party does not follow may sign with its own key.
        return _UNKNOWN
    if reason := rights.silenced(state, signer, subject, now):
        return Void(reason)
    wanted = _RIGHTS.get(subject.type)
    if wanted and (reason := rights.lacks_everywhere(state, signer, wanted, now)):
        return Void(reason)
    return None


def _remember(state: State, place: Place, subject: Subject) -> int | None:
    """Return the index that a leaf repeats within the base window, or note it; a payload's own key comes first."""
    while state.order and state.order[0][0] < place.index - BASE_WINDOW:
        _forget(state, *state.order.popleft())
    approve = subject.type == "approve"
    # Who does not follow a device cannot tell its own key from a stranger's: what that signs marks nothing for others.
    own = subject.type == "device" and rights.by_device_alone(state, place.signer)
    key = own_mark_of(place.sha512, place.signer) if own else mark_of(place.sha512, place.signer, approves=approve)
    repeat = state.recent.get(key)
    if repeat is not None:
        return repeat
    shared = None if approve or own else place.sha512
    state.recent[key] = place.index
    if shared is not None:
        state.recent[shared] = place.index
    state.order.append((place.index, key, shared))
    return None


def _forget(state: State, index: int, key: Mark, shared: bytes | None) -> None:
    """Take out what an entry has put among the recent ones, but for what a later one has put there anew."""
    for one in (key, shared):
        if one is not None and state.recent.get(one) == index:
            del state.recent[one]
    if shared in state.pending:  # no approval can complete it any more
        assert shared is not None
        state.await_signatures(shared, [one for one in state.pending[shared] if one.place.index > index])


def _count_use(state: State, place: Place, device: str) -> None:
    """Count the device ids that a counted key claims, valid or not, which leaves alone tell (trust.md, Statements)."""
    use = place.signer, device
    if use not in state.uses and any(
        # Only while live: else a device's own key would be counted by those alone who follow that device.
        one.statement.max_uses is not None and rights.alive(state, one, place.log_time)
        for one in rights.grants(state, place.signer)
    ):
        state.use_counts[place.signer] = state.uses[use] = state.use_counts.get(place.signer, 0) + 1


def _approve(state: State, place: Place) -> Verdict:
    """Note a further signature, and judge again what waited for it."""
    if place.sha512 not in state.recent:
        return Void(f"it approves nothing of the last {BASE_WINDOW} entries")
    lacks = rights.lacks_everywhere(state, place.signer, ("approve",), place.log_time)
    if lacks and not rights.joins_root(state, place.signer):
        return Void(lacks)
    approval = Approval(place.index, place.log_time, place.signer)
    state.approvals[place.sha512] = (*state.approvals.get(place.sha512, ()), approval)
    verdict: Verdict = Valid(None)
    left = []
    for waiting in state.pending.get(place.sha512, ()):
        judged = _complete(state, place, waiting)
        if isinstance(judged, Waiting):
            left.append(replace(waiting, waits=judged.reason))
        elif isinstance(judged, Valid):
            state.completed[waiting.place.index] = place.index
        verdict = Valid(waiting.statement) if isinstance(judged, Waiting) else judged
    state.await_signatures(place.sha512, left)
    return verdict


def foresee(state: State, sha512: bytes, signer: Fingerprint, now: int) -> State:
    """Give a copy of the state as one more signature over a payload would leave it, to tell if it is worth asking for.

    Who may not speak at all leaves it as it is.
    """
    after = state.copy()
    if not rights.silenced(state, signer, Subject("approve", ""), now):
        _approve(after, Place(state.size, max(now, state.last_time), signer, sha512))
    return after


def _complete(state: State, place: Place, waiting: Pending) -> Verdict:
    """Judge once more what waits for signatures, at the leaf of one that came."""
    completing = Place(place.index, place.log_time, waiting.place.signer, place.sha512)
    if waiting.type == "control":
        control = waiting.statement
        assert control is None or isinstance(control, Control)
        return updates.control_leaf(state, waiting.place, completing, waiting.subject, control)
    assert waiting.statement is not None
    return _apply(state, completing, waiting.statement)


def _without_payload(state: State, place: Place, subject: Subject) -> Verdict:
    """Keep what a later payload will be judged by; stop where everybody needs it."""
    if subject.type in ESSENTIAL or (subject.type == "device" and subject.id == state.own):
        # Without its own a device would not hear that it is held, retired or tagged anew (trust.md, Replay).
        state.blind_at = place.index
        return _NEEDED
    if subject.type == "release":
        if state.root is not None:
            # By its signer too: a copy that another key has signed is void, and must not stand in for this one.
            state.withheld.setdefault(mark_of(place.sha512, place.signer, approves=False), Withheld(place, state.root))
    elif subject.type == "control":
        verdict = updates.control_leaf(state, place, place, subject.id, None)
        if isinstance(verdict, Waiting):
            _wait(state, Pending(place, None, "control", subject.id, verdict.reason, None))
        elif isinstance(verdict, Void):
            return verdict
    return _UNKNOWN


def _wait(state: State, one: Pending) -> None:
    """Keep what waits for signatures, beside copies of it: by which key it stands, its payload alone tells."""
    state.await_signatures(one.place.sha512, (*state.pending.get(one.place.sha512, ()), one))


def _with_payload(state: State, place: Place, subject: Subject, payload: bytes) -> Verdict:
    """Judge envelope and content."""
    try:
        statement = parse(payload)
    except Malformed as error:
        return Void(str(error))
    fault = envelope_fault(state, place, subject, statement, payload)
    if fault:
        return Void(fault)
    if isinstance(statement, Control):
        verdict: Verdict = updates.control_leaf(state, place, place, subject.id, statement)
    else:
        verdict = _apply(state, place, statement, payload)
    if isinstance(verdict, Waiting):
        _wait(state, Pending(place, statement, subject.type, subject.id, verdict.reason, digest(payload)))
    if subject.type in ESSENTIAL and not isinstance(verdict, Void):
        # The coordinator sets log times. What moves the clock is bound to a time that somebody with a right signed
        # (`at`, above), and is judged alike by everybody: an approval names no time, other payloads not all hold.
        state.last_time = place.log_time
    return verdict


def envelope_fault(state: State, place: Place, subject: Subject, statement: Statement, payload: bytes) -> str:
    """Say what is wrong with a statement's header at its place, or nothing (trust.md, Envelope and Log)."""
    if subject_named(statement) != subject:
        return "its signature is for another type or subject"
    if statement.by != place.signer:
        return "it is signed by another key than it names"
    if place.index == 0:
        return "" if FleetId(digest(payload)) == state.fleet else "it is not the root that the fleet id names"
    if statement.fleet != state.fleet:
        return "it is for another fleet"
    if state.log_root is not None and statement.v > state.log_root.protocol:
        # trust.md, Versions: void for all software, the newest too, until a root raises the protocol.
        return f"version {statement.v} is newer than the log's protocol {state.log_root.protocol}"
    if not -AT_AFTER_MAX_S <= place.log_time - statement.at <= AT_BEFORE_MAX_S:
        return "it was signed more than 24 h before its log time, or more than 5 min after"
    if not 0 <= place.index - statement.base.size <= BASE_WINDOW:
        return f"its base is not within the {BASE_WINDOW} entries before it"
    if state.tree.root(statement.base.size).hex() != statement.base.root:
        return "its base is not a state of this log"
    return ""


def _apply(state: State, at: Place, statement: Statement, payload: bytes | None = None) -> Verdict:
    """Judge a statement at the leaf that completes it, and let it take effect."""
    match statement:
        case Root():
            return rules.root(state, at, statement)
        case Grant():
            return rules.grant(state, at, statement)
        case Revoke():
            return rules.revoke(state, at, statement)
        case Device():
            return rules.device(state, at, statement)
        case Release():
            assert payload is not None
            return updates.release(state, at, statement, digest(payload), state.root)
        case Rollout():
            assert payload is not None
            return updates.rollout(state, at, statement, digest(payload))
        case Control():
            raise AssertionError("controls are judged by their leaf")
        case _:
            assert_never(statement)


def awaits(state: State, payload: bytes) -> int | None:
    """Tell which entry waits for a release's payload, None when none does."""
    try:
        withheld = state.withheld.get(_mark(sshsig.message_digest(payload), parse(payload)))
    except Malformed:
        return None
    return None if withheld is None else withheld.place.index


def _mark(sha512: bytes, statement: Statement) -> Mark:
    return mark_of(sha512, Fingerprint(statement.by), approves=False)


def supply(state: State, payload: bytes) -> Verdict:
    """Judge a release or control payload that came later than its leaf: the same verdict as in its place."""
    sha512 = sshsig.message_digest(payload)
    try:
        statement = parse(payload)
    except Malformed as error:
        return Void(str(error))
    subject = subject_named(statement)
    if isinstance(statement, Release):
        withheld = state.withheld.pop(_mark(sha512, statement), None)
        if withheld is None:
            return Void("no entry waits for this payload")
        fault = envelope_fault(state, withheld.place, subject, statement, payload)
        return (
            Void(fault) if fault else updates.release(state, withheld.place, statement, digest(payload), withheld.root)
        )
    if isinstance(statement, Control):
        return updates.read_control(
            state,
            sha512,
            digest(payload),
            statement,
            lambda place: envelope_fault(state, place, subject, statement, payload),
        )
    return Void("only releases and controls may come later")
