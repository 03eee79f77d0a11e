"""The console's ports in memory, over the made-up fleet of `console_fleet`.

Run as a program it opens the console on them, with things happening: ``python -m tests.tui.console_ports``.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Literal

import msgspec
from tests.tui.console_fleet import (
    MIB,
    NOW,
    OLD,
    SIGNATURE,
    digest,
    fingerprint,
    fleet_access,
    fleet_devices,
    fleet_entries,
    fleet_releases,
    fleet_requests,
    fleet_rollouts,
    release_with_lines,
    system,
)
from tests.tui.console_foresight import Foresees, foresee, foresee_back, known

from nixfleet.errors import Unreachable, UserError
from nixfleet.model.statements import ACTIONS, Action, Verb
from nixfleet.model.views import (
    AccessView,
    Delta,
    DeviceView,
    EnrollView,
    EntryView,
    FleetView,
    MemberView,
    PendingView,
    ReleaseView,
    RolloutDetail,
    RolloutView,
    Snapshot,
)
from nixfleet.preview.closures import Shelf
from nixfleet.preview.groups import changes_of
from nixfleet.preview.plan import Preview
from nixfleet.trust.replay import Chain, Explanation, Link
from nixfleet.tui.desk import Options
from nixfleet.tui.ports import (
    Acts,
    AttemptView,
    Authority,
    Changes,
    Connect,
    Deployment,
    EntryProof,
    GrantWish,
    Identity,
    LogCheck,
    OutputLines,
    Ports,
    RefusedView,
    Reset,
    Secret,
    Source,
    Stop,
    Subject,
    TokenWish,
    Verifier,
)

TOKEN = "nixfleet-join-1." + "QWxsIHRoZSB3b3JsZCBpcyBhIHN0YWdl" * 8
"""What a token looks like: a long line."""


class FakeSource:
    """A coordinator in memory: `put` changes it, and whoever listens hears of it."""

    def __init__(self, devices: Sequence[DeviceView] | None = None) -> None:
        self.devices = {record.id: record for record in (fleet_devices() if devices is None else devices)}
        self.rollouts = {} if devices == [] else {record.id: record for record in fleet_rollouts()}
        self.releases = {} if devices == [] else {record.id: record for record in fleet_releases()}
        self.requests = {} if devices == [] else {record.device: record for record in fleet_requests()}
        self.fleet = FleetView(
            id=digest("acme"),
            name="acme",
            urls=("https://fleet.acme.example",),
            log_size=len(fleet_entries()),
            log_root=digest("root"),
            root_keys=2,
            server_time=NOW,
        )
        self.seq = 0
        self.broken: Exception | None = None
        self.snapshots = 0
        self.streams = 0
        self.holds_back: asyncio.Event | None = None
        self._listeners: list[asyncio.Queue[Delta | Reset | Exception]] = []

    async def snapshot(self) -> Snapshot:
        """Give everything."""
        if self.broken is not None:
            raise self.broken
        self.snapshots += 1
        return Snapshot(
            seq=self.seq,
            fleet=self.fleet,
            devices=tuple(self.devices.values()),
            rollouts=tuple(self.rollouts.values()),
            releases=tuple(self.releases.values()),
            requests=tuple(self.requests.values()),
        )

    async def events(self, _since: int) -> AsyncGenerator[Delta | Reset, None]:
        """Give what is put in from now on; while `holds_back` is set nothing comes, and it ends when that says so."""
        self.streams += 1
        if self.holds_back is not None:
            await self.holds_back.wait()
            raise Unreachable("502 Bad Gateway")
        queue: asyncio.Queue[Delta | Reset | Exception] = asyncio.Queue()
        self._listeners.append(queue)
        try:
            yield Delta(seq=self.seq)
            while True:
                event = await queue.get()
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self._listeners.remove(queue)

    def send(self, event: Delta | Reset | Exception) -> None:
        """Send something to whoever listens."""
        for queue in self._listeners:
            queue.put_nowait(event)

    @property
    def listeners(self) -> int:
        """How many streams are open."""
        return len(self._listeners)

    def put(self, record: DeviceView, lines: tuple[str, ...] = ()) -> None:
        """Change a device, or add one."""
        self.devices[record.id] = record
        self.seq += 1
        self.send(Delta(seq=self.seq, device=record, line_device=record.id if lines else "", lines=lines))

    def put_rollout(self, record: RolloutView) -> None:
        """Change a rollout, or add one."""
        self.rollouts[record.id] = record
        self.seq += 1
        self.send(Delta(seq=self.seq, rollout=record))

    def remove(self, named: str) -> None:
        """Take ``kind:id`` away."""
        kind, _, key = named.partition(":")
        {"device": self.devices, "request": self.requests}[kind].pop(key, None)  # type: ignore[attr-defined] # two dicts
        self.seq += 1
        self.send(Delta(seq=self.seq, removed=named))

    async def rollout(self, rollout: str) -> RolloutDetail:
        """Give a rollout with its members."""
        members = tuple(
            MemberView(
                device=record.id,
                name=record.name,
                wave=record.wave or 1,
                phase=record.phase,
                outcome=record.outcome,
                online=record.online,
                reason=record.reason,
                waits=record.waits,
                transfer=record.transfer,
            )
            for record in self.devices.values()
            if record.rollout == rollout
        )
        return RolloutDetail(rollout=self.rollouts[rollout], members=members)

    async def release(self, release: str) -> ReleaseView:
        """Give a release with its lines."""
        return release_with_lines(release, list(self.devices.values()))

    async def changes(self, named: Sequence[tuple[str, str, str]]) -> Changes:
        """Compare by what the made-up caches know."""
        if self.broken is not None:
            raise self.broken
        return Changes(changes=changes_of(named, Shelf(known())), notes=())

    async def lines(self, device: str) -> OutputLines:
        """Give the output that the record has."""
        held = self.devices[device].lines
        return OutputLines(next=len(held), lines=held)

    async def refused(self) -> Sequence[RefusedView]:
        """Give two refusals."""
        return [
            RefusedView(
                at=NOW - 900, by="oncall", what="rollout", why="oncall lacks the right to deploy to web-oslo-01"
            ),
            RefusedView(at=NOW - 9_000, by=fingerprint("stranger"), what="control", why="no key that the log names"),
        ]

    async def history(self, device: str) -> Sequence[AttemptView]:
        """Give two past attempts."""
        record = self.devices[device]
        role = record.tags["role"]
        past = AttemptView(
            rollout=digest(f"rollout {role}-2219"),
            release=f"{role}-2219",
            outcome="confirmed",
            path=system(role, OLD),
            previous=system(role, "25.05.1987"),
            at=NOW - 9 * 86_400,
        )
        if record.outcome is None or not record.rollout:
            return [past]
        now = AttemptView(
            rollout=record.rollout,
            outcome=record.outcome.value,
            reason=record.reason,
            path=record.intended,
            previous=record.previous,
            at=NOW - 5_200,
        )
        return [now, past]


class FakeVerifier:
    """A replay that has already happened."""

    def __init__(self, check: LogCheck | None = None) -> None:
        self.after = check or LogCheck(state="valid", size=len(fleet_entries()), root=digest("root"))
        self.check = LogCheck(state="checking")
        self.entries: list[EntryView] = []

    def root_at(self, size: int) -> str:
        """Give one root for every size that the made-up devices stand at."""
        return digest("root") if size else ""

    async def catch_up(self) -> LogCheck:
        """Verify everything at once."""
        self.entries = fleet_entries()
        self.check = self.after
        return self.check

    async def proof(self, index: int) -> EntryProof:
        """Give an entry to the byte."""
        entry = self.entries[index]
        payload = {
            "v": 1,
            "type": entry.type,
            "fleet": digest("acme"),
            "by": entry.by,
            "at": entry.at,
            "base": {"size": index, "root": digest(f"root {index}")},
        }
        return EntryProof(
            index=index,
            payload=msgspec.json.format(msgspec.json.encode(payload), indent=2).decode(),
            signature=SIGNATURE,
            hashes=tuple(digest(f"hash {step}") for step in range(4)),
            size=len(self.entries),
            root=digest("root"),
        )

    async def export(self, index: int) -> str:
        """Pretend to write files."""
        return f"Wrote entry-{index}.json and entry-{index}.json.sig."


class FakeActs:
    """Notes every act, and fails with `broken`, if set."""

    def __init__(self, identity: Identity | None = None) -> None:
        self.identity = identity or Identity(
            principal="ops", root=True, role="root", key=fingerprint("ops"), may=frozenset(ACTIONS)
        )
        self.done: list[tuple[object, ...]] = []
        self.broken: Exception | None = None
        self.foresees = Foresees()

    def _do(self, *act: object) -> str:
        if self.broken is not None:
            raise self.broken
        self.done.append(act)
        return f"Done: {act[0]}."

    async def preview(self, deployment: Deployment) -> AsyncGenerator[Preview, None]:
        """Foresee a deployment over what the made-up caches know, in the steps that `foresee` lets through."""
        async for one in foresee(self.foresees, deployment):
            yield one

    async def preview_roll_back(self, rollout: str) -> AsyncGenerator[Preview, None]:
        """Foresee a rollback."""
        async for one in foresee_back(self.foresees, rollout):
            yield one

    async def deploy(self, deployment: Deployment) -> str:
        """Note a deployment."""
        return self._do("deploy", deployment)

    async def roll_back(self, rollout: str, _note: str) -> str:
        """Note a rollback."""
        return self._do("roll_back", rollout)

    async def control(self, rollout: str, verb: Verb, *, wave: int | None = None, devices: Sequence[str] = ()) -> str:
        """Note a control."""
        return self._do(verb, rollout, *([devices] if devices else [wave]))

    async def enroll(self, request: EnrollView, *, replace: bool = False) -> str:
        """Note an enrolment."""
        return self._do("replace" if replace else "enroll", request.device)

    async def enroll_many(self, requests: Sequence[EnrollView]) -> str:
        """Note an enrolment of several."""
        return self._do("enroll_many", *(request.device for request in requests))

    async def renew_key(self, request: EnrollView, name: str) -> str:
        """Note another key of a device."""
        return self._do("renew", request.device, name)

    async def make_token(self, wish: TokenWish) -> Secret:
        """Note a token."""
        return Secret(said=self._do("token", wish), text=TOKEN)

    async def grant(self, wish: GrantWish) -> str:
        """Note a grant."""
        return self._do("grant", wish)

    async def revoke(self, subject: Subject) -> str:
        """Note the end of a right."""
        return self._do("revoke", subject.grant or subject.key)

    async def approve(self, digest: str) -> str:
        """Note a further signature."""
        return self._do("approve", digest)

    async def forget_request(self, device: str) -> str:
        """Note that a request is dropped."""
        return self._do("forget", device)

    async def set_state(self, device: str, state: Literal["active", "held", "retired"], until: int | None) -> str:
        """Note a change of membership."""
        return self._do(state, device, until)


class FakeAuthority:
    """The rights of the made-up fleet, with one question answered yes and all others no."""

    def __init__(self) -> None:
        self.view = fleet_access()
        self.unsigned: dict[int, str] = {}
        """Why the person who sits here may not sign what waits, by its entry."""
        self.denied = ""
        """Why the person who sits here may act on no device."""

    def access(self) -> AccessView:
        """Give what there is."""
        return self.view

    def explain(self, key: str, action: Action, device: str) -> Explanation:
        """Let root keys do everything, and others fail at their grant's devices."""
        name = next(record.name for record in fleet_devices() if record.id == device)
        assert self.view.root is not None
        for person in self.view.root.principals:
            if key in person.keys:
                chain = Chain((Link(person.name, "", ok=True, why=""),), allowed=True, why="")
                said = f"{person.name} may {action} to {name}, by the root"
                return Explanation(allowed=True, waits=False, sentence=said, chains=(chain,))
        grant = next(one for one in self.view.grants if key in one.keys)
        why = "covers site=berlin only"
        links = (Link("root", "", ok=True, why=""), Link(grant.name, grant.id, ok=False, why=why))
        said = f"{grant.name} lacks the right to {action} to {name}: its grant {grant.id[:12]} {why}"
        return Explanation(allowed=False, waits=False, sentence=said, chains=(Chain(links, allowed=False, why=why),))

    def stops(self, subject: Subject, _rollouts: Sequence[RolloutView]) -> Sequence[Stop]:
        """Let a rollout depend on the first grant, and nothing on the others."""
        if subject.grant != self.view.grants[0].id:
            return ()
        return (
            Stop(kind="rollout", name="nas-2219", why="its signer has no other right"),
            Stop(kind="grant", name="oncall/night", why="it was handed on from it"),
        )

    def why_not_sign(self, pending: PendingView) -> str:
        """Give the one reason there is against each."""
        return self.unsigned.get(pending.index, "")

    def why_not(self, _action: Action, devices: Sequence[DeviceView]) -> str:
        """Give the one reason there is."""
        return self.denied if devices else ""

    def touches(self, requests: Sequence[EnrollView]) -> tuple[int, str]:
        """Let one signature do for three and more."""
        return (1, "") if len(requests) > 2 else (len(requests), "")

    def public_key(self, text: str) -> tuple[str, str]:
        """Take what looks like a key."""
        if not text.startswith("ssh-ed25519 AAAA"):
            raise UserError("give a public key: its line 'ssh-ed25519 AAAA…', or a .pub file")
        return text, fingerprint(text)


