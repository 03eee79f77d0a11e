"""The log as this coordinator serves it: replayed state, append by compare-and-set, checkpoints, proofs.

What is signed has been durable before; nothing is ever taken back. It judges by replay alone and holds no right.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from nixfleet.errors import Conflict, Refused, Unreachable, Untrusted, UserError
from nixfleet.model.ids import Fingerprint, FleetId, Tags
from nixfleet.model.statements import Device, Rollout, Root
from nixfleet.model.text import clean
from nixfleet.model.wire import AppendRequest, AppendResponse, Proof, Submission
from nixfleet.server.coordinator import admission
from nixfleet.server.coordinator.bygone import FormerKey
from nixfleet.server.coordinator.judging import (
    MEND,
    Judged,
    check_head,
    check_lines,
    follow,
    judge,
    line_rows,
    reason_against,
)
from nixfleet.server.coordinator.logkeys import LogKeys
from nixfleet.server.coordinator.spare import Spare
from nixfleet.server.faults import Unknown
from nixfleet.server.store import HEAD, EntryRow, LineRow, MarkRow, OfferedRow, RefusalRow, Store
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf, type_of
from nixfleet.trust.note import Checkpoint, origin, sign_checkpoint
from nixfleet.trust.replay import State, Void
from nixfleet.trust.replay.rights import by_device_alone
from nixfleet.trust.replay.state import mark_of, own_mark_of
from nixfleet.trust.sshsig import PublicKey, SecretKey
from nixfleet.trust.statements import digest, parse

_log = logging.getLogger(__name__)

TAIL = 4_096
"""How many of the newest entries are kept in memory; older ones are read from the store."""
_PAGE = 1_000
_PATIENCE_S = 15
"""How long an append runs after coordinators that are faster: half of what a client waits for its answer."""


Announce = Callable[[Sequence[Judged]], None]


class Declined(Refused):
    """A statement that may not enter the log, and the journal's row of it: none for what its signer did not sign."""

    def __init__(self, reason: str, row: RefusalRow | None) -> None:
        super().__init__(reason)
        self.row = row


