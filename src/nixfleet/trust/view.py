"""A verified view of a fleet's log: checkpoint, tree and replay in step; pure, all or nothing.

The order of checks is trust.md's, What a device does, 1 and 2. It must never trust on first use: the fleet id, and
where known a log state, are pinned before the first byte.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from nixfleet.errors import Untrusted
from nixfleet.model.ids import MAX_LEAF_BYTES, Fingerprint, FleetId
from nixfleet.model.statements import LogState
from nixfleet.trust.leaf import Leaf, holds, subject_of
from nixfleet.trust.merkle import Frontier, Tree
from nixfleet.trust.misplaced import why_void
from nixfleet.trust.note import Checkpoint, open_checkpoint, origin
from nixfleet.trust.replay import ESSENTIAL, State, Verdict, Void, replay, supply
from nixfleet.trust.sshsig import PublicKey, parse, parse_public_key

ENTRIES_MAX = 1_000_000

Entries = Sequence[tuple[bytes, bytes | None]]


class Fork(Untrusted):
    """The log was rewritten: it has another root at a size that is known."""


class Behind(Untrusted):
    """The coordinator's log is shorter than the one known, and a true beginning of it: an old backup."""


def rewritten(size: int) -> str:
    """Say that a log is another one at a size that is known, and what to do."""
    return (
        f"the log has another root at {size} entries than the one known: it was rewritten, or somebody is shown another"
        " log than others; trust no act since, and compare with other machines ('nixfleet audit verify' there)"
    )


class BadEntry(Untrusted):
    """An entry does not hold; `index` is the first bad one."""

    def __init__(self, index: int, reason: str) -> None:
        """Name the entry."""
        super().__init__(f"entry {index}: {reason}")
        self.index = index


@dataclass(frozen=True, slots=True)
class Extended:
    """What an extension brought: verdicts of entries from `start` on; those before it were known."""

    start: int
    verdicts: tuple[Verdict, ...]
    checkpoint: Checkpoint


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """What a log lost for good had revoked, fingerprints and grant ids, beyond the state that its next epoch takes up.

    It holds from there on: `size` and `root` are that state's.
    """

    size: int
    root: str
    keys: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()


@dataclass(slots=True)
class Growth:
    """An extension under way, replayed as its entries come, on a state of its own: nothing of it counts yet."""

    start: int
    state: State
    verdicts: list[Verdict]