def connect(
    source: Source,
    acts: Acts | None = None,
    verifier: Verifier | None = None,
    authority: Authority | None = None,
) -> Connect:
    """Give what a console connects to: these ports, at once."""
    ports = Ports(
        source=source,
        acts=acts or FakeActs(),
        verifier=verifier or FakeVerifier(),
        authority=authority or FakeAuthority(),
    )

    async def at_once() -> Ports:
        return ports

    return at_once


async def _live(source: FakeSource) -> None:
    """Let downloads go on for ever."""
    chance = random.Random(7)
    while True:
        await asyncio.sleep(0.1)
        record = chance.choice([one for one in source.devices.values() if one.transfer is not None])
        transfer = record.transfer
        assert transfer is not None
        done = (transfer.done_bytes + 20 * MIB) % transfer.total_bytes
        source.put(msgspec.structs.replace(record, transfer=msgspec.structs.replace(transfer, done_bytes=done)))


def main() -> int:
    """Open the console on the made-up fleet."""
    from nixfleet.tui.app import run

    class LiveSource(FakeSource):
        async def snapshot(self) -> Snapshot:
            if not self.snapshots:
                self._task = asyncio.create_task(_live(self))
            return await super().snapshot()

    start = int(time.time())
    return run(connect(LiveSource()), options=Options(clock=lambda: NOW + int(time.time()) - start))


if __name__ == "__main__":
    raise SystemExit(main())
