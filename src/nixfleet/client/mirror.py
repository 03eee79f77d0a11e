"""A verified copy of a fleet's log on disk: replayed at every opening, extended only by what a checkpoint proves.

It must never take part of an extension, go back, or let a crash leave more than a tail that the next opening cuts.
"""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Final, Literal, Self

from nixfleet.client.api import Client, Payloads
from nixfleet.client.beside import beside
from nixfleet.client.faults import Unknown
from nixfleet.client.logfile import LogFile
from nixfleet.client.offering import give_back
from nixfleet.client.staging import Staging
from nixfleet.errors import NixfleetError, Unreachable, Untrusted, UserError
from nixfleet.model.ids import MAX_NOTE_BYTES
from nixfleet.model.statements import LogState
from nixfleet.model.views import EntryView
from nixfleet.model.wire import Entry, Sync
from nixfleet.trust.epochs import claims_later, succeed
from nixfleet.trust.leaf import holds
from nixfleet.trust.merkle import verify_consistency
from nixfleet.trust.replay import State, Verdict, awaits, missing
from nixfleet.trust.statements import digest
from nixfleet.trust.view import (
    ENTRIES_MAX,
    BadEntry,
    Behind,
    Extended,
    Fork,
    LogView,
    open_in_force,
    rewritten,
)
from nixfleet.trust.words import entry_view

Verified = Literal["ok", "behind", "fork", "untrusted"]

_BATCH: Final = 1_000
_THREAD_FROM: Final = 200
"""Extensions of at least so many entries are replayed beside the event loop."""
STAGED_BYTES: Final = 256 << 20
"""What a person's machine holds of a log before a checkpoint has proven it: some 200,000 entries with payloads."""
STAGED_BYTES_OF_DEVICE: Final = 64 << 20
"""The same on a device, which gets few payloads."""


