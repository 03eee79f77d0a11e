"""What became of an entry that waited for signatures, by the replay's state of now, in words.

Pure. An entry's verdict is the one at its own place, and what waits there takes effect at the leaf that completes it
(trust.md, Approvals); who reads it later wants to know whether it is in force. It must never judge.
"""

from typing import Final

from nixfleet.model.ids import Fingerprint
from nixfleet.model.statements import Device, Grant, Revoke, Root, Statement
from nixfleet.trust.replay.state import State, Waiting

LATER: Final = "by signatures that came later"
NO_LONGER: Final = "it waits no longer"


def settled(state: State, index: int, sha512: bytes, statement: Statement, verdict: Waiting) -> tuple[str, str]:
    """Give a word and a reason for an entry that waited: still does, has taken effect since, or will not any more."""
    waits = next((one.waits for one in state.pending.get(sha512, ()) if one.place.index == index), "")
    if waits:
        return "waiting", waits
    if _in_force(state, statement):
        return "valid", LATER
    return "waiting", f"{verdict.reason}; {NO_LONGER}"


def _in_force(state: State, statement: Statement) -> bool:
    """Tell whether the state stands as this very statement has it."""
    match statement:
        case Root():
            return state.root == statement
        case Grant(id=id_):
            return id_ in state.grants and state.grants[id_].statement == statement
        case Device(device=device):
            return device in state.devices and state.devices[device].statement == statement
        case Revoke(subject=subject):
            return subject.grant in state.revoked_grants or Fingerprint(subject.key or "") in state.revoked_keys
        case _:
            return False
