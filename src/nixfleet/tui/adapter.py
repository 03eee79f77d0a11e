"""What the console reads, over `nixfleet.client`, which only this module and `acting` know.

It translates and nothing else: what is true is judged by the mirror.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final

import msgspec

from nixfleet.client.api import Client
from nixfleet.client.checks import check_lines
from nixfleet.client.export import export_entry
from nixfleet.client.mirror import Mirror, Verified
from nixfleet.client.previewing import changes_between
from nixfleet.model import answers
from nixfleet.model.views import Delta, EntryView, ReleaseView, RolloutDetail, Snapshot
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.merkle import leaf_hash, verify_inclusion
from nixfleet.tui.ports import (
    AttemptView,
    Changes,
    CheckState,
    EntryProof,
    LogCheck,
    OutputLines,
    RefusedView,
    Reset,
)

_STATES: Final[dict[Verified, CheckState]] = {
    "ok": "valid",
    "behind": "behind",
    "fork": "fork",
    "untrusted": "invalid",
}


class ClientSource:
    """What is read, over the API; the lines of releases are held against the log in `mirror`."""

    def __init__(self, client: Client, mirror: Mirror, memory: Path | None = None) -> None:
        """Read through `client`; the file `memory` remembers narinfos."""
        self._client = client
        self._mirror = mirror
        self._memory = memory

    async def changes(self, named: Sequence[tuple[str, str, str]], /) -> Changes:
        """Compare systems by what the caches of the root's list say of them."""
        root = self._mirror.state.root
        caches = root.caches if root is not None else ()
        changes, notes = await changes_between(self._client, named, caches, memory=self._memory)
        return Changes(changes=changes, notes=notes)

    async def snapshot(self) -> Snapshot:
        """Give everything a console shows."""
        return await self._client.snapshot()

    async def events(self, since: int, /) -> AsyncGenerator[Delta | Reset, None]:
        """Give the deltas after number `since`."""
        heard = asyncio.Event()
        async with aclosing(self._client.console_events(since, heard=heard.set)) as events:
            first = asyncio.ensure_future(anext(events, None))
            begun = asyncio.ensure_future(heard.wait())
            try:
                await asyncio.wait((first, begun), return_when=asyncio.FIRST_COMPLETED)
                if heard.is_set():
                    yield Delta(seq=since)  # a ping says no more than that the stream comes through
                event = await first
            finally:
                for task in (first, begun):
                    task.cancel()
                await asyncio.gather(first, begun, return_exceptions=True)
            while event is not None:
                yield Reset() if isinstance(event, answers.Reset) else event
                event = await anext(events, None)

    async def rollout(self, rollout: str) -> RolloutDetail:
        """Give a rollout with its members."""
        return await self._client.rollout(rollout)

    async def release(self, release: str) -> ReleaseView:
        """Give a release with its lines. Raises: Untrusted when they are not the signed ones."""
        found = await self._client.release(release)
        check_lines(found, self._mirror.state)
        return found

    async def lines(self, device: str) -> OutputLines:
        """Give a device's activation output as far as it is kept."""
        output = await self._client.device_lines(device)
        return OutputLines(next=output.next, lines=output.lines)

    async def history(self, device: str) -> Sequence[AttemptView]:
        """Give a device's past attempts."""
        return [
            AttemptView(**{**msgspec.structs.asdict(attempt), "outcome": attempt.outcome or ""})
            for attempt in await self._client.device_history(device)
        ]

    async def refused(self) -> Sequence[RefusedView]:
        """Give what the coordinator refused, newest first."""
        return [
            RefusedView(at=one.at, by=one.by, what=one.what or one.namespace, why=one.reason)
            for one in await self._client.refusals()
        ]


class MirrorVerifier:
    """Our own replay of the log, kept on this machine."""

    def __init__(self, client: Client, mirror: Mirror, *, exports: Path) -> None:
        """Replay into `mirror`; exported entries go to the folder `exports`."""
        self._client = client
        self._mirror = mirror
        self._exports = exports
        self._entries: list[EntryView] = []
        self._roots: dict[int, str] = {}
        self._asked = False

    @property
    def check(self) -> LogCheck:
        """How the log stands; before the first answer what is on disk is verified, but perhaps not all there is."""
        state: CheckState = _STATES[self._mirror.verified] if self._asked else "checking"
        log = self._mirror.log_state
        return LogCheck(state=state, size=log.size, root=log.root, detail=self._mirror.why)

    @property
    def entries(self) -> Sequence[EntryView]:
        """The entries verified so far; acts of our own extend the mirror, too."""
        if len(self._entries) < self._mirror.size:
            for place, one in enumerate(self._entries):
                if one.verdict == "waiting":  # what came since may have completed it
                    self._entries[place] = self._mirror.entry(place)
            self._entries += self._mirror.entries(len(self._entries), self._mirror.size - len(self._entries))
        return self._entries

    def root_at(self, size: int) -> str:
        """Give the root that our log had at a size; remembered, for many devices stand at the same one."""
        held = self._roots.get(size)
        if held is None:
            tree = self._mirror.state.tree
            held = tree.root(size).hex() if 0 < size <= tree.size else ""
            if held:
                self._roots[size] = held
        return held

    async def catch_up(self) -> LogCheck:
        """Fetch and verify what is new. Raises: Unreachable, Untrusted."""
        try:
            await self._mirror.catch_up(self._client)
        finally:
            self._asked = self._asked or self._mirror.size > 0 or self._mirror.verified != "ok"
        return self.check

    async def proof(self, index: int) -> EntryProof:
        """Give one entry, with a proof that was checked against our own root. Raises: Untrusted."""
        log, leaf = self._mirror.log_state, self._mirror.leaf(index)
        proof = await self._client.inclusion(index, log.size)
        verify_inclusion(leaf_hash(leaf), index, log.size, proof.hashes, bytes.fromhex(log.root))
        payload = self._mirror.payload(index)
        return EntryProof(
            index=index,
            payload="not held here" if payload is None else msgspec.json.format(payload.decode(), indent=2),
            signature=sshsig.armor(Leaf.unpack(leaf).sshsig),
            hashes=tuple(step.hex() for step in proof.hashes),
            size=log.size,
            root=log.root,
        )

    async def export(self, index: int) -> str:
        """Write payload, signature and allowed signers, as `ssh-keygen -Y verify` takes them."""
        folder = self._exports / f"entry-{index}"
        export_entry(self._mirror, index, folder)
        return f"Wrote payload, signature and allowed signers to {folder}."
