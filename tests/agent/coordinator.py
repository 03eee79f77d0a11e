"""A made-up coordinator over a real log: real statements, gates, proofs and reports, no network."""
# ruff: noqa: ARG002 - the signatures are the real client's

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

from tests.factories import Fleet

from nixfleet.client.api import Client
from nixfleet.client.faults import Unknown
from nixfleet.errors import Refused, Unreachable, Untrusted
from nixfleet.model.device import EnrollRequest, Progress, Report
from nixfleet.model.wire import (
    AppendResponse,
    Entries,
    Entry,
    LineAnswer,
    Offer,
    OfferAnswer,
    Proof,
    Signed,
    Submission,
    Sync,
)
from nixfleet.trust.gate import Gate, sign_gate
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.lines import LineTree
from nixfleet.trust.replay import Needs, Valid
from nixfleet.trust.reports import open_enroll, open_report
from nixfleet.trust.sshsig import SecretKey, parse_public_key


@dataclass
class Coordinator:
    """What all clients share; set `down` to a reason to make it silent."""

    fleet: Fleet
    lines: LineTree | None = None
    line_trees: dict[str, LineTree] = field(default_factory=dict)
    """Lines by rollout, where it is not `lines` for all."""
    hidden: set[str] = field(default_factory=set)
    """Rollouts whose lines it denies without a proof."""
    down: str = ""
    streams: bool = True
    refuse_reports: str = ""
    refuse_joins: str = ""
    open_gates: list[tuple[str, str, int]] = field(default_factory=list)
    """Rollout, device and run of each open gate."""
    reports: list[Report] = field(default_factory=list)
    requests: list[EnrollRequest] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    syncs: int = 0
    skew_s: int = 0
    """What it says of every device's clock: nobody signed it."""
    opened: int = 0
    """Streams opened so far."""
    admits: set[str] = field(default_factory=set)
    """Retired devices that it lets read the log all the same."""
    tamper: Callable[[Sync], Sync] = lambda sync: sync
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Push what is new to every stream."""
        self.moved.set()
        self.moved = asyncio.Event()

    def make_client(self, urls: Sequence[str], **rest: Any) -> Client:
        """Make a client as the agent does."""
        return cast("Client", MadeUpClient(self, urls, **rest))

    def open_gate(self, rollout: str, device: str, run: int = 1) -> None:
        """Open a device's wave, and tell."""
        self.open_gates.append((rollout, device, run))
        self.wake()

    def sync(self, size: int, device: str) -> Sync:
        """Answer a sync."""
        gates = tuple(
            sign_gate(Gate(self.fleet.fleet, rollout, one, run, self.fleet.size, self.fleet.now), self.fleet.log_key)
            for rollout, one, run in self.open_gates
            if one == device
        )
        needs = Needs(self.fleet.state, device)
        entries = tuple(
            Entry(leaf=leaf, payload=payload if needs(leaf) else None) for leaf, payload in self.fleet.entries[size:]
        )
        answer = Sync(checkpoint=self.fleet.checkpoint, start=size, entries=entries, gates=gates)
        return self.tamper(answer)

    def outcomes(self) -> list[tuple[str, int, str]]:
        """List the outcomes reported: rollout, run and outcome, repeats left out."""
        found = [
            (one.attempt.rollout, one.attempt.run, str(one.attempt.outcome))
            for one in self.reports
            if one.attempt is not None and one.attempt.outcome is not None
        ]
        return list(dict.fromkeys(found))


