"""The console's ports over `nixfleet.client`: the one module of the console that knows it.

It translates and nothing else: what may be done is judged by the log, what is true by the mirror.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, Literal

import msgspec

from nixfleet.client.acts import RolloutWishes
from nixfleet.client.admin import Acted, Admin
from nixfleet.client.api import Client
from nixfleet.client.checks import check_lines
from nixfleet.client.export import export_entry
from nixfleet.client.mirror import Mirror, Verified
from nixfleet.errors import UserError
from nixfleet.model import answers
from nixfleet.model.ids import DeviceId, Fingerprint
from nixfleet.model.statements import ACTIONS, Verb, Wave
from nixfleet.model.views import Delta, EnrollView, EntryView, ReleaseLineView, ReleaseView, RolloutDetail, Snapshot
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.merkle import leaf_hash, verify_inclusion
from nixfleet.trust.replay import may_ever, principal_of
from nixfleet.tui.ports import (
    AttemptView,
    CheckState,
    Deployment,
    EntryProof,
    Identity,
    LogCheck,
    OutputLines,
    Reset,
)
from nixfleet.tui.preview import line_for

_STATES: Final[dict[Verified, CheckState]] = {
    "ok": "valid",
    "behind": "behind",
    "fork": "fork",
    "untrusted": "invalid",
}


class ClientSource:
    """What is read, over the API; the lines of releases are held against the log in `mirror`."""

    def __init__(self, client: Client, mirror: Mirror) -> None:
        self._client = client
        self._mirror = mirror

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


class MirrorVerifier:
    """Our own replay of the log, kept on this machine."""

    def __init__(self, client: Client, mirror: Mirror, *, exports: Path) -> None:
        """Replay into `mirror`; exported entries go to the folder `exports`."""
        self._client = client
        self._mirror = mirror
        self._exports = exports
        self._entries: list[EntryView] = []
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
            self._entries += self._mirror.entries(len(self._entries), self._mirror.size - len(self._entries))
        return self._entries

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


class AdminActs:
    """What changes the fleet: signed by a person's key, appended, and verified in the log."""

    def __init__(self, client: Client, admin: Admin, *, signer: Fingerprint, clock: Callable[[], int]) -> None:
        """Act as the holder of the key `signer`; `clock` gives unix seconds."""
        self._client = client
        self._admin = admin
        self._signer = signer
        self._clock = clock

    @property
    def identity(self) -> Identity:
        """Who the verified log says the signer is, and may do."""
        state, now = self._admin.state, self._clock()
        may = frozenset(action for action in ACTIONS if may_ever(state, self._signer, [action], now))
        known = state.root is not None
        return Identity(
            principal=principal_of(state, self._signer) if known else "",
            role="root" if self._signer in state.root_keys else "",
            key=self._signer,
            may=may,
            read_only="your key may change nothing here" if known and not may else "",
        )

    async def deploy(self, deployment: Deployment) -> str:
        """Start a rollout; for named devices a release of just their lines comes first."""
        release = deployment.release
        if deployment.devices:
            release = await self._narrowed(deployment)
        wishes = RolloutWishes(
            select=deployment.select or None,
            waves=tuple(_wave(text) for text in deployment.waves) or None,
            soak_s=deployment.soak_s,
        )
        return _said("The rollout is signed", await self._admin.rollout(release, wishes, note=deployment.note or None))

    async def roll_back(self, rollout: str, note: str, /) -> str:
        """Bring back the devices that confirmed a rollout."""
        return _said("The rollback is signed", await self._admin.rollback(rollout, RolloutWishes(), note=note or None))

    async def control(self, rollout: str, verb: Verb, *, wave: int | None = None) -> str:
        """Pause, resume, advance, retry the failed devices of, or cancel a rollout."""
        devices: Literal["failed"] | None = "failed" if verb == "retry" else None
        acted = await self._admin.control(rollout, verb, wave=wave, devices=devices)
        return _said(f"{verb.capitalize()} is signed", acted)

    async def enroll(self, request: EnrollView) -> str:
        """Make a device that asked a member of the fleet."""
        return _said(f"{request.name} is enrolled", await self._admin.enroll(request))

    async def forget_request(self, device: str) -> str:
        """Drop a device's request to be enrolled."""
        await self._client.forget_request(device)
        return "The request is dropped."

    async def set_state(self, device: str, state: Literal["active", "held", "retired"], until: int | None) -> str:
        """Hold, release or retire a device."""
        if state == "held":
            assert until is not None, "a hold has an end"
            acted = await self._admin.hold([device], until)
        elif state == "active":
            acted = await self._admin.unhold([device])
        else:
            acted = await self._admin.retire([device])
        return _said(f"The device is {state}", acted[0])

    async def _narrowed(self, deployment: Deployment) -> str:
        """Publish the lines of a release that the named devices have, and nothing else; gives its digest."""
        whole = await self._client.release(deployment.release)
        check_lines(whole, self._admin.state)
        lines: dict[str, ReleaseLineView] = {}
        for device in deployment.devices:
            record = self._admin.state.devices.get(DeviceId(device))
            line = line_for(whole.lines, device, {} if record is None else record.statement.tags)
            if line is None:
                raise UserError(f"{whole.name} has no line for {device[:8]}")
            lines[device] = line
        return await self._admin.part(whole.name, lines, note=deployment.note or None)


def _wave(text: str) -> Wave:
    return Wave(members=text if text.endswith("%") else int(text))


def _said(what: str, acted: Acted) -> str:
    """Say what was done, where it stands, and what it still waits for."""
    return f"{what}: entry {acted.index}" + (f", {acted.waits}." if acted.waits else ".")
