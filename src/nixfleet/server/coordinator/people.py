"""Who comes in: devices that ask to be enrolled, and session keys of people; bounded, for anybody may ask."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from nixfleet.errors import Refused
from nixfleet.model.device import EnrollRequest
from nixfleet.model.ids import Fingerprint
from nixfleet.model.statements import Device
from nixfleet.model.text import clean
from nixfleet.model.views import EnrollView
from nixfleet.model.wire import Signed
from nixfleet.server.coordinator.bygone import COMES_BACK
from nixfleet.server.coordinator.clock import RunClock
from nixfleet.server.coordinator.journal import STRANGER, Journal
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.faults import Busy, Unknown
from nixfleet.server.store import EnrollRow, SessionRow, Store
from nixfleet.server.text import clean_facts
from nixfleet.trust import sshsig
from nixfleet.trust.holdings import lacks
from nixfleet.trust.replay.reach import is_named, may_delegate
from nixfleet.trust.reports import open_enroll, open_session
from nixfleet.trust.sshsig import PublicKey

REQUESTS_MAX = 10_000
REQUESTS_OF_ONE = 1_000
"""From one address; whoever asks for more pushes out their own."""
UNHEARD_S = 7 * 86_400
"""A device that has not asked again for so long is not there any more; agents ask every few minutes."""
WRITES_BURST = 2_000
WRITES_PER_S = 20
"""So that nobody outruns the agents that ask again: filling every place takes longer than their longest pause."""
HEARD_WRITE_S = 86_400
"""How old the stored time of the last word may grow."""
SESSIONS_MAX = 10_000
SESSIONS_OF_ONE = 64
"""One per machine and key is what people need; nobody keeps the others out."""
REPEAT_S = 10
"""A device that asks again sooner changes nothing."""


class People:
    """Enrolment requests and sessions, held in memory and in the store."""

    def __init__(
        self, store: Store, log: LogKeeper, clock: RunClock, journal: Journal, dropped: Callable[[EnrollView], None]
    ) -> None:
        """Hold nothing yet; `dropped` is told of each request that is let go."""
        self._store = store
        self._log = log
        self._clock = clock
        self._journal = journal
        self._dropped = dropped
        self._requests: dict[str, EnrollView] = {}
        """By device; who was heard longest ago first."""
        self._peers: dict[str, str] = {}
        self._written: dict[str, int] = {}
        self._writes = Allowance(WRITES_BURST, WRITES_PER_S)
        self._sessions: dict[str, SessionRow] = {}

    async def load(self) -> None:
        """Take up the stored requests and sessions."""
        self._sessions = {row.key: row for row in await self._store.people.sessions(self._clock.wall_s())}
        for row in sorted(await self._store.people.requests(), key=lambda row: row.seen_at):
            self._take_up(row)

    def _take_up(self, row: EnrollRow) -> EnrollView:
        """Hold a stored request as the one that was heard last."""
        view = _opened(row)
        self._requests.pop(row.device, None)
        self._requests[row.device], self._written[row.device] = view, row.seen_at
        return view

    async def follow(self) -> list[tuple[EnrollView, EnrollView | None]]:
        """Take up what other coordinators on the same database were asked, and let go of what they let go of.

        Gives each new request and what was asked before. The clocks of coordinators differ: another time is a new one.
        """
        before = dict(self._written)
        heard = await self._store.people.heard()
        for device, seen_at in before.items():
            if device not in heard and self._written.get(device) == seen_at:
                self._drop(device)
        news: list[tuple[EnrollView, EnrollView | None]] = []
        for device in sorted(heard, key=heard.__getitem__):
            if heard[device] == before.get(device):
                continue
            row = await self._store.people.request(device)
            known = self._log.device(device)
            if row is None or row.seen_at == self._written.get(device):
                continue
            if known is not None and known.state != "retired" and known.key == _opened(row).key:
                continue  # it is enrolled: its request is on its way out
            held = self._requests.get(device)
            view = self._take_up(row)
            if held is None or not _same(held, view):
                news.append((view, held))
        return news

    async def ask(self, signed: Signed, host: str | None) -> tuple[EnrollView, EnrollView | None] | None:
        """Keep a request to be enrolled, from this address if it is known; gives it and what was asked before.

        None when it changes nothing.

        Where there is no room, who was heard longest ago goes. Raises: Untrusted, Refused, Busy.
        """
        request = open_enroll(signed, fleet=self._log.fleet)
        now = self._clock.wall_s()
        held = await self.held(request.device)
        known = self._log.device(request.device)
        if known is not None and known.key == request.key and known.state != "retired":
            return None
        by = Fingerprint(sshsig.parse_public_key(request.key).fingerprint)
        what = f"ask to be enrolled as {request.name} ({request.device[:12]})"
        if over := self._over(by, known):
            raise await self._refused(by, what, over)
        if held is not None and held.key != request.key:
            # Who asked first stays: nobody can put their key under a device id that somebody is about to approve.
            first = f"an admin has to drop that first: nixfleet enroll drop {held.name}"
            raise await self._refused(by, what, f"another key asks to be enrolled under this device id; {first}")
        if held is not None and abs(now - held.seen_at) < REPEAT_S:  # another coordinator's clock may be ahead
            return None
        row = EnrollRow(request.device, signed.payload, signed.signature, held.asked_at if held else now, now)
        view = _view(request, row)
        changed = held is None or not _same(held, view)
        # That it still asks is hardly worth a write.
        if changed or now - self._written.get(request.device, 0) >= HEARD_WRITE_S:
            self._writes.take(now)
            await self._make_room(request.device, peer := _network(host), now)
            await self._store.people.ask(row)
            self._peers[request.device], self._written[request.device] = peer, now
        self._requests.pop(request.device, None)
        self._requests[request.device] = view
        return view, held

    async def held(self, device: str) -> EnrollView | None:
        """Give what a device asks; another coordinator may have heard it, and who asked first stays."""
        held = self._requests.get(device)
        if held is None and self._store.shared:
            row = await self._store.people.request(device)
            return None if row is None else _opened(row)
        return held

    def _over(self, key: Fingerprint, known: Device | None) -> str:
        """Say why nobody could or should let a device or a key in, or nothing."""
        if known is not None and known.state == "retired":
            return f"{known.name} is retired: {COMES_BACK}"  # an id has one life (trust.md, Statements)
        former = self._log.former.get(key)
        return former.words(self._log.state) if former is not None and former.given_up else ""

    async def _refused(self, by: Fingerprint, what: str, reason: str) -> Refused:
        """Note a refusal of a key: somebody may be trying to come in as another.

        One that the log names is noted as itself, any other in the strangers' place.
        """
        if is_named(self._log.state, by):
            return await self._journal.refused(by, what, reason)
        return await self._journal.refused(STRANGER, f"{what} by the key {by}", reason)

    async def _make_room(self, device: str, peer: str, now: int) -> None:
        """Let go of who is silent, and of who was heard longest ago where one more is too many."""
        going = []
        for other, view in self._requests.items():
            if now - view.seen_at < UNHEARD_S:
                break
            going.append(other)
        if device not in self._requests:
            from_here = [other for other in self._requests if self._peers.get(other) == peer] if peer else []
            if len(from_here) >= REQUESTS_OF_ONE:
                going.append(from_here[0])
            elif len(self._requests) - len(going) >= REQUESTS_MAX:
                going.append(next(other for other in self._requests if other not in going))
        for other in dict.fromkeys(going):
            if other != device:
                self._drop(other)
                await self._store.people.forget(other)

    def _drop(self, device: str) -> None:
        """Let go of a request in memory, if it is there."""
        self._peers.pop(device, None)
        self._written.pop(device, None)
        view = self._requests.pop(device, None)
        if view is not None:
            self._dropped(view)

    async def forget(self, device: str) -> None:
        """Drop a request. Raises: Unknown."""
        if await self.held(device) is None:
            raise Unknown(f"no device {device[:40]} asks to be enrolled")
        self._drop(device)
        await self._store.people.forget(device)

    def requests(self) -> list[EnrollView]:
        """List who asks, the oldest first."""
        since = self._clock.wall_s() - UNHEARD_S
        asking = [one for one in self._requests.values() if one.seen_at > since]
        return sorted(asking, key=lambda one: (one.asked_at, one.device))

    def request(self, device: str) -> EnrollView | None:
        """Give a device's request to be enrolled."""
        return self._requests.get(device)

    async def open_session(self, signed: Signed) -> None:
        """Take a session key that a person signed. Raises: Untrusted, Refused, Busy."""
        now = self._clock.wall_s()
        session = open_session(signed, fleet=self._log.fleet, now=now)
        if not may_delegate(self._log.state, by := Fingerprint(session.by), now):
            raise await self._refused(by, "open a session", lacks(self._log.state, by, "to open a session", now))
        key = sshsig.parse_public_key(session.key)
        row = SessionRow(key.fingerprint, key.text, session.by, session.not_after)
        await self._store.people.save_session(row, now, most=SESSIONS_MAX, most_of_one=SESSIONS_OF_ONE)
        self._sessions = {held.key: held for held in self._sessions.values() if held.not_after > now}
        self._sessions[row.key] = row

    async def session(self, key: str) -> "LiveSession | None":
        """Give the live session that a key signs for; only another coordinator can have opened one unknown here."""
        row = self._sessions.get(key)
        if row is None and self._store.shared:
            row = await self._store.people.session(key)
        if row is None or row.not_after <= self._clock.wall_s():
            self._sessions.pop(key, None)
            return None
        self._sessions[key] = row
        return LiveSession(sshsig.parse_public_key(row.text), Fingerprint(row.by), row.not_after)


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session: its key, whose it is, and its end (unix seconds)."""

    key: PublicKey
    by: Fingerprint
    not_after: int


class Allowance:
    """How often something may be done: `burst` times at once, and `per_s` times a second in the long run."""

    def __init__(self, burst: int, per_s: int) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = burst
        self._at = 0

    def take(self, now: int) -> None:
        """Do it once more; `now` in unix seconds. Raises: Busy."""
        self._left = min(self._burst, self._left + max(0, now - self._at) * self._per_s)
        self._at = now
        if not self._left:
            raise Busy("too many devices ask to be enrolled at once; ask again in a moment")
        self._left -= 1


def _network(host: str | None) -> str:
    """Give what one party has of addresses: an IPv4 address, an IPv6 /64; nothing behind a proxy on this machine."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return ""
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return ""
    return str(ipaddress.ip_network((address, 32 if address.version == 4 else 64), strict=False))


def _opened(row: EnrollRow) -> EnrollView:
    return _view(msgspec.json.decode(row.payload, type=EnrollRequest), row)


def _view(request: EnrollRequest, row: EnrollRow) -> EnrollView:
    return EnrollView(
        device=request.device,
        name=request.name,
        key=request.key,
        fingerprint=sshsig.parse_public_key(request.key).fingerprint,
        tags=request.tags,
        facts=clean_facts(request.facts),
        asked_at=row.asked_at,
        seen_at=row.seen_at,
        reason=clean(request.reason),
        payload=row.payload,
        signature=row.signature,
    )


def _same(held: EnrollView, asked: EnrollView) -> bool:
    """Tell whether a device asks for what it asked before: it signs a new time with it each time."""
    times = {"seen_at": held.seen_at, "payload": held.payload, "signature": held.signature}
    return held == msgspec.structs.replace(asked, **times)