class Mirror:
    """A fleet's log as this machine has verified it; `verified` and `why` tell how the last answer compared."""

    def __init__(self, file: LogFile, view: LogView, *, device: str | None) -> None:
        """Use `open` instead."""
        self._file = file
        self._view = view
        self._device = device
        self._staged_max_bytes = STAGED_BYTES if device is None else STAGED_BYTES_OF_DEVICE
        # A device has one agent, which may be killed in the middle; people's programs share a folder.
        self._staging = Staging(file.folder, self._staged_max_bytes, named=device is not None)
        self._unsaved: list[Entry] = []
        self._verdicts: list[Verdict] = []
        self._checkpoint = b""
        self._loaded = True
        self._one_at_a_time = asyncio.Lock()
        self.verified: Verified = "ok"
        self.why = ""

    @classmethod
    def open(cls, folder: Path, fleet: str, *, pin: LogState | None = None, device: str | None = None) -> Self:
        """Open or make a mirror and replay what it holds.

        `pin` is a log state, as of a token, that the log must extend; `device` is set by an agent, which holds only
        the payloads that it needs. Raises: UserError when the folder is another fleet's or cannot be used;
        Untrusted when what is on disk does not verify.
        """
        mirror = cls(*_opened(folder, fleet, pin, device), device=device)
        mirror._replay()
        mirror._staging.resume(mirror.size)
        return mirror

    @classmethod
    def open_later(cls, folder: Path, fleet: str) -> Self:
        """Open or make a mirror that is as empty until its `load`: a screen need not wait for a long log.

        Raises: UserError when the folder is another fleet's or cannot be used.
        """
        mirror = cls(*_opened(folder, fleet, None, None), device=None)
        mirror._loaded = not mirror._file.meta.size
        return mirror

    async def load(self) -> None:
        """Replay what is on disk, beside the event loop, unless that was done. Raises: Untrusted."""
        async with self._one_at_a_time:
            await self._load()

    async def _load(self) -> None:
        if not self._loaded:
            await beside(self._replay)

    def _replay(self) -> None:
        """Replay what is on disk. Raises: Untrusted."""
        if self._file.meta.size:
            try:
                self._verify_held()
            except Untrusted as error:
                raise Untrusted(
                    f"the copy of the log in {self._file.folder} does not verify ({error});"
                    " move the folder away to fetch it anew"
                ) from error
        self._loaded = True

    def _verify_held(self) -> None:
        growth = self._view.begin()
        for leaf, payload in self._file.entries():
            self._view.grow(growth, leaf, payload)
        extended = self._view.finish(growth, self._file.meta.checkpoint)
        if self._view.log != LogState(size=self._file.meta.size, root=self._file.meta.root):
            raise Untrusted("it is not the log that was written")
        self._verdicts.extend(extended.verdicts)
        self._checkpoint = self._file.meta.checkpoint

    @property
    def fleet(self) -> str:
        """The fleet id."""
        return self._view.fleet

    @property
    def folder(self) -> Path:
        """Where it is on disk."""
        return self._file.folder

    @property
    def size(self) -> int:
        """How many entries are verified and held."""
        return self._view.size

    @property
    def state(self) -> State:
        """What the log says; replaced or moved on by every extension, so do not keep it."""
        return self._view.state

    @property
    def log_state(self) -> LogState:
        """Size and root: what a statement's `base` and a report's `log` say."""
        return self._view.log

    @property
    def checkpoint(self) -> bytes:
        """The newest verified checkpoint, a signed note; empty before the first."""
        return self._checkpoint

    @property
    def log_view(self) -> LogView:
        """The verified view itself, for gates and payloads that came late."""
        return self._view

    async def catch_up(self, client: Client) -> int:
        """Fetch, verify and keep everything up to the coordinator's checkpoint; gives the number of new entries.

        A coordinator that runs an old backup is given back what is held here. Raises: Unreachable, and Untrusted
        (`verified` tells which kind); nothing has changed then. What a break left over is not fetched again.
        """
        try:
            return await self._caught_up(client)
        except Behind as behind:
            return await self._given_back(client, behind)
        except Untrusted:
            if not await self.succeed(client):
                raise
            return 0

    async def _given_back(self, client: Client, behind: Behind) -> int:
        """Give an old backup what it lacks, and catch up with it then. Raises: Behind when it lacks more than that."""
        try:
            lacks = (await give_back(client, self)).lacks
        except NixfleetError as error:
            raise self._behind(f"{behind}; what it lacks could not be given back: {error}") from error
        if lacks:
            raise self._behind(f"{behind}; {_lacks(len(lacks))}") from behind
        return await self._caught_up(client)

    async def succeed(self, client: Client) -> bool:
        """Take up the log of a later epoch in place of a lost one, where that is what the coordinator serves.

        False when it is not, or cannot be had whole. Raises: Fork for one that the root's threshold does not put in
        its place; UserError.
        """
        async with self._one_at_a_time:
            try:
                note = await client.checkpoint()
                entries = await self._whole(client, note) if claims_later(note, self._view) else []
            except NixfleetError:
                return False
            if not entries:
                return False
            held = [(entry.leaf, entry.payload) for entry in entries]
            try:
                # Beside the event loop: nobody has proven anything yet, and it is a whole log.
                view, extended = await beside(succeed, self._view, note, held)
            except Untrusted as error:
                self.verified, self.why = _kind(error), str(error)
                raise
            self._file = self._file.succeed(view.carried, note, view.log, entries)
            self._view, self._checkpoint, self._verdicts = view, note, list(extended.verdicts)
            self._staging.clear()
            self._unsaved.clear()
            self.verified, self.why = "ok", ""
            return True

    async def _whole(self, client: Client, note: bytes) -> list[Entry]:
        """Fetch everything from entry 0 on; nothing when it is more than may be held unproven."""
        wanted = claimed_size(note)
        entries: list[Entry] = []
        while len(entries) < wanted:
            answer = await client.entries(len(entries), min(_BATCH, wanted - len(entries)), self._wanted)
            if answer.start != len(entries) or not answer.entries:
                return []
            entries += answer.entries[: wanted - len(entries)]
            if _bytes(entries) > self._staged_max_bytes:
                return []
        return entries

    @property
    def _wanted(self) -> Payloads:
        return "all" if self._device is None else "mine"

    def _behind(self, why: str) -> Behind:
        self.verified, self.why = "behind", why
        return Behind(why)

    async def _caught_up(self, client: Client) -> int:
        async with self._one_at_a_time:
            await self._load()
            note = await client.checkpoint()
            wanted = claimed_size(note)
            before = self.size
            direct: Sequence[Entry] = ()
            while self.next_index < wanted:
                start = self.next_index
                answer = await client.entries(start, min(_BATCH, wanted - start), self._wanted)
                if answer.start != start or not answer.entries:
                    self._staging.clear()
                    raise Unreachable(f"{client.url} serves fewer entries than its checkpoint says; try again")
                if start == before and len(answer.entries) >= wanted - start:
                    direct = answer.entries[: wanted - start]
                    break
                self._stage(start, answer.entries[: wanted - start])
            try:
                if len(direct) >= _THREAD_FROM or self._staging:
                    await beside(self._taken, note, max(0, wanted - before), direct)
                else:
                    self.extend(note, before, direct)
            except Untrusted as error:
                raise await self.explained(client, note, error) from error
            return self.size - before

    def goes_on_from(self, note: bytes) -> bool:
        """Tell whether a checkpoint is of a true beginning of the log held here, signed by its key, and not all of it.

        Raises: Untrusted when it is not signed so.
        """
        shown = open_in_force(note, self.state)
        return shown.size < self.size and self.state.tree.root(shown.size) == shown.root

    async def explained(self, client: Client, note: bytes, error: Untrusted) -> Untrusted:
        """Give the error that tells a rewritten log from spoiled entries: only a log that extends ours can prove it."""
        if isinstance(error, Fork | Behind | BadEntry) or not self.size:
            return error
        try:
            shown = open_in_force(note, self.state)
        except Untrusted:
            return error  # not by the log key: anybody's
        if shown.size <= self.size:
            return error
        try:
            proof = (await client.consistency(self.size, shown.size)).hashes
            verify_consistency(self.size, bytes.fromhex(self.log_state.root), shown.size, shown.root, proof)
        except Unreachable:
            return error
        except NixfleetError:
            self.verified, self.why = "fork", rewritten(self.size)
            return Fork(self.why)
        return error

    def take(self, sync: Sync) -> Extended | None:
        """Take a sync answer or event; None while the coordinator says that `more` entries are to come.

        Raises: Untrusted; nothing has changed then, and the entries that were to be completed are dropped.
        """
        start, entries = sync.start, sync.entries
        if sync.more:
            if not entries:
                # Else who asks for the rest would ask for ever.
                self._staging.clear()
                raise Untrusted("the coordinator says that more entries are to come, and sends none")
            self._stage(start, entries)
            return None
        if self.size < start <= self.next_index:
            self._stage(start, entries)
            return self._taken(sync.checkpoint, len(self._staging))
        self._staging.clear()
        return self.extend(sync.checkpoint, start, entries)

    def _stage(self, start: int, entries: Sequence[Entry]) -> None:
        """Hold entries until a checkpoint proves them. Raises: Untrusted; then none are held."""
        keep = max(0, start - self.size)
        try:
            if keep > len(self._staging) or start + len(entries) > ENTRIES_MAX:
                raise Untrusted(
                    f"the coordinator sends entries from {start} on, which do not join the {self.size} known"
                )
            self._staging.put(self.size, keep, entries[max(0, self.size - start) :])
        except NixfleetError:
            self._staging.clear()
            raise

    def _taken(self, checkpoint: bytes, count: int, direct: Sequence[Entry] = ()) -> Extended:
        """Extend by so many of the entries that are held, which count from now on, or by `direct` where none are.

        Raises: Untrusted, UserError; then none are held.
        """
        if not self._staging:
            return self.extend(checkpoint, self.size, direct)
        try:
            self._staging.put(self.size, min(count, len(self._staging)), ())
            with self._judging():
                growth = self._view.begin()
                for entry in self._staging:
                    self._view.grow(growth, entry.leaf, entry.payload)
                extended = self._view.finish(growth, checkpoint)
            self._keep(checkpoint, extended, self._staging)
        finally:
            self._staging.clear()
        return extended

    @property
    def next_index(self) -> int:
        """What to ask for next: the size, and the entries that wait for the rest of their answer."""
        return self.size + len(self._staging)

    def extend(self, checkpoint: bytes, start: int, entries: Sequence[Entry]) -> Extended:
        """Verify entries up to a checkpoint and keep them durably; they are all taken, or none.

        Raises: Untrusted, UserError when the disk fails.
        """
        assert self._loaded, "what is on disk comes first"
        with self._judging():
            extended = self._view.extend(checkpoint, start, [(entry.leaf, entry.payload) for entry in entries])
        self._keep(checkpoint, extended, entries[extended.start - start :])
        return extended

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """Note how a checkpoint compared."""
        try:
            yield
        except Untrusted as error:
            self.verified = _kind(error)
            self.why = str(error)
            raise
        self.verified, self.why = "ok", ""

    def _keep(self, checkpoint: bytes, extended: Extended, entries: Collection[Entry]) -> None:
        """Keep durably what was verified, and what could not be written before. Raises: UserError."""
        self._verdicts.extend(extended.verdicts)
        try:
            first = extended.start - len(self._unsaved)
            self._file.append(checkpoint, self._view.log, first, chain(self._unsaved, entries))
        except UserError:
            self._unsaved.extend(entries)
            raise
        self._unsaved.clear()
        self._checkpoint = checkpoint

    async def fill(self, client: Client) -> int:
        """Fetch the payloads that this device needs by now and did not get with their leaves; gives how many.

        A release that the coordinator does not know stays missing: a rollout can name one that is in no log, and what
        it keeps from starting is the replay's to judge. Raises: Untrusted for a payload that does not fit,
        Unreachable, UserError.
        """
        if self._device is None:
            return 0
        gaps, filled = missing(self.state, self._device), 0
        for release in gaps.releases:
            try:
                payload = await client.payload(release)
            except Unknown:
                continue
            at = awaits(self.state, payload)
            if at is None or digest(payload) != release:
                raise Untrusted(f"{client.url} sent another payload than that of {release[:12]}")
            self._supply(at, payload)
            filled += 1
        for index in gaps.controls:
            entries = (await client.entries(index, 1, "mine")).entries
            held = entries[0].payload if entries else None
            if held is None or not holds(self.leaf(index), held):
                raise Untrusted(f"{client.url} does not send the payload of entry {index}, which this device needs")
            self._supply(index, held)
        return filled + len(gaps.controls)

    def _supply(self, index: int, payload: bytes) -> None:
        """Keep a payload before it counts, so that the next opening judges as this one does."""
        self._file.add_payload(index, payload)
        self._verdicts[index] = self._view.supply(payload)

    # Reading

    def leaf(self, index: int) -> bytes:
        """Read an entry's leaf. Raises: IndexError."""
        return self._file.leaf(index)

    def payload(self, index: int) -> bytes | None:
        """Read an entry's payload, None when it is not held. Raises: IndexError."""
        return self._file.payload(index)

    def lines(self, release: str) -> tuple[str, ...] | None:
        """Read a release's device lines, None when they are not held."""
        return self._file.lines(release)

    def keep_lines(self, release: str, lines: Sequence[str]) -> None:
        """Keep a release's device lines, which stand in no log: nobody else has them when the coordinator is lost."""
        self._file.keep_lines(release, lines)

    def verdict(self, index: int) -> Verdict:
        """Tell what the replay made of an entry."""
        return self._verdicts[index]

    def entry(self, index: int) -> EntryView:
        """Describe an entry in words, from what is verified here."""
        return entry_view(index, self.leaf(index), self.payload(index), self._verdicts[index], self.state)

    def entries(self, start: int, limit: int) -> list[EntryView]:
        """Describe consecutive entries from `start` on, as far as they are verified and kept."""
        # Both move on beside the event loop, one after the other.
        kept = min(len(self._verdicts), self._file.meta.size)
        return [self.entry(index) for index in range(max(0, start), min(kept, start + limit))]