class LogView:
    """A log as far as it is verified; `extend` moves it on or leaves it as it was."""

    def __init__(
        self,
        fleet: str,
        pin: LogState | None = None,
        own: str | None = None,
        carried: tuple[Carried, ...] = (),
    ) -> None:
        """Start from a fleet id and, from a token or agent.toml, a state that the log must extend.

        `own` is the device that replays: an extension that withholds the payload of one of its statements is refused.
        `carried` comes from lost logs that this one takes up (`trust.epochs`), in their order.
        """
        self.carried = carried
        self.state = State(FleetId(fleet), own)
        self.checkpoint: Checkpoint | None = None
        self._pin = pin
        self._frontier = Frontier()

    @property
    def fleet(self) -> str:
        """The pinned fleet id."""
        return self.state.fleet

    @property
    def size(self) -> int:
        """How many entries are verified."""
        return self.state.size

    @property
    def log(self) -> LogState:
        """The verified log state: what a statement's `base` and a report's `log` say."""
        return LogState(size=self.size, root=self._frontier.root().hex())

    @property
    def log_key(self) -> PublicKey:
        """The log key in force, which signs gates. Raises: Untrusted before the first root."""
        if not self.state.log_keys:
            raise Untrusted("the log has no root yet")
        return parse_public_key(self.state.log_keys[-1][1])

    def extend(self, note: bytes, start: int, entries: Entries) -> Extended:
        """Take a checkpoint and all entries from `start` up to it; those known already are left out.

        Raises: Fork, Behind, BadEntry, Untrusted; then nothing has changed.
        """
        new = self._new(start, entries)
        frontier = self._grown(new)
        # A copy is only needed where the replay itself decides whether the checkpoint is to be trusted.
        before = self.size
        risky = not before or any(_may_turn(leaf, payload, self.state.own) for leaf, payload in new)
        state = self.state.copy() if risky else self.state
        checkpoint = None if risky else self._open(note, state, frontier)
        verdicts = tuple(self._replay(state, leaf, payload) for leaf, payload in new)
        if checkpoint is None:
            _check_replayed(state, before, verdicts)
            checkpoint = self._open(note, state, frontier)
        self.state, self._frontier, self.checkpoint = state, frontier, checkpoint
        return Extended(before, verdicts, checkpoint)

    def begin(self) -> Growth:
        """Begin an extension whose entries come one by one: a long one need not be in memory as a whole."""
        return Growth(self.size, self.state.copy(), [])

    def grow(self, growth: Growth, leaf: bytes, payload: bytes | None) -> None:
        """Replay one more entry of an extension. Raises: BadEntry, Fork, Untrusted; the extension is of no use then."""
        index = growth.state.size
        if index - growth.start >= ENTRIES_MAX:
            raise Untrusted(f"more than {ENTRIES_MAX} entries at once")
        _check_entry(index, leaf, payload)
        self._check_pin(growth.state.tree)
        growth.verdicts.append(self._replay(growth.state, leaf, payload))

    def finish(self, growth: Growth, note: bytes) -> Extended:
        """Take an extension up to a checkpoint, or nothing of it. Raises: Fork, Behind, BadEntry, Untrusted."""
        assert growth.start == self.size, "an extension is of the log as it was when it began"
        self._check_pin(growth.state.tree)
        _check_replayed(growth.state, growth.start, growth.verdicts)
        frontier = growth.state.tree.frontier()
        checkpoint = self._open(note, growth.state, frontier)
        self.state, self._frontier, self.checkpoint = growth.state, frontier, checkpoint
        return Extended(growth.start, tuple(growth.verdicts), checkpoint)

    def _replay(self, state: State, leaf: bytes, payload: bytes | None) -> Verdict:
        for one in self.carried:
            if one.size == state.size:
                state.revoked_keys.update((Fingerprint(key), one.size) for key in one.keys)
                state.revoked_grants.update((grant, one.size) for grant in one.grants)
        return replay(state, state.size, leaf, payload)

    def supply(self, payload: bytes) -> Verdict:
        """Take a release or control payload that came later than its leaf."""
        return supply(self.state, payload)

    def _new(self, start: int, entries: Entries) -> Entries:
        """Leave out what is known, and refuse payloads that do not fit their leaves."""
        if not 0 <= start <= self.size:
            raise Untrusted(f"entries from {start} on do not join the {self.size} known ones")
        if len(entries) > ENTRIES_MAX:
            raise Untrusted(f"more than {ENTRIES_MAX} entries at once")
        new = entries[self.size - start :]
        for index, (data, payload) in enumerate(new, start=self.size):
            _check_entry(index, data, payload)
        return new

    def _grown(self, new: Entries) -> Frontier:
        """Append to the tree's frontier, and hold the log to the pinned state on the way."""
        frontier = self._frontier
        self._check_pin(frontier)
        for leaf, _ in new:
            frontier = frontier.append(leaf)
            self._check_pin(frontier)
        return frontier

    def _check_pin(self, tree: Frontier | Tree) -> None:
        pin = self._pin
        if pin is not None and tree.size == pin.size and tree.root().hex() != pin.root:
            raise Fork(f"the log has another root at {pin.size} entries than the one pinned")

    def _open(self, note: bytes, state: State, frontier: Frontier) -> Checkpoint:
        """Verify the checkpoint by the log key at its end, then against the known and the computed root."""
        checkpoint = open_in_force(note, state)
        known = self.state.tree
        if checkpoint.size < known.size:
            if checkpoint.root != known.root(checkpoint.size):
                raise Fork(rewritten(checkpoint.size))
            raise Behind(f"the coordinator has {checkpoint.size} entries of the {known.size} known: an old backup")
        if checkpoint.size == known.size and checkpoint.root != known.root():
            raise Fork(rewritten(checkpoint.size))
        if checkpoint.size != frontier.size:
            raise Untrusted(f"the checkpoint is for {checkpoint.size} entries, but {frontier.size} are given")
        if checkpoint.root != frontier.root():
            raise Untrusted(f"the entries do not lead to the checkpoint's root at {checkpoint.size}")
        if self._pin is not None and checkpoint.size < self._pin.size:
            raise Behind(f"the coordinator has {checkpoint.size} entries of the {self._pin.size} pinned: an old backup")
        return checkpoint


