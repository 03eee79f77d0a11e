"""Root versions that wait in the log: who has signed them, who can still, and whether they can ever take effect.

Pure; what counts is the replay's to judge, and nothing here may say more than it would.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nixfleet.errors import UserError
from nixfleet.model.ids import Digest, Fingerprint
from nixfleet.model.statements import Root
from nixfleet.trust.replay import State
from nixfleet.trust.replay.state import keys_of
from nixfleet.trust.rootwords import live_keys, names


@dataclass(frozen=True, slots=True)
class Side:
    """One version's say: how many more of its principals must sign, and which of them can."""

    missing: int = 0
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A root version in the log: who has signed it, and what it still needs of the old and of the new version."""

    root: Root
    index: int
    sha512: bytes
    at: int
    by: Fingerprint
    signed: tuple[str, ...]
    signers: frozenset[Fingerprint]
    old: Side = field(default_factory=Side)
    new: Side = field(default_factory=Side)
    superseded: str = ""
    """Why it can never take effect any more, or nothing."""

    @property
    def waits(self) -> str:
        """Say whose signatures are missing."""
        sides = [("the root in force", self.old), ("the new one", self.new)]
        asked = [f"{side.missing} more of {names(side.left)} for {whose}" for whose, side in sides if side.missing]
        return " and ".join(asked)


def proposals(state: State) -> tuple[Proposal, ...]:
    """Give the root versions that wait for signatures, in the order of the log; superseded ones too."""
    found = [
        _proposal(state, one.statement, one.place.index, one.place.log_time, sha512, one.place.signer)
        for sha512, waiting in state.pending.items()
        for one in waiting
        if isinstance(one.statement, Root)
    ]
    return tuple(sorted(found, key=lambda one: one.index))


def _proposal(state: State, root: Root, index: int, at: int, sha512: bytes, by: Fingerprint) -> Proposal:
    further = state.approvals.get(sha512, ())
    signers = frozenset((by, *(one.signer for one in further))) - state.revoked_keys.keys()
    old = state.root
    named = {**state.root_keys, **keys_of(root)}
    superseded = ""
    if old is not None and root.version <= old.version:
        superseded = f"root {root.version} is superseded: root {old.version} is in force"
    return Proposal(
        root=root,
        index=index,
        sha512=sha512,
        at=at,
        by=by,
        signed=tuple(sorted({named[key] for key in signers if key in named})),
        signers=signers,
        old=Side() if old is None else _side(state, old, signers),
        new=_side(state, root, signers),
        superseded=superseded,
    )


def _side(state: State, root: Root, signers: frozenset[Fingerprint]) -> Side:
    live, keys = live_keys(state, root), keys_of(root)
    present = {keys[key] for key in signers if key in keys}
    return Side(max(0, root.threshold - len(present)), tuple(name for name in live if name not in present))


def may_sign(state: State, proposal: Proposal, key: Fingerprint) -> str:
    """Say why a key's signature would bring a proposal no further, or nothing."""
    if proposal.superseded:
        return f"{proposal.superseded}; propose it anew with 'nixfleet access root update'"
    if key in state.revoked_keys:
        return f"the key {key} is revoked"
    old = state.root_keys.get(key) if state.root is not None else None
    new = keys_of(proposal.root).get(key)
    if old is None and new is None:
        left = names((*proposal.old.left, *proposal.new.left))
        return f"{key} is a key of neither the root in force nor the new one; it waits for {left}"
    useful = (proposal.old.missing and old in proposal.old.left) or (proposal.new.missing and new in proposal.new.left)
    return "" if useful else f"{old or new} has signed it already; it waits for {proposal.waits}"


def find_proposal(found: Sequence[tuple[Digest, Proposal]], text: str) -> tuple[Digest, Proposal]:
    """Find a waiting root by its digest's first digits or its log index; without a text the only one.

    Raises: UserError when there is none, or several.
    """
    open_ones = [one for one in found if text or not one[1].superseded]
    chosen = [one for one in open_ones if not text or one[0].startswith(text) or str(one[1].index) == text]
    if not chosen:
        what = f"no root version {text!r} waits" if text else "no root version waits"
        raise UserError(f"{what} for signatures; 'nixfleet access root show' says which is in force")
    if len(chosen) > 1:
        listed = ", ".join(digest[:12] for digest, _ in chosen)
        raise UserError(f"{len(chosen)} root versions wait for signatures; say which: {listed}")
    return chosen[0]