class MadeUpClient:
    """The client's methods that an agent uses."""

    def __init__(
        self, server: Coordinator, urls: Sequence[str], *, fleet: str, key: SecretKey, clock: Callable[[], int]
    ) -> None:
        self._server = server
        self._key = key
        self._fleet = fleet
        self.url = urls[0]
        self.skew_s = server.skew_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        return

    def use_key(self, key: SecretKey) -> None:
        """Sign with another key."""
        self._key = key

    async def sync(self, size: int) -> Sync:
        """Answer members and joining devices."""
        await self._reach()
        self._server.syncs += 1
        return self._server.sync(size, self._device())

    async def checkpoint(self) -> bytes:
        """Give the newest checkpoint."""
        await self._reach()
        return self._server.fleet.checkpoint

    async def consistency(self, old: int, new: int) -> Proof:
        """Prove that the log extends an older one, or a hostile one does not."""
        await self._reach()
        return Proof(hashes=tuple(self._server.fleet.tree.consistency(old, new)))

    async def offer(self, offer: Offer) -> OfferAnswer:
        """Take nothing back: a coordinator of before there were offers."""
        await self._reach()
        self._server.offers.append(offer)
        raise Unknown("no such route")

    async def agent_events(self, size: int) -> AsyncGenerator[Sync, None]:
        """Stream until the coordinator is down."""
        await self._reach()
        if not self._server.streams:
            raise Unreachable("a proxy ate the stream")
        device = self._device()
        self._server.opened += 1
        while True:
            moved = self._server.moved
            answer = self._server.sync(size, device)
            size = self._server.fleet.size
            yield answer
            await moved.wait()
            await self._reach()

    async def line(self, rollout: str) -> LineAnswer:
        """Prove the caller's line, or that it has none."""
        await self._reach()
        lines, device = self._server.line_trees.get(rollout, self._server.lines), self._device()
        if rollout in self._server.hidden or lines is None:
            raise Unknown("the release has no line for this device")
        if lines.index_of(device) is None:
            return LineAnswer(absence=lines.absence(device))
        return LineAnswer(line=lines.proof(device))

    async def report(self, signed: Signed) -> int | None:
        """Take a report that verifies under the device's key, and is numbered above all before."""
        await self._reach()
        if self._server.refuse_reports:
            raise Unreachable(self._server.refuse_reports)
        state, device = self._server.fleet.state, self._device()
        public = parse_public_key(state.devices[device].statement.key)
        report = open_report(signed, public, fleet=self._fleet, device=device)
        held = max((one.seq for one in self._server.reports if one.device == device), default=-1)
        if report.seq <= held:
            return held
        self._server.reports.append(report)
        return None

    async def progress(self, progress: Progress) -> None:
        """Take progress."""
        await self._reach()
        self._server.progress.append(progress)

    async def enroll_request(self, signed: Signed) -> None:
        """Take a wish to be enrolled."""
        await self._reach()
        self._server.requests.append(open_enroll(signed, fleet=self._fleet))

    async def append(self, submissions: Sequence[Submission]) -> AppendResponse:
        """Judge statements as a coordinator does."""
        await self._reach()
        fleet = self._server.fleet
        [one] = submissions
        if self._server.refuse_joins:
            raise Refused(self._server.refuse_joins)
        fleet.now += 1
        fleet.append_leaf(Leaf(fleet.now, hashlib.sha512(one.payload).digest(), one.signature).pack(), one.payload)
        if not isinstance(fleet.verdicts[-1], Valid):
            raise Refused(str(fleet.verdicts[-1]))
        self._server.wake()
        return AppendResponse(indexes=(fleet.size - 1,), checkpoint=fleet.checkpoint)

    async def entries(self, start: int, limit: int, payloads: str) -> Entries:
        """Read entries."""
        await self._reach()
        found = self._server.fleet.entries[start : start + limit]
        return Entries(start=start, entries=tuple(Entry(leaf=leaf, payload=payload) for leaf, payload in found))

    async def payload(self, digest: str) -> bytes:
        """Read a payload."""
        await self._reach()
        for _, payload in self._server.fleet.entries:
            if hashlib.sha256(payload).hexdigest() == digest:
                return payload
        raise Unknown("no entry has this payload")

    def _device(self) -> str:
        """Name the caller by its key. Raises: Untrusted for a stranger's."""
        state = self._server.fleet.state
        who = self._key.public.fingerprint
        if who in state.grants_of:
            return ""
        for device, record in state.devices.items():
            if record.key == who and (record.statement.state != "retired" or device in self._server.admits):
                return device
        raise Untrusted("a key in no statement")

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self._server.down:
            raise Unreachable(self._server.down)