def verify_all(fleet: str, note: bytes, entries: Entries, pin: LogState | None = None) -> LogView:
    """Replay a whole log offline, as `audit verify` does. Raises: BadEntry (the first), Fork, Untrusted."""
    view = LogView(fleet, pin)
    try:
        view.extend(note, 0, entries)
    except BadEntry:
        raise
    except Untrusted as error:
        suspect = first_void(fleet, entries)
        if suspect is None or isinstance(error, Behind):
            raise
        # Every statement witnesses the log before it, so a changed entry shows in itself or in a later one.
        raise BadEntry(suspect[0], f"{suspect[1]} ({error})") from error
    return view


def first_void(fleet: str, entries: Entries) -> tuple[int, str] | None:
    """Return the first entry without effect and why, None when all have one."""
    state = State(FleetId(fleet))
    for index, (leaf, payload) in enumerate(entries):
        verdict = replay(state, index, leaf, payload)
        if isinstance(verdict, Void):
            return index, why_void(index, verdict, payload)
    return None


def open_in_force(note: bytes, state: State) -> Checkpoint:
    """Verify a checkpoint by the key in force at the end that it names (trust.md, Log); keys may have changed."""
    refused = Untrusted("the log has no root yet")
    end: int | None = None
    for first, key, epoch in reversed(state.log_keys):
        try:
            checkpoint = open_checkpoint(note, parse_public_key(key), origin(state.fleet, epoch))
        except Untrusted as error:
            refused = refused if end is not None else error
        else:
            if first <= checkpoint.size and (end is None or checkpoint.size < end):
                return checkpoint
            refused = Untrusted("the checkpoint is signed by a log key that was not in force at its end")
        end = first
    raise refused


def _check_entry(index: int, leaf: bytes, payload: bytes | None) -> None:
    if len(leaf) > MAX_LEAF_BYTES:
        raise BadEntry(index, f"its leaf is larger than {MAX_LEAF_BYTES} bytes")
    if payload is not None and not holds(leaf, payload):
        raise BadEntry(index, "its payload is not the one that was signed")


def _check_replayed(state: State, start: int, verdicts: Sequence[Verdict]) -> None:
    if state.log_root is None:
        first = verdicts[0] if verdicts else None
        raise BadEntry(0, first.reason if isinstance(first, Void) else "it is not the first root of this fleet")
    if state.blind_at is not None and state.blind_at >= start:
        raise BadEntry(state.blind_at, "its payload is needed and missing")


def _may_turn(data: bytes, payload: bytes | None, own: str | None) -> bool:
    """Tell whether an entry could change the log key, or lacks a payload that everybody, or this device, needs."""
    try:
        subject = subject_of(parse(Leaf.unpack(data).sshsig).namespace)
    except Untrusted:
        return False
    if subject is None:
        return False
    if subject.type in {"root", "approve"}:
        return True
    return payload is None and (subject.type in ESSENTIAL or (subject.type == "device" and subject.id == own))
