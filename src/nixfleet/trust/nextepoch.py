"""A root of the next epoch on its way: one file that goes from hand to hand while there is no log to wait in.

Pure. The file is as little to be trusted as who passes it on: each signature in it is judged by replay, on a copy of
the log that the reader has verified. It must never judge by rules of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.ids import Fingerprint
from nixfleet.model.reading import UNREADABLE
from nixfleet.model.statements import LogState, Root
from nixfleet.model.text import utc
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.proposals import Proposal, may_sign, proposals
from nixfleet.trust.replay import State, Valid, Waiting, principal_of, replay
from nixfleet.trust.replay.judge import AT_AFTER_MAX_S
from nixfleet.trust.statements import digest, parse

FILE_BYTES: Final = 256 << 10
SIGNATURES_MAX: Final = 64
_Signature = Annotated[bytes, msgspec.Meta(max_length=952)]


class EpochProposal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The exact payload, and the signatures over it so far: the first is its signer's, the others are approvals."""

    format: Literal["nixfleet-epoch-v1"] = "nixfleet-epoch-v1"
    payload: Annotated[bytes, msgspec.Meta(max_length=65_536)]
    signatures: Annotated[tuple[_Signature, ...], msgspec.Meta(min_length=1, max_length=SIGNATURES_MAX)]


@dataclass(frozen=True, slots=True)
class Judged:
    """What a proposal comes to: the root, who has signed it, and what it waits for, or nothing."""

    root: Root
    signed: tuple[str, ...]
    waits: str
    after: State
    """The log with these signatures in it."""

    def why_not(self, key: Fingerprint) -> str:
        """Say why a key's signature would bring it no further, or nothing."""
        open_one = _open_one(self.after, self.root)
        return "it has all signatures" if open_one is None else may_sign(self.after, open_one, key)


def write(proposal: EpochProposal) -> bytes:
    """Give the file's content: one line of JSON."""
    return msgspec.json.encode(proposal) + b"\n"


def read(data: bytes, name: str) -> EpochProposal:
    """Read a file's content; `name` says which. Raises: UserError for one that is none, or over a bound."""
    if len(data) > FILE_BYTES:
        raise UserError(f"{name} is larger than {FILE_BYTES} bytes: it is no proposal of a root")
    try:
        return msgspec.json.decode(data, type=EpochProposal)
    except UNREADABLE as error:
        raise UserError(f"{name} is no proposal of a root ({error}); 'log restore --propose FILE' makes one") from error


def merged(named: Sequence[tuple[str, EpochProposal]]) -> EpochProposal:
    """Put what several people have signed apart together, each signature once.

    Raises: UserError when they are not of the same payload, or too many.
    """
    (first, whole), *others = named
    signatures = dict.fromkeys(whole.signatures)
    for name, other in others:
        if other.payload != whole.payload:
            apart = f"{name} is another proposal ({digest(other.payload)[:12]}) than {first}"
            raise UserError(f"{apart} ({digest(whole.payload)[:12]}): signatures of one count nothing for another")
        signatures |= dict.fromkeys(other.signatures[1:])
    return signed_too(whole, tuple(signatures)[len(whole.signatures) :])


def signed_too(proposal: EpochProposal, signatures: Sequence[bytes]) -> EpochProposal:
    """Add signatures. Raises: UserError when they are too many."""
    every = (*proposal.signatures, *signatures)
    if len(every) > SIGNATURES_MAX:
        raise UserError(f"a proposal has at most {SIGNATURES_MAX} signatures")
    return msgspec.structs.replace(proposal, signatures=every)


def root_of(proposal: EpochProposal, fleet: str) -> tuple[Root, LogState]:
    """Give the root, and where it takes the log up.

    Raises: Untrusted when it is no statement; UserError when it begins no epoch of this fleet.
    """
    statement = parse(proposal.payload)
    taken = statement.log.from_ if isinstance(statement, Root) else None
    if not isinstance(statement, Root) or taken is None:
        raise UserError("it proposes no new epoch; any other act is signed in the log: 'nixfleet approve'")
    if statement.fleet != fleet:
        raise UserError(f"it is of another fleet ({statement.fleet[:12]}), not of {fleet[:12]}")
    return statement, taken


def judge(state: State, proposal: EpochProposal, root: Root) -> Judged:
    """Replay the signatures on a copy of the log as it was where the root takes it up; `state` stays as it is.

    Raises: Untrusted when one of them does not hold, or it is not of this log.
    """
    after = state.copy()
    # No log time but its own: days may pass between the first signature and the last (trust.md, Log: 24 hours).
    time = log_time(state, root)
    for number, signature in enumerate(proposal.signatures, start=1):
        leaf = Leaf(time, sshsig.message_digest(proposal.payload), signature)
        verdict = replay(after, after.size, leaf, proposal.payload)
        if not isinstance(verdict, Valid | Waiting):
            reason = getattr(verdict, "reason", "it is newer than this software")
            raise Untrusted(f"signature {number} of {len(proposal.signatures)} does not hold: {reason}")
    open_one = _open_one(after, root)
    if open_one is not None:
        return Judged(root, open_one.signed, open_one.waits, after)
    if after.root != root:
        raise Untrusted("what was signed first is no root")
    keys = (Fingerprint(sshsig.parse(one).key.fingerprint) for one in proposal.signatures)
    return Judged(root, tuple(dict.fromkeys(principal_of(after, key) for key in keys)), "", after)


def check_time(root: Root, now: int) -> None:
    """Check that a root is not dated after `now`, unix seconds. Raises: Untrusted.

    Its own time becomes the log's, which never goes back: dated too late, it would end every grant and rollout for all
    devices. No coordinator's clock is there to bound it, so each who signs holds it against their own.
    """
    if root.at > now + AT_AFTER_MAX_S:
        raise Untrusted(
            f"it is dated {utc(root.at)}, which is yet to come: every device would count from then on; set the clock of"
            " the machine that proposed it, or of this one, and propose it anew"
        )


def _open_one(state: State, root: Root) -> Proposal | None:
    """Find a root among those that wait."""
    return next((one for one in proposals(state) if one.root == root), None)


def log_time(state: State, root: Root) -> int:
    """Give the log time of a root that is taken up: when its signer wrote it, never below the log's."""
    return max(root.at, state.last_time)
