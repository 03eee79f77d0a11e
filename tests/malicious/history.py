"""A log as a hostile operator can make it: true leaves in any choice and order, under checkpoints of the true log key.

It holds no admin's and no device's key: what it adds is signed by a stranger.
"""

from collections.abc import Collection, Sequence

from tests.factories import key

from nixfleet.model.ids import FleetId
from nixfleet.model.wire import Entries, Entry, Proof, Sync
from nixfleet.trust.gate import Gate, sign_gate
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.merkle import Tree
from nixfleet.trust.note import Checkpoint, origin, sign_checkpoint
from nixfleet.trust.replay import Needs, State, replay
from nixfleet.trust.sshsig import SecretKey, parse

Pair = tuple[bytes, bytes]


class History:
    """One history, and what is served of it."""

    def __init__(
        self,
        fleet: str,
        log_key: SecretKey,
        pairs: Sequence[Pair],
        *,
        now: int,
        withheld: Collection[int] = (),
    ) -> None:
        """Take leaves with their payloads; `withheld` ones are not served."""
        self._fleet, self._log_key, self._now = fleet, log_key, now
        self._pairs, self._withheld = list(pairs), frozenset(withheld)
        self._tree, self._state = Tree(), State(FleetId(fleet))
        for index, (leaf, payload) in enumerate(self._pairs):
            replay(self._state, index, leaf, payload)
            self._tree.append(leaf)

    @property
    def size(self) -> int:
        """How many entries it has."""
        return len(self._pairs)

    @property
    def checkpoint(self) -> bytes:
        """Its checkpoint, by the true log key."""
        return sign_checkpoint(Checkpoint(origin(self._fleet, 0), self.size, self._tree.root()), self._log_key)

    def sync(self, size: int, device: str) -> Sync:
        """Answer a device that has so many entries."""
        needs, start = Needs(self._state, device), min(size, self.size)
        entries = tuple(
            Entry(leaf=leaf, payload=payload if needs(leaf) and index not in self._withheld else None)
            for index, (leaf, payload) in enumerate(self._pairs[start:], start)
        )
        return Sync(checkpoint=self.checkpoint, start=start, entries=entries, gates=self._open(device))

    def entries(self, start: int, limit: int) -> Entries:
        """Answer a person."""
        found = tuple(
            Entry(leaf=leaf, payload=None if index in self._withheld else payload)
            for index, (leaf, payload) in enumerate(self._pairs[start : start + limit], start)
        )
        return Entries(start=start, entries=found)

    def consistency(self, old: int, new: int) -> Proof:
        """Prove what it can: that it extends itself."""
        return Proof(hashes=tuple(self._tree.consistency(old, min(new, self.size))))

    def _open(self, device: str) -> tuple[bytes, ...]:
        """Say of every rollout that this device's wave is open: whoever lies wants something done."""
        return tuple(
            sign_gate(Gate(self._fleet, rollout, device, 1, self.size, self._now), self._log_key)
            for rollout in self._state.rollouts
        )


def resigned(pair: Pair) -> Pair:
    """Put the operator's own signature in the place of the true one: the best it can do, for it has no right."""
    leaf = Leaf.unpack(pair[0])
    signature = key("operator").sign(parse(leaf.sshsig).namespace, pair[1])
    return leaf._replace(sshsig=signature).pack(), pair[1]


def restamped(pair: Pair, like: Pair) -> Pair:
    """Give a leaf the log time of another: no statement's signature covers it."""
    return Leaf.unpack(pair[0])._replace(log_time=Leaf.unpack(like[0]).log_time).pack(), pair[1]
