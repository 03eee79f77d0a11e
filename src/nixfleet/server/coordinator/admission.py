"""What a coordinator turns away before replay sees it, and what it turns away though replay would take it.

Before: who nobody has named, so that strangers cost no work. After: what only who holds every payload can judge; an
agent does not see other devices' statements (trust.md, Replay), so replay must not tell whether a name is taken.
Pure; it must never let in what replay has voided, nor judge by anything that is not in the log.
"""

from nixfleet.errors import Untrusted
from nixfleet.model.ids import Digest, Fingerprint
from nixfleet.model.statements import Device, Rollout, Root, Statement
from nixfleet.model.wire import Submission
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Subject, subject_of
from nixfleet.trust.replay import State
from nixfleet.trust.replay.rights import alive, grants
from nixfleet.trust.replay.state import keys_of
from nixfleet.trust.sshsig import Signature, parse_public_key

_SHOWN = 12
"""Digits of an id or a digest that tell it apart for people."""


def unheard(state: State, submission: Submission, now: int) -> str:
    """Say why a statement cannot enter whatever its payload says, by its signature alone, or nothing.

    It costs no more than one signature; what passes is judged in full. Raises: Untrusted when it is no signature.
    """
    signature = sshsig.parse(submission.signature)
    subject, signer = subject_of(signature.namespace), Fingerprint(signature.key.fingerprint)
    if subject is None:
        return "its namespace is not one of a statement"
    if not _named(state, signer, subject):
        return f"neither root nor grant names its key ({signer})"
    if not verified(signature, submission.payload):
        return "its signature does not verify"
    if signer in state.revoked_keys:
        return f"its key is revoked ({signer})"
    if _by_grants_alone(state, signer, subject) and not any(alive(state, one, now) for one in grants(state, signer)):
        return f"no grant of its key is live ({signer})"
    return ""


def accountable(state: State, submission: Submission) -> bool:
    """Tell whether a refusal is the signer's own doing: a key that the log names, and its true signature."""
    signature = sshsig.parse(submission.signature)
    subject, signer = subject_of(signature.namespace), Fingerprint(signature.key.fingerprint)
    return subject is not None and _named(state, signer, subject) and verified(signature, submission.payload)


def verified(signature: Signature, payload: bytes) -> bool:
    """Tell whether a signature is over a payload."""
    try:
        sshsig.check(signature, sshsig.message_digest(payload))
    except Untrusted:
        return False
    return True


def _named(state: State, signer: Fingerprint, subject: Subject) -> bool:
    """Tell whether the log names a key at all, live or not."""
    return signer in state.grants_of or not _by_grants_alone(state, signer, subject)


def _by_grants_alone(state: State, signer: Fingerprint, subject: Subject) -> bool:
    """Tell whether a key is neither root's, nor that of the device in question, nor one that joins root."""
    if signer in state.root_keys:
        return False
    if subject.type == "device":
        record = state.devices.get(subject.id)
        return record is None or record.key != signer
    return subject.type != "approve" or not any(
        isinstance(one.statement, Root) and signer in keys_of(one.statement) for one in state.pending.values()
    )


def fault(state: State, statement: Statement, before: Device | None) -> str:
    """Say why a statement that replay takes may not enter, or nothing.

    `state` is the log with the statement in it; `before` is the device's statement before this one. An approval is
    judged by the statement that it approves: what has waited may find its name taken.
    """
    if isinstance(statement, Device):
        return _device(state, statement, before)
    if isinstance(statement, Rollout) and statement.release is not None:
        known = Digest(statement.release) in state.releases
        return "" if known else f"the release {statement.release[:_SHOWN]} is not in the log: append it first"
    return ""


def _device(state: State, statement: Device, before: Device | None) -> str:
    """Compare what a device newly claims with what other unretired ones have (trust.md, Enrolment)."""
    if statement.state == "retired":
        return ""
    if before is None or before.name != statement.name:
        for holder in state.named(statement.name):
            if holder != statement.device:
                return _name_taken(statement.name, holder, joins=before is None)
    if before is None or before.key != statement.key:
        fingerprint = Fingerprint(parse_public_key(statement.key).fingerprint)
        owner = state.device_of(fingerprint)
        if owner is not None and owner != statement.device:
            return f"the key {fingerprint} is that of {state.devices[owner].statement.name}: each device has its own"
    return ""


def _name_taken(name: str, holder: str, *, joins: bool) -> str:
    taken = f"the name {name} is taken by device {holder[:_SHOWN]}"
    remedy = f"an admin decides: nixfleet enroll {name} --replace" if joins else "rename or retire that one first"
    return f"{taken}; {remedy}"
