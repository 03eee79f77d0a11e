"""What a coordinator turns away before replay sees it, and what it turns away though replay would take it.

Before: who nobody has named, so that strangers cost no work. After: what only who holds every payload can judge; an
agent does not see other devices' statements (trust.md, Replay), so replay must not tell whether a name is taken.
Pure; it must never let in what replay has voided, nor judge by anything that is not in the log.
"""

from collections.abc import Callable

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.ids import PROTOCOL, Digest, Fingerprint
from nixfleet.model.statements import Device, Rollout, Root, Statement
from nixfleet.model.wire import Submission
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import subject_of, type_of
from nixfleet.trust.replay import State
from nixfleet.trust.replay.reach import may_delegate
from nixfleet.trust.replay.rights import named, silenced
from nixfleet.trust.reports import open_enroll
from nixfleet.trust.sshsig import PublicKey, Signature, parse_public_key

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
    # A stranger's signature is not worth checking.
    if named(state, signer, subject) and not verified(signature, submission.payload):
        return "its signature does not verify"
    return silenced(state, signer, subject, now)


def accountable(state: State, submission: Submission) -> bool:
    """Tell whether a refusal is the signer's own doing: a key that the log names, and its true signature."""
    signature = sshsig.parse(submission.signature)
    subject, signer = subject_of(signature.namespace), Fingerprint(signature.key.fingerprint)
    return subject is not None and named(state, signer, subject) and verified(signature, submission.payload)


def verified(signature: Signature, payload: bytes) -> bool:
    """Tell whether a signature is over a payload."""
    try:
        sshsig.check(signature, sshsig.message_digest(payload))
    except Untrusted:
        return False
    return True


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


def unproven(state: State, submission: Submission, statement: Statement, now: int) -> str:
    """Say why the key that a device statement names is no more than a claim, or nothing (adr/0011).

    A device changes its own key, and a token's holder enrols, without anybody who compares keys; so the new key has to
    ask for it, as this device and no other. What a person signs is that person's word. `state` is the log before it.
    """
    signer, kind = _signer_of(submission)
    if kind != "device" or not isinstance(statement, Device) or statement.state == "retired":
        return ""
    before = state.devices.get(statement.device)
    if before is not None and before.statement.key == statement.key:
        return ""
    by_itself = before is not None and signer == before.key
    if not by_itself and may_delegate(state, signer, now):
        return ""
    held = f"that {parse_public_key(statement.key).fingerprint} is in this device's hands"
    if submission.proof is None:
        return f"nothing proves {held}: update the agent, which sends the new key's own request with it"
    try:
        asked = open_enroll(submission.proof, fleet=statement.fleet)
    except (Untrusted, UserError) as error:
        return f"what should prove {held} does not: {error}"
    if (asked.device, asked.key) != (statement.device, statement.key):
        return f"what should prove {held} is the request of another device or key"
    return ""


def _signer_of(submission: Submission) -> tuple[Fingerprint, str | None]:
    """Give who signed a statement, and as what."""
    signature = sshsig.parse(submission.signature)
    return Fingerprint(signature.key.fingerprint), type_of(signature.namespace)


def root_fault(statement: Statement, holds: Callable[[PublicKey], bool]) -> str:
    """Say why a root would leave this coordinator unable to serve the fleet, or nothing.

    It can sign with the log keys that it `holds` alone, and reads on only as far as it can replay (trust.md, Versions).
    """
    if not isinstance(statement, Root):
        return ""
    if statement.protocol > PROTOCOL:
        return f"this coordinator follows protocol {PROTOCOL}, not {statement.protocol}: update it first"
    if not holds(parse_public_key(statement.log.key)):
        return "it names a log key that this coordinator does not hold: nobody could sign the log any more"
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
    moves = f"an admin decides: nixfleet enroll {name} --replace, or --as another name"
    remedy = moves if joins else "rename or retire that one first"
    return f"{taken}; {remedy}"
