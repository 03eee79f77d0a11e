"""An old backup noticed, and made whole again: entries given back by agents and mirrors (trust.md, Starting).

Who gives needs no right: a checkpoint by this coordinator's own log key says what the log was, proofs and digests
say that what is given is it. It must never take a leaf that does not lead there, nor let anything be appended before
all of it is here.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import islice

from nixfleet.errors import Conflict, Unreachable, Untrusted
from nixfleet.model.wire import Offer, OfferAnswer
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.releases import Releases
from nixfleet.server.faults import Busy
from nixfleet.server.store import GOAL, HEAD, MarkRow, OfferedRow, Store
from nixfleet.trust.leaf import Leaf, holds
from nixfleet.trust.merkle import Frontier, verify_consistency
from nixfleet.trust.note import Checkpoint
from nixfleet.trust.sshsig import message_digest

_log = logging.getLogger(__name__)

QUIET_S = 30
"""How long after the last entry came back nothing is appended yet: somebody else may know of more."""
LACKS_TOLD = 1_000
_WAITING_MOST = 16
_PAGE = 1_000


class Restoring:
    """Takes entries back; all methods run on the coordinator's loop."""

    def __init__(self, store: Store, log: LogKeeper, releases: Releases, wall_s: Callable[[], int]) -> None:
        self._store, self._log, self._releases, self._wall_s = store, log, releases, wall_s
        self._one = asyncio.Lock()
        self._waiting = 0
        self._goal: Checkpoint | None = None
        self._note = b""
        self._whole_at = 0
        """When everything was back; 0 while something lacks."""
        self._frontier = Frontier()
        self._lacking: dict[int, bytes] = {}
        """The SHA-512 of the payload of each entry that came without, by index, in order."""
        self.lines_came: Callable[[], None] = lambda: None
        """Told when the device lines of a release are back."""

    async def load(self) -> None:
        """Take up what was under way when this coordinator, or another on the database, ended. Raises: Untrusted."""
        await self.load_only()
        if self._goal is not None and not self._whole_at:
            await self._finish_if_whole()

    async def follow(self) -> None:
        """Notice what another coordinator on the database has begun or ended. Raises: Unreachable, Untrusted."""
        async with self._one:
            goal = await self._store.offers.mark(GOAL)
            known = (self._note, self._whole_at) if self._goal is not None else None
            if known != (None if goal is None else (goal.note, goal.at)):
                await self._read()

    async def load_only(self) -> None:
        """Find out what was under way, and go on with nothing. Raises: Untrusted."""
        await self._read()

    def why(self) -> str:
        """Say why nothing may be appended, or nothing."""
        if self._goal is None:
            return ""
        if self._whole_at:
            wait_s = self._whole_at + QUIET_S - self._wall_s()
            if wait_s <= 0:
                return ""
            return (
                f"this coordinator ran an old backup and has its {self._goal.size} entries back; for another"
                f" {wait_s} s it asks whether anybody knows of more: try again then"
            )
        size = self._frontier.size
        if size < self._goal.size:
            what = f"{size} of {self._goal.size} entries"
        elif not self._lacking:
            what = f"all {size} entries, and is about to put them in place"
        else:
            first = next(iter(self._lacking), 0)
            what = f"all {size} entries, but of {len(self._lacking)} not the content (entry {first} is the first)"
        return (
            f"this coordinator runs an old backup: it has {what}; it appends nothing until agents, consoles or"
            " 'nixfleet log restore' have given the rest back"
        )

    async def opened(self) -> bool:
        """Let appends happen again once that is due, and tell so; costs nothing while there was no old backup."""
        if self._goal is None or not self._whole_at or self.why():
            return False
        async with self._one:
            if self._goal is None or not self._whole_at or self.why():
                return False
            await self._store.offers.open()
            _log.info("the log is whole again at %d entries, and goes on", self._goal.size)
            self._goal, self._whole_at = None, 0
            return True

    async def take(self, offer: Offer) -> OfferAnswer:
        """Take what leads from this log to a checkpoint of its own, and say what still lacks.

        Raises: Untrusted for a checkpoint by another key, entries that do not lead to it, or a payload that is not the
        one signed; Busy; Unreachable.
        """
        if self._waiting >= _WAITING_MOST:
            raise Busy("many give entries back at once; try again in a moment")
        self._waiting += 1
        try:
            async with self._one:
                return await self._take(offer)
        finally:
            self._waiting -= 1

    async def _take(self, offer: Offer) -> OfferAnswer:
        shown = self._log.own_checkpoint(offer.checkpoint)
        if self._store.shared:
            await self._log.catch_up()
            await self._read()
        if shown.size <= self._log.size:
            if self._log.state.tree.root(shown.size) != shown.root:
                raise Untrusted(f"{_PART} before entry {shown.size}; {_COMPARE}")
            return OfferAnswer(size=self._log.size, lines=await self._take_lines(offer))
        await self._take_entries(offer, shown)
        await self._take_payloads(offer)
        await self._finish_if_whole()
        if self._goal is None or self._whole_at:
            goal = 0 if shown.size <= self._log.size else shown.size
            return OfferAnswer(size=self._log.size, goal=goal, lines=() if goal else await self._take_lines(offer))
        lacks = tuple(islice((index for index in self._lacking if index >= offer.start), LACKS_TOLD))
        return OfferAnswer(size=self._frontier.size, goal=max(self._goal.size, shown.size), lacks=lacks)

    async def _take_entries(self, offer: Offer, shown: Checkpoint) -> None:
        """Take entries that join, once they are proven to lead to the checkpoint. Raises: Untrusted."""
        have = self._frontier if self._goal is not None and not self._whole_at else self._log.state.tree.frontier()
        skip, end = have.size - offer.start, offer.start + len(offer.entries)
        if skip < 0 or end < have.size:
            return
        grown, rows = have, []
        for index, entry in enumerate(offer.entries[skip:], start=have.size):
            Leaf.unpack(entry.leaf)
            if entry.payload is not None and not holds(entry.leaf, entry.payload):
                raise Untrusted(f"the payload of entry {index} is not the one that was signed")
            grown = grown.append(entry.leaf)
            rows.append(OfferedRow(index, entry.leaf, entry.payload))
        try:
            verify_consistency(grown.size, grown.root(), shown.size, shown.root, offer.proof)
        except Untrusted as error:
            raise Untrusted(f"{_PART}, or entries were changed on the way ({error}); {_COMPARE}") from error
        await self._keep(offer.checkpoint, shown, grown, rows)

    async def _keep(self, note: bytes, shown: Checkpoint, grown: Frontier, rows: Sequence[OfferedRow]) -> None:
        is_new = self._goal is None or self._whole_at > 0
        further = self._goal is None or shown.size > self._goal.size
        if not rows and not is_new and not further:
            return
        goal, goal_note = (shown, note) if self._goal is None or further else (self._goal, self._note)
        try:
            await self._store.offers.keep(MarkRow(GOAL, goal_note, 0), rows)
        except Conflict:
            await self._read()  # another coordinator took the same entries
            return
        if is_new:
            _log.warning("this is an old backup: the log had %d entries once; taking them back", goal.size)
        self._goal, self._note, self._whole_at = goal, goal_note, 0
        self._frontier = grown
        self._learn(rows)

    def _learn(self, rows: Sequence[OfferedRow]) -> None:
        for row in rows:
            if row.payload is None:
                self._lacking[row.index] = Leaf.unpack(row.leaf).sha512

    async def _take_payloads(self, offer: Offer) -> None:
        """Keep payloads that lack. Raises: Untrusted for one that is not the one signed."""
        if not self._lacking:
            return
        at: dict[bytes, list[int]] = {}
        for index, sha512 in self._lacking.items():
            at.setdefault(sha512, []).append(index)
        given = [entry.payload for entry in offer.entries if entry.payload is not None]
        for one in offer.payloads:
            if self._lacking.get(one.index, message_digest(one.payload)) != message_digest(one.payload):
                raise Untrusted(f"the payload of entry {one.index} is not the one that was signed")
            given.append(one.payload)
        found = [(index, payload) for payload in given for index in at.get(message_digest(payload), ())]
        # An approval has the payload of what it approves, which may be here already.
        found += [(index, row.payload) for row in self._log.tail for index in at.get(Leaf.unpack(row.leaf).sha512, ())]
        await self._store.offers.fill(found)
        for index, _ in found:
            self._lacking.pop(index, None)

    async def _take_lines(self, offer: Offer) -> tuple[str, ...]:
        """Take device lines that lack, and give the releases whose lines lack still. Raises: Untrusted."""
        for one in offer.lines:
            if await self._releases.give(one.release, one.lines):
                self.lines_came()
        return tuple(sorted(self._releases.lacks))[:LACKS_TOLD]

    async def _read(self) -> None:
        """Read from the database what there is on its way back."""
        goal = await self._store.offers.mark(GOAL)
        self._frontier, self._lacking = self._log.state.tree.frontier(), {}
        if goal is None:
            self._goal, self._whole_at = None, 0
            return
        self._goal, self._note, self._whole_at = self._log.own_checkpoint(goal.note), goal.note, goal.at
        if self._whole_at:
            return
        while rows := await self._store.offers.read(self._frontier.size, _PAGE):
            for row in rows:
                self._frontier = self._frontier.append(row.leaf)
            self._learn(rows)

    async def _finish_if_whole(self) -> None:
        """Let what was given back become part of the log once nothing lacks."""
        goal = self._goal
        if goal is None or self._whole_at or self._lacking or self._frontier.size < goal.size:
            return
        whole_at = max(1, self._wall_s())
        try:
            await self._log.take_back(MarkRow(GOAL, self._note, whole_at), MarkRow(HEAD, self._note, whole_at))
        except (Conflict, Untrusted) as error:
            await self._store.offers.drop()
            await self._read()
            raise Unreachable(f"what was given back does not join any more ({error}); it is taken anew") from error
        self._whole_at = whole_at
        self._frontier = self._log.state.tree.frontier()
        await self._releases.look()
        _log.info("all %d entries are back", goal.size)


_PART = "this coordinator's log and the one shown to it part"
_COMPARE = "one of them was rewritten: compare with other machines' copies ('nixfleet audit verify')"