def _bytes(entries: Sequence[Entry]) -> int:
    """Count the bytes of leaves and payloads; an entry costs something even where its leaf is empty."""
    return sum(max(128, len(entry.leaf)) + len(entry.payload or b"") for entry in entries)


def _opened(folder: Path, fleet: str, pin: LogState | None, device: str | None) -> tuple[LogFile, LogView]:
    file = LogFile.open(folder, fleet)
    carried = file.carried()
    # What was pinned in a log that is lost may not be part of the one that takes it up; where that begins is.
    pin = LogState(size=carried[-1].size, root=carried[-1].root) if carried else pin
    return file, LogView(fleet, pin, device, carried)


def _lacks(count: int) -> str:
    many = f"{count} entries" if count > 1 else "one entry"
    return (
        f"it has back what this machine holds, and lacks the content of {many}: let the devices connect, or run"
        " 'nixfleet log restore' where there is another copy"
    )


def _kind(error: Untrusted) -> Verified:
    match error:
        case Fork():
            return "fork"
        case Behind():
            return "behind"
        case _:
            return "untrusted"


def claimed_size(note: bytes) -> int:
    """Read how many entries a checkpoint claims, before it can be verified: only to know how much to ask for."""
    lines = note[:MAX_NOTE_BYTES].split(b"\n", 2)
    if len(lines) < 3 or not lines[1].isdigit() or len(lines[1]) > 16:
        raise Untrusted("the coordinator's checkpoint is malformed")
    if int(lines[1]) > ENTRIES_MAX:
        raise Untrusted(f"the coordinator claims a log of more than {ENTRIES_MAX} entries")
    return int(lines[1])
