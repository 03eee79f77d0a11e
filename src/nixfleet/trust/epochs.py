"""A log that was lost for good and is taken up under a later epoch (trust.md, Starting); pure.

The root's threshold says where: the root with the next epoch names a state of the lost log, `from`, which its base is.
Whoever knew more of the lost log keeps what was revoked there. It must never follow a log that does not begin with
that state, nor let an epoch, or a root, go back.
"""

from collections.abc import Iterator, Sequence

from nixfleet.errors import Untrusted
from nixfleet.model.ids import MAX_NOTE_BYTES, Fingerprint
from nixfleet.model.statements import LogState, Root
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf, subject_of
from nixfleet.trust.replay import rights
from nixfleet.trust.replay.state import State, Valid
from nixfleet.trust.statements import parse
from nixfleet.trust.view import Carried, Entries, Extended, Fork, LogView, rewritten


def epoch_at(state: State, index: int) -> int:
    """Give the epoch that an entry belongs to: that of the newest root at or before it."""
    return max((epoch for first, _, epoch in state.log_keys if first - 1 <= index), default=0)


def lowest_index(state: State, attempted: tuple[int, int]) -> int:
    """Give the lowest index whose rollout is not below one that was attempted; order is (epoch, index)."""
    epoch, index = attempted
    later = [first - 1 for first, _, one in state.log_keys if one > epoch]
    return min(index, *later) if later else index


def claims_later(note: bytes, view: LogView) -> bool:
    """Tell whether a checkpoint says, unproven, that it is of a later epoch than the one known."""
    root = view.state.log_root
    fleet, _, epoch = note[:MAX_NOTE_BYTES].partition(b"\n")[0].rpartition(b"/")
    known = root is not None and fleet == f"nixfleet/{view.fleet}".encode()
    return known and epoch.isdigit() and len(epoch) <= 16 and int(epoch) > _epoch(view)


def succeed(old: LogView, note: bytes, entries: Entries) -> tuple[LogView, Extended]:
    """Verify a whole log that takes up the one in `old` under a later epoch; what `old` knew beyond stays revoked.

    Raises: Fork when it does not begin with a state of `old`, or nobody with the root's right says so; Untrusted.
    """
    for taken in _taken_up(entries, _epoch(old) + 1):
        if taken.size > old.size or old.state.tree.root(taken.size).hex() != taken.root:
            continue
        view = LogView(old.fleet, own=old.state.own, carried=(*_before(old, taken), _carried(old.state, taken)))
        extended = view.extend(note, 0, entries)
        for (leaf, _), verdict in zip(entries, extended.verdicts, strict=True):
            if (root := _says(verdict, taken)) is not None:
                _check_root_kept(old.state, view.state, taken, root, Leaf.unpack(leaf).sha512)
                return view, extended
    raise Fork(rewritten(old.size))


def _epoch(view: LogView) -> int:
    root = view.state.log_root
    return 0 if root is None else root.log.epoch


def _taken_up(entries: Entries, epoch: int) -> Iterator[LogState]:
    """Find what roots of an epoch claim to take up; whether they hold is the replay's to say."""
    for data, payload in entries:
        try:
            subject = subject_of(sshsig.parse(Leaf.unpack(data).sshsig).namespace)
            statement = (
                parse(payload) if payload is not None and subject is not None and subject.type == "root" else None
            )
        except Untrusted:
            continue
        if isinstance(statement, Root) and statement.log.epoch == epoch and statement.log.from_ is not None:
            yield statement.log.from_


def _says(verdict: object, taken: LogState) -> Root | None:
    """Give the root that takes the log up at a state, where an entry brought it into force."""
    statement = verdict.statement if isinstance(verdict, Valid) else None
    return statement if isinstance(statement, Root) and statement.log.from_ == taken else None


def _check_root_kept(old: State, new: State, taken: LogState, root: Root, sha512: bytes) -> None:
    """Hold a new epoch to the root that was lost with the old one's end: its threshold has to let go of it.

    Else a root key that this root had put out, and that nobody revoked, would bring the one before back. Raises: Fork.
    """
    if old.root is None or old.log_keys[-1][0] <= taken.size:
        return
    signed = rights.signers(new, Fingerprint(root.by), sha512)
    if rights.threshold_missing(old, old.root, old.root_keys, signed):
        raise Fork(
            f"the log is taken up at entry {taken.size}, from before root {old.root.version} that is known here, and"
            " that root's threshold has not signed so: trust nothing of it, and ask its principals; if they mean it,"
            " they sign the new root, too"
        )


def _before(old: LogView, taken: LogState) -> Sequence[Carried]:
    return [one for one in old.carried if one.size <= taken.size]


def _carried(state: State, taken: LogState) -> Carried:
    """Collect what was revoked after the state that is taken up."""
    return Carried(
        size=taken.size,
        root=taken.root,
        keys=tuple(key for key, index in state.revoked_keys.items() if index >= taken.size),
        grants=tuple(grant for grant, index in state.revoked_grants.items() if index >= taken.size),
    )