class LogKeeper:
    """One log; all methods run on the coordinator's loop."""

    def __init__(self, store: Store, log_keys: LogKeys, wall_s: Callable[[], int]) -> None:
        self._store = store
        self._log_keys = log_keys
        self._wall_s = wall_s
        self._lock = asyncio.Lock()
        self._checkpoint: tuple[int, bytes] = (-1, b"")
        self._roots: dict[int, str] = {}
        """Roots at sizes that devices have signed for: what is appended never changes them."""
        self._keys: dict[str, PublicKey] = {}
        self._devices_of: dict[str, str] = {}
        self.former: dict[Fingerprint, FormerKey] = {}
        """Keys that devices had, and have no more."""
        self.fleet = FleetId("")
        self.name = ""
        """What the first root was noted as."""
        self.state = State(fleet=self.fleet)
        """Of now; it may move on, or be another one, whenever its reader waits for something."""
        self._spare = Spare()
        self.tail: deque[EntryRow] = deque(maxlen=TAIL)
        self.own_entries: dict[str, list[int]] = {}
        """Indexes of each device's own statements."""
        self.named: set[str] = set()
        """Releases that a rollout names: every agent needs their payloads."""
        self.sets: dict[str, Mapping[str, Tags]] = {}
        """Active devices that matched each rollout at its index, with the tags they had."""
        self.times: dict[int, int] = {}
        """Log times of controls, by index."""
        self.announce: Announce = lambda _entries: None
        self._void = ""
        self.shut: Callable[[], str] = lambda: ""
        """Says why nothing may be appended, or nothing."""

    @property
    def size(self) -> int:
        """How many entries the log has, as far as this coordinator has read it."""
        return self.state.size

    async def load(self) -> None:
        """Replay the whole log. Raises: UserError when there is none, or when it is not signed by our log key."""
        first = await self._store.log.entries(0, 1)
        if not first:
            raise UserError(
                f"{self._store.name} holds no fleet: put the fleet's own database back, or begin a fleet with"
                " 'nixfleet init NAME --url URL'"
            )
        self.fleet = FleetId(first[0].sha256)
        self.state = State(fleet=self.fleet)
        async with self._lock:
            await self._catch_up()
        root = self.state.log_root
        if root is None:
            raise UserError(f"{self._store.name} does not begin with a root")
        self._log_keys.of(root)
        head = await self._store.offers.mark(HEAD)
        if head is not None:
            check_head(self.state, head.note, self._store.name, self._void)

    async def catch_up(self) -> None:
        """Replay what other coordinators have appended, where others can: on a shared database."""
        if self._store.shared:
            async with self._lock:
                await self._catch_up()

    async def reach(self, size: int) -> None:
        """Know a log of a size that somebody speaks of, if there is one: another coordinator may have told of it."""
        if size > self.size:
            await self.catch_up()

    async def _catch_up(self) -> None:
        while rows := await self._store.log.entries(self.size, _PAGE):
            self.announce([self._follow(row) for row in rows])
            await asyncio.sleep(0)  # let streams breathe during a long replay

    def _follow(self, row: EntryRow) -> Judged:
        """Replay a stored entry. Raises: Untrusted when it is not what was appended."""
        try:
            entry = follow(self.state, row)
        except Untrusted as error:
            raise Untrusted(f"entry {self.size} in {self._store.name} {error}; {MEND}") from error
        if isinstance(entry.verdict, Void) and not self._void:
            self._void = f"entry {entry.row.index} is the first without effect: {entry.verdict.reason}"
            _log.warning("%s; no coordinator appends such", self._void)
        self._learn(entry)
        return entry

    async def append(self, request: AppendRequest) -> AppendResponse:
        """Judge statements in order and append them, all or none; repeats answer the index they have.

        Raises:
            Conflict: `size` is given and is not the log's size any more.
            Refused: a statement is void, with replay's reason. Malformed, UserError: it cannot be read.
            Unreachable: the database does not answer.

        """
        if why := self.shut():
            raise Unreachable(why)
        try:
            await self._hear(request)
            return await self._judge_and_append(request)
        except Declined as declined:
            if declined.row is not None:
                await self._store.log.refuse(declined.row)
            raise

    async def _hear(self, request: AppendRequest) -> None:
        """Turn away who may not speak first, before the lock, the payload and a state to judge on. Raises: Declined.

        What follows in the batch may be by who is named in it, and is judged in its turn.
        """
        first = next((one for one in request.statements if self._repeat(one) is None), None)
        if first is None or not admission.unheard(self.state, first, self._now(self.state)):
            return
        await self.catch_up()  # another coordinator may know the key
        reason = admission.unheard(self.state, first, self._now(self.state))
        if reason:
            raise self._declined(self.state, first, reason)

    async def _judge_and_append(self, request: AppendRequest) -> AppendResponse:
        async with self._lock:
            begun = time.monotonic()
            while time.monotonic() - begun < _PATIENCE_S:
                await self._check_size(request)
                try:
                    indexes, entries = await self._append(request)
                except Conflict:
                    # Another coordinator was faster: replay its entries, then judge again.
                    await self._catch_up()
                    continue
                except Declined:
                    if await self._behind():
                        continue
                    raise
                if entries:
                    self.announce(entries)
                return AppendResponse(indexes=indexes, checkpoint=self.checkpoint())
        raise Unreachable("other coordinators append faster than this one can follow; try again in a moment")

    async def _behind(self) -> bool:
        """Tell whether another coordinator had appended what this one had not read, and read it."""
        before = self.size
        await self._catch_up()
        return self.size != before

    async def _append(self, request: AppendRequest) -> tuple[tuple[int, ...], list[Judged]]:
        known = [self._repeat(one) for one in request.statements]
        if None not in known:
            return tuple(index for index in known if index is not None), []
        state = self._spare.take(self.state, self.tail)
        indexes: list[int] = []
        entries: list[Judged] = []
        lines: list[LineRow] = []
        for held, submission in zip(known, request.statements, strict=True):
            if held is None:
                entry = self._submit(state, submission)
                entries.append(entry)
                lines += line_rows(entry, submission)
            indexes.append(entries[-1].row.index if held is None else held)
        await self._store.log.append([entry.row for entry in entries], lines, self._head(state))
        self._spare.keep(self.state)
        self.state = state
        for entry in entries:
            self._learn(entry)
        return tuple(indexes), entries

    def _head(self, state: State) -> MarkRow:
        """Make the mark of a state that is about to be durable: it is shown to nobody before."""
        return MarkRow(HEAD, self._signed(state), self._now(state))

    async def take_back(self, goal: MarkRow, head: MarkRow) -> None:
        """Let the entries that were given back follow those that are here. Raises: Conflict, Untrusted."""
        async with self._lock:
            state = self.state.copy()

            def make(rows: Sequence[OfferedRow]) -> list[EntryRow]:
                return [_again(state, row) for row in rows]

            await self._store.offers.finish(self.size, make, goal, head)
            await self._catch_up()

    def own_checkpoint(self, note: bytes) -> Checkpoint:
        """Open a checkpoint of this log by one of this coordinator's own keys. Raises: Untrusted."""
        return self._log_keys.open(note, origin(self.fleet, self.root_statement().log.epoch))

    async def _check_size(self, request: AppendRequest) -> None:
        """Compare the size that the caller based its statements on. Raises: Conflict."""
        if request.size is None:
            return
        if request.size > self.size:
            await self._catch_up()
        if request.size != self.size and None in map(self._repeat, request.statements):
            raise Conflict(f"the log has {self.size} entries, not {request.size}: read it again and sign anew")

    def _repeat(self, submission: Submission) -> int | None:
        """Give the index at which this very statement by this key already stands."""
        signature = sshsig.parse(submission.signature)
        sha512, signer = sshsig.message_digest(submission.payload), Fingerprint(signature.key.fingerprint)
        kind = type_of(signature.namespace)
        if kind == "device" and by_device_alone(self.state, signer):
            return self.state.recent.get(own_mark_of(sha512, signer))
        return self.state.recent.get(mark_of(sha512, signer, approves=kind == "approve"))

    def _submit(self, state: State, submission: Submission) -> Judged:
        """Judge a new statement on a state of its own. Raises: Declined, Malformed, UserError."""
        statement = parse(submission.payload)
        check_lines(statement, submission)
        fault = admission.root_fault(statement, self._log_keys.holds)
        fault = fault or admission.unproven(state, submission, statement, self._now(state))
        if fault:
            raise self._declined(state, submission, fault)
        leaf = Leaf(self._now(state), sshsig.message_digest(submission.payload), submission.signature)
        entry = judge(state, state.size, leaf, submission.payload)
        reason = reason_against(entry.verdict) or admission.fault(state, statement, entry.before)
        if reason:
            raise self._declined(state, submission, reason)
        return entry

    def _now(self, state: State) -> int:
        """Give the log time of what would be appended now."""
        return max(self._wall_s(), state.last_time)

    def _declined(self, state: State, submission: Submission, reason: str) -> Declined:
        """Refuse a statement; only what a key that the log names has truly signed is worth a durable row."""
        if not admission.accountable(state, submission):
            return Declined(reason, None)
        signature, sha256 = sshsig.parse(submission.signature), digest(submission.payload)
        row = RefusalRow(self._now(state), signature.key.fingerprint, signature.namespace, sha256, reason)
        return Declined(reason, row)

    def _learn(self, entry: Judged) -> None:
        """Index an entry that is in the log."""
        self.tail.append(entry.row)
        statement = entry.statement
        if entry.row.index == 0:
            self.name = clean(statement.note or "")[:63]
        if isinstance(statement, Device):
            if entry.row.kind == "device":
                self.own_entries.setdefault(statement.device, []).append(entry.row.index)
            # With an approval, too: it may be what brings the statement in force.
            self._learn_key(statement.device)
        if entry.row.kind == "control":
            self.times[entry.row.index] = entry.log_time
        if isinstance(statement, Rollout):
            if statement.release is not None:
                self.named.add(statement.release)
            if entry.row.kind == "rollout":
                self.sets.setdefault(entry.row.sha256, entry.reach)

    def _learn_key(self, device: str) -> None:
        record = self.state.devices.get(device)
        old = self._keys.pop(device, None)
        if old is not None and self._devices_of.get(old.fingerprint) == device:
            del self._devices_of[old.fingerprint]
        if record is not None and record.statement.state != "retired":
            key = self._keys[device] = sshsig.parse_public_key(record.statement.key)
            self._devices_of[record.key] = device
            self.former.pop(record.key, None)
            if old is not None and old != key:
                self.former[Fingerprint(old.fingerprint)] = FormerKey(old, device, given_up=True)
        elif old is not None:
            self.former[Fingerprint(old.fingerprint)] = FormerKey(old, device, given_up=False)

    def device(self, device: str) -> Device | None:
        """Give a device's newest statement."""
        record = self.state.devices.get(device)
        return None if record is None else record.statement

    def device_key(self, device: str) -> PublicKey | None:
        """Give the key of an unretired device, None when it has been revoked."""
        key = self._keys.get(device)
        return None if key is None or key.fingerprint in self.state.revoked_keys else key

    def device_of(self, key: str) -> str | None:
        """Give the unretired device that has this key (a fingerprint)."""
        return self._devices_of.get(key)

    def checkpoint(self) -> bytes:
        """Sign the log as it is: everything in it is durable."""
        size, note = self._checkpoint
        if size != self.size:
            note = self._signed(self.state)
            self._checkpoint = (self.size, note)
        return note

    def _signed(self, state: State) -> bytes:
        root = state.log_root
        assert root is not None
        name = origin(self.fleet, root.log.epoch)
        return sign_checkpoint(Checkpoint(name, state.size, state.tree.root()), self._log_keys.of(root))

    @property
    def log_key(self) -> SecretKey:
        """The key that the root in force names: it signs checkpoints, and gates."""
        return self._log_keys.of(self.root_statement())

    async def rows(self, start: int, limit: int) -> list[EntryRow]:
        """Give at most `limit` entries from `start` on: the newest from memory, older ones from the store."""
        limit = min(limit, self.size - start)
        if limit <= 0:
            return []
        first = self.size - len(self.tail)
        if start >= first:
            return [self.tail[at] for at in range(start - first, start - first + limit)]
        return await self._store.log.entries(start, limit)

    async def payload(self, sha256: str) -> tuple[str, str, bytes]:
        """Give kind, subject and bytes of a payload. Raises: Unknown."""
        found = await self._store.log.payload(sha256)
        if found is None:
            raise Unknown(f"the log has no payload {sha256[:12]}")
        return found

    def inclusion(self, index: int, size: int) -> Proof:
        """Prove that an entry is in the log of a size that `reach` was told of. Raises: UserError."""
        if not 0 <= index < size <= self.size:
            raise UserError(f"there is no entry {index} in a log of {size}; this log has {self.size}")
        return Proof(hashes=tuple(self.state.tree.inclusion(index, size)))

    def consistency(self, old: int, new: int) -> Proof:
        """Prove that the log of a size that `reach` was told of extends an older one. Raises: UserError."""
        if not 0 <= old <= new <= self.size:
            raise UserError(f"no log of {new} entries extends one of {old} here; this log has {self.size}")
        return Proof(hashes=tuple(self.state.tree.consistency(old, new)))

    def root_at(self, size: int) -> str | None:
        """Give the root at a size as hex, None for a size that the log has not reached."""
        if size > self.size:
            return None
        root = self._roots.get(size)
        if root is None:
            if len(self._roots) >= TAIL:
                self._roots.clear()
            root = self._roots[size] = self.state.tree.root(size).hex()
        return root

    def root_statement(self) -> Root:
        """Give the root in force."""
        root = self.state.log_root
        assert root is not None
        return root


def _again(state: State, row: OfferedRow) -> EntryRow:
    """Judge an entry that was given back, and make its row: it was in the log, whatever its worth."""
    assert row.payload is not None
    return judge(state, row.index, Leaf.unpack(row.leaf), row.payload).row
